//! What a receiver remembers of those who send to it: which keys were used, who was denied, and since when a host signs.
//!
//! `senders.json` in the state directory, written seconds after a change, for `logd status` and for the next start. Losing it
//! loses what it tells, and since when hosts sign: their next signed packs begin that anew. With `keys = accept` the day of
//! a host's first signed pack is a line that is not crossed again: whoever signs today has the key, so what it seals from
//! tomorrow on is signed, and an unsigned pack of a later day cannot be its own. What is older may have been on its way through
//! relays when the key came, and is taken. What the store's certificates say plays no part in it: they can be forged before
//! keys are there.

use super::{Key, Keyring};
use crate::clock::{Clock, Hour, Zone};
use crate::disk::{self, Disk};
use crate::record;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const FILE: &str = "senders.json";
const FILE_MAX: u64 = 16 << 20;
/// Refusals that are remembered.
const DENIED_MAX: usize = 64;
/// Bytes of a reason that are kept: it quotes what a stranger sent.
const REASON_MAX: usize = 300;
/// A use of a key is noted again after this time, in ms.
const USED_MS: i64 = 60_000;
/// The file is written at most so often, in ms.
const SAVE_MS: u64 = 2_000;
/// A refusal is forgotten so long after the last one, in ms.
const FORGET_MS: i64 = 7 * 24 * 3_600_000;

/// A host that has a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signing {
    /// The day on which a pack of its own came with a good signature for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Hour>,
    /// Its keys that were used, with the unix millisecond of the last use, to a minute.
    pub keys: BTreeMap<String, i64>,
}

/// Packs of one sender that were denied to one address, or, without a sender, connections that were closed unheard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The sender, as the pack names it; empty = a connection from which no pack was heard.
    pub name: String,
    /// The address that it came from; a relay's, if it came through one.
    pub from: String,
    /// Why it was denied last.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// When it was denied first (unix milliseconds).
    pub first_ms: i64,
    /// When it was denied last.
    pub last_ms: i64,
    /// Packs of the same sender from the same address were taken since.
    pub mended: bool,
}

/// What `senders.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Senders {
    /// 1.
    pub format: u32,
    /// Why the key file could not be read again, if so: the keys of before are used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keys_error: String,
    /// By host.
    pub signing: BTreeMap<String, Signing>,
    /// The latest refusals.
    pub denied: Vec<Denied>,
    /// How many others they have pushed out since there was room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denied_more: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Senders {
    /// Reads the file; `Ok(None)` = it is not there, `Err` = it is damaged.
    pub fn load(disk: &Disk, state_dir: &Path) -> disk::Result<Option<Result<Self, String>>> {
        let path = state_dir.join(FILE);
        let Some(bytes) = disk.read_opt(&path, FILE_MAX)? else { return Ok(None) };
        let told = |why: String| format!("{}: {why}", path.display());
        Ok(Some(match record::from_json::<Self>(&bytes) {
            Ok(file) if file.format != 1 => Err(told(format!("format {} is not known here", file.format))),
            other => other.map_err(told),
        }))
    }

    /// Hosts that have no key any more are forgotten.
    fn keep_only(&mut self, keys: &HashMap<String, Key>) -> bool {
        let before = self.clone();
        let hosts: HashSet<&str> = keys.values().map(|k| k.name.as_str()).collect();
        self.signing.retain(|host, _| hosts.contains(host.as_str()));
        for signing in self.signing.values_mut() {
            signing.keys.retain(|id, _| keys.contains_key(id));
        }
        *self != before
    }

    /// Makes room for another refusal. The address that has most gives up its oldest: whoever makes up names must not push
    /// others out.
    fn make_room(&mut self, now_ms: i64) {
        self.denied.retain(|d| now_ms.saturating_sub(d.last_ms) < FORGET_MS);
        if self.denied.len() < DENIED_MAX {
            self.denied_more = 0;
            return;
        }
        let of = |from: &str| self.denied.iter().filter(|d| d.from == from).count();
        let victim = self
            .denied
            .iter()
            .enumerate()
            .max_by_key(|(_, d)| (d.mended, of(&d.from), std::cmp::Reverse(d.last_ms)))
            .map(|(at, _)| at);
        if let Some(at) = victim {
            let gone = self.denied.swap_remove(at);
            self.denied_more = self.denied_more.saturating_add(u64::from(!gone.mended));
        }
    }
}

/// Moves what stands in the place of a file to a name of its own beside it.
fn set_aside(disk: &Disk, path: &Path) -> disk::Result<PathBuf> {
    let mut to = path.to_owned();
    while disk.stat(&to)?.is_some() {
        to.as_mut_os_string().push(".bad");
    }
    disk.rename(path, &to)?;
    Ok(to)
}

struct Inner {
    senders: Senders,
    changed: bool,
    saved_ms: u64,
}

/// The file and what is to be written into it. All connections share it.
pub struct Memory {
    disk: Disk,
    clock: Clock,
    zone: Zone,
    path: PathBuf,
    inner: Mutex<Inner>,
}

impl Memory {
    /// Goes on with what the file in a receiver's state directory says. The sentence is for the log.
    pub fn open(
        disk: &Disk,
        clock: &Clock,
        zone: &Zone,
        state_dir: &Path,
        keys: Option<&Keyring>,
    ) -> disk::Result<(Self, Option<String>)> {
        Self::with_keys(disk, clock, zone, state_dir, &keys.map(Keyring::known).unwrap_or_default())
    }

    fn with_keys(
        disk: &Disk,
        clock: &Clock,
        zone: &Zone,
        state_dir: &Path,
        keys: &HashMap<String, Key>,
    ) -> disk::Result<(Self, Option<String>)> {
        const ANEW: &str = "begun anew: since when hosts sign is found out again";
        let (mut senders, alarm) = match Senders::load(disk, state_dir) {
            Ok(None) => (Senders::default(), None),
            Ok(Some(Ok(senders))) => (senders, None),
            Ok(Some(Err(why))) => (Senders::default(), Some(format!("{why}; {ANEW}"))),
            Err(e) if e.fatal() => return Err(e),
            // A directory or a pipe stands there, or it cannot be read: no start fails for that.
            Err(e) => {
                let to = set_aside(disk, &state_dir.join(FILE))?;
                (Senders::default(), Some(format!("{e}; moved to {}; {ANEW}", to.display())))
            }
        };
        senders.format = 1;
        // The start has read the keys.
        senders.keys_error.clear();
        senders.keep_only(keys);
        let inner = Inner { senders, changed: true, saved_ms: 0 };
        let (disk, clock, zone) = (disk.clone(), clock.clone(), zone.clone());
        Ok((Self { disk, clock, zone, path: state_dir.join(FILE), inner: Mutex::new(inner) }, alarm))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key file was read again, or could not be.
    pub(super) fn refreshed(&self, keys: Result<&HashMap<String, Key>, &str>) {
        let mut inner = self.lock();
        let changed = match keys {
            Ok(keys) => inner.senders.keep_only(keys),
            Err(_) => false,
        };
        let error = keys.err().unwrap_or_default();
        inner.changed |= changed || inner.senders.keys_error != error;
        error.clone_into(&mut inner.senders.keys_error);
    }

    /// Since when a host signs, if that is so long ago that an unsigned pack of this hour cannot be its own.
    pub(super) fn must_be_signed(&self, host: &str, hour: Hour) -> Option<Hour> {
        let since = self.lock().senders.signing.get(host)?.since?;
        // In other zones that day ends on the next one.
        (hour.day_of() > self.zone.next(since)).then_some(since)
    }

    /// A pack of this sender may be taken; with whose key it was signed.
    pub(super) fn taken(&self, name: &str, from: &str, key: Option<&Key>) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let Inner { senders, changed, .. } = &mut *inner;
        let mended = |d: &Denied| !d.mended && d.from == from && (d.name == name || d.name.is_empty());
        for d in senders.denied.iter_mut().filter(|d| mended(d)) {
            (d.mended, *changed) = (true, true);
        }
        let Some(key) = key else { return };
        // Looked up first: this is done for each pack.
        if !senders.signing.contains_key(&key.name) {
            senders.signing.insert(key.name.clone(), Signing::default());
        }
        let Some(signing) = senders.signing.get_mut(&key.name) else { return };
        let host = super::host_of(name);
        if signing.since.is_none() && host == key.name {
            (signing.since, *changed) = (Some(self.zone.day_at(now_ms)), true);
        }
        match signing.keys.get_mut(&key.id) {
            Some(at) if now_ms.saturating_sub(*at).saturating_abs() < USED_MS => {}
            Some(at) => (*at, *changed) = (now_ms, true),
            None => {
                signing.keys.insert(key.id.clone(), now_ms);
                *changed = true;
            }
        }
    }

    /// A pack of this sender may be taken, and nobody asks for a signature.
    pub fn taken_unasked(&self, name: &str, from: &str) {
        self.taken(name, from, None);
    }

    /// A pack was denied, or with an empty name a connection closed.
    pub fn denied(&self, name: &str, from: &str, why: &str) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let Inner { senders, changed, .. } = &mut *inner;
        *changed = true;
        let reason: String = why.chars().take(REASON_MAX).collect();
        if let Some(d) = senders.denied.iter_mut().find(|d| d.name == name && d.from == from) {
            if d.mended {
                (d.count, d.first_ms, d.mended) = (0, now_ms, false);
            }
            (d.count, d.last_ms, d.reason) = (d.count.saturating_add(1), now_ms, reason);
            return;
        }
        senders.make_room(now_ms);
        senders.denied.push(Denied {
            name: name.to_owned(),
            from: from.to_owned(),
            reason,
            count: 1,
            first_ms: now_ms,
            last_ms: now_ms,
            mended: false,
        });
    }

    /// Writes the file if something changed; `last` = however shortly ago it was written.
    pub fn save(&self, last: bool) -> disk::Result<()> {
        let now = self.clock.mono_ms();
        let bytes = {
            let mut inner = self.lock();
            let due = inner.saved_ms == 0 || now.saturating_sub(inner.saved_ms) >= SAVE_MS || last;
            if !inner.changed || !due {
                return Ok(());
            }
            (inner.changed, inner.saved_ms) = (false, now.max(1));
            record::to_json(&inner.senders)
        };
        let written = self.disk.replace(&self.path, &bytes, 0o640);
        if written.is_err() {
            self.lock().changed = true;
        }
        match written {
            // There will be room again; packs are what counts.
            Err(e) if e.no_space() => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;

    const DIR: &str = "/state";
    /// Noon of 22 November 2026, in UTC.
    const NOON: i64 = 1_795_348_800_000;

    fn world() -> (Disk, Clock, SimClock, Zone) {
        let (disk, _) = Disk::sim(1);
        disk.create_dir_all(Path::new(DIR), 0o750).unwrap();
        let (clock, handle) = Clock::sim(NOON);
        (disk, clock, handle, Zone::named("UTC").unwrap())
    }

    fn keys(of: &[(&str, &str)]) -> HashMap<String, Key> {
        let key = |(name, id): &(&str, &str)| {
            let key = Key { name: (*name).into(), id: (*id).into(), secret: [7; 32], scope: Vec::new() };
            ((*id).to_owned(), key)
        };
        of.iter().map(key).collect()
    }

    fn open(w: &(Disk, Clock, SimClock, Zone), keys: &HashMap<String, Key>) -> Memory {
        let (memory, alarm) = Memory::with_keys(&w.0, &w.1, &w.3, Path::new(DIR), keys).unwrap();
        assert_eq!(alarm, None);
        memory
    }

    fn read(w: &(Disk, Clock, SimClock, Zone)) -> Senders {
        Senders::load(&w.0, Path::new(DIR)).unwrap().unwrap().unwrap()
    }

    #[test]
    fn from_the_second_day_after_its_first_signed_pack_a_host_must_sign() {
        let w = world();
        let all = keys(&[("web1", "w1"), ("gate", "g1")]);
        let memory = open(&w, &all);
        let must = |m: &Memory, host: &str, at: &str| m.must_be_signed(host, Hour::parse(at).unwrap());
        assert_eq!(must(&memory, "web1", "2026112500"), None);
        // Who sends for another has not that one's key.
        memory.taken("web1", "1.2.3.4", Some(&all["g1"]));
        assert_eq!(must(&memory, "web1", "2026112500"), None);
        memory.taken("web1+access", "1.2.3.4", Some(&all["w1"]));
        memory.taken("web1", "1.2.3.4", None);
        let since = Hour::parse("20261122");
        memory.save(true).unwrap();
        w.2.advance(9 * 24 * 3_600_000);
        for memory in [memory, open(&w, &all)] {
            memory.taken("web1", "1.2.3.4", Some(&all["w1"]));
            for (at, wanted) in [
                ("2026112111", None),
                ("2026112323", None),
                ("20261123", None),
                ("2026112400", since),
                ("20261124", since),
            ] {
                assert_eq!(must(&memory, "web1", at), wanted, "{at}");
            }
            assert_eq!(must(&memory, "gate", "2026112500"), None);
        }
        // Who has no key any more is as any other, also after a restart.
        let memory = open(&w, &all);
        memory.refreshed(Ok(&keys(&[("gate", "g1")])));
        assert_eq!(must(&memory, "web1", "2026112500"), None);
        memory.save(true).unwrap();
        assert_eq!(must(&open(&w, &all), "web1", "2026112500"), None);
    }

    #[test]
    fn a_damaged_file_is_told_and_begun_anew() {
        let w = world();
        let all = keys(&[("web1", "w1")]);
        let memory = open(&w, &all);
        memory.taken("web1", "1.2.3.4", Some(&all["w1"]));
        memory.save(true).unwrap();
        let path = Path::new(DIR).join(FILE);
        let good = w.0.read(&path, FILE_MAX).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 2;
            w.0.replace(&path, &bad, 0o640).unwrap();
            let (_, alarm) = Memory::with_keys(&w.0, &w.1, &w.3, Path::new(DIR), &all).unwrap();
            assert!(alarm.is_none_or(|a| a.contains("senders.json") && a.contains("begun anew")), "{at}");
        }
    }

    /// The story: it ended the start.
    #[test]
    fn what_is_no_file_is_set_aside_and_told() {
        let w = world();
        let (all, path) = (keys(&[("web1", "w1")]), Path::new(DIR).join(FILE));
        for to in ["senders.json.bad", "senders.json.bad.bad"] {
            w.0.remove(&path).unwrap();
            w.0.create_dir_all(&path, 0o750).unwrap();
            let (memory, alarm) = Memory::with_keys(&w.0, &w.1, &w.3, Path::new(DIR), &all).unwrap();
            let alarm = alarm.unwrap();
            assert!(alarm.contains(&format!("moved to {DIR}/{to};")), "{alarm}");
            memory.taken("web1", "1.2.3.4", Some(&all["w1"]));
            memory.save(true).unwrap();
            assert_eq!(read(&w).signing.len(), 1);
            assert!(w.0.stat(&Path::new(DIR).join(to)).unwrap().is_some_and(|s| !s.is_file));
        }
    }

    #[test]
    fn uses_and_refusals_are_noted_and_mended() {
        let w = world();
        let all = keys(&[("web1", "w1"), ("web1", "w2")]);
        let memory = open(&w, &all);
        memory.taken("web1", "1.2.3.4", Some(&all["w1"]));
        memory.denied("web1", "1.2.3.4", &"x".repeat(9_999));
        memory.denied("web1", "9.9.9.9", "why");
        memory.denied("web1", "9.9.9.9", "why now");
        memory.save(false).unwrap();
        let file = read(&w);
        assert_eq!(file.signing["web1"].keys, [("w1".to_owned(), NOON)].into());
        assert_eq!(file.denied[0].reason.len(), REASON_MAX);
        assert_eq!((file.denied[1].count, file.denied[1].reason.as_str()), (2, "why now"));
        // Within the minute nothing is written for another use.
        w.2.advance(30_000);
        memory.taken("web1", "8.8.8.8", Some(&all["w1"]));
        memory.save(true).unwrap();
        assert_eq!(read(&w), file);
        memory.taken("web1", "9.9.9.9", Some(&all["w2"]));
        memory.save(true).unwrap();
        let file = read(&w);
        assert_eq!(file.signing["web1"].keys["w2"], NOON + 30_000);
        assert_eq!(file.denied.iter().map(|d| d.mended).collect::<Vec<_>>(), [false, true]);
        memory.refreshed(Err("broken"));
        memory.save(true).unwrap();
        assert_eq!(read(&w).keys_error, "broken");
    }

    /// A stranger that makes up names pushes out refusals of its own only.
    #[test]
    fn refusals_are_bounded_and_whoever_has_most_makes_room() {
        let w = world();
        let memory = open(&w, &keys(&[("web1", "w1")]));
        memory.denied("web1", "1.2.3.4", "its key is old");
        for n in 0..1_000 {
            w.2.advance(1);
            memory.denied(&format!("x{n}"), "6.6.6.6", "no key");
        }
        memory.save(true).unwrap();
        let Senders { denied, denied_more, .. } = read(&w);
        assert_eq!((denied.len(), denied_more), (DENIED_MAX, 1_001 - DENIED_MAX as u64));
        assert!(denied.iter().any(|d| d.from == "1.2.3.4") && denied.iter().any(|d| d.name == "x999"));
        w.2.advance(u64::try_from(FORGET_MS).unwrap() + 1);
        memory.denied("web2", "1.2.3.4", "why");
        w.2.advance(SAVE_MS);
        memory.save(false).unwrap();
        // What is old goes when there is something new to be told.
        assert_eq!((read(&w).denied.len(), read(&w).denied_more), (1, 0));
    }

    #[test]
    fn a_full_disk_stops_nothing_and_it_is_written_later() {
        let (disk, sim) = Disk::sim(1);
        disk.create_dir_all(Path::new(DIR), 0o750).unwrap();
        let (clock, handle) = Clock::sim(NOON);
        let w = (disk, clock, handle, Zone::named("UTC").unwrap());
        let memory = open(&w, &keys(&[("web1", "w1")]));
        sim.set_capacity(Some(0));
        memory.denied("web1", "1.2.3.4", "why");
        memory.save(true).unwrap();
        assert_eq!(Senders::load(&w.0, Path::new(DIR)).unwrap(), None);
        sim.set_capacity(None);
        w.2.advance(2 * SAVE_MS);
        memory.save(false).unwrap();
        assert_eq!(read(&w).denied.len(), 1);
    }
}
