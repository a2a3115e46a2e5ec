//! Tun units on a segment: a guest on one side, a program on the other, over a socket or in this process.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;

use common::{assert_balanced, config, eventually, read_frame, stream_port, wire};
use vbackend_engine::command::{End, Event};
use vbackend_engine::unit::SharedUnit;
use vbackend_engine::{Engine, ReaderKind};
use vbackend_proto::adapter::{Config, Mode};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::impair;
use vbackend_proto::segment::PortId;
use vbackend_proto::unit::{Header, UnitState, flags};
use vbackend_proto::wire::ethernet::{ETHERTYPE_IPV4, Mac, emit};

const ADAPTER: Mac = Mac([2, 0, 0, 0, 7, 1]);
const GUEST: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const TICKET: u64 = 1;

/// A switch with a guest and a unit.
struct Lab {
    engine: Engine,
    unit: Arc<SharedUnit>,
    port: PortId,
    guest: UnixStream,
}

impl Lab {
    fn new(limit: usize) -> Lab {
        let engine = Engine::new(1, 1).unwrap();
        let segment = engine.add_switch(300_000, 100).unwrap();
        let (_, guest) = stream_port(&engine, segment, config());
        let port = engine.add_port(config()).unwrap();
        engine.join(port, segment).unwrap();
        let unit = Arc::new(SharedUnit::new(limit, 16));
        let adapter = Config {
            local: vec![OURS.into()],
            peers: vec![THEIRS.into()],
            ..Config::new(ADAPTER, Mode::PointToPoint)
        };
        engine.attach_unit(port, Arc::clone(&unit), adapter).unwrap();
        Lab { engine, unit, port, guest }
    }

    fn open(&self, header: Header) {
        let state = *self.unit.lock().unit.state();
        self.unit.set_state(UnitState { flags: flags::READY, index: 1, ticket: TICKET, header, ..state });
    }

    /// Attach a program's socket and open; returns the program's end.
    fn program(&self) -> UnixDatagram {
        let (ours, theirs) = seqpacket_pair();
        self.engine.attach_reader(self.port, ours, ReaderKind::Socket).unwrap();
        self.open(Header::None);
        UnixDatagram::from(theirs)
    }

    fn send(&mut self, packets: &[Vec<u8>]) {
        let frames: Vec<Vec<u8>> = packets.iter().map(|packet| from_guest(packet)).collect();
        self.guest.write_all(&wire(&frames)).unwrap();
    }

    /// Frames that the unit's port has received for the segment.
    fn received(&self) -> u64 {
        self.engine.counters(self.port).unwrap().rx.frames_out
    }

    fn lost(&self, reason: DropReason) -> u64 {
        self.engine.counters(self.port).unwrap().tx.drops[reason as usize]
    }
}

fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
    let mut pair = [-1; 2];
    // SAFETY: `pair` has room for both descriptors, which nobody else owns after the call.
    unsafe {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1]))
    }
}

fn packet(source: Ipv4Addr, destination: Ipv4Addr, serial: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(serial.to_be_bytes());
    packet
}

fn from_guest(packet: &[u8]) -> Vec<u8> {
    [&emit(ADAPTER, GUEST, ETHERTYPE_IPV4), packet].concat()
}

#[test]
fn what_is_on_its_way_to_a_unit_is_lost_with_its_reader() {
    let mut lab = Lab::new(256);
    let program = lab.program();
    let delay = |delay_us| Some(impair::Config { delay_us, ..impair::Config::NONE });
    lab.engine.set_impairment(lab.port, delay(5_000)).unwrap();
    let packets: Vec<Vec<u8>> = (0..20).map(|serial| packet(THEIRS, OURS, serial)).collect();
    lab.send(&packets);
    let mut buffer = [0; 100];
    for expected in &packets {
        let len = program.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], expected);
    }
    lab.engine.set_impairment(lab.port, delay(3_600_000_000)).unwrap();
    lab.send(&packets);
    let tx = |lab: &Lab| lab.engine.counters(lab.port).unwrap().tx;
    eventually("they are on their way", || tx(&lab).queued == 20);
    lab.engine.detach_reader(lab.port).unwrap();
    assert_eq!((tx(&lab).queued, lab.lost(DropReason::PeerGone)), (0, 20));
    assert_balanced(&lab.engine.counters(lab.port).unwrap());
}

#[test]
fn packets_pass_a_socket_one_a_message_in_both_directions() {
    let mut lab = Lab::new(256);
    let program = lab.program();
    let packets: Vec<Vec<u8>> = (0..100).map(|serial| packet(THEIRS, OURS, serial)).collect();
    lab.send(&packets);
    let mut buffer = [0; 100];
    for expected in &packets {
        let len = program.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], expected);
    }
    for serial in 0..100 {
        program.send(&packet(OURS, THEIRS, serial)).unwrap();
    }
    for serial in 0..100 {
        let expected = [&emit(GUEST, ADAPTER, ETHERTYPE_IPV4)[..], &packet(OURS, THEIRS, serial)].concat();
        assert_eq!(read_frame(&mut lab.guest).unwrap(), expected);
    }
    let counters = lab.unit.view().counters;
    assert_eq!(
        (counters.opackets, counters.obytes, counters.ipackets, counters.ibytes),
        (100, 2400, 100, 2400)
    );
    assert_balanced(&lab.engine.counters(lab.port).unwrap());
}

#[test]
fn a_slow_program_fills_if_snd_and_loses_the_rest() {
    let mut lab = Lab::new(8);
    let program = lab.program();
    let packets: Vec<Vec<u8>> = (0..3000).map(|serial| packet(THEIRS, OURS, serial)).collect();
    for some in packets.chunks(100) {
        lab.send(some);
    }
    eventually("all have come", || lab.engine.counters(lab.port).unwrap().tx.frames_in == 3000);
    let lost = lab.lost(DropReason::QueueFull);
    let counters = lab.unit.view().counters;
    assert!(lost > 0);
    assert_eq!((counters.collisions, counters.drops, counters.opackets + lost), (lost, lost, 3000));
    assert_balanced(&lab.engine.counters(lab.port).unwrap());
    let mut buffer = [0; 100];
    for _ in 0..counters.opackets {
        assert_eq!(program.recv(&mut buffer).unwrap(), 24);
    }
    eventually("the queue is empty", || lab.unit.view().queued == 0);
    assert_balanced(&lab.engine.counters(lab.port).unwrap());
}

#[test]
fn a_program_that_leaves_closes_the_unit_and_the_next_one_gets_on() {
    let mut lab = Lab::new(256);
    drop(lab.program());
    let ended = || {
        lab.engine.drain_events().into_iter().any(
            |event| matches!(event, Event::SessionEnded { port, end: End::Eof(0), .. } if port == lab.port),
        )
    };
    eventually("the session ends", ended);
    lab.send(&[packet(THEIRS, OURS, 0)]);
    eventually("nobody has it open", || lab.lost(DropReason::NotReady) == 1);
    assert_eq!(lab.unit.view().counters.oerrors, 1);
    let program = lab.program();
    lab.send(&[packet(THEIRS, OURS, 7)]);
    assert_eq!(program.recv(&mut [0; 100]).unwrap(), 24);
    assert!(lab.engine.attach_reader(lab.port, seqpacket_pair().0, ReaderKind::Socket).is_err());
    lab.engine.detach_reader(lab.port).unwrap();
    assert_eq!(program.recv(&mut [0; 100]).unwrap(), 0, "the end");
    assert_balanced(&lab.engine.counters(lab.port).unwrap());
}

#[test]
fn refused_messages_are_told_by_number_and_hurt_nobody() {
    let mut lab = Lab::new(256);
    let (ours, mut errors) = UnixStream::pair().unwrap();
    lab.engine.report_errors(lab.port, Some(ours.into())).unwrap();
    let program = lab.program();
    lab.send(&[packet(THEIRS, OURS, 0)]);
    assert_eq!(program.recv(&mut [0; 100]).unwrap(), 24);
    program.send(&packet(OURS, THEIRS, 1)).unwrap();
    program.send(&[0x50; 20]).unwrap();
    program.send(&[]).unwrap();
    program.send(&[0x45; 2000]).unwrap();
    program.send(&packet(OURS, THEIRS, 2)).unwrap();
    for serial in [1, 2] {
        assert_eq!(read_frame(&mut lab.guest).unwrap()[14..], packet(OURS, THEIRS, serial));
    }
    let mut told = String::new();
    while told.lines().count() < 3 {
        let mut buffer = [0; 200];
        let len = errors.read(&mut buffer).unwrap();
        told.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
    }
    let numbers: Vec<&str> = told.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(numbers, ["2 97 EAFNOSUPPORT", "3 5 EIO", "4 5 EIO"]);
    assert_eq!(lab.unit.view().counters.ierrors, 1, "the empty one");
    assert_balanced(&lab.engine.counters(lab.port).unwrap());
}

#[test]
fn a_program_in_this_process_reads_and_writes_the_unit() {
    let mut lab = Lab::new(4);
    lab.open(Header::Loop);
    lab.send(&(0..6).map(|serial| packet(THEIRS, OURS, serial)).collect::<Vec<_>>());
    eventually("what fits is queued", || lab.unit.view().counters.drops == 2);
    let read = lab.unit.read(TICKET, <[u8]>::to_vec).unwrap().unwrap();
    assert_eq!(read, [&[0, 0, 0, 2][..], &packet(THEIRS, OURS, 0)].concat());
    let tx = lab.engine.counters(lab.port).unwrap().tx;
    assert_eq!((tx.frames_out, tx.queued), (4, 0), "a program has a packet when it is queued");
    for serial in 0..10 {
        lab.unit.write(TICKET, &[&[0, 0, 0, 2][..], &packet(OURS, THEIRS, serial)].concat()).unwrap();
        assert_eq!(read_frame(&mut lab.guest).unwrap()[14..], packet(OURS, THEIRS, serial));
    }
    eventually("the last one is counted", || lab.received() == 10);
    lab.engine.detach(lab.port).unwrap();
    lab.unit.write(TICKET, &[&[0, 0, 0, 2][..], &packet(OURS, THEIRS, 0)].concat()).unwrap();
    assert_eq!(lab.unit.view().input, 1, "nobody fetches it any more");
}
