use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::json;
use tobiuo::{Engine, Error, ErrorKind, ExecutionContext, Tensor, npy};

use super::args::Args;
use super::{Command, print_json, say};

pub const COMMAND: Command = Command {
    name: "infer",
    synopsis: "ENGINE --input [NAME=]FILE.npy … --output-dir DIR",
    summary: "runs an engine once on tensors and writes each output as NAME.npy",
    options: "
  --input [NAME=]FILE.npy   an input's tensor; the name may go where there is one input
  --output-dir DIR          where the outputs go; made when it is not there
  -b, --batch N             items per run, unless the first axis of the inputs tells it
  --threads N               threads that the network computes on; all cores unless given
",
    device: true,
    run,
};

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

fn run(args: Args) -> Result<(), Error> {
    args.only("infer", &["input", "output-dir", "batch", "threads"])?;
    let (engine, rest) = args.engine("infer", 2)?;
    let Some(folder) = args.output_dir.clone() else {
        return Err(usage("--output-dir is missing: where are the outputs to go?".into()));
    };
    let mut given = args.inputs.clone();
    given.extend(rest.into_iter().map(Into::into));
    let tensors = read_inputs(&engine, &given)?;
    let mut options = args.context();
    if args.batch.is_none() {
        options.batch = batch_of(&engine, &tensors);
    }
    let mut context = ExecutionContext::new(&engine, &options)?;
    for (port, (path, tensor)) in engine.inputs().iter().zip(&tensors) {
        context
            .set_input(&port.name, tensor)
            .map_err(|e| Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    }
    context.run()?;
    std::fs::create_dir_all(&folder)
        .map_err(|e| Error::io(&folder, "cannot make the folder", e))?;
    let mut written = Vec::new();
    let mut names = HashSet::new();
    for (i, port) in engine.outputs().iter().enumerate() {
        let path = folder.join(format!("{}.npy", file_name(&port.name, &mut names)));
        let tensor = context.output_at(i).to_tensor();
        npy::write(&path, &tensor).map_err(|e| Error::io(&path, "cannot write", e))?;
        say(format_args!("wrote {} ({} {:?})", path.display(), tensor.dtype(), tensor.shape()));
        written.push(json!({
            "name": port.name,
            "file": path.to_string_lossy(),
            "dtype": tensor.dtype().to_string(),
            "shape": tensor.shape(),
        }));
    }
    if args.json { print_json(&json!({ "outputs": written })) } else { Ok(()) }
}

/// The tensor of each of the engine's inputs, with its file.
fn read_inputs(
    engine: &Engine,
    given: &[std::ffi::OsString],
) -> Result<Vec<(PathBuf, Tensor)>, Error> {
    let ports = engine.inputs();
    let names = || ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut files: Vec<Option<PathBuf>> = vec![None; ports.len()];
    for text in given {
        // A name may itself hold '=', and so may a path: the longest name that fits is meant.
        let named = text.to_str().and_then(|text| {
            let fits = |name: &str| text.strip_prefix(name).and_then(|t| t.strip_prefix('='));
            let fitting = (0..ports.len()).filter(|&i| fits(&ports[i].name).is_some());
            let i = fitting.max_by_key(|&i| ports[i].name.len())?;
            Some((i, PathBuf::from(fits(&ports[i].name)?)))
        });
        let (i, path) = match named {
            Some(found) => found,
            None if ports.len() == 1 && PathBuf::from(text).exists() => (0, PathBuf::from(text)),
            None => {
                let text = text.to_string_lossy();
                return Err(usage(match text.split_once('=') {
                    Some((name, _)) => {
                        format!("there is no input '{name}'; the engine has: {}", names())
                    }
                    None if ports.len() == 1 => format!("{text}: there is no such file"),
                    None => format!(
                        "--input {text}: the engine has {} inputs, so NAME=FILE.npy is wanted; \
                         the names are {}",
                        ports.len(),
                        names()
                    ),
                }));
            }
        };
        if files[i].replace(path).is_some() {
            return Err(usage(format!("input '{}' is given twice", ports[i].name)));
        }
    }
    let mut tensors = Vec::new();
    for (port, file) in ports.iter().zip(files) {
        let Some(path) = file else {
            return Err(usage(format!(
                "input '{}' ({} {:?}) is missing: --input {}=FILE.npy",
                port.name, port.dtype, port.shape, port.name
            )));
        };
        let kind = if path.exists() { ErrorKind::Damaged } else { ErrorKind::Usage };
        let tensor = npy::read(&path).map_err(|e| Error::new(kind, e.to_string()))?;
        tensors.push((path, tensor));
    }
    Ok(tensors)
}

/// The batch that the given tensors mean: the first axis of the first, where only that axis
/// differs from the engine's shape and a plan of the engine holds as many.
fn batch_of(engine: &Engine, tensors: &[(PathBuf, Tensor)]) -> usize {
    let plans = &engine.manifest().plans;
    let smallest = plans.iter().map(|p| p.batch).min().unwrap_or(1);
    let largest = plans.iter().map(|p| p.batch).max().unwrap_or(1);
    match (engine.inputs().first(), tensors.first()) {
        (Some(port), Some((_, tensor))) => match (&port.shape[..], tensor.shape()) {
            ([_, a @ ..], [n, b @ ..]) if a == b && (1..=largest).contains(n) => *n,
            _ => smallest,
        },
        _ => smallest,
    }
}

/// A tensor's name as a file name: letters, digits, `.`, `_` and `-` stay, the rest becomes
/// `_`; a name that is taken gets a number.
fn file_name(name: &str, taken: &mut HashSet<String>) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut plain: String = name.chars().map(|c| if keep(c) { c } else { '_' }).take(200).collect();
    if plain.trim_matches('.').is_empty() {
        plain = format!("output{plain}");
    }
    let mut unique = plain.clone();
    let mut n = 2;
    while !taken.insert(unique.clone()) {
        unique = format!("{plain}_{n}");
        n += 1;
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_files_without_leaving_the_folder() {
        let mut taken = HashSet::new();
        let mut name = |n: &str| file_name(n, &mut taken);
        assert_eq!(name("output0"), "output0");
        assert_eq!(name("/model.22/Concat_5"), "_model.22_Concat_5");
        assert_eq!(name("_model.22/Concat_5"), "_model.22_Concat_5_2");
        assert_eq!(name(".."), "output..");
        assert_eq!(name(""), "output");
        assert_eq!(name("../../etc/passwd"), ".._.._etc_passwd");
        assert_eq!(name("ü:0"), "__0");
    }
}
