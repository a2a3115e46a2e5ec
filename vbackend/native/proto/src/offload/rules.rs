//! The rules of merging, one question each, about frames whose headers are whole.

use super::MIN_TCP_GSO_SIZE;
use super::layout::{
    ACK, ECE, IPV4_CHECKSUM, IPV4_FRAGMENT, IPV4_TOTAL_LEN, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LEN, Layout, PSH,
    TCP_CHECKSUM, TCP_FLAGS, TCP_MIN_LEN, TCP_SEQUENCE, Transport, UDP_CHECKSUM, UDP_LEN,
};
use crate::checksum::sum;
use crate::wire::{Family, array, ethernet, ipv4, ipv6, word};

/// Whether a frame can be a part of a merge: data, no IP options, nothing behind the packet, no flag but ACK, PSH, ECE.
pub fn is_segment(frame: &[u8], layout: &Layout) -> bool {
    let Layout { l3, l4, payload, .. } = *layout;
    let ip = match layout.family {
        Family::Ipv4 => {
            l4 - l3 == ipv4::MIN_HEADER_LEN
                && usize::from(word(frame, l3 + IPV4_TOTAL_LEN.start)) == frame.len() - l3
        }
        Family::Ipv6 => {
            l4 - l3 == ipv6::HEADER_LEN
                && usize::from(word(frame, l3 + IPV6_PAYLOAD_LEN.start)) == frame.len() - l4
        }
    };
    let transport = match layout.transport {
        Transport::Tcp => frame[l4 + TCP_FLAGS] & !(PSH | ECE) == ACK,
        Transport::Udp => {
            usize::from(word(frame, l4 + UDP_LEN.start)) == frame.len() - l4
                && word(frame, l4 + UDP_CHECKSUM.start) != 0
        }
    };
    ip && transport && frame.len() > payload
}

/// Whether its data can be the size of all segments.
pub fn is_long_enough(frame: &[u8], layout: &Layout) -> bool {
    layout.transport == Transport::Udp || frame.len() - layout.payload >= usize::from(MIN_TCP_GSO_SIZE)
}

/// Whether nothing may follow a frame in its merge, since its sender wants it delivered.
pub fn is_pushed(frame: &[u8], layout: &Layout) -> bool {
    layout.transport == Transport::Tcp && frame[layout.l4 + TCP_FLAGS] & PSH != 0
}

/// Whether two frames belong to one flow: stations and tags, addresses, ports.
#[inline]
pub fn is_same_flow(a: &[u8], a_layout: &Layout, b: &[u8], b_layout: &Layout) -> bool {
    let Layout { family, transport, l3, l4, .. } = *a_layout;
    let (pair, addresses) = ([a, b], a_layout.addresses().start);
    array::<4>(a, l4) == array::<4>(b, b_layout.l4)
        && (family, transport, l3) == (b_layout.family, b_layout.transport, b_layout.l3)
        && match family {
            Family::Ipv4 => is_equal::<8>(pair, addresses),
            Family::Ipv6 => is_equal::<32>(pair, addresses),
        }
        && is_equal::<{ ethernet::HEADER_LEN }>(pair, 0)
        && (l3 == ethernet::HEADER_LEN || a[ethernet::HEADER_LEN..l3] == b[ethernet::HEADER_LEN..l3])
}

/// Whether a frame that is not shorter than the headers of `first` has the same ones, but for what differs in a merge's
/// frames. It has the same layout then, since what tells the layout is among the same.
#[inline]
pub fn are_alike(first: &[u8], frame: &[u8], layout: &Layout) -> bool {
    let Layout { l3, l4, payload, .. } = *layout;
    let pair = [first, frame];
    if !is_same_flow(first, layout, frame, layout) {
        return false;
    }
    let ip = match layout.family {
        Family::Ipv4 => {
            is_equal::<{ IPV4_TOTAL_LEN.start }>(pair, l3)
                && is_equal::<{ IPV4_CHECKSUM.start - IPV4_FRAGMENT }>(pair, l3 + IPV4_FRAGMENT)
        }
        Family::Ipv6 => {
            is_equal::<{ IPV6_PAYLOAD_LEN.start }>(pair, l3) && is_equal::<2>(pair, l3 + IPV6_NEXT_HEADER)
        }
    };
    ip && match layout.transport {
        Transport::Udp => true,
        Transport::Tcp => {
            let (flags, urgent, options) = (l4 + TCP_FLAGS, l4 + TCP_CHECKSUM.end, l4 + TCP_MIN_LEN);
            is_equal::<{ TCP_FLAGS - TCP_SEQUENCE.end }>(pair, l4 + TCP_SEQUENCE.end)
                && (first[flags] ^ frame[flags]) & !PSH == 0
                && is_equal::<{ TCP_CHECKSUM.start - TCP_FLAGS - 1 }>(pair, flags + 1)
                && is_equal::<{ TCP_MIN_LEN - TCP_CHECKSUM.end }>(pair, urgent)
                && (options == payload || first[options..payload] == frame[options..payload])
        }
    }
}

/// Whether `N` bytes are the same in both frames. A constant length compares in registers, without a call.
#[inline]
fn is_equal<const N: usize>([a, b]: [&[u8]; 2], at: usize) -> bool {
    array::<N>(a, at) == array::<N>(b, at)
}

/// Whether both checksums are right, and written as a sender writes them (0xffff stands for 0 in UDP only).
pub fn is_right(frame: &[u8], layout: &Layout) -> bool {
    let Layout { l3, l4, .. } = *layout;
    let field = |at: usize| word(frame, at);
    let ip = layout.family == Family::Ipv6
        || field(l3 + IPV4_CHECKSUM.start) != u16::MAX && sum(&frame[l3..l4]).folded() == u16::MAX;
    let mut whole = layout.pseudo_header(frame, frame.len() - l4);
    whole.add(&frame[l4..]);
    let written = layout.transport == Transport::Udp || field(layout.checksum().start) != u16::MAX;
    ip && written && whole.folded() == u16::MAX
}
