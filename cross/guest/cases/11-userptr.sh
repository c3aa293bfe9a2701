. /board/lib.sh
start small '/dev/video0?memory=userptr'
more 100
stop
logged 'into user memory' || fail "$(cat /tmp/run.log)"
echo "$(number processed) frames on the CPU device"
