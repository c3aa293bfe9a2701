# An engine that is damaged on the disk: status 4, and the start after that builds it first.
. /board/lib-units.sh
printf 'damage' | dd of=$engines/front.tobiuo bs=1 seek=300 conv=notrunc 2>/dev/null
status=0
tobiuo run $engines/front.tobiuo $camera --frames 1 >/tmp/out 2>&1 || status=$?
[ $status = 4 ] || fail "status $status: $(cat /tmp/out)"
kill -KILL "$(property MainPID)"
before=$(property NRestarts)
await 60 restarted $((before - 1))
await 60 active
more_frames 10
journalctl -q --no-pager -o cat --since "@$since" | grep 'front.tobiuo: ' | tail -n 1
