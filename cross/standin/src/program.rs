//! Programs under test.

use std::path::Path;
use std::process::Command;

/// The folder of the programs to test instead of those that cargo built.
pub const PROGRAMS: &str = "TOBIUO_TEST_PROGRAMS";
/// What runs them, with its arguments, where they are another machine's.
pub const EMULATOR: &str = "TOBIUO_TEST_EMULATOR";

/// A command that runs the program under test of the name that `built` ends in: `built` itself,
/// unless the environment names a folder of other programs, and an emulator for them.
pub fn program(built: impl AsRef<Path>) -> Command {
    let built = built.as_ref();
    let Some(folder) = std::env::var_os(PROGRAMS) else { return Command::new(built) };
    let file = Path::new(&folder).join(built.file_name().expect("a program's path has a name"));
    assert!(file.is_file(), "{PROGRAMS}: there is no {}", file.display());
    let emulator = std::env::var(EMULATOR).unwrap_or_default();
    let mut words = emulator.split_whitespace();
    let Some(first) = words.next() else { return Command::new(file) };
    let mut command = Command::new(first);
    command.args(words).arg(file);
    command
}
