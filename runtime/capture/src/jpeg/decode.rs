//! The baseline decoder.

use super::color::{Colors, Rows};
use super::header::{APP14, DHT, DQT, DRI, EOI, Frame, SOS, ScanPart, Segment, Segments};
use super::header::{is_frame, parse_scan};
use super::huffman::{Bits, Table};
use super::idct::idct;
use super::tables::{AC_CHROMA, AC_LUMA, DC_CHROMA, DC_LUMA, ZIGZAG};
use super::{JpegError, JpegErrorKind as Kind, error};

/// The width and height that a JPEG's header tells, of any sort that has a frame header.
pub fn dimensions(jpeg: &[u8]) -> Result<(u32, u32), JpegError> {
    let mut segments = Segments::new(jpeg)?;
    loop {
        let segment = segments.next()?;
        match segment.marker {
            EOI | SOS => return error(Kind::Segment("no frame header"), segment.offset),
            marker if is_frame(marker) => {
                let &[_, h1, h0, w1, w0, ..] = segment.payload else {
                    return error(Kind::Segment("frame header too short"), segment.offset);
                };
                let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
                return Ok((u32::from(width), u32::from(height)));
            }
            _ => {}
        }
    }
}

/// A decoder of baseline JPEGs (SOF0 and SOF1, 8 bits, Huffman-coded; grey or three colours, any
/// whole sampling ratio, one or more scans, restart markers) into packed RGB rows.
///
/// Missing Huffman tables are the standard's, as Motion-JPEG has it. A picture whose coded data
/// ends early is an error however much of it is there: a detector must not be shown the grey
/// rest. Only the end marker may be missing.
///
/// After the first picture of a size, [`decode`](Self::decode) allocates nothing.
pub struct Decoder {
    quant: [[i16; 64]; 4],
    quant_set: [bool; 4],
    dc: [Table; 4],
    ac: [Table; 4],
    /// Which of `dc` and `ac` a scan may use.
    dc_set: [bool; 4],
    ac_set: [bool; 4],
    /// Whether `dc` and `ac` hold the standard's tables.
    standard: bool,
    restart_interval: usize,
    colors: Option<Colors>,
    planes: Vec<u8>,
    rows: Rows,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder with no buffers yet.
    pub fn new() -> Self {
        let (dc_luma, dc_chroma) = (Table::standard(&DC_LUMA), Table::standard(&DC_CHROMA));
        let (ac_luma, ac_chroma) = (Table::standard(&AC_LUMA), Table::standard(&AC_CHROMA));
        Self {
            quant: [[0; 64]; 4],
            quant_set: [false; 4],
            dc: [dc_luma.clone(), dc_chroma.clone(), dc_luma, dc_chroma],
            ac: [ac_luma.clone(), ac_chroma.clone(), ac_luma, ac_chroma],
            dc_set: [true, true, false, false],
            ac_set: [true, true, false, false],
            standard: true,
            restart_interval: 0,
            colors: None,
            planes: Vec::new(),
            rows: Rows::default(),
        }
    }

    /// Decodes one picture into the start of `rgb` (3 bytes a pixel, rows packed) and gives its
    /// width and height.
    pub fn decode(&mut self, jpeg: &[u8], rgb: &mut [u8]) -> Result<(u32, u32), JpegError> {
        let mut segments = Segments::new(jpeg)?;
        self.start();
        let mut found: Option<Frame> = None;
        let mut decoded = [false; 3];
        loop {
            let segment = segments.next()?;
            match segment.marker {
                DQT => self.read_quant(&segment)?,
                DHT => self.read_huffman(&segment)?,
                DRI => match *segment.payload {
                    [high, low] => {
                        self.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                    }
                    _ => return error(Kind::Segment("restart interval"), segment.offset),
                },
                APP14 => self.read_adobe(&segment),
                SOS => {
                    let Some(frame) = &found else {
                        return error(Kind::Segment("scan before frame"), segment.offset);
                    };
                    let (parts, count) = parse_scan(&segment, frame)?;
                    segments.at = self.scan(jpeg, segments.at, frame, &parts[..count])?;
                    parts[..count].iter().for_each(|part| decoded[part.component] = true);
                    if decoded[..frame.count].iter().all(|&done| done) {
                        break;
                    }
                }
                EOI => return error(Kind::Truncated, segment.offset),
                marker if is_frame(marker) => {
                    if found.is_some() {
                        return error(Kind::Segment("second frame header"), segment.offset);
                    }
                    let frame = Frame::parse(&segment)?;
                    if rgb.len() < frame.width * frame.height * 3 {
                        return error(Kind::SmallBuffer, segment.offset);
                    }
                    // A block takes two bits at the least: no buffers for what cannot be there.
                    if frame.blocks() / 4 > jpeg.len() {
                        return error(Kind::Truncated, jpeg.len());
                    }
                    self.planes.resize(frame.plane_bytes, 0);
                    self.rows.reserve(frame.mcus_x * frame.h * 8);
                    found = Some(frame);
                }
                _ => {}
            }
        }
        let frame = found.expect("a scan was decoded, so there is a frame");
        let colors = self.colors.unwrap_or_else(|| match frame.components.map(|part| part.id) {
            [b'R', b'G', b'B'] => Colors::Rgb,
            _ => Colors::YCbCr,
        });
        let rgb = &mut rgb[..frame.width * frame.height * 3];
        self.rows.convert(&frame, &self.planes, colors, rgb);
        Ok((frame.width as u32, frame.height as u32))
    }

    /// Forgets the last picture's tables.
    fn start(&mut self) {
        if !self.standard {
            for (table, spec) in self.dc.iter_mut().zip([DC_LUMA, DC_CHROMA]) {
                table.rebuild(&spec.counts, spec.symbols);
            }
            for (table, spec) in self.ac.iter_mut().zip([AC_LUMA, AC_CHROMA]) {
                table.rebuild(&spec.counts, spec.symbols);
            }
            self.standard = true;
        }
        self.quant_set = [false; 4];
        self.dc_set = [true, true, false, false];
        self.ac_set = [true, true, false, false];
        self.restart_interval = 0;
        self.colors = None;
    }

    fn read_quant(&mut self, segment: &Segment<'_>) -> Result<(), JpegError> {
        let mut rest = segment.payload;
        while let Some((&head, tail)) = rest.split_first() {
            let (wide, number) = (head >> 4 != 0, usize::from(head & 15));
            let size = if wide { 128 } else { 64 };
            let (Some(steps), true) = (tail.get(..size), number < 4) else {
                return error(Kind::Segment("quantisation table"), segment.offset);
            };
            for (k, &at) in ZIGZAG.iter().enumerate() {
                let step = if wide {
                    u16::from_be_bytes([steps[k * 2], steps[k * 2 + 1]])
                } else {
                    u16::from(steps[k])
                };
                // Steps over 32767 make no sense with 8-bit samples.
                self.quant[number][usize::from(at)] = step.min(i16::MAX as u16) as i16;
            }
            self.quant_set[number] = true;
            rest = &tail[size..];
        }
        Ok(())
    }

    fn read_huffman(&mut self, segment: &Segment<'_>) -> Result<(), JpegError> {
        let mut rest = segment.payload;
        while let Some((&head, tail)) = rest.split_first() {
            let (class, number) = (head >> 4, usize::from(head & 15));
            let bad = error(Kind::Segment("Huffman table"), segment.offset);
            let Some((counts, tail)) = tail.split_first_chunk::<16>() else { return bad };
            let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let Some(symbols) = tail.get(..total) else { return bad };
            if number > 3 || class > 1 {
                return bad;
            }
            self.standard = false;
            let (tables, set) = match class {
                0 => (&mut self.dc, &mut self.dc_set),
                _ => (&mut self.ac, &mut self.ac_set),
            };
            if !tables[number].rebuild(counts, symbols) {
                return bad;
            }
            set[number] = true;
            rest = &tail[total..];
        }
        Ok(())
    }

    /// Adobe's segment says whether three components are RGB (0) or YCbCr (1).
    fn read_adobe(&mut self, segment: &Segment<'_>) {
        if segment.payload.starts_with(b"Adobe") {
            self.colors = match segment.payload.get(11) {
                Some(0) => Some(Colors::Rgb),
                Some(1) => Some(Colors::YCbCr),
                _ => self.colors,
            };
        }
    }

    /// Decodes the scan whose data starts at `at`; gives where it ends.
    fn scan(
        &mut self,
        jpeg: &[u8],
        at: usize,
        frame: &Frame,
        parts: &[ScanPart],
    ) -> Result<usize, JpegError> {
        for part in parts {
            if !self.quant_set[frame.components[part.component].quant] {
                return error(Kind::Segment("missing quantisation table"), at);
            }
            if !self.dc_set[part.dc] || !self.ac_set[part.ac] {
                return error(Kind::Segment("missing Huffman table"), at);
            }
        }
        // A scan of one component has its own blocks as MCUs, only those with picture in them.
        let alone = parts.len() == 1;
        let (across, down) = if alone {
            let component = &frame.components[parts[0].component];
            (component.width.div_ceil(8), component.height.div_ceil(8))
        } else {
            (frame.mcus_x, frame.mcus_y)
        };
        let mut bits = Bits::new(jpeg, at);
        let mut predictions = [0i32; 3];
        let mut block = [0i16; 64];
        let (mut left, mut number) = (self.restart_interval, 0u8);
        for mcu_y in 0..down {
            for mcu_x in 0..across {
                if self.restart_interval > 0 {
                    if left == 0 {
                        if !bits.restart(number) {
                            return error(Kind::Scan("no restart marker"), bits.offset());
                        }
                        number = (number + 1) & 7;
                        left = self.restart_interval;
                        predictions = [0; 3];
                    }
                    left -= 1;
                }
                for (part, prediction) in parts.iter().zip(&mut predictions) {
                    let component = &frame.components[part.component];
                    let (dc, ac) = (&self.dc[part.dc], &self.ac[part.ac]);
                    let quant = &self.quant[component.quant];
                    let (h, v) = if alone { (1, 1) } else { (component.h, component.v) };
                    for inner in 0..h * v {
                        let (x, y) = (mcu_x * h + inner % h, mcu_y * v + inner / h);
                        let Some(last) = bits.block(dc, ac, prediction, &mut block, &ZIGZAG) else {
                            let kind = match bits.exhausted() {
                                true => Kind::Truncated,
                                false => Kind::Scan("wrong code"),
                            };
                            return error(kind, bits.offset());
                        };
                        let start = component.start + y * 8 * component.stride + x * 8;
                        idct(&block, quant, last, &mut self.planes[start..], component.stride);
                        if last > 0 {
                            block = [0; 64];
                        }
                    }
                }
                if bits.exhausted() {
                    return error(Kind::Truncated, bits.offset());
                }
            }
        }
        Ok(bits.offset())
    }
}
