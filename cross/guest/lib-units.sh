# What the cases of the units share: systemd runs, and manages tobiuo@front.
. /board/lib.sh

camera=/dev/tobiuo/by-path/platform-vivid.0
unit=tobiuo@front.service
# Seconds between two looks: systemctl is no small program here.
poll=1

# A property of a unit, of tobiuo@front unless named.
property() {
    systemctl show --value -p "$1" "${2:-$unit}"
}

active() {
    [ "$(property ActiveState)" = active ]
}

restarted() {
    [ "$(property NRestarts)" -gt "$1" ]
}

# Starts it, which comes back when it is ready: after its first frame.
start_unit() {
    systemctl start $unit || fail "systemctl start: $(journalctl -q --no-pager -n 20)"
    active || fail "it is $(property ActiveState)"
}

# Whether the units have logged a line since the case began.
journal() {
    journalctl -q --no-pager -o cat --since "@$since" | grep -q -- "$1"
}
since=$(date +%s)

frames() {
    wc -l </var/lib/tobiuo/front.jsonl
}

more_frames() {
    wanted=$(($(frames) + $1))
    await 60 reached
}

reached() {
    [ "$(frames)" -ge "$wanted" ]
}

# Debian's, which busybox has one of its own of.
dpkg() {
    PATH=/usr/bin:$PATH /usr/bin/dpkg "$@"
}
