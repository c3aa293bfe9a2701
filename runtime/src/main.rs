//! `tobiuo`: runs engines.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The first call notes when the process started.
    tobiuo::process::age();
    cli::main()
}
