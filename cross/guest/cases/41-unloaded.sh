# Its driver is unloaded while the pipeline waits for the camera to come back, and loaded again.
. /board/lib.sh
start small /dev/video0
more 10
tries=30
# It can be unloaded between the loss and the next try.
until rmmod vivid; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || fail "the camera stays in use"
    control inject_fatal_streaming_error=1 || true
    sleep 0.2
done
await 30 logged 'source still lost: .*No such file'
vivid_on
await 40 logged 'source is back'
more 10
stop
echo "came back, $(number processed) frames"
