# A camera that gives no frame, for longer than the watchdog waits.
. /board/lib-units.sh
before=$(property NRestarts)
control percentage_of_dropped_buffers=100
await 30 journal 'gave no frame for 5s'
await 120 restarted "$before"
control percentage_of_dropped_buffers=0
await 200 active
more_frames 10
echo "opened again, then started anew by the watchdog"
