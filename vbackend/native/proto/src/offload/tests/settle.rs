use super::data;
use crate::drop_reason::DropReason;
use crate::framing::frames_of;
use crate::offload::{Offloads, check, settle};
use crate::testing::checksum::naive_sum;
use crate::testing::flow::Flow;
use crate::testing::packets::frames;
use crate::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};
use DropReason::{BadOffload, Offload};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

fn settled(frame: &[u8], vnet: &VnetHeader) -> Result<Vec<Vec<u8>>, DropReason> {
    let (mut wire, mut runs) = (Vec::new(), Vec::new());
    let outcome = settle(frame, vnet, &mut wire, &mut runs);
    let found: Vec<Vec<u8>> =
        runs.iter().flat_map(|run| frames_of(&wire, *run)).map(<[u8]>::to_vec).collect();
    assert_eq!(frames(&wire), found);
    assert!(runs.iter().all(|run| run.vnet.is_plain()));
    outcome.map(|count| {
        assert_eq!(count, found.len());
        found
    })
}

#[test]
fn segments_are_the_frames_the_sender_would_have_made() {
    let vlan = vec![[0x81, 0, 0, 7]];
    let options = (0, [vec![0, 1], vec![0; 14], vec![0; 8]].concat());
    for (name, flow, len, size) in [
        ("TCP", Flow::tcp(), 4344, 1448),
        ("TCP, a shorter last one", Flow::tcp(), 4000, 1448),
        ("TCP, one only", Flow::tcp(), 1448, 1448),
        ("TCP, less than one", Flow::tcp(), 10, 1448),
        ("TCP, the longest", Flow::tcp(), 65_000, 1448),
        ("TCP, odd sizes", Flow::tcp(), 4001, 333),
        ("FIN and PSH", Flow { flags: ACK | FIN | PSH, ..Flow::tcp() }, 3000, 1448),
        ("CWR", Flow { flags: ACK | CWR, ..Flow::tcp() }, 3000, 1448),
        ("numbers that wrap", Flow { sequence: u32::MAX - 9, id: 0xffff, ..Flow::tcp() }, 3000, 1448),
        ("no options", Flow { options: Vec::new(), ..Flow::tcp() }, 3000, 1460),
        ("a VLAN", Flow { tags: vlan.clone(), ..Flow::tcp() }, 3000, 1448),
        ("two tags", Flow { tags: [vec![[0x88, 0xa8, 0, 9]], vlan].concat(), ..Flow::tcp() }, 3000, 1448),
        ("IPv6", Flow::tcp().over_v6(), 3000, 1428),
        ("extensions", Flow { extensions: Some(options), ..Flow::tcp().over_v6() }, 3000, 1404),
        ("UDP", Flow::udp(), 3000, 1472),
        ("UDP over IPv6", Flow::udp().over_v6(), 3000, 1452),
    ] {
        let data = data(len);
        let (frame, vnet) = flow.gso(&data, size);
        assert_eq!(check(&frame, &vnet), Ok(()), "{name}");
        assert!(settled(&frame, &vnet) == Ok(flow.segments(&data, size)), "{name}");
        let with_ecn = VnetHeader { gso_type: vnet.gso_type | GSO_ECN, ..vnet };
        assert_eq!(settled(&frame, &with_ecn).is_ok(), !flow.udp, "{name}");
        let no_partial = VnetHeader { flags: 0, csum_start: 0, csum_offset: 0, ..vnet };
        assert!(settled(&frame, &no_partial) == Ok(flow.segments(&data, size)), "{name}");
    }
}

#[test]
fn a_checksum_alone_is_completed() {
    for flow in [Flow::tcp(), Flow::udp(), Flow::tcp().over_v6(), Flow::udp().over_v6()] {
        let (frame, gso) = flow.gso(b"some bytes", 1448);
        let vnet = VnetHeader { gso_type: GSO_NONE, gso_size: 0, ..gso };
        assert_eq!(check(&frame, &vnet), Ok(()));
        assert_eq!(settled(&frame, &vnet), Ok(vec![flow.frame(b"some bytes")]));
        assert_eq!(settled(&frame, &VnetHeader::PLAIN), Ok(vec![frame]));
    }
}

#[test]
fn what_does_not_fit_its_frame_is_refused() {
    let (frame, vnet) = Flow::tcp().gso(&data(3000), 1448);
    let (udp, udp_vnet) = Flow::udp().gso(&data(300), 2);
    let fragment = Flow { fragment: 0x2000, ..Flow::tcp() }.gso(&data(3000), 1448).0;
    let routed = Flow { extensions: Some((43, vec![0; 8])), ..Flow::tcp().over_v6() };
    let (v6, v6_vnet) = Flow::tcp().over_v6().gso(&data(3000), 1448);
    let patched = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        frame
    };
    let tags = vec![[0x81, 0, 0, 1]; 3];
    // 16 headers of destination options, 2 KiB each, which every 8 bytes of data would have a copy of.
    let mut many = [&[60, 255][..], &[0; 2046]].concat().repeat(16);
    many[15 * 2048] = 6;
    let (long, long_vnet) =
        Flow { extensions: Some((60, many)), ..Flow::tcp().over_v6() }.gso(&data(32_000), 8);
    let extensions = Some((60, vec![0; 8]));
    let (options, options_vnet) = Flow { extensions, ..Flow::udp().over_v6() }.gso(&data(300), 200);
    for (name, frame, vnet, reason) in [
        ("checksum outside", &frame, VnetHeader { csum_start: 65_000, ..vnet }, BadOffload),
        ("checksum elsewhere", &frame, VnetHeader { csum_start: 30, ..vnet }, BadOffload),
        ("checksum of UDP", &frame, VnetHeader { csum_offset: 6, ..vnet }, BadOffload),
        ("unknown type", &frame, VnetHeader { gso_type: 2, ..vnet }, BadOffload),
        ("ECN alone", &frame, VnetHeader { gso_type: GSO_ECN, ..vnet }, BadOffload),
        ("TCP as UDP", &frame, VnetHeader { gso_type: GSO_UDP_L4, ..vnet }, BadOffload),
        ("IPv4 as IPv6", &frame, VnetHeader { gso_type: GSO_TCPV6, ..vnet }, BadOffload),
        ("IPv6 as IPv4", &v6, VnetHeader { gso_type: GSO_TCPV4, ..v6_vnet }, BadOffload),
        ("size 0", &frame, VnetHeader { gso_size: 0, ..vnet }, BadOffload),
        ("size 7", &frame, VnetHeader { gso_size: 7, ..vnet }, BadOffload),
        ("a fragment", &fragment, vnet, BadOffload),
        ("a routing header", &routed.gso(&data(3000), 1448).0, v6_vnet, BadOffload),
        ("three tags", &Flow { tags, ..Flow::tcp() }.gso(&data(3000), 1448).0, vnet, BadOffload),
        ("IPv4 header of 16 bytes", &patched(14, 0x44), vnet, BadOffload),
        ("IP version 6", &patched(14, 0x65), vnet, BadOffload),
        ("TCP header of 16 bytes", &patched(46, 0x40), vnet, BadOffload),
        ("cut off in TCP", &frame[..60].to_vec(), vnet, BadOffload),
        ("cut off in IP", &frame[..30].to_vec(), vnet, BadOffload),
        ("long headers", &long, long_vnet, BadOffload),
        ("150 datagrams", &udp, udp_vnet, BadOffload),
        ("fragments of 7", &udp, VnetHeader { gso_type: GSO_UDP, gso_size: 7, ..udp_vnet }, BadOffload),
        ("fragments with extensions", &options, VnetHeader { gso_type: GSO_UDP, ..options_vnet }, Offload),
    ] {
        assert_eq!(settled(frame, &vnet), Err(reason), "{name}");
        assert_eq!(check(frame, &vnet).err(), Some(reason).filter(|reason| *reason == BadOffload), "{name}");
    }
    let outside = VnetHeader { gso_type: GSO_NONE, csum_start: 3066, ..vnet };
    assert_eq!((check(&frame, &outside), settled(&frame, &outside)), (Err(BadOffload), Err(BadOffload)));
}

#[test]
fn a_datagram_is_cut_into_fragments() {
    // (flow, data bytes, size, bytes of each fragment)
    for (flow, len, size, expected) in [
        (Flow::udp(), 3000, 1480, &[1480, 1480, 48][..]),
        (Flow::udp(), 3000, 1487, &[1480, 1480, 48]),
        (Flow::udp(), 1472, 1480, &[1480]),
        (Flow::udp().over_v6(), 2000, 1448, &[1448, 560]),
        (Flow { tags: vec![[0x81, 0, 0, 7]], ..Flow::udp() }, 100, 64, &[64, 44]),
    ] {
        let data = data(len);
        let (frame, vnet) = flow.gso(&data, size);
        let fragments = settled(&frame, &VnetHeader { gso_type: GSO_UDP, ..vnet }).unwrap();
        let (l3, body) = (flow.l4() - if flow.v6 { 40 } else { 20 }, flow.l4() + if flow.v6 { 8 } else { 0 });
        let lengths: Vec<_> = fragments.iter().map(|fragment| fragment.len() - body).collect();
        assert_eq!(lengths, expected);
        let whole: Vec<u8> = fragments.iter().flat_map(|fragment| &fragment[body..]).copied().collect();
        assert!(whole == flow.frame(&data)[flow.l4()..], "put together it is the datagram");
        let mut offset = 0;
        for (index, fragment) in fragments.iter().enumerate() {
            let word = |at: usize| usize::from(u16::from_be_bytes([fragment[at], fragment[at + 1]]));
            let more = usize::from(index + 1 < fragments.len());
            let (found, total) = match flow.v6 {
                true => (word(body - 6), word(l3 + 4) + 40),
                false => (word(l3 + 6) << 3 & 0xffff | word(l3 + 6) >> 13, word(l3 + 2)),
            };
            assert_eq!((found, total), (offset | more, fragment.len() - l3));
            assert!(flow.v6 || naive_sum(&fragment[l3..flow.l4()]) == 0xffff);
            let id = if flow.v6 { body - 4..body } else { l3 + 4..l3 + 6 };
            assert_eq!(fragment[id.clone()], fragments[0][id], "one identification");
            offset += lengths[index];
        }
    }
}

#[test]
fn a_segment_too_long_for_ip_is_refused() {
    let (mut frame, vnet) = Flow::tcp().gso(&data(65_000), 1448);
    frame.resize(69_000, 1);
    assert!(settled(&frame, &vnet).is_ok());
    assert_eq!(settled(&frame, &VnetHeader { gso_size: 65_500, ..vnet }), Err(BadOffload));
}

#[test]
fn covered_is_what_was_negotiated() {
    let of = |flags, gso_type| VnetHeader { flags, gso_type, ..VnetHeader::PLAIN };
    let tcp = Offloads::CSUM | Offloads::TSO4;
    // (what the receiver takes, header, covered)
    for (offloads, vnet, expected) in [
        (Offloads::NONE, VnetHeader::PLAIN, true),
        (Offloads::NONE, of(NEEDS_CSUM, GSO_NONE), false),
        (Offloads::CSUM, of(NEEDS_CSUM, GSO_NONE), true),
        (Offloads::CSUM, of(NEEDS_CSUM, GSO_TCPV4), false),
        (tcp, of(NEEDS_CSUM, GSO_TCPV4), true),
        (tcp, of(0, GSO_TCPV4), true),
        (tcp, of(NEEDS_CSUM, GSO_TCPV6), false),
        (tcp, of(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN), false),
        (tcp | Offloads::ECN, of(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN), true),
        (tcp | Offloads::TSO6, of(NEEDS_CSUM, GSO_TCPV6), true),
        (tcp | Offloads::UFO, of(NEEDS_CSUM, GSO_UDP), true),
        (tcp | Offloads::UFO, of(NEEDS_CSUM, GSO_UDP_L4), false),
        (tcp | Offloads::USO, of(NEEDS_CSUM, GSO_UDP_L4), true),
        (Offloads::ALL, of(NEEDS_CSUM, 2), false),
        (Offloads::ALL, of(0, GSO_ECN), false),
    ] {
        assert_eq!(offloads.covers(&vnet), expected, "{offloads:?} {vnet:?}");
    }
}

#[test]
fn guest_features_by_their_numbers() {
    for (features, expected) in [
        (0, Offloads::NONE),
        (1 << 1, Offloads::CSUM),
        (1 << 1 | 1 << 7 | 1 << 8, Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6),
        (1 << 1 | 1 << 7 | 1 << 9 | 1 << 10, Offloads::CSUM | Offloads::TSO4 | Offloads::ECN | Offloads::UFO),
        (1 << 1 | 3 << 54, Offloads::CSUM | Offloads::USO),
        (1 << 1 | 1 << 54, Offloads::CSUM),
        (1 << 7, Offloads::NONE),
        (1 | 1 << 11 | 1 << 56, Offloads::NONE),
    ] {
        assert_eq!(Offloads::from_virtio_guest_features(features), expected, "{features:#x}");
    }
}
