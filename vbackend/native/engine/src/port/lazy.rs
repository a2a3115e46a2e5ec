//! Frames whose bodies are still in the memory of the guest that sent them, so that they are copied once, to the guest
//! that gets them.
//!
//! Such a frame has its place in the worker's buffer like any other: its length and its first [`HEAD`] bytes, which decide
//! where it goes, are there. The rest is filled in before anybody looks at it but another guest's rings.

use vbackend_proto::framing::{PREFIX_LEN, Run, prefix_at};
use vbackend_proto::offload::MAX_HEADERS;
use vbackend_proto::vring::Area;

use crate::sys::GuestArea;

/// Bytes of each frame that are copied when it is received, and never read from the guest again: the headers by which is
/// decided where it goes and whether its offloads are what they say.
pub const HEAD: usize = MAX_HEADERS;

/// Frames shorter than this are copied when they are received: two small copies cost less than keeping track.
pub const LEAST: usize = 512;

/// The frames of one turn that are not all there, in the order of their places.
#[derive(Default)]
pub struct Lazy {
    frames: Vec<Origin>,
    parts: Vec<GuestArea>,
}

struct Origin {
    at: usize, // of the prefix, in the worker's buffer
    first: usize,
    count: usize, // 0: it was filled in
    skip: usize,  // bytes in front of what is to be copied
}

impl Lazy {
    /// Forget all.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.parts.clear();
    }

    /// The frame behind the prefix at `at` goes on in `parts`, `skip` bytes from their beginning.
    pub fn push(&mut self, at: usize, parts: &[GuestArea], skip: usize) {
        let first = self.parts.len();
        self.parts.extend_from_slice(parts);
        self.frames.push(Origin { at, first, count: parts.len(), skip });
    }

    /// Copy what is missing of the frames of `run`.
    pub fn fill(&mut self, wire: &mut [u8], run: Run) {
        let from = self.frames.partition_point(|origin| origin.at < run.start);
        for origin in self.frames[from..].iter_mut().take_while(|origin| origin.at < run.end) {
            let end = origin.at + PREFIX_LEN + prefix_at(wire, origin.at);
            let mut body = &mut wire[origin.at + PREFIX_LEN + HEAD..end];
            for (part, skip) in bodies(&self.parts[origin.first..origin.first + origin.count], origin.skip) {
                let (here, rest) = body.split_at_mut((part.len() - skip).min(body.len()));
                part.read(skip, here);
                body = rest;
            }
            origin.count = 0;
        }
    }

    /// Whether every frame is there.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether something is missing of the frames of `runs`.
    pub fn is_missing_in(&self, runs: &[Run]) -> bool {
        !self.is_empty()
            && runs.iter().any(|run| {
                let from = self.frames.partition_point(|origin| origin.at < run.start);
                self.frames[from..]
                    .iter()
                    .take_while(|origin| origin.at < run.end)
                    .any(|origin| origin.count > 0)
            })
    }

    /// What is missing of the frame behind the prefix at `at`.
    #[inline]
    pub fn missing(&self, at: usize) -> Option<Missing<'_>> {
        if self.frames.is_empty() {
            return None;
        }
        let index = self.frames.binary_search_by_key(&at, |origin| origin.at).ok()?;
        let origin = &self.frames[index];
        let parts = &self.parts[origin.first..origin.first + origin.count];
        (origin.count > 0).then_some(Missing { parts, skip: origin.skip })
    }
}

/// The end of a frame, still with its guest.
#[derive(Clone, Copy)]
pub struct Missing<'a> {
    parts: &'a [GuestArea],
    skip: usize,
}

impl Missing<'_> {
    /// The parts it is in, each with the bytes in front of it there.
    pub fn pieces(&self) -> impl Iterator<Item = (GuestArea, usize)> {
        bodies(self.parts, self.skip)
    }

    /// Append up to `len` bytes of it.
    pub fn append_to(&self, frame: &mut Vec<u8>, len: usize) {
        let end = frame.len() + len;
        for (part, skip) in self.pieces() {
            let at = frame.len();
            let here = (part.len() - skip).min(end - at);
            frame.resize(at + here, 0);
            part.read(skip, &mut frame[at..]);
        }
    }
}

/// The parts behind the first `skip` bytes of all of them, each with its bytes to skip.
fn bodies(parts: &[GuestArea], skip: usize) -> impl Iterator<Item = (GuestArea, usize)> + '_ {
    let mut skip = skip;
    parts.iter().filter_map(move |part| {
        let here = skip.min(part.len());
        skip -= here;
        (here < part.len()).then_some((*part, here))
    })
}
