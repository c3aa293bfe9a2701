# The unit that builds the engines.
. /board/lib-units.sh
cat >/etc/tobiuo/front.conf <<CONF
MODEL=/board/small.onnx
INPUT=$camera
OUTPUTS=front.jsonl
RUN_OPTIONS="--quiet --width 320 --height 180 --rate 30"
CONF
systemctl start tobiuo-provision || fail "$(journalctl -q --no-pager -n 20)"
journal 'front.tobiuo: built'
[ "$(stat -c %U $engines/front.tobiuo)" = tobiuo ] || fail "$(stat $engines/front.tobiuo)"
made=$(stat -c %i $engines/front.tobiuo)
systemctl start tobiuo-provision
journal 'front.tobiuo: up to date'
[ "$(stat -c %i $engines/front.tobiuo)" = "$made" ] || fail "built again"
echo "built and checked by user tobiuo, then up to date"
