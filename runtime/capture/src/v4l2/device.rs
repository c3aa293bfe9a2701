//! A camera as the rest of this module sees it, and the real one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::mode::{FourCc, Mode};
use super::sys;
use crate::uri::BufferMemory;

/// What a capture device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) card: String,
    pub(super) driver: String,
    pub(super) bus: String,
    /// The `V4L2_CAP_…` of this node.
    pub(super) capabilities: u32,
}

/// The format that the driver agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) fourcc: FourCc,
    pub(super) width: u32,
    pub(super) height: u32,
    /// The bytes from one row to the next; 0 when there are no rows.
    pub(super) stride: u32,
    pub(super) interlaced: bool,
}

/// A filled buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Filled {
    pub(super) index: usize,
    pub(super) bytes: usize,
    /// Marked by the driver as possibly damaged.
    pub(super) flawed: bool,
    pub(super) sequence: u32,
    /// The time of capture by the monotonic clock, when the driver uses that.
    pub(super) timestamp_ns: Option<u64>,
}

/// A camera, after it was opened. Errors are the system's own.
pub(super) trait Camera: Send {
    /// Sets the format; gives what it became.
    fn set_format(&mut self, mode: &Mode) -> io::Result<Agreed>;
    /// Sets the rate in frames a second; gives what it became, if that can be known.
    fn set_rate(&mut self, rate: f64) -> io::Result<Option<f64>>;
    /// Makes and queues up to `count` buffers and starts the stream; gives how many there are.
    fn start(&mut self, count: u32) -> Result<usize, (&'static str, io::Error)>;
    /// Waits until a buffer may be filled, or something is wrong.
    fn wait(&mut self, timeout: Duration) -> io::Result<bool>;
    /// Takes a filled buffer, if there is one.
    fn dequeue(&mut self) -> io::Result<Option<Filled>>;
    /// The bytes of a buffer that was taken.
    fn bytes(&self, index: usize) -> &[u8];
    /// Gives a buffer back.
    fn queue(&mut self, index: usize) -> io::Result<()>;
}

/// A device node.
pub(super) struct Device {
    file: File,
    memory: BufferMemory,
    /// By the agreed format.
    buffer_bytes: usize,
    buffers: Vec<sys::Mapping>,
    streaming: bool,
}

impl Device {
    /// Opens a node, to be streamed from into such buffers.
    pub(super) fn open(path: &Path, memory: BufferMemory) -> io::Result<Self> {
        // Never blocks, so that the wait can look at the stop flag.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(path)?;
        Ok(Self { file, memory, buffer_bytes: 0, buffers: Vec::new(), streaming: false })
    }

    /// `VIDIOC_QUERYCAP`.
    pub(super) fn identity(&self) -> io::Result<Identity> {
        let mut capability = sys::Capability::default();
        sys::query_capability(&self.file, &mut capability)?;
        let capabilities = match capability.capabilities & sys::CAP_DEVICE_CAPS {
            0 => capability.capabilities,
            _ => capability.device_caps,
        };
        Ok(Identity {
            card: text(&capability.card),
            driver: text(&capability.driver),
            bus: text(&capability.bus_info),
            capabilities,
        })
    }

    /// Every format, size and rate that it offers; `wanted` is the size to take from a range.
    pub(super) fn modes(&self, wanted: (u32, u32)) -> io::Result<Vec<Mode>> {
        let mut modes = Vec::new();
        // The limits are against drivers that never end a list.
        for index in 0..64 {
            let mut format = sys::FormatDescription { index, ..Default::default() };
            match sys::enumerate_format(&self.file, &mut format) {
                Ok(()) => self.sizes(FourCc(format.pixelformat), wanted, &mut modes),
                Err(error) if index == 0 && !is_end(&error) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(modes)
    }

    fn sizes(&self, fourcc: FourCc, wanted: (u32, u32), modes: &mut Vec<Mode>) {
        for index in 0..256 {
            let mut size = sys::FrameSize { index, pixel_format: fourcc.0, ..Default::default() };
            if sys::enumerate_size(&self.file, &mut size).is_err() {
                if index == 0 {
                    // A driver that lists no sizes takes or adjusts what it is asked for.
                    modes.push(Mode { fourcc, width: wanted.0, height: wanted.1, rates: vec![] });
                }
                return;
            }
            let [min_w, max_w, step_w, min_h, max_h, step_h] = size.size;
            let discrete = size.kind == sys::DISCRETE;
            let (width, height) = match discrete {
                true => (size.size[0], size.size[1]),
                false => {
                    (within(wanted.0, min_w, max_w, step_w), within(wanted.1, min_h, max_h, step_h))
                }
            };
            modes.push(Mode { fourcc, width, height, rates: self.rates(fourcc, width, height) });
            if !discrete {
                return;
            }
        }
    }

    /// The buffers' `V4L2_MEMORY_…`.
    fn memory_kind(&self) -> u32 {
        match self.memory {
            BufferMemory::Mapped => sys::MMAP,
            BufferMemory::User => sys::USERPTR,
        }
    }

    /// The rates of a format and size; of a range, its ends.
    fn rates(&self, fourcc: FourCc, width: u32, height: u32) -> Vec<f64> {
        let mut rates = Vec::new();
        for index in 0..64 {
            let mut interval = sys::FrameInterval {
                index,
                pixel_format: fourcc.0,
                width,
                height,
                ..Default::default()
            };
            if sys::enumerate_interval(&self.file, &mut interval).is_err() {
                break;
            }
            if interval.kind == sys::DISCRETE {
                rates.extend(rate(interval.interval[0]));
                continue;
            }
            rates.extend(interval.interval[..2].iter().filter_map(|&interval| rate(interval)));
            break;
        }
        rates.sort_by(|a, b| b.total_cmp(a));
        rates.dedup();
        rates
    }
}

/// Whether an enumeration is over, or not to be had.
fn is_end(error: &io::Error) -> bool {
    const EINVAL: i32 = 22;
    const ENOTTY: i32 = 25;
    matches!(error.raw_os_error(), Some(EINVAL | ENOTTY))
}

/// The text of a field that ends with a zero.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// The value next to `wanted` of min, min + step, …, max.
fn within(wanted: u32, min: u32, max: u32, step: u32) -> u32 {
    let wanted = wanted.clamp(min, max.max(min));
    let step = step.max(1);
    let down = min + (wanted - min) / step * step;
    if wanted - down > step / 2 && down + step <= max { down + step } else { down }
}

fn rate(interval: sys::Fraction) -> Option<f64> {
    let rate = f64::from(interval.denominator) / f64::from(interval.numerator);
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

impl Camera for Device {
    fn set_format(&mut self, mode: &Mode) -> io::Result<Agreed> {
        let mut format = sys::Format {
            width: mode.width,
            height: mode.height,
            pixelformat: mode.fourcc.0,
            field: sys::FIELD_NONE,
            ..Default::default()
        };
        sys::set_format(&self.file, &mut format)?;
        self.buffer_bytes = format.sizeimage as usize;
        Ok(Agreed {
            fourcc: FourCc(format.pixelformat),
            width: format.width,
            height: format.height,
            stride: format.bytesperline,
            interlaced: format.field > sys::FIELD_NONE,
        })
    }

    fn set_rate(&mut self, rate: f64) -> io::Result<Option<f64>> {
        let mut parameters = sys::StreamParameters {
            interval: sys::Fraction {
                numerator: 1000,
                denominator: (rate * 1000.0).round() as u32,
            },
            ..Default::default()
        };
        sys::set_parameters(&self.file, &mut parameters)?;
        let can = parameters.capability & sys::CAP_TIMEPERFRAME != 0;
        Ok(self::rate(parameters.interval).filter(|_| can))
    }

    fn start(&mut self, count: u32) -> Result<usize, (&'static str, io::Error)> {
        let memory = self.memory_kind();
        let mut request = sys::RequestBuffers { count, memory, ..Default::default() };
        sys::request_buffers(&self.file, &mut request)
            .map_err(|error| ("VIDIOC_REQBUFS", error))?;
        for index in 0..request.count.min(32) {
            let mapping = match self.memory {
                BufferMemory::User => sys::Mapping::pages(self.buffer_bytes),
                BufferMemory::Mapped => {
                    let mut buffer = sys::Buffer { index, ..Default::default() };
                    sys::query_buffer(&self.file, &mut buffer)
                        .map_err(|error| ("VIDIOC_QUERYBUF", error))?;
                    sys::Mapping::new(&self.file, buffer.offset(), buffer.length as usize)
                }
            };
            self.buffers.push(mapping.map_err(|error| ("mmap", error))?);
            self.queue(index as usize).map_err(|error| ("VIDIOC_QBUF", error))?;
        }
        sys::stream(&self.file, true).map_err(|error| ("VIDIOC_STREAMON", error))?;
        self.streaming = true;
        Ok(self.buffers.len())
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // POLLERR and POLLHUP come as ready; the dequeue then says what it is.
        match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn dequeue(&mut self) -> io::Result<Option<Filled>> {
        let mut buffer = sys::Buffer { memory: self.memory_kind(), ..Default::default() };
        match sys::dequeue(&self.file, &mut buffer) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let monotonic = buffer.flags & sys::FLAG_TIMESTAMP_MASK == sys::FLAG_TIMESTAMP_MONOTONIC;
        let time = u64::try_from(buffer.seconds).ok().and_then(|s| s.checked_mul(1_000_000_000));
        let time = time.and_then(|ns| ns.checked_add(buffer.microseconds as u64 * 1000));
        Ok(Some(Filled {
            index: buffer.index as usize,
            bytes: buffer.bytesused as usize,
            flawed: buffer.flags & sys::FLAG_ERROR != 0,
            sequence: buffer.sequence,
            timestamp_ns: time.filter(|_| monotonic),
        }))
    }

    fn bytes(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], sys::Mapping::bytes)
    }

    fn queue(&mut self, index: usize) -> io::Result<()> {
        if self.memory == BufferMemory::User
            && let Some(pages) = self.buffers.get(index)
        {
            return sys::queue_user(&self.file, index as u32, pages);
        }
        let mut buffer = sys::Buffer { index: index as u32, ..Default::default() };
        sys::queue(&self.file, &mut buffer)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.streaming {
            // Closing the file would do the same, but after the mappings are gone.
            let _ = sys::stream(&self.file, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_a_range() {
        assert_eq!(within(640, 48, 1920, 2), 640);
        assert_eq!(within(641, 48, 1920, 16), 640);
        assert_eq!(within(655, 48, 1920, 16), 656);
        assert_eq!(within(9999, 48, 1920, 16), 1920);
        assert_eq!(within(1, 48, 1920, 0), 48);
        assert_eq!(within(5, 9, 3, 1), 9);
    }

    #[test]
    fn texts_and_rates() {
        assert_eq!(text(b"vivid\0junk"), "vivid");
        assert_eq!(text(b"full"), "full");
        assert_eq!(
            rate(sys::Fraction { numerator: 1001, denominator: 30000 }).unwrap(),
            30000.0 / 1001.0
        );
        assert_eq!(rate(sys::Fraction::default()), None);
    }

    #[test]
    fn a_file_is_no_camera() {
        let device = Device::open(Path::new("/dev/null"), BufferMemory::Mapped).unwrap();
        assert!(device.identity().is_err());
        assert!(device.modes((640, 480)).unwrap().is_empty());
    }
}
