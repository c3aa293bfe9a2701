. /board/lib.sh
start small /dev/video0
more 100
memory small >/tmp/memory
stop
logged 'vivid.*320x180 YUYV' || fail "$(cat /tmp/run.log)"
echo "$(number processed) frames on the CPU device, $(cat /tmp/memory)"
