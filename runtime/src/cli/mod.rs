//! The command line of `tobiuo`: one file per command.

mod args;
mod bench;
mod cameras;
mod doctor;
mod eval;
mod infer;
mod inspect;
mod run;

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use serde_json::{Value, json};
use tobiuo::console::{self, say};
use tobiuo::{Error, ErrorKind, exit, logging};

use args::Args;

/// A command: its name, what comes behind it, what it does, its options, its code.
struct Command {
    name: &'static str,
    synopsis: &'static str,
    summary: &'static str,
    options: &'static str,
    /// It runs an engine on a device.
    device: bool,
    run: fn(Args) -> Result<(), Error>,
}

const COMMANDS: [Command; 7] = [
    run::COMMAND,
    infer::COMMAND,
    bench::COMMAND,
    inspect::COMMAND,
    eval::COMMAND,
    cameras::COMMAND,
    doctor::COMMAND,
];

const COMMON_OPTIONS: &str = "
  --json            one stable JSON document (run: one line per frame) on standard output, of an
                    error one with `error` and `status`
  -q, --quiet       only warnings and errors on standard error
  -h, --help        this help
RUST_LOG=debug shows more (env_logger's syntax).
";

/// Options of the commands that run an engine.
const DEVICE_OPTIONS: &str = "
  --device DEVICE   cpu, cuda or cuda:N; what the engine is made for unless given
  -g, --gpu N       the same as --device cuda:N
  --integrated      host memory is mapped into the GPU, as on a Jetson, also where it is not
                    the GPU's own
  --memory PATH     auto (as the GPU says), discrete (copies), integrated (as --integrated)
";

/// Long names of [`DEVICE_OPTIONS`].
const DEVICE_NAMES: [&str; 4] = ["device", "gpu", "integrated", "memory"];

const STATUSES: &str = "
Exit status: 0 ok, 2 usage, 3 engine made for another device, 4 damaged or untrusted file,
5 no usable device, 6 camera or input, 7 accuracy gate, 8 memory or time limit,
9 model not supported, 1 anything else.
";

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::from(exit::OK),
        // Who read our output has seen enough: `tobiuo run … | head`.
        Err(e) if e.is_broken_pipe() => ExitCode::from(exit::OK),
        Err(e) => {
            // Not through the log: an error is said whatever RUST_LOG says.
            say(format_args!("tobiuo: {e}"));
            // On one line, as the results of `run` are.
            if std::env::args_os().skip(1).any(|argument| argument == "--json") {
                let document = json!({ "error": e.to_string(), "status": e.exit_status() });
                let _ = console::print(format!("{document}\n"));
            }
            ExitCode::from(e.exit_status())
        }
    }
}

fn dispatch() -> Result<(), Error> {
    let mut parser = lexopt::Parser::from_env();
    let wanted = match parser.next().map_err(args::usage)? {
        None => {
            say(overview().trim_end());
            return Err(Error::new(ErrorKind::Usage, "no command is given"));
        }
        Some(lexopt::Arg::Long("version") | lexopt::Arg::Short('V')) => {
            return print(&format!("tobiuo {}\n", env!("CARGO_PKG_VERSION")));
        }
        Some(lexopt::Arg::Long("help") | lexopt::Arg::Short('h')) => "help".to_string(),
        Some(lexopt::Arg::Value(name)) => name.to_string_lossy().into_owned(),
        Some(other) => return Err(args::usage(other.unexpected())),
    };
    if wanted == "help" {
        let topic = match parser.next().map_err(args::usage)? {
            Some(lexopt::Arg::Value(name)) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        };
        return match topic {
            None => print(&overview()),
            Some(name) => print(&help(find(&name)?)),
        };
    }
    let command = find(&wanted)?;
    match Args::parse(parser)? {
        None => print(&help(command)),
        Some(args) => {
            logging::start(args.quiet);
            (command.run)(args)
        }
    }
}

fn find(name: &str) -> Result<&'static Command, Error> {
    COMMANDS.iter().find(|c| c.name == name).ok_or_else(|| {
        let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
        Error::new(
            ErrorKind::Usage,
            format!("'{name}' is no command; there are {}, help", names.join(", ")),
        )
    })
}

fn overview() -> String {
    let mut text = String::from("Runs Tobiuo engines: on camera frames, on tensors.\n\n");
    for c in &COMMANDS {
        let _ = writeln!(text, "tobiuo {} {}\n    {}", c.name, c.synopsis, c.summary);
    }
    text + "tobiuo help COMMAND\n    the options of a command\n" + STATUSES
}

fn help(c: &Command) -> String {
    let Command { name, synopsis, summary, options, .. } = c;
    let device = if c.device { DEVICE_OPTIONS.trim_start_matches('\n') } else { "" };
    let common = COMMON_OPTIONS.trim_start_matches('\n');
    let options = if options.is_empty() { "\n" } else { options };
    format!("tobiuo {name} {synopsis}\n    {summary}\n{options}{device}{common}{STATUSES}")
}

/// Writes text to standard output.
fn print(text: &str) -> Result<(), Error> {
    console::print(text).map_err(|e| Error::caused(ErrorKind::Other, "standard output", e))
}

/// Writes a document to standard output.
fn print_json(document: &Value) -> Result<(), Error> {
    print(&format!("{document:#}\n"))
}

/// A line of progress on a terminal, written over itself.
fn say_progress(text: &str) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r{text}\x1b[K");
        let _ = err.flush();
    }
}

/// Ends the line of progress.
fn end_progress() {
    say_progress("");
}
