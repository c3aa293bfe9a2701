# A program that hangs, in the kernel or the driver: nothing feeds the watchdog.
. /board/lib-units.sh
before=$(property NRestarts)
kill -STOP "$(property MainPID)"
await 120 restarted "$before"
await 60 active
more_frames 10
journal 'Watchdog timeout' || fail "no watchdog"
echo "started anew by the watchdog"
