# Engines are built where they will run.
. /board/lib.sh
tobiuo-builder build /board/small.onnx -o $engines/small.tobiuo
tobiuo-builder build /usr/bin/assets/detector.onnx -o $engines/detector.tobiuo
tobiuo-builder verify /board/small.onnx $engines/small.tobiuo
tobiuo inspect $engines/detector.tobiuo >/tmp/inspect
has /tmp/inspect 'QR code'
echo "detector.tobiuo, $(stat -c %s $engines/detector.tobiuo) bytes"
