//! vbackend's data plane: worker threads that move frames between ports.
//!
//! ```text
//!  control thread ── Command ──► Worker (one thread, one epoll)
//!                                  │ port.receive()   frames behind their prefixes, in the worker's scratch buffer
//!                                  │ segment.decide() hops: consecutive frames with the same fate
//!                                  │ port.transmit()  straight from the scratch buffer; the rest is queued or dropped
//!  control thread ◄── Event ───────┘ counters published, once a turn
//! ```
//!
//! A turn handles what one port received, to the end: nothing of the scratch buffer outlives it, so there is nothing
//! to count references of, and a queue holds only what a peer did not take. Frames for a port of another worker
//! are copied into that port's bounded inbox.
//!
//! Worst-case memory: per worker one scratch buffer (`port::Scratch::WIRE_BYTES`); per port one cut-off frame, one
//! queue and one inbox (each at most twice its byte limit).
#![deny(unsafe_code)]

pub mod capture;
pub mod command;
pub mod counters;
mod engine;
mod port;
mod shared;
#[allow(unsafe_code)]
mod sys;
pub mod unit;
mod worker;

pub use engine::vhost::RegionFile;
pub use engine::{Engine, EngineError, PortConfig};
pub use port::channel::ChannelEnd;
pub use port::impaired::ImpairmentCounts;
pub use port::unit::ReaderKind;
pub use port::vhost::RingPlace;
pub use port::vhost::stats::RingInfo;
pub use sys::Place;
