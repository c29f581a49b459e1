//! `logd verify --mongodb CONFIG HOUR`: counts the documents of an hour in the database and compares them with what the hour's
//! markers say.

use super::out::Out;
use super::{ERROR, NO, YES};
use crate::clock::Hour;
use crate::config::Config;
use crate::disk::Disk;
use crate::documents::hour::ids;
use crate::documents::server::{Server, Trouble};
use crate::documents::{DONE, marker};
use crate::log::count;
use crate::pack::HourKey;
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
    let list =
        disk.list(&done).map_err(|e| format!("{e}; no hour of {} was written yet", save_dir.display()))?;
    let wanted = |key: &HourKey| key.hour == hour || hour.is_daily() && key.hour.day_of() == hour;
    let (mut server, mut right, mut wrong) = (Server::new(&conf, Box::new(|| false)), 0_usize, 0_usize);
    for key in list.iter().filter_map(|e| HourKey::parse(&e.name)).filter(wanted) {
        let Some(m) = marker(&disk, save_dir, &key).map_err(|e| e.to_string())? else {
            wrong = wrong.saturating_add(1);
            out.line(format_args!(
                "{key}: WRONG: {}: damaged; remove it, and the role counts anew at its next start",
                done.join(key.to_string()).display()
            ));
            continue;
        };
        let (from, to) = ids(&key, m.generation, conf.upsert);
        let found = server.count(&m.database, (&from, &to)).map_err(|e| match e {
            Trouble::Away(why) => format!("database: {why}"),
            Trouble::Refused(_) => "database: it does not count".into(),
        })?;
        if found == m.inserted {
            right = right.saturating_add(1);
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
    if right.saturating_add(wrong) == 0 {
        return Err(format!(
            "{}: no hour {hour} is whole in the database; `logd status` tells what waits",
            save_dir.display()
        ));
    }
    out.line(format_args!("{} as written, {wrong} wrong", count(right as u64, "hour")));
    Ok(if wrong == 0 { YES } else { NO })
}
