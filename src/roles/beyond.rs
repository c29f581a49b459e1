//! What the role beyond a store (tables, a database) still needs of an hour, and what it keeps of it. Whoever takes the lines away
//! or makes them smaller asks here first.

use super::compress::Done;
use crate::config::Role;
use crate::disk::{self, Disk};
use crate::documents::{self, DONE, REJECT, STATE};
use crate::integrity::{Certificate, Store};
use crate::pack::HourKey;
use std::path::{Path, PathBuf};

/// What knows whether a role has done an hour as its certificate has it; `None` = it does nothing with it.
pub fn done(role: Role) -> Option<Done> {
    match role {
        Role::Etlcollector => Some(has_rows),
        Role::Mgocollector => Some(documents::is_done),
        _ => None,
    }
}

fn has_rows(disk: &Disk, save_dir: &Path, key: &HourKey, _: &Certificate) -> disk::Result<bool> {
    Ok(disk.stat(&save_dir.join("etl_done").join(key.to_string()))?.is_some())
}

/// Files that go with the hour.
pub fn files(role: Role, store: &Store, key: &HourKey) -> Vec<PathBuf> {
    let name = key.to_string();
    match role {
        Role::Mgocollector => vec![
            store.state_dir().join(STATE).join(&name),
            store.path(REJECT).join(&name),
            store.path(DONE).join(&name),
        ],
        _ => Vec::new(),
    }
}
