# The clock of the day jumps, as when a board without a battery finds the time: by five years, and
# back.
. /board/lib.sh
start small /dev/video0
more 5
now=$(date +%s)
date -s "@$((now + 150000000))" >/dev/null
more 20
date -s "@$now" >/dev/null
more 20
stop
[ "$(number reconnects)" = 0 ] || fail "the camera was opened again"
late=$(sed -n 's/^{"frame".*"total":\([0-9]*\).*/\1/p' /tmp/run.json | sort -n | tail -n 1)
[ "$late" -lt 1000000 ] || fail "a frame of $late us"
echo "$(number processed) frames, none older than $((late / 1000)) ms"
