//! What the role beyond a store (tables, a database) still needs of an hour, and what it keeps of it. Whoever takes the lines away
//! or makes them smaller asks here first.

use crate::config::Role;
use crate::disk;
use crate::documents::{self, DONE, REJECT, STATE};
use crate::etl::marks;
use crate::integrity::{Certificate, Store};
use crate::pack::HourKey;
use std::path::PathBuf;

/// What is not done with the lines of this certificate; `None` = nothing needs them any more.
pub fn needs(
    role: Role,
    store: &Store,
    key: &HourKey,
    certificate: &Certificate,
) -> disk::Result<Option<&'static str>> {
    let done = match role {
        Role::Mgocollector => {
            // A marker is of one certificate: lines that came later, or another copy, are not in the database by it.
            let marker = documents::marker(store.disk(), &store.path(""), key)?;
            marker.is_some_and(|m| m.is_of(certificate))
        }
        Role::Etlcollector => marks::has_rows(store.disk(), &store.path(""), key, certificate)?,
        _ => true,
    };
    let what = if role == Role::Mgocollector { "it is not whole in the database" } else { "it has no rows" };
    Ok((!done).then_some(what))
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
