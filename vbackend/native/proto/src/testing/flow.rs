//! TCP and UDP frames, one field at a time: plain ones with right checksums, and the GSO frames that stand for many.
//! Checksums are taken by their definition, not by the code under test.

use super::checksum::naive_sum;
use crate::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// What the frames of a flow are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// UDP instead of TCP.
    pub udp: bool,
    /// VLAN tags behind the addresses, outermost first: EtherType and tag.
    pub tags: Vec<[u8; 4]>,
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Of the next frame's first byte.
    pub sequence: u32,
    /// What is acknowledged.
    pub acknowledged: u32,
    /// TCP flags.
    pub flags: u8,
    /// TCP window.
    pub window: u16,
    /// TCP options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// The next IPv4 identification.
    pub id: u16,
    /// The word with IPv4's flags and fragment offset.
    pub fragment: u16,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// TTL, or hop limit.
    pub ttl: u8,
    /// IPv6 extension headers, chained: the first one's type and all bytes. The last one's next header is set here.
    pub extensions: Option<(u8, Vec<u8>)>,
}

impl Flow {
    /// A bulk transfer over IPv4 with timestamps.
    #[must_use]
    pub fn tcp() -> Flow {
        Flow {
            v6: false,
            udp: false,
            tags: Vec::new(),
            ports: [50_000, 5201],
            sequence: 1,
            acknowledged: 77,
            flags: 0x10,
            window: 502,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            id: 1000,
            fragment: 0x4000,
            tos: 0,
            ttl: 64,
            extensions: None,
        }
    }

    /// Datagrams over IPv4.
    #[must_use]
    pub fn udp() -> Flow {
        Flow { udp: true, options: Vec::new(), ..Flow::tcp() }
    }

    /// The same over IPv6.
    #[must_use]
    pub fn over_v6(self) -> Flow {
        Flow { v6: true, ..self }
    }

    /// Bytes of Ethernet's header, tags, IP's header and extensions.
    #[must_use]
    pub fn l4(&self) -> usize {
        let extensions = self.extensions.as_ref().map_or(0, |(_, bytes)| bytes.len());
        14 + 4 * self.tags.len() + if self.v6 { 40 + extensions } else { 20 }
    }

    /// The plain frame with `data`.
    #[must_use]
    pub fn frame(&self, data: &[u8]) -> Vec<u8> {
        self.emit(data, true)
    }

    /// The next plain frame; the flow moves on.
    pub fn next(&mut self, data: &[u8]) -> Vec<u8> {
        let frame = self.frame(data);
        self.sequence = self.sequence.wrapping_add(data.len() as u32);
        self.id = self.id.wrapping_add(1);
        frame
    }

    /// The plain frames that carry `data`, `size` bytes in each: PSH and FIN only in the last, CWR in the first.
    #[must_use]
    pub fn segments(&self, data: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut flow = self.clone();
        let last = data.chunks(size).count() - 1;
        let segment = |(index, piece)| {
            flow.flags =
                self.flags & !if index == last { 0 } else { 0x09 } & !if index == 0 { 0 } else { 0x80 };
            flow.next(piece)
        };
        data.chunks(size).enumerate().map(segment).collect()
    }

    /// The frame with a partial checksum that stands for these segments, and its virtio-net header.
    #[must_use]
    pub fn gso(&self, data: &[u8], size: usize) -> (Vec<u8>, VnetHeader) {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: match (self.udp, self.v6) {
                (true, _) => GSO_UDP_L4,
                (false, false) => GSO_TCPV4,
                (false, true) => GSO_TCPV6,
            },
            hdr_len: (self.l4() + self.transport(0).len()) as u16,
            gso_size: size as u16,
            csum_start: self.l4() as u16,
            csum_offset: if self.udp { 6 } else { 16 },
        };
        (self.emit(data, false), header)
    }

    fn emit(&self, data: &[u8], is_complete: bool) -> Vec<u8> {
        let mut transport = self.transport(data.len());
        let field = if self.udp { 6 } else { 16 };
        transport.extend_from_slice(data);
        let len = transport.len() as u16;
        let pseudo = naive_sum(&[&self.addresses()[..], &[0, self.protocol()], &len.to_be_bytes()].concat());
        let checksum = match is_complete {
            false => pseudo,
            true => match !naive_sum(&[&pseudo.to_be_bytes()[..], &transport].concat()) {
                0 if self.udp => 0xffff,
                checksum => checksum,
            },
        };
        transport[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        let ether_type: [u8; 2] = if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        let stations = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        [&stations[..], &self.tags.concat(), &ether_type, &self.ip(len), &transport].concat()
    }

    fn protocol(&self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    fn addresses(&self) -> Vec<u8> {
        match self.v6 {
            false => vec![10, 0, 0, 1, 10, 0, 0, 2],
            true => {
                let mut addresses = vec![0; 32];
                (addresses[0], addresses[15], addresses[16], addresses[31]) = (0xfd, 1, 0xfd, 2);
                addresses
            }
        }
    }

    fn ip(&self, len: u16) -> Vec<u8> {
        if !self.v6 {
            let mut header = vec![0x45, self.tos];
            for word in [20 + len, self.id, self.fragment] {
                header.extend_from_slice(&word.to_be_bytes());
            }
            header.extend_from_slice(&[self.ttl, self.protocol(), 0, 0]);
            header.extend_from_slice(&self.addresses());
            let checksum = !naive_sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            return header;
        }
        let (next, mut extensions) = self.extensions.clone().unwrap_or((self.protocol(), Vec::new()));
        if let Some(last) = extensions.len().checked_sub(8) {
            extensions[last] = self.protocol();
        }
        let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        header.extend_from_slice(&(len + extensions.len() as u16).to_be_bytes());
        header.extend_from_slice(&[next, self.ttl]);
        [header, self.addresses(), extensions].concat()
    }

    /// The transport header, its checksum zero.
    fn transport(&self, data: usize) -> Vec<u8> {
        let mut header: Vec<u8> = self.ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        if self.udp {
            header.extend_from_slice(&(8 + data as u16).to_be_bytes());
            header.extend_from_slice(&[0, 0]);
            return header;
        }
        header.extend_from_slice(&self.sequence.to_be_bytes());
        header.extend_from_slice(&self.acknowledged.to_be_bytes());
        header.extend_from_slice(&[((20 + self.options.len()) as u8) << 2, self.flags]);
        header.extend_from_slice(&self.window.to_be_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&self.options);
        header
    }
}
