# Calls that fail while frames come, and when the camera is opened again after that.
. /board/lib.sh
start small /dev/video0
more 5
control inject_vidioc_qbuf_error=1
await 30 logged 'source lost: .*VIDIOC_QBUF'
await 30 logged 'source is back'
more 5
control inject_vidioc_streamon_error=1
control inject_fatal_streaming_error=1
await 30 logged 'source lost: .*VIDIOC_DQBUF'
await 30 logged 'source still lost: .*VIDIOC_STREAMON'
back_twice() {
    [ "$(grep -c 'source is back' /tmp/run.log)" -ge 2 ]
}
await 30 back_twice
more 5
stop
[ "$(number reconnects)" = 2 ] || fail "$(number reconnects) times opened again"
for call in reqbufs qbuf streamon; do
    control inject_vidioc_${call}_error=1
    status=0
    tobiuo run $engines/small.tobiuo /dev/video0 --frames 1 >/tmp/out 2>&1 || status=$?
    [ $status = 6 ] || fail "$call: status $status: $(cat /tmp/out)"
    has /tmp/out "VIDIOC_$(echo $call | tr a-z A-Z)"
done
echo "opened again twice; at the start REQBUFS, QBUF, STREAMON: status 6"
