# What the cases share. Each is a shell script of its own, run with -e, that ends with a status
# and, in its last line, with what it has seen.

# The provisioning unit's folder.
engines=/var/cache/tobiuo

fail() {
    echo "$*"
    exit 1
}

# Fails unless a file has a line that matches.
has() {
    grep -q -- "$2" "$1" || fail "'$2' is not in $1: $(cat "$1")"
}

# Waits until a command succeeds, for so many seconds.
await() {
    deadline=$(($(seconds) + $1))
    shift
    until "$@"; do
        [ "$(seconds)" -lt $deadline ] || fail "not within the time: $*"
        sleep "${poll:-0.1}"
    done
}

# Since the start of the board.
seconds() {
    cut -d. -f1 /proc/uptime
}

# The virtual camera, with all its nodes: without some of them it does not plug itself in again
# after a disconnect. Input 0 is a webcam, input 3 HDMI, into which output 1 of /dev/video1 can be
# looped.
vivid_on() {
    insmod /lib/modules/vivid.ko n_devs=1 no_error_inj=0
    [ -c /dev/video0 ] || fail "vivid made no /dev/video0"
}

# It can be unloaded when nobody has it open.
vivid_off() {
    await 10 rmmod vivid
}

# Unloads it while a pipeline has it open, between a loss and the next try to open it again.
vivid_off_in_use() {
    tries=30
    until rmmod vivid; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "the camera stays in use"
        control inject_fatal_streaming_error=1 || true
        sleep 0.2
    done
    await 30 logged 'source still lost: .*No such file'
}

# Sets a control of the camera: NAME=VALUE.
control() {
    v4l2-ctl -d /dev/video0 -c "$1"
}

# How many results a run has given.
results() {
    grep -c '^{"frame"' /tmp/run.json || true
}

gave() {
    [ "$(results)" -ge "$1" ]
}

logged() {
    grep -q -- "$1" /tmp/run.log
}

# Starts the pipeline on a camera, at vivid's smallest size: ENGINE INPUT OPTIONS…
start() {
    run "$@" --width 320 --height 180 --rate 60
}

# Starts the pipeline: ENGINE INPUT OPTIONS…
run() {
    engine=$engines/$1.tobiuo
    shift
    tobiuo run "$engine" "$@" --json >/tmp/run.json 2>/tmp/run.log &
    pid=$!
}

# Waits for so many more results.
more() {
    await 60 gave $(($(results) + $1))
}

# Asks the pipeline to stop, which it must well and within so many seconds, 3 unless given: after
# the network it is at. Its numbers must rise.
stop() {
    kill -TERM $pid
    await "${1:-3}" ended
    wait $pid || fail "status $? after SIGTERM: $(cat /tmp/run.log)"
    has /tmp/run.json '^{"summary"'
    sed -n 's/^{"frame":\([0-9]*\),.*/\1/p' /tmp/run.json |
        awk 'NR > 1 && $1 <= last {exit 1} {last = $1}' || fail "numbers do not rise"
}

ended() {
    ! [ -d /proc/$pid ] || grep -qs '^State:.*Z' /proc/$pid/status
}

# A number of the last run's summary.
number() {
    sed -n "s/^{\"summary\".*\"$1\":\([0-9.]*\).*/\1/p" /tmp/run.json
}

# Fails unless the resident memory of the pipeline is at most engine + arena + 40 MB; tells it.
memory() {
    engine=$engines/$1.tobiuo
    arena=$(tobiuo inspect "$engine" --json | sed -n 's/.*"arena": *\([0-9]*\).*/\1/p' | head -n 1)
    rss=$(($(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' /proc/$pid/status) * 1024))
    limit=$(($(stat -c %s "$engine") + arena + 40000000))
    [ "$rss" -le "$limit" ] || fail "RSS is $rss bytes; engine, arena and 40 MB are $limit"
    echo "RSS $((rss / 1000)) kB of $((limit / 1000)) kB"
}
