//! `_native.Capture`: what captured ports leave for Python to read.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use vbackend_engine::capture::{Lane, LinkType, Sink, Tap};
use vbackend_proto::capture::bpf::{Instruction, Program};

use crate::args::Amount;
use crate::error::NativeError;

/// A BPF program as Python has it: code, jt, jf, k.
pub type Filter = Vec<(u16, u8, u8, u32)>;

/// Check a program.
fn program(filter: Option<Filter>) -> PyResult<Option<Arc<Program>>> {
    let Some(filter) = filter else { return Ok(None) };
    let instructions: Vec<Instruction> =
        filter.into_iter().map(|(code, jt, jf, k)| Instruction { code, jt, jf, k }).collect();
    match Program::new(&instructions) {
        Ok(program) => Ok(Some(Arc::new(program))),
        Err(error) => Err(PyValueError::new_err(error.to_string())),
    }
}

/// Where the packets of one capture are collected.
#[pyclass(frozen, name = "Capture", module = "vbackend._native")]
pub struct PyCapture(pub Arc<Sink>);

impl PyCapture {
    /// A tap that records as number `interface` packets of `lane` that begin as `link` says.
    pub fn tap(
        &self,
        interface: u32,
        lane: &str,
        link: &str,
        snaplen: u32,
        filter: Option<Filter>,
    ) -> PyResult<Tap> {
        let lane = match lane {
            "both" => Lane::Both,
            "rx" => Lane::Rx,
            "rx-lost" => Lane::RxLost,
            "tx" => Lane::Tx,
            _ => return Err(PyValueError::new_err(format!("{lane:?} is no lane of a port"))),
        };
        let link = match link {
            "ethernet" => LinkType::Ethernet,
            "null" => LinkType::Null,
            "loop" => LinkType::Loop,
            "raw" => LinkType::Raw,
            _ => return Err(PyValueError::new_err(format!("{link:?} is no link type"))),
        };
        let filter = program(filter)?;
        Tap::new(Arc::clone(&self.0), interface, lane, link, snaplen, filter).ok_or_else(|| {
            PyValueError::new_err(format!("no interface {interface}; there are {}", self.0.interfaces()))
        })
    }
}

#[pymethods]
impl PyCapture {
    #[new]
    #[pyo3(
        signature = (interfaces, *, limit_bytes = Amount(4_194_304), count = None),
        text_signature = "(interfaces, *, limit_bytes=4194304, count=None)"
    )]
    fn new(
        interfaces: Amount<u16>,
        limit_bytes: Amount<usize>,
        count: Option<Amount<u64>>,
    ) -> Result<PyCapture, NativeError> {
        let sink = Sink::new(interfaces.0.into(), limit_bytes.0, count.map(|packets| packets.0))?;
        Ok(PyCapture(Arc::new(sink)))
    }

    fn add_interface(&self, description: &[u8]) -> Option<u32> {
        self.0.add_interface(description)
    }

    fn fileno(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    fn read<'py>(&self, py: Python<'py>, most: Amount<usize>) -> Bound<'py, PyBytes> {
        self.0.read(most.0, |bytes| PyBytes::new(py, bytes))
    }

    fn counts(&self) -> Vec<(u64, u64, u64)> {
        self.0.counts().iter().map(|one| (one.seen, one.captured, one.lost)).collect()
    }

    #[getter]
    fn ended(&self) -> bool {
        self.0.is_at_end()
    }

    fn end(&self) {
        self.0.end();
    }
}
