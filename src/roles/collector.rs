//! The collector's core: from the spool to hour files and certificates, without threads.

use crate::config::StoreConfig;
use crate::disk::{self, Disk};
use crate::footprint::Footprint;
use crate::integrity::Store;
use crate::inventory::hosts::read_hosts;
use crate::inventory::known::Known;
use crate::inventory::{Filter, Inventory, hour};
use crate::log::count;
use crate::metrics;
use crate::output::hours::{Due, Filed, Hours, HoursConfig, Raw, Spooled, VerifyDone};
use crate::pack::{self, HourKey, split_frame};
use crate::planted::{self, Bug};
use crate::receiver::gate::{Gate, Memory};
use crate::receiver::lock;
use crate::spool::{Loc, Reader, Shelf, Spool};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// After an error, tags of days and of the fleet are looked for again so much later.
const SETTLE_MS: u64 = 60_000;
/// Where hours wait for room in memory checkpoints come as often, in ms.
const CROWDED_MS: u64 = 1_000;

/// Opens a collector's state directory and store: its gate, its storing half, and how many packs the spool held.
pub fn open(
    disk: &Disk,
    state_dir: &Path,
    conf: &StoreConfig,
    max_open: usize,
    now_ms: u64,
    report: &mut dyn FnMut(String),
) -> Result<(Gate, Collector, usize), String> {
    let say = |e: disk::Error| e.to_string();
    let (per_name, total) = (conf.early_per_name, conf.early_total);
    let max_raw = conf.receiver.max_raw as u64;
    let mut quarantine = Shelf::open(disk, &state_dir.join("quarantine"), per_name, total).map_err(say)?;
    let (mut packs, mut raw) = (Vec::new(), Vec::new());
    let mut see = |loc: Loc, frame: &[u8]| {
        let Some((header, body)) = split_frame(frame) else { return };
        let Ok(meta) = header.meta("unknown") else { return };
        let sums = match meta.seal {
            Some(s) => Some((s.bytes, s.crc32)),
            None => pack::inflate(body, &meta, &mut raw, max_raw).map(|c| (c.bytes, c.crc32)),
        };
        packs.extend(sums.map(|(bytes, crc32)| (loc, meta, bytes, crc32)));
    };
    let spool = Spool::open(disk, &state_dir.join("spool"), &mut quarantine, &conf.spool, report, &mut see)
        .map_err(say)?;
    let mut spooled: BTreeMap<HourKey, Spooled> = BTreeMap::new();
    for (_, meta, bytes, _) in &packs {
        let copies = spooled.entry(meta.key.clone()).or_default();
        copies.entry(meta.generation).or_default().insert(meta.id, *bytes);
    }
    let store = Store::new(disk, &conf.save_dir, state_dir, conf.file_mode, conf.dir_mode);
    let aside = store.path("aside");
    let shelf = |name: &str| Shelf::open(disk, &aside.join(name), per_name, total).map_err(say);
    let lost = spool.damaged().to_vec();
    let hours_conf = HoursConfig { max_raw, max_open, gap_wait_ms: conf.gap_wait_ms };
    let mut hours =
        Hours::open(&store, hours_conf, (shelf("early")?, shelf("lost")?), spool.reader(), &spooled, now_ms)
            .map_err(say)?;
    for meta in lost {
        // What its sender was not told of comes again; the rest bars the hour's tag until it does.
        hours.note_damaged(&meta).map_err(say)?;
    }
    hours.alarms.drain(..).for_each(report);
    let (reader, waiting) = (spool.reader(), packs.len());
    let memory = Memory {
        store: store.clone(),
        footprint: Footprint::default(),
        early: shelf("early")?,
        conflict: shelf("conflict")?,
        early_per_name: per_name,
        early_total: total,
    };
    let gate = Gate::collector(spool, memory, packs, now_ms).map_err(say)?;
    let mut collector = Collector::new(hours, store, (reader, quarantine), conf);
    collector.settle_tags(None, now_ms).map_err(say)?;
    Ok((gate, collector, waiting))
}

/// See the module's header.
pub struct Collector {
    /// The hour files.
    pub hours: Hours,
    store: Store,
    reader: Reader,
    quarantine: Shelf,
    cursor: u64,
    hosts_file: Option<PathBuf>,
    frame: Vec<u8>,
    checkpoint_ms: u64,
    last_checkpoint_ms: u64,
    /// When tags of days and of the fleet are looked for that an error has left out.
    settle_ms: Option<u64>,
    /// Sentences for the log, with `true` for those that tell of success.
    pub messages: Vec<(bool, String)>,
    /// Hours that got a tag, for whoever works on whole hours.
    pub certified: Vec<HourKey>,
    /// Hours that have more durable packs, for whoever works on these.
    pub grown: Vec<HourKey>,
}

impl Collector {
    fn new(hours: Hours, store: Store, (reader, quarantine): (Reader, Shelf), conf: &StoreConfig) -> Self {
        Self {
            hours,
            store,
            reader,
            quarantine,
            cursor: 0,
            hosts_file: conf.hosts_file.clone(),
            frame: Vec::new(),
            checkpoint_ms: conf.checkpoint_ms,
            last_checkpoint_ms: 0,
            settle_ms: None,
            messages: Vec::new(),
            certified: Vec::new(),
            grown: Vec::new(),
        }
    }

    /// Applies up to `most` durable packs; how many it were.
    pub fn step(&mut self, gate: &Mutex<Gate>, now_ms: u64, most: usize) -> disk::Result<usize> {
        if self.settle_ms.is_some_and(|at| now_ms >= at) {
            self.settle_tags(Some(gate), now_ms)?;
        }
        self.hours.retry(now_ms)?;
        for n in 0..most {
            let Some((seq, base, raw)) = ({
                let mut g = lock(gate);
                g.spool.next_waiting(self.cursor).map(|(seq, base)| (seq, base, g.raw.remove(&seq)))
            }) else {
                return Ok(n);
            };
            if let Some(loc) = self.reader.fetch(seq, base, &mut self.frame)? {
                let raw = raw.map(|r| Box::new(r) as Raw);
                let applied = self.hours.apply(loc, &self.frame, raw, now_ms);
                self.forget_lost(gate);
                applied?;
            } else {
                self.spoiled(gate, seq, base)?;
            }
            self.cursor = seq.saturating_add(1);
        }
        Ok(most)
    }

    /// A pack of the spool was acknowledged and cannot be read any more.
    fn spoiled(&mut self, gate: &Mutex<Gate>, seq: u64, base: u64) -> disk::Result<()> {
        let pack = lock(gate).spooled(seq);
        if let Some((key, generation, id)) = &pack {
            self.hours.note_lost(key, *generation, *id)?;
        }
        let kept = lock(gate).spool.set_aside_damage(seq, base, &mut self.quarantine)?;
        self.forget_lost(gate);
        let what = pack.map_or_else(|| format!("pack {seq}"), |(key, _, id)| format!("{key} pack {id}"));
        self.messages.push((
            false,
            format!(
                "{what}: its record {seq} in {} was damaged after it was acknowledged; {kept}; send the pack or its hour \
                 again from the source",
                self.reader.path(base).display()
            ),
        ));
        Ok(())
    }

    fn forget_lost(&mut self, gate: &Mutex<Gate>) {
        for (key, generation, id) in self.hours.take_lost() {
            lock(gate).lost(&key, generation, id);
        }
    }

    /// Is it time to make progress durable?
    pub fn wants_checkpoint(&self, gate: &Mutex<Gate>, now_ms: u64) -> Option<Due> {
        if !self.hours.is_dirty() {
            return None;
        }
        let since = now_ms.saturating_sub(self.last_checkpoint_ms);
        let late = since >= self.checkpoint_ms;
        let pressed = || {
            let gate = lock(gate);
            let crowded = gate.memory.as_ref().is_some_and(|m| m.footprint.is_full());
            gate.spool.half_full() || crowded && since >= CROWDED_MS
        };
        if late || self.hours.wants_all() || pressed() {
            return Some(Due::All);
        }
        self.hours.has_complete().then_some(Due::Complete)
    }

    /// Makes progress durable, and tells the spool and the footprint.
    pub fn checkpoint(&mut self, due: Due, gate: &Mutex<Gate>, now_ms: u64) -> disk::Result<()> {
        let progress = self.hours.checkpoint(due, now_ms)?;
        if due == Due::All {
            self.last_checkpoint_ms = now_ms;
        }
        self.grown.extend(progress.stored.iter().map(|(key, ..)| key.clone()));
        let mut g = lock(gate);
        if let Some(m) = &mut g.memory {
            for (key, generation, high, seqs) in &progress.stored {
                m.footprint.stored(key, *generation, *high, seqs);
            }
            for (key, generation, id) in &progress.shelved {
                m.footprint.shelved(key, *generation, *id);
            }
            m.footprint.forget_idle(now_ms);
        }
        // Each is marked, even if the file of one cannot be removed now.
        progress.seqs.into_iter().map(|seq| g.spool.mark_done(seq)).fold(Ok(()), Result::and)
    }

    /// Files what a verification found, unless something arrived meanwhile.
    pub fn certify(
        &mut self,
        done: VerifyDone,
        gate: &Mutex<Gate>,
        now_ms: u64,
        now_secs: i64,
    ) -> disk::Result<()> {
        let key = done.job().key.clone();
        let generation = done.job().generation;
        let held = lock(gate).hold(&key, generation, now_ms);
        if !matches!(held, Ok(true)) {
            self.hours.abandon(done.job());
            return held.map(|_| ());
        }
        let filed = self.hours.finish(done, now_secs);
        if filed.is_err() {
            // The hour's own tag may stand already, and only its day's be missing.
            self.settle_ms = Some(now_ms.saturating_add(SETTLE_MS));
        }
        let mut g = lock(gate);
        let footprint = g.memory.as_mut().map(|m| &mut m.footprint);
        let Some(footprint) = footprint else { return Ok(()) };
        if let Some(h) = footprint.hour(&key, now_ms) {
            h.certifying = false;
            if filed.is_err() {
                // Its tag may be written already: whatever comes must revoke it first. The tag of another copy stands
                // as it did.
                h.certified.get_or_insert(generation);
            }
        }
        match filed? {
            Filed::Void => {}
            Filed::Refused(why) => {
                if let Some(h) = footprint.hour(&key, now_ms)
                    && let Some(closed) = self.store.closed(&key)?
                {
                    h.certified = Some(closed.generation);
                }
                drop(g);
                self.messages.push((false, why));
            }
            Filed::Installed => {
                if let Some(h) = footprint.hour(&key, now_ms) {
                    h.certified = None;
                    h.floor = h.floor.max(generation);
                }
                drop(g);
                let text = format!("{key}: copy {generation} took its place; the old one is in aside/");
                self.messages.push((true, text));
            }
            Filed::Certified(c) => {
                let counter = match (c.is_tag(), c.empty, c.verified) {
                    (false, ..) => &metrics::CERTIFIED_DOUBTFUL,
                    (true, true, _) => &metrics::CERTIFIED_EMPTY,
                    (true, false, true) => &metrics::CERTIFIED_VERIFIED,
                    (true, false, false) => &metrics::CERTIFIED_UNVERIFIED,
                };
                counter.inc();
                if let Some(h) = footprint.hour(&key, now_ms) {
                    h.certified = Some(c.generation);
                }
                if c.is_tag() && !planted::is(Bug::OldCopyInstalled) {
                    footprint.drop_below(&key, c.generation);
                }
                drop(g);
                self.messages.push(if c.is_tag() {
                    let word = if c.verified { "verified" } else { "complete, not verifiable" };
                    let [lines, bytes, packs] = [(c.lines, "line"), (c.bytes, "byte"), (c.packs, "pack")]
                        .map(|(n, what)| count(n, what));
                    (true, format!("{key}: {word}: {lines}, {bytes}, {packs}"))
                } else {
                    (false, format!("{key}: complete, but not certified: {}; what could be read is stored; `logd status` tells what to do", c.state))
                });
                if c.is_tag() {
                    self.certified.push(key.clone());
                    // Under the lock: a revocation of another hour must not fall in between.
                    let _g = lock(gate);
                    let day = self.store.day_tag(&key);
                    let wider = day.and_then(|_| self.fleet(key.hour));
                    wider.inspect_err(|_| self.settle_ms = Some(now_ms.saturating_add(SETTLE_MS)))?;
                }
            }
        }
        Ok(())
    }

    /// Tags of days and of the fleet that a crash or an error has left out. What fails is tried again later.
    fn settle_tags(&mut self, gate: Option<&Mutex<Gate>>, now_ms: u64) -> disk::Result<()> {
        self.settle_ms = None;
        let settled = self.settle_all(gate);
        match settled {
            Err(e) if !e.fatal() => {
                self.settle_ms = Some(now_ms.saturating_add(SETTLE_MS));
                self.messages.push((false, format!("{e}; nothing is lost, trying again")));
                Ok(())
            }
            other => other,
        }
    }

    fn settle_all(&mut self, gate: Option<&Mutex<Gate>>) -> disk::Result<()> {
        let received = self.store.path("received");
        let disk = self.store.disk().clone();
        let (mut days, mut hours) = (BTreeMap::new(), BTreeSet::new());
        // One bad file takes only its own day's and its hour's tag away; it is told, and tried again.
        let mut settled = Ok(());
        let mut try_it = |result: disk::Result<()>| match result {
            Err(e) if !e.is_of_one_path() => Err(e),
            other => {
                settled = std::mem::replace(&mut settled, Ok(())).and(other);
                Ok(())
            }
        };
        for key in self.store.closed_list()? {
            hours.insert(key.hour);
            days.entry(format!("{}_{}", key.name, key.hour.day_of())).or_insert(key);
        }
        // Under the lock one by one: a revocation must not fall in between, and nobody waits for all of them.
        for (day, key) in days {
            let _g = gate.map(lock);
            if disk.stat(&received.join(day))?.is_none() {
                try_it(self.store.day_tag(&key).map(|_| ()))?;
            }
        }
        if self.hosts_file.is_none() {
            return settled;
        }
        for hour in hours {
            let _g = gate.map(lock);
            if disk.stat(&received.join(format!("all_{hour}")))?.is_none() {
                try_it(self.fleet(hour))?;
            }
        }
        settled
    }

    fn fleet(&mut self, hour: crate::clock::Hour) -> disk::Result<()> {
        let Some(path) = &self.hosts_file else { return Ok(()) };
        match read_hosts(path) {
            Ok(hosts) => {
                let save_dir = self.store.path("");
                let known = Known::read(self.store.disk(), &save_dir)?;
                let mut expected = Vec::new();
                for host in hosts.into_iter().filter(|host| host.has(hour)) {
                    let key = HourKey { name: host.name, hour };
                    if !known.is_retired(&key) || is_wrong(&self.store, &key, &known)? {
                        expected.push(key.name);
                    }
                }
                if self.store.fleet_tag(hour, &expected)? {
                    self.messages
                        .push((true, format!("hour {hour}: whole of all {}", count(expected.len(), "host"))));
                }
            }
            Err(why) => {
                self.messages.push((false, format!("{why}; no all_<hour> tags until it is corrected")));
            }
        }
        Ok(())
    }
}

/// Of a retired host nothing more is expected, but what there is of its hour must be right all the same.
fn is_wrong(store: &Store, key: &HourKey, known: &Known) -> disk::Result<bool> {
    if store.closed(key)?.is_some() {
        return Ok(store.tagged_now(key)?.is_none());
    }
    let filter = Filter { host: Some(key.name.clone()), since: Some(key.hour) };
    let Ok(inv) = Inventory::read(store.disk(), &store.path(""), &filter) else {
        return Ok(true);
    };
    if !inv.hours.contains_key(key) {
        return Ok(false);
    }
    let mut row = hour::judge(&inv, key, None)?;
    known.settle(&mut row);
    Ok(row.known.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Build, Temp, key};

    /// The fleet got its tag without the host, although somebody had taken the tag of its wrong hour away.
    #[test]
    fn of_a_retired_host_an_hour_whose_tag_was_taken_away_is_wrong() {
        let temp = Temp::new();
        let save = temp.path("save");
        Build::new("web1_2026112205", &["a\n"]).certify(&save);
        let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
        let wrong = || is_wrong(&store, &key("web1_2026112205"), &Known::default()).unwrap();
        assert!(!wrong());
        std::fs::remove_file(save.join("received/web1_2026112205_1")).unwrap();
        assert!(wrong());
    }
}
