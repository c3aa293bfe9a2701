# The package, installed by Debian's dpkg; the camera's name that stays.
. /board/lib-units.sh
mkdir -p /var/lib/dpkg/updates /var/lib/dpkg/info
cat >/var/lib/dpkg/status <<STATUS
Package: libc6
Status: install ok installed
Maintainer: Debian
Architecture: arm64
Version: 2.31
Description: what this board has

STATUS
rm /usr/bin/tobiuo /usr/lib/systemd/system/tobiuo*
dpkg -i /board/tobiuo_*_arm64.deb >/tmp/dpkg 2>&1 || fail "dpkg: $(cat /tmp/dpkg)"
rm /board/tobiuo_*_arm64.deb
[ "$(dpkg -s tobiuo | sed -n 's/^Status: //p')" = "install ok installed" ] || fail "$(cat /tmp/dpkg)"
has /etc/passwd '^tobiuo:'
has /etc/group '^video:.*tobiuo'
has /etc/group '^render:.*tobiuo'
[ "$(stat -c %U:%a /var/cache/tobiuo)" = tobiuo:755 ] || fail "$(stat /var/cache/tobiuo)"
[ "$(systemctl is-enabled tobiuo-provision.service)" = enabled ] || fail "not enabled"
[ "$(systemctl is-active tobiuo-retune.timer)" = active ] || fail "the timer does not run"
! [ -d /sys/module/vivid ] || vivid_off
vivid_on
await 20 [ -c $camera ]
[ "$(stat -Lc %G:%a $camera)" = video:660 ] || fail "$(stat -L $camera)"
version=$(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')
# Growing pauses between starts, where systemd can.
[ "$version" -lt 254 ] || [ "$(property RestartSteps)" = 6 ] || fail "RestartSteps is '$(property RestartSteps)'"
echo "systemd $version; $camera"
