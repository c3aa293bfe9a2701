//! Power cuts while an engine is provisioned: the process is killed (SIGKILL) before and after
//! every call that changes a file, and each time a good engine must be there.
//!
//! The debugger's interface (ptrace) stops the process at its system calls, so the cuts fall on
//! each of them and not where a clock happens to put them. What the disk makes of bytes that
//! were never synced cannot be seen so; the order of syncing and renaming is checked instead.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod cuts;

/// Set in the processes that are cut: they are the builder.
#[allow(dead_code)]
const BUILDER: &str = "TOBIUO_TEST_IS_BUILDER";

fn main() -> std::process::ExitCode {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        if std::env::var_os(BUILDER).is_some() {
            return tobiuo_builder::cli::main(std::env::args_os().skip(1).collect());
        }
        cuts::bytes_are_synced_before_they_get_a_name();
        cuts::a_good_engine_is_there_after_a_cut_at_every_step();
    }
    std::process::ExitCode::SUCCESS
}
