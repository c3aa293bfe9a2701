# Unplugged, its driver unloaded, loaded again.
. /board/lib.sh
start small /dev/video0
more 10
control disconnect=1
await 10 logged 'source lost'
vivid_off
await 10 logged 'source still lost'
vivid_on
await 20 logged 'source is back'
more 10
stop
[ "$(number reconnects)" = 1 ] || fail "$(number reconnects) times opened again"
echo "came back, $(number processed) frames"
