//! Files of class names: one name a line.

use std::path::Path;

use crate::BuildError;

/// No list of class names is larger.
const MAX_FILE: u64 = 16 << 20;

/// Reads class names, one a line, UTF-8; empty lines at the end do not count.
pub fn read(path: &Path) -> Result<Vec<String>, BuildError> {
    let io = |error| BuildError::Io { path: path.into(), error };
    let damaged = |why: String| Err(BuildError::Damaged(format!("{}: {why}", path.display())));
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return damaged("not a regular file; class names come from a text file".into());
    }
    if metadata.len() > MAX_FILE {
        return damaged(format!("{} bytes are too many for class names", metadata.len()));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    match parse(&bytes) {
        Ok(labels) => Ok(labels),
        Err(why) => damaged(why),
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| format!("not UTF-8 text: byte {} is wrong", e.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end();
    if text.is_empty() {
        return Err("empty: one class name a line is wanted".into());
    }
    text.lines()
        .enumerate()
        .map(|(i, line)| match line.trim() {
            "" => Err(format!("line {} is empty", i + 1)),
            name if name.chars().any(char::is_control) => {
                Err(format!("line {} holds a control character", i + 1))
            }
            name => Ok(name.to_string()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn one_name_a_line() {
        assert_eq!(parse(b"\xef\xbb\xbfcup\r\npen \n\n").unwrap(), ["cup", "pen"]);
        assert_eq!(parse(b"cup\n\npen").unwrap_err(), "line 2 is empty");
        assert!(parse(b"a\xff").unwrap_err().contains("byte 1"));
        assert!(parse(b"\n\n").is_err() && parse(b"a\x00b").is_err());
    }
}
