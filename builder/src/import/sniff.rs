//! What a file that is no model looks like, so that the message can say so.

use std::path::Path;

/// What a folder looks like.
pub fn folder(path: &Path) -> String {
    let has = |name: &str| path.join(name).is_file();
    if has("saved_model.pb") {
        "a folder with a saved_model.pb is a TensorFlow SavedModel; convert it with tf2onnx".into()
    } else {
        "it is a folder without the model.json of a chainer-trt dump; give a dump's folder or an \
         .onnx file"
            .into()
    }
}

/// What bytes look like when they are surely something else than ONNX.
pub fn other_format(bytes: &[u8]) -> Option<String> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let at = |offset: usize, magic: &[u8]| {
        bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    let what = if bytes.is_empty() {
        "the file is empty"
    } else if starts(b"version https://git-lfs") {
        "it is a Git LFS pointer; fetch the file itself with 'git lfs pull'"
    } else if starts(b"PK\x03\x04") {
        "it is a ZIP archive, as PyTorch (.pt) and Keras write; export the model to ONNX"
    } else if starts(b"\x80\x02") || starts(b"\x80\x04") {
        "it is a Python pickle; export the model to ONNX"
    } else if starts(b"\x89HDF") {
        "it is an HDF5 file, as Keras writes; convert it with tf2onnx"
    } else if at(4, b"TFL3") {
        "it is a TensorFlow Lite model; convert it with tf2onnx"
    } else if starts(b"ftrt") || starts(b"ptrt") {
        "it is a TensorRT engine; give the model it was made from"
    } else if at(4, b"ORTM") {
        "it is in ONNX Runtime's ORT format; give the .onnx file it was made from"
    } else if starts(b"GGUF") {
        "it is a GGUF file"
    } else if at(8, b"{\"") && bytes[..8].iter().skip(4).all(|&b| b == 0) {
        "it looks like a safetensors file, which has weights but no graph; export to ONNX"
    } else if starts(b"\x93NUMPY") {
        "it is a NumPy array"
    } else if starts(b"\x89PNG") || starts(b"\xff\xd8\xff") || starts(b"GIF8") {
        "it is a picture"
    } else if starts(b"\x7fELF") {
        "it is a program"
    } else if starts(b"\x1f\x8b") {
        "it is compressed with gzip; unpack it first"
    } else if starts(b"7767517") {
        "it is an ncnn parameter file"
    } else if is_text(bytes) {
        return Some(text(bytes));
    } else {
        return None;
    };
    Some(what.into())
}

/// True for printable text. An ONNX file's first bytes are small numbers, which text never has.
fn is_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(64)];
    let printable = |&b: &u8| b >= 0x20 || matches!(b, b'\t' | b'\n' | b'\r');
    head.len() >= 4 && head.iter().all(printable) && std::str::from_utf8(head).is_ok()
}

fn text(bytes: &[u8]) -> String {
    let head: String = String::from_utf8_lossy(&bytes[..bytes.len().min(32)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    format!("it is text, beginning with '{}'", head.trim())
}
