# In the camera's place comes another: HDMI, of one size that nobody asked for. Then the first again.
. /board/lib.sh
start small /dev/video0
more 10
has /tmp/run.log '320x180'
vivid_off_in_use
insmod /lib/modules/vivid.ko n_devs=1 no_error_inj=0 num_inputs=1 input_types=3 ccs_cap_mode=0
await 40 logged 'source is back: .*1280x720'
more 10
vivid_off_in_use
vivid_on
back_again() {
    [ "$(grep -c 'source is back: .*320x180' /tmp/run.log)" = 1 ]
}
await 40 back_again
more 10
stop
[ "$(number reconnects)" = 2 ] || fail "$(number reconnects) times opened again"
echo "320x180, then 1280x720, then 320x180: $(number processed) frames"
