use super::*;
use crate::shared::Waker;
use vbackend_proto::segment::PortId;
use vbackend_proto::unit::Header;

fn unit() -> SharedUnit {
    let unit = SharedUnit::new(4, 4);
    set(&unit, flags::READY, 1, 1);
    unit
}

fn set(unit: &SharedUnit, flags: u32, index: u32, ticket: u64) {
    let state = *unit.lock().unit.state();
    unit.set_state(UnitState { flags, index, ticket, header: Header::None, ..state });
}

fn output(unit: &SharedUnit) {
    unit.output(b"\x45abc", AddressFamily::Ip(Family::Ipv4), None).unwrap();
}

/// What a blocking read does.
fn read(unit: &SharedUnit, ticket: u64) -> Result<usize, i32> {
    loop {
        let from = unit.waiting_from();
        let told = |error: io::Error| error.raw_os_error().unwrap();
        match unit.read(ticket, <[u8]>::len).map_err(told)? {
            Some(len) => return Ok(len),
            None => unit.sleep(from).map_err(told)?,
        }
    }
}

/// Run `change` once a reader sleeps; what that reader got.
fn woken_by(change: impl FnOnce(&SharedUnit)) -> Result<usize, i32> {
    let unit = unit();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&unit, 1));
        while !unit.view().reader_waits {
            std::thread::yield_now();
        }
        change(&unit);
        reader.join().unwrap()
    })
}

#[test]
fn what_wakes_a_sleeping_reader() {
    assert_eq!(woken_by(output), Ok(4));
    let wake = |unit: &SharedUnit, flags, index, ticket| {
        set(unit, flags, index, ticket);
        unit.wake();
    };
    assert_eq!(woken_by(|unit| wake(unit, flags::OPEN, 1, 1)), Err(libc::ENXIO), "destroyed");
    assert_eq!(woken_by(|unit| wake(unit, flags::READY, 2, 1)), Err(libc::ENXIO), "replaced");
    assert_eq!(woken_by(|unit| wake(unit, flags::INITED, 1, 0)), Err(libc::EBADF), "closed");
}

#[test]
fn the_descriptor_follows_the_queue() {
    let unit = unit();
    let fd = unit.poll_fd(1).unwrap();
    let polls = |expected: (bool, bool)| {
        let inner = unit.lock();
        let fd = inner.poll.as_ref().unwrap().as_fd();
        assert_eq!((sys::is_readable(fd), sys::is_writable(fd)), expected);
    };
    polls((false, true));
    output(&unit);
    polls((true, true));
    assert_eq!(unit.poll_fd(1).unwrap(), fd);
    unit.read(1, |_| ()).unwrap();
    polls((false, true));
    output(&unit);
    assert_eq!(unit.purge(), 1);
    polls((false, true));
    set(&unit, flags::OPEN, 1, 1);
    polls((false, false));
    set(&unit, flags::INITED, 1, 0);
    assert!(unit.lock().poll.is_none());
    assert_eq!(unit.poll_fd(1).unwrap_err().raw_os_error(), Some(libc::EBADF));
}

#[test]
fn what_is_written_is_for_the_stack() {
    let unit = unit();
    assert_eq!(unit.write(1, b"\x60xyz").unwrap(), 4);
    assert_eq!(unit.write(2, b"\x60xyz").unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(unit.take_input(|family, packet| (family, packet.len())), Some((Family::Ipv6, 4)));
    assert_eq!(unit.take_input(|_, _| ()), None);
}

#[test]
fn the_worker_hears_of_input_again_after_it_was_told_of_what_a_new_interface_forgot() {
    let unit = unit();
    let waker = Arc::new(Waker::new().unwrap());
    let limits = Limits { frames: 4, bytes: 1000 };
    unit.set_port(Some(Arc::new(PortShared::new(PortId(3), 0, Arc::clone(&waker), limits))));
    let write = || unit.write(1, b"\x45abc").unwrap();
    write();
    write();
    assert_eq!(waker.collect().kicked, [PortId(3)], "once until it fetches");
    unit.reset_interface();
    write();
    assert_eq!(waker.collect().kicked, [PortId(3)]);
    assert!(unit.fetching().unit.has_input());
    write();
    assert_eq!(waker.collect().kicked, [PortId(3)]);
}

#[test]
fn no_packet_and_no_wake_up_is_lost_between_threads() {
    const PACKETS: usize = 20_000;
    let unit = SharedUnit::new(64, 64);
    set(&unit, flags::READY, 1, 1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| (0..PACKETS).map(|_| read(&unit, 1).unwrap()).sum::<usize>());
        for _ in 0..PACKETS {
            while unit.output(b"\x45abc", AddressFamily::Ip(Family::Ipv4), None).is_err() {
                std::thread::yield_now();
            }
        }
        assert_eq!(reader.join().unwrap(), 4 * PACKETS);
    });
}
