//! A tun device of the host behind an Ethernet adapter: guests speak Ethernet, the device bare IP.
//!
//! ```text
//!   segment ── frame ──► adapter ── packet ──► device        tx: ARP and neighbour discovery end in the adapter
//!   segment ◄─ frame ─── adapter ◄─ packet ─── device        rx: a packet whose guest is unknown waits in the adapter
//!                  └─ answers, questions, released packets: `generated`, received like any other frame
//! ```

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vbackend_proto::adapter::{Adapter, Config, FromGuest, Mode, ToGuest};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{MAX_FRAME, PREFIX_LEN, Run, push_run, put_prefix, scan};
use vbackend_proto::vnet::VnetHeader;
use vbackend_proto::wire::Family;
use vbackend_proto::wire::ethernet::{HEADER_LEN, Mac};

use super::device::sent;
use super::{BUDGET, Outgoing, Scratch, Sent};
use crate::command::End;
use crate::counters::Lane;
use crate::sys;

/// Linux `struct tun_pi`: flags, then the EtherType in network order.
const PACKET_INFO_LEN: usize = 4;

/// What the adapter of a tun port is told.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// The adapter's own address on the guests' Ethernet.
    pub mac: [u8; 6],
    /// The host's addresses.
    pub local: Vec<IpAddr>,
    /// The guest's addresses; with one the link is point-to-point.
    pub peers: Vec<IpAddr>,
    /// Whether the device has packet information (no `IFF_NO_PI`).
    pub packet_info: bool,
}

/// An attached tun and its adapter.
pub struct Tun {
    fd: OwnedFd,
    packet_info: bool,
    adapter: Adapter,
    generated: Vec<u8>, // frames for the segment, in wire form
    released: usize,    // how many of them had been parked, and are counted already
}

impl Tun {
    /// Take over an attached `/dev/net/tun` descriptor.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(fd: OwnedFd, tun: TunConfig) -> io::Result<Tun> {
        sys::set_nonblocking(&fd)?;
        let mode = if tun.peers.is_empty() { Mode::Broadcast } else { Mode::PointToPoint };
        let config = Config { local: tun.local, peers: tun.peers, ..Config::new(Mac(tun.mac), mode) };
        let adapter = Adapter::new(config);
        Ok(Tun { fd, packet_info: tun.packet_info, adapter, generated: Vec::new(), released: 0 })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn receive(&mut self, scratch: &mut Scratch, rx: &mut Lane, now_ms: u64) -> Result<(), End> {
        const MAX_PACKET: usize = MAX_FRAME - HEADER_LEN;
        let mut at = 0;
        for _ in 0..BUDGET {
            let mut info = [0; PACKET_INFO_LEN];
            let info = if self.packet_info { &mut info[..] } else { &mut [] };
            let skipped = info.len();
            let body = at + PREFIX_LEN + HEADER_LEN;
            let len = match sys::read_two(self.fd.as_fd(), info, &mut scratch.wire[body..body + MAX_PACKET]) {
                Ok(0) => return Err(End::Eof(0)), // a device never does: this is something else, at its end
                Ok(len) => len.saturating_sub(skipped),
                Err(error) if sys::would_block(&error) => break,
                Err(error) => return Err(error.into()),
            };
            rx.frames_in += 1;
            match self.adapter.to_guest(&scratch.wire[body..body + len], now_ms, &mut self.generated) {
                ToGuest::Header(header) => {
                    put_prefix(&mut scratch.wire, at, HEADER_LEN + len);
                    scratch.wire[at + PREFIX_LEN..body].copy_from_slice(&header);
                    let run = Run::one(at, HEADER_LEN + len, VnetHeader::PLAIN);
                    push_run(&mut scratch.runs, run);
                    at = run.end;
                }
                ToGuest::Parked { displaced } => rx.dropped(DropReason::NoNeighbour, displaced),
                ToGuest::Drop(reason) => rx.dropped(reason, 1),
            }
        }
        self.count_parked(rx);
        Ok(())
    }

    pub fn transmit(&mut self, wire: &[u8], runs: &[Run], out: &mut Outgoing<'_>) -> Result<(), End> {
        let now_ms = out.now_ms;
        out.each_frame(wire, runs, |frame, _| self.write(frame, now_ms))
    }

    pub fn flush(&mut self, out: &mut Outgoing<'_>) -> Result<(), End> {
        let now_ms = out.now_ms;
        out.each_queued(|frame, _| self.write(frame, now_ms))
    }

    fn write(&mut self, frame: &[u8], now_ms: u64) -> Result<Sent, End> {
        let parked = self.adapter.parked();
        let verdict = self.adapter.from_guest(frame, now_ms, &mut self.generated);
        self.released += parked - self.adapter.parked();
        match verdict {
            FromGuest::Packet { family, start, end } => {
                let packet = &frame[start..end];
                let result = if self.packet_info {
                    sys::write_two(self.fd.as_fd(), &packet_info(family), packet)
                } else {
                    sys::write(self.fd.as_fd(), packet)
                };
                sent(result, packet.len())
            }
            FromGuest::Consumed => Ok(Sent::Yes(frame.len())),
            FromGuest::Drop(reason) => Ok(Sent::No(reason)),
        }
    }

    /// Whether the adapter made frames for the segment.
    pub fn has_generated(&self) -> bool {
        !self.generated.is_empty()
    }

    /// Move them to `wire` and their runs to `runs`, as received ones.
    pub fn take_generated(&mut self, wire: &mut Vec<u8>, runs: &mut Vec<Run>, rx: &mut Lane) {
        std::mem::swap(wire, &mut self.generated);
        self.generated.clear();
        let found = scan(wire, runs);
        debug_assert!(found.consumed == wire.len() && found.runts == 0, "the adapter makes whole frames");
        rx.frames_in += (found.frames - std::mem::take(&mut self.released)) as u64;
        self.count_parked(rx);
    }

    /// When the adapter wants to ask again or to give up.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.adapter.deadline_ms()
    }

    /// Let it.
    pub fn handle_timeout(&mut self, now_ms: u64, rx: &mut Lane) {
        let polled = self.adapter.poll(now_ms, &mut self.generated);
        rx.dropped(DropReason::NoNeighbour, polled.lost);
        self.count_parked(rx);
    }

    fn count_parked(&self, rx: &mut Lane) {
        rx.queued = (self.adapter.parked() + self.released) as u64;
    }
}

fn packet_info(family: Family) -> [u8; PACKET_INFO_LEN] {
    let [high, low] = family.ether_type().to_be_bytes();
    [0, 0, high, low]
}
