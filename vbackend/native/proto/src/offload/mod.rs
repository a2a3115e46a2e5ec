//! Offloads: what a sender may leave to others, what a receiver takes, and what is done in between.
//!
//! ```text
//!   frames of a sender ──┬─ the receiver covers them ────────────► as they are
//!                        ├─ it does not: [`segment`], or a checksum ─► plain frames
//!                        └─ plain, and it takes more: [`Merger`] ───► fewer, larger frames
//! ```
//!
//! Headers come from hostile guests too: nothing in one is believed before [`check`] has held it against the frame.

mod fragment;
mod layout;
mod merge;
mod rules;
mod segment;

use std::ops::BitOr;

use crate::checksum;
use crate::drop_reason::DropReason;
use crate::framing::{PREFIX_LEN, Run, push_frame, push_run};
use crate::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, VnetHeader};
use crate::wire::Family;

pub use self::merge::Merger;
pub use self::segment::segment;

pub(crate) use self::layout::{Layout, Transport};

/// What a receiver takes, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads(u8);

/// `VIRTIO_NET_F_GUEST_*` (VIRTIO 1.2 §5.1.3), by bit number.
const GUEST_FEATURES: [(u32, Offloads); 5] =
    [(1, Offloads::CSUM), (7, Offloads::TSO4), (8, Offloads::TSO6), (9, Offloads::ECN), (10, Offloads::UFO)];
const GUEST_USO4_AND_USO6: u64 = 1 << 54 | 1 << 55;

impl Offloads {
    /// Plain frames only.
    pub const NONE: Offloads = Offloads(0);
    /// Partial checksums. Without it a receiver takes none of the others.
    pub const CSUM: Offloads = Offloads(1);
    /// TCP segments over IPv4 in one frame.
    pub const TSO4: Offloads = Offloads(2);
    /// TCP segments over IPv6 in one frame.
    pub const TSO6: Offloads = Offloads(4);
    /// Such frames with CWR set.
    pub const ECN: Offloads = Offloads(8);
    /// A UDP datagram that is to be fragmented.
    pub const UFO: Offloads = Offloads(16);
    /// UDP datagrams in one frame, over IPv4 and IPv6: their headers do not tell which, and tun(4) has them only together.
    pub const USO: Offloads = Offloads(32);

    /// Everything.
    pub const ALL: Offloads = Offloads(63);

    /// Whether all of `other` are in this set.
    #[must_use]
    pub const fn contains(self, other: Offloads) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set but for `other`.
    #[must_use]
    pub const fn without(self, other: Offloads) -> Offloads {
        Offloads(self.0 & !other.0)
    }

    /// What a guest's driver negotiated to receive.
    #[must_use]
    pub fn from_virtio_guest_features(features: u64) -> Offloads {
        let mut offloads = Offloads::NONE;
        for (bit, offload) in GUEST_FEATURES {
            if features & (1 << bit) != 0 {
                offloads = offloads | offload;
            }
        }
        if features & GUEST_USO4_AND_USO6 == GUEST_USO4_AND_USO6 {
            offloads = offloads | Offloads::USO;
        }
        if offloads.contains(Offloads::CSUM) { offloads } else { Offloads::NONE }
    }

    /// Whether the receiver takes a frame with this header as it is.
    #[inline]
    #[must_use]
    pub fn covers(self, vnet: &VnetHeader) -> bool {
        let needed = match vnet.gso_type & !GSO_ECN {
            GSO_NONE if vnet.gso_type != GSO_NONE => return false,
            GSO_NONE if !vnet.needs_csum() => return true,
            GSO_NONE => Offloads::NONE,
            GSO_TCPV4 => Offloads::TSO4,
            GSO_TCPV6 => Offloads::TSO6,
            GSO_UDP => Offloads::UFO,
            GSO_UDP_L4 => Offloads::USO,
            _ => return false,
        };
        let ecn = if vnet.gso_type & GSO_ECN == 0 { Offloads::NONE } else { Offloads::ECN };
        self.contains(Offloads::CSUM | needed | ecn)
    }
}

impl BitOr for Offloads {
    type Output = Offloads;

    fn bitor(self, other: Offloads) -> Offloads {
        Offloads(self.0 | other.0)
    }
}

/// Whether a header fits its frame, so that any receiver which covers it can take it. `hdr_len` is only a hint.
///
/// # Errors
/// [`DropReason::BadOffload`]: a field that points outside the frame, an unknown type, headers that are not what the
/// type says, a segment size that makes no sense.
pub fn check(frame: &[u8], vnet: &VnetHeader) -> Result<(), DropReason> {
    if vnet.needs_csum() {
        let field = usize::from(vnet.csum_start) + usize::from(vnet.csum_offset);
        if field + 2 > frame.len() {
            return Err(DropReason::BadOffload);
        }
    }
    if vnet.is_gso() { gso_layout(frame, vnet).map(|_| ()) } else { Ok(()) }
}

/// Append `frame` to `wire`, behind a prefix, as the plain frames a receiver without offloads can take: with its checksum
/// complete, or as segments. Returns how many frames were appended; `runs` says where.
///
/// # Errors
/// [`DropReason::BadOffload`], as [`check`]; [`DropReason::Offload`] for a datagram over IPv6 with extension headers that is
/// to be fragmented. Nothing is appended then.
pub fn settle(
    frame: &[u8],
    vnet: &VnetHeader,
    wire: &mut Vec<u8>,
    runs: &mut Vec<Run>,
) -> Result<usize, DropReason> {
    if vnet.is_gso() {
        return segment(frame, vnet, wire, runs);
    }
    let at = push_frame(wire, frame);
    let body = at + PREFIX_LEN;
    if vnet.needs_csum()
        && let Err(reason) = checksum::complete(&mut wire[body..], vnet.csum_start, vnet.csum_offset)
    {
        wire.truncate(at);
        return Err(reason);
    }
    push_run(runs, Run::one(at, frame.len(), VnetHeader::PLAIN));
    Ok(1)
}

/// Where the headers of a GSO frame lie, when its virtio-net header fits it.
fn gso_layout(frame: &[u8], vnet: &VnetHeader) -> Result<Layout, DropReason> {
    let layout = Layout::parse(frame).ok_or(DropReason::BadOffload)?;
    let is_tcp = layout.transport == Transport::Tcp;
    let (fits, csum_offset) = match vnet.gso_type & !GSO_ECN {
        GSO_TCPV4 => (is_tcp && layout.family == Family::Ipv4, layout::TCP_CHECKSUM.start),
        GSO_TCPV6 => (is_tcp && layout.family == Family::Ipv6, layout::TCP_CHECKSUM.start),
        GSO_UDP | GSO_UDP_L4 if vnet.gso_type & GSO_ECN == 0 => (!is_tcp, layout::UDP_CHECKSUM.start),
        _ => (false, 0),
    };
    let partial = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    let agrees = !vnet.needs_csum() || partial == (layout.l4, csum_offset);
    let segments = (frame.len() - layout.payload).div_ceil(usize::from(vnet.gso_size).max(1));
    let sane = match layout.transport {
        Transport::Tcp => vnet.gso_size >= MIN_TCP_GSO_SIZE,
        Transport::Udp if vnet.gso_type == GSO_UDP => vnet.gso_size >= MIN_FRAGMENT,
        Transport::Udp => vnet.gso_size > 0 && segments <= MAX_UDP_SEGMENTS,
    };
    if fits && agrees && sane && layout.payload <= MAX_HEADERS {
        Ok(layout)
    } else {
        Err(DropReason::BadOffload)
    }
}

/// The longest headers of a GSO frame: Ethernet with two tags, and IPv4 with options and TCP with options (142 bytes) or
/// IPv6 with 70 bytes of extension headers. Each segment has a copy of them, so that 32 KiB of extension headers would
/// make 128 MiB of one frame; and a receiver of frames in pieces has them at hand (`HEAD` of the engine's `port/lazy.rs`).
pub const MAX_HEADERS: usize = 192;

/// Below it a guest could make this host work for a frame per byte (Linux `include/net/tcp.h`: `TCP_MIN_SND_MSS` leaves
/// 8 bytes of data behind 40 of options).
const MIN_TCP_GSO_SIZE: u16 = 8;

/// The unit of fragment offsets (RFC 791 §3.1).
const MIN_FRAGMENT: u16 = 8;

/// Linux `include/linux/udp.h`: `UDP_MAX_SEGMENTS`.
const MAX_UDP_SEGMENTS: usize = 128;

/// The longest IP packet: its length is 16 bits wide. IPv6 could have 40 bytes more, which nothing needs.
const MAX_PACKET: usize = 65_535;

#[cfg(test)]
mod tests;
