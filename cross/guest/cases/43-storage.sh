# A disk that is full, and one that cannot be written, while an engine is built: the one that is
# there stays.
. /board/lib.sh
mkdir -p /tmp/disk
mount -t tmpfs -o size=512k disk /tmp/disk
engine=/tmp/disk/small.tobiuo
provision() {
    status=0
    tobiuo-builder provision /board/small.onnx -o $engine --device cpu "$@" >/tmp/out 2>&1 || status=$?
}
provision
[ $status = 0 ] || fail "status $status: $(cat /tmp/out)"
good=$(md5sum <$engine)
dd if=/dev/zero of=/tmp/disk/rest bs=1k 2>/dev/null || true
provision --score-threshold 0.5
[ $status = 1 ] || fail "full: status $status: $(cat /tmp/out)"
has /tmp/out 'space\|free'
rm /tmp/disk/rest
mount -o remount,ro /tmp/disk
provision --score-threshold 0.5
[ $status = 1 ] || fail "read-only: status $status: $(cat /tmp/out)"
has /tmp/out 'cannot write\|read-only\|Read-only'
provision
[ $status = 0 ] || fail "read-only, up to date: status $status: $(cat /tmp/out)"
[ "$(md5sum <$engine)" = "$good" ] || fail "the engine has changed"
umount /tmp/disk
echo "full: status 1; read-only: status 1, and 0 where nothing is to do"
