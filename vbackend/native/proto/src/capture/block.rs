//! pcapng's Enhanced Packet Block (draft-ietf-opsawg-pcapng-04, section 4.3), little-endian.
//!
//! The blocks around it (section header, interface descriptions, statistics) are Python's business.

const BLOCK_TYPE: u32 = 6;
const OPT_COMMENT: u16 = 1;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;

/// Bytes of a block without packet and optional options: 7 words in front, end of options, the length again.
const FIXED_LEN: usize = 28 + 4 + 4;
const FLAGS_LEN: usize = 8;
const DROPCOUNT_LEN: usize = 12;

/// Which way a packet went; the numbers are those of `epb_flags` (section 4.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the port's peer.
    Inbound = 1,
    /// To the port's peer.
    Outbound = 2,
}

/// A packet as it is written.
#[derive(Clone, Copy, Debug)]
pub struct PacketBlock<'a> {
    /// The index of the interface's description in its section.
    pub interface: u32,
    /// Nanoseconds since the epoch (`if_tsresol` 9).
    pub time_ns: u64,
    /// Which way it went; None: the interface has only one.
    pub direction: Option<Direction>,
    /// What lies in front of the packet: a link header of our making, or nothing.
    pub header: &'a [u8],
    /// The packet, whole.
    pub packet: &'a [u8],
    /// Bytes of header and packet to keep at most.
    pub snaplen: usize,
    /// Packets of this interface that the capture lost since the last block.
    pub lost_before: u64,
    /// What became of it in words; none when empty.
    pub comment: &'a str,
}

impl PacketBlock<'_> {
    /// Bytes that [`PacketBlock::emit`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let dropcount = if self.lost_before > 0 { DROPCOUNT_LEN } else { 0 };
        let flags = if self.direction.is_some() { FLAGS_LEN } else { 0 };
        let comment = if self.comment.is_empty() { 0 } else { 4 + padded(self.comment.len()) };
        FIXED_LEN + padded(self.captured()) + flags + dropcount + comment
    }

    fn captured(&self) -> usize {
        (self.header.len() + self.packet.len()).min(self.snaplen)
    }

    /// Append the block to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let captured = self.captured();
        let header = &self.header[..captured.min(self.header.len())];
        let packet = &self.packet[..captured - header.len()];
        let half = |shift: u32| u32::try_from(self.time_ns >> shift & 0xffff_ffff).unwrap_or(0);
        let total = word(self.encoded_len());
        for value in [
            BLOCK_TYPE,
            total,
            self.interface,
            half(32),
            half(0),
            word(captured),
            word(self.header.len() + self.packet.len()),
        ] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(header);
        out.extend_from_slice(packet);
        pad(out, captured);
        if let Some(direction) = self.direction {
            put_option(out, EPB_FLAGS, &(direction as u32).to_le_bytes());
        }
        if self.lost_before > 0 {
            put_option(out, EPB_DROPCOUNT, &self.lost_before.to_le_bytes());
        }
        if !self.comment.is_empty() {
            put_option(out, OPT_COMMENT, self.comment.as_bytes());
        }
        out.extend_from_slice(&[0; 4]); // opt_endofopt
        out.extend_from_slice(&total.to_le_bytes());
    }
}

fn put_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(value);
    pad(out, value.len());
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

fn pad(out: &mut Vec<u8>, len: usize) {
    out.resize(out.len() + padded(len) - len, 0);
}

fn word(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: PacketBlock<'_> = PacketBlock {
        interface: 3,
        time_ns: 0x0102_0304_0506_0708,
        direction: Some(Direction::Inbound),
        header: &[],
        packet: &[0xaa; 6],
        snaplen: 1000,
        lost_before: 0,
        comment: "",
    };

    fn emitted(block: PacketBlock<'_>) -> Vec<u8> {
        let mut out = vec![0x55];
        block.emit(&mut out);
        assert_eq!(out[0], 0x55, "appended");
        assert_eq!(out.len() - 1, block.encoded_len());
        out.split_off(1)
    }

    #[test]
    fn a_plain_block_byte_by_byte() {
        #[rustfmt::skip]
        let expected = [
            6, 0, 0, 0, 52, 0, 0, 0, // type, length
            3, 0, 0, 0, // interface
            4, 3, 2, 1, 8, 7, 6, 5, // time, the high word first
            6, 0, 0, 0, 6, 0, 0, 0, // captured, original
            0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0, 0,
            2, 0, 4, 0, 1, 0, 0, 0, // epb_flags: inbound
            0, 0, 0, 0, // opt_endofopt
            52, 0, 0, 0,
        ];
        assert_eq!(emitted(PLAIN), expected);
    }

    #[test]
    fn what_was_lost_is_told() {
        let block = PacketBlock {
            direction: Some(Direction::Outbound),
            packet: &[],
            lost_before: 0x0203,
            comment: "dropped: queue-full",
            ..PLAIN
        };
        let mut expected = vec![2, 0, 4, 0, 2, 0, 0, 0, 4, 0, 8, 0, 3, 2, 0, 0, 0, 0, 0, 0, 1, 0, 19, 0];
        expected.extend_from_slice(b"dropped: queue-full\0");
        assert_eq!(emitted(block)[28..28 + expected.len()], expected);
    }

    #[test]
    fn an_interface_of_one_direction_has_no_flags() {
        let block = emitted(PacketBlock { direction: None, packet: &[], comment: "x", ..PLAIN });
        assert_eq!(block[28..], [1, 0, 1, 0, b'x', 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0]);
    }

    #[test]
    fn snaplen_cuts_header_and_packet_as_one() {
        // (snaplen, captured bytes)
        for (snaplen, kept) in [
            (0, &[][..]),
            (3, &[1, 2, 3]),
            (4, &[1, 2, 3, 4]),
            (6, &[1, 2, 3, 4, 0xaa, 0xaa]),
            (99, &[1, 2, 3, 4, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa]),
        ] {
            let bytes = emitted(PacketBlock { header: &[1, 2, 3, 4], snaplen, ..PLAIN });
            assert_eq!((usize::from(bytes[20]), bytes[24]), (kept.len(), 10), "{snaplen}");
            assert_eq!(bytes[28..28 + kept.len()], *kept, "{snaplen}");
        }
    }
}
