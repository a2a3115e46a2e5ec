//! pcapng's Enhanced Packet Block (draft-ietf-opsawg-pcapng-04, section 4.3), little-endian.
//!
//! The blocks around it (section header, interface descriptions, statistics) are Python's business.

use crate::drop_reason::DropReason;

const BLOCK_TYPE: u32 = 6;
const OPT_COMMENT: u16 = 1;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;

/// Bytes of a block without packet and optional options: 7 words in front, flags, end of options, the length again.
const FIXED_LEN: usize = 28 + 8 + 4 + 4;
const DROPCOUNT_LEN: usize = 12;
const VERDICT: &str = "dropped: ";

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
    /// Which way it went.
    pub direction: Direction,
    /// What lies in front of the packet: a link header of our making, or nothing.
    pub header: &'a [u8],
    /// The packet, whole.
    pub packet: &'a [u8],
    /// Bytes of header and packet to keep at most.
    pub snaplen: usize,
    /// Packets of this interface that the capture lost since the last block.
    pub lost_before: u64,
    /// Why the packet went no further, when it did not.
    pub verdict: Option<DropReason>,
}

impl PacketBlock<'_> {
    /// Bytes that [`PacketBlock::emit`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let dropcount = if self.lost_before > 0 { DROPCOUNT_LEN } else { 0 };
        let comment = self.verdict.map_or(0, |reason| 4 + padded(VERDICT.len() + reason.name().len()));
        FIXED_LEN + padded(self.captured()) + dropcount + comment
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
        put_option(out, EPB_FLAGS, &[&(self.direction as u32).to_le_bytes()]);
        if self.lost_before > 0 {
            put_option(out, EPB_DROPCOUNT, &[&self.lost_before.to_le_bytes()]);
        }
        if let Some(reason) = self.verdict {
            put_option(out, OPT_COMMENT, &[VERDICT.as_bytes(), reason.name().as_bytes()]);
        }
        out.extend_from_slice(&[0; 4]); // opt_endofopt
        out.extend_from_slice(&total.to_le_bytes());
    }
}

fn put_option(out: &mut Vec<u8>, code: u16, pieces: &[&[u8]]) {
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
    pieces.iter().for_each(|piece| out.extend_from_slice(piece));
    pad(out, len);
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
        direction: Direction::Inbound,
        header: &[],
        packet: &[0xaa; 6],
        snaplen: 1000,
        lost_before: 0,
        verdict: None,
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
            direction: Direction::Outbound,
            packet: &[],
            lost_before: 0x0203,
            verdict: Some(DropReason::QueueFull),
            ..PLAIN
        };
        let mut expected = vec![2, 0, 4, 0, 2, 0, 0, 0, 4, 0, 8, 0, 3, 2, 0, 0, 0, 0, 0, 0, 1, 0, 19, 0];
        expected.extend_from_slice(b"dropped: queue-full\0");
        assert_eq!(emitted(block)[28..28 + expected.len()], expected);
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
