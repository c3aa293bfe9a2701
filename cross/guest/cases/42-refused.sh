# A camera that another program has, that the user may not have, that is not there.
. /board/lib.sh
refused() {
    status=0
    "$@" >/tmp/out 2>&1 || status=$?
    [ $status = 6 ] || fail "status $status: $(cat /tmp/out)"
}
start small /dev/video0
more 2
refused tobiuo run $engines/small.tobiuo /dev/video0
has /tmp/out 'another program is using the camera'
stop
chmod 600 /dev/video0
chmod -R a+rX $engines
refused start-stop-daemon -S -c nobody -x /usr/bin/tobiuo -- \
    run $engines/small.tobiuo /dev/video0
has /tmp/out 'group `video`'
refused tobiuo run $engines/small.tobiuo /dev/video9
has /tmp/out 'tobiuo cameras'
echo "busy, not permitted, not there: status 6"
