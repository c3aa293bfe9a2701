# An engine that was built elsewhere, untuned: it serves at once, and the unit in the background
# makes a tuned one of it within its budget. On the stand-in driver.
. /board/lib-units.sh
systemctl stop $unit
rm -f /etc/tobiuo/front.conf
export TOBIUO_NVRTC=/standin/libnvrtc.so.12
tobiuo-builder build /board/classifier.onnx -o /board/seed.tobiuo --device sm_87 --quiet
mkdir -p /etc/default
cat >/etc/default/tobiuo <<CONF
LD_LIBRARY_PATH=/standin
TOBIUO_NVRTC=$TOBIUO_NVRTC
CONF
cat >/etc/tobiuo/back.conf <<CONF
MODEL=/board/classifier.onnx
SEED=/board/seed.tobiuo
CONF
systemctl start tobiuo-provision || fail "$(journalctl -q --no-pager -n 20)"
cmp /board/seed.tobiuo $engines/back.tobiuo
tobiuo inspect $engines/back.tobiuo >/tmp/inspect
has /tmp/inspect untuned
systemctl start tobiuo-retune || fail "$(journalctl -q --no-pager -n 20)"
tobiuo inspect $engines/back.tobiuo >/tmp/inspect
has /tmp/inspect 'tuned on it'
journalctl -q --no-pager -o cat --since "@$since" | grep -o 'back.tobiuo: built in [0-9.]* s' | tail -n 1
