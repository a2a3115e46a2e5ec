//! Cutting a UDP datagram into IP fragments (`VIRTIO_NET_HDR_GSO_UDP`), as `inet_gso_segment()` and
//! `udp6_ufo_fragment()` do (Linux `net/ipv4/af_inet.c`, `net/ipv6/udp_offload.c`).

use super::MAX_PACKET;
use super::layout::{
    IPV4_CHECKSUM, IPV4_FRAGMENT, IPV4_TOTAL_LEN, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LEN, Layout, UDP_CHECKSUM,
    UDP_LEN,
};
use super::segment::put_word;
use crate::checksum::{complete, sum};
use crate::drop_reason::DropReason;
use crate::framing::{PREFIX_LEN, Run, push_run, put_prefix};
use crate::vnet::VnetHeader;
use crate::wire::{Family, ipv6};

/// Offsets count units of so many bytes, so all fragments but the last are a multiple of it (RFC 791 §3.1, RFC 8200 §4.5).
const UNIT: usize = 8;
/// IPv4's "more fragments", in the word at [`IPV4_FRAGMENT`].
const IPV4_MORE: usize = 0x2000;
/// RFC 8200 §4.5: next header, reserved, offset and M, identification.
const IPV6_HEADER_LEN: usize = 8;
const IPV6_FRAGMENT: u8 = 44;
const UDP: u8 = 17;

/// Append the fragments of `frame`, a datagram whose IP payload is cut into `vnet.gso_size` bytes, rounded down to whole
/// units; returns how many. The datagram's length and checksum are completed first.
///
/// # Errors
/// [`DropReason::BadOffload`]: the datagram is longer than IP can carry; [`DropReason::Offload`]: IPv6 with extension
/// headers. Nothing is appended then.
pub fn fragment(
    frame: &[u8],
    layout: &Layout,
    vnet: &VnetHeader,
    wire: &mut Vec<u8>,
    runs: &mut Vec<Run>,
) -> Result<usize, DropReason> {
    let Layout { l3, l4, .. } = *layout;
    let len = frame.len() - l4;
    if frame.len() - l3 + IPV6_HEADER_LEN > MAX_PACKET {
        return Err(DropReason::BadOffload);
    }
    if layout.family == Family::Ipv6 && l4 - l3 != ipv6::HEADER_LEN {
        return Err(DropReason::Offload);
    }
    let mut datagram = frame[l4..].to_vec();
    put_word(&mut datagram, UDP_LEN.start, len);
    let pseudo = layout.pseudo_header(frame, len).folded();
    put_word(&mut datagram, UDP_CHECKSUM.start, usize::from(pseudo));
    let field = u16::try_from(UDP_CHECKSUM.start).unwrap_or(u16::MAX);
    complete(&mut datagram, 0, field)?;

    let id = identification(&datagram);
    let size = usize::from(vnet.gso_size) / UNIT * UNIT;
    for (index, piece) in datagram.chunks(size).enumerate() {
        let (offset, is_last) = (index * size, (index + 1) * size >= len);
        let more = |flag: usize| if is_last { 0 } else { flag };
        let at = wire.len();
        wire.resize(at + PREFIX_LEN, 0);
        wire.extend_from_slice(&frame[..l4]);
        let header = &mut wire[at + PREFIX_LEN + l3..];
        match layout.family {
            Family::Ipv4 => {
                put_word(header, IPV4_TOTAL_LEN.start, l4 - l3 + piece.len());
                put_word(header, IPV4_FRAGMENT, offset / UNIT + more(IPV4_MORE));
                put_word(header, IPV4_CHECKSUM.start, 0);
                let checksum = sum(header).checksum();
                put_word(header, IPV4_CHECKSUM.start, usize::from(checksum));
            }
            Family::Ipv6 => {
                put_word(header, IPV6_PAYLOAD_LEN.start, IPV6_HEADER_LEN + piece.len());
                header[IPV6_NEXT_HEADER] = IPV6_FRAGMENT;
                let mut extension = [UDP, 0, 0, 0, 0, 0, 0, 0];
                put_word(&mut extension, 2, offset + more(1));
                extension[4..].copy_from_slice(&id.to_be_bytes());
                wire.extend_from_slice(&extension);
            }
        }
        wire.extend_from_slice(piece);
        let body = wire.len() - at - PREFIX_LEN;
        put_prefix(wire, at, body);
        push_run(runs, Run::one(at, body, VnetHeader::PLAIN));
    }
    Ok(len.div_ceil(size))
}

/// What tells the fragments of one IPv6 datagram from those of others: a hash of it (FNV-1a), so that fragments which are
/// taken for each other's are equal.
fn identification(datagram: &[u8]) -> u32 {
    datagram.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
