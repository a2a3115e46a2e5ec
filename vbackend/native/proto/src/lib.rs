//! vbackend's pure core. Bytes, events and `now` go in; decisions and bytes come out.
//!
//! No I/O, no clock, no threads, no `unsafe`: everything here runs the same in a test, a fuzzer and a worker.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod capture;
pub mod checksum;
pub mod drop_reason;
pub mod fdb;
pub mod framing;
pub mod impair;
pub mod offload;
pub mod queue;
pub mod segment;
pub mod shaper;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod unit;
pub mod vnet;
pub mod vring;
pub mod wire;
