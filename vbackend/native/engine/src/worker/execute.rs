//! What the control thread asks of a worker: ports come and go, sessions begin and end, settings change.

use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::framing::{PREFIX_LEN, Run, put_prefix};
use vbackend_proto::segment::PortId;
use vbackend_proto::vnet::VnetHeader;

use super::table::{Entry, slot_of};
use super::{DRAIN_ROUNDS, Worker};
use crate::command::{Command, CommandError, lock};
use crate::port::Port;
use crate::sys::Interest;

impl Worker {
    /// Carry out one command of the control thread.
    pub(super) fn execute(&mut self, command: Command) -> Result<u64, CommandError> {
        match command {
            Command::AddLocal(mut port) => {
                let slot = slot_of(port.shared.id);
                port.publish();
                self.table.set(slot, Some(Entry::Local(port)));
            }
            Command::AddRemote(shared) => {
                let slot = slot_of(shared.id);
                self.table.set(slot, Some(Entry::Remote(shared)));
            }
            Command::Remove(id) => {
                self.fetch_inbox(slot_of(id));
                self.detach(id);
                self.table.set(slot_of(id), None);
            }
            Command::SetSegment(id, segment) => self.port(id)?.segment = segment,
            Command::SetUp(id, up) => {
                let port = self.port(id)?;
                port.set_up(up);
                if let (false, Some(segment)) = (up, &port.segment) {
                    lock(segment).flush(id);
                }
                self.flush(slot_of(id)); // it watches for what waits still
                self.forward_generated();
            }
            Command::SetLimits(id, limits) => self.port(id)?.set_limits(limits),
            Command::SetRate(id, rate) => {
                let now_ms = self.now_ms;
                self.port(id)?.set_rate(rate, now_ms);
                self.flush(slot_of(id)); // what waits, waits for the new rate
                self.forward_generated();
            }
            Command::SetImpairment(id, impairment) => {
                let port = self.port(id)?;
                port.set_impairment(impairment);
                port.publish();
            }
            Command::StartCapture(id, tap) => self.port(id)?.with_taps(|taps| taps.add(tap)),
            Command::StopCapture(id, sink) => self.port(id)?.with_taps(|taps| taps.remove(&sink)),
            Command::Attach(id, link) => {
                let port = self.port(id)?;
                if port.link.is_some() {
                    return Err(CommandError::Busy);
                }
                port.link = Some(*link);
                return self.begin(id);
            }
            Command::Detach(id) => {
                self.port(id)?;
                self.detach(id);
            }
            Command::ConfigureUnit(id, config) => {
                self.port(id)?.unit().ok_or(CommandError::NoUnit)?.set_config(*config);
            }
            Command::AttachReader(id, reader) => {
                let unit = self.port(id)?.unit().ok_or(CommandError::NoUnit)?;
                if unit.has_reader() {
                    return Err(CommandError::Busy);
                }
                unit.set_reader(*reader);
                return self.begin(id);
            }
            Command::ReportErrors(id, errors) => {
                self.port(id)?.unit().ok_or(CommandError::NoUnit)?.set_errors(errors);
            }
            Command::DetachReader(id) => {
                self.port(id)?.unit().ok_or(CommandError::NoUnit)?;
                self.drain(slot_of(id));
                if let Some(mut port) = self.table.take(slot_of(id)) {
                    self.end_reader(&mut port, DropReason::PeerGone);
                    self.finish(slot_of(id), port, Ok(()));
                }
            }
            Command::Inject(id, frame) => {
                self.port(id)?;
                self.inject(slot_of(id), &frame);
            }
            Command::Vhost(id, command) => {
                let vhost = self.port(id)?.vhost().ok_or(CommandError::NoVhost)?;
                let answer = vhost.execute(*command).map_err(CommandError::Refused)?;
                self.receive(slot_of(id)); // what it made possible happens now
                return Ok(answer);
            }
            Command::Stop => {
                for slot in 0..self.table.len() {
                    if let Some(id) = self.table.local(slot).map(|port| port.shared.id) {
                        self.detach(id);
                    }
                }
                self.running = false;
            }
        }
        Ok(0)
    }

    fn inject(&mut self, slot: usize, frame: &[u8]) {
        let Some(mut port) = self.table.take(slot) else { return };
        let mut wire = vec![0; PREFIX_LEN];
        put_prefix(&mut wire, 0, frame.len());
        wire.extend_from_slice(frame);
        let mut runs = vec![Run::one(0, frame.len(), VnetHeader::PLAIN)];
        port.note_injected();
        port.admit(&wire, &mut runs);
        self.forward(&mut port, &mut wire, &runs);
        self.finish(slot, port, Ok(()));
        self.transmit(&wire);
        self.forward_generated();
    }

    fn port(&mut self, id: PortId) -> Result<&mut Port, CommandError> {
        self.table.local(slot_of(id)).filter(|port| port.shared.id == id).ok_or(CommandError::UnknownPort)
    }

    /// Begin a session on a link, or with a unit's reader, that was just put in place; its number.
    fn begin(&mut self, id: PortId) -> Result<u64, CommandError> {
        let slot = slot_of(id);
        let Some(mut port) = self.table.take(slot) else {
            return Err(CommandError::UnknownPort);
        };
        port.session += 1;
        let session = port.session;
        let interest = Interest { read: true, write: false };
        let token = port.shared.id.0;
        let added = port
            .link
            .as_ref()
            .and_then(|link| link.fd())
            .map_or(Ok(()), |fd| self.epoll.add(fd, token, interest));
        match &added {
            Ok(()) => port.watched = Some(interest),
            Err(_) if port.take_reader(DropReason::PeerGone).is_some() => {}
            Err(_) => port.link = None,
        }
        self.finish(slot, port, Ok(()));
        added.map(|()| session).map_err(CommandError::Io)
    }

    /// End a session in order: give the peer what it takes at once, and read until it has nothing more to say, since
    /// a QEMU whose send is blocked when we close never sends again.
    fn detach(&mut self, id: PortId) {
        let slot = slot_of(id);
        self.drain(slot);
        if let Some(mut port) = self.table.take(slot) {
            self.end_session(&mut port);
            port.purge(DropReason::Removed);
            self.finish(slot, port, Ok(()));
        }
    }

    fn drain(&mut self, slot: usize) {
        self.flush(slot);
        self.receive(slot);
        for _ in 0..DRAIN_ROUNDS {
            if !self.table.local(slot).is_some_and(|port| port.has_unread()) {
                break;
            }
            self.receive(slot);
        }
    }
}
