# The k3s DaemonSet, as the kubelet would run it: its containers with the mounts, users, environment
# and command lines of the manifest (jetson/k3s/pod), on the stand-in driver.
. /board/lib-units.sh
. /board/pod.sh

mounted() {
    grep -q " $1 " /proc/mounts
}

# The image: Debian's files and what the Dockerfile copies.
image() {
    ! mounted "$1" || return 0
    mkdir -p "$1"
    mount -t tmpfs image "$1"
    mkdir -p "$1/usr/bin"
    for folder in lib usr/lib bin; do
        mkdir -p "$1/$folder"
        mount --bind /$folder "$1/$folder"
    done
    mkdir -p "$1/dev" "$1/proc"
    mount -t proc proc "$1/proc"
    mknod "$1/dev/null" c 1 3
    chmod 666 "$1/dev/null"
    # setpriv becomes the user.
    cp /usr/bin/tobiuo /usr/bin/tobiuo-builder /usr/bin/setpriv "$1/usr/bin/"
}

# What the NVIDIA runtime brings into a container.
driver() {
    mounted "$1/standin" || { mkdir "$1/standin"; mount --bind /standin "$1/standin"; }
}
DRIVER_ENVIRONMENT=LD_LIBRARY_PATH=/standin

# A node that has JetPack's CUDA and a model, and nothing of the package's units.
systemctl stop $unit tobiuo-retune.timer
rm -rf $engines
cp /board/small.onnx /usr/share/tobiuo/detector.onnx
mkdir -p /usr/local/cuda/lib64
ln -f /standin/libcuda.so.1 /usr/local/cuda/lib64/libnvrtc.so.12
[ -d /sys/module/vivid ] || vivid_on
for_video() { [ "$(stat -c %G /dev/video0)" = video ]; }
await 20 for_video

volumes
# Timing kernels takes long here.
sed -i '/^BUILD_OPTIONS/s/"$/ --effort fast"/' /run/pod/volumes/cameras/front.conf
(container_provision) >/tmp/out 2>&1 || fail "provision: $(cat /tmp/out)"
has /tmp/out 'front.tobiuo: built'
(container_provision) >/tmp/out 2>&1 || fail "provision again: $(cat /tmp/out)"
has /tmp/out 'front.tobiuo: up to date'
container_run >/tmp/run.json 2>/tmp/run.log &
pid=$!
more 20 || fail "$(cat /tmp/run.log)"
has /proc/$pid/status '^Uid:.998'
stop
logged 'device: .*Orin' || fail "$(cat /tmp/run.log)"
# An engine that is damaged stops the container, with a status that says so.
truncate -s 1000 $engines/front.tobiuo
status=0
(container_run) >/tmp/out 2>&1 || status=$?
[ $status = 4 ] || fail "damaged: status $status: $(cat /tmp/out)"
(container_provision) >/tmp/out 2>&1 || fail "provision anew: $(cat /tmp/out)"
has /tmp/out 'front.tobiuo: built'
vivid_off
echo "built by the init container, then up to date; $(number processed) frames as user 998; built anew when damaged"
