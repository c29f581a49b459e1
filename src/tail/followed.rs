//! What a stream's files are followed by: [`Tail`] where their names have a date, [`Undated`] where one file stands at a path
//! and is rotated away.

use super::undated::{NOT_WHOLE, Undated};
use super::{Identity, Scratch, Sealed, Tail};
use crate::clock::Hour;
use crate::disk;
use crate::journal::Journal;
use crate::pack::HourKey;
use std::path::PathBuf;

/// See the module's header.
pub enum Followed {
    /// A file for each hour or day.
    Dated(Box<Tail>),
    /// One file.
    Undated(Box<Undated>),
}

impl Followed {
    /// May rotation destroy what was read? Then the payload has to be kept before the journal knows the cut.
    pub fn is_undated(&self) -> bool {
        matches!(self, Self::Undated(_))
    }

    /// See [`Tail::step`].
    pub fn step(
        &mut self,
        journal: &mut Journal,
        room_bytes: usize,
        room_packs: usize,
        out: &mut Vec<Sealed>,
    ) -> disk::Result<()> {
        match self {
            Self::Dated(t) => t.step(journal, room_bytes, room_packs, out),
            Self::Undated(u) => u.step(journal, room_bytes, room_packs, out),
        }
    }

    /// See [`Undated::glance`].
    pub fn glance(&mut self, journal: &Journal) -> disk::Result<()> {
        match self {
            Self::Dated(_) => Ok(()),
            Self::Undated(u) => u.glance(journal),
        }
    }

    /// See [`Tail::left_out`].
    pub fn left_out(&self) -> usize {
        match self {
            Self::Dated(t) => t.left_out(),
            Self::Undated(_) => 0,
        }
    }

    /// See [`Tail::seal_all`].
    pub fn seal_all(&mut self, journal: &mut Journal, out: &mut Vec<Sealed>) {
        match self {
            Self::Dated(t) => t.seal_all(journal, out),
            Self::Undated(u) => u.seal_all(journal, out),
        }
    }

    /// See [`Tail::unsealed`].
    pub fn unsealed(&self) -> usize {
        match self {
            Self::Dated(t) => t.unsealed(),
            Self::Undated(u) => u.unsealed(),
        }
    }

    /// See [`Tail::following`].
    pub fn following(&self, journal: &Journal) -> Vec<(PathBuf, u64)> {
        match self {
            Self::Dated(t) => t.following(journal),
            Self::Undated(u) => u.following(journal),
        }
    }

    /// Hours whose files are being read.
    pub fn active(&self) -> usize {
        match self {
            Self::Dated(t) => t.active(),
            Self::Undated(_) => 1,
        }
    }

    /// See [`Tail::is_reading`].
    pub fn is_reading(&self, hour: Hour) -> bool {
        match self {
            Self::Dated(t) => t.is_reading(hour),
            Self::Undated(u) => u.is_reading(hour),
        }
    }

    /// See [`Tail::at_end`].
    pub fn at_end(&self) -> bool {
        match self {
            Self::Dated(t) => t.at_end(),
            Self::Undated(u) => u.at_end(),
        }
    }

    /// See [`Tail::can_restart`].
    pub fn can_restart(&self, hour: Hour) -> disk::Result<Result<(), String>> {
        match self {
            Self::Dated(t) => t.can_restart(hour),
            Self::Undated(_) => Ok(Err(NOT_WHOLE.to_owned())),
        }
    }

    /// See [`Tail::restart`].
    pub fn restart(&mut self, journal: &mut Journal, hour: Hour, generation: u64) -> disk::Result<()> {
        match self {
            Self::Dated(t) => t.restart(journal, hour, generation),
            Self::Undated(_) => Ok(()),
        }
    }

    /// See [`Tail::outdated`].
    pub fn outdated(&mut self, archived: &[HourKey]) -> Vec<HourKey> {
        match self {
            Self::Dated(t) => t.outdated(archived),
            Self::Undated(u) => u.outdated(archived),
        }
    }

    /// See [`Tail::identity`].
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Dated(t) => t.identity(),
            Self::Undated(u) => u.identity(),
        }
    }

    /// See [`Tail::scratch`].
    pub fn scratch(&mut self) -> &mut Scratch {
        match self {
            Self::Dated(t) => &mut t.scratch,
            Self::Undated(u) => &mut u.scratch,
        }
    }

    /// Sentences for the log.
    pub fn alarms(&mut self) -> &mut Vec<String> {
        match self {
            Self::Dated(t) => &mut t.alarms,
            Self::Undated(u) => &mut u.alarms,
        }
    }
}
