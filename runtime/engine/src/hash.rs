//! blake3 of large ranges on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};

use crate::format::Hash;
use crate::map::Map;

/// Bytes a thread hashes at a time: a power of two, so that a piece is a subtree of blake3's
/// tree, and small enough that the pages in flight stay few.
const PIECE: usize = 1 << 20;

/// Below this, starting threads costs more than it saves.
const WORTH_THREADS: usize = 4 * PIECE;

/// How a range is read while it is hashed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Threads at most.
    pub(crate) threads: usize,
    /// Pages stay in memory after they are read.
    pub(crate) keep: bool,
}

/// The blake3 hash of a range of a map, the same as of one thread.
pub(crate) fn hash(map: &Map, range: Range<usize>, reading: Reading) -> Hash {
    let bytes = &map.bytes()[range.clone()];
    if bytes.len() <= PIECE {
        return *blake3::hash(bytes).as_bytes();
    }
    let pieces = bytes.len().div_ceil(PIECE);
    let threads = if bytes.len() < WORTH_THREADS { 1 } else { reading.threads.clamp(1, pieces) };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done: Vec<(usize, ChainingValue)> = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= pieces {
                return done;
            }
            let at = |i: usize| range.start + (i * PIECE).min(bytes.len());
            // Readahead across threads: the system sees interleaved, not sequential, reads.
            let ahead = i + 2 * threads;
            if ahead < pieces {
                map.will_need(at(ahead)..at(ahead + 1));
            }
            let piece = at(i)..at(i + 1);
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset((i * PIECE) as u64);
            hasher.update(&map.bytes()[piece.clone()]);
            done.push((i, hasher.finalize_non_root()));
            if !reading.keep {
                map.release(piece);
            }
        }
    };
    let mut values = vec![ChainingValue::default(); pieces];
    std::thread::scope(|scope| {
        // A machine that gives no more threads still gets its answer, from this one.
        let others: Vec<_> = (1..threads)
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        for (i, value) in work() {
            values[i] = value;
        }
        for other in others {
            for (i, value) in other.join().expect("hashing does not panic") {
                values[i] = value;
            }
        }
    });
    let left = hazmat::left_subtree_len(bytes.len() as u64) as usize;
    let (l, r) = values.split_at(left / PIECE);
    let root =
        hazmat::merge_subtrees_root(&merge(l, left), &merge(r, bytes.len() - left), Mode::Hash);
    *root.as_bytes()
}

/// The chaining value of a subtree of `len` bytes from its pieces'.
fn merge(pieces: &[ChainingValue], len: usize) -> ChainingValue {
    if let [value] = pieces {
        return *value;
    }
    let left = hazmat::left_subtree_len(len as u64) as usize;
    let (l, r) = pieces.split_at(left / PIECE);
    hazmat::merge_subtrees_non_root(&merge(l, left), &merge(r, len - left), Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_hash_as_one() {
        let sizes = [1, PIECE, PIECE + 1, 3 * PIECE + 17, 4 * PIECE, 5 * PIECE + 1];
        let bytes: Vec<u8> =
            (0..6u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for size in sizes {
            let (start, end) = (64, 64 + size);
            let map = Map::of_bytes(&bytes[..end]).unwrap();
            let want = *blake3::hash(&bytes[start..end]).as_bytes();
            for (threads, keep) in [(1, true), (2, false), (5, true)] {
                let got = hash(&map, start..end, Reading { threads, keep });
                assert_eq!(got, want, "{size} bytes, {threads} threads");
            }
        }
    }
}
