//! Impairments of ports.

use std::sync::Arc;

use vbackend_proto::impair::Config;
use vbackend_proto::segment::PortId;

use super::{Engine, EngineError, call, find_port};
use crate::command::Command;
use crate::port::impaired::{ImpairmentCounts, Tally};

impl Engine {
    /// Let the way to a port's peer be a bad line, or (None) a good one again. The random numbers begin anew. Frames that
    /// are on their way keep their times, and those to come stay behind them.
    ///
    /// # Errors
    /// Unknown port, or a config that makes no sense.
    pub fn set_impairment(&self, port: PortId, config: Option<Config>) -> Result<(), EngineError> {
        if let Some(config) = &config {
            config.check().map_err(|text| EngineError::Invalid(text.to_owned()))?;
        }
        let mut state = self.open()?;
        let new = config.map(|config| (config, Arc::new(Tally::default())));
        let tally = new.as_ref().map(|(_, tally)| Arc::clone(tally));
        call(state.waker_of(port)?, Command::SetImpairment(port, new))?;
        if let Some(entry) = state.ports.get_mut(&port) {
            entry.impairment = tally;
        }
        Ok(())
    }

    /// What a port's impairment did since it was set; None: it has none.
    ///
    /// # Errors
    /// Unknown port.
    pub fn impairment(&self, port: PortId) -> Result<Option<ImpairmentCounts>, EngineError> {
        let state = self.open()?;
        Ok(find_port(&state, port)?.impairment.as_ref().map(|tally| tally.read()))
    }
}
