//! The extension module `vbackend._native`: conversions only. Its typed face is `vbackend/_native.pyi`.
#![allow(unsafe_code, reason = "PyO3's macros; this crate writes none of its own but fd ownership")]

mod args;
mod capture;
mod channel;
mod engine;
mod error;
mod impairment;
mod unit;
mod vhost;

use pyo3::prelude::*;
use vbackend_proto::drop_reason::DropReason;

/// How this module was built.
#[pyfunction]
fn build_info() -> std::collections::BTreeMap<&'static str, &'static str> {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    [("profile", profile), ("version", env!("CARGO_PKG_VERSION"))].into()
}

/// Every drop reason's name with one line that explains it.
#[pyfunction]
fn drop_reasons() -> Vec<(&'static str, &'static str)> {
    DropReason::ALL.iter().map(|reason| (reason.name(), reason.text())).collect()
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add(
        "__all__",
        ["Capture", "Channel", "Engine", "Event", "TunUnit", "build_info", "drop_reasons", "send_sigio"],
    )?;
    module.add_class::<engine::PyEngine>()?;
    module.add_class::<engine::PyEvent>()?;
    module.add_class::<channel::PyChannel>()?;
    module.add_class::<capture::PyCapture>()?;
    module.add_class::<unit::PyTunUnit>()?;
    module.add_function(wrap_pyfunction!(build_info, module)?)?;
    module.add_function(wrap_pyfunction!(drop_reasons, module)?)?;
    module.add_function(wrap_pyfunction!(unit::send_sigio, module)?)
}
