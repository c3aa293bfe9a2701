. /board/lib-units.sh
systemctl stop $unit
[ "$(property Result)" = success ] || fail "$(property Result)"
vivid_off
! dmesg | grep -E 'Oops|BUG|Call trace' || fail "the kernel complains"
echo "stopped well"
