. /board/lib.sh
tobiuo cameras >/tmp/cameras
has /tmp/cameras vivid
has /tmp/cameras YUYV
! grep -q video1 /tmp/cameras || fail "the output /dev/video1 is listed as a camera"
tobiuo cameras --json >/tmp/cameras.json
tobiuo doctor >/tmp/doctor || fail "doctor: status $?: $(cat /tmp/doctor)"
has /tmp/doctor '^ok *cameras .*vivid'
echo "$(grep -c frames/s /tmp/cameras) modes of $(grep -o '/dev/video0.*' /tmp/cameras | head -n 1)"
