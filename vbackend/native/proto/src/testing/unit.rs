//! Fuzz target: the per-packet half of a tun unit against a list of byte strings and counters that are added by hand.

use std::collections::VecDeque;

use super::Input;
use crate::unit::header::SOCKADDR_LEN;
use crate::unit::{AddressFamily, Header, System, Unit, UnitError, UnitState, flags};
use crate::wire::Family;
use crate::wire::ethernet::Mac;

const HEADERS: [Header; 6] =
    [Header::None, Header::Null, Header::Loop, Header::Sockaddr, Header::Pi, Header::Ether];
const SYSTEMS: [System; 4] = [System::Netbsd, System::Freebsd, System::Darwin, System::Linux];
const LIMIT: usize = 3;

/// The bytes are: header, system, TUNMTU, then operations, each with what it takes.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let header = HEADERS[usize::from(input.byte()) % HEADERS.len()];
    let system = SYSTEMS[usize::from(input.byte()) % SYSTEMS.len()];
    let tunmtu = usize::from(input.byte());
    let mut unit = Unit::new(LIMIT, LIMIT);
    let ready = UnitState { flags: flags::READY, ticket: 1, header, system, tunmtu, ..*unit.state() };
    unit.set_state(ready);
    let (mut snd, mut received, mut purged) = (VecDeque::new(), VecDeque::new(), 0);
    while !input.is_empty() {
        let what = input.byte();
        let len = usize::from(input.byte());
        match what % 6 {
            0 | 1 => output(&mut unit, input.byte(), input.bytes(len), &mut snd),
            2 => {
                let read = unit.front(0).map(<[u8]>::to_vec);
                assert_eq!(read, snd.pop_front());
                unit.pop();
            }
            3 => write(&mut unit, input.bytes(len), &mut received),
            4 => {
                let taken = unit.take_input(|family, packet| (family, packet.to_vec()));
                assert_eq!(taken, received.pop_front());
            }
            _ => {
                purged += snd.len();
                assert_eq!(unit.purge(), snd.len());
                snd.clear();
            }
        }
        assert_eq!((unit.snd().len(), unit.input_len()), (snd.len(), received.len()));
        assert_eq!(unit.first_len(), snd.front().map_or(0, Vec::len));
        assert_eq!(unit.is_readable(0), !snd.is_empty());
    }
    assert_eq!(unit.counters().purged, purged as u64);
}

fn output(unit: &mut Unit, number: u8, packet: &[u8], snd: &mut VecDeque<Vec<u8>>) {
    let family = match number % 4 {
        0 => AddressFamily::Unspecified,
        1 => AddressFamily::Ip(Family::Ipv4),
        2 => AddressFamily::Ip(Family::Ipv6),
        _ => AddressFamily::Other(7),
    };
    let before = unit.counters();
    let header = unit.prepare_output(family, None, (Mac::ZERO, Mac::ZERO));
    let AddressFamily::Other(_) = family else {
        let header = header.expect("the unit is ready, and carries the family");
        let queued = unit.enqueue(&header, packet);
        assert_eq!(queued.is_ok(), snd.len() < LIMIT);
        let lost = u64::from(queued.is_err());
        let after = unit.counters();
        assert_eq!((after.collisions - before.collisions, after.drops - before.drops), (lost, lost));
        assert_eq!(after.opackets - before.opackets, 1 - lost);
        if queued.is_ok() {
            snd.push_back([header.bytes(), packet].concat());
        }
        return;
    };
    assert_eq!((header, unit.counters().oerrors), (Err(UnitError::Family), before.oerrors + 1));
}

fn write(unit: &mut Unit, data: &[u8], received: &mut VecDeque<(Family, Vec<u8>)>) {
    let (state, before) = (*unit.state(), unit.counters());
    match unit.accept(data) {
        Ok((start, family)) => {
            let packet = &data[start..];
            assert!(!packet.is_empty() && packet.len() <= state.tunmtu);
            let waiting = received.iter().filter(|(other, _)| *other == family).count();
            let queued = unit.queue_input(family, packet);
            assert_eq!(queued.is_ok(), waiting < LIMIT);
            if queued.is_ok() {
                assert_eq!(unit.counters().ibytes - before.ibytes, packet.len() as u64);
                received.push_back((family, packet.to_vec()));
            }
        }
        Err(UnitError::Short) => assert!(data.len() < SOCKADDR_LEN && state.header != Header::None),
        Err(UnitError::TooLong) => assert!(data.len() > state.tunmtu),
        Err(error) => assert!(matches!(error, UnitError::Family | UnitError::NoPacket), "{error:?}"),
    }
}
