//! Failover of a relay: which hour belongs to which address.
//!
//! A relay with several addresses and `failover = hour` must not pass an hour on to two collectors. It has no journal, so
//! what it knows is in one file of its state directory, `bound`: [records](crate::record) of JSON, one per hour and copy,
//! appended and synced *before* the first pack of the hour counts as done. A killed relay sends that pack again; the hour is
//! bound by then, or nothing of it was ever taken off the spool. Only on a full disk packs go on before.
//!
//! The newest `KEEP` hours are kept, whether or not packs of them wait: more of the hour may come at any time. A relay
//! with one address, or with `failover = any`, neither reads nor writes the file. Damage is told and costs the hours in the
//! damaged records alone: packs of those that still come go to the address in use.

use crate::disk::{self, Disk, File};
use crate::pack::{HourKey, split_frame};
use crate::record::{self, Found};
use crate::sender::route::Route;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

const FILE: &str = "bound";
const KIND: u8 = b'B';
const RECORD_MAX: u32 = 4096;
/// A thousand hosts for four days.
const KEEP: usize = 100_000;
/// Records after which the file is written anew.
const REWRITE_AT: u64 = 2 * KEEP as u64;

type Hour = (HourKey, u64);

/// What a record says.
#[derive(Serialize, Deserialize)]
struct Line {
    hour: String,
    generation: u64,
    to: String,
}

struct Log {
    disk: Disk,
    path: PathBuf,
    /// None = it has to be written anew.
    file: Option<File>,
    len: u64,
    seq: u64,
    /// Records that are not durable yet, for want of room.
    pending: Vec<u8>,
}

/// See the module's header.
pub struct Bound {
    /// None = nothing is bound.
    log: Option<Log>,
    addrs: HashMap<Hour, String>,
    /// Oldest first.
    order: VecDeque<Hour>,
}

/// Hour and copy of a pack, by its frame.
pub fn hour_of(frame: &[u8]) -> Option<(HourKey, u64)> {
    let meta = split_frame(frame)?.0.meta("unknown").ok()?;
    Some((meta.key, meta.generation))
}

impl Bound {
    /// Reads what an earlier run bound, and begins the file anew with it.
    pub fn open(
        disk: &Disk,
        state_dir: &Path,
        route: &Route,
        report: &mut dyn FnMut(String),
    ) -> disk::Result<Self> {
        let mut me = Self { log: None, addrs: HashMap::new(), order: VecDeque::new() };
        if !route.binds() || route.count() < 2 {
            return Ok(me);
        }
        let path = state_dir.join(FILE);
        if disk.stat(&path)?.is_some() && !me.read(&disk.open(&path)?)? {
            report(format!(
                "{}: damaged (or torn by a crash); hours in its damaged records may go on to another address than \
                 they began with; the collectors' `logd status` names them, as `gaps` or `open, overdue`",
                path.display()
            ));
        }
        me.log = Some(Log { disk: disk.clone(), path, file: None, len: 0, seq: 0, pending: Vec::new() });
        me.flush()?;
        Ok(me)
    }

    /// False = some of it could not be read.
    fn read(&mut self, file: &File) -> disk::Result<bool> {
        let (mut at, mut good, mut buf) = (0, true, Vec::new());
        loop {
            match record::read_past(file, at, RECORD_MAX, &mut buf)? {
                Found::End => return Ok(good),
                Found::Damage { next } => (at, good) = (next, false),
                Found::Record(head) => {
                    at = head.end();
                    let json = buf.get(record::HEADER..).unwrap_or_default();
                    let line = serde_json::from_slice::<Line>(json).ok();
                    match line.and_then(|l| Some((HourKey::parse(&l.hour)?, l.generation, l.to))) {
                        Some((key, generation, to)) => self.insert((key, generation), to),
                        None => good = false,
                    }
                }
            }
        }
    }

    fn insert(&mut self, hour: Hour, to: String) {
        if self.addrs.insert(hour.clone(), to).is_none() {
            self.order.push_back(hour);
        }
        if self.order.len() > KEEP
            && let Some(old) = self.order.pop_front()
        {
            self.addrs.remove(&old);
        }
    }

    /// Makes durable what is not. A full disk is no error: packs that fill it must go on, and until there is room only a kill
    /// can forget whose their hours are.
    pub fn flush(&mut self) -> disk::Result<()> {
        match self.write() {
            Err(e) if e.no_space() => Ok(()),
            other => other,
        }
    }

    fn write(&mut self) -> disk::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        if let (Some(file), true) = (&log.file, log.seq < REWRITE_AT) {
            if !log.pending.is_empty() {
                file.write_at(&log.pending, log.len).inspect_err(|_| {
                    // Half a record would look like damage after a crash.
                    let _ = file.set_len(log.len);
                })?;
                file.sync()?;
                log.len = log.len.saturating_add(log.pending.len() as u64);
                log.pending.clear();
            }
            return Ok(());
        }
        let (mut out, mut seq) = (Vec::new(), 0);
        for (hour, to) in self.order.iter().filter_map(|hour| Some((hour, self.addrs.get(hour)?))) {
            encode(hour, to, seq, 0, &mut out);
            seq = seq.saturating_add(1);
        }
        log.disk.replace(&log.path, &out, 0o640)?;
        log.file = Some(log.disk.open_rw(&log.path)?);
        (log.len, log.seq) = (out.len() as u64, seq);
        log.pending.clear();
        Ok(())
    }

    /// Are hours bound at all?
    pub fn is_on(&self) -> bool {
        self.log.is_some()
    }

    /// The address that an hour has to go to; `None` = the one in use, whichever that is.
    pub fn lane(&self, hour: &Hour, route: &Route) -> Option<usize> {
        route.index_of(self.addrs.get(hour)?)
    }

    /// Binds an hour; durable when it returns. After an error it is not bound, and its pack must not count as done.
    pub fn bind(&mut self, hour: &Hour, to: &str) -> disk::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let before = log.pending.len();
        encode(hour, to, log.seq, log.len, &mut log.pending);
        log.seq = log.seq.saturating_add(1);
        self.insert(hour.clone(), to.to_owned());
        let flushed = self.flush();
        if flushed.is_err() {
            self.addrs.remove(hour);
            self.order.retain(|h| h != hour);
            if let Some(log) = &mut self.log {
                log.pending.truncate(before);
                log.seq = log.seq.saturating_sub(1);
            }
        }
        flushed
    }
}

/// `base` = where `out` will begin in the file.
fn encode(hour: &Hour, to: &str, seq: u64, base: u64, out: &mut Vec<u8>) {
    let line = Line { hour: hour.0.to_string(), generation: hour.1, to: to.to_owned() };
    let json = serde_json::to_vec(&line).unwrap_or_default();
    record::encode(KIND, seq, base.saturating_add(out.len() as u64), &[&json], out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn route(keys: &str) -> Route {
        let text = format!("[collector]\nlisten = :1\nallow = any\nsend_to = a:1, b:1\n{keys}");
        Route::new(&Config::parse("t", text.as_bytes()).relay(false).unwrap().0.sender)
    }

    #[test]
    fn a_binding_outlives_the_process_and_damage_costs_one() {
        let (disk, sim) = Disk::sim(1);
        let dir = Path::new("/state");
        disk.create_dir_all(dir, 0o750).unwrap();
        let route = route("");
        let hour = |n: u64| (HourKey::parse("web1_2026112205").unwrap(), n);
        let mut bound = Bound::open(&disk, dir, &route, &mut |t| panic!("{t}")).unwrap();
        for n in 0..5 {
            bound.bind(&hour(n), ["a:1", "b:1", "gone:1"][n as usize % 3]).unwrap();
        }
        let lanes = |b: &Bound| (0..6).map(|n| b.lane(&hour(n), &route)).collect::<Vec<_>>();
        let wanted = [Some(0), Some(1), None, Some(0), Some(1), None];
        assert_eq!(lanes(&bound), wanted);
        drop(bound);
        sim.crash();
        sim.restart(crate::disk::Outcome::LoseUnsynced);
        for _ in 0..2 {
            let bound = Bound::open(&disk, dir, &route, &mut |t| panic!("{t}")).unwrap();
            assert_eq!(lanes(&bound), wanted);
        }
        assert!(sim.flip(&dir.join(FILE), 40, 1));
        let mut said = Vec::new();
        let bound = Bound::open(&disk, dir, &route, &mut |t| said.push(t)).unwrap();
        assert_eq!((lanes(&bound)[0], lanes(&bound)[1..].to_vec()), (None, wanted[1..].to_vec()));
        assert_eq!(said.len(), 1);
        // It is told once.
        Bound::open(&disk, dir, &route, &mut |t| panic!("{t}")).unwrap();
    }

    #[test]
    fn a_full_disk_stops_nobody_and_what_was_bound_is_written_when_there_is_room() {
        let (disk, sim) = Disk::sim(1);
        let dir = Path::new("/state");
        disk.create_dir_all(dir, 0o750).unwrap();
        let route = route("");
        let hour = |n: u64| (HourKey::parse("web1_2026112205").unwrap(), n);
        let open = || Bound::open(&disk, dir, &route, &mut |t| panic!("{t}")).unwrap();
        let mut bound = open();
        bound.bind(&hour(0), "b:1").unwrap();
        sim.set_capacity(Some(0));
        bound.bind(&hour(1), "b:1").unwrap();
        assert_eq!(bound.lane(&hour(1), &route), Some(1));
        drop(bound);
        let mut bound = open();
        assert_eq!((bound.lane(&hour(0), &route), bound.lane(&hour(1), &route)), (Some(1), None));
        bound.bind(&hour(2), "a:1").unwrap();
        sim.set_capacity(None);
        bound.flush().unwrap();
        drop(bound);
        let bound = open();
        assert_eq!((bound.lane(&hour(0), &route), bound.lane(&hour(2), &route)), (Some(1), Some(0)));
    }

    #[test]
    fn without_a_choice_nothing_is_written() {
        let (disk, sim) = Disk::sim(1);
        let mut bound =
            Bound::open(&disk, Path::new("/state"), &route("failover = any\n"), &mut |_| {}).unwrap();
        bound.bind(&(HourKey::parse("web1_2026112205").unwrap(), 0), "a:1").unwrap();
        assert!(!bound.is_on() && sim.paths().is_empty());
    }
}
