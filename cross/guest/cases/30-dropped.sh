. /board/lib.sh
start small /dev/video0
more 5
control percentage_of_dropped_buffers=50
more 20
control percentage_of_dropped_buffers=0
more 5
control inject_v4l2_buf_flag_error=1
await 30 logged 'marked as damaged by the driver; counted as dropped'
more 20
stop
[ "$(number device_dropped)" -gt 0 ] || fail "no frame is counted as dropped"
[ "$(number reconnects)" = 0 ] || fail "the camera was opened again"
echo "$(number device_dropped) frames dropped or damaged, $(number processed) processed"
