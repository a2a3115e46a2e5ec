//! The vhost-user part of `_native.Engine`.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use vbackend_engine::{Place, RegionFile, RingPlace};
use vbackend_proto::segment::PortId;

use crate::args::{Amount, Number, TakenFd};
use crate::engine::PyEngine;
use crate::error::NativeError;

/// `(guest_address, size, user_address, offset, fd)`.
type RegionArguments = (Amount<u64>, Amount<u64>, Amount<u64>, Amount<u64>, TakenFd);

fn region(arguments: RegionArguments) -> PyResult<RegionFile> {
    let (guest, size, user, offset, fd) = arguments;
    let place = Place { guest: guest.0, size: size.0, user: user.0 };
    Ok(RegionFile { place, offset: offset.0, fd: fd.owned()? })
}

#[pymethods]
impl PyEngine {
    #[pyo3(signature = (port, *, busy_poll_us = Amount(0)), text_signature = "($self, port, *, busy_poll_us=0)")]
    fn attach_vhost(&self, port: Number, busy_poll_us: Amount<u64>) -> Result<u64, NativeError> {
        Ok(self.get()?.attach_vhost(PortId(port.0), busy_poll_us.0)?)
    }

    fn vhost_features(&self, port: Number, features: Amount<u64>) -> Result<(), NativeError> {
        Ok(self.get()?.vhost_features(PortId(port.0), features.0)?)
    }

    fn vhost_set_memory(&self, port: Number, regions: Vec<RegionArguments>) -> PyResult<()> {
        let files = regions.into_iter().map(region).collect::<PyResult<Vec<_>>>()?;
        Ok(self.get()?.vhost_set_memory(PortId(port.0), &files).map_err(NativeError::from)?)
    }

    fn vhost_add_memory(
        &self,
        port: Number,
        guest_address: Amount<u64>,
        size: Amount<u64>,
        user_address: Amount<u64>,
        offset: Amount<u64>,
        fd: TakenFd,
    ) -> PyResult<()> {
        let file = region((guest_address, size, user_address, offset, fd))?;
        Ok(self.get()?.vhost_add_memory(PortId(port.0), &file).map_err(NativeError::from)?)
    }

    fn vhost_remove_memory(
        &self,
        port: Number,
        guest_address: Amount<u64>,
        size: Amount<u64>,
        user_address: Amount<u64>,
    ) -> Result<(), NativeError> {
        let place = Place { guest: guest_address.0, size: size.0, user: user_address.0 };
        Ok(self.get()?.vhost_remove_memory(PortId(port.0), place)?)
    }

    #[pyo3(signature = (port, ring, *, size, base, descriptors, driver, device))]
    #[allow(clippy::too_many_arguments, reason = "the signature is Python's")]
    fn vhost_start_ring(
        &self,
        port: Number,
        ring: Amount<usize>,
        size: Amount<u16>,
        base: Amount<u32>,
        descriptors: Amount<u64>,
        driver: Amount<u64>,
        device: Amount<u64>,
    ) -> Result<(), NativeError> {
        let place = RingPlace {
            size: size.0,
            base: base.0,
            descriptors: descriptors.0,
            driver: driver.0,
            device: device.0,
        };
        Ok(self.get()?.vhost_start_ring(PortId(port.0), ring.0, place)?)
    }

    fn vhost_stop_ring(&self, port: Number, ring: Amount<usize>) -> Result<Option<u32>, NativeError> {
        Ok(self.get()?.vhost_stop_ring(PortId(port.0), ring.0)?)
    }

    fn vhost_enable_ring(&self, port: Number, ring: Amount<usize>, enabled: bool) -> Result<(), NativeError> {
        Ok(self.get()?.vhost_enable_ring(PortId(port.0), ring.0, enabled)?)
    }

    fn vhost_set_kick(&self, port: Number, ring: Amount<usize>, fd: Option<TakenFd>) -> PyResult<()> {
        let fd = fd.map(TakenFd::owned).transpose()?;
        Ok(self.get()?.vhost_set_kick(PortId(port.0), ring.0, fd).map_err(NativeError::from)?)
    }

    fn vhost_set_call(&self, port: Number, ring: Amount<usize>, fd: Option<TakenFd>) -> PyResult<()> {
        let fd = fd.map(TakenFd::owned).transpose()?;
        Ok(self.get()?.vhost_set_call(PortId(port.0), ring.0, fd).map_err(NativeError::from)?)
    }

    fn vhost_set_err(&self, port: Number, ring: Amount<usize>, fd: Option<TakenFd>) -> PyResult<()> {
        let fd = fd.map(TakenFd::owned).transpose()?;
        Ok(self.get()?.vhost_set_err(PortId(port.0), ring.0, fd).map_err(NativeError::from)?)
    }

    fn vhost_set_log(
        &self,
        port: Number,
        size: Amount<u64>,
        offset: Amount<u64>,
        fd: Option<TakenFd>,
    ) -> PyResult<()> {
        let fd = fd.map(TakenFd::owned).transpose()?;
        let result = self.get()?.vhost_set_log(PortId(port.0), size.0, offset.0, fd.as_ref());
        Ok(result.map_err(NativeError::from)?)
    }

    fn vhost_set_log_call(&self, port: Number, fd: Option<TakenFd>) -> PyResult<()> {
        let fd = fd.map(TakenFd::owned).transpose()?;
        Ok(self.get()?.vhost_set_log_call(PortId(port.0), fd).map_err(NativeError::from)?)
    }

    fn vhost_rings(&self, port: Number) -> Result<Vec<BTreeMap<&'static str, u64>>, NativeError> {
        let rings = self.get()?.vhost_rings(PortId(port.0))?;
        let shown = rings.iter().enumerate().filter(|(_, ring)| ring.size > 0 || ring.enabled);
        let shown = shown.map(|(number, ring)| {
            [
                ("ring", number as u64),
                ("running", u64::from(ring.running)),
                ("enabled", u64::from(ring.enabled)),
                ("size", u64::from(ring.size)),
                ("kicks", ring.kicks),
                ("calls", ring.calls),
                ("frames", ring.frames),
                ("packed", u64::from(ring.packed)),
            ]
            .into()
        });
        Ok(shown.collect())
    }
}
