//! What `emit` writes the views read back; arbitrary bytes never panic, and a view never reaches past them.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use vbackend_proto::wire::arp::{self, Party};
use vbackend_proto::wire::ethernet::{self, Mac};
use vbackend_proto::wire::ipv6::{self, Header};
use vbackend_proto::wire::ndp::{self, Neighbour};
use vbackend_proto::wire::{Family, ipv4};

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(Mac)
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    any::<[u8; 4]>().prop_map(Ipv4Addr::from)
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<[u8; 16]>().prop_map(Ipv6Addr::from)
}

/// Arbitrary bytes whose first nibble is often a version.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![Just(0x45), Just(0x46), Just(0x60), any::<u8>()];
    (first, proptest::collection::vec(any::<u8>(), 0..120), 0u8..140).prop_map(|(first, mut bytes, len)| {
        bytes.insert(0, first);
        for at in [2, 4] {
            if bytes.len() > at + 1 {
                bytes[at] = 0; // total and payload lengths that often fit
                bytes[at + 1] = len;
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn a_mac_reads_back_from_its_text(mac in mac()) {
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        prop_assert_eq!(mac.to_string().replace(':', "-").to_uppercase().parse(), Ok(mac));
    }

    #[test]
    fn text_that_is_read_is_a_mac(text in "[0-9a-f:-]{0,20}") {
        if let Ok(mac) = text.parse::<Mac>() {
            prop_assert_eq!(mac.to_string(), text.replace('-', ":"));
        }
    }

    #[test]
    fn ethernet(destination in mac(), source in mac(), ether_type: u16, payload: Vec<u8>) {
        let bytes = [&ethernet::emit(destination, source, ether_type), &payload[..]].concat();
        let frame = ethernet::Frame::new_checked(&bytes).expect("has a header");
        prop_assert_eq!((frame.destination(), frame.source(), frame.ether_type()), (destination, source, ether_type));
        prop_assert_eq!(frame.payload(), payload);
    }

    #[test]
    fn arp(operation: u16, macs in (mac(), mac()), ips in (v4(), v4()), padding: Vec<u8>) {
        let (sender, target) = (Party { mac: macs.0, ip: ips.0 }, Party { mac: macs.1, ip: ips.1 });
        let bytes = [&arp::emit(operation, sender, target), &padding[..]].concat();
        let message = arp::Message::new_checked(&bytes).expect("is one");
        prop_assert_eq!(message.operation(), operation);
        prop_assert_eq!((message.sender_mac(), message.sender_ip()), (macs.0, ips.0));
        prop_assert_eq!((message.target_mac(), message.target_ip()), (macs.1, ips.1));
    }

    #[test]
    fn ipv6(payload in proptest::collection::vec(any::<u8>(), 1..100), next_header: u8, hop_limit: u8,
            source in v6(), destination in v6(), padding: Vec<u8>) {
        let payload_len = u16::try_from(payload.len()).expect("short");
        let header = Header { payload_len, next_header, hop_limit, source, destination };
        let bytes = [&header.emit()[..], &payload, &padding].concat();
        let packet = ipv6::Packet::new_checked(&bytes).expect("is one");
        let read = Header {
            payload_len: u16::try_from(packet.payload().len()).expect("short"),
            next_header: packet.next_header(),
            hop_limit: packet.hop_limit(),
            source: packet.source(),
            destination: packet.destination(),
        };
        prop_assert_eq!(read, header);
        prop_assert_eq!(packet.payload(), payload);
    }

    /// Whatever `emit` makes is either read back as it was or refused for a rule of RFC 4861, never misread.
    #[test]
    fn neighbour_messages(kind in prop_oneof![Just(ndp::SOLICITATION), Just(ndp::ADVERTISEMENT)], flags: u8,
                          source in v6(), destination in v6(), target in v6(),
                          link_layer in proptest::option::of(mac())) {
        let flags = if kind == ndp::ADVERTISEMENT { flags } else { 0 };
        let neighbour = Neighbour { kind, flags, source, destination, target, link_layer };
        let bytes = neighbour.emit();
        let packet = ipv6::Packet::new_checked(&bytes).expect("is one");
        prop_assert!(ndp::is_neighbour(&packet));
        let multicast = target.is_multicast() || source.is_multicast() || (destination.is_multicast() && flags & ndp::SOLICITED != 0);
        match Neighbour::parse(&packet) {
            Ok(read) => prop_assert_eq!(read, neighbour),
            Err(_) => prop_assert!(multicast),
        }
    }

    #[test]
    fn arbitrary_bytes_are_read_inside_their_bounds(bytes in packet()) {
        let family = Family::of(&bytes);
        if let Ok(packet) = ipv4::Packet::new_checked(&bytes) {
            prop_assert_eq!(family, Some(Family::Ipv4));
            prop_assert_eq!(packet.bytes(), &bytes[..packet.bytes().len()]);
            prop_assert!(packet.payload().len() + ipv4::MIN_HEADER_LEN <= packet.bytes().len());
            let _ = (packet.source(), packet.destination(), packet.protocol());
        }
        if let Ok(packet) = ipv6::Packet::new_checked(&bytes) {
            prop_assert_eq!(family, Some(Family::Ipv6));
            prop_assert_eq!(packet.bytes(), &bytes[..packet.bytes().len()]);
            let _ = Neighbour::parse(&packet);
        }
        let _ = arp::Message::new_checked(&bytes).map(|message| message.target_ip());
    }

    /// One flipped bit anywhere in a good message is noticed by its checksum or its rules, or changes nothing read.
    #[test]
    fn a_flipped_bit_is_noticed(bit in 0usize..72 * 8) {
        let neighbour = Neighbour {
            kind: ndp::ADVERTISEMENT,
            flags: ndp::SOLICITED,
            source: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
            destination: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
            target: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3),
            link_layer: Some(Mac([2, 0, 0, 0, 0, 1])),
        };
        let mut bytes = neighbour.emit();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(packet) = ipv6::Packet::new_checked(&bytes)
            && ndp::is_neighbour(&packet)
            && let Ok(read) = Neighbour::parse(&packet)
        {
            prop_assert!(bit < 32, "bit {} passed", bit); // version aside: traffic class and flow label
            prop_assert_eq!(read, neighbour);
        }
    }
}
