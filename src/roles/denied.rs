//! What the next receiver denies: counted for `logd status`, and told in the log once and not for each attempt.
//!
//! `denied.json` in the state directory of a follower or a relay. It exists while somebody's packs are denied; losing it loses
//! nothing. A pack that is denied stays where it is, so all of this is only telling.

use crate::disk::{self, Disk};
use crate::log::count;
use crate::pack;
use crate::record;
use crate::sender::{Fail, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FILE: &str = "denied.json";
const FILE_MAX: u64 = 256 << 10;
/// Senders that are told, by address.
const NAMES_MAX: usize = 64;
/// Characters of a reason that are kept.
const REASON_MAX: usize = 500;
/// Packs that are counted; what is denied beyond them is told as "at least".
const PACKS_MAX: usize = 10_000;
/// The same is written again, to the log and to the file, after this time in ms.
const AGAIN_MS: i64 = 10 * 60 * 1000;
const UPDATE_MS: i64 = 60 * 1000;
/// Something new is written at once, but not more often than this, in ms.
const NEWS_MS: i64 = 1_000;
/// A receiver that says `busy` to everything for so long is told; for a moment each of them does.
const BUSY_MS: i64 = 5_000;

/// Packs of one sender that one address denies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The sender.
    pub name: String,
    /// The address that denies them.
    pub to: String,
    /// Which pack it was last.
    pub pack: String,
    /// What was answered.
    pub reason: String,
    /// Packs that wait because of it, those that are held aside not among them.
    pub packs: usize,
    /// Since when (unix milliseconds).
    pub since_ms: i64,
    /// When it was answered last.
    pub last_ms: i64,
}

/// An address at which nothing is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// The address.
    pub to: String,
    /// What the last attempt came to.
    pub reason: String,
    /// Since when no attempt has come further (unix milliseconds).
    pub since_ms: i64,
    /// The last attempt.
    pub last_ms: i64,
    /// It is worth being told.
    #[serde(skip)]
    told: bool,
}

/// What the file holds.
#[derive(Default, Serialize, Deserialize)]
pub struct File {
    format: u32,
    /// Senders whose packs are denied.
    pub denied: Vec<Denied>,
    /// How many others they have pushed out since there was room.
    #[serde(default)]
    pub denied_more: u64,
    /// Addresses that take nothing.
    #[serde(default)]
    pub failing: Vec<Failing>,
}

/// Reads the file; nothing if it is not there, or says nothing that can be believed.
pub fn load(disk: &Disk, state_dir: &Path) -> disk::Result<File> {
    let bytes = disk.read_opt(&state_dir.join(FILE), FILE_MAX)?;
    let file = bytes.and_then(|b| record::from_json::<File>(&b).ok()).filter(|f| f.format == 1);
    Ok(file.unwrap_or_default())
}

fn ended(name: &str, to: &str) -> String {
    format!("sending to {to}: packs of {name} are not denied any more")
}

struct Entry {
    told: Denied,
    /// Numbers of the packs.
    packs: BTreeSet<u64>,
    /// One of this sender's was taken since the last one was denied.
    taken: bool,
    logged_ms: i64,
}

/// See the module's header.
pub struct Denials {
    path: PathBuf,
    entries: Vec<Entry>,
    failing: Vec<Failing>,
    more: u64,
    /// Something began or ended since the file was written.
    news: bool,
    /// A number changed since then.
    updated: bool,
    saved_ms: i64,
    /// Sentences for the log, of what went well.
    pub said: Vec<String>,
}

impl Denials {
    /// Goes on where the last run ended, so that `since` stays true.
    pub fn open(disk: &Disk, state_dir: &Path) -> Self {
        let before = load(disk, state_dir).unwrap_or_default();
        let entry = |told| Entry { told, packs: BTreeSet::new(), taken: false, logged_ms: i64::MIN };
        Self {
            path: state_dir.join(FILE),
            entries: before.denied.into_iter().take(NAMES_MAX).map(entry).collect(),
            // What was between two runs is no attempt; who was killed could not take it back.
            news: !before.failing.is_empty(),
            failing: Vec::new(),
            more: before.denied_more,
            updated: false,
            saved_ms: i64::MIN,
            said: Vec::new(),
        }
    }

    /// Takes what became of a pack that was sent to an address; a sentence for the log, with `true` if it is a good one.
    pub fn note(
        &mut self,
        number: u64,
        frame: &[u8],
        to: &str,
        outcome: &Outcome,
        now_ms: i64,
    ) -> Option<(bool, String)> {
        self.way(to, outcome, now_ms);
        match outcome {
            Outcome::TempFail { how: Fail::Denied, reason } => {
                self.denied(number, frame, to, reason, now_ms).map(|text| (false, text))
            }
            Outcome::Sent if !self.entries.is_empty() => {
                self.taken(number, frame, to).map(|text| (true, text))
            }
            _ => None,
        }
    }

    /// Whether anything gets through to an address; an attempt to reach it tells, too.
    pub fn way(&mut self, to: &str, outcome: &Outcome, now_ms: i64) {
        let at = self.failing.iter().position(|f| f.to == to);
        let (reason, at_once) = match outcome {
            Outcome::TempFail { how: Fail::NoConnection | Fail::NoAnswer, reason } => (reason, true),
            // Nothing more comes through there either, if that is all that it says.
            Outcome::TempFail { how: Fail::Answered, reason } => (reason, false),
            // Whoever answers anything else is reached.
            _ => {
                if let Some(at) = at {
                    self.news |= self.failing.swap_remove(at).told;
                }
                return;
            }
        };
        let reason: String = reason.chars().take(REASON_MAX).collect();
        let at = at.unwrap_or(self.failing.len());
        if at == self.failing.len() {
            if at >= NAMES_MAX {
                return;
            }
            let (to, reason) = (to.to_owned(), reason.clone());
            self.failing.push(Failing { to, reason, since_ms: now_ms, last_ms: now_ms, told: false });
        }
        let Some(failing) = self.failing.get_mut(at) else { return };
        let told = failing.told || at_once || now_ms.saturating_sub(failing.since_ms) >= BUSY_MS;
        self.news |= told && (!failing.told || failing.reason != reason);
        self.updated |= told;
        (failing.reason, failing.last_ms, failing.told) = (reason, now_ms, told);
    }

    fn denied(&mut self, number: u64, frame: &[u8], to: &str, reason: &str, now_ms: i64) -> Option<String> {
        let meta = pack::peek(frame)?;
        let counted: usize = self.entries.iter().map(|e| e.packs.len()).sum();
        let name = &meta.key.name;
        let known = self.entries.iter().position(|e| e.told.name == *name && e.told.to == to);
        let at = if let Some(at) = known { at } else { self.begin(name, to, now_ms) };
        let entry = self.entries.get_mut(at)?;
        if counted < PACKS_MAX {
            entry.packs.insert(number);
        }
        self.updated = true;
        entry.taken = false;
        let told = &mut entry.told;
        (told.pack, told.reason) = (meta.label(), reason.to_owned());
        (told.packs, told.last_ms) = (entry.packs.len(), now_ms);
        if now_ms.saturating_sub(entry.logged_ms) < AGAIN_MS {
            return None;
        }
        entry.logged_ms = now_ms;
        let more = match told.packs {
            0 | 1 => String::new(),
            n => format!(" ({} of {name} so far)", count(n, "pack")),
        };
        Some(format!(
            "{}: sending to {to}: {reason}{more}; nothing is lost, trying again; the log there says why, logd-security(7) what to do",
            told.pack
        ))
    }

    /// Adds a sender; the one that was denied longest ago makes room.
    fn begin(&mut self, name: &str, to: &str, now_ms: i64) -> usize {
        let oldest = self.entries.iter().enumerate().min_by_key(|(_, e)| e.told.last_ms).map(|(at, _)| at);
        if let Some(oldest) = oldest.filter(|_| self.entries.len() >= NAMES_MAX) {
            self.entries.swap_remove(oldest);
            self.more = self.more.saturating_add(1);
        } else {
            self.more = 0;
        }
        self.news = true;
        self.entries.push(Entry {
            told: Denied {
                name: name.to_owned(),
                to: to.to_owned(),
                pack: String::new(),
                reason: String::new(),
                packs: 0,
                since_ms: now_ms,
                last_ms: now_ms,
            },
            packs: BTreeSet::new(),
            taken: false,
            logged_ms: i64::MIN,
        });
        self.entries.len().saturating_sub(1)
    }

    fn taken(&mut self, number: u64, frame: &[u8], to: &str) -> Option<String> {
        let name = pack::peek(frame)?.key.name;
        let at = self.entries.iter().position(|e| e.told.name == name && e.told.to == to)?;
        let entry = self.entries.get_mut(at)?;
        self.updated |= entry.packs.remove(&number);
        entry.told.packs = entry.packs.len();
        entry.taken = true;
        if !entry.packs.is_empty() {
            return None;
        }
        self.entries.swap_remove(at);
        self.news = true;
        Some(ended(&name, to))
    }

    /// Writes the file if that is due; `waits` says whether a pack is still in the queue.
    pub fn save(&mut self, disk: &Disk, now_ms: i64, waits: impl Fn(u64) -> bool) -> disk::Result<()> {
        let since = now_ms.saturating_sub(self.saved_ms);
        // A clock that was put back must not stop it.
        let due = |ms: i64| since >= ms || since < 0;
        let taken = self.entries.iter().any(|e| e.taken);
        if !((self.news || taken) && due(NEWS_MS) || self.updated && due(UPDATE_MS)) {
            return Ok(());
        }
        for entry in &mut self.entries {
            entry.packs.retain(|n| waits(*n));
            entry.told.packs = entry.packs.len();
        }
        // Those that were held aside came back under other numbers.
        let (ends, told) = (&mut self.news, &mut self.said);
        self.entries.retain(|e| {
            let end = e.taken && e.packs.is_empty();
            if end {
                *ends = true;
                told.push(ended(&e.told.name, &e.told.to));
            }
            !end
        });
        if !self.news && !self.updated {
            self.saved_ms = now_ms;
            return Ok(());
        }
        self.write(disk, now_ms)
    }

    /// Writes the file if anything changed: the role stops.
    pub fn close(&mut self, disk: &Disk, now_ms: i64) -> disk::Result<()> {
        // Nothing is tried any more.
        self.news |= self.failing.iter().any(|f| f.told);
        self.failing.clear();
        if self.news || self.updated { self.write(disk, now_ms) } else { Ok(()) }
    }

    fn write(&mut self, disk: &Disk, now_ms: i64) -> disk::Result<()> {
        let failing: Vec<Failing> = self.failing.iter().filter(|f| f.told).cloned().collect();
        let written = if self.entries.is_empty() && failing.is_empty() {
            match disk.remove(&self.path) {
                Err(e) if !e.not_found() => Err(e),
                _ => Ok(()),
            }
        } else {
            let file = File {
                format: 1,
                denied: self.entries.iter().map(|e| e.told.clone()).collect(),
                denied_more: self.more,
                failing,
            };
            disk.replace(&self.path, &record::to_json(&file), 0o640)
        };
        self.saved_ms = now_ms;
        match written {
            // There will be room again; packs are what counts.
            Err(e) if e.no_space() => Ok(()),
            other => {
                (self.news, self.updated) = (false, false);
                other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{Encoder, HourKey, Meta, Seal};
    use crate::roles::follower::{Job, Load};

    fn frame_of(hour: &str, id: u64) -> Vec<u8> {
        let raw = b"line\n".to_vec();
        let meta = Meta {
            key: HourKey::parse(hour).unwrap(),
            generation: 0,
            id,
            lines: 1,
            done: false,
            repull: false,
            seal: Some(Seal::of(&raw)),
            totals: None,
            state: String::new(),
            loss: String::new(),
            day_hours: 0,
            clock: false,
        };
        let mut frame = Vec::new();
        Job { number: 1, load: Load::Raw(Box::new(meta), raw) }.frame(
            &mut Encoder::new(6),
            None,
            "now",
            &mut frame,
        );
        frame
    }

    #[test]
    fn denied_packs_are_counted_told_once_and_forgotten_when_they_are_taken() {
        let (disk, _) = Disk::sim(1);
        let dir = Path::new("/state");
        disk.create_dir_all(dir, 0o750).unwrap();
        let denied = Outcome::TempFail { reason: "the receiver says `denied`".into(), how: Fail::Denied };
        let mut watch = Denials::open(&disk, dir);
        let mut said = Vec::new();
        for (now, id) in (0..).zip([1, 2, 3, 3, 3]) {
            said.extend(watch.note(id, &frame_of("web1+a_2026112205", id), "c:1", &denied, now));
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            !said[0].0 && said[0].1.starts_with("web1+a_2026112205 pack 1: sending to c:1: "),
            "{said:?}"
        );
        watch.save(&disk, 10, |_| true).unwrap();
        let file = load(&disk, dir).unwrap().denied;
        assert_eq!((file.len(), file[0].packs, file[0].since_ms, file[0].last_ms), (1, 3, 0, 4));
        assert_eq!((file[0].name.as_str(), file[0].pack.as_str()), ("web1+a", "web1+a_2026112205 pack 3"));

        // A restart keeps the time; what is not in the queue any more is not counted.
        let mut watch = Denials::open(&disk, dir);
        assert!(watch.note(9, &frame_of("web1+a_2026112205", 1), "c:1", &denied, 700_000).is_some());
        watch.note(8, &frame_of("web1+a_2026112205", 2), "c:1", &denied, 700_001);
        watch.save(&disk, 800_000, |n| n == 9).unwrap();
        assert_eq!(
            (load(&disk, dir).unwrap().denied[0].packs, load(&disk, dir).unwrap().denied[0].since_ms),
            (1, 0)
        );
        assert!(watch.note(7, &frame_of("web2_2026112205", 1), "c:1", &Outcome::Sent, 0).is_none());
        let (good, text) =
            watch.note(9, &frame_of("web1+a_2026112205", 1), "c:1", &Outcome::Sent, 0).unwrap();
        assert!(good && text.contains("web1+a are not denied any more"), "{text}");
        watch.save(&disk, 900_000, |_| true).unwrap();
        assert!(load(&disk, dir).unwrap().denied.is_empty());
        assert!(disk.stat(&dir.join(FILE)).unwrap().is_none());
    }

    /// What is held aside comes back under another number.
    #[test]
    fn packs_that_went_aside_and_came_back_are_not_told_any_more() {
        let (disk, _) = Disk::sim(1);
        let dir = Path::new("/state");
        disk.create_dir_all(dir, 0o750).unwrap();
        let denied = Outcome::TempFail { reason: "denied".into(), how: Fail::Denied };
        let mut watch = Denials::open(&disk, dir);
        let frame = frame_of("web1_2026112205", 1);
        watch.note(1, &frame, "c:1", &denied, 0);
        watch.save(&disk, 0, |_| true).unwrap();
        // Another of its packs is taken, while the first one still waits, and when it is aside.
        for (now, waits, left) in [(2_000, true, 1), (4_000, false, 0)] {
            assert!(watch.note(2, &frame, "c:1", &Outcome::Sent, now).is_none());
            watch.save(&disk, now, |_| waits).unwrap();
            assert_eq!((load(&disk, dir).unwrap().denied.len(), watch.said.len()), (left, 1 - left));
        }
    }

    #[test]
    fn however_many_are_denied_it_is_bounded() {
        let (disk, _) = Disk::sim(1);
        let denied = Outcome::TempFail { reason: "denied".into(), how: Fail::Denied };
        let mut watch = Denials::open(&disk, Path::new("/state"));
        for (n, now) in (0..300).zip(0..) {
            watch.note(n, &frame_of(&format!("web{n}_2026112205"), 1), "c:1", &denied, now);
        }
        assert_eq!((watch.entries.len(), watch.more), (NAMES_MAX, 300 - NAMES_MAX as u64));
        let frame = frame_of("web299_2026112205", 1);
        for n in 0..2 * PACKS_MAX as u64 {
            watch.note(n, &frame, "c:1", &denied, 300);
        }
        assert!(watch.entries.iter().map(|e| e.packs.len()).sum::<usize>() <= PACKS_MAX);
    }

    #[test]
    fn where_nothing_gets_through_is_told_until_something_does() {
        let (disk, _) = Disk::sim(1);
        let dir = Path::new("/state");
        disk.create_dir_all(dir, 0o750).unwrap();
        let frame = frame_of("web1_2026112205", 1);
        let fails = |why: &str| Outcome::TempFail { reason: why.into(), how: Fail::NoConnection };
        let mut watch = Denials::open(&disk, dir);
        for (now, why) in [(5, "refused"), (9, "expired")] {
            assert!(watch.note(1, &frame, "c:1", &fails(why), now).is_none());
        }
        watch.way("d:1", &fails("no route"), 9);
        watch.save(&disk, 10, |_| true).unwrap();
        let told = load(&disk, dir).unwrap().failing;
        assert_eq!((told.len(), told[0].since_ms, told[0].reason.as_str()), (2, 5, "expired"));
        let denied = Outcome::TempFail { reason: "denied".into(), how: Fail::Denied };
        watch.note(1, &frame, "c:1", &denied, 20);
        watch.note(1, &frame, "c:1", &Outcome::Sent, 20);
        watch.way("d:1", &Outcome::Sent, 20);
        watch.save(&disk, 2_000, |_| true).unwrap();
        assert!(disk.stat(&dir.join(FILE)).unwrap().is_none());
        // A stopped role tries nothing.
        watch.way("d:1", &fails("no route"), 2_000);
        watch.close(&disk, 2_000).unwrap();
        assert!(load(&disk, dir).unwrap().failing.is_empty());
        // One that is killed could not take it back; the next one has not tried yet.
        watch.way("d:1", &fails("no route"), 3_000);
        watch.save(&disk, 4_000, |_| true).unwrap();
        assert_eq!(load(&disk, dir).unwrap().failing.len(), 1);
        Denials::open(&disk, dir).save(&disk, 5_000, |_| true).unwrap();
        assert!(load(&disk, dir).unwrap().failing.is_empty());
    }

    /// The story: packs waited for a receiver with a full disk, and the status of their host said nothing of it.
    #[test]
    fn a_receiver_that_is_busy_for_long_is_told_until_it_takes_something() {
        let (disk, _) = Disk::sim(1);
        let dir = Path::new("/state");
        disk.create_dir_all(dir, 0o750).unwrap();
        let busy = Outcome::TempFail { reason: "the receiver says `busy`".into(), how: Fail::Answered };
        let mut watch = Denials::open(&disk, dir);
        let mut told = |outcome: &Outcome, now: i64| {
            watch.way("c:1", outcome, now);
            watch.save(&disk, now, |_| true).unwrap();
            load(&disk, dir).unwrap().failing.first().map(|f| (f.since_ms, f.last_ms))
        };
        // For a moment it may be; each pack that is taken ends that.
        for now in [0, 4_000, 8_000] {
            assert_eq!((told(&busy, now), told(&busy, now + 3_000)), (None, None));
            assert_eq!(told(&Outcome::Sent, now + 3_500), None);
        }
        assert_eq!(told(&busy, 20_000), None);
        assert_eq!(told(&busy, 20_000 + BUSY_MS), Some((20_000, 25_000)));
        assert_eq!(told(&Outcome::Sent, 30_000), None);
    }
}
