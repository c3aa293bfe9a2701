#!/bin/sh
# Installs Tobiuo on a Jetson (or any machine with systemd): programs, units, udev rule, user.
#
#   sudo jetson/install.sh [--bin FOLDER] [--model FILE] [--destdir FOLDER] [--uninstall]
#
#   --bin FOLDER       where tobiuo and tobiuo-builder are (target/jetson)
#   --model FILE       a model to lay beside the examples (the bundled detector)
#   --destdir FOLDER   into this folder instead of /, and nothing is started: for images, packages
#   --uninstall        takes away what was installed; engines and /etc/tobiuo stay
set -eu

here=$(cd "$(dirname "$0")" && pwd)
bin=$here/../target/jetson
model=$here/../examples/camera/assets/detector.onnx
dest=
uninstall=no
while [ $# -gt 0 ]; do
    case $1 in
    --bin | --model | --destdir)
        [ $# -ge 2 ] || { echo "install.sh: $1 wants a value" >&2; exit 2; }
        case $1 in --bin) bin=$2 ;; --model) model=$2 ;; --destdir) dest=${2%/} ;; esac
        shift 2
        ;;
    --uninstall) uninstall=yes; shift ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "install.sh: there is no option $1; see --help" >&2; exit 2 ;;
    esac
done

units="tobiuo-provision.service tobiuo-retune.service tobiuo-retune.timer tobiuo@.service
tobiuo-swap@.path tobiuo-swap@.service"
system=$dest/usr/lib/systemd/system
live() { [ -z "$dest" ] && [ -d /run/systemd/system ]; }

if [ "$uninstall" = yes ]; then
    if live; then
        systemctl disable --now tobiuo-retune.timer tobiuo-provision.service 'tobiuo@*.service' || true
    fi
    for unit in $units; do rm -f "$system/$unit"; done
    rm -rf "$system/tobiuo@.service.d"
    rm -f "$dest/usr/bin/tobiuo" "$dest/usr/bin/tobiuo-builder" \
        "$dest/usr/lib/sysusers.d/tobiuo.conf" "$dest/usr/lib/tmpfiles.d/tobiuo.conf" \
        "$dest/usr/lib/udev/rules.d/70-tobiuo-cameras.rules"
    rm -rf "$dest/usr/share/doc/tobiuo" "$dest/usr/share/tobiuo"
    if live; then systemctl daemon-reload; udevadm control --reload || true; fi
    echo "removed; engines are in $dest/var/cache/tobiuo, configurations in $dest/etc/tobiuo"
    exit 0
fi

for program in tobiuo tobiuo-builder; do
    if [ ! -x "$bin/$program" ]; then
        echo "install.sh: $bin/$program is not there; cross/build makes it, --bin says where it is" >&2
        exit 1
    fi
done
if [ -z "$dest" ] && [ "$(id -u)" != 0 ]; then
    echo "install.sh: this changes the system: run it with sudo, or give --destdir" >&2
    exit 1
fi

put() { install -D -m "$1" "$2" "$3"; }
put 755 "$bin/tobiuo" "$dest/usr/bin/tobiuo"
put 755 "$bin/tobiuo-builder" "$dest/usr/bin/tobiuo-builder"
for unit in $units; do put 644 "$here/systemd/$unit" "$system/$unit"; done
put 644 "$here/systemd/sysusers.conf" "$dest/usr/lib/sysusers.d/tobiuo.conf"
put 644 "$here/systemd/tmpfiles.conf" "$dest/usr/lib/tmpfiles.d/tobiuo.conf"
put 644 "$here/udev/70-tobiuo-cameras.rules" "$dest/usr/lib/udev/rules.d/70-tobiuo-cameras.rules"
put 644 "$here/systemd/backoff.conf" "$dest/usr/share/tobiuo/backoff.conf"
for file in "$here"/examples/*.conf "$here"/examples/default "$here"/mender/*; do
    put "$([ -x "$file" ] && echo 755 || echo 644)" "$file" \
        "$dest/usr/share/doc/tobiuo/examples/$(basename "$file")"
done
put 644 "$here/README.md" "$dest/usr/share/doc/tobiuo/README.md"
if [ -f "$model" ]; then put 644 "$model" "$dest/usr/share/tobiuo/$(basename "$model")"; fi
mkdir -p "$dest/etc/tobiuo"

# With a folder for an image or a package that is all: its own scripts do the rest.
[ -z "$dest" ] || exit 0
sh "$here/debian/postinst" configure
echo "installed. Next: sudo cp /usr/share/doc/tobiuo/examples/usb-camera.conf /etc/tobiuo/front.conf
sudo systemctl start tobiuo-provision && sudo systemctl enable --now tobiuo@front; tobiuo doctor"
