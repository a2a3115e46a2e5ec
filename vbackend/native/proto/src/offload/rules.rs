//! The rules of merging, one question each, about frames whose headers are whole.

use super::MIN_TCP_GSO_SIZE;
use super::layout::{
    ACK, ECE, IPV4_CHECKSUM, IPV4_FRAGMENT, IPV4_TOTAL_LEN, IPV6_PAYLOAD_LEN, Layout, PSH, TCP_CHECKSUM,
    TCP_FLAGS, TCP_SEQUENCE, Transport, UDP_CHECKSUM, UDP_LEN,
};
use crate::checksum::sum;
use crate::wire::{Family, array, ipv4, ipv6, word};

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
    let ports = |frame: &[u8], layout: &Layout| array::<4>(frame, layout.l4);
    ports(a, a_layout) == ports(b, b_layout)
        && (a_layout.family, a_layout.transport) == (b_layout.family, b_layout.transport)
        && a[a_layout.addresses()] == b[b_layout.addresses()]
        && a[..a_layout.l3] == b[..b_layout.l3]
}

/// Whether all fields are equal that are equal in a merge's frames, of two frames of one flow and layout.
pub fn are_equal_headers(first: &[u8], frame: &[u8], layout: &Layout) -> bool {
    let Layout { l3, l4, payload, .. } = *layout;
    let is_equal = |from: usize, to: usize| first[from..to] == frame[from..to];
    let ip = match layout.family {
        Family::Ipv4 => {
            is_equal(l3, l3 + IPV4_TOTAL_LEN.start) && is_equal(l3 + IPV4_FRAGMENT, l3 + IPV4_CHECKSUM.start)
        }
        Family::Ipv6 => {
            is_equal(l3, l3 + IPV6_PAYLOAD_LEN.start)
                && is_equal(l3 + IPV6_PAYLOAD_LEN.end, layout.addresses().start)
        }
    };
    ip && match layout.transport {
        Transport::Udp => true,
        Transport::Tcp => {
            let flags = l4 + TCP_FLAGS;
            is_equal(l4 + TCP_SEQUENCE.end, flags)
                && (first[flags] ^ frame[flags]) & !PSH == 0
                && is_equal(flags + 1, l4 + TCP_CHECKSUM.start)
                && is_equal(l4 + TCP_CHECKSUM.end, payload)
        }
    }
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
