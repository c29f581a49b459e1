//! Documents: the lines of a store in a `MongoDB`, each once.
//!
//! Carries P1 for what lies behind the store. The store's own files are the queue: an hour's lines are read from its data file
//! pack by pack as its proof grows, so that nothing is written which is not durable here, and what a database has lost can be
//! written again. [`Progress`] (below the state directory, `documents/NAME_HOUR`) says how many packs of which copy the
//! database has acknowledged; it is written behind the writes, so that after a crash some are done twice. That changes
//! nothing: a document's `_id` is `NAME_HOUR.COPY.PACK.LINE`.
//!
//! When the hour is certified and all of its packs are acknowledged, the documents are counted in the database and
//! `documents_done/NAME_HOUR` below `save_dir` says so ([`Marker`]). Lines that can be no document are in
//! `documents_reject/NAME_HOUR`: pack and line, reason, the line.

#[cfg(feature = "mongodb")]
mod batch;
#[cfg(feature = "mongodb")]
mod bson;
#[cfg(feature = "mongodb")]
pub mod hour;
#[cfg(feature = "mongodb")]
pub mod server;
#[cfg(feature = "mongodb")]
pub mod shape;
pub mod waits;

use crate::disk::{self, Disk};
use crate::integrity::Certificate;
use crate::pack::HourKey;
use crate::record;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Markers, below `save_dir`.
pub const DONE: &str = "documents_done";
/// Lines that are no document, below `save_dir`.
pub const REJECT: &str = "documents_reject";
/// Progress, below the state directory.
pub const STATE: &str = "documents";
/// Longest file of this module, in bytes.
const SMALL: u64 = 1 << 20;
/// How often an hour is written anew because its documents have gone.
#[cfg(feature = "mongodb")]
const AGAIN_MAX: u32 = 3;

/// What became of an hour's lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Lines read.
    pub lines: u64,
    /// Lines that were written: each is a document, or has changed one.
    pub written: u64,
    /// Lines without a transaction id.
    pub skipped: u64,
    /// Lines that can be no document.
    pub rejected: u64,
    /// Documents that updates have made, as far as the answers arrived.
    #[serde(default)]
    pub made: u64,
}

/// How far the database has an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// 1.
    pub format: u32,
    /// Copy.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// Packs of it that are acknowledged.
    pub packs: u64,
    /// Bytes of the proof that told of them.
    pub proof: u64,
    /// Bytes of the data file.
    pub bytes: u64,
    /// What became of them.
    pub counts: Counts,
    /// Bytes of the rejected lines.
    pub reject_bytes: u64,
    /// From where to where `_id`s are those of other copies, which must go before any more is written. Never those of this copy:
    /// a server may carry out much later what it was given up for.
    pub clear: Vec<(String, String)>,
    /// Database and collection that it was written to.
    #[serde(default)]
    pub place: (String, String),
    /// How often documents that were acknowledged had gone.
    #[serde(default)]
    pub again: u32,
}

/// An hour is in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// 1.
    pub format: u32,
    /// Copy of the hour, from its certificate.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// How often it was certified.
    pub revision: u64,
    /// Where the documents are.
    pub database: String,
    /// Where in it.
    pub collection: String,
    /// Lines read: as many as inserted, updated, skipped and rejected ones.
    pub lines: u64,
    /// Documents that lines of this hour have made; the database was asked.
    pub inserted: u64,
    /// Lines that changed a document that was there.
    pub updated: u64,
    /// Lines without a transaction id.
    pub skipped: u64,
    /// Lines in `documents_reject`.
    pub rejected: u64,
    /// When (unix seconds).
    pub at: i64,
}

impl Marker {
    /// Is it of this certificate?
    pub fn is_of(&self, certificate: &Certificate) -> bool {
        (self.generation, self.revision) == (certificate.generation, certificate.revision)
    }
}

/// The marker of an hour.
pub fn marker(disk: &Disk, save_dir: &Path, key: &HourKey) -> disk::Result<Option<Marker>> {
    match disk.read_opt(&save_dir.join(DONE).join(key.to_string()), SMALL) {
        Ok(bytes) => Ok(bytes.and_then(|b| record::from_json(&b).ok())),
        Err(e) if e.fatal() || e.source.kind() == std::io::ErrorKind::PermissionDenied => Err(e),
        // What is no file, or too long for one, is no marker; the other hours are not held up by it.
        Err(_) => Ok(None),
    }
}

/// Is an hour whole in the database, as it was certified here?
pub fn is_done(disk: &Disk, save_dir: &Path, key: &HourKey, cert: &Certificate) -> disk::Result<bool> {
    Ok(marker(disk, save_dir, key)?.is_some_and(|m| m.is_of(cert)))
}
