//! `_native.Channel`: Python's end of a channel port.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use vbackend_engine::ChannelEnd;

use crate::args::Amount;
use crate::error::NativeError;

/// Python's end of a channel port.
#[pyclass(frozen, name = "Channel", module = "vbackend._native")]
pub struct PyChannel(pub ChannelEnd);

#[pymethods]
impl PyChannel {
    fn fileno(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    fn send(&self, frame: &[u8]) -> Result<bool, NativeError> {
        Ok(self.0.send(frame)?)
    }

    fn send_batch(&self, frames: &Bound<'_, PyList>) -> PyResult<usize> {
        let mut taken = 0;
        for frame in frames {
            let frame = frame.cast::<PyBytes>()?;
            taken += usize::from(self.0.send(frame.as_bytes()).map_err(NativeError::from)?);
        }
        Ok(taken)
    }

    fn recv<'py>(&self, py: Python<'py>) -> Result<Option<Bound<'py, PyBytes>>, NativeError> {
        let mut frame = None;
        self.0.receive(1, |bytes| frame = Some(PyBytes::new(py, bytes)))?;
        Ok(frame)
    }

    #[pyo3(signature = (most = Amount(256)), text_signature = "($self, most=256)")]
    fn recv_batch<'py>(
        &self,
        py: Python<'py>,
        most: Amount<usize>,
    ) -> Result<Vec<Bound<'py, PyBytes>>, NativeError> {
        let mut frames = Vec::new();
        self.0.receive(most.0, |bytes| frames.push(PyBytes::new(py, bytes)))?;
        Ok(frames)
    }

    fn close(&self) {
        self.0.close();
    }
}
