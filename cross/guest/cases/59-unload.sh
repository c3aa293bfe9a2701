# Nobody has kept the camera.
. /board/lib.sh
vivid_off
! dmesg | grep -E 'Oops|BUG|Call trace' || fail "the kernel complains"
echo "vivid unloaded"
