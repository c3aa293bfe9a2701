//! The Tobiuo builder: model in, engine made for one device out.

#![forbid(unsafe_code)]

pub mod graph;
