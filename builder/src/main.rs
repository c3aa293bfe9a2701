//! `tobiuo-builder`: the builder's command line.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    tobiuo_builder::cli::main(std::env::args_os().skip(1).collect())
}
