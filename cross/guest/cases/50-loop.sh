# A picture of the test clip, played into the camera: what is found is what is found in the file.
. /board/lib.sh
v4l2-ctl -d /dev/video0 -i 3
v4l2-ctl -d /dev/video1 -o 1
for device in 0 1; do v4l2-ctl -d /dev/video$device --set-dv-bt-timings index=0; done
v4l2-ctl -d /dev/video0 -c osd_text_mode=2
v4l2-ctl -d /dev/video1 --set-fmt-video-out=width=640,height=480,pixelformat=RGB3
v4l2-ctl -d /dev/video0 -v width=640,height=480,pixelformat=RGB3
v4l2-ctl -d /dev/video0 -c loop_video=1
v4l2-ctl -d /dev/video1 --stream-out-mmap --stream-from=/board/picture.rgb --stream-loop \
    >/tmp/player 2>&1 &
player=$!
sleep 2
found() {
    sed -n 's/.*"detections":\(\[.*\]\),"latency_us".*/\1/p' "$1" | head -n 1
}
# The program a user copies, with the model and the clip that lie beside it.
camera --frames 1 --json >/tmp/file.json 2>/tmp/camera.log || fail "$(cat /tmp/camera.log)"
run detector '/dev/video0?format=RGB3' --width 640 --height 480 --timeout 20
await 200 gave 1
memory detector >/tmp/memory
# Not stopped well, as in other cases: the network takes long here.
kill -9 $pid
kill $player
[ -n "$(found /tmp/file.json)" ] || fail "nothing is found in the file"
[ "$(found /tmp/run.json)" = "$(found /tmp/file.json)" ] ||
    fail "from the camera: $(found /tmp/run.json); from the file: $(found /tmp/file.json)" \
        "$(cat /tmp/player /tmp/run.log)"
has /tmp/run.json 'QR code'
v4l2-ctl -d /dev/video0 -i 0
echo "$(found /tmp/run.json | grep -o label | wc -l) objects, as in the file; $(cat /tmp/memory)"
