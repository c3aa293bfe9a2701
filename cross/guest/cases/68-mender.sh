# The state scripts of an update: a good one passes, one whose service does not run is taken back.
. /board/lib-units.sh
export TOBIUO_HEALTH_SECONDS=30 TOBIUO_STEADY_SECONDS=5
sed -i s/0.5/0.4/ /etc/tobiuo/front.conf
sh /board/mender/ArtifactInstall_Leave_10_tobiuo || fail "ArtifactInstall_Leave: $?"
sh /board/mender/ArtifactCommit_Enter_10_tobiuo || fail "ArtifactCommit_Enter: $?"
good=$(md5sum <$engines/front.tobiuo)
# The new model does not build: nothing is exchanged.
sed -i s,/board/small.onnx,/board/lib.sh, /etc/tobiuo/front.conf
! sh /board/mender/ArtifactInstall_Leave_10_tobiuo 2>/tmp/out || fail "it has built a shell script"
[ "$(md5sum <$engines/front.tobiuo)" = "$good" ] || fail "the good engine is gone"
# One that builds, but its service does not run.
sed -i -e s,/board/lib.sh,/board/small.onnx, -e s/0.4/0.3/ -e s,^INPUT=.*,INPUT=/dev/video7, \
    /etc/tobiuo/front.conf
sh /board/mender/ArtifactInstall_Leave_10_tobiuo
! sh /board/mender/ArtifactCommit_Enter_10_tobiuo 2>/tmp/out || fail "a service without its camera is healthy"
sed -i "s,^INPUT=.*,INPUT=$camera," /etc/tobiuo/front.conf
sh /board/mender/ArtifactRollback_Leave_10_tobiuo
[ "$(md5sum <$engines/front.tobiuo)" = "$good" ] || fail "the engine before is not back"
await 60 active
echo "committed; refused; rolled back"
