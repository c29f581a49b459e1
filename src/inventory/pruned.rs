//! Up to which hour `logd prune` has removed hours: `pruned.json` below `save_dir`.
//!
//! Nothing else tells an hour that was certified and removed long ago from one that never came. What is not here of an hour up
//! to that one is not missed: neither called silent, nor open because the footprint still names it. It only grows. Whoever
//! removes it has those hours called silent again, if a still older one is in the store.

use crate::clock::Hour;
use crate::disk::{self, Disk};
use crate::record;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "pruned.json";
const FILE_MAX: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    format: u32,
    /// The latest hour that was removed.
    hour: Option<Hour>,
    /// The latest day, where files hold days.
    day: Option<Hour>,
}

/// See the module's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    content: Content,
    /// It says more than the file does.
    unsaved: bool,
}

impl Pruned {
    /// Reads it; a file that cannot be understood says nothing.
    pub fn read(disk: &Disk, save_dir: &Path) -> disk::Result<Self> {
        let bytes = disk.read_opt(&save_dir.join(FILE), FILE_MAX)?;
        let read = bytes.and_then(|b| record::from_json::<Content>(&b).ok()).filter(|c| c.format == 1);
        Ok(Self { content: read.unwrap_or_default(), unsaved: false })
    }

    /// Has this hour been removed, if it is not here?
    pub fn covers(&self, hour: Hour) -> bool {
        let until = if hour.is_daily() { self.content.day } else { self.content.hour };
        until.is_some_and(|until| hour <= until)
    }

    /// This hour is about to go.
    pub fn note(&mut self, hour: Hour) {
        if !self.covers(hour) {
            let until = if hour.is_daily() { &mut self.content.day } else { &mut self.content.hour };
            (*until, self.unsaved) = (Some(hour), true);
        }
    }

    /// Writes what is not written yet.
    pub fn save(&mut self, disk: &Disk, save_dir: &Path) -> disk::Result<()> {
        if self.unsaved {
            let content = Content { format: 1, ..self.content };
            disk.replace(&save_dir.join(FILE), &record::to_json(&content), 0o644)?;
            self.unsaved = false;
        }
        Ok(())
    }
}
