//! Of the same shape as the tables, and never made.

use super::super::serve::Shared;
use crate::config::EtlConfig;
use crate::disk::Disk;
use crate::pack::HourKey;
use std::path::Path;
use std::sync::Arc;

/// They are not looked at.
pub fn wrong_rules(_: &Disk, _: &EtlConfig) -> Vec<String> {
    Vec::new()
}

/// There is none.
pub enum Etl {}

impl Etl {
    /// Says why.
    pub fn open(_: &Disk, _: &EtlConfig, _: &Path, _: &mut dyn FnMut(String)) -> Result<Self, String> {
        Err(super::NOT_BUILT.into())
    }
}

/// There are none.
pub enum Workers {}

impl Workers {
    /// Never called.
    #[expect(clippy::needless_pass_by_value, reason = "same shape as with the feature")]
    pub fn start(etl: Etl, _: &Arc<Shared>) -> Self {
        match etl {}
    }

    /// Never called.
    pub fn certified(&self, _: Vec<HourKey>) {
        match *self {}
    }

    /// Never called.
    pub fn join(self) {
        match self {}
    }
}
