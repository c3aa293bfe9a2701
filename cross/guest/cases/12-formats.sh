# Every raw format, from both kinds of memory: the same picture, within what subsampling changes.
. /board/lib.sh
v4l2-ctl -d /dev/video0 -c osd_text_mode=2,horizontal_movement=3,test_pattern=0
for format in YUYV UYVY NV12 YU12 RGB3 BGR3 GREY; do
    for memory in mmap userptr; do
        uri="v4l2://0?format=$format&memory=$memory"
        tobiuo run $engines/small.tobiuo "$uri" --width 320 --height 180 --frames 1 --json \
            -t 0 >/tmp/run.json 2>/tmp/run.log || fail "$uri: $(cat /tmp/run.log)"
        logged "320x180 $format" || fail "$uri: $(cat /tmp/run.log)"
        gave 1 || fail "$uri: no frame"
        sed -n 's/.*"detections":\[{\([^}]*\).*/\1/p' /tmp/run.json >>/tmp/$memory
    done
done
cmp /tmp/mmap /tmp/userptr || fail "$(cat /tmp/mmap /tmp/userptr)"
status=0
tobiuo run $engines/small.tobiuo 'v4l2://0?format=MJPG' 2>/tmp/run.log || status=$?
[ $status = 6 ] && logged 'no format MJPG' || fail "$status: $(cat /tmp/run.log)"
echo "7 formats, by mmap and by user pointer"
