# The GPU path, on the stand-in driver.
. /board/lib.sh
export LD_LIBRARY_PATH=/standin TOBIUO_NVRTC=/standin/libnvrtc.so.12
export TOBIUO_STANDIN_REPORT=/tmp/report
tobiuo-builder build /board/small.onnx -o $engines/orin.tobiuo --device cuda --effort fast
for memory in mmap userptr; do
    start orin "/dev/video0?memory=$memory"
    more 100
    stop
    logged 'device: .*Orin' || fail "$(cat /tmp/run.log)"
    frames="$frames $(number processed)"
done
! grep -v '"problems":\[\]' /tmp/report || fail "the stand-in driver noticed problems"
[ "$(wc -l </tmp/report)" -ge 3 ] || fail "the stand-in driver was not used"
echo "$frames frames on $(sed -n 's/.*"device":"\([^"]*\)".*/\1/p' /tmp/run.json)"
