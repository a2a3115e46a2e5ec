//! Merging the TCP segments (and equal UDP datagrams) of a batch into GSO frames, as `tcp_gro_receive()` does
//! (Linux `net/ipv4/tcp_offload.c`), and by stricter rules: [`super::segment`] gives back what was merged, byte by byte.
//!
//! ```text
//!   batch:  a1 b1 a2 arp a3 b2 a4          output, by first frame:  a1+a2  b1  arp  a3+a4  b2
//!                    └── belongs to no flow: ends all of them
//! ```
//!
//! A frame is appended to its flow's open merge when every header field is what the next segment would have, and only
//! after both checksums were found right: a wrong one must reach the receiver wrong. Frames of a flow never overtake each
//! other; those of different flows may, by a part of a batch. IPv4 identifications that do not count up are taken when
//! fragmenting is forbidden, since nothing may then depend on them (RFC 6864 §4.1); they come back counting.

use std::ops::Range;

use super::layout::{
    IPV4_CHECKSUM, IPV4_DF, IPV4_FRAGMENT, IPV4_ID, IPV4_TOTAL_LEN, IPV6_PAYLOAD_LEN, Layout, PSH, TCP_FLAGS,
    TCP_SEQUENCE, Transport, UDP_LEN,
};
use super::rules::{are_alike, is_long_enough, is_pushed, is_right, is_same_flow, is_segment};
use super::segment::put_word;
use super::{MAX_PACKET, Offloads};
use crate::checksum::sum;
use crate::framing::{PREFIX_LEN, Run, frames_of, prefix_at, push_run, put_prefix};
use crate::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};
use crate::wire::{Family, array, word};

/// Merges that can grow at the same time; one more flow ends the one that was quiet for longest.
const OPEN_FLOWS: usize = 16;

/// Linux `include/linux/udp.h` of 6.1: `UDP_MAX_SEGMENTS`, and `UDP_GRO_CNT_MAX`.
const MAX_DATAGRAMS: usize = 64;

/// Merges batches; keeps its memory from one to the next, and nothing else.
#[derive(Debug, Default)]
pub struct Merger {
    groups: Vec<Group>,     // in the order of the output
    open: Vec<usize>,       // groups that may grow, the last used one first
    pieces: Vec<Piece>,     // what is behind each merge's first frame, where it was not copied at once
    done: usize,            // groups that are in the output
    growing: Option<usize>, // where the next group begins there: data that it gets is copied while it is in the cache
}

/// What becomes one part of the output.
#[derive(Debug)]
enum Group {
    /// Frames that are passed on as they are.
    Passed(Run),
    /// A frame that may be merged with later ones.
    Flow(Flow),
}

/// A merge: its first frame, and what the next one must be.
#[derive(Debug)]
struct Flow {
    first: Run,
    layout: Layout,
    frames: usize,
    size: usize,            // data bytes of each frame but the last
    data: usize,            // of all frames
    id_step: Option<u16>,   // between IPv4 identifications, known from the second frame on
    is_verified: bool,      // the first frame's checksums are right
    is_pushed: bool,        // the last frame has PSH
    pieces: (usize, usize), // first and last, when there is more than the first frame
}

/// The data of a frame that was appended, in the order of its flow.
#[derive(Debug)]
struct Piece {
    start: usize,
    end: usize,
    next: usize,
}

impl Merger {
    /// No memory yet.
    #[must_use]
    pub fn new() -> Merger {
        Merger::default()
    }

    /// Merge what can be merged of `runs`, ranges of `wire`, for a receiver that takes `accepts`.
    ///
    /// True: `out` has the batch, the GSO frames in it with their `vnet` in `out_runs` (both were cleared). False: nothing
    /// was merged, and `out` has nothing; the batch is as it should be.
    pub fn merge(
        &mut self,
        wire: &[u8],
        runs: &[Run],
        accepts: Offloads,
        out: &mut Vec<u8>,
        out_runs: &mut Vec<Run>,
    ) -> bool {
        out.clear();
        out_runs.clear();
        if !is_worth_it(wire, runs, accepts) {
            return false;
        }
        self.groups.clear();
        self.open.clear();
        self.pieces.clear();
        (self.done, self.growing) = (0, None);
        let mut out = Output { wire, bytes: out, runs: out_runs };
        for run in runs {
            if run.vnet.is_plain() {
                self.sort(*run, accepts, &mut out);
            } else {
                self.open.clear(); // it may belong to any of them
                self.groups.push(Group::Passed(*run));
            }
        }
        if self.growing.is_none() && self.pieces.is_empty() {
            return false;
        }
        self.emit(self.groups.len(), &mut out);
        true
    }

    /// Put each frame of a run into a group.
    fn sort(&mut self, run: Run, accepts: Offloads, out: &mut Output<'_>) {
        let wire = out.wire;
        let mut at = run.start;
        while at < run.end {
            let one = Run::one(at, prefix_at(wire, at), VnetHeader::PLAIN);
            at = one.end;
            if self.extend(one, out) {
                continue;
            }
            match Layout::parse(body(wire, one)) {
                Some(layout) if accepts.covers(&header_of(&layout, 1)) => self.add(one, layout, out),
                Some(_) => self.pass(one), // of no flow that is open
                None => {
                    self.open.clear(); // a fragment may belong to any of them
                    self.pass(one);
                }
            }
        }
    }

    /// Append a frame to its flow's open merge, or end that.
    fn add(&mut self, one: Run, layout: Layout, out: &mut Output<'_>) {
        let wire = out.wire;
        let frame = body(wire, one);
        let position = self.open.iter().position(|index| match &self.groups[*index] {
            Group::Flow(flow) => is_same_flow(body(wire, flow.first), &flow.layout, frame, &layout),
            Group::Passed(_) => false,
        });
        if let Some(position) = position {
            self.open[..=position].rotate_right(1);
            if self.extend(one, out) {
                return;
            }
            self.open.remove(0);
        }
        let is_first =
            is_segment(frame, &layout) && !is_pushed(frame, &layout) && is_long_enough(frame, &layout);
        if !is_first {
            return self.pass(one);
        }
        self.open.truncate(OPEN_FLOWS - 1);
        self.open.insert(0, self.groups.len());
        self.groups.push(Group::Flow(Flow::new(one, layout, frame)));
    }

    /// Append a frame to the merge that was used last, if it is what comes next there.
    fn extend(&mut self, one: Run, out: &mut Output<'_>) -> bool {
        let Some(&index) = self.open.first() else { return false };
        let Group::Flow(flow) = &mut self.groups[index] else { return false };
        let (first, frame) = (body(out.wire, flow.first), body(out.wire, one));
        let Some(id_step) = flow.follows(first, frame) else { return false };
        flow.is_verified = flow.is_verified || is_right(first, &flow.layout);
        if !flow.is_verified || !is_right(frame, &flow.layout) {
            return false;
        }
        let data = one.start + PREFIX_LEN + flow.layout.payload..one.end;
        let is_last = flow.append(data.len(), id_step, frame);
        if self.growing.is_some() && index == self.done {
            out.bytes.extend_from_slice(&out.wire[data]);
        } else {
            flow.keep(&mut self.pieces, data);
            if self.open.iter().all(|open| *open >= index) {
                self.emit(index, out);
                self.begin(index, out);
            }
        }
        if is_last {
            self.open.remove(0);
        }
        true
    }

    fn pass(&mut self, one: Run) {
        match self.groups.last_mut() {
            Some(Group::Passed(run)) if run.end == one.start && run.vnet.is_plain() => {
                run.end = one.end;
                run.frames += 1;
            }
            _ => self.groups.push(Group::Passed(one)),
        }
    }

    /// Complete the output up to the group `end`: none of those before it grows any more.
    fn emit(&mut self, end: usize, out: &mut Output<'_>) {
        for group in &self.groups[self.done..end] {
            match group {
                Group::Passed(run) => out.pass(run),
                Group::Flow(flow) if flow.frames == 1 => out.pass(&flow.first),
                Group::Flow(flow) => {
                    let start = self.growing.take().unwrap_or_else(|| out.copy(flow, &self.pieces));
                    out.seal(flow, start);
                }
            }
        }
        self.done = end;
    }

    /// Copy what the group `done` has, and from now on each frame's data when it comes.
    fn begin(&mut self, index: usize, out: &mut Output<'_>) {
        if let Group::Flow(flow) = &self.groups[index] {
            self.growing = Some(out.copy(flow, &self.pieces));
        }
    }
}

/// The batch that it was, and the one that it becomes.
struct Output<'a> {
    wire: &'a [u8],
    bytes: &'a mut Vec<u8>,
    runs: &'a mut Vec<Run>,
}

impl Output<'_> {
    fn pass(&mut self, run: &Run) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&self.wire[run.start..run.end]);
        push_run(self.runs, Run { start, end: self.bytes.len(), ..*run });
    }

    /// Copy the first frame and the data of all others; returns where they are.
    fn copy(&mut self, flow: &Flow, pieces: &[Piece]) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&self.wire[flow.first.start..flow.first.end]);
        let (mut next, last) = flow.pieces;
        loop {
            let piece = &pieces[next];
            self.bytes.extend_from_slice(&self.wire[piece.start..piece.end]);
            if next == last {
                return start;
            }
            next = piece.next;
        }
    }

    /// Give the merge that begins at `start` headers for the whole.
    fn seal(&mut self, flow: &Flow, start: usize) {
        let len = self.bytes.len() - start - PREFIX_LEN;
        put_prefix(self.bytes, start, len);
        let frame = &mut self.bytes[start + PREFIX_LEN..];
        let Layout { l3, l4, .. } = flow.layout;
        match flow.layout.family {
            Family::Ipv4 => {
                put_word(frame, l3 + IPV4_TOTAL_LEN.start, len - l3);
                put_word(frame, l3 + IPV4_CHECKSUM.start, 0);
                let checksum = sum(&frame[l3..l4]).checksum();
                put_word(frame, l3 + IPV4_CHECKSUM.start, usize::from(checksum));
            }
            Family::Ipv6 => put_word(frame, l3 + IPV6_PAYLOAD_LEN.start, len - l4),
        }
        match flow.layout.transport {
            Transport::Tcp => frame[l4 + TCP_FLAGS] |= if flow.is_pushed { PSH } else { 0 },
            Transport::Udp => put_word(frame, l4 + UDP_LEN.start, len - l4),
        }
        let partial = flow.layout.pseudo_header(frame, len - l4).folded();
        put_word(frame, flow.layout.checksum().start, usize::from(partial));
        let vnet = header_of(&flow.layout, flow.size);
        push_run(self.runs, Run { start, end: self.bytes.len(), frames: 1, vnet });
    }
}

impl Flow {
    fn new(first: Run, layout: Layout, frame: &[u8]) -> Flow {
        let size = frame.len() - layout.payload;
        Flow {
            first,
            layout,
            frames: 1,
            size,
            data: size,
            id_step: None,
            is_verified: false,
            is_pushed: false,
            pieces: (0, 0),
        }
    }

    /// Whether `frame` is what comes next, by its headers: the step to its IPv4 identification, 0 for IPv6.
    fn follows(&self, first: &[u8], frame: &[u8]) -> Option<u16> {
        let layout = &self.layout;
        let len = frame.len().checked_sub(layout.payload)?;
        let fits = len <= self.size
            && layout.payload - layout.l3 + self.data + len <= MAX_PACKET
            && are_alike(first, frame, layout)
            && is_segment(frame, layout);
        if !fits {
            return None;
        }
        match layout.transport {
            Transport::Tcp => {
                let sequence = |frame| u32::from_be_bytes(array(frame, layout.l4 + TCP_SEQUENCE.start));
                let ahead = sequence(frame).wrapping_sub(sequence(first));
                if ahead as usize != self.data {
                    return None;
                }
            }
            Transport::Udp if self.frames == MAX_DATAGRAMS => return None,
            Transport::Udp => {}
        }
        self.follows_id(first, frame)
    }

    fn follows_id(&self, first: &[u8], frame: &[u8]) -> Option<u16> {
        let layout = &self.layout;
        if layout.family == Family::Ipv6 {
            return Some(0);
        }
        let id = |frame| word(frame, layout.l3 + IPV4_ID.start);
        let ahead = id(frame).wrapping_sub(id(first));
        let unfragmentable = word(frame, layout.l3 + IPV4_FRAGMENT) & IPV4_DF != 0;
        let step = match (ahead, self.frames) {
            (0, _) if unfragmentable => 0,
            (ahead, frames) if usize::from(ahead) == frames => 1,
            _ => return None,
        };
        (self.id_step.unwrap_or(step) == step).then_some(step)
    }

    /// Take a frame with so much data; returns whether nothing may follow it.
    fn append(&mut self, len: usize, id_step: u16, frame: &[u8]) -> bool {
        self.frames += 1;
        self.data += len;
        self.id_step = Some(id_step);
        self.is_pushed = is_pushed(frame, &self.layout);
        self.is_pushed || len < self.size
    }

    /// Remember where the data of the last frame is.
    fn keep(&mut self, pieces: &mut Vec<Piece>, data: Range<usize>) {
        let index = pieces.len();
        pieces.push(Piece { start: data.start, end: data.end, next: index });
        if self.frames == 2 {
            self.pieces.0 = index;
        } else {
            pieces[self.pieces.1].next = index;
        }
        self.pieces.1 = index;
    }
}

/// Whether two frames might be merged. Looks at headers only, and no further than the second such frame.
fn is_worth_it(wire: &[u8], runs: &[Run], accepts: Offloads) -> bool {
    let plain = runs.iter().filter(|run| run.vnet.is_plain());
    let mut segments = plain.flat_map(|run| frames_of(wire, *run)).filter(|frame| {
        Layout::parse(frame)
            .is_some_and(|layout| accepts.covers(&header_of(&layout, 1)) && is_segment(frame, &layout))
    });
    segments.nth(1).is_some()
}

/// The frame of a run of one.
#[inline]
fn body(wire: &[u8], one: Run) -> &[u8] {
    &wire[one.start + PREFIX_LEN..one.end]
}

/// The virtio-net header of a merge with these headers.
#[inline]
fn header_of(layout: &Layout, size: usize) -> VnetHeader {
    let gso_type = match (layout.transport, layout.family) {
        (Transport::Tcp, Family::Ipv4) => GSO_TCPV4,
        (Transport::Tcp, Family::Ipv6) => GSO_TCPV6,
        (Transport::Udp, _) => GSO_UDP_L4,
    };
    let word = |value: usize| u16::try_from(value).unwrap_or(u16::MAX); // all are below 64 KiB: see `follows`
    VnetHeader {
        flags: NEEDS_CSUM,
        gso_type,
        hdr_len: word(layout.payload),
        gso_size: word(size),
        csum_start: word(layout.l4),
        csum_offset: word(layout.transport.checksum().start),
    }
}
