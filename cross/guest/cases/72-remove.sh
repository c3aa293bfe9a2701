# The package is removed: its service stops, engines and configurations stay; purged, the engines go.
. /board/lib-units.sh
[ -d /sys/module/vivid ] || vivid_on
await 20 [ -c $camera ]
systemctl stop $unit
# The GPU's engines of the cases before would not give way to the CPU's.
rm -rf $engines /etc/tobiuo/* /etc/default/tobiuo
echo 'MODEL=/board/small.onnx' >/etc/tobiuo/front.conf
echo "INPUT=$camera" >>/etc/tobiuo/front.conf
start_unit
dpkg -r tobiuo >/tmp/dpkg 2>&1 || fail "dpkg -r: $(cat /tmp/dpkg)"
! active || fail "the service still runs"
! [ -e /usr/bin/tobiuo ] || fail "the program is still there"
! ls /usr/lib/systemd/system/tobiuo* 2>/dev/null || fail "units are still there"
[ -e $engines/front.tobiuo ] || fail "the engine is gone"
[ -e /etc/tobiuo/front.conf ] || fail "the configuration is gone"
dpkg -P tobiuo >/tmp/dpkg 2>&1 || fail "dpkg -P: $(cat /tmp/dpkg)"
! [ -e $engines ] || fail "engines are still there after purge"
! dpkg -s tobiuo >/tmp/dpkg 2>&1 || fail "$(cat /tmp/dpkg)"
vivid_off
echo "stopped and removed, the engine kept; purged"
