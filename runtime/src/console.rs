//! What programs say on standard output and standard error. Who reads it may have seen enough and
//! be gone (`| head`): `println!` and `eprintln!` panic then, these do not.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes a text to standard output, past its buffer. That nobody reads there any more is no error:
/// what else a program does is still wanted.
pub fn print(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Says a line on standard error, where somebody is there to read it.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// True when an error, or what caused it, is that the reader of our output has gone: a program
/// that only writes there ends quietly.
pub fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(e) = cause {
        let io = e.downcast_ref::<io::Error>();
        if io.is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) {
            return true;
        }
        cause = e.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_has_gone_is_known_through_what_it_caused() {
        let gone = || io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&gone()));
        let caused = |e| crate::Error::caused(crate::ErrorKind::Other, "standard output", e);
        assert!(is_broken_pipe(&caused(gone())));
        let full = || io::Error::from(ErrorKind::StorageFull);
        assert!(!is_broken_pipe(&full()) && !is_broken_pipe(&caused(full())));
    }
}
