//! Capturing: what passes a port is copied, as pcapng packet blocks, into a bounded buffer that a program reads.
//!
//! ```text
//!  port ── Taps ── Tap: lane, filter, snaplen ──┐
//!  port ── Taps ── Tap ─────────────────────────┴──► Sink: bounded, an eventfd ──► reader
//! ```
//!
//! A reader that is too slow loses packets of the capture, and is told how many; traffic never waits. A port that nobody
//! captures pays for one look at an empty list a batch. Memory of a capture: three times its limit at most, and the
//! descriptions of its interfaces.

mod sink;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use vbackend_proto::capture::block::Direction;
use vbackend_proto::capture::block::PacketBlock;
use vbackend_proto::capture::bpf::Program;
use vbackend_proto::capture::verdict::Verdict;

pub use self::sink::{InterfaceCounts, MOST_INTERFACES, Sink};

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

/// Which packets of its port a tap records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// All, each with its direction.
    Both,
    /// Those from the port's peer.
    Rx,
    /// Those from the port's peer that were lost before any other port had them.
    RxLost,
    /// Those for the port's peer.
    Tx,
}

impl Lane {
    fn has(self, direction: Direction, verdict: &Verdict) -> bool {
        match self {
            Lane::Both => true,
            Lane::Rx => direction == Direction::Inbound,
            Lane::RxLost => direction == Direction::Inbound && verdict.dropped.is_some(),
            Lane::Tx => direction == Direction::Outbound,
        }
    }
}

/// One port's part in an interface of a capture.
pub struct Tap {
    sink: Arc<Sink>,
    interface: u32,
    seen: Arc<AtomicU64>,
    lane: Lane,
    link: LinkType,
    snaplen: u32,
    filter: Option<Arc<Program>>,
}

impl Tap {
    /// A tap that records as number `interface` of `sink`, up to `snaplen` bytes of the packets of `lane` that `filter`
    /// accepts. None: the sink has fewer interfaces.
    #[must_use]
    pub fn new(
        sink: Arc<Sink>,
        interface: u32,
        lane: Lane,
        link: LinkType,
        snaplen: u32,
        filter: Option<Arc<Program>>,
    ) -> Option<Tap> {
        let seen = sink.seen(interface)?;
        Some(Tap { sink, interface, seen, lane, link, snaplen, filter })
    }

    /// Record a packet: `header` and `packet` are its bytes together. `now_ns`: since the epoch.
    pub fn record(&self, direction: Direction, header: &[u8], packet: &[u8], verdict: Verdict, now_ns: u64) {
        if !self.lane.has(direction, &verdict) {
            return;
        }
        self.seen.fetch_add(1, Ordering::Relaxed);
        let wanted = self.filter.as_ref().map_or(u32::MAX, |filter| filter.run(header, packet));
        if wanted > 0 {
            let comment = if verdict.is_plain() { String::new() } else { verdict.to_string() };
            self.sink.record(PacketBlock {
                interface: self.interface,
                time_ns: now_ns,
                direction: (self.lane == Lane::Both).then_some(direction),
                header,
                packet,
                snaplen: self.snaplen.min(wanted) as usize,
                lost_before: 0,
                comment: &comment,
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

    /// Begin to capture; an earlier tap for the same interface of the same sink ends.
    pub fn add(&mut self, tap: Tap) {
        self.0.retain(|old| !Arc::ptr_eq(&old.sink, &tap.sink) || old.interface != tap.interface);
        self.0.push(tap);
    }

    /// Whether anybody records packets of this direction and fate.
    #[must_use]
    pub fn want(&self, direction: Direction, verdict: &Verdict) -> bool {
        self.0.iter().any(|tap| tap.lane.has(direction, verdict))
    }

    /// End the capture into `sink`, if there is one, whichever its interfaces.
    pub fn remove(&mut self, sink: &Arc<Sink>) {
        self.0.retain(|tap| !Arc::ptr_eq(&tap.sink, sink));
    }

    /// Record a packet in every capture, as [`Tap::record`] does.
    pub fn record(&self, direction: Direction, header: &[u8], packet: &[u8], verdict: Verdict, now_ns: u64) {
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
        verdict: Verdict,
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
    use std::os::fd::AsFd;

    use super::*;
    use vbackend_proto::capture::bpf::Instruction;
    use vbackend_proto::drop_reason::DropReason;

    const BLOCK: usize = 60; // of a packet of 14 bytes

    fn tap(sink: &Arc<Sink>, interface: u32) -> Tap {
        Tap::new(Arc::clone(sink), interface, Lane::Both, LinkType::Ethernet, 100, None).unwrap()
    }

    fn record(tap: &Tap, packet: &[u8]) {
        tap.record(Direction::Inbound, &[], packet, Verdict::default(), 1);
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
            assert!(sink.held() <= 16 * BLOCK);
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
            let tap =
                Tap::new(Arc::clone(&sink), 0, Lane::Both, LinkType::Raw, snaplen, filter.clone()).unwrap();
            tap.record(Direction::Outbound, &[0, 0, 0, 2], &[0, 9, 0, 0, 0, 0], Verdict::default(), 1);
            tap.record(Direction::Outbound, &[0, 0, 0, 2], &[9, 0, 0, 0, 0, 0], Verdict::default(), 1);
            assert_eq!(usize::from(read(&sink, 1000)[20]), kept);
        }
        assert_eq!(sink.counts()[0], InterfaceCounts { seen: 4, captured: 2, lost: 0 });
        assert!(Tap::new(sink, 1, Lane::Both, LinkType::Raw, 100, None).is_none());
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
            taps.add(Tap::new(Arc::clone(&sink), 0, Lane::Both, link, 100, None).unwrap());
            taps.record_packet(Direction::Outbound, 24, &[0x60, 0, 0, 0], Verdict::default(), 1);
            taps.clear();
            taps.record_packet(Direction::Outbound, 24, &[0x60, 0, 0, 0], Verdict::default(), 1);
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
        taps.record(Direction::Inbound, &[], &[0; 14], Verdict::default(), 1);
        taps.remove(&sinks[0]);
        taps.record(Direction::Inbound, &[], &[0; 14], Verdict::default(), 1);
        assert_eq!(sinks.each_ref().map(|sink| sink.counts()[0].captured), [1, 2]);
        taps.remove(&sinks[1]);
        assert!(taps.is_empty());
    }

    #[test]
    fn lanes_and_interfaces_of_one_port_are_apart() {
        let sink = Arc::new(Sink::new(4, 10_000, None).unwrap());
        let mut taps = Taps::default();
        let lanes = [Lane::Both, Lane::Rx, Lane::RxLost, Lane::Tx];
        for (number, lane) in (0..).zip(lanes) {
            taps.add(Tap::new(Arc::clone(&sink), number, lane, LinkType::Ethernet, 100, None).unwrap());
        }
        let (fine, lost) = (Verdict::default(), Verdict::from(DropReason::PortDown));
        // (direction, verdict, the interfaces that have it)
        for (direction, verdict, expected) in [
            (Direction::Inbound, fine, [1, 1, 0, 0]),
            (Direction::Inbound, lost, [1, 1, 1, 0]),
            (Direction::Outbound, fine, [1, 0, 0, 1]),
            (Direction::Outbound, lost, [1, 0, 0, 1]),
        ] {
            let before = sink.counts();
            taps.record(direction, &[], &[0; 14], verdict, 1);
            let more =
                sink.counts().iter().zip(before).map(|(now, old)| now.seen - old.seen).collect::<Vec<_>>();
            assert_eq!(more, expected, "{direction:?} {verdict:?}");
            assert!(taps.want(direction, &verdict));
        }
        let only = Tap::new(Arc::clone(&sink), 0, Lane::RxLost, LinkType::Ethernet, 100, None).unwrap();
        let mut taps = Taps::default();
        taps.add(only);
        assert!(taps.want(Direction::Inbound, &lost) && !taps.want(Direction::Outbound, &lost));
        taps.remove(&sink);
        assert!(taps.is_empty());
    }

    #[test]
    fn interfaces_join_in_front_of_their_packets() {
        let sink = Arc::new(Sink::new(0, 2 * BLOCK, None).unwrap());
        assert_eq!(sink.add_interface(b"first"), Some(0));
        assert!(readable(&sink));
        record(&tap(&sink, 0), &[7; 14]);
        record(&tap(&sink, 0), &[7; 14]); // no room
        assert_eq!(sink.add_interface(b"second"), Some(1), "a description has room always");
        assert_eq!(read(&sink, 1000).len(), 5 + BLOCK + 6);
        record(&tap(&sink, 1), &[7; 14]);
        let counts = |captured, lost| InterfaceCounts { seen: captured + lost, captured, lost };
        assert_eq!(sink.counts(), [counts(1, 1), counts(1, 0)]);
        (2..MOST_INTERFACES).for_each(|_| assert!(sink.add_interface(&[]).is_some()));
        assert_eq!(sink.add_interface(&[]), None);
        let ended = Sink::new(0, 100, Some(0)).unwrap();
        assert_eq!((ended.add_interface(b"late"), ended.is_at_end()), (None, true));
    }
}
