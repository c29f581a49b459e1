//! `logd verify --mongodb CONFIG HOUR`: counts the documents of an hour in the database and compares them with what the hour's
//! markers say.

use super::out::Out;
use super::{ERROR, NO, YES};
use crate::clock::Hour;
use crate::config::{Config, Role};
use crate::disk::Disk;
use crate::documents::hour::ids;
use crate::documents::server::Server;
use crate::documents::{DONE, Marker, marker};
use crate::integrity::{Certificate, Store};
use crate::log::count;
use crate::pack::HourKey;
use crate::state;
use std::collections::BTreeSet;
use std::path::Path;

/// The next step.
const REDO: &str = "logd.conf(5), \"To write an hour anew\", tells how";

/// Compares all hosts' documents of an hour, or of a day's hours.
pub fn run(config: &Path, hour: Hour, out: &mut Out) -> u8 {
    match compare(config, hour, out) {
        Ok(code) => code,
        Err(why) => {
            out.complain(format_args!("logd: verify: {why}"));
            ERROR
        }
    }
}

fn compare(config: &Path, hour: Hour, out: &mut Out) -> Result<u8, String> {
    let mut conf = Config::load(config).and_then(|c| c.mongo(false)).map_err(|e| e.to_string())?.0;
    let (disk, save_dir, collection) = (Disk::real(), &conf.store.save_dir.clone(), conf.collection.clone());
    let done = save_dir.join(DONE);
    let state_dir = state::resolve(&Role::Mgocollector, conf.store.state_dir.as_deref());
    let store = Store::new(&disk, save_dir, &state_dir, conf.store.file_mode, conf.store.dir_mode);
    let text = |e: crate::disk::Error| super::rights(&e);
    let mut keys = store.hours().map_err(text)?;
    let hours: BTreeSet<HourKey> = keys.iter().cloned().collect();
    if disk.stat(&done).map_err(text)?.is_some() {
        keys.extend(disk.list(&done).map_err(text)?.iter().filter_map(|e| HourKey::parse(&e.name)));
    }
    keys.sort();
    keys.dedup();
    keys.retain(|key| key.hour == hour || hour.is_daily() && key.hour.day_of() == hour);
    let mut server = Server::new(&conf, Box::new(|| false));
    let (mut right, mut wrong, mut open) = (0_u64, 0_u64, 0_u64);
    for key in keys {
        let certificate = store.closed(&key).map_err(text)?.filter(Certificate::is_tag);
        let found = marker(&disk, save_dir, &key).map_err(text)?;
        // What came after a marker is not in the database by it. Of an hour that the store has forgotten it is all that is known.
        let stale = |m: &Marker| certificate.as_ref().map_or(hours.contains(&key), |c| !m.is_of(c));
        let Some(m) = found.filter(|m| !stale(m)) else {
            open = open.saturating_add(1);
            out.line(format_args!("{key}: not whole in the database; `logd status` tells what it waits for"));
            continue;
        };
        // Where it was written, whatever the configuration says by now.
        if m.collection != conf.collection {
            m.collection.clone_into(&mut conf.collection);
            server = Server::new(&conf, Box::new(|| false));
        }
        // Those of other copies, too, which must not be there; or may have made a document that was updated.
        let (from, to) = ids(&key);
        let found =
            server.count(&m.database, (&from, &to)).map_err(|e| format!("database: {}", e.later()))?;
        let (named, at) = (place(&conf.db, &collection, &key), format!("{}.{}", m.database, m.collection));
        let elsewhere = if at == named {
            String::new()
        } else {
            format!("; the configuration names {named}, and this hour was written to {at}")
        };
        // With `upsert` some may be of an earlier copy, which changed nothing of it, or somebody else's.
        let as_written = found == m.inserted || conf.upsert && found > m.inserted;
        let rest = format!("{} skipped, {} rejected{elsewhere}", m.skipped, m.rejected);
        if as_written && m.rejects_more_than(conf.max_reject) {
            wrong = wrong.saturating_add(1);
            out.line(format_args!(
                "{key}: WRONG: {}, {rest}: {}; that is more than max_reject; if log_format was wrong: {REDO}",
                count(found, "document"),
                m.rejects(&disk, save_dir, &key)
            ));
        } else if as_written {
            right = right.saturating_add(1);
            out.line(format_args!("{key}: {}, {rest}", count(found, "document")));
        } else {
            wrong = wrong.saturating_add(1);
            out.line(format_args!(
                "{key}: WRONG: {} in {at}, and {} were written, {rest}; {REDO}",
                count(found, "document"),
                m.inserted,
            ));
        }
    }
    if right.saturating_add(wrong).saturating_add(open) == 0 {
        return Err(format!("{}: nothing of {hour} is there", save_dir.display()));
    }
    out.line(format_args!("{} as written, {wrong} wrong, {open} not whole", count(right, "hour")));
    Ok(if wrong == 0 && open == 0 { YES } else { NO })
}

/// Where the configuration has an hour.
fn place(db: &str, collection: &str, key: &HourKey) -> String {
    format!("{db}{}.{collection}", key.hour.day_of())
}
