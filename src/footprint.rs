//! The footprint: which packs a collector has, so that none is stored twice.
//!
//! Carries P2 at the door. Packs are applied in id order, so an hour's memory is one high-water number and a few
//! early ids per copy, whatever the hour's size; only packs that are not stored yet are known one by one. All of it
//! is derived from the proofs and the spool. `footprint.json` below the state directory shows it to people and
//! tools; it is loaded at start only to be compared, never believed.

use crate::auth::host_of;
use crate::disk::{self, Disk};
use crate::pack::{Checked, HourKey};
use crate::planted::{self, Bug};
use crate::record;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::path::Path;

/// An hour that nobody sent for is forgotten after this time; it is derived again when needed.
const FORGET_MS: u64 = 10 * 60 * 1000;
/// Hours of one host that are in memory: two for each of some thousand streams. An hour of which every pack is stored makes
/// room for another one at any time, for it is on disk; one with packs that wait does not.
pub const HOURS_PER_HOST: usize = 8_192;
/// Hours of all hosts.
pub const HOURS_MAX: usize = 32_768;
/// Copies of one hour, and how many times the hours of a host or of all there may be of copies.
const COPIES_PER_HOUR: usize = 256;
const COPIES: usize = 2;

/// A pack that is accepted and not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Raw length in bytes.
    pub bytes: u64,
    /// CRC-32 of the raw bytes.
    pub crc32: u32,
    /// [`Seal::mark`](crate::pack::Seal::mark) of the raw bytes; 0 = the sender told none.
    pub mark: u64,
    /// Its number in the spool; 0 = it is on a shelf, durable.
    pub seq: u64,
    /// Bytes that it takes on disk.
    pub weight: u64,
}

/// One copy of an hour.
#[derive(Clone, Debug, Default)]
pub struct CopyPrint {
    /// Packs 1…high are accepted.
    pub high: u64,
    /// Accepted packs that are not stored, those beyond a gap too.
    pub pending: BTreeMap<u64, Pending>,
    /// Weight of the packs beyond a gap.
    early_weight: u64,
}

impl CopyPrint {
    /// A copy whose packs up to `high` are stored.
    pub fn new(high: u64) -> Self {
        Self { high, ..Self::default() }
    }

    /// Numbers beyond a gap.
    pub fn early(&self) -> impl Iterator<Item = u64> {
        self.pending.range(above(self.high)).map(|(id, _)| *id)
    }

    fn advance(&mut self) -> u64 {
        let before = self.early_weight;
        while let Some((next, p)) = self.high.checked_add(1).and_then(|n| Some((n, self.pending.get(&n)?))) {
            self.high = next;
            self.early_weight = self.early_weight.saturating_sub(p.weight);
        }
        before.saturating_sub(self.early_weight)
    }
}

/// The numbers beyond `high`, also where there is none.
fn above(high: u64) -> (Bound<u64>, Bound<u64>) {
    (Bound::Excluded(high), Bound::Unbounded)
}

/// One hour.
#[derive(Clone, Debug, Default)]
pub struct HourPrint {
    /// By copy.
    pub copies: BTreeMap<u64, CopyPrint>,
    /// Packs of lower copies are old: a higher one is certified.
    pub floor: u64,
    /// The copy that has a tag or a doubtful certificate: new bytes of it must revoke that first.
    pub certified: Option<u64>,
    /// Its tag is being written: nothing may change.
    pub certifying: bool,
    /// The original began it: these packs are stored, in whatever order.
    pub foreign: Option<HashSet<u64>>,
    used_ms: u64,
}

impl HourPrint {
    /// Could all of it be derived again?
    fn at_rest(&self) -> bool {
        !self.certifying && self.copies.values().all(|c| c.pending.is_empty())
    }
}

/// Hours and copies of somebody that are in memory.
#[derive(Clone, Copy, Default)]
struct Held {
    hours: usize,
    copies: usize,
}

impl Held {
    /// Is there room for another hour, or another copy of one?
    fn has_room(self, hours: usize) -> bool {
        self.hours < hours && self.copies < hours.saturating_mul(COPIES)
    }
}

/// What is known of an arriving pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    New,
    /// Take it; packs before it are missing.
    Early,
    /// Accepted before; wait until this number of the spool is durable (0 = it is).
    Known(u64),
    /// Stored before: the proof tells whether it is the same.
    Stored,
    /// Same number, other bytes.
    Conflict,
    /// Of a copy below the installed one.
    Old(u64),
    /// Its hour is being certified.
    Certifying,
}

/// See the module's header.
#[derive(Default)]
pub struct Footprint {
    hours: HashMap<HourKey, HourPrint>,
    by_host: HashMap<String, Held>,
    all: Held,
    /// Hosts for which there is no room, and an empty name if there is none for anybody: until packs are stored nobody looks
    /// through all hours again for one that is at rest.
    full: HashSet<String>,
    early_by_host: HashMap<String, u64>,
    early_total: u64,
}

impl Footprint {
    /// An hour, if it is loaded.
    pub fn hour(&mut self, key: &HourKey, now_ms: u64) -> Option<&mut HourPrint> {
        let h = self.hours.get_mut(key)?;
        h.used_ms = now_ms;
        Some(h)
    }

    /// Adds an hour as the disk has it.
    pub fn load(&mut self, key: &HourKey, mut hour: HourPrint, now_ms: u64) {
        hour.used_ms = now_ms;
        let mut early = 0_u64;
        for c in hour.copies.values_mut() {
            c.early_weight = c.pending.values().map(|p| p.weight).sum();
            c.advance();
            early = early.saturating_add(c.early_weight);
        }
        self.add_early(&key.name, early);
        let copies = hour.copies.len();
        let before = self.hours.insert(key.clone(), hour).map(|h| h.copies.len());
        self.count(key, before, Some(copies));
    }

    /// Keeps count of an hour that has other copies now; `None` = it is not in memory.
    fn count(&mut self, key: &HourKey, before: Option<usize>, after: Option<usize>) {
        if before == after {
            return;
        }
        let host = host_of(&key.name);
        let adjust = |n: usize, less: usize, more: usize| n.saturating_sub(less).saturating_add(more);
        let held = |h: Held| Held {
            hours: adjust(h.hours, before.is_some().into(), after.is_some().into()),
            copies: adjust(h.copies, before.unwrap_or(0), after.unwrap_or(0)),
        };
        self.all = held(self.all);
        let mine = held(self.by_host.get(host).copied().unwrap_or_default());
        if mine.hours == 0 {
            self.by_host.remove(host);
        } else {
            self.by_host.insert(host.to_owned(), mine);
        }
    }

    /// Makes sure that a copy of an hour can be held in memory. The error says whose limit it is: packs of this copy must wait
    /// until others are stored.
    pub fn make_room(&mut self, key: &HourKey, generation: u64) -> Result<(), String> {
        let host = host_of(&key.name);
        if let Some(hour) = self.hours.get(key) {
            if hour.copies.contains_key(&generation) {
                return Ok(());
            }
            if hour.copies.len() >= COPIES_PER_HOUR {
                return Err(format!(
                    "{key}: {COPIES_PER_HOUR} copies of this hour are begun and none is whole, the limit; see aside/{key}.*"
                ));
            }
        }
        for (whose, max) in [(host, HOURS_PER_HOST), ("", HOURS_MAX)] {
            let held = if whose.is_empty() {
                self.all
            } else {
                self.by_host.get(whose).copied().unwrap_or_default()
            };
            if held.has_room(max) {
                continue;
            }
            if self.full.contains(whose) || !self.forget_some(whose, key) {
                self.full.insert(whose.to_owned());
                let whose = if whose.is_empty() { "all hosts" } else { whose };
                return Err(format!(
                    "{key}: packs of {max} hours of {whose} wait for others or for the disk, the limit; `logd status` names \
                     hours with gaps: send those again, then this goes on"
                ));
            }
        }
        Ok(())
    }

    /// Does somebody wait for room?
    pub fn is_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Forgets a quarter of the hours that are at rest, those first that nobody sent for in the longest time; false = there
    /// are none.
    fn forget_some(&mut self, host: &str, but: &HourKey) -> bool {
        let of_it = |key: &HourKey| host.is_empty() || host_of(&key.name) == host;
        let mut rest: Vec<(u64, HourKey)> = self
            .hours
            .iter()
            .filter(|(key, h)| *key != but && of_it(key) && h.at_rest())
            .map(|(key, h)| (h.used_ms, key.clone()))
            .collect();
        rest.sort();
        rest.truncate(rest.len().div_ceil(4));
        for (_, key) in &rest {
            self.forget(key);
        }
        !rest.is_empty()
    }

    fn forget(&mut self, key: &HourKey) {
        if let Some(hour) = self.hours.remove(key) {
            self.count(key, Some(hour.copies.len()), None);
        }
    }

    /// What to do with pack `id` of a copy; `mark` as in [`Pending`]. The hour must be loaded.
    pub fn judge(&self, key: &HourKey, generation: u64, id: u64, checked: &Checked, mark: u64) -> Verdict {
        let Some(hour) = self.hours.get(key) else { return Verdict::New };
        if hour.certifying {
            return Verdict::Certifying;
        }
        if let Some(ids) = &hour.foreign
            && generation == 0
        {
            let pending = hour.copies.get(&0).and_then(|c| c.pending.get(&id));
            return if ids.contains(&id) {
                Verdict::Known(pending.map_or(0, |p| p.seq))
            } else {
                Verdict::New
            };
        }
        if generation < hour.floor && !planted::is(Bug::OldCopyInstalled) {
            return Verdict::Old(hour.floor);
        }
        let Some(copy) = hour.copies.get(&generation) else {
            return if id == 1 { Verdict::New } else { Verdict::Early };
        };
        match copy.pending.get(&id) {
            Some(p)
                if (p.bytes, p.crc32) == (checked.bytes, checked.crc32)
                    && (p.mark == mark || p.mark == 0 || mark == 0) =>
            {
                Verdict::Known(p.seq)
            }
            Some(_) => Verdict::Conflict,
            None if id <= copy.high => Verdict::Stored,
            None if id == copy.high.saturating_add(1) => Verdict::New,
            None => Verdict::Early,
        }
    }

    /// Would an early pack of this weight exceed its host's share or the total?
    pub fn early_fits(&self, name: &str, weight: u64, per_name: u64, total: u64) -> bool {
        let mine = self.early_by_host.get(host_of(name)).copied().unwrap_or(0);
        mine.saturating_add(weight) <= per_name && self.early_total.saturating_add(weight) <= total
    }

    /// Notes a pack that was taken into the spool.
    pub fn accept(&mut self, key: &HourKey, generation: u64, id: u64, p: Pending, now_ms: u64) {
        let before = self.hours.get(key).map(|h| h.copies.len());
        let hour = self.hours.entry(key.clone()).or_default();
        hour.used_ms = now_ms;
        if let (Some(ids), 0) = (&mut hour.foreign, generation) {
            ids.insert(id);
        }
        let copy = hour.copies.entry(generation).or_default();
        if planted::is(Bug::EarlyCountsAsStored) {
            copy.high = copy.high.max(id);
        }
        let again = copy.pending.insert(id, p).map_or(0, |old| old.weight);
        // What the original began is taken in any order: nothing of it waits for a gap.
        let in_order = hour.foreign.is_none() || generation > 0;
        if in_order && id > copy.high {
            copy.early_weight = copy.early_weight.saturating_sub(again).saturating_add(p.weight);
            let applied = copy.advance();
            self.add_early(&key.name, p.weight);
            self.drop_early(&key.name, again.saturating_add(applied));
        }
        let after = self.hours.get(key).map(|h| h.copies.len());
        self.count(key, before, after);
    }

    fn add_early(&mut self, name: &str, weight: u64) {
        self.early_total = self.early_total.saturating_add(weight);
        let sum = self.early_by_host.entry(host_of(name).to_owned()).or_insert(0);
        *sum = sum.saturating_add(weight);
    }

    fn drop_early(&mut self, name: &str, weight: u64) {
        self.early_total = self.early_total.saturating_sub(weight);
        if let Some(mine) = self.early_by_host.get_mut(host_of(name)) {
            *mine = mine.saturating_sub(weight);
            if *mine == 0 {
                self.early_by_host.remove(host_of(name));
            }
        }
    }

    /// Packs of a copy are stored, their lines in the proof durable: all up to `high`, and those with these numbers
    /// in the spool (an hour that the original began is not in id order).
    pub fn stored(&mut self, key: &HourKey, generation: u64, high: u64, seqs: &[u64]) {
        let Some(hour) = self.hours.get_mut(key) else { return };
        let in_order = hour.foreign.is_none() || generation > 0;
        let Some(copy) = hour.copies.get_mut(&generation) else { return };
        copy.pending.retain(|id, p| *id > high && (in_order || !seqs.contains(&p.seq)));
        // What the spool is done with and the proof does not have is on the shelf: a crash came between the two.
        let shelved = copy.pending.values_mut().filter(|p| seqs.contains(&p.seq));
        shelved.for_each(|p| p.seq = 0);
    }

    /// A pack beyond a gap moved from the spool to a shelf.
    pub fn shelved(&mut self, key: &HourKey, generation: u64, id: u64) {
        let copy = self.hours.get_mut(key).and_then(|h| h.copies.get_mut(&generation));
        if let Some(p) = copy.and_then(|c| c.pending.get_mut(&id)) {
            p.seq = 0;
        }
    }

    /// The pack with this number in the spool: its hour, copy and number there.
    pub fn spooled(&self, seq: u64) -> Option<(HourKey, u64, u64)> {
        self.hours.iter().find_map(|(key, hour)| {
            hour.copies.iter().find_map(|(generation, copy)| {
                let found = copy.pending.iter().find(|(_, p)| p.seq == seq)?;
                Some((key.clone(), *generation, *found.0))
            })
        })
    }

    /// An accepted pack is lost before it was stored: when it comes again it is new.
    pub fn lost(&mut self, key: &HourKey, generation: u64, id: u64) {
        let Some(hour) = self.hours.get_mut(key) else { return };
        if let (Some(ids), 0) = (&mut hour.foreign, generation) {
            ids.remove(&id);
        }
        let in_order = hour.foreign.is_none() || generation > 0;
        let Some(copy) = hour.copies.get_mut(&generation) else { return };
        if copy.pending.remove(&id).is_none() || !in_order {
            return;
        }
        // Packs behind it are beyond a gap now.
        copy.high = copy.high.min(id.saturating_sub(1));
        let before = copy.early_weight;
        let after = copy.pending.range(above(copy.high)).map(|(_, p)| p.weight).sum();
        copy.early_weight = after;
        self.drop_early(&key.name, before);
        self.add_early(&key.name, after);
    }

    /// Is any pack of this copy accepted that is not stored?
    pub fn has_pending(&self, key: &HourKey, generation: u64) -> bool {
        self.hours.get(key).and_then(|h| h.copies.get(&generation)).is_some_and(|c| !c.pending.is_empty())
    }

    /// A higher copy is certified: the lower ones are history.
    pub fn drop_below(&mut self, key: &HourKey, generation: u64) {
        let Some(hour) = self.hours.get_mut(key) else { return };
        hour.floor = hour.floor.max(generation);
        let before = hour.copies.len();
        let keep = hour.copies.split_off(&generation);
        let gone: u64 = hour.copies.values().map(|c| c.early_weight).sum();
        hour.copies = keep;
        let after = hour.copies.len();
        if generation > 0 {
            hour.foreign = None;
        }
        self.drop_early(&key.name, gone);
        self.count(key, Some(before), Some(after));
    }

    /// Forgets hours that are at rest.
    pub fn forget_idle(&mut self, now_ms: u64) {
        self.full.clear();
        let idle = |h: &HourPrint| h.at_rest() && now_ms.saturating_sub(h.used_ms) >= FORGET_MS;
        let idle: Vec<HourKey> =
            self.hours.iter().filter(|(_, h)| idle(h)).map(|(key, _)| key.clone()).collect();
        for key in &idle {
            self.forget(key);
        }
    }

    /// What it knows of the hours that `want` takes: as [`load_json`], and up to date.
    pub fn told(&self, want: impl Fn(&HourKey) -> bool) -> BTreeMap<HourKey, Told> {
        let hours = self.hours.iter().filter(|(key, _)| want(key));
        let told = hours.filter_map(|(key, hour)| {
            let (generation, copy) = hour.copies.last_key_value()?;
            Some((key.clone(), (*generation, copy.high, copy.early().take(10_000).collect())))
        });
        told.collect()
    }

    /// Writes `footprint.json`.
    pub fn save(&self, disk: &Disk, state_dir: &Path, now: &str) -> disk::Result<()> {
        let mut hours = Map::new();
        for (key, hour) in &self.hours {
            let Some((generation, copy)) = hour.copies.last_key_value() else { continue };
            let early: Vec<u64> = copy.early().take(10_000).collect();
            let last = copy.pending.last_key_value().map_or(copy.high, |(id, _)| *id);
            hours.insert(
                key.to_string(),
                json!({"Time": now, "Id": last.to_string(), "high": copy.high, "early": early, "gen": generation}),
            );
        }
        disk.replace(&state_dir.join("footprint.json"), &record::to_json(&hours), 0o640)
    }
}

/// Copy, high-water number, early numbers.
pub type Told = (u64, u64, Vec<u64>);

/// What `footprint.json` says: per hour the copy, the high-water number, and the early ones. `None` if it is missing
/// or damaged.
pub fn load_json(disk: &Disk, state_dir: &Path) -> Option<BTreeMap<HourKey, Told>> {
    let bytes = disk.read_opt(&state_dir.join("footprint.json"), 256 << 20).ok()??;
    let all: Map<String, Value> = record::from_json(&bytes).ok()?;
    let mut out = BTreeMap::new();
    for (name, v) in all {
        let key = HourKey::parse(&name)?;
        let early = v.get("early")?.as_array()?.iter().filter_map(Value::as_u64).collect();
        out.insert(key, (v.get("gen")?.as_u64()?, v.get("high")?.as_u64()?, early));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHT: u64 = 100;
    const CHECKED: Checked = Checked { bytes: 5, crc32: 7 };

    fn pending(seq: u64) -> Pending {
        Pending { bytes: 5, crc32: 7, mark: 0, seq, weight: WEIGHT }
    }

    #[test]
    fn a_pack_on_the_shelf_stays_known_when_the_spool_is_done_with_it() {
        let key = HourKey::parse("web1_2026112205").unwrap();
        let mut f = Footprint::default();
        f.load(&key, HourPrint::default(), 0);
        f.accept(&key, 0, 2, pending(9), 0);
        assert_eq!(f.judge(&key, 0, 2, &CHECKED, 0), Verdict::Known(9));
        // It went to the shelf, a crash came, and only now the spool's record is done with.
        f.stored(&key, 0, 0, &[9]);
        assert_eq!(f.judge(&key, 0, 2, &CHECKED, 0), Verdict::Known(0));
        f.accept(&key, 0, 1, pending(10), 0);
        f.stored(&key, 0, 2, &[10]);
        assert_eq!(f.judge(&key, 0, 2, &CHECKED, 0), Verdict::Stored);
    }

    #[test]
    fn a_lost_pack_is_new_again_and_those_behind_it_are_early() {
        let key = HourKey::parse("web1_2026112205").unwrap();
        let mut f = Footprint::default();
        f.load(&key, HourPrint::default(), 0);
        for id in 1..=4 {
            f.accept(&key, 0, id, pending(id), 0);
        }
        assert_eq!(f.spooled(2), Some((key.clone(), 0, 2)));
        f.lost(&key, 0, 2);
        assert_eq!(f.spooled(2), None);
        assert_eq!(f.judge(&key, 0, 1, &CHECKED, 0), Verdict::Known(1));
        assert_eq!(f.judge(&key, 0, 2, &CHECKED, 0), Verdict::New);
        assert_eq!(f.judge(&key, 0, 4, &CHECKED, 0), Verdict::Known(4));
        let early = 2 * WEIGHT;
        assert!(f.early_fits("web1", 1, early + 1, early + 1) && !f.early_fits("web1", 1, early, u64::MAX));
        f.accept(&key, 0, 2, pending(9), 0);
        assert_eq!(f.judge(&key, 0, 5, &CHECKED, 0), Verdict::New);
        assert!(f.early_fits("web1", 1, 1, 1), "nothing is early any more");
    }

    fn key(name: &str) -> HourKey {
        HourKey::parse(&format!("{name}_2026112205")).unwrap()
    }

    /// A pack of a stream comes, as the gate takes it.
    fn take(f: &mut Footprint, key: &HourKey, generation: u64, id: u64, now_ms: u64) -> bool {
        if f.make_room(key, generation).is_err() {
            return false;
        }
        if f.hour(key, now_ms).is_none() {
            f.load(key, HourPrint::default(), now_ms);
        }
        f.accept(key, generation, id, pending(now_ms + 1), now_ms);
        true
    }

    /// The story: 30,000 streams of one host took 227 MB, and everybody's share of packs behind a gap.
    #[test]
    fn the_streams_of_one_host_stop_only_that_host() {
        let mut f = Footprint::default();
        let taken = (0..10_000).filter(|n| take(&mut f, &key(&format!("bad+s{n}")), 0, 2, *n)).count();
        assert_eq!(taken, HOURS_PER_HOST);
        assert!(
            f.is_full() && take(&mut f, &key("bad+s7"), 0, 1, 0) && !take(&mut f, &key("bad+s7"), 3, 1, 0)
        );
        let early = (HOURS_PER_HOST as u64 - 1) * WEIGHT;
        assert!(
            f.early_fits("bad+new", 1, early + 1, u64::MAX) && !f.early_fits("bad+new", 1, early, u64::MAX)
        );
        assert!(take(&mut f, &key("bad2"), 0, 1, 0) && take(&mut f, &key("good+s9999"), 0, 1, 0));
        // What is stored makes room, at the next checkpoint.
        f.stored(&key("bad+s7"), 0, 2, &[]);
        assert!(!take(&mut f, &key("bad+s9999"), 0, 1, 0));
        f.forget_idle(0);
        assert!(take(&mut f, &key("bad+s9999"), 0, 1, 0) && f.hour(&key("bad+s7"), 0).is_none());
    }

    /// A host that catches up has thousands of hours one after the other: those that are stored wait for nothing.
    #[test]
    fn hours_at_rest_make_room_those_first_that_were_used_longest_ago() {
        let mut f = Footprint::default();
        for n in 0..3 * HOURS_PER_HOST as u64 {
            let key = key(&format!("web1+s{n}"));
            assert!(take(&mut f, &key, 0, 1, n), "{n}");
            f.stored(&key, 0, 1, &[n + 1]);
        }
        assert!(f.hours.len() <= HOURS_PER_HOST && !f.is_full());
        let last = 3 * HOURS_PER_HOST as u64 - 1;
        assert!(f.hour(&key(&format!("web1+s{last}")), 0).is_some() && f.hour(&key("web1+s0"), 0).is_none());
        assert_eq!((f.all.hours, f.by_host["web1"].hours), (f.hours.len(), f.hours.len()));
        f.forget_idle(u64::MAX);
        assert!(f.hours.is_empty() && f.by_host.is_empty() && f.all.hours == 0 && f.all.copies == 0);
    }

    #[test]
    fn copies_of_one_hour_and_hours_of_all_hosts_are_limited_too() {
        let mut f = Footprint::default();
        let taken = (0..1_000).filter(|g| take(&mut f, &key("bad"), 100 + g, 2, 0)).count();
        assert_eq!(taken, COPIES_PER_HOUR);
        // A higher copy that is whole ends that.
        f.drop_below(&key("bad"), 200);
        assert!(take(&mut f, &key("bad"), 5_000, 1, 0));
        let taken = (0..40_000).filter(|n| take(&mut f, &key(&format!("h{n}")), 0, 2, 0)).count();
        assert_eq!(taken, HOURS_MAX - 1);
    }
}
