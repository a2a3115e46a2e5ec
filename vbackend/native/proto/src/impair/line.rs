//! A delay line: frames that are on their way, copied once, each with its time.
//!
//! Frames lie one behind the other in chunks of 64 KiB, as they came, behind their prefixes; those of one chunk that
//! are due leave together, as runs of it. A chunk is kept while a frame of it is on its way, and all chunks count, so the
//! line's memory has a limit whatever leaves in which order.

use super::Marks;
use super::wheel::Wheel;
use crate::framing::{PREFIX_LEN, Run, push_frame, push_run};
use crate::queue::Limits;
use crate::vnet::VnetHeader;

/// A chunk gets frames until it has so many bytes.
const CHUNK: usize = 64 * 1024;

/// A frame on its way.
#[derive(Clone, Copy, Debug)]
struct Held {
    chunk: u32,
    start: u32,
    len: u32,
    vnet: VnetHeader,
    entered_us: u64,
    marks: Marks,
}

/// Frames of one chunk that left together.
#[derive(Debug)]
pub struct Batch {
    chunk: u32,
    frames: usize,
}

#[derive(Debug, Default)]
struct Chunk {
    wire: Vec<u8>,
    held: usize, // frames that are on their way, or in a batch
}

/// Frames with the times at which they are due, on a clock of microseconds.
#[derive(Debug)]
pub struct Line {
    limits: Limits,
    wheel: Wheel<Held>,
    chunks: Vec<Chunk>,
    empty: Vec<u32>, // chunks without frames
    open: Option<u32>,
    bytes: usize, // of all chunks
    last_due_us: u64,
}

impl Line {
    /// A line without frames. The limit of bytes counts prefixes, and frames that left a chunk before its others.
    #[must_use]
    pub fn new(limits: Limits) -> Line {
        Line {
            limits,
            wheel: Wheel::default(),
            chunks: Vec::new(),
            empty: Vec::new(),
            open: None,
            bytes: 0,
            last_due_us: 0,
        }
    }

    /// Change the limits; what is held stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Frames on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wheel.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wheel.is_empty()
    }

    /// Bytes of memory that frames take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the first frame is due.
    #[must_use]
    pub fn next_due_us(&self) -> Option<u64> {
        self.wheel.next_due()
    }

    /// The time of a frame that would arrive at `due_us` but may not overtake.
    pub fn in_order(&mut self, due_us: u64) -> u64 {
        self.last_due_us = self.last_due_us.max(due_us);
        self.last_due_us
    }

    /// Copy a frame in, due at `due_us`, with the bit of it flipped that `marks` has. False: it does not fit.
    #[must_use]
    pub fn hold(&mut self, now_us: u64, due_us: u64, frame: &[u8], vnet: VnetHeader, marks: Marks) -> bool {
        let len = PREFIX_LEN + frame.len();
        if self.len() >= self.limits.frames || self.bytes + len > self.limits.bytes {
            return false;
        }
        let chunk = self.open_chunk();
        let Chunk { wire, held } = &mut self.chunks[chunk as usize];
        let start = push_frame(wire, frame);
        if let Some(bit) = marks.corrupted {
            wire[start + PREFIX_LEN + bit as usize / 8] ^= 1 << (bit % 8);
        }
        *held += 1;
        self.bytes += len;
        if wire.len() >= CHUNK {
            self.open = None;
        }
        let [start, len] = [start, frame.len()].map(|value| u32::try_from(value).unwrap_or(u32::MAX));
        self.wheel.insert(now_us, due_us, Held { chunk, start, len, vnet, entered_us: now_us, marks });
        true
    }

    /// Let the first frames that are due go, as far as they lie in one chunk: they are `runs` of [`Line::wire`], in
    /// order. `told` hears of each where it begins, its marks, and the microseconds that it was on its way. None: none is
    /// due.
    pub fn take_due(
        &mut self,
        now_us: u64,
        runs: &mut Vec<Run>,
        mut told: impl FnMut(usize, Marks, u64),
    ) -> Option<Batch> {
        let chunk = self.wheel.peek(now_us)?.chunk;
        let mut frames = 0;
        while let Some(held) = self.wheel.peek(now_us).copied().filter(|held| held.chunk == chunk) {
            let _same = self.wheel.pop(now_us);
            push_run(runs, Run::one(held.start as usize, held.len as usize, held.vnet));
            told(held.start as usize, held.marks, now_us.saturating_sub(held.entered_us));
            frames += 1;
        }
        Some(Batch { chunk, frames })
    }

    /// Where the runs of a batch are.
    #[must_use]
    pub fn wire(&self, batch: &Batch) -> &[u8] {
        &self.chunks[batch.chunk as usize].wire
    }

    /// A batch has been sent: its frames are needed no more.
    #[allow(clippy::needless_pass_by_value, reason = "a batch is let go of once")]
    pub fn release(&mut self, batch: Batch) {
        let chunk = &mut self.chunks[batch.chunk as usize];
        chunk.held -= batch.frames;
        if chunk.held == 0 {
            self.bytes -= chunk.wire.len();
            chunk.wire.clear();
            if self.open != Some(batch.chunk) {
                if !self.empty.is_empty() {
                    chunk.wire = Vec::new(); // one spare is enough for a calm line
                }
                self.empty.push(batch.chunk);
            }
        }
    }

    /// Forget all frames; returns how many were on their way.
    pub fn purge(&mut self) -> usize {
        let frames = self.len();
        let limits = self.limits;
        *self = Line::new(limits);
        frames
    }

    fn open_chunk(&mut self) -> u32 {
        if let Some(open) = self.open {
            return open;
        }
        let index = self.empty.pop().unwrap_or_else(|| {
            self.chunks.push(Chunk::default());
            u32::try_from(self.chunks.len() - 1).unwrap_or(u32::MAX)
        });
        self.open = Some(index);
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::frames_of;

    const PLAIN: VnetHeader = VnetHeader::PLAIN;

    fn line(frames: usize, bytes: usize) -> Line {
        Line::new(Limits { frames, bytes })
    }

    /// Frames that are due, batch by batch, as the values of their first bytes.
    fn batches(line: &mut Line, now_us: u64) -> Vec<Vec<u8>> {
        let mut batches = Vec::new();
        let mut runs = Vec::new();
        while let Some(batch) = line.take_due(now_us, &mut runs, |_, _, _| {}) {
            let frames =
                runs.drain(..).flat_map(|run| frames_of(line.wire(&batch), run).map(|frame| frame[0]));
            batches.push(frames.collect());
            line.release(batch);
        }
        batches
    }

    #[test]
    fn frames_leave_at_their_times_in_batches() {
        let mut line = line(100, 1 << 20);
        for (value, due) in [(1, 30), (2, 10), (3, 20), (4, 30), (5, 50)] {
            assert!(line.hold(0, due, &[value; 20], PLAIN, Marks::default()));
        }
        assert_eq!((line.next_due_us(), line.len(), line.bytes()), (Some(10), 5, 5 * 24));
        assert_eq!(batches(&mut line, 9), Vec::<Vec<u8>>::new());
        assert_eq!(batches(&mut line, 30), [[2, 3, 1, 4]]);
        assert_eq!((line.next_due_us(), line.bytes()), (Some(50), 5 * 24), "the chunk is still needed");
        assert_eq!(batches(&mut line, 99), [[5]]);
        assert_eq!((line.len(), line.bytes()), (0, 0));
    }

    #[test]
    fn both_limits_hold_and_chunks_come_back() {
        let frame = [7; 1000];
        for (frames, bytes, expected) in [(10, 1 << 20, 10), (1000, 4 * 1004, 4), (1000, 300 * 1004, 300)] {
            let mut line = line(frames, bytes);
            for round in 0..5 {
                let held = (0..1000)
                    .filter(|at| line.hold(round, round + at, &frame, PLAIN, Marks::default()))
                    .count();
                assert_eq!(held, expected);
                assert_eq!(batches(&mut line, round + 1000).concat().len(), expected);
                assert!(line.bytes() == 0 && line.chunks.len() <= 6 && line.is_empty());
                let kept: usize = line.chunks.iter().map(|chunk| chunk.wire.capacity()).sum();
                assert!(kept <= 4 * CHUNK, "{kept} bytes are kept");
            }
        }
    }

    #[test]
    fn a_mark_flips_its_bit_and_is_told() {
        let mut line = line(10, 1000);
        let marks = Marks { corrupted: Some(8 * 15 + 3), ..Marks::default() };
        assert!(line.hold(100, 150, &[0; 20], PLAIN, marks));
        let (mut runs, mut told) = (Vec::new(), Vec::new());
        let batch = line.take_due(160, &mut runs, |at, marks, us| told.push((at, marks, us))).unwrap();
        assert_eq!(told, [(0, marks, 60)]);
        let frame = frames_of(line.wire(&batch), runs[0]).next().unwrap();
        assert_eq!((frame[15], frame.iter().filter(|byte| **byte != 0).count()), (8, 1));
    }

    #[test]
    fn what_may_not_overtake_waits_for_the_last_one() {
        let mut line = line(10, 1000);
        let times: Vec<u64> = [50, 30, 70, 60].into_iter().map(|due| line.in_order(due)).collect();
        assert_eq!(times, [50, 50, 70, 70]);
        assert!(line.hold(0, 70, &[0; 14], PLAIN, Marks::default()));
        assert_eq!((line.purge(), line.len(), line.bytes()), (1, 0, 0));
        assert_eq!(line.in_order(10), 10);
    }
}
