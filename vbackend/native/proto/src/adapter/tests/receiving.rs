//! What guests send: packets, questions, answers, and what is learned from them.

use super::*;

#[test]
fn packets_are_cut_out_of_frames_and_the_rest_refused() {
    let v4 = packets::ipv4(PEER, LOCAL, b"hello");
    let v6 = packets::ipv6(PEER6, LOCAL6, b"hello");
    let packet = |family, len| FromGuest::Packet { family, start: HEADER_LEN, end: HEADER_LEN + len };
    let padded = [&v4[..], &[0; 21]].concat();
    let mut long = v4.clone();
    long[3] += 1;
    let mut short_header = v4.clone();
    short_header[0] = 0x44;
    let tagged = [&[0, 1, 8, 0], &v4[..]].concat();
    let table: &[(&str, Mac, u16, &[u8], FromGuest)] = &[
        ("v4", UNIT, ETHERTYPE_IPV4, &v4, packet(Family::Ipv4, 25)),
        ("v6", UNIT, ETHERTYPE_IPV6, &v6, packet(Family::Ipv6, 45)),
        ("padding", UNIT, ETHERTYPE_IPV4, &padded, packet(Family::Ipv4, 25)),
        ("broadcast", Mac::BROADCAST, ETHERTYPE_IPV4, &v4, packet(Family::Ipv4, 25)),
        ("group", Mac([0x33, 0x33, 0, 0, 0, 1]), ETHERTYPE_IPV6, &v6, packet(Family::Ipv6, 45)),
        ("another station", OTHER, ETHERTYPE_IPV4, &v4, FromGuest::Drop(DropReason::NotForUnit)),
        ("version 6 as 4", UNIT, ETHERTYPE_IPV4, &v6, FromGuest::Drop(DropReason::BadIp)),
        ("version 4 as 6", UNIT, ETHERTYPE_IPV6, &v4, FromGuest::Drop(DropReason::BadIp)),
        ("total length", UNIT, ETHERTYPE_IPV4, &long, FromGuest::Drop(DropReason::BadIp)),
        ("header length", UNIT, ETHERTYPE_IPV4, &short_header, FromGuest::Drop(DropReason::BadIp)),
        ("cut v4", UNIT, ETHERTYPE_IPV4, &v4[..19], FromGuest::Drop(DropReason::BadIp)),
        ("cut v6", UNIT, ETHERTYPE_IPV6, &v6[..44], FromGuest::Drop(DropReason::BadIp)),
        ("no packet", UNIT, ETHERTYPE_IPV4, &[], FromGuest::Drop(DropReason::BadIp)),
        ("VLAN", UNIT, ETHERTYPE_VLAN, &tagged, FromGuest::Drop(DropReason::NotIp)),
        ("QinQ", UNIT, ETHERTYPE_QINQ, &tagged, FromGuest::Drop(DropReason::NotIp)),
        ("RARP", Mac::BROADCAST, 0x8035, &[0; 28], FromGuest::Drop(DropReason::NotIp)),
        ("802.3 length", UNIT, 46, &[0xaa; 46], FromGuest::Drop(DropReason::NotIp)),
        ("cut ARP", UNIT, ETHERTYPE_ARP, &[0; 27], FromGuest::Drop(DropReason::BadIp)),
        ("ARP of other types", UNIT, ETHERTYPE_ARP, &[0; 28], FromGuest::Drop(DropReason::NotIp)),
    ];
    for mode in [Mode::PointToPoint, Mode::Broadcast] {
        for (name, destination, ether_type, payload, expected) in table {
            let frame = frame(*destination, GUEST, *ether_type, payload);
            let (what, sent) = from_guest(&mut adapter(mode), &frame, 0);
            assert_eq!((what, sent.len()), (*expected, 0), "{name}");
        }
    }
    let whole = frame(UNIT, GUEST, ETHERTYPE_IPV4, &v4);
    let (what, _) = from_guest(&mut adapter(Mode::Broadcast), &whole[..13], 0);
    assert_eq!(what, FromGuest::Drop(DropReason::Runt));
    for source in [UNIT, Mac::BROADCAST, Mac::ZERO] {
        let frame = frame(UNIT, source, ETHERTYPE_IPV4, &v4);
        let (what, _) = from_guest(&mut adapter(Mode::Broadcast), &frame, 0);
        assert_eq!(what, FromGuest::Drop(DropReason::Spoofed), "{source}");
    }
}

#[test]
fn who_is_answered_by_arp() {
    // (sender, target, answered on a point-to-point unit, answered on a broadcast unit)
    for (name, sender, target, point_to_point, broadcast) in [
        ("the unit's", PEER, LOCAL, true, true),
        ("anybody else's", PEER, FAR, true, false),
        ("the guest's by itself: announcement", PEER, PEER, false, false),
        ("the peer's by a guest with another address", FAR, PEER, false, false),
        ("another announcement", FAR, FAR, false, false),
        ("probe of the guest's", NOBODY, PEER, false, false),
        ("probe of a free one", NOBODY, FAR, false, false),
        ("probe of the unit's", NOBODY, LOCAL, true, true),
        ("a group", PEER, Ipv4Addr::new(224, 0, 0, 1), false, false),
        ("everybody", PEER, Ipv4Addr::BROADCAST, false, false),
        ("nobody", PEER, NOBODY, false, false),
        ("loopback", PEER, Ipv4Addr::LOCALHOST, false, false),
    ] {
        for (mode, answered) in [(Mode::PointToPoint, point_to_point), (Mode::Broadcast, broadcast)] {
            let request = packets::arp(Mac::BROADCAST, GUEST, arp::REQUEST, sender, target);
            let (what, sent) = from_guest(&mut adapter(mode), &request, 0);
            assert_eq!((what, sent.len()), (FromGuest::Consumed, usize::from(answered)), "{name} {mode:?}");
            if let Some(frame) = sent.first() {
                let view = Frame::new_checked(frame).unwrap();
                assert_eq!((view.destination(), view.source()), (GUEST, UNIT));
                let reply = arp::Message::new_checked(view.payload()).unwrap();
                assert_eq!(reply.operation(), arp::REPLY);
                assert_eq!((reply.sender_mac(), reply.sender_ip()), (UNIT, target));
                assert_eq!((reply.target_mac(), reply.target_ip()), (GUEST, sender));
            }
        }
    }
}

#[test]
fn an_address_that_a_guest_uses_is_not_answered_for() {
    let mut adapter = adapter(Mode::PointToPoint);
    hear(&mut adapter, FAR.into(), GUEST, 0);
    let request = packets::arp(Mac::BROADCAST, GUEST, arp::REQUEST, PEER, FAR);
    assert_eq!(from_guest(&mut adapter, &request, 1), (FromGuest::Consumed, vec![]));
}

#[test]
fn a_reply_and_other_operations_are_not_answered() {
    for (operation, expected) in [(arp::REPLY, FromGuest::Consumed), (8, FromGuest::Drop(DropReason::NotIp))]
    {
        let frame = packets::arp(UNIT, GUEST, operation, PEER, LOCAL);
        assert_eq!(from_guest(&mut adapter(Mode::PointToPoint), &frame, 0), (expected, vec![]));
    }
}

#[test]
fn who_is_answered_by_neighbour_discovery() {
    let unit_link_local = ipv6::link_local(UNIT);
    let (own, proxy) = (ROUTER | SOLICITED | OVERRIDE, ROUTER | SOLICITED);
    let nobody = Ipv6Addr::UNSPECIFIED;
    // (source, target, flags of the answer on a point-to-point unit, on a broadcast unit)
    for (name, source, target, point_to_point, broadcast) in [
        ("the unit's", PEER6, LOCAL6, Some(own), Some(own)),
        ("the unit's link-local", GUEST_LINK_LOCAL, unit_link_local, Some(own), Some(own)),
        ("anybody else's", PEER6, FAR6, Some(proxy), None),
        ("the guest's", GUEST_LINK_LOCAL, PEER6, None, None),
        ("the asker's", FAR6, FAR6, None, None),
        ("detection of the guest's", nobody, PEER6, None, None),
        ("detection of a link-local", nobody, GUEST_LINK_LOCAL, None, None),
        ("detection of the unit's", nobody, LOCAL6, Some(ROUTER | OVERRIDE), Some(ROUTER | OVERRIDE)),
    ] {
        for (mode, flags) in [(Mode::PointToPoint, point_to_point), (Mode::Broadcast, broadcast)] {
            let frame = packets::neighbour(UNIT, GUEST, &solicitation(source, target));
            let (what, sent) = from_guest(&mut adapter(mode), &frame, 0);
            assert_eq!(what, FromGuest::Consumed, "{name}");
            let answer = sent.first().map(|frame| parse(frame));
            assert_eq!(answer.map(|(_, message)| message.flags), flags, "{name} {mode:?}");
            if let Some((mac, message)) = answer {
                assert_eq!((message.kind, message.target), (ADVERTISEMENT, target), "{name}");
                assert_eq!(message.link_layer, Some(UNIT));
                let (to, at) = match source.is_unspecified() {
                    true => (ipv6::ALL_NODES, Mac([0x33, 0x33, 0, 0, 0, 1])),
                    false => (source, GUEST),
                };
                assert_eq!((message.destination, mac), (to, at), "{name}");
            }
        }
    }
}

#[test]
fn a_bad_neighbour_message_is_dropped() {
    let mut frame = packets::neighbour(UNIT, GUEST, &solicitation(PEER6, LOCAL6));
    frame[14 + 7] = 254; // has passed a router
    let (what, sent) = from_guest(&mut adapter(Mode::PointToPoint), &frame, 0);
    assert_eq!((what, sent.len()), (FromGuest::Drop(DropReason::BadIp), 0));
}

#[test]
fn other_icmpv6_goes_to_the_reader() {
    for kind in [128, 133, 134, 143] {
        let mut packet = packets::ipv6(GUEST_LINK_LOCAL, ipv6::ALL_NODES, &[kind, 0, 0, 0]);
        packet[6] = 58;
        let frame = frame(Mac([0x33, 0x33, 0, 0, 0, 1]), GUEST, ETHERTYPE_IPV6, &packet);
        let (what, _) = from_guest(&mut adapter(Mode::PointToPoint), &frame, 0);
        assert!(matches!(what, FromGuest::Packet { .. }), "type {kind}");
    }
}

#[test]
fn everything_a_guest_sends_tells_where_it_is() {
    let advertisement = Message {
        kind: ADVERTISEMENT,
        flags: SOLICITED,
        source: PEER6,
        destination: LOCAL6,
        target: PEER6,
        link_layer: Some(GUEST),
    };
    let foreign = Message { link_layer: Some(OTHER), ..advertisement };
    let mut foreign_arp = packets::arp(UNIT, GUEST, arp::REPLY, PEER, LOCAL);
    foreign_arp[14 + 8..14 + 14].copy_from_slice(&OTHER.0);
    let table: &[(&str, IpAddr, Vec<u8>, bool)] = &[
        ("ARP reply", PEER.into(), packets::arp(UNIT, GUEST, arp::REPLY, PEER, LOCAL), true),
        ("ARP request", PEER.into(), packets::arp(UNIT, GUEST, arp::REQUEST, PEER, LOCAL), true),
        ("announcement", PEER.into(), packets::arp(Mac::BROADCAST, GUEST, arp::REQUEST, PEER, PEER), true),
        ("solicitation", PEER6.into(), packets::neighbour(UNIT, GUEST, &solicitation(PEER6, FAR6)), true),
        ("advertisement", PEER6.into(), packets::neighbour(UNIT, GUEST, &advertisement), true),
        ("probe", PEER.into(), packets::arp(Mac::BROADCAST, GUEST, arp::REQUEST, NOBODY, PEER), false),
        (
            "detection",
            PEER6.into(),
            packets::neighbour(UNIT, GUEST, &solicitation(Ipv6Addr::UNSPECIFIED, PEER6)),
            false,
        ),
        ("ARP for another station", PEER.into(), foreign_arp, false),
        ("advertisement for another station", PEER6.into(), packets::neighbour(UNIT, GUEST, &foreign), false),
        ("the unit's own address", LOCAL.into(), packets::arp(UNIT, GUEST, arp::REPLY, LOCAL, PEER), false),
    ];
    for (name, address, frame, learned) in table {
        let mut adapter = adapter(Mode::Broadcast);
        let (what, _) = from_guest(&mut adapter, frame, 0);
        assert_eq!(what, FromGuest::Consumed, "{name}");
        assert_eq!(owner(&adapter, *address, 0), learned.then_some(GUEST), "{name}");
    }
}

#[test]
fn a_learned_address_is_not_taken_over() {
    let mut adapter = adapter(Mode::Broadcast);
    hear(&mut adapter, PEER.into(), GUEST, 0);
    hear(&mut adapter, PEER.into(), OTHER, 1);
    from_guest(&mut adapter, &packets::arp(UNIT, OTHER, arp::REPLY, PEER, LOCAL), 2);
    assert_eq!(owner(&adapter, PEER.into(), 2), Some(GUEST));
    hear(&mut adapter, PEER.into(), OTHER, FRESH_MS);
    assert_eq!(owner(&adapter, PEER.into(), FRESH_MS), Some(OTHER));
}
