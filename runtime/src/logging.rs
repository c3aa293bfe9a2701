//! The programs' log: people's words on standard error.

use std::io::Write;

use log::{Level, LevelFilter};

/// Starts the log of a program: warnings of all crates and information of Tobiuo's own, or
/// what `RUST_LOG` says. `quiet` leaves the warnings. Does nothing when a log runs already.
pub fn start(quiet: bool) {
    // The clock of READY starts here at the latest.
    crate::process::age();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Warn);
    if !quiet {
        for module in ["tobiuo", "tobiuo_capture", "tobiuo_builder", "camera"] {
            builder.filter_module(module, LevelFilter::Info);
        }
    }
    builder.parse_default_env();
    builder.format(|out, record| {
        let style = out.default_level_style(record.level());
        match record.level() {
            Level::Info => writeln!(out, "{}", record.args()),
            level => {
                let name = level.as_str().to_ascii_lowercase();
                writeln!(out, "{style}{name}{style:#}: {}", record.args())
            }
        }
    });
    let _ = builder.try_init();
}
