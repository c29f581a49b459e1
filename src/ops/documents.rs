//! `logd verify --mongodb CONFIG HOUR`: counts the documents of an hour in the database and compares them with what the hour's
//! markers say.

use super::out::Out;
use super::{ERROR, NO, YES};
use crate::clock::Hour;
use crate::config::{Config, Role};
use crate::disk::Disk;
use crate::documents::hour::ids;
use crate::documents::server::Server;
use crate::documents::{DONE, marker};
use crate::integrity::Store;
use crate::log::count;
use crate::pack::HourKey;
use crate::state;
use std::path::Path;

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
    let conf = Config::load(config).and_then(|c| c.mongo(false)).map_err(|e| e.to_string())?.0;
    let (disk, save_dir) = (Disk::real(), &conf.store.save_dir);
    let done = save_dir.join(DONE);
    let state_dir = state::resolve(&Role::Mgocollector, conf.store.state_dir.as_deref());
    let store = Store::new(&disk, save_dir, &state_dir, conf.store.file_mode, conf.store.dir_mode);
    let text = |e: crate::disk::Error| format!("{e}; run it as the user of the role");
    let mut keys = store.hours().map_err(text)?;
    if disk.stat(&done).map_err(text)?.is_some() {
        keys.extend(disk.list(&done).map_err(text)?.iter().filter_map(|e| HourKey::parse(&e.name)));
    }
    keys.sort();
    keys.dedup();
    keys.retain(|key| key.hour == hour || hour.is_daily() && key.hour.day_of() == hour);
    let mut server = Server::new(&conf, Box::new(|| false));
    let (mut right, mut wrong, mut open) = (0_u64, 0_u64, 0_u64);
    for key in keys {
        let Some(m) = marker(&disk, save_dir, &key).map_err(text)? else {
            open = open.saturating_add(1);
            out.line(format_args!("{key}: not whole in the database; `logd status` tells what it waits for"));
            continue;
        };
        // Those of other copies, too, which must not be there; or may have made a document that was updated.
        let (from, to) = ids(&key);
        let found =
            server.count(&m.database, (&from, &to)).map_err(|e| format!("database: {}", e.later()))?;
        if found == m.inserted {
            right = right.saturating_add(1);
            out.line(format_args!("{key}: {}", count(found, "document")));
            continue;
        }
        wrong = wrong.saturating_add(1);
        out.line(format_args!(
            "{key}: WRONG: {} in {}.{}, and {} were written; to write them again stop the role, remove {} and \
             documents/{key} below its state directory, and start it",
            count(found, "document"),
            m.database,
            m.collection,
            m.inserted,
            done.join(key.to_string()).display(),
        ));
    }
    if right.saturating_add(wrong).saturating_add(open) == 0 {
        return Err(format!("{}: nothing of {hour} is there", save_dir.display()));
    }
    out.line(format_args!("{} as written, {wrong} wrong, {open} not whole", count(right, "hour")));
    Ok(if wrong == 0 && open == 0 { YES } else { NO })
}
