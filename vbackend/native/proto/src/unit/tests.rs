//! Rule by rule what the per-packet half answers; the whole unit is tried in `tests/conformance/tun4`.

use super::*;
use crate::shaper::Rate;

const LINK: (Mac, Mac) = (Mac::ZERO, Mac::ZERO);
const V4: AddressFamily = AddressFamily::Ip(Family::Ipv4);

fn unit(limit: usize, header: Header) -> Unit {
    let mut unit = Unit::new(limit, 2);
    unit.set_state(UnitState { flags: flags::READY, index: 1, ticket: 1, header, ..*unit.state() });
    unit
}

fn output(unit: &mut Unit, family: AddressFamily, packet: &[u8]) -> Result<(), UnitError> {
    let header = unit.prepare_output(family, None, LINK)?;
    unit.enqueue(&header, packet)
}

fn read(unit: &mut Unit, now_ms: u64) -> Option<Vec<u8>> {
    let packet = unit.front(now_ms)?.to_vec();
    unit.pop();
    Some(packet)
}

#[test]
fn output_needs_all_three_flags() {
    for missing in [flags::OPEN, flags::INITED, flags::IASET] {
        let mut unit = unit(4, Header::None);
        unit.set_state(UnitState { flags: flags::READY & !missing, ..*unit.state() });
        assert_eq!(output(&mut unit, V4, b"x"), Err(UnitError::NotReady));
        assert_eq!((unit.counters().oerrors, unit.snd().len()), (1, 0));
    }
}

#[test]
fn families_and_headers_of_output() {
    let mut unit = unit(4, Header::Loop);
    assert_eq!(output(&mut unit, V4, b"four"), Ok(()));
    assert_eq!(output(&mut unit, AddressFamily::Unspecified, b"as it is"), Ok(()));
    assert_eq!(output(&mut unit, AddressFamily::Other(7), b"no"), Err(UnitError::Family));
    assert_eq!(unit.first_len(), 8);
    assert_eq!(read(&mut unit, 0).unwrap(), b"\0\0\0\x02four");
    assert_eq!(read(&mut unit, 0).unwrap(), b"as it is");
    assert_eq!((read(&mut unit, 0), unit.first_len()), (None, 0));
    let counters = unit.counters();
    assert_eq!((counters.opackets, counters.obytes, counters.oerrors), (2, 16, 1));
}

#[test]
fn a_full_queue_collides_and_a_purge_is_counted() {
    let mut unit = unit(2, Header::None);
    for expected in [Ok(()), Ok(()), Err(UnitError::Full), Err(UnitError::Full)] {
        assert_eq!(output(&mut unit, V4, b"x"), expected);
    }
    let counters = unit.counters();
    assert_eq!((counters.collisions, counters.drops, counters.opackets), (2, 2, 2));
    assert_eq!((unit.hang_up(), unit.counters().purged, unit.snd().len()), (2, 2, 0));
    assert_eq!(
        (unit.check_read(1), output(&mut unit, V4, b"x")),
        (Err(UnitError::Closed), Err(UnitError::NotReady))
    );
}

#[test]
fn who_may_read() {
    let mut unit = unit(1, Header::None);
    assert_eq!((unit.check_read(1), unit.check_read(2)), (Ok(()), Err(UnitError::Closed)));
    unit.set_state(UnitState { flags: flags::OPEN | flags::INITED, ..*unit.state() });
    assert_eq!(unit.check_read(1), Err(UnitError::NotReady));
    unit.set_state(UnitState { flags: flags::OPEN | flags::IASET, ..*unit.state() });
    assert_eq!(unit.check_read(1), Err(UnitError::Gone));
}

#[test]
fn writes_in_the_order_the_driver_looks() {
    // (header, bytes, outcome, ierrors)
    let long = [&[0x45][..], &[0; 1500]].concat();
    type Row<'a> = (Header, &'a [u8], Result<(usize, Family), UnitError>, u64);
    let table: &[Row<'_>] = &[
        (Header::None, b"\x45abc", Ok((0, Family::Ipv4)), 0),
        (Header::None, b"\x60abc", Ok((0, Family::Ipv6)), 0),
        (Header::None, b"\x70abc", Err(UnitError::Family), 0),
        (Header::None, b"", Err(UnitError::NoPacket), 1),
        (Header::None, &long[..1500], Ok((0, Family::Ipv4)), 0),
        (Header::None, &long, Err(UnitError::TooLong), 0),
        (Header::Null, b"\0\0\0", Err(UnitError::Short), 0),
        (Header::Null, b"\x02\0\0\0", Err(UnitError::NoPacket), 1),
        (Header::Null, b"\x09\0\0\0", Err(UnitError::Family), 0),
        (Header::Null, b"\x1e\0\0\0x", Ok((4, Family::Ipv6)), 0),
        (Header::Sockaddr, &[16, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Err(UnitError::Short), 0),
        (Header::Sockaddr, &[16, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Err(UnitError::Family), 0),
        (
            Header::Sockaddr,
            &[40, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            Err(UnitError::NoPacket),
            1,
        ),
    ];
    for (header, bytes, expected, ierrors) in table {
        let mut unit = unit(1, *header);
        assert_eq!((unit.accept(bytes), unit.counters().ierrors), (*expected, *ierrors), "{header:?}");
    }
    let mut gone = unit(1, Header::None);
    gone.set_state(UnitState { flags: flags::OPEN, ..*gone.state() });
    assert_eq!(gone.accept(b"\x45"), Err(UnitError::Gone));
}

#[test]
fn each_family_has_its_own_input_limit() {
    let mut unit = unit(1, Header::None);
    for (family, expected) in [
        (Family::Ipv4, Ok(())),
        (Family::Ipv4, Ok(())),
        (Family::Ipv4, Err(UnitError::Full)),
        (Family::Ipv6, Ok(())),
    ] {
        assert_eq!(unit.queue_input(family, b"abc"), expected);
    }
    let counters = unit.counters();
    assert_eq!((counters.ipackets, counters.ibytes, counters.collisions, counters.input_drops), (3, 9, 1, 1));
    let taken: Vec<Family> = std::iter::from_fn(|| unit.take_input(|family, _| family)).collect();
    assert_eq!(taken, [Family::Ipv4, Family::Ipv4, Family::Ipv6]);
    assert_eq!(unit.queue_input(Family::Ipv4, b"abc"), Ok(()));
    unit.reset_interface();
    assert_eq!((unit.has_input(), unit.counters()), (false, UnitCounters::default()));
    for expected in [Ok(()), Ok(()), Err(UnitError::Full)] {
        assert_eq!(unit.queue_input(Family::Ipv4, b"abc"), expected, "what was forgotten takes no room");
    }
}

#[test]
fn the_rate_decides_what_is_readable_not_what_is_first() {
    let mut unit = unit(8, Header::None);
    unit.set_shaper(Some(Shaper::new(Rate { bits_per_s: 8000, burst_bytes: 10 }, 0)));
    for _ in 0..3 {
        output(&mut unit, V4, &[0x45; 20]).unwrap();
    }
    assert_eq!((read(&mut unit, 0).is_some(), read(&mut unit, 0)), (true, None));
    assert_eq!(unit.first_len(), 20);
    let ready = unit.ready_ms(0).unwrap();
    assert!(!unit.is_readable(ready - 1) && unit.is_readable(ready));
    assert_eq!((unit.ready_ms(ready), read(&mut unit, ready).is_some()), (None, true));
    unit.set_shaper(None);
    assert!(read(&mut unit, 0).is_some());
}
