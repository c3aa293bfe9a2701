. /board/lib.sh
start small /dev/video0 --timeout 1
more 5
control percentage_of_dropped_buffers=100
await 30 logged 'source lost: .*gave no frame for 1s'
control percentage_of_dropped_buffers=0
await 30 logged 'source is back'
more 10
stop
echo "no frame for 1 s: opened again, $(number processed) frames"
