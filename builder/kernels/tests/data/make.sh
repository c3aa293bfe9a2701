#!/usr/bin/env bash
# usage: make.sh FOLDER_OF_MODELS
# Makes the lists of layers in this folder again, which is due when a layer's description or the
# lowering has changed. The models are made by `python3 bench/models.py FOLDER_OF_MODELS`; their
# weights do not matter.
set -euo pipefail
models=$(realpath "$1")
cd "$(dirname "$0")/../../../.."
files=()
for network in resnet50 vgg16 googlenet yolov2 yolov8n mobilenetv2; do
  files+=("$models/$network.onnx")
done
cargo build --release -p tobiuo-builder --example layers
layers="${CARGO_TARGET_DIR:-target}/release/examples/layers"
data=builder/kernels/tests/data
"$layers" fp16 "${files[@]}" > "$data/six_networks.jsonl"
"$layers" fp32 "${files[@]}" > "$data/six_networks_fp32.jsonl"
