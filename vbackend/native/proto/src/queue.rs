//! A port's output queue: what its peer has not taken yet.
//!
//! Frames are copied in only when the peer did not take them at once, so a queue is empty in the good case and its
//! memory is its own: at most twice its byte limit plus one frame, whatever the other ports do. Full means tail drop.

use std::collections::VecDeque;

use crate::framing::{PREFIX_LEN, Run, prefix_at, push_run, put_prefix};
use crate::vnet::VnetHeader;

/// Limits of a queue; a frame is taken while both hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frames (`ifq_maxlen`).
    pub frames: usize,
    /// Bytes, prefixes counted.
    pub bytes: usize,
}

/// Bounded FIFO of frames in wire format. Runs inside it are relative to [`Queue::wire`].
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    store: Vec<u8>,
    head: usize,        // bytes of `store` in front of the first queued byte
    front: usize,       // bytes of the front frame, prefix counted, that are still here; 0 when empty
    front_frame: usize, // length of the front frame
    frames: usize,      // queued, a partly written one counted
    frame_bytes: usize, // of all of them, prefixes not counted
    metas: VecDeque<Meta>,
}

/// Consecutive queued frames of equal offload state.
#[derive(Clone, Copy, Debug)]
struct Meta {
    frames: usize,
    vnet: VnetHeader,
}

impl Queue {
    /// An empty queue; allocates nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Queue {
        Queue {
            limits,
            store: Vec::new(),
            head: 0,
            front: 0,
            front_frame: 0,
            frames: 0,
            frame_bytes: 0,
            metas: VecDeque::new(),
        }
    }

    /// Change the limits; what is queued stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Frames queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames
    }

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Bytes of all queued frames, prefixes not counted, a partly written frame counted whole.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// The queued bytes in order: the rest of the front frame, then whole frames.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.store[self.head..]
    }

    /// Bytes of [`Queue::wire`] up to the end of the first frame with which `bytes` frame bytes are reached, a partly
    /// written frame counted whole. All when fewer are queued, none for 0.
    #[must_use]
    pub fn wire_bytes_for(&self, bytes: u64) -> usize {
        if bytes >= self.frame_bytes as u64 {
            return self.wire().len();
        }
        let (mut left, mut end, mut frame) = (bytes, self.head, (self.front, self.front_frame));
        while left > 0 {
            end += frame.0;
            left = left.saturating_sub(frame.1 as u64);
            if left > 0 {
                let len = prefix_at(&self.store, end);
                frame = (PREFIX_LEN + len, len);
            }
        }
        end - self.head
    }

    /// Append the frames of `run` (a range of `wire`) that fit; returns how many did. The rest is the caller's drop.
    pub fn offer(&mut self, wire: &[u8], run: Run) -> usize {
        let (mut end, mut taken) = (run.start, 0);
        while end < run.end {
            let next = end + PREFIX_LEN + prefix_at(wire, end);
            let fits = self.frames + taken < self.limits.frames
                && self.wire().len() + (next - run.start) <= self.limits.bytes;
            if !fits {
                break;
            }
            end = next;
            taken += 1;
        }
        if taken > 0 {
            let run = Run { end, frames: taken, ..run };
            self.append(&wire[run.start..end], run, prefix_at(wire, run.start));
        }
        taken
    }

    /// Append one frame that has no prefix yet; returns whether it fit.
    pub fn offer_frame(&mut self, frame: &[u8], vnet: VnetHeader) -> bool {
        self.offer_one(&[], frame, vnet)
    }

    /// Append one frame, or packet, that comes in two parts and has no prefix yet; returns whether it fit.
    pub fn offer_parts(&mut self, head: &[u8], body: &[u8]) -> bool {
        self.offer_one(head, body, VnetHeader::PLAIN)
    }

    #[inline]
    fn offer_one(&mut self, head: &[u8], body: &[u8], vnet: VnetHeader) -> bool {
        let len = head.len() + body.len();
        let run = Run::one(0, len, vnet);
        let fits = self.frames < self.limits.frames && self.wire().len() + run.end <= self.limits.bytes;
        if fits {
            let mut prefix = [0; PREFIX_LEN];
            put_prefix(&mut prefix, 0, len);
            self.append(&prefix, run, len);
            self.store.extend_from_slice(head);
            self.store.extend_from_slice(body);
        }
        fits
    }

    /// Append the rest of a frame whose first `written` bytes (prefix counted) the peer took already.
    ///
    /// It is taken whatever the limits say: half a frame on a stream must be completed.
    pub fn offer_rest(&mut self, wire: &[u8], frame: Run, written: usize) {
        debug_assert!(self.is_empty() && written < frame.end - frame.start);
        self.append(&wire[frame.start + written..frame.end], frame, frame.frame_bytes());
        self.front = frame.end - frame.start - written;
    }

    /// Append the bytes of `run`, whose first frame is `first` bytes long.
    fn append(&mut self, bytes: &[u8], run: Run, first: usize) {
        if self.head > 0 && self.head >= self.store.len() / 2 {
            self.store.drain(..self.head);
            self.head = 0;
        }
        self.store.extend_from_slice(bytes);
        if self.is_empty() {
            self.front = PREFIX_LEN + first;
            self.front_frame = first;
        }
        self.frames += run.frames;
        self.frame_bytes += run.frame_bytes();
        match self.metas.back_mut() {
            Some(last) if last.vnet == run.vnet => last.frames += run.frames,
            _ => self.metas.push_back(Meta { frames: run.frames, vnet: run.vnet }),
        }
    }

    /// The front frame without its prefix, and its offload state. Only for ports that write whole frames.
    #[must_use]
    pub fn front(&self) -> Option<(&[u8], VnetHeader)> {
        let meta = self.metas.front()?;
        Some((&self.wire()[PREFIX_LEN..self.front], meta.vnet))
    }

    /// Remove the first `bytes` queued bytes; returns how many frames were completed by that.
    pub fn consume(&mut self, bytes: usize) -> usize {
        debug_assert!(bytes <= self.wire().len());
        let (mut left, mut done) = (bytes, 0);
        while left > 0 && left >= self.front {
            left -= self.front;
            self.head += self.front;
            self.pop_meta();
            self.frames -= 1;
            self.frame_bytes -= self.front_frame;
            done += 1;
            self.front = 0;
            if self.frames > 0 {
                self.front_frame = prefix_at(&self.store, self.head);
                self.front = PREFIX_LEN + self.front_frame;
            }
        }
        self.head += left;
        self.front -= left;
        if self.is_empty() {
            self.reset();
        }
        done
    }

    /// Remove the front frame.
    pub fn pop(&mut self) {
        self.consume(self.front);
    }

    /// Forget everything; returns how many frames that were.
    pub fn purge(&mut self) -> usize {
        let frames = self.frames;
        self.metas.clear();
        self.frames = 0;
        self.frame_bytes = 0;
        self.front = 0;
        self.reset();
        frames
    }

    /// Forget everything but a frame that is partly written: half a frame on a stream must be completed. Returns how many
    /// frames that were.
    pub fn purge_whole(&mut self) -> usize {
        if self.is_empty() || self.front == PREFIX_LEN + self.front_frame {
            return self.purge();
        }
        let purged = self.frames - 1;
        self.store.truncate(self.head + self.front);
        self.metas.truncate(1);
        self.metas.iter_mut().for_each(|meta| meta.frames = 1);
        self.frames = 1;
        self.frame_bytes = self.front_frame;
        purged
    }

    /// The queued frames as runs of [`Queue::wire`]. Only when no frame is partly written.
    pub fn runs(&self, runs: &mut Vec<Run>) {
        let wire = self.wire();
        let mut at = 0;
        for meta in &self.metas {
            for _ in 0..meta.frames {
                let len = prefix_at(wire, at);
                push_run(runs, Run::one(at, len, meta.vnet));
                at += PREFIX_LEN + len;
            }
        }
    }

    fn pop_meta(&mut self) {
        if let Some(meta) = self.metas.front_mut() {
            meta.frames -= 1;
            if meta.frames == 0 {
                self.metas.pop_front();
            }
        }
    }

    /// Give the memory of a burst back, keep what a calm queue needs.
    fn reset(&mut self) {
        self.store.clear();
        self.head = 0;
        self.store.shrink_to(64 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::scan;

    fn wire_of(lengths: &[usize]) -> (Vec<u8>, Run) {
        let mut wire = Vec::new();
        for (index, len) in lengths.iter().enumerate() {
            wire.extend_from_slice(&u32::try_from(*len).unwrap().to_be_bytes());
            wire.resize(wire.len() + len, u8::try_from(index).unwrap());
        }
        let mut runs = Vec::new();
        scan(&wire, &mut runs);
        (wire, runs[0])
    }

    #[test]
    fn both_limits_hold() {
        let (wire, run) = wire_of(&[20, 20, 20, 20]);
        for (frames, bytes, taken) in
            [(0, 1000, 0), (3, 1000, 3), (9, 1000, 4), (9, 48, 2), (9, 47, 1), (9, 23, 0)]
        {
            let mut queue = Queue::new(Limits { frames, bytes });
            assert_eq!(queue.offer(&wire, run), taken, "limits {frames} {bytes}");
            assert_eq!((queue.len(), queue.wire().len()), (taken, taken * 24));
        }
    }

    #[test]
    fn a_stream_takes_it_byte_by_byte() {
        let (wire, run) = wire_of(&[20, 14, 30]);
        let mut queue = Queue::new(Limits { frames: 8, bytes: 1000 });
        queue.offer(&wire, run);
        let (mut read, mut done) = (Vec::new(), Vec::new());
        assert_eq!(queue.frame_bytes(), 64);
        while !queue.is_empty() {
            read.push(queue.wire()[0]);
            if queue.consume(1) == 1 {
                done.push(read.len());
            }
        }
        assert_eq!((read, queue.frame_bytes()), (wire, 0));
        assert_eq!(done, [24, 42, 76]);
    }

    #[test]
    fn the_rest_of_a_frame_may_be_shorter_than_a_prefix() {
        let (wire, run) = wire_of(&[14]);
        let mut queue = Queue::new(Limits { frames: 0, bytes: 0 });
        queue.offer_rest(&wire, run, wire.len() - 1);
        assert_eq!((queue.len(), queue.wire()), (1, &wire[wire.len() - 1..]));
        assert_eq!(queue.consume(1), 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn whole_frames_come_out_with_their_offload_state() {
        let partial = VnetHeader { flags: crate::vnet::NEEDS_CSUM, csum_start: 34, ..VnetHeader::PLAIN };
        let (wire, run) = wire_of(&[20, 14]);
        let mut queue = Queue::new(Limits { frames: 8, bytes: 1000 });
        queue.offer(&wire, run);
        assert!(queue.offer_frame(&wire[4..24], partial));
        let mut seen = Vec::new();
        while let Some((frame, vnet)) = queue.front() {
            seen.push((frame.len(), vnet));
            queue.pop();
        }
        assert_eq!(seen, [(20, VnetHeader::PLAIN), (14, VnetHeader::PLAIN), (20, partial)]);
    }
}
