//! What the role beyond a store (tables, a database) still needs of an hour, and what it keeps of it. Whoever takes the lines away
//! or makes them smaller asks here first.

use super::compress::Done;
use crate::config::Role;
use crate::documents::{self, DONE, REJECT, STATE};
use crate::etl::marks;
use crate::integrity::Store;
use crate::pack::HourKey;
use std::path::PathBuf;

/// What knows whether a role has done an hour as its certificate has it; `None` = it does nothing with it.
pub fn done(role: Role) -> Option<Done> {
    match role {
        Role::Etlcollector => Some(marks::has_rows),
        Role::Mgocollector => Some(documents::is_done),
        _ => None,
    }
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
