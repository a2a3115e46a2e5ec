//! Counters that can be read at any time, consistent, without stopping traffic.
//!
//! A worker counts in plain memory and publishes a port's counters once a turn behind a sequence lock, so a frame
//! costs an addition and a reader sees all numbers of one moment.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use vbackend_proto::drop_reason::DropReason;

/// One direction of a port. `frames_in = frames_out + dropped() + queued`, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Frames that entered.
    pub frames_in: u64,
    /// Frames that left.
    pub frames_out: u64,
    /// Bytes of those that left.
    pub bytes_out: u64,
    /// Frames that wait.
    pub queued: u64,
    /// Frames that were lost, by `DropReason as usize`.
    pub drops: [u64; DropReason::COUNT],
}

impl Lane {
    const WORDS: usize = 4 + DropReason::COUNT;

    const ZERO: Lane =
        Lane { frames_in: 0, frames_out: 0, bytes_out: 0, queued: 0, drops: [0; DropReason::COUNT] };

    /// Count lost frames.
    #[inline]
    pub fn dropped(&mut self, reason: DropReason, frames: usize) {
        self.drops[reason as usize] += frames as u64;
    }

    /// All frames lost.
    #[must_use]
    pub fn total_dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Count frames that left.
    #[inline]
    pub fn sent(&mut self, frames: usize, bytes: usize) {
        self.frames_out += frames as u64;
        self.bytes_out += bytes as u64;
    }
}

/// Both directions of a port, the backend's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// From the peer to the segment.
    pub rx: Lane,
    /// From the segment to the peer.
    pub tx: Lane,
    /// Frames of `tx` that came through the port's inbox.
    pub fetched: u64,
}

impl Counters {
    /// Nothing counted yet.
    pub const ZERO: Counters = Counters { rx: Lane::ZERO, tx: Lane::ZERO, fetched: 0 };
}

/// The published copy of a port's counters: one writer, any number of readers.
#[derive(Debug)]
pub struct Published {
    sequence: AtomicU64, // odd while the writer is at work
    words: [AtomicU64; 2 * Lane::WORDS],
    fetched: AtomicU64,
}

impl Published {
    /// All zero.
    #[must_use]
    pub fn new() -> Published {
        Published {
            sequence: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; 2 * Lane::WORDS],
            fetched: AtomicU64::new(0),
        }
    }

    /// Make `counters` what readers see. Only the port's worker calls it.
    pub fn publish(&self, counters: &Counters) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let (rx, tx) = self.words.split_at(Lane::WORDS);
        for (words, lane) in [(rx, &counters.rx), (tx, &counters.tx)] {
            words[0].store(lane.frames_in, Ordering::Relaxed);
            words[1].store(lane.frames_out, Ordering::Relaxed);
            words[2].store(lane.bytes_out, Ordering::Relaxed);
            words[3].store(lane.queued, Ordering::Relaxed);
            for (word, drops) in words[4..].iter().zip(&lane.drops) {
                word.store(*drops, Ordering::Relaxed);
            }
        }
        self.fetched.store(counters.fetched, Ordering::Relaxed);
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    /// The counters of one moment.
    #[must_use]
    pub fn read(&self) -> Counters {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let word = |at: usize| self.words[at].load(Ordering::Relaxed);
            let lane = |base: usize| Lane {
                frames_in: word(base),
                frames_out: word(base + 1),
                bytes_out: word(base + 2),
                queued: word(base + 3),
                drops: std::array::from_fn(|index| word(base + 4 + index)),
            };
            let fetched = self.fetched.load(Ordering::Relaxed);
            let counters = Counters { rx: lane(0), tx: lane(Lane::WORDS), fetched };
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return counters;
            }
            std::hint::spin_loop();
        }
    }
}

impl Default for Published {
    fn default() -> Self {
        Published::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let mut counters = Counters::ZERO;
        counters.rx.frames_in = 5;
        counters.rx.sent(3, 300);
        counters.rx.dropped(DropReason::Runt, 2);
        counters.tx.queued = 7;
        let published = Published::new();
        assert_eq!(published.read(), Counters::ZERO);
        published.publish(&counters);
        assert_eq!(published.read(), counters);
        assert_eq!(counters.rx.total_dropped(), 2);
    }

    #[test]
    fn readers_never_see_half_an_update() {
        let published = Published::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut counters = Counters::ZERO;
                for turn in 1..200_000u64 {
                    counters.rx.frames_in = turn * 3;
                    counters.rx.frames_out = turn;
                    counters.rx.drops[DropReason::COUNT - 1] = turn;
                    counters.tx.queued = turn;
                    published.publish(&counters);
                }
            });
            let mut last = 0;
            while last < 199_999 {
                let seen = published.read();
                let turn = seen.tx.queued;
                assert!(turn >= last);
                assert_eq!(
                    (seen.rx.frames_in, seen.rx.frames_out, seen.rx.total_dropped()),
                    (turn * 3, turn, turn)
                );
                last = turn;
            }
        });
    }
}
