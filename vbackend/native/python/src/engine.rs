//! `_native.Engine` and `_native.Event`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use vbackend_engine::command::{End, Event};
use vbackend_engine::counters::Lane;
use vbackend_engine::{Engine, EngineError, PortConfig, ReaderKind};
use vbackend_proto::adapter::{Config, Mode};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::PortId;
use vbackend_proto::shaper::Rate;
use vbackend_proto::wire::ethernet::Mac;

use crate::args::{Amount, Number, TakenFd};
use crate::capture::{Filter, PyCapture};
use crate::channel::PyChannel;
use crate::error::NativeError;
use crate::unit::PyTunUnit;

/// Something a worker reports.
#[pyclass(frozen, get_all, name = "Event", module = "vbackend._native")]
pub struct PyEvent {
    kind: &'static str,
    port: u64,
    session: u64,
    reason: String,
    value: i64,
}

impl From<Event> for PyEvent {
    fn from(event: Event) -> PyEvent {
        let of = |kind, reason: &str, value| PyEvent {
            kind,
            port: 0,
            session: 0,
            reason: reason.to_owned(),
            value,
        };
        match event {
            Event::SessionEnded { port, session, end } => {
                let (reason, value) = match end {
                    End::Eof(cut) => ("eof", i64::try_from(cut).unwrap_or(i64::MAX)),
                    End::Oversize(length) => ("oversize", i64::from(length)),
                    End::Error(errno) => ("error", i64::from(errno)),
                    End::Memory => ("memory", 0),
                };
                PyEvent { port: port.0, session, ..of("session-ended", reason, value) }
            }
            Event::RingStopped { port, session, ring, text } => {
                let ring = i64::try_from(ring).unwrap_or(i64::MAX);
                PyEvent { port: port.0, session, ..of("ring-stopped", text, ring) }
            }
            Event::WorkerDied { worker, text } => {
                of("worker-died", &text, i64::try_from(worker).unwrap_or(i64::MAX))
            }
            Event::Lost(count) => of("events-lost", "", i64::try_from(count).unwrap_or(i64::MAX)),
        }
    }
}

/// Worker threads and what they move frames between.
#[pyclass(frozen, name = "Engine", module = "vbackend._native")]
pub struct PyEngine {
    engine: Option<Engine>, // None only while it is dropped
    pid: u32,
}

impl Drop for PyEngine {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // The threads to join are in the parent.
            std::mem::forget(self.engine.take());
        }
    }
}

impl PyEngine {
    pub(crate) fn get(&self) -> Result<&Engine, NativeError> {
        self.engine.as_ref().filter(|_| self.pid == std::process::id()).ok_or(NativeError::Forked)
    }
}

#[pymethods]
impl PyEngine {
    #[new]
    #[pyo3(signature = (workers = Amount(1)), text_signature = "(workers=1)")]
    fn new(workers: Amount<usize>) -> Result<PyEngine, NativeError> {
        let seed = RandomState::new().hash_one(std::process::id());
        Ok(PyEngine { engine: Some(Engine::new(workers.0, seed)?), pid: std::process::id() })
    }

    #[getter]
    fn event_fd(&self) -> Result<RawFd, NativeError> {
        Ok(self.get()?.event_fd().as_raw_fd())
    }

    #[getter]
    fn workers(&self) -> Result<usize, NativeError> {
        Ok(self.get()?.workers())
    }

    #[pyo3(
        signature = (*, ageing_ms = Amount(300_000), max_entries = Amount(4096)),
        text_signature = "($self, *, ageing_ms=300000, max_entries=4096)"
    )]
    fn add_switch(&self, ageing_ms: Amount<u64>, max_entries: Amount<usize>) -> Result<u64, NativeError> {
        Ok(self.get()?.add_switch(ageing_ms.0, max_entries.0)?)
    }

    fn add_cable(&self) -> Result<u64, NativeError> {
        Ok(self.get()?.add_cable()?)
    }

    fn remove_segment(&self, segment: Number) -> Result<(), NativeError> {
        Ok(self.get()?.remove_segment(segment.0)?)
    }

    #[pyo3(
        signature = (
            *, queue_frames = Amount(256), queue_bytes = Amount(2_097_152), mac = None, isolated = false, worker = None
        ),
        text_signature =
            "($self, *, queue_frames=256, queue_bytes=2097152, mac=None, isolated=False, worker=None)"
    )]
    fn add_port(
        &self,
        queue_frames: Amount<usize>,
        queue_bytes: Amount<usize>,
        mac: Option<[u8; 6]>,
        isolated: bool,
        worker: Option<Amount<usize>>,
    ) -> Result<u64, NativeError> {
        let limits = Limits { frames: queue_frames.0, bytes: queue_bytes.0 };
        let worker = worker.map(|index| index.0);
        Ok(self.get()?.add_port(PortConfig { limits, source: mac, isolated, worker })?.0)
    }

    fn remove_port(&self, py: Python<'_>, port: Number) -> Result<(), NativeError> {
        let engine = self.get()?;
        Ok(py.detach(|| engine.remove_port(PortId(port.0)))?)
    }

    fn join(&self, port: Number, segment: Number) -> Result<(), NativeError> {
        Ok(self.get()?.join(PortId(port.0), segment.0)?)
    }

    fn leave(&self, port: Number) -> Result<(), NativeError> {
        Ok(self.get()?.leave(PortId(port.0))?)
    }

    #[pyo3(signature = (port, *, up = None, queue_frames = None, queue_bytes = None, rate = None, burst = None))]
    fn set_port(
        &self,
        port: Number,
        up: Option<bool>,
        queue_frames: Option<Amount<usize>>,
        queue_bytes: Option<Amount<usize>>,
        rate: Option<Amount<u64>>,
        burst: Option<Amount<u64>>,
    ) -> Result<(), NativeError> {
        let limit = match (rate.map(|rate| rate.0), burst.map(|burst| burst.0)) {
            (None, None) => None,
            (Some(0), None) => Some(None),
            (Some(bits_per_s @ 1..), Some(burst_bytes @ 1..)) => Some(Some(Rate { bits_per_s, burst_bytes })),
            _ => return Err(wrong_rate()),
        };
        let (frames, bytes) = (queue_frames.map(|most| most.0), queue_bytes.map(|most| most.0));
        let engine = self.get()?;
        if let Some(up) = up {
            engine.set_up(PortId(port.0), up)?;
        }
        if let Some(rate) = limit {
            engine.set_rate(PortId(port.0), rate)?;
        }
        Ok(engine.set_limits(PortId(port.0), frames, bytes)?)
    }

    fn attach_stream(&self, port: Number, fd: TakenFd) -> PyResult<u64> {
        let fd = fd.owned()?;
        Ok(self.get()?.attach_stream(PortId(port.0), fd).map_err(NativeError::from)?)
    }

    #[pyo3(signature = (port, fd, *, send_fd = None, send_to = None, accept_from = None))]
    fn attach_dgram(
        &self,
        port: Number,
        fd: TakenFd,
        send_fd: Option<TakenFd>,
        send_to: Option<&str>,
        accept_from: Option<&str>,
    ) -> PyResult<u64> {
        let (fd, send) = fd.owned_pair(send_fd)?;
        let session = self.get()?.attach_dgram(PortId(port.0), fd, send_to, accept_from, send);
        Ok(session.map_err(NativeError::from)?)
    }

    #[pyo3(signature = (port, fd, *, vnet_hdr, uso = false))]
    fn attach_tap(&self, port: Number, fd: TakenFd, vnet_hdr: bool, uso: bool) -> PyResult<u64> {
        let fd = fd.owned()?;
        Ok(self.get()?.attach_tap(PortId(port.0), fd, vnet_hdr, uso).map_err(NativeError::from)?)
    }

    #[pyo3(signature = (port, unit, *, mac, pointopoint, local, peers, broadcasts))]
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
    fn attach_unit(
        &self,
        port: Number,
        unit: &Bound<'_, PyTunUnit>,
        mac: [u8; 6],
        pointopoint: bool,
        local: Vec<IpAddr>,
        peers: Vec<IpAddr>,
        broadcasts: Vec<IpAddr>,
    ) -> Result<u64, NativeError> {
        let config = adapter_config(mac, pointopoint, local, peers, broadcasts);
        Ok(self.get()?.attach_unit(PortId(port.0), Arc::clone(&unit.get().0), config)?)
    }

    #[pyo3(signature = (port, *, mac, pointopoint, local, peers, broadcasts))]
    fn configure_unit(
        &self,
        port: Number,
        mac: [u8; 6],
        pointopoint: bool,
        local: Vec<IpAddr>,
        peers: Vec<IpAddr>,
        broadcasts: Vec<IpAddr>,
    ) -> Result<(), NativeError> {
        let config = adapter_config(mac, pointopoint, local, peers, broadcasts);
        Ok(self.get()?.configure_unit(PortId(port.0), config)?)
    }

    #[pyo3(signature = (port, fd, *, device))]
    fn attach_reader(&self, port: Number, fd: TakenFd, device: bool) -> PyResult<u64> {
        let fd = fd.owned()?;
        let kind = if device { ReaderKind::Device } else { ReaderKind::Socket };
        Ok(self.get()?.attach_reader(PortId(port.0), fd, kind).map_err(NativeError::from)?)
    }

    fn detach_reader(&self, py: Python<'_>, port: Number) -> Result<(), NativeError> {
        let engine = self.get()?;
        Ok(py.detach(|| engine.detach_reader(PortId(port.0)))?)
    }

    fn report_errors(&self, port: Number, fd: Option<TakenFd>) -> PyResult<()> {
        let fd = fd.map(TakenFd::owned).transpose()?;
        Ok(self.get()?.report_errors(PortId(port.0), fd).map_err(NativeError::from)?)
    }

    fn attach_channel(&self, port: Number) -> Result<PyChannel, NativeError> {
        Ok(PyChannel(self.get()?.attach_channel(PortId(port.0))?))
    }

    fn detach(&self, py: Python<'_>, port: Number) -> Result<(), NativeError> {
        let engine = self.get()?;
        Ok(py.detach(|| engine.detach(PortId(port.0)))?)
    }

    #[pyo3(signature = (port, capture, interface, *, lane, link, snaplen, filter))]
    #[allow(clippy::too_many_arguments, reason = "the signature is Python's")]
    fn capture(
        &self,
        port: Number,
        capture: &PyCapture,
        interface: Amount<u32>,
        lane: &str,
        link: &str,
        snaplen: Amount<u32>,
        filter: Option<Filter>,
    ) -> PyResult<()> {
        let tap = capture.tap(interface.0, lane, link, snaplen.0, filter)?;
        Ok(self.get()?.capture_start(PortId(port.0), tap).map_err(NativeError::from)?)
    }

    fn uncapture(&self, port: Number, capture: &PyCapture) -> Result<(), NativeError> {
        Ok(self.get()?.capture_stop(PortId(port.0), &capture.0)?)
    }

    fn unlearn(&self, port: Number) -> Result<(), NativeError> {
        Ok(self.get()?.unlearn(PortId(port.0))?)
    }

    fn inject(&self, port: Number, frame: &[u8]) -> Result<(), NativeError> {
        Ok(self.get()?.inject(PortId(port.0), frame)?)
    }

    fn drain_events(&self) -> Result<Vec<PyEvent>, NativeError> {
        Ok(self.get()?.drain_events().into_iter().map(PyEvent::from).collect())
    }

    fn counters(&self, port: Number) -> Result<BTreeMap<&'static str, BTreeMap<String, u64>>, NativeError> {
        let counters = self.get()?.counters(PortId(port.0))?;
        Ok([("rx", lane(&counters.rx)), ("tx", lane(&counters.tx))].into())
    }

    fn fdb<'py>(
        &self,
        py: Python<'py>,
        segment: Number,
    ) -> Result<Vec<(Bound<'py, PyBytes>, u64, u64)>, NativeError> {
        let entries = self.get()?.fdb(segment.0)?;
        Ok(entries.iter().map(|(entry, age)| (PyBytes::new(py, &entry.mac), entry.port.0, *age)).collect())
    }

    fn close(&self, py: Python<'_>) -> Result<(), NativeError> {
        let engine = self.get()?;
        py.detach(|| engine.close());
        Ok(())
    }
}

fn wrong_rate() -> NativeError {
    let text = "a rate above 0 has a burst above 0, a rate of 0 has none; give both, or neither";
    EngineError::Invalid(text.to_owned()).into()
}

fn adapter_config(
    mac: [u8; 6],
    pointopoint: bool,
    local: Vec<IpAddr>,
    peers: Vec<IpAddr>,
    broadcasts: Vec<IpAddr>,
) -> Config {
    let mode = if pointopoint { Mode::PointToPoint } else { Mode::Broadcast };
    let broadcasts = broadcasts
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect();
    Config { local, peers, broadcasts, ..Config::new(Mac(mac), mode) }
}

fn lane(lane: &Lane) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = [
        ("frames_in".to_owned(), lane.frames_in),
        ("frames_out".to_owned(), lane.frames_out),
        ("bytes_out".to_owned(), lane.bytes_out),
        ("queued".to_owned(), lane.queued),
    ]
    .into();
    let lost = DropReason::ALL.iter().zip(&lane.drops).filter(|(_, frames)| **frames > 0);
    all.extend(lost.map(|(reason, frames)| (format!("drop:{}", reason.name()), *frames)));
    all
}
