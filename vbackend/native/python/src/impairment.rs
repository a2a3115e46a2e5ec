//! The part of `_native.Engine` that is about impairments.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use vbackend_engine::EngineError;
use vbackend_proto::impair::{Config, Counts, Loss, Probability};
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::PortId;

use crate::args::{Amount, Number};
use crate::engine::PyEngine;
use crate::error::NativeError;

fn probability(value: f64) -> Result<Probability, NativeError> {
    let wrong = || EngineError::Invalid(format!("{value} is no probability; give 0 to 1")).into();
    Probability::new(value).ok_or_else(wrong)
}

fn loss_of(loss: f64, gilbert: Option<(f64, f64, f64, f64)>) -> Result<Loss, NativeError> {
    Ok(match gilbert {
        None => Loss::Independent(probability(loss)?),
        Some((p, r, bad, good)) => Loss::Gilbert {
            to_bad: probability(p)?,
            to_good: probability(r)?,
            in_bad: probability(bad)?,
            in_good: probability(good)?,
        },
    })
}

#[pymethods]
impl PyEngine {
    #[pyo3(signature = (
        port, *, delay_us, jitter_us, overtake, loss, gilbert, duplicate, corrupt, reorder, seed, limit_frames, limit_bytes
    ))]
    #[allow(clippy::too_many_arguments, reason = "the signature is Python's")]
    fn set_impairment(
        &self,
        port: Number,
        delay_us: Amount<u64>,
        jitter_us: Amount<u64>,
        overtake: bool,
        loss: f64,
        gilbert: Option<(f64, f64, f64, f64)>,
        duplicate: f64,
        corrupt: f64,
        reorder: f64,
        seed: Amount<u64>,
        limit_frames: Amount<usize>,
        limit_bytes: Amount<usize>,
    ) -> Result<(), NativeError> {
        let config = Config {
            delay_us: delay_us.0,
            jitter_us: jitter_us.0,
            overtake,
            loss: loss_of(loss, gilbert)?,
            duplicate: probability(duplicate)?,
            corrupt: probability(corrupt)?,
            reorder: probability(reorder)?,
            seed: seed.0,
            limits: Limits { frames: limit_frames.0, bytes: limit_bytes.0 },
        };
        Ok(self.get()?.set_impairment(PortId(port.0), Some(config))?)
    }

    fn clear_impairment(&self, port: Number) -> Result<(), NativeError> {
        Ok(self.get()?.set_impairment(PortId(port.0), None)?)
    }

    fn impairment(&self, port: Number) -> Result<Option<BTreeMap<&'static str, u64>>, NativeError> {
        let found = self.get()?.impairment(PortId(port.0))?;
        Ok(found.map(|found| {
            let Counts { lost, duplicated, corrupted, delayed, reordered } = found.counts;
            [
                ("lost", lost),
                ("duplicated", duplicated),
                ("corrupted", corrupted),
                ("delayed", delayed),
                ("reordered", reordered),
                ("held_frames", found.held_frames),
                ("held_bytes", found.held_bytes),
            ]
            .into()
        }))
    }
}
