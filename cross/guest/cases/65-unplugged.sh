# Unplugged for longer than the watchdog waits: the service stays up and says so.
. /board/lib-units.sh
before=$(property NRestarts)
exec 9</dev/video0
control disconnect=1
await 30 journal 'source lost'
waiting() { property StatusText | grep -q -i 'lost\|again'; }
await 20 waiting
said=$(property StatusText)
sleep 45
active || fail "it is $(property ActiveState)"
exec 9<&-
await 60 journal 'source is back'
more_frames 10
[ "$(property NRestarts)" = "$before" ] || fail "$(property NRestarts) restarts"
echo "$said; came back"
