//! `_native.TunUnit`: the per-packet half of a tun unit, driven by `vbackend/tun`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use vbackend_engine::unit::{SharedUnit, refusal};
use vbackend_proto::shaper::Rate;
use vbackend_proto::unit::header::family_of;
use vbackend_proto::unit::{AddressFamily, Header, System, UnitError, UnitState, flags};
use vbackend_proto::wire::Family;

use crate::args::Amount;
use crate::capture::{Filter, PyCapture};
use crate::error::NativeError;

/// The per-packet half of a tun unit.
#[pyclass(frozen, name = "TunUnit", module = "vbackend._native")]
pub struct PyTunUnit(pub Arc<SharedUnit>);

impl PyTunUnit {
    fn waits(&self, nonblocking: Option<bool>) -> bool {
        !nonblocking.unwrap_or_else(|| self.0.lock().unit.has(flags::NBIO))
    }

    /// Wait until the read that found nothing since `from` is worth another try; a signal is `EINTR` (R3).
    fn wait(&self, py: Python<'_>, from: (u32, u32)) -> PyResult<()> {
        let slept = py.detach(|| self.0.sleep(from));
        py.check_signals()?;
        Ok(slept.map_err(NativeError::from)?)
    }

    fn read_once<'py>(
        &self,
        py: Python<'py>,
        ticket: u64,
        size: usize,
    ) -> Result<Option<Bound<'py, PyBytes>>, NativeError> {
        Ok(self.0.read(ticket, |packet| PyBytes::new(py, &packet[..packet.len().min(size)]))?)
    }
}

#[pymethods]
impl PyTunUnit {
    #[new]
    #[pyo3(
        signature = (*, queue = Amount(256), input_queue = Amount(256)),
        text_signature = "(*, queue=256, input_queue=256)"
    )]
    fn new(queue: Amount<usize>, input_queue: Amount<usize>) -> PyTunUnit {
        PyTunUnit(Arc::new(SharedUnit::new(queue.0, input_queue.0)))
    }

    #[pyo3(signature = (*, flags, index, ticket, tunmtu, header, system, owner))]
    #[allow(clippy::too_many_arguments, reason = "the signature is Python's")]
    fn set_state(
        &self,
        flags: u32,
        index: u32,
        ticket: u64,
        tunmtu: usize,
        header: &str,
        system: &str,
        owner: i32,
    ) -> PyResult<()> {
        let (header, system) = (header_named(header)?, system_named(system)?);
        self.0.set_state(UnitState { flags, index, ticket, tunmtu, header, system, owner });
        Ok(())
    }

    fn purge(&self) -> usize {
        self.0.purge()
    }

    fn reset_interface(&self) {
        self.0.reset_interface();
    }

    fn wake(&self) {
        self.0.wake();
    }

    fn set_limit(&self, frames: Amount<usize>) {
        self.0.set_limit(frames.0);
    }

    fn set_rate(&self, bits_per_s: Amount<u64>, burst_bytes: Amount<u64>) {
        let rate = Rate { bits_per_s: bits_per_s.0, burst_bytes: burst_bytes.0 };
        self.0.set_rate((rate.bits_per_s > 0).then_some(rate));
    }

    fn held(&self) -> bool {
        self.0.is_held()
    }

    fn start(&self) -> Option<u64> {
        self.0.start()
    }

    fn view(&self) -> BTreeMap<&'static str, u64> {
        let view = self.0.view();
        let counters = view.counters;
        [
            ("ipackets", counters.ipackets),
            ("ibytes", counters.ibytes),
            ("opackets", counters.opackets),
            ("obytes", counters.obytes),
            ("ierrors", counters.ierrors),
            ("oerrors", counters.oerrors),
            ("collisions", counters.collisions),
            ("drops", counters.drops),
            ("input_drops", counters.input_drops),
            ("purged", counters.purged),
            ("queued", view.queued as u64),
            ("input", view.input as u64),
            ("reader_waits", u64::from(view.reader_waits)),
        ]
        .into()
    }

    #[pyo3(signature = (packet, family, destination = None))]
    fn output(&self, packet: &[u8], family: u32, destination: Option<IpAddr>) -> Result<(), NativeError> {
        let family = match family {
            0 => AddressFamily::Unspecified,
            number => family_of(number).map_or(AddressFamily::Other(number), AddressFamily::Ip),
        };
        Ok(self.0.output(packet, family, destination).map_err(refusal)?)
    }

    fn take_input<'py>(&self, py: Python<'py>) -> Option<(u8, Bound<'py, PyBytes>)> {
        self.0.take_input(|family, packet| {
            (if family == Family::Ipv4 { 4 } else { 6 }, PyBytes::new(py, packet))
        })
    }

    #[pyo3(signature = (ticket, size, *, nonblocking = None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        ticket: u64,
        size: Amount<usize>,
        nonblocking: Option<bool>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        if let Some(packet) = self.read_once(py, ticket, size.0)? {
            return Ok(packet);
        }
        if !self.waits(nonblocking) {
            return Err(NativeError::from(refusal(UnitError::Empty)).into());
        }
        let (_, index) = self.0.waiting_from();
        loop {
            let from = self.0.waiting_from();
            if from.1 != index && self.0.lock().unit.state().ticket == ticket {
                return Err(NativeError::from(refusal(UnitError::Gone)).into()); // R4: replaced meanwhile
            }
            if let Some(packet) = self.read_once(py, ticket, size.0)? {
                return Ok(packet);
            }
            self.wait(py, from)?;
        }
    }

    fn count_copy_error(&self) {
        self.0.lock().unit.count_input_error();
    }

    #[pyo3(signature = (ticket, most = Amount(256)), text_signature = "($self, ticket, most=256)")]
    fn read_batch<'py>(
        &self,
        py: Python<'py>,
        ticket: u64,
        most: Amount<usize>,
    ) -> Result<Vec<Bound<'py, PyBytes>>, NativeError> {
        let mut packets = Vec::new();
        self.0.read_batch(ticket, most.0, |packet| packets.push(PyBytes::new(py, packet)))?;
        Ok(packets)
    }

    fn write(&self, ticket: u64, data: &[u8]) -> Result<usize, NativeError> {
        Ok(self.0.write(ticket, data)?)
    }

    #[pyo3(signature = (capture, interface, *, link, snaplen, filter))]
    fn capture(
        &self,
        capture: &PyCapture,
        interface: Amount<u32>,
        link: &str,
        snaplen: Amount<u32>,
        filter: Option<Filter>,
    ) -> PyResult<()> {
        let tap = capture.tap(interface.0, "both", link, snaplen.0, filter)?;
        self.0.lock().taps.add(tap);
        Ok(())
    }

    fn uncapture(&self, capture: &PyCapture) {
        self.0.lock().taps.remove(&capture.0);
    }

    fn detach_captures(&self) {
        self.0.lock().taps.clear();
    }

    fn first_len(&self) -> usize {
        self.0.lock().unit.first_len()
    }

    fn readable(&self) -> bool {
        self.0.is_readable()
    }

    fn poll_fd(&self, ticket: u64) -> Result<RawFd, NativeError> {
        Ok(self.0.poll_fd(ticket)?)
    }
}

fn header_named(name: &str) -> PyResult<Header> {
    Ok(match name {
        "none" => Header::None,
        "null" => Header::Null,
        "loop" => Header::Loop,
        "sockaddr" => Header::Sockaddr,
        "pi" => Header::Pi,
        "ether" => Header::Ether,
        _ => return Err(PyValueError::new_err(format!("{name:?} is no link header"))),
    })
}

fn system_named(name: &str) -> PyResult<System> {
    Ok(match name {
        "netbsd" => System::Netbsd,
        "freebsd" => System::Freebsd,
        "darwin" => System::Darwin,
        "linux" => System::Linux,
        _ => return Err(PyValueError::new_err(format!("{name:?} is no system"))),
    })
}

/// Send SIGIO to a process, or to the process group of a negative number, with `code` as its `si_code`.
#[pyfunction]
pub fn send_sigio(owner: i32, code: i32) {
    vbackend_engine::unit::send_sigio(owner, code);
}
