//! The cases of the onnx package's backend test: which are in scope, which pass, and the table of
//! it. tests/onnx/make_cases.py writes the cases, the program `onnx-cases` runs them.

pub mod manifest;
pub mod run;
pub mod scope;
pub mod table;
