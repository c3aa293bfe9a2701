//! Huffman tables and the bit reader of the decoder.

use super::tables::Spec;

/// Codes of up to this many bits are found by one look into a table.
const LOOK: u32 = 9;
const LOOK_SIZE: usize = 1 << LOOK;

/// A Huffman table made ready for decoding.
#[derive(Clone)]
pub(super) struct Table {
    /// For the next 9 bits: `length << 8 | symbol`, or 0 when the code is longer.
    look: [u16; LOOK_SIZE],
    /// For the next 9 bits of an AC table, when code and value both fit in them:
    /// `value << 8 | run << 4 | bits used`, or 0.
    whole: [i16; LOOK_SIZE],
    /// For each length, one more than its last code, shifted left to 16 bits; 0 when it has none.
    limit: [u32; 17],
    /// For each length, what to add to a code of it to have its symbol's index.
    delta: [i32; 17],
    symbols: [u8; 256],
}

impl Table {
    /// A table of these code counts for lengths 1..=16 and these symbols; `None` when the counts
    /// make no prefix code or do not match the symbols.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            look: [0; LOOK_SIZE],
            whole: [0; LOOK_SIZE],
            limit: [0; 17],
            delta: [0; 17],
            symbols: [0; 256],
        };
        table.rebuild(counts, symbols).then_some(table)
    }

    /// A table of the standard.
    pub(super) fn standard(spec: &Spec) -> Self {
        Self::new(&spec.counts, spec.symbols).expect("the tables of annex K are prefix codes")
    }

    /// Makes this the table of `counts` and `symbols`; false when they are not right.
    pub(super) fn rebuild(&mut self, counts: &[u8; 16], symbols: &[u8]) -> bool {
        let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
        if total > 256 || symbols.len() != total {
            return false;
        }
        self.symbols = [0; 256];
        self.symbols[..total].copy_from_slice(symbols);
        self.look = [0; LOOK_SIZE];
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            self.delta[length as usize] = index as i32 - code as i32;
            self.limit[length as usize] = 0;
            if count > 0 {
                if code + count > 1 << length {
                    return false;
                }
                if length <= LOOK {
                    for offset in 0..count {
                        let first = ((code + offset) << (LOOK - length)) as usize;
                        let symbol = u16::from(symbols[index + offset as usize]);
                        self.look[first..first + (1 << (LOOK - length))]
                            .fill((length as u16) << 8 | symbol);
                    }
                }
                code += count;
                index += count as usize;
                self.limit[length as usize] = code << (16 - length);
            }
            code <<= 1;
        }
        self.join_values();
        true
    }

    /// Fills `whole` from `look`.
    fn join_values(&mut self) {
        for (next, (whole, &look)) in self.whole.iter_mut().zip(&self.look).enumerate() {
            *whole = 0;
            let (length, symbol) = (u32::from(look >> 8), u32::from(look & 0xff));
            let (run, size) = (symbol >> 4, symbol & 15);
            if length == 0 || size == 0 || length + size > LOOK {
                continue;
            }
            let bits = (next as u32 >> (LOOK - length - size)) & ((1 << size) - 1);
            let value = extend(bits, size);
            if (-128..=127).contains(&value) {
                *whole = (value * 256 + (run * 16 + length + size) as i32) as i16;
            }
        }
    }
}

/// The value of `size` raw bits (T.81, figure F.12). `size` is 1..=15.
#[inline(always)]
fn extend(bits: u32, size: u32) -> i32 {
    let half = 1 << (size - 1);
    let negative = (1 << size) - 1;
    bits as i32 - if bits < half { negative } else { 0 }
}

/// Reads entropy-coded data, bit by bit, without its stuffed zeros. After the data, or at a
/// marker, it gives zero bits and counts them.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, the first in the highest place.
    ahead: u64,
    /// How many of them count.
    have: u32,
    /// How many of them, at the end, are zeros that the data did not hold, used ones included.
    padding: u32,
}

impl<'a> Bits<'a> {
    /// Starts at byte `at`.
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at, ahead: 0, have: 0, padding: 0 }
    }

    /// Where the next byte would be read.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// Whether bits were used that the data did not hold.
    #[inline(always)]
    pub(super) fn exhausted(&self) -> bool {
        self.have < self.padding
    }

    /// Has at least 48 bits ready.
    #[inline(always)]
    fn refill(&mut self) {
        if self.have >= 48 {
            return;
        }
        if let Some(next) = self.data.get(self.at..self.at + 8) {
            let word = u64::from_be_bytes(next.try_into().expect("8 bytes"));
            let inverse = !word;
            let has_ff = inverse.wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
            if has_ff == 0 {
                self.ahead |= word >> self.have;
                let bytes = (63 - self.have) >> 3;
                self.at += bytes as usize;
                self.have += bytes * 8;
                return;
            }
        }
        self.refill_by_byte();
    }

    #[cold]
    #[inline(never)]
    fn refill_by_byte(&mut self) {
        // Bits behind `have` may already hold the next byte; or-ing it in again changes nothing,
        // but padding must start from zeros.
        self.ahead &= !(u64::MAX >> self.have);
        while self.have <= 56 {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff), _) | (None, _) => {
                    self.padding += 8;
                    0
                }
                (Some(&byte), _) => {
                    self.at += 1;
                    byte
                }
            };
            self.ahead |= u64::from(byte) << (56 - self.have);
            self.have += 8;
        }
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.ahead <<= bits;
        self.have -= bits;
    }

    /// The value of the next `size` bits, 1..=15, which must be ready.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i32 {
        let bits = (self.ahead >> (64 - size)) as u32;
        self.skip(size);
        extend(bits, size)
    }

    /// The next symbol, of bits which must be ready; `None` when there is no such code.
    #[inline(always)]
    fn symbol(&mut self, table: &Table) -> Option<u32> {
        let look = table.look[(self.ahead >> (64 - LOOK)) as usize];
        if look != 0 {
            self.skip(u32::from(look >> 8));
            return Some(u32::from(look & 0xff));
        }
        self.long_symbol(table)
    }

    #[cold]
    #[inline(never)]
    fn long_symbol(&mut self, table: &Table) -> Option<u32> {
        let next = (self.ahead >> 48) as u32;
        for length in LOOK + 1..=16 {
            if next < table.limit[length as usize] {
                let index = (next >> (16 - length)) as i32 + table.delta[length as usize];
                self.skip(length);
                return table.symbols.get(index as usize).map(|&symbol| u32::from(symbol));
            }
        }
        None
    }

    /// Reads one block into `block`, which holds zeros, by rows; `order` is the zigzag order.
    /// Gives the zigzag index of its last coefficient, or `None` when a code is wrong.
    #[inline(always)]
    pub(super) fn block(
        &mut self,
        dc: &Table,
        ac: &Table,
        prediction: &mut i32,
        block: &mut [i16; 64],
        order: &[u8; 64],
    ) -> Option<usize> {
        self.refill();
        let size = self.symbol(dc)?;
        if size > 0 {
            if size > 15 {
                return None;
            }
            *prediction = prediction.wrapping_add(self.value(size));
        }
        block[0] = *prediction as i16;
        let (mut k, mut last) = (1, 0);
        while k < 64 {
            self.refill();
            let whole = i32::from(ac.whole[(self.ahead >> (64 - LOOK)) as usize]);
            if whole != 0 {
                self.skip((whole & 15) as u32);
                k += ((whole >> 4) & 15) as usize;
                if k > 63 {
                    return None;
                }
                block[usize::from(order[k] & 63)] = (whole >> 8) as i16;
                last = k;
                k += 1;
                continue;
            }
            let symbol = self.symbol(ac)?;
            let (run, size) = ((symbol >> 4) as usize, symbol & 15);
            if size == 0 {
                if run != 15 {
                    break;
                }
                k += 16;
                continue;
            }
            k += run;
            if k > 63 {
                return None;
            }
            block[usize::from(order[k] & 63)] = self.value(size) as i16;
            last = k;
            k += 1;
        }
        Some(last)
    }

    /// Passes the restart marker `RSTn` of `number` and starts afresh behind it; false when
    /// something else is there.
    pub(super) fn restart(&mut self, number: u8) -> bool {
        // Whole bytes read ahead can only be there when the data went on where it should not.
        if self.have.saturating_sub(self.padding) >= 8 {
            return false;
        }
        while self.data.get(self.at) == Some(&0xff) && self.data.get(self.at + 1) == Some(&0xff) {
            self.at += 1;
        }
        if self.data.get(self.at..self.at + 2) != Some(&[0xff, 0xd0 | number]) {
            return false;
        }
        *self = Self::new(self.data, self.at + 2);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::{AC_LUMA, DC_LUMA, ZIGZAG};
    use super::*;

    #[test]
    fn counts_that_are_no_prefix_code_are_refused() {
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Table::new(&counts, &[1, 2, 3]).is_none());
        counts[0] = 2;
        assert!(Table::new(&counts, &[1, 2]).is_some());
        assert!(Table::new(&counts, &[1]).is_none());
        assert!(Table::new(&[255; 16], &[0; 256]).is_none());
    }

    #[test]
    fn values_extend_their_sign() {
        assert_eq!(extend(0, 1), -1);
        assert_eq!(extend(1, 1), 1);
        assert_eq!(extend(0, 3), -7);
        assert_eq!(extend(7, 3), 7);
        assert_eq!(extend(0b011, 3), -4);
    }

    #[test]
    fn a_block_by_hand() {
        // DC size 2 (code 011), bits 10 = 2; AC 0/1 (code 00), bit 0 = -1; EOB (1010); ones.
        let data = [0b0111_0000, 0b1010_1111, 0xff, 0x00, 0xff, 0xd9];
        let (dc, ac) = (Table::standard(&DC_LUMA), Table::standard(&AC_LUMA));
        let mut bits = Bits::new(&data, 0);
        let (mut block, mut prediction) = ([0; 64], 5);
        assert_eq!(bits.block(&dc, &ac, &mut prediction, &mut block, &ZIGZAG), Some(1));
        assert_eq!((block[0], block[1], prediction), (7, -1, 7));
        assert!(!bits.exhausted());
        assert!(bits.block(&dc, &ac, &mut prediction, &mut block, &ZIGZAG).is_none());
    }

    #[test]
    fn the_end_gives_zeros_and_says_so() {
        let mut bits = Bits::new(&[0xab, 0xff, 0xd9], 0);
        bits.refill();
        assert_eq!(bits.ahead >> 56, 0xab);
        bits.skip(8);
        assert!(!bits.exhausted());
        bits.skip(1);
        assert!(bits.exhausted());
        assert_eq!(bits.offset(), 1);
    }
}
