//! The only `unsafe` of this crate: V4L2's ioctls and their buffers, as safe functions.
//!
//! The structures are those of `linux/videodev2.h` on 64-bit Linux, which are the same on x86-64
//! and aarch64; their sizes are part of the ioctls' numbers, and the tests compare both with the
//! header's.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("V4L2 structures are described here for 64-bit Linux only");

/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`.
pub(super) const CAPTURE: u32 = 1;
/// `V4L2_MEMORY_MMAP`.
pub(super) const MMAP: u32 = 1;
/// `V4L2_MEMORY_USERPTR`.
pub(super) const USERPTR: u32 = 2;
/// `V4L2_CAP_VIDEO_CAPTURE`.
pub(super) const CAP_CAPTURE: u32 = 0x1;
/// `V4L2_CAP_VIDEO_CAPTURE_MPLANE`.
pub(super) const CAP_CAPTURE_MPLANE: u32 = 0x1000;
/// `V4L2_CAP_STREAMING`.
pub(super) const CAP_STREAMING: u32 = 0x0400_0000;
/// `V4L2_CAP_DEVICE_CAPS`.
pub(super) const CAP_DEVICE_CAPS: u32 = 0x8000_0000;
/// `V4L2_CAP_TIMEPERFRAME`.
pub(super) const CAP_TIMEPERFRAME: u32 = 0x1000;
/// `V4L2_BUF_FLAG_ERROR`.
pub(super) const FLAG_ERROR: u32 = 0x40;
/// `V4L2_BUF_FLAG_TIMESTAMP_MASK`.
pub(super) const FLAG_TIMESTAMP_MASK: u32 = 0xe000;
/// `V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC`.
pub(super) const FLAG_TIMESTAMP_MONOTONIC: u32 = 0x2000;
/// `V4L2_FRMSIZE_TYPE_DISCRETE` and `V4L2_FRMIVAL_TYPE_DISCRETE`.
pub(super) const DISCRETE: u32 = 1;
/// `V4L2_FIELD_NONE`.
pub(super) const FIELD_NONE: u32 = 1;

/// `struct v4l2_capability`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Capability {
    pub(super) driver: [u8; 16],
    pub(super) card: [u8; 32],
    pub(super) bus_info: [u8; 32],
    pub(super) version: u32,
    pub(super) capabilities: u32,
    pub(super) device_caps: u32,
    pub(super) reserved: [u32; 3],
}

/// `struct v4l2_fmtdesc`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FormatDescription {
    pub(super) index: u32,
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) description: [u8; 32],
    pub(super) pixelformat: [u8; 4],
    pub(super) mbus_code: u32,
    pub(super) reserved: [u32; 3],
}

/// `struct v4l2_frmsizeenum`; a stepwise size is min, max, step of the width, then of the height,
/// a discrete one is the first two.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FrameSize {
    pub(super) index: u32,
    pub(super) pixel_format: [u8; 4],
    pub(super) kind: u32,
    pub(super) size: [u32; 6],
    pub(super) reserved: [u32; 2],
}

/// `struct v4l2_fract`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fraction {
    pub(super) numerator: u32,
    pub(super) denominator: u32,
}

/// `struct v4l2_frmivalenum`; a stepwise interval is min, max, step, a discrete one is the first.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FrameInterval {
    pub(super) index: u32,
    pub(super) pixel_format: [u8; 4],
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) kind: u32,
    pub(super) interval: [Fraction; 3],
    pub(super) reserved: [u32; 2],
}

/// `struct v4l2_format` with a `struct v4l2_pix_format` in it.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) kind: u32,
    pub(super) padding: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixelformat: [u8; 4],
    pub(super) field: u32,
    pub(super) bytesperline: u32,
    pub(super) sizeimage: u32,
    pub(super) colorspace: u32,
    pub(super) private: u32,
    pub(super) flags: u32,
    pub(super) encoding: u32,
    pub(super) quantization: u32,
    pub(super) transfer: u32,
    pub(super) rest: [u32; 38],
}

impl Default for Format {
    fn default() -> Self {
        Self {
            kind: CAPTURE,
            padding: 0,
            width: 0,
            height: 0,
            pixelformat: [0; 4],
            field: 0,
            bytesperline: 0,
            sizeimage: 0,
            colorspace: 0,
            private: 0,
            flags: 0,
            encoding: 0,
            quantization: 0,
            transfer: 0,
            rest: [0; 38],
        }
    }
}

/// `struct v4l2_streamparm` with a `struct v4l2_captureparm` in it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamParameters {
    pub(super) kind: u32,
    pub(super) capability: u32,
    pub(super) capturemode: u32,
    pub(super) interval: Fraction,
    pub(super) rest: [u32; 46],
}

impl Default for StreamParameters {
    fn default() -> Self {
        let interval = Fraction::default();
        Self { kind: CAPTURE, capability: 0, capturemode: 0, interval, rest: [0; 46] }
    }
}

/// `struct v4l2_requestbuffers`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestBuffers {
    pub(super) count: u32,
    pub(super) kind: u32,
    pub(super) memory: u32,
    pub(super) capabilities: u32,
    pub(super) flags: u8,
    pub(super) reserved: [u8; 3],
}

/// `struct v4l2_buffer`; its union is the offset of a mapped buffer, or the address of memory of
/// this process's, of which only [`queue_user`] makes use.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Buffer {
    pub(super) index: u32,
    pub(super) kind: u32,
    pub(super) bytesused: u32,
    pub(super) flags: u32,
    pub(super) field: u32,
    pub(super) padding: u32,
    pub(super) seconds: i64,
    pub(super) microseconds: i64,
    pub(super) timecode: [u32; 4],
    pub(super) sequence: u32,
    pub(super) memory: u32,
    pub(super) place: u64,
    pub(super) length: u32,
    pub(super) reserved: u32,
    pub(super) request: i32,
    pub(super) end: u32,
}

macro_rules! ioctls {
    ($($(#[$doc:meta])* $name:ident($argument:ty) = $number:expr, $prepare:expr;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(device: &impl AsFd, argument: &mut $argument) -> io::Result<()> {
            const NUMBER: Opcode = $number;
            let prepare: fn(&mut $argument) = $prepare;
            prepare(argument);
            // SAFETY: the number is of an ioctl whose argument is this structure, laid out as
            // the kernel's header has it (the tests compare both); any bytes that the kernel
            // writes are a value of it, as it consists of integers.
            let call = unsafe { Updater::<NUMBER, $argument>::new(argument) };
            // SAFETY: the kernel writes nothing but the structure: `prepare` has set the kinds
            // whose structures hold no pointers, and where buffers are queued, memory of the
            // kernel's own. On a descriptor that is no V4L2 device it fails.
            unsafe { ioctl(device, call) }.map_err(io::Error::from)
        }
    )*};
}

ioctls! {
    /// `VIDIOC_QUERYCAP`.
    query_capability(Capability) = opcode::read::<Capability>(b'V', 0), |_| ();
    /// `VIDIOC_ENUM_FMT`, of capture formats.
    enumerate_format(FormatDescription) = opcode::read_write::<FormatDescription>(b'V', 2),
        |argument| argument.kind = CAPTURE;
    /// `VIDIOC_S_FMT`, of the capture format.
    set_format(Format) = opcode::read_write::<Format>(b'V', 5), |argument| argument.kind = CAPTURE;
    /// `VIDIOC_REQBUFS`, of capture buffers.
    request_buffers(RequestBuffers) = opcode::read_write::<RequestBuffers>(b'V', 8),
        |argument| argument.kind = CAPTURE;
    /// `VIDIOC_QUERYBUF`.
    query_buffer(Buffer) = opcode::read_write::<Buffer>(b'V', 9), Buffer::mapped;
    /// `VIDIOC_QBUF`, of a mapped buffer.
    queue(Buffer) = opcode::read_write::<Buffer>(b'V', 15), Buffer::mapped;
    /// `VIDIOC_DQBUF`, of either memory: it takes no address, it tells one.
    dequeue(Buffer) = opcode::read_write::<Buffer>(b'V', 17), |argument| argument.kind = CAPTURE;
    /// `VIDIOC_S_PARM`, of capture.
    set_parameters(StreamParameters) = opcode::read_write::<StreamParameters>(b'V', 22),
        |argument| argument.kind = CAPTURE;
    /// `VIDIOC_ENUM_FRAMESIZES`.
    enumerate_size(FrameSize) = opcode::read_write::<FrameSize>(b'V', 74), |_| ();
    /// `VIDIOC_ENUM_FRAMEINTERVALS`.
    enumerate_interval(FrameInterval) = opcode::read_write::<FrameInterval>(b'V', 75), |_| ();
}

impl Buffer {
    /// Makes it speak of a mapped capture buffer.
    fn mapped(&mut self) {
        (self.kind, self.memory) = (CAPTURE, MMAP);
    }

    /// Where a mapped buffer that was queried is to be mapped.
    pub(super) fn offset(&self) -> u64 {
        // The union's first four bytes, which are the low ones on both architectures.
        self.place & 0xffff_ffff
    }
}

/// `VIDIOC_QBUF`, of memory of this process's.
pub(super) fn queue_user(device: &impl AsFd, index: u32, memory: &Mapping) -> io::Result<()> {
    const NUMBER: Opcode = opcode::read_write::<Buffer>(b'V', 15);
    let length = u32::try_from(memory.length).map_err(io::Error::other)?;
    let place = memory.start.as_ptr() as u64;
    let mut buffer =
        Buffer { index, kind: CAPTURE, memory: USERPTR, place, length, ..Default::default() };
    // SAFETY: the number is of an ioctl whose argument is this structure.
    let call = unsafe { Updater::<NUMBER, Buffer>::new(&mut buffer) };
    // SAFETY: the driver fills `length` bytes at `place` until it gives the buffer back, which is
    // a writable mapping of that length, or the kernel refuses it. The driver pins the pages, so
    // that they are nobody else's should the mapping go before that; and this process reads
    // them between a dequeue and the next queue only.
    unsafe { ioctl(device, call) }.map_err(io::Error::from)
}

/// `VIDIOC_STREAMON`, or `VIDIOC_STREAMOFF`, of capture.
pub(super) fn stream(device: &impl AsFd, on: bool) -> io::Result<()> {
    const ON: Opcode = opcode::write::<i32>(b'V', 18);
    const OFF: Opcode = opcode::write::<i32>(b'V', 19);
    // SAFETY: the argument of this ioctl is the address of an int.
    let on_call = unsafe { Setter::<ON, i32>::new(CAPTURE as i32) };
    // SAFETY: as above.
    let off_call = unsafe { Setter::<OFF, i32>::new(CAPTURE as i32) };
    let done = if on {
        // SAFETY: it reads its argument only.
        unsafe { ioctl(device, on_call) }
    } else {
        // SAFETY: it reads its argument only.
        unsafe { ioctl(device, off_call) }
    };
    done.map_err(io::Error::from)
}

/// A buffer: the device's, mapped to be read, or pages of this process's.
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, and memory can be read from any thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` bytes at the offset that the device gave for a buffer.
    pub(super) fn new(device: &impl AsFd, offset: u64, length: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(ptr::null_mut(), length, protection, flags, device, offset) }?;
        Self::at(start, length)
    }

    /// New pages of this process's, for [`queue_user`].
    pub(super) fn pages(length: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as above.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, protection, MapFlags::PRIVATE) }?;
        Self::at(start, length)
    }

    fn at(start: *mut std::ffi::c_void, length: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Self { start, length })
    }

    /// Its bytes. The device writes them while the buffer is queued, so they are only looked at
    /// between a dequeue and the next queue.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is a mapping of `length` readable bytes that lives as long as `self`,
        // and the caller looks while the device does not write.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` or `pages` made, and nothing borrows it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!(size_of::<Capability>(), 104);
        assert_eq!(size_of::<FormatDescription>(), 64);
        assert_eq!(size_of::<FrameSize>(), 44);
        assert_eq!(size_of::<FrameInterval>(), 52);
        assert_eq!(size_of::<Format>(), 208);
        assert_eq!(size_of::<StreamParameters>(), 204);
        assert_eq!(size_of::<RequestBuffers>(), 20);
        assert_eq!(size_of::<Buffer>(), 88);
        assert_eq!(offset_of!(Capability, device_caps), 88);
        assert_eq!(offset_of!(FormatDescription, pixelformat), 44);
        assert_eq!(offset_of!(FrameSize, size), 12);
        assert_eq!(offset_of!(FrameInterval, interval), 20);
        assert_eq!(offset_of!(Format, width), 8);
        assert_eq!(offset_of!(Format, sizeimage), 28);
        assert_eq!(offset_of!(StreamParameters, interval), 12);
        assert_eq!(offset_of!(Buffer, seconds), 24);
        assert_eq!(offset_of!(Buffer, sequence), 56);
        assert_eq!(offset_of!(Buffer, place), 64);
        assert_eq!(offset_of!(Buffer, length), 72);
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(opcode::read::<Capability>(b'V', 0), 0x8068_5600);
        assert_eq!(opcode::read_write::<FormatDescription>(b'V', 2), 0xc040_5602);
        assert_eq!(opcode::read_write::<Format>(b'V', 5), 0xc0d0_5605);
        assert_eq!(opcode::read_write::<RequestBuffers>(b'V', 8), 0xc014_5608);
        assert_eq!(opcode::read_write::<Buffer>(b'V', 9), 0xc058_5609);
        assert_eq!(opcode::read_write::<Buffer>(b'V', 15), 0xc058_560f);
        assert_eq!(opcode::read_write::<Buffer>(b'V', 17), 0xc058_5611);
        assert_eq!(opcode::read_write::<StreamParameters>(b'V', 22), 0xc0cc_5616);
        assert_eq!(opcode::read_write::<FrameSize>(b'V', 74), 0xc02c_564a);
        assert_eq!(opcode::read_write::<FrameInterval>(b'V', 75), 0xc034_564b);
        assert_eq!(opcode::write::<i32>(b'V', 18), 0x4004_5612);
    }

    #[test]
    fn what_is_no_camera_fails() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = query_capability(&file, &mut Capability::default()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(25), "ENOTTY");
        assert!(stream(&file, true).is_err());
        assert!(dequeue(&file, &mut Buffer::default()).is_err());
        assert!(Mapping::new(&file, 0, 0).is_err());
        let pages = Mapping::pages(5000).unwrap();
        assert!(pages.bytes().iter().all(|&byte| byte == 0));
        assert!(queue_user(&file, 0, &pages).is_err());
        assert!(Mapping::pages(0).is_err());
    }
}
