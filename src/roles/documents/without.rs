//! Of the same shape as the savers, and never made.

use super::super::serve::Shared;
use crate::config::MongoConfig;
use crate::disk::Disk;
use crate::pack::HourKey;
use std::path::Path;
use std::sync::Arc;

/// There are none.
pub enum Documents {}

/// Says why.
pub fn open(_: &Disk, _: &MongoConfig, _: &Path) -> Result<Documents, String> {
    Err(super::NOT_BUILT.into())
}

/// Nothing is known of it; the warning that the feature is missing comes from the configuration.
pub fn check(_: &MongoConfig) -> Result<(), String> {
    Ok(())
}

/// There are none.
pub enum Savers {}

impl Savers {
    /// Never called.
    #[expect(clippy::needless_pass_by_value, reason = "same shape as with the feature")]
    pub fn start(documents: Documents, _: &Arc<Shared>, _: &Path) -> Self {
        match documents {}
    }

    /// Never called.
    pub fn grown(&self, _: Vec<HourKey>) {
        match *self {}
    }

    /// Never called.
    pub fn join(self) {
        match self {}
    }
}
