# The service, ready with its first frame, without rights that it does not need.
. /board/lib-units.sh
start_unit
more_frames 50
status=/proc/$(property MainPID)/status
[ "$(awk '/^Uid:/{print $2}' $status)" = "$(id -u tobiuo)" ] || fail "$(cat $status)"
for line in 'CapEff:.0*$' 'CapBnd:.0*$' 'NoNewPrivs:.1' 'Seccomp:.2'; do has $status "$line"; done
told() { property StatusText | grep -q 'frames/s'; }
await 30 told
[ "$(property NRestarts)" = 0 ] || fail "$(property NRestarts) restarts"
echo "$(property StatusText)"
