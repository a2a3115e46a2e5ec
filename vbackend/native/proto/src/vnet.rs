//! The virtio-net header as metadata of a frame: what its sender left for others to do.
//!
//! On stream and dgram sockets every frame is plain (QEMU sends complete checksums and no GSO there). A tap with
//! `IFF_VNET_HDR` and shared rings carry it. Layout: VIRTIO 1.2 §5.1.6, `struct virtio_net_hdr_mrg_rxbuf`, little
//! endian; `num_buffers` is always present (12 bytes) and always 1 here.

/// Bytes of the header in front of a frame.
pub const VNET_HEADER_LEN: usize = 12;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum from `csum_start` on is to be completed.
pub const NEEDS_CSUM: u8 = 1;

/// `VIRTIO_NET_HDR_GSO_NONE`.
pub const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
pub const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP`: one datagram, to be cut into IP fragments.
pub const GSO_UDP: u8 = 3;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
pub const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: datagrams of equal length.
pub const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, beside a TCP type: the first segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// Offload state of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Only [`NEEDS_CSUM`] is kept; `DATA_VALID` and the rest say nothing to a forwarder.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Bytes of all headers, a hint.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where checksumming starts, from the frame's first byte.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Nothing left to do.
    pub const PLAIN: VnetHeader =
        VnetHeader { flags: 0, gso_type: GSO_NONE, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };

    /// Whether the frame can go anywhere as it is.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.flags & NEEDS_CSUM == 0 && self.gso_type == GSO_NONE
    }

    /// Whether the checksum is to be completed.
    #[must_use]
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Whether the frame is to be cut into segments.
    #[must_use]
    pub fn is_gso(&self) -> bool {
        self.gso_type != GSO_NONE
    }

    /// Read a header. A plain one comes back as [`VnetHeader::PLAIN`], whatever its unused fields hold.
    #[must_use]
    pub fn parse(raw: &[u8; VNET_HEADER_LEN]) -> VnetHeader {
        let word = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let header = VnetHeader {
            flags: raw[0] & NEEDS_CSUM,
            gso_type: raw[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        };
        if header.is_plain() { VnetHeader::PLAIN } else { header }
    }

    /// The header in wire form.
    #[must_use]
    pub fn emit(&self) -> [u8; VNET_HEADER_LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 1, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emit_then_parse_is_the_identity() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: 1,
            hdr_len: 54,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(VnetHeader::parse(&header.emit()), header);
        assert_eq!(VnetHeader::PLAIN.emit(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_header_that_asks_for_nothing_is_plain() {
        let data_valid = 2;
        let raw = [data_valid, 0, 54, 0, 9, 9, 9, 9, 9, 9, 1, 0];
        assert_eq!(VnetHeader::parse(&raw), VnetHeader::PLAIN);
    }
}
