//! `_native.Engine` and `_native.Event`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use vbackend_engine::command::{End, Event};
use vbackend_engine::counters::Lane;
use vbackend_engine::{Engine, EngineError, PortConfig, TunConfig, parse_ip};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::PortId;

use crate::channel::PyChannel;
use crate::error::NativeError;

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
                };
                PyEvent { port: port.0, session, ..of("session-ended", reason, value) }
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
    fn get(&self) -> Result<&Engine, NativeError> {
        self.engine.as_ref().filter(|_| self.pid == std::process::id()).ok_or(NativeError::Forked)
    }

    /// Take a descriptor over from Python.
    fn take(fd: RawFd) -> PyResult<OwnedFd> {
        if fd < 0 {
            return Err(PyValueError::new_err(format!("not a file descriptor: {fd}")));
        }
        // SAFETY: by the contract of `_native.pyi` the caller gives an open descriptor away with this call.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

#[pymethods]
impl PyEngine {
    #[new]
    #[pyo3(signature = (workers = 1))]
    fn new(workers: usize) -> Result<PyEngine, NativeError> {
        let seed = RandomState::new().hash_one(std::process::id());
        Ok(PyEngine { engine: Some(Engine::new(workers, seed)?), pid: std::process::id() })
    }

    #[getter]
    fn event_fd(&self) -> Result<RawFd, NativeError> {
        Ok(self.get()?.event_fd().as_raw_fd())
    }

    #[getter]
    fn workers(&self) -> Result<usize, NativeError> {
        Ok(self.get()?.workers())
    }

    #[pyo3(signature = (*, ageing_ms = 300_000, max_entries = 4096))]
    fn add_switch(&self, ageing_ms: u64, max_entries: usize) -> Result<u64, NativeError> {
        Ok(self.get()?.add_switch(ageing_ms, max_entries)?)
    }

    fn add_cable(&self) -> Result<u64, NativeError> {
        Ok(self.get()?.add_cable()?)
    }

    fn remove_segment(&self, segment: u64) -> Result<(), NativeError> {
        Ok(self.get()?.remove_segment(segment)?)
    }

    #[pyo3(signature = (*, queue_frames = 256, queue_bytes = 2_097_152, mac = None, isolated = false, worker = None))]
    fn add_port(
        &self,
        queue_frames: usize,
        queue_bytes: usize,
        mac: Option<[u8; 6]>,
        isolated: bool,
        worker: Option<usize>,
    ) -> Result<u64, NativeError> {
        let limits = Limits { frames: queue_frames, bytes: queue_bytes };
        Ok(self.get()?.add_port(PortConfig { limits, source: mac, isolated, worker })?.0)
    }

    fn remove_port(&self, py: Python<'_>, port: u64) -> Result<(), NativeError> {
        let engine = self.get()?;
        Ok(py.detach(|| engine.remove_port(PortId(port)))?)
    }

    fn join(&self, port: u64, segment: u64) -> Result<(), NativeError> {
        Ok(self.get()?.join(PortId(port), segment)?)
    }

    fn leave(&self, port: u64) -> Result<(), NativeError> {
        Ok(self.get()?.leave(PortId(port))?)
    }

    #[pyo3(signature = (port, *, up = None, queue_frames = None, queue_bytes = None))]
    fn set_port(
        &self,
        port: u64,
        up: Option<bool>,
        queue_frames: Option<usize>,
        queue_bytes: Option<usize>,
    ) -> Result<(), NativeError> {
        let engine = self.get()?;
        if let Some(up) = up {
            engine.set_up(PortId(port), up)?;
        }
        Ok(engine.set_limits(PortId(port), queue_frames, queue_bytes)?)
    }

    fn attach_stream(&self, port: u64, fd: RawFd) -> PyResult<u64> {
        let fd = Self::take(fd)?;
        Ok(self.get()?.attach_stream(PortId(port), fd).map_err(NativeError::from)?)
    }

    #[pyo3(signature = (port, fd, *, send_to = None, accept_from = None, send_fd = None))]
    fn attach_dgram(
        &self,
        port: u64,
        fd: RawFd,
        send_to: Option<&str>,
        accept_from: Option<&str>,
        send_fd: Option<RawFd>,
    ) -> PyResult<u64> {
        let (fd, send) = (Self::take(fd)?, send_fd.map(Self::take).transpose()?);
        let session = self.get()?.attach_dgram(PortId(port), fd, send_to, accept_from, send);
        Ok(session.map_err(NativeError::from)?)
    }

    #[pyo3(signature = (port, fd, *, vnet_hdr))]
    fn attach_tap(&self, port: u64, fd: RawFd, vnet_hdr: bool) -> PyResult<u64> {
        let fd = Self::take(fd)?;
        Ok(self.get()?.attach_tap(PortId(port), fd, vnet_hdr).map_err(NativeError::from)?)
    }

    #[pyo3(signature = (port, fd, *, packet_info, mac, local, peers))]
    #[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
    fn attach_tun(
        &self,
        port: u64,
        fd: RawFd,
        packet_info: bool,
        mac: [u8; 6],
        local: Vec<String>,
        peers: Vec<String>,
    ) -> PyResult<u64> {
        let fd = Self::take(fd)?;
        let parse = |texts: &[String]| texts.iter().map(|text| parse_ip(text)).collect::<Result<Vec<_>, _>>();
        let attach = || -> Result<u64, EngineError> {
            let config = TunConfig { mac, local: parse(&local)?, peers: parse(&peers)?, packet_info };
            let engine = self.get().map_err(|_| EngineError::Dead("the engine does not survive a fork"))?;
            engine.attach_tun(PortId(port), fd, config)
        };
        Ok(attach().map_err(NativeError::from)?)
    }

    fn attach_channel(&self, port: u64) -> Result<PyChannel, NativeError> {
        Ok(PyChannel(self.get()?.attach_channel(PortId(port))?))
    }

    fn detach(&self, py: Python<'_>, port: u64) -> Result<(), NativeError> {
        let engine = self.get()?;
        Ok(py.detach(|| engine.detach(PortId(port)))?)
    }

    fn drain_events(&self) -> Result<Vec<PyEvent>, NativeError> {
        Ok(self.get()?.drain_events().into_iter().map(PyEvent::from).collect())
    }

    fn counters(&self, port: u64) -> Result<BTreeMap<&'static str, BTreeMap<String, u64>>, NativeError> {
        let counters = self.get()?.counters(PortId(port))?;
        Ok([("rx", lane(&counters.rx)), ("tx", lane(&counters.tx))].into())
    }

    fn fdb<'py>(
        &self,
        py: Python<'py>,
        segment: u64,
    ) -> Result<Vec<(Bound<'py, PyBytes>, u64, u64)>, NativeError> {
        let entries = self.get()?.fdb(segment)?;
        Ok(entries.iter().map(|(entry, age)| (PyBytes::new(py, &entry.mac), entry.port.0, *age)).collect())
    }

    fn close(&self, py: Python<'_>) -> Result<(), NativeError> {
        let engine = self.get()?;
        py.detach(|| engine.close());
        Ok(())
    }
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
