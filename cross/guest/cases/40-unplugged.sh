# Unplugged while frames come. vivid plugs itself in again when the last program has closed it, so
# one more keeps it open meanwhile.
. /board/lib.sh
start small /dev/video0
more 10
exec 9</dev/video0
control disconnect=1
await 30 logged 'source lost'
await 30 logged 'source still lost'
exec 9<&-
await 40 logged 'source is back'
more 10
stop
[ "$(number reconnects)" = 1 ] || fail "$(number reconnects) times opened again"
echo "came back, $(number processed) frames"
