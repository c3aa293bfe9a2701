//! Marker segments: finding them, and what the frame and scan headers say.

use super::{JpegError, JpegErrorKind as Kind, error};
use crate::format::{MAX_SIDE, PixelFormat};

pub(super) const SOI: u8 = 0xd8;
pub(super) const EOI: u8 = 0xd9;
pub(super) const SOS: u8 = 0xda;
pub(super) const DHT: u8 = 0xc4;
pub(super) const DQT: u8 = 0xdb;
pub(super) const DRI: u8 = 0xdd;
pub(super) const APP14: u8 = 0xee;

/// One marker with its payload.
pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    /// Where its payload starts.
    pub(super) offset: usize,
    pub(super) payload: &'a [u8],
}

/// Goes from marker to marker.
pub(super) struct Segments<'a> {
    pub(super) data: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Segments<'a> {
    /// Starts behind the SOI marker.
    pub(super) fn new(data: &'a [u8]) -> Result<Self, JpegError> {
        match data {
            [0xff, SOI, ..] => Ok(Self { data, at: 2 }),
            _ => error(Kind::NotJpeg, 0),
        }
    }

    /// The next segment. Bytes before a marker that belong to none are passed over, as every
    /// decoder does.
    pub(super) fn next(&mut self) -> Result<Segment<'a>, JpegError> {
        loop {
            let rest = self.data.get(self.at..).unwrap_or_default();
            let Some(skip) = rest.iter().position(|&byte| byte == 0xff) else {
                return error(Kind::Truncated, self.data.len());
            };
            self.at += skip + 1;
            let Some(&marker) = self.data.get(self.at) else {
                return error(Kind::Truncated, self.data.len());
            };
            match marker {
                0xff => continue,
                0 | 0x01 | 0xd0..=SOI => self.at += 1,
                EOI => return Ok(Segment { marker, offset: self.at, payload: &[] }),
                _ => return self.payload(marker),
            }
        }
    }

    fn payload(&mut self, marker: u8) -> Result<Segment<'a>, JpegError> {
        let start = self.at + 1;
        let Some(&[high, low]) = self.data.get(start..start + 2) else {
            return error(Kind::Truncated, self.data.len());
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return error(Kind::Segment("segment shorter than its own length"), start);
        }
        let Some(payload) = self.data.get(start + 2..start + length) else {
            return error(Kind::Truncated, self.data.len());
        };
        self.at = start + length;
        Ok(Segment { marker, offset: start + 2, payload })
    }
}

/// One component of a frame and where its samples go.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Its blocks in an MCU, across and down.
    pub(super) h: usize,
    pub(super) v: usize,
    /// The number of its quantisation table.
    pub(super) quant: usize,
    /// Its samples, without padding.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Where its plane starts, and the length of a row in it.
    pub(super) start: usize,
    pub(super) stride: usize,
}

/// A baseline frame header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: [Component; 3],
    pub(super) count: usize,
    /// The most blocks across and down that a component has in an MCU.
    pub(super) h: usize,
    pub(super) v: usize,
    /// MCUs across and down.
    pub(super) mcus_x: usize,
    pub(super) mcus_y: usize,
    /// The bytes of all planes.
    pub(super) plane_bytes: usize,
}

/// Whether a marker starts a frame, of whatever sort.
pub(super) fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, DHT | 0xc8 | 0xcc)
}

impl Frame {
    /// Reads a start-of-frame segment.
    pub(super) fn parse(segment: &Segment<'_>) -> Result<Self, JpegError> {
        let at = segment.offset;
        match segment.marker {
            0xc0 | 0xc1 => {}
            0xc2 => return error(Kind::Unsupported("progressive"), at),
            0xc3 | 0xc7 | 0xcb | 0xcf => return error(Kind::Unsupported("lossless"), at),
            0xc9 | 0xca => return error(Kind::Unsupported("arithmetic-coded"), at),
            _ => return error(Kind::Unsupported("hierarchical"), at),
        }
        let &[precision, h1, h0, w1, w0, count, ref parts @ ..] = segment.payload else {
            return error(Kind::Segment("frame header too short"), at);
        };
        let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
        let count = usize::from(count);
        match (precision, count) {
            (8, 1 | 3) => {}
            (8, 4) => return error(Kind::Unsupported("four-colour"), at),
            (8, _) => return error(Kind::Segment("neither 1 nor 3 components"), at),
            _ => return error(Kind::Unsupported("12-bit"), at),
        }
        if height == 0 {
            return error(Kind::Unsupported("height-after-data (DNL)"), at);
        }
        if width == 0 {
            return error(Kind::Segment("width 0"), at);
        }
        if parts.len() != count * 3 {
            return error(Kind::Segment("frame header of the wrong length"), at);
        }
        let (width, height) = (u32::from(width), u32::from(height));
        if width > MAX_SIDE || PixelFormat::Rgb8.frame_bytes(width, height).is_none() {
            return error(Kind::TooLarge, at);
        }
        let mut components = [Component::default(); 3];
        for (component, part) in components.iter_mut().zip(parts.chunks_exact(3)) {
            component.id = part[0];
            component.h = usize::from(part[1] >> 4);
            component.v = usize::from(part[1] & 15);
            component.quant = usize::from(part[2]);
            if !(1..=4).contains(&component.h) || !(1..=4).contains(&component.v) {
                return error(Kind::Segment("sampling factor not 1 to 4"), at);
            }
            if component.quant > 3 {
                return error(Kind::Segment("quantisation table number over 3"), at);
            }
        }
        Self::lay_out(width as usize, height as usize, components, count)
            .map_or_else(|| error(Kind::Unsupported("fractionally sampled"), at), Ok)
    }

    /// Computes where everything goes; `None` when a component's size does not divide evenly
    /// into the largest's.
    fn lay_out(
        width: usize,
        height: usize,
        mut components: [Component; 3],
        count: usize,
    ) -> Option<Self> {
        let used = &mut components[..count];
        let h = used.iter().map(|component| component.h).max()?;
        let v = used.iter().map(|component| component.v).max()?;
        let (mcus_x, mcus_y) = (width.div_ceil(8 * h), height.div_ceil(8 * v));
        let mut plane_bytes = 0;
        for component in used {
            if h % component.h != 0 || v % component.v != 0 {
                return None;
            }
            component.width = width.div_ceil(h / component.h);
            component.height = height.div_ceil(v / component.v);
            component.start = plane_bytes;
            component.stride = mcus_x * component.h * 8;
            plane_bytes += component.stride * mcus_y * component.v * 8;
        }
        Some(Self { width, height, components, count, h, v, mcus_x, mcus_y, plane_bytes })
    }

    /// The blocks of all components.
    pub(super) fn blocks(&self) -> usize {
        let each = self.components[..self.count].iter().map(|component| component.h * component.v);
        each.sum::<usize>() * self.mcus_x * self.mcus_y
    }
}

/// One component's part in a scan.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ScanPart {
    /// Which component of the frame.
    pub(super) component: usize,
    /// The numbers of its tables.
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// Reads a start-of-scan segment: its parts and how many.
pub(super) fn parse_scan(
    segment: &Segment<'_>,
    frame: &Frame,
) -> Result<([ScanPart; 3], usize), JpegError> {
    let at = segment.offset;
    let bad = |what| error(Kind::Segment(what), at);
    let Some((&count, rest)) = segment.payload.split_first() else {
        return bad("empty scan header");
    };
    let count = usize::from(count);
    if !(1..=frame.count).contains(&count) || rest.len() != count * 2 + 3 {
        return bad("scan header of the wrong length");
    }
    let mut parts = [ScanPart::default(); 3];
    for (index, (part, pair)) in parts.iter_mut().zip(rest.chunks_exact(2)).take(count).enumerate()
    {
        let components = &frame.components[..frame.count];
        let Some(component) = components.iter().position(|component| component.id == pair[0])
        else {
            return bad("scan of an unknown component");
        };
        part.component = if components.iter().filter(|c| c.id == pair[0]).count() > 1 {
            index // Some cameras give every component the same id: take them in order.
        } else {
            component
        };
        (part.dc, part.ac) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
        if part.dc > 3 || part.ac > 3 {
            return bad("Huffman table number over 3");
        }
    }
    let twice = (1..count).any(|i| parts[..i].iter().any(|p| p.component == parts[i].component));
    if twice {
        return bad("scan with a component twice");
    }
    Ok((parts, count))
}
