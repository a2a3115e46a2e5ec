//! Engine errors as Python exceptions: one place.

use pyo3::PyErr;
use pyo3::exceptions::{PyKeyError, PyOSError, PyRuntimeError, PyValueError};
use vbackend_engine::EngineError;

/// What a call of this module fails with.
pub enum NativeError {
    /// From the engine.
    Engine(EngineError),
    /// The handle is used in a forked child, where the workers do not exist.
    Forked,
}

impl From<EngineError> for NativeError {
    fn from(error: EngineError) -> NativeError {
        NativeError::Engine(error)
    }
}

impl From<std::io::Error> for NativeError {
    fn from(error: std::io::Error) -> NativeError {
        NativeError::Engine(EngineError::Io(error))
    }
}

impl From<NativeError> for PyErr {
    fn from(error: NativeError) -> PyErr {
        match error {
            NativeError::Engine(EngineError::Unknown(text)) => PyKeyError::new_err(text),
            NativeError::Engine(EngineError::Invalid(text)) => PyValueError::new_err(text),
            NativeError::Engine(EngineError::Io(error)) => os_error(&error),
            NativeError::Engine(EngineError::Dead(text)) => PyRuntimeError::new_err(text),
            NativeError::Forked => {
                PyRuntimeError::new_err("the engine does not survive a fork: make a new one in the child")
            }
        }
    }
}

/// `OSError(errno, text)`, of which Python makes the right subclass.
fn os_error(error: &std::io::Error) -> PyErr {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(errno) => {
            PyOSError::new_err((errno, text.split(" (os error").next().unwrap_or(&text).to_owned()))
        }
        None => PyOSError::new_err(text),
    }
}
