# The driver's numbers wrap 128 frames after the start, and its clock runs from its end.
. /board/lib.sh
control wrap_sequence_number=1
control wrap_timestamp=1
start small /dev/video0
more 150
stop
control wrap_sequence_number=0
control wrap_timestamp=0
[ "$(number frames_in)" -ge 150 ] || fail "$(number frames_in) frames"
late=$(sed -n 's/^{"frame".*"total":\([0-9]*\).*/\1/p' /tmp/run.json | sort -n | tail -n 1)
[ "$late" -lt 10000000 ] || fail "a frame of $late us"
[ "$(number device_dropped)" -lt 2000 ] || fail "$(number device_dropped) frames dropped"
echo "$(number processed) frames, none older than $((late / 1000)) ms"
