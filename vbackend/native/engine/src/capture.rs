//! Capturing: what passes a port is copied, as pcapng packet blocks, into a bounded buffer that a program reads.
//!
//! ```text
//!  port ── Taps ── Tap: filter, snaplen ──┐
//!  port ── Taps ── Tap ───────────────────┴──► Sink: bounded, an eventfd ──► reader
//! ```
//!
//! A reader that is too slow loses packets of the capture, and is told how many; traffic never waits. A port that nobody
//! captures pays for one look at an empty list a batch. Memory of a capture: three times its limit at most.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub use vbackend_proto::capture::block::Direction;
use vbackend_proto::capture::block::PacketBlock;
use vbackend_proto::capture::bpf::Program;
use vbackend_proto::drop_reason::DropReason;

use crate::command::lock;
use crate::sys::EventFd;

/// What became of one interface's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounts {
    /// Passed the port.
    pub seen: u64,
    /// Passed the filter too, and were recorded.
    pub captured: u64,
    /// Passed the filter and did not fit.
    pub lost: u64,
}

/// Where the packets of one capture are collected.
pub struct Sink {
    inner: Mutex<Inner>,
    ready: EventFd, // signalled exactly while there is something to read, or the capture has ended
    seen: Box<[AtomicU64]>,
    limit_bytes: usize,
}

struct Inner {
    blocks: Vec<u8>,
    read: usize, // bytes of `blocks` that the reader has
    interfaces: Box<[Interface]>,
    left: Option<u64>, // packets until the end
    ended: bool,
}

#[derive(Clone, Copy, Default)]
struct Interface {
    captured: u64,
    lost: u64,
    untold: u64, // of `lost`: no packet block has told them yet
}

impl Sink {
    /// A sink for packets of `interfaces` ports that holds up to `limit_bytes` of blocks, and ends by itself after
    /// `count` packets.
    ///
    /// # Errors
    /// No eventfd to be had.
    pub fn new(interfaces: usize, limit_bytes: usize, count: Option<u64>) -> io::Result<Sink> {
        let inner = Inner {
            blocks: Vec::new(),
            read: 0,
            interfaces: vec![Interface::default(); interfaces].into_boxed_slice(),
            left: count,
            ended: false,
        };
        let sink = Sink {
            inner: Mutex::new(inner),
            ready: EventFd::new()?,
            seen: (0..interfaces).map(|_| AtomicU64::new(0)).collect(),
            limit_bytes,
        };
        if count == Some(0) {
            sink.end();
        }
        Ok(sink)
    }

    /// How many interfaces it was made for.
    #[must_use]
    pub fn interfaces(&self) -> usize {
        self.seen.len()
    }

    /// Record nothing more. What was recorded can still be read; a second call does nothing.
    pub fn end(&self) {
        let mut inner = lock(&self.inner);
        inner.ended = true;
        self.ready.signal();
    }

    /// Whether all was read and nothing more will come.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        let inner = lock(&self.inner);
        inner.ended && inner.read == inner.blocks.len()
    }

    /// Hand up to `most` recorded bytes to `take`. They continue where the last call stopped, inside of a block or not.
    pub fn read<T>(&self, most: usize, take: impl FnOnce(&[u8]) -> T) -> T {
        let mut inner = lock(&self.inner);
        let end = inner.blocks.len().min(inner.read.saturating_add(most));
        let taken = take(&inner.blocks[inner.read..end]);
        inner.read = end;
        if inner.read == inner.blocks.len() {
            inner.blocks.clear();
            inner.read = 0;
            if !inner.ended {
                self.ready.clear();
            }
        }
        taken
    }

    /// What became of each interface's packets.
    #[must_use]
    pub fn counts(&self) -> Vec<InterfaceCounts> {
        let inner = lock(&self.inner);
        let seen = self.seen.iter().map(|seen| seen.load(Ordering::Relaxed));
        seen.zip(&inner.interfaces)
            .map(|(seen, one)| InterfaceCounts { seen, captured: one.captured, lost: one.lost })
            .collect()
    }

    fn record(&self, mut block: PacketBlock<'_>) {
        let mut inner = lock(&self.inner);
        if inner.ended {
            return;
        }
        let index = block.interface as usize;
        let waiting = inner.blocks.len() - inner.read;
        block.lost_before = inner.interfaces[index].untold;
        if waiting + block.encoded_len() > self.limit_bytes {
            inner.interfaces[index].lost += 1;
            inner.interfaces[index].untold += 1;
            return;
        }
        if inner.read > self.limit_bytes / 2 {
            let read = std::mem::take(&mut inner.read);
            inner.blocks.drain(..read);
        }
        block.emit(&mut inner.blocks);
        inner.interfaces[index].captured += 1;
        inner.interfaces[index].untold = 0;
        inner.left = inner.left.map(|left| left - 1);
        inner.ended = inner.left == Some(0);
        if waiting == 0 || inner.ended {
            self.ready.signal();
        }
    }
}

impl AsFd for Sink {
    /// Readable while there is something to read, or the capture has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// What the packets of a tap begin with (LINKTYPE_ of tcpdump.org).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// The address family in host order, of a tun unit's packets.
    Null,
    /// The same in network order.
    Loop,
    /// Nothing: bare IP.
    Raw,
}

/// One port's part in a capture.
pub struct Tap {
    sink: Arc<Sink>,
    interface: u32,
    link: LinkType,
    snaplen: u32,
    filter: Option<Arc<Program>>,
}

impl Tap {
    /// A tap that records as number `interface` of `sink`, up to `snaplen` bytes of the packets that `filter` accepts.
    /// None: the sink was made for fewer interfaces.
    #[must_use]
    pub fn new(
        sink: Arc<Sink>,
        interface: u32,
        link: LinkType,
        snaplen: u32,
        filter: Option<Arc<Program>>,
    ) -> Option<Tap> {
        ((interface as usize) < sink.interfaces()).then_some(Tap { sink, interface, link, snaplen, filter })
    }

    /// Record a packet: `header` and `packet` are its bytes together. `now_ns`: since the epoch.
    pub fn record(
        &self,
        direction: Direction,
        header: &[u8],
        packet: &[u8],
        verdict: Option<DropReason>,
        now_ns: u64,
    ) {
        self.sink.seen[self.interface as usize].fetch_add(1, Ordering::Relaxed);
        let wanted = self.filter.as_ref().map_or(u32::MAX, |filter| filter.run(header, packet));
        if wanted > 0 {
            self.sink.record(PacketBlock {
                interface: self.interface,
                time_ns: now_ns,
                direction,
                header,
                packet,
                snaplen: self.snaplen.min(wanted) as usize,
                lost_before: 0,
                verdict,
            });
        }
    }
}

/// All captures of one port.
#[derive(Default)]
pub struct Taps(Vec<Tap>);

impl Taps {
    /// Whether nobody captures.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begin to capture; an earlier tap of the same sink ends.
    pub fn add(&mut self, tap: Tap) {
        self.remove(&Arc::clone(&tap.sink));
        self.0.push(tap);
    }

    /// End the capture into `sink`, if there is one.
    pub fn remove(&mut self, sink: &Arc<Sink>) {
        self.0.retain(|tap| !Arc::ptr_eq(&tap.sink, sink));
    }

    /// Record a packet in every capture, as [`Tap::record`] does.
    pub fn record(
        &self,
        direction: Direction,
        header: &[u8],
        packet: &[u8],
        verdict: Option<DropReason>,
        now_ns: u64,
    ) {
        for tap in &self.0 {
            tap.record(direction, header, packet, verdict, now_ns);
        }
    }

    /// Record a tun unit's packet behind the number of its address family, as each capture wants that.
    pub fn record_packet(
        &self,
        direction: Direction,
        family: u32,
        packet: &[u8],
        verdict: Option<DropReason>,
        now_ns: u64,
    ) {
        for tap in &self.0 {
            let header = match tap.link {
                LinkType::Null => &family.to_ne_bytes()[..],
                LinkType::Loop => &family.to_be_bytes()[..],
                LinkType::Raw | LinkType::Ethernet => &[],
            };
            tap.record(direction, header, packet, verdict, now_ns);
        }
    }

    /// End all captures: what they captured is gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vbackend_proto::capture::bpf::Instruction;

    const BLOCK: usize = 60; // of a packet of 14 bytes

    fn tap(sink: &Arc<Sink>, interface: u32) -> Tap {
        Tap::new(Arc::clone(sink), interface, LinkType::Ethernet, 100, None).unwrap()
    }

    fn record(tap: &Tap, packet: &[u8]) {
        tap.record(Direction::Inbound, &[], packet, None, 1);
    }

    fn read(sink: &Sink, most: usize) -> Vec<u8> {
        sink.read(most, <[u8]>::to_vec)
    }

    fn readable(sink: &Sink) -> bool {
        crate::sys::is_readable(sink.as_fd())
    }

    #[test]
    fn it_is_readable_while_it_holds_something_or_has_ended() {
        let sink = Arc::new(Sink::new(1, 1000, None).unwrap());
        assert!(!readable(&sink));
        record(&tap(&sink, 0), &[7; 14]);
        assert!(readable(&sink));
        assert_eq!(read(&sink, 10).len(), 10);
        assert!(readable(&sink) && !sink.is_at_end());
        assert_eq!(read(&sink, 1000).len(), BLOCK - 10);
        assert!(!readable(&sink) && !sink.is_at_end());
        record(&tap(&sink, 0), &[7; 14]);
        sink.end();
        record(&tap(&sink, 0), &[7; 14]);
        assert!(!sink.is_at_end());
        assert_eq!(read(&sink, 1000).len(), BLOCK);
        assert!(readable(&sink) && sink.is_at_end());
    }

    #[test]
    fn a_full_sink_loses_and_tells() {
        let sink = Arc::new(Sink::new(2, 2 * BLOCK, None).unwrap());
        for packet in 0..5 {
            record(&tap(&sink, 1), &[packet; 14]);
        }
        let counts = InterfaceCounts { seen: 5, captured: 2, lost: 3 };
        assert_eq!(sink.counts(), [InterfaceCounts::default(), counts]);
        assert_eq!(read(&sink, BLOCK)[28..42], [0; 14]);
        assert_eq!(read(&sink, BLOCK)[28..42], [1; 14]);
        for packet in 5..7 {
            record(&tap(&sink, 1), &[packet; 14]);
            let block = read(&sink, 1000);
            let told = if packet == 5 { 12 } else { 0 };
            assert_eq!((block.len(), block[28]), (BLOCK + told, packet), "epb_dropcount is told once");
        }
        assert_eq!(sink.counts()[1], InterfaceCounts { seen: 7, captured: 4, lost: 3 });
    }

    #[test]
    fn memory_stays_bounded_while_reader_and_writer_alternate() {
        let sink = Arc::new(Sink::new(1, 10 * BLOCK, None).unwrap());
        for _ in 0..3 {
            record(&tap(&sink, 0), &[0; 14]);
        }
        for _ in 0..1000 {
            record(&tap(&sink, 0), &[0; 14]);
            assert_eq!(read(&sink, BLOCK).len(), BLOCK);
            assert!(lock(&sink.inner).blocks.len() <= 16 * BLOCK);
        }
        assert_eq!(sink.counts()[0], InterfaceCounts { seen: 1003, captured: 1003, lost: 0 });
    }

    #[test]
    fn a_count_ends_it() {
        let sink = Arc::new(Sink::new(1, 1000, Some(2)).unwrap());
        for _ in 0..5 {
            record(&tap(&sink, 0), &[0; 14]);
        }
        assert_eq!(sink.counts()[0].captured, 2);
        assert_eq!(read(&sink, 1000).len(), 2 * BLOCK);
        assert!(sink.is_at_end());
        assert!(Sink::new(1, 1000, Some(0)).unwrap().is_at_end());
    }

    #[test]
    fn filters_see_all_and_snaplen_is_the_smaller() {
        let sink = Arc::new(Sink::new(1, 10_000, None).unwrap());
        // Accept 8 bytes of packets whose byte 5 is 9.
        let insn = |code, jf, k| Instruction { code, jt: 0, jf, k };
        let program = [insn(0x30, 0, 5), insn(0x15, 1, 9), insn(6, 0, 8), insn(6, 0, 0)];
        let filter = Some(Arc::new(Program::new(&program).unwrap()));
        for (snaplen, kept) in [(100, 8), (6, 6)] {
            let tap = Tap::new(Arc::clone(&sink), 0, LinkType::Raw, snaplen, filter.clone()).unwrap();
            tap.record(Direction::Outbound, &[0, 0, 0, 2], &[0, 9, 0, 0, 0, 0], None, 1);
            tap.record(Direction::Outbound, &[0, 0, 0, 2], &[9, 0, 0, 0, 0, 0], None, 1);
            assert_eq!(usize::from(read(&sink, 1000)[20]), kept);
        }
        assert_eq!(sink.counts()[0], InterfaceCounts { seen: 4, captured: 2, lost: 0 });
        assert!(Tap::new(sink, 1, LinkType::Raw, 100, None).is_none());
    }

    #[test]
    fn packets_have_their_family_as_the_tap_wants_it() {
        for (link, expected) in [
            (LinkType::Null, [&24u32.to_ne_bytes()[..], &[0x60, 0, 0, 0]].concat()),
            (LinkType::Loop, vec![0, 0, 0, 24, 0x60, 0, 0, 0]),
            (LinkType::Raw, vec![0x60, 0, 0, 0]),
        ] {
            let sink = Arc::new(Sink::new(1, 1000, None).unwrap());
            let mut taps = Taps::default();
            taps.add(Tap::new(Arc::clone(&sink), 0, link, 100, None).unwrap());
            taps.record_packet(Direction::Outbound, 24, &[0x60, 0, 0, 0], None, 1);
            taps.clear();
            taps.record_packet(Direction::Outbound, 24, &[0x60, 0, 0, 0], None, 1);
            let block = read(&sink, 1000);
            assert_eq!(block[28..28 + expected.len()], expected, "{link:?}");
            assert_eq!(sink.counts()[0].captured, 1);
        }
    }

    #[test]
    fn taps_go_by_their_sink() {
        let sinks = [(); 2].map(|()| Arc::new(Sink::new(1, 1000, None).unwrap()));
        let mut taps = Taps::default();
        assert!(taps.is_empty());
        for sink in sinks.iter().chain(&sinks) {
            taps.add(tap(sink, 0));
        }
        taps.record(Direction::Inbound, &[], &[0; 14], None, 1);
        taps.remove(&sinks[0]);
        taps.record(Direction::Inbound, &[], &[0; 14], None, 1);
        assert_eq!(sinks.each_ref().map(|sink| sink.counts()[0].captured), [1, 2]);
        taps.remove(&sinks[1]);
        assert!(taps.is_empty());
    }
}
