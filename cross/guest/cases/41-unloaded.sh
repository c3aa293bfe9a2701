# Its driver is unloaded while the pipeline waits for the camera to come back, and loaded again.
. /board/lib.sh
start small /dev/video0
more 10
vivid_off_in_use
vivid_on
await 40 logged 'source is back'
more 10
stop
echo "came back, $(number processed) frames"
