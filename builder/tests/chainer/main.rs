//! Dumps of chainer-trt's form: every type of layer, dumps that Chainer made, hostile ones.

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;
mod dump;
mod every_way;
mod fixtures;
mod hostile;
mod layers;
#[path = "../common/lowered.rs"]
mod lowered;
mod mutants;
mod plain;
mod sampling;
mod window;
