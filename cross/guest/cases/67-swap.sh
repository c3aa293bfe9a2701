# A new engine while the old one runs: exchanged, and the service takes it.
. /board/lib-units.sh
old=$(property MainPID)
echo 'BUILD_OPTIONS="--score-threshold 0.5"' >>/etc/tobiuo/front.conf
systemctl start tobiuo-provision
[ -e $engines/front.tobiuo.previous ] || fail "the engine before is not kept"
changed() { [ "$(property MainPID)" != "$old" ] && active; }
await 60 changed
more_frames 10
[ "$(property Result tobiuo-swap@front.service)" = success ] || fail "$(property Result tobiuo-swap@front.service)"
echo "the service runs the new engine"
