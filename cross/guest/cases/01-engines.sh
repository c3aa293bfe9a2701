# Engines are built where they will run, by the provisioning unit's own command.
. /board/lib.sh
provision() {
    # As systemd reads it: %C is the cache, words of $PROVISION_OPTIONS are arguments.
    command=$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/tobiuo-provision.service | sed 's,%C,/var/cache,g')
    eval "$command" >/tmp/provision 2>&1 || fail "$command: $(cat /tmp/provision)"
}
mkdir -p /etc/tobiuo $engines
echo 'MODEL=/board/small.onnx' >/etc/tobiuo/small.conf
provision
has /tmp/provision 'small.tobiuo: built'
has /tmp/provision 'checked'
echo 'MODEL=/usr/bin/assets/detector.onnx' >/etc/tobiuo/detector.conf
# The plain reference of the large network is too slow here.
PROVISION_OPTIONS=--no-check provision
has /tmp/provision 'small.tobiuo: up to date'
has /tmp/provision 'detector.tobiuo: built'
tobiuo-builder verify /board/small.onnx $engines/small.tobiuo
tobiuo inspect $engines/detector.tobiuo >/tmp/inspect
has /tmp/inspect 'QR code'
echo "detector.tobiuo, $(stat -c %s $engines/detector.tobiuo) bytes"
