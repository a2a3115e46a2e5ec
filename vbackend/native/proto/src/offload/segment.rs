//! Cutting a GSO frame into the frames it stands for, as `tcp_gso_segment()` and `__udp_gso_segment()` do
//! (Linux `net/ipv4/tcp_offload.c`, `net/ipv4/udp_offload.c`).

use super::fragment::fragment;
use super::layout::{
    CWR, FIN, IPV4_CHECKSUM, IPV4_ID, IPV4_TOTAL_LEN, IPV6_PAYLOAD_LEN, Layout, PSH, TCP_FLAGS, TCP_SEQUENCE,
    Transport, UDP_LEN,
};
use super::{MAX_PACKET, gso_layout};
use crate::checksum::sum;
use crate::drop_reason::DropReason;
use crate::framing::{PREFIX_LEN, Run, push_run, put_prefix};
use crate::vnet::{GSO_UDP, VnetHeader};
use crate::wire::{Family, array, ipv6, word};

/// Append the segments of `frame`, or its fragments, to `wire`, each a plain frame behind its prefix; returns how many. `runs` says where
/// they are.
///
/// Sequence numbers, lengths, IPv4 identifications and checksums are each segment's own; only the last has FIN and PSH,
/// only the first CWR. The length fields of `frame` are not believed, its length is: as in `inet_gso_segment()`.
///
/// # Errors
/// [`DropReason::BadOffload`] when `vnet` does not fit the frame, [`DropReason::Offload`] for what `fragment` cannot cut.
/// Nothing is appended then.
pub fn segment(
    frame: &[u8],
    vnet: &VnetHeader,
    wire: &mut Vec<u8>,
    runs: &mut Vec<Run>,
) -> Result<usize, DropReason> {
    let layout = gso_layout(frame, vnet)?;
    let size = usize::from(vnet.gso_size);
    let (headers, data) = frame.split_at(layout.payload);
    if vnet.gso_type == GSO_UDP {
        return fragment(frame, &layout, vnet, wire, runs);
    }
    if headers.len() - layout.l3 + size.min(data.len()) > MAX_PACKET {
        return Err(DropReason::BadOffload);
    }
    let last = data.len().saturating_sub(1) / size;
    let start = wire.len();
    wire.reserve(data.len() + (last + 1) * (PREFIX_LEN + headers.len()));
    for index in 0..=last {
        let piece = &data[index * size..data.len().min((index + 1) * size)];
        let at = wire.len();
        wire.resize(at + PREFIX_LEN, 0);
        put_prefix(wire, at, headers.len() + piece.len());
        wire.extend_from_slice(headers);
        wire.extend_from_slice(piece);
        finish(&mut wire[at + PREFIX_LEN..], &layout, index, size, index == last);
    }
    push_run(runs, Run { start, end: wire.len(), frames: last + 1, vnet: VnetHeader::PLAIN });
    Ok(last + 1)
}

/// Give a copy of the headers what makes it segment number `index`, of `size` bytes unless it is the last.
fn finish(segment: &mut [u8], layout: &Layout, index: usize, size: usize, is_last: bool) {
    let Layout { l3, l4, .. } = *layout;
    let len = segment.len();
    match layout.family {
        Family::Ipv4 => {
            put_word(segment, l3 + IPV4_TOTAL_LEN.start, len - l3);
            let id = usize::from(word(segment, l3 + IPV4_ID.start)) + index;
            put_word(segment, l3 + IPV4_ID.start, id & 0xffff);
            put_word(segment, l3 + IPV4_CHECKSUM.start, 0);
            let checksum = sum(&segment[l3..l4]).checksum();
            put_word(segment, l3 + IPV4_CHECKSUM.start, usize::from(checksum));
        }
        Family::Ipv6 => put_word(segment, l3 + IPV6_PAYLOAD_LEN.start, len - l3 - ipv6::HEADER_LEN),
    }
    match layout.transport {
        Transport::Tcp => {
            let field = l4 + TCP_SEQUENCE.start;
            let sent = u32::try_from(index * size).unwrap_or(0); // of a frame: below 69632
            let sequence = u32::from_be_bytes(array(segment, field)).wrapping_add(sent);
            segment[field..field + 4].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut segment[l4 + TCP_FLAGS];
            *flags &= !if index > 0 { CWR } else { 0 };
            *flags &= !if is_last { 0 } else { FIN | PSH };
        }
        Transport::Udp => put_word(segment, l4 + UDP_LEN.start, len - l4),
    }
    put_word(segment, layout.checksum().start, 0);
    let mut whole = layout.pseudo_header(segment, len - l4);
    whole.add(&segment[l4..]);
    let checksum = match (layout.transport, whole.checksum()) {
        (Transport::Udp, 0) => u16::MAX, // 0 is "none" (RFC 768)
        (_, checksum) => checksum,
    };
    put_word(segment, layout.checksum().start, usize::from(checksum));
}

/// Write a number that the caller knows to be below 64 Ki.
pub(super) fn put_word(bytes: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).unwrap_or(u16::MAX);
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
