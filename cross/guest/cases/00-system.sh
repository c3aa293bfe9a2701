. /board/lib.sh
/lib/aarch64-linux-gnu/libc.so.6 >/tmp/libc
has /tmp/libc "$(cat /board/glibc)"
for module in rc-core mc cec videodev v4l2-dv-timings videobuf2-common videobuf2-memops \
    videobuf2-v4l2 videobuf2-vmalloc videobuf2-dma-contig v4l2-tpg; do
    insmod /lib/modules/$module.ko
done
vivid_on
for program in tobiuo tobiuo-builder; do $program --version >/dev/null; done
camera --help >/dev/null
echo "Linux $(uname -r), glibc $(sed 's/.* //' /board/glibc), $(tobiuo --version)"
