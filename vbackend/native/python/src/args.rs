//! Arguments from Python: what is out of range, and who owns a descriptor while other arguments are looked at.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

/// The number of a port or segment. One that is out of range is nobody's, so it is not found.
#[derive(Clone, Copy)]
pub struct Number(pub u64);

impl<'py> FromPyObject<'_, 'py> for Number {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Number> {
        Ok(Number(in_range(object)?.unwrap_or(u64::MAX)))
    }
}

/// A count or a size; one that is out of range is a `ValueError`.
#[derive(Clone, Copy)]
pub struct Amount<T>(pub T);

impl<'a, 'py, T> FromPyObject<'a, 'py> for Amount<T>
where
    T: FromPyObject<'a, 'py, Error = PyErr>,
{
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Amount<T>> {
        let wrong = || PyValueError::new_err(format!("{} is out of range", object.as_any()));
        in_range(object)?.map(Amount).ok_or_else(wrong)
    }
}

/// A descriptor that Python gave away: closed when the call fails, also when an argument behind it is wrong.
pub struct TakenFd(Option<OwnedFd>);

impl TakenFd {
    /// The descriptor.
    pub fn owned(self) -> PyResult<OwnedFd> {
        self.0.ok_or_else(|| PyValueError::new_err("not a file descriptor: negative, or too large"))
    }

    /// Two descriptors, which have to be different ones.
    pub fn owned_pair(self, other: Option<TakenFd>) -> PyResult<(OwnedFd, Option<OwnedFd>)> {
        let (first, second) = (self.0, other.map(TakenFd::owned).transpose()?);
        let raw = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
        if raw(&first).is_some() && raw(&first) == raw(&second) {
            let _closed_once = second.map(IntoRawFd::into_raw_fd);
            return Err(PyValueError::new_err("the two file descriptors are the same"));
        }
        Ok((TakenFd(first).owned()?, second))
    }
}

impl<'py> FromPyObject<'_, 'py> for TakenFd {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<TakenFd> {
        let raw: Option<RawFd> = in_range(object)?.filter(|fd| *fd >= 0);
        // SAFETY: by the contract of `_native.pyi` the caller gives an open descriptor away with this call.
        Ok(TakenFd(raw.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })))
    }
}

/// An integer, None when it does not fit.
fn in_range<'a, 'py, T>(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Option<T>>
where
    T: FromPyObject<'a, 'py, Error = PyErr>,
{
    match object.extract() {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => Ok(None),
        Err(error) => Err(error),
    }
}
