//! Fuzz target: a byte stream cut into frames, whole and in pieces, and its frames on their way through a queue.

use super::Input;
use crate::framing::{MAX_FRAME, MIN_FRAME, PREFIX_LEN, Run, frames_of, scan};
use crate::queue::{Limits, Queue};

/// The bytes are the sizes of pieces, a queue's limits, then the stream.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let pieces = [input.byte(), input.byte(), input.byte()].map(|size| usize::from(size) + 1);
    let limits = Limits { frames: usize::from(input.byte() % 16), bytes: usize::from(input.word() % 2048) };
    let stream = input.bytes(usize::MAX);
    let whole = cut(stream, &[stream.len().max(1)]);
    assert_eq!(cut(stream, &pieces), whole, "splits change what is found");
    queue(&whole.0, limits, pieces[0]);
}

/// What a port makes of a stream that arrives in pieces: good frames, the number of short ones, an oversize length.
fn cut(stream: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, usize, Option<u32>) {
    let (mut frames, mut runts, mut carry) = (Vec::new(), 0, Vec::new());
    let mut rest = stream;
    for size in pieces.iter().copied().cycle() {
        let (piece, later) = rest.split_at(size.min(rest.len()));
        rest = later;
        carry.extend_from_slice(piece);
        let mut runs: Vec<Run> = Vec::new();
        let found = scan(&carry, &mut runs);
        assert_eq!(runs.iter().map(|run| run.frames).sum::<usize>() + found.runts, found.frames);
        for run in &runs {
            assert!(run.frames > 0 && run.end <= found.consumed);
            frames.extend(frames_of(&carry, *run).map(<[u8]>::to_vec));
        }
        runts += found.runts;
        carry.drain(..found.consumed);
        assert!(
            found.oversize.is_some() || carry.len() < PREFIX_LEN + MAX_FRAME,
            "more is kept than one frame"
        );
        if found.oversize.is_some() || rest.is_empty() {
            return (frames, runts, found.oversize);
        }
    }
    (frames, runts, None)
}

/// Frames offered to a queue come out of it in order and whole, `step` bytes at a time, or were not taken.
fn queue(frames: &[Vec<u8>], limits: Limits, step: usize) {
    let mut queue = Queue::new(limits);
    let (mut taken, mut read) = (Vec::new(), Vec::new());
    for frame in frames {
        assert!((MIN_FRAME..=MAX_FRAME).contains(&frame.len()));
        let mut wire = (frame.len() as u32).to_be_bytes().to_vec();
        wire.extend_from_slice(frame);
        let run = Run { start: 0, end: wire.len(), frames: 1, vnet: crate::vnet::VnetHeader::PLAIN };
        if queue.offer(&wire, run) == 1 {
            taken.extend_from_slice(&wire);
        }
        assert!(queue.len() <= limits.frames && queue.wire().len() <= limits.bytes);
        let amount = step.min(queue.wire().len());
        read.extend_from_slice(&queue.wire()[..amount]);
        queue.consume(amount);
    }
    read.extend_from_slice(queue.wire());
    assert_eq!(read, taken, "a frame is lost, doubled or changed");
}
