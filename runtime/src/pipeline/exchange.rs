//! Hand-over of preallocated buffers from one thread to another.
//!
//! A buffer is always in exactly one place: in the hands of the giving thread, in the queue,
//! in the hands of the taking thread, or among the spare ones. All four moves happen under
//! one mutex, so no interleaving can lose or double one. No wake-up is lost either: each
//! wait re-checks its condition under the mutex, and whatever can make a condition true
//! (a buffer queued, taken or returned, the exchange closed) notifies after changing the
//! state. Both containers have room for every buffer from the start, so nothing allocates.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub(crate) struct Exchange<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    queue: VecDeque<T>,
    depth: usize,
    spare: Vec<T>,
    closed: bool,
}

/// What waiting for a buffer gave.
#[derive(Debug, PartialEq)]
pub(crate) enum Taken<T> {
    Buffer(T),
    /// Nothing came in time.
    Timeout,
    /// Nothing will come any more.
    Closed,
}

impl<T> Exchange<T> {
    /// An exchange whose queue holds at most `depth` buffers; `spare` can be acquired.
    pub fn new(depth: usize, spare: Vec<T>) -> Self {
        // One more than the spare ones circulates where the giver brings its own.
        let room = spare.len() + 1;
        let mut all = Vec::with_capacity(room);
        all.extend(spare);
        let state =
            State { queue: VecDeque::with_capacity(room), depth, spare: all, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while the mutex is held, and the state is whole at every moment.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Queues `buffer`; when the queue is full, its oldest buffer gives way. Returns the
    /// buffer to fill next and whether it is one that gave way; `None` once closed.
    pub fn put_newest(&self, buffer: T) -> Option<(T, bool)> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let replaced =
            if state.queue.len() >= state.depth { state.queue.pop_front() } else { None };
        state.queue.push_back(buffer);
        let next = match replaced {
            Some(old) => Some((old, true)),
            None => state.spare.pop().map(|spare| (spare, false)),
        };
        drop(state);
        self.changed.notify_all();
        next
    }

    /// Queues `buffer` as soon as the queue has room. Returns the buffer to fill next;
    /// `None` once closed.
    pub fn put_waiting(&self, buffer: T) -> Option<T> {
        let mut state = self.lock();
        while !state.closed && (state.queue.len() >= state.depth || state.spare.is_empty()) {
            state = self.wait(state);
        }
        if state.closed {
            return None;
        }
        state.queue.push_back(buffer);
        let next = state.spare.pop();
        drop(state);
        self.changed.notify_all();
        next
    }

    /// Waits until the queue has room; false once closed.
    pub fn wait_for_room(&self) -> bool {
        let mut state = self.lock();
        while !state.closed && state.queue.len() >= state.depth {
            state = self.wait(state);
        }
        !state.closed
    }

    /// Takes a spare buffer, waiting for one to be returned; `None` once closed.
    pub fn acquire(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            match state.spare.pop() {
                Some(buffer) => return Some(buffer),
                None => state = self.wait(state),
            }
        }
    }

    /// Queues an acquired buffer; with as many buffers as the queue is deep there is room.
    pub fn put(&self, buffer: T) {
        let mut state = self.lock();
        state.queue.push_back(buffer);
        drop(state);
        self.changed.notify_all();
    }

    /// Takes the oldest queued buffer, waiting up to `patience` for one. What was queued
    /// before the exchange was closed still comes.
    pub fn take(&self, patience: Duration) -> Taken<T> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(buffer) = state.queue.pop_front() {
                drop(state);
                self.changed.notify_all();
                return Taken::Buffer(buffer);
            }
            if state.closed {
                return Taken::Closed;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Taken::Timeout;
            }
            state = match self.changed.wait_timeout(state, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Returns a taken buffer to the spare ones.
    pub fn give_back(&self, buffer: T) {
        self.lock().spare.push(buffer);
        self.changed.notify_all();
    }

    /// Nothing more is put; every waiting thread is woken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_newest_wins_and_drops_are_told() {
        let x = Exchange::new(1, vec![100, 101]);
        assert_eq!(x.put_newest(1), Some((101, false)));
        assert_eq!(x.put_newest(2), Some((1, true)));
        assert_eq!(x.take(LONG), Taken::Buffer(2));
        assert_eq!(x.take(Duration::ZERO), Taken::Timeout);
        assert_eq!(x.put_newest(3), Some((100, false)), "the taker holds one, this is the last");
        assert_eq!(x.put_newest(4), Some((3, true)));
        x.give_back(2);
        x.close();
        assert_eq!(x.take(LONG), Taken::Buffer(4));
        assert_eq!(x.take(LONG), Taken::Closed);
        assert_eq!(x.put_newest(5), None);
        assert_eq!(x.acquire(), None);
    }

    #[test]
    fn waiting_givers_lose_nothing() {
        let x = Exchange::new(1, vec![0u64, 0]);
        let taken = thread::scope(|s| {
            s.spawn(|| {
                let mut buffer = 0;
                for n in 1..=20_000u64 {
                    buffer = n;
                    buffer = x.put_waiting(buffer).unwrap();
                }
                let _ = buffer;
                x.close();
            });
            let mut taken = Vec::new();
            while let Taken::Buffer(n) = x.take(LONG) {
                taken.push(n);
                x.give_back(n);
            }
            taken
        });
        assert!(taken.iter().copied().eq(1..=20_000));
    }

    #[test]
    fn live_givers_never_wait_and_every_frame_is_accounted_for() {
        let x = Exchange::new(1, vec![0u64, 0]);
        let (dropped, taken) = thread::scope(|s| {
            let giver = s.spawn(|| {
                let mut dropped = 0;
                for n in 1..=200_000u64 {
                    let (_, was_drop) = x.put_newest(n).unwrap();
                    dropped += u64::from(was_drop);
                }
                x.close();
                dropped
            });
            let (mut taken, mut last) = (0, 0);
            while let Taken::Buffer(n) = x.take(LONG) {
                assert!(n > last, "in order");
                last = n;
                taken += 1;
                x.give_back(n);
            }
            assert_eq!(last, 200_000, "the newest frame arrives");
            (giver.join().unwrap(), taken)
        });
        assert_eq!(dropped + taken, 200_000);
    }

    #[test]
    fn closing_wakes_everyone() {
        let full = Exchange::new(1, vec![0, 0]);
        full.put_waiting(1);
        assert!(Exchange::<u8>::new(1, vec![0]).wait_for_room());
        let empty = Exchange::<u8>::new(1, vec![]);
        thread::scope(|s| {
            let a = s.spawn(|| full.put_waiting(2));
            let b = s.spawn(|| empty.acquire());
            let c = s.spawn(|| empty.take(LONG));
            let d = s.spawn(|| full.wait_for_room());
            thread::sleep(Duration::from_millis(30));
            full.close();
            empty.close();
            assert_eq!(a.join().unwrap(), None);
            assert_eq!(b.join().unwrap(), None);
            assert_eq!(c.join().unwrap(), Taken::Closed);
            assert!(!d.join().unwrap());
        });
    }
}
