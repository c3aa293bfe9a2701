# What the package does when it is installed; the camera's name that stays.
. /board/lib-units.sh
sh /board/postinst configure
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
echo "systemd $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p'); $camera"
