//! What goes to guests: headers, packets that wait, and the questions put meanwhile.

use super::*;

#[test]
fn groups_need_nobody() {
    for (destination, mac) in [
        (IpAddr::from(Ipv4Addr::BROADCAST), "ff:ff:ff:ff:ff:ff"),
        (Ipv4Addr::new(224, 0, 0, 251).into(), "01:00:5e:00:00:fb"),
        (ipv6::ALL_NODES.into(), "33:33:00:00:00:01"),
    ] {
        let source = if destination.is_ipv4() { IpAddr::from(LOCAL) } else { LOCAL6.into() };
        let packet = packets::ip(source, destination, b"");
        let expected = header(mac.parse().unwrap(), packets::ether_type(destination));
        assert_eq!(to_guest(&mut adapter(Mode::Broadcast), &packet, 0), (expected, vec![]), "{destination}");
    }
}

#[test]
fn what_cannot_be_sent() {
    let mut huge = packets::ipv4(LOCAL, PEER, b"");
    huge.resize(MAX_FRAME - HEADER_LEN + 1, 0);
    let v6 = packets::ipv6(LOCAL6, PEER6, b"");
    for (name, packet, reason) in [
        ("nothing", &[] as &[u8], DropReason::BadIp),
        ("a cut IPv4 header", &huge[..19], DropReason::BadIp),
        ("a cut IPv6 header", &v6[..39], DropReason::BadIp),
        ("another version", &[0x50; 40], DropReason::BadIp),
        ("nobody", &packets::ipv4(LOCAL, NOBODY, b""), DropReason::BadIp),
        ("too long", &huge, DropReason::Oversize),
    ] {
        let what = to_guest(&mut adapter(Mode::Broadcast), packet, 0);
        assert_eq!(what, (ToGuest::Drop(reason), vec![]), "{name}");
    }
}

#[test]
fn an_unknown_guest_is_asked_and_gets_what_waited() {
    for (near, peer) in [(IpAddr::from(LOCAL), IpAddr::from(PEER)), (LOCAL6.into(), PEER6.into())] {
        for mode in [Mode::PointToPoint, Mode::Broadcast] {
            let mut adapter = adapter(mode);
            let packet = |text: &[u8]| packets::ip(near, peer, text);
            let (what, sent) = to_guest(&mut adapter, &packet(b"one"), 0);
            assert_eq!((what, sent.len()), (ToGuest::Parked { displaced: 0 }, 1));
            assert_eq!(
                to_guest(&mut adapter, &packet(b"two"), 1),
                (ToGuest::Parked { displaced: 0 }, vec![])
            );
            assert_eq!((adapter.parked(), adapter.deadline_ms()), (2, Some(RETRY_MS)));
            let ether_type = packets::ether_type(peer);
            let expected = [b"one", b"two"].map(|text| frame(GUEST, UNIT, ether_type, &packet(text)));
            assert_eq!(hear(&mut adapter, peer, GUEST, 2), expected);
            assert_eq!((adapter.parked(), adapter.deadline_ms()), (0, None));
            assert_eq!(to_guest(&mut adapter, &packet(b"three"), 3), (header(GUEST, ether_type), vec![]));
        }
    }
}

#[test]
fn questions_are_asked_by_group_first_and_by_unicast_later() {
    let mut adapter = adapter(Mode::PointToPoint);
    let (_, sent) = to_guest(&mut adapter, &packets::ipv4(FAR, PEER, b""), 0);
    let group = Frame::new_checked(&sent[0]).unwrap();
    let message = arp::Message::new_checked(group.payload()).unwrap();
    assert_eq!((group.destination(), group.source()), (Mac::BROADCAST, UNIT));
    assert_eq!((message.operation(), message.sender_ip(), message.target_ip()), (arp::REQUEST, LOCAL, PEER));

    let (_, sent) = to_guest(&mut adapter, &packets::ipv6(FAR6, PEER6, b""), 0);
    let (mac, message) = parse(&sent[0]);
    assert_eq!((mac, message.target), (Mac([0x33, 0x33, 0xff, 0, 0, 2]), PEER6));
    assert_eq!(message.source, ipv6::link_local(UNIT));
    assert_eq!(message.link_layer, Some(UNIT));

    hear(&mut adapter, PEER.into(), GUEST, 0);
    hear(&mut adapter, PEER6.into(), GUEST, 0);
    let (what, sent) = to_guest(&mut adapter, &packets::ipv4(FAR, PEER, b""), ASK_AGAIN_MS);
    assert_eq!(what, header(GUEST, ETHERTYPE_IPV4));
    assert_eq!(Frame::new_checked(&sent[0]).unwrap().destination(), GUEST);
    let (what, sent) = to_guest(&mut adapter, &packets::ipv6(FAR6, PEER6, b""), ASK_AGAIN_MS);
    assert_eq!(what, header(GUEST, ETHERTYPE_IPV6));
    let (mac, message) = parse(&sent[0]);
    assert_eq!((mac, message.destination), (GUEST, PEER6));
}

#[test]
fn the_peer_is_the_next_hop_of_a_point_to_point_unit() {
    let packet = packets::ipv4(LOCAL, FAR, b"");
    let mut unit = adapter(Mode::PointToPoint);
    let (what, sent) = to_guest(&mut unit, &packet, 0);
    assert_eq!(what, ToGuest::Parked { displaced: 0 });
    let question = Frame::new_checked(&sent[0]).unwrap();
    assert_eq!(arp::Message::new_checked(question.payload()).unwrap().target_ip(), PEER);
    assert_eq!(hear(&mut unit, PEER.into(), GUEST, 1), [frame(GUEST, UNIT, ETHERTYPE_IPV4, &packet)]);
    assert_eq!(to_guest(&mut unit, &packet, 2).0, header(GUEST, ETHERTYPE_IPV4));
    hear(&mut unit, FAR.into(), OTHER, 3);
    assert_eq!(to_guest(&mut unit, &packet, 4).0, header(OTHER, ETHERTYPE_IPV4));

    let mut unit = adapter(Mode::Broadcast);
    hear(&mut unit, PEER.into(), GUEST, 0);
    assert_eq!(to_guest(&mut unit, &packet, 1).0, ToGuest::Parked { displaced: 0 });
}

#[test]
fn nobody_answers() {
    let mut adapter = adapter(Mode::Broadcast);
    let packet = packets::ipv4(LOCAL, PEER, b"");
    to_guest(&mut adapter, &packet, 0);
    to_guest(&mut adapter, &packet, 1);
    // (time, questions, lost, deadline)
    for (now_ms, questions, lost, deadline_ms) in [
        (999, 0, 0, Some(1000)),
        (1000, 1, 0, Some(2000)),
        (2000, 1, 0, Some(3000)),
        (3000, 0, 2, None),
        (4000, 0, 0, None),
    ] {
        let mut out = Vec::new();
        assert_eq!(adapter.poll(now_ms, &mut out), Polled { lost, deadline_ms }, "at {now_ms}");
        assert_eq!(packets::frames(&out).len(), questions, "at {now_ms}");
    }
    let (what, sent) = to_guest(&mut adapter, &packet, 5000);
    assert_eq!((what, sent.len()), (ToGuest::Parked { displaced: 0 }, 1), "asks anew");
}

#[test]
fn what_waits_is_bounded() {
    let mut adapter = adapter(Mode::Broadcast);
    let packet = |last| packets::ipv4(LOCAL, Ipv4Addr::new(10, 7, 1, last), b"");
    for displaced in [0, 0, 0, 1, 1] {
        assert_eq!(to_guest(&mut adapter, &packet(0), 0).0, ToGuest::Parked { displaced });
    }
    for last in 1..=61 {
        assert_eq!(to_guest(&mut adapter, &packet(last), 0).0, ToGuest::Parked { displaced: 0 });
    }
    assert_eq!(to_guest(&mut adapter, &packet(99), 0), (ToGuest::Drop(DropReason::NoNeighbour), vec![]));
    assert_eq!(adapter.reset(), MAX_PACKETS);
}

#[test]
fn a_full_table_still_learns_the_peer_and_releases_what_waits() {
    let mut adapter = Adapter::new(Config { max_neighbours: 2, ..adapter(Mode::Broadcast).config().clone() });
    for last in 10..20 {
        hear(&mut adapter, Ipv4Addr::new(10, 7, 0, last).into(), GUEST, 0);
    }
    assert_eq!(adapter.remembered(), 2);
    to_guest(&mut adapter, &packets::ipv4(LOCAL, FAR, b""), 0);
    assert_eq!(hear(&mut adapter, FAR.into(), OTHER, 1).len(), 1);
    hear(&mut adapter, PEER.into(), GUEST, 1);
    assert_eq!(owner(&adapter, PEER.into(), 1), Some(GUEST));
    assert_eq!(owner(&adapter, FAR.into(), 1), None);
}

#[test]
fn addresses_may_change_while_it_runs() {
    let mut adapter = adapter(Mode::PointToPoint);
    let request = packets::arp(Mac::BROADCAST, GUEST, arp::REQUEST, PEER, LOCAL);
    let config = Config { local: vec![FAR.into()], ..Config::new(UNIT, Mode::Broadcast) };
    assert_eq!(from_guest(&mut adapter, &request, 0).1.len(), 1);
    adapter.set_config(config);
    assert_eq!(from_guest(&mut adapter, &request, 0).1.len(), 0);
    assert_eq!(owner(&adapter, PEER.into(), 0), Some(GUEST));
}
