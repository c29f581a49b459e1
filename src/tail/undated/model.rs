//! Random rotation, restarts, crashes and clocks against a model of what must arrive.
//!
//! The model knows every byte that was written: to which file, at which place, and when. A pack must be bytes of one
//! file, at the place that its cut tells, and no byte may come twice. In the end each byte was sent, or told as lost, or
//! it was in a file that nobody can have seen (the windows that the module's header names).

use super::Sealed;
use super::rotated::History;
use super::tests::{BERLIN, LOG, Rig};
use crate::clock::Hour;
use crate::disk::sim::{Fault, Outcome, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// How long a writer goes on with a file that was renamed, in ms.
const SLOW_MS: i64 = 40_000;
/// How far the hour in which a byte is sent may be from the moment when it was written, in ms: rotation makes new files
/// wait, and the clock is put forth and back.
const NEAR_MS: i64 = 300_000;

/// A mistake that the model makes, to see whether it would be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    PackForgotten,
    PackTwice,
    PositionWrong,
    HourWrong,
}

/// What was written to one file since it was made or emptied.
#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    written_ms: Vec<i64>,
    sent: Vec<bool>,
    excused: Vec<bool>,
    /// The rest of a line that was begun.
    rest: String,
    /// Nobody need read it, now or later.
    ignored: bool,
    /// The follower had it open.
    seen: bool,
    /// Its length at the last look.
    seen_len: usize,
}

/// A sent pack's hour and when its bytes were written.
struct Dated {
    hour: Hour,
    from_ms: i64,
    to_ms: i64,
}

struct Model {
    rig: Rig,
    rng: Rng,
    contents: Vec<Content>,
    /// What stands under a name, and how much of it; a copy does not grow.
    names: BTreeMap<String, (usize, usize)>,
    slow: Option<(String, i64)>,
    lines: u64,
    current: Option<usize>,
    up: bool,
    ids: BTreeMap<Hour, u64>,
    done: BTreeSet<Hour>,
    losses: BTreeMap<Hour, usize>,
    ranges: Vec<(usize, usize)>,
    dated: Vec<Dated>,
    /// Bytes that were sent before.
    twice: Vec<(Hour, String)>,
    /// When it looked, and what was the file that it read was known.
    looks: Vec<i64>,
    /// It was started, and has nothing to go on from.
    fresh: bool,
    /// There is little room.
    lagging: bool,
    mistake: Option<Mistake>,
    trace: Vec<String>,
}

impl Content {
    fn ignore(&mut self, from: usize) {
        self.excused[from..].fill(true);
        self.ignored = true;
    }
}

type Check = Result<(), String>;

impl Model {
    fn new(seed: u64, mistake: Option<Mistake>) -> Self {
        let mut rng = Rng::new(seed);
        let (zone, hour) = match rng.below(4) {
            0 => (BERLIN, "2026102501"),
            1 => (BERLIN, "2026032901"),
            _ => ("UTC", "2026112204"),
        };
        let mut rig = Rig::new(zone, hour);
        rig.conf.packer.pack_bytes = 200;
        rig.conf.packer.max_line = 400;
        let lagging = rng.chance(20);
        if lagging {
            rig.room = (500, 1 + rng.below(3) as usize);
        }
        let (contents, names) = (Vec::new(), BTreeMap::new());
        let mut me = Self {
            rig,
            rng,
            contents,
            names,
            slow: None,
            lines: 0,
            current: None,
            up: false,
            ids: BTreeMap::new(),
            done: BTreeSet::new(),
            losses: BTreeMap::new(),
            ranges: Vec::new(),
            dated: Vec::new(),
            twice: Vec::new(),
            looks: Vec::new(),
            fresh: false,
            lagging,
            mistake,
            trace: Vec::new(),
        };
        me.create();
        me
    }

    // ---- the writer and its rotation -------------------------------------------------------------------------

    fn create(&mut self) {
        if !self.names.contains_key(LOG) {
            self.rig.write(LOG, "");
            self.names.insert(LOG.into(), (self.contents.len(), usize::MAX));
            self.contents.push(Content::default());
        }
    }

    fn write(&mut self, name: &str) {
        let Some(&(content, usize::MAX)) = self.names.get(name) else { return };
        let now = self.rig.clock.now_ms();
        for _ in 0..=self.rng.below(4) {
            let c = &mut self.contents[content];
            let mut line = std::mem::take(&mut c.rest);
            if line.is_empty() {
                self.lines += 1;
                // No two lines begin alike: what is known by its content must be told from all else.
                for _ in 0..8 + self.rng.below(40) {
                    line.push(char::from(b'a' + self.rng.below(26) as u8));
                }
                let _ = writeln!(line, "{:05}", self.lines);
            }
            if self.rng.chance(20) && line.len() > 12 {
                c.rest = line.split_off(4 + self.rng.below(line.len() as u64 - 8) as usize);
            }
            c.bytes.extend_from_slice(line.as_bytes());
            c.written_ms.resize(c.bytes.len(), now);
            c.sent.resize(c.bytes.len(), false);
            c.excused.resize(c.bytes.len(), c.ignored);
            self.rig.write(name, &line);
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let Some(what) = self.names.remove(from) else { return };
        self.rig.mv(from, to);
        self.names.insert(to.into(), what);
        if let Some(slow) = self.slow.as_mut().filter(|s| s.0 == from) {
            to.clone_into(&mut slow.0);
        }
    }

    fn remove(&mut self, name: &str) {
        if self.names.remove(name).is_some() {
            self.rig.rm(name);
        }
    }

    /// Makes room for a rotated file and says its name.
    fn rotated(&mut self) -> String {
        match self.rng.below(3) {
            0 => format!("/log/access.log-20261122{:03}", self.lines),
            1 => format!("/log/access-20261122{:03}.log", self.lines),
            _ => {
                for n in (1..6).rev() {
                    for end in ["", ".gz"] {
                        if n == 5 {
                            self.remove(&format!("{LOG}.5{end}"));
                        } else {
                            self.rename(&format!("{LOG}.{n}{end}"), &format!("{LOG}.{}{end}", n + 1));
                        }
                    }
                }
                format!("{LOG}.1")
            }
        }
    }

    fn rotate(&mut self) {
        if !self.names.contains_key(LOG) {
            return self.create();
        }
        let to = self.rotated();
        if self.names.contains_key(&to) || self.names.contains_key(&format!("{to}.gz")) {
            return;
        }
        self.rename(LOG, &to);
        self.slow = Some((to, self.rig.clock.now_ms() + SLOW_MS));
        if self.rng.chance(80) {
            self.create();
        }
    }

    fn copytruncate(&mut self, copy: bool) -> Check {
        let Some(&(content, usize::MAX)) = self.names.get(LOG) else { return Ok(()) };
        if copy {
            let to = self.rotated();
            if self.names.contains_key(&to) || self.names.contains_key(&format!("{to}.gz")) {
                return Ok(());
            }
            let len = self.contents[content].bytes.len();
            self.rig.write(&to, std::str::from_utf8(&self.contents[content].bytes.clone()).unwrap());
            self.names.insert(to, (content, len));
            // A copy that holds less than the first pack cannot be told from another file.
            if self.rng.chance(30) && self.contents[content].sent.first() == Some(&true) {
                self.write(LOG);
                if self.rng.chance(50) {
                    self.look()?;
                }
            }
        }
        self.rig.sim.put(Path::new(LOG), b"");
        self.names.insert(LOG.into(), (self.contents.len(), usize::MAX));
        self.contents.push(Content::default());
        // Nobody has seen what came after the last look.
        let alive = self.alive(content);
        let c = &mut self.contents[content];
        let from = c.seen_len.max(alive).min(c.bytes.len());
        c.excused[from..].fill(true);
        if self.up && c.seen_len == 0 {
            // Nobody knows that it was anything but empty.
            c.ignore(0);
        }
        Ok(())
    }

    fn gz(&mut self) {
        let plain = |n: &&String| n.as_str() != LOG && Path::new(n).extension().is_none_or(|e| e != "gz");
        let names: Vec<String> = self.names.keys().filter(plain).cloned().collect();
        let Some(name) = names.get(self.rng.below(names.len() as u64) as usize) else { return };
        let (content, len) = self.names.remove(name).unwrap();
        self.rig.gz(name);
        let len = len.min(self.contents[content].bytes.len());
        self.names.insert(format!("{name}.gz"), (content, len));
    }

    // ---- the follower ----------------------------------------------------------------------------------------

    /// So many bytes of it stand in some file.
    fn alive(&self, content: usize) -> usize {
        let lens = self.names.values().filter(|(c, _)| *c == content).map(|(_, len)| *len);
        lens.max().unwrap_or(0).min(self.contents[content].bytes.len())
    }

    /// Files that are gone, with nobody who had them open, are no duty of anybody; but that of the one that was being
    /// read last is, because its end is missed.
    fn bury(&mut self) {
        for i in 0..self.contents.len() {
            let alive = self.alive(i);
            // Of the last one a copy may be left, made before its last lines.
            let known = if self.up { self.contents[i].seen } else { self.current == Some(i) && alive == 0 };
            if !known {
                self.contents[i].excused[alive..].fill(true);
            }
        }
    }

    fn start(&mut self) -> Check {
        if self.up {
            return Ok(());
        }
        self.rig.start();
        self.up = true;
        self.absorb()?;
        self.fresh = History::of(self.rig.journal.as_ref().unwrap(), "web1").unwrap().is_empty();
        Ok(())
    }

    /// Nothing was ever sent: it begins with what is there at the first look.
    fn begin(&mut self) {
        if std::mem::take(&mut self.fresh) {
            let now = self.names.get(LOG).map(|(c, _)| *c);
            let others = self.contents.iter_mut().enumerate().filter(|(i, _)| Some(*i) != now);
            others.for_each(|(_, c)| c.ignore(0));
        }
        if let Some(&(content, _)) = self.names.get(LOG) {
            self.contents[content].seen = true;
            self.contents[content].seen_len = self.contents[content].bytes.len();
        }
    }

    fn stop(&mut self) {
        if self.up {
            let outcome = match self.rng.below(3) {
                0 => Outcome::Killed,
                1 => Outcome::KeepAll,
                _ => Outcome::LoseUnsynced,
            };
            self.rig.stop(outcome);
            self.up = false;
            self.bury();
            for c in &mut self.contents {
                (c.seen, c.seen_len) = (false, 0);
            }
        }
    }

    fn look(&mut self) -> Check {
        if !self.up {
            return Ok(());
        }
        self.begin();
        let fresh = !self.rig.undated.as_ref().unwrap().settled;
        self.rig.look();
        let settled = self.rig.undated.as_ref().unwrap().settled;
        if settled {
            self.looks.push(self.rig.clock.now_ms());
        }
        self.fresh = fresh && !settled && self.current.is_none();
        self.absorb()
    }

    /// The machine stops in the middle of a look, or of the commit after it.
    fn crash(&mut self) -> Check {
        if !self.up {
            return Ok(());
        }
        self.begin();
        if self.rng.chance(50) {
            let at = self.rig.sim.calls() + 1 + self.rng.below(3);
            self.rig.sim.plan(at, Fault::Crash);
        }
        if self.rig.try_step().is_ok()
            && self.rng.chance(70)
            && self.rig.journal.as_mut().unwrap().commit().is_ok()
        {
            self.rig.sim.forget_plan();
            let pending = std::mem::take(&mut self.rig.pending);
            self.rig.packs.extend(pending);
            self.absorb()?;
        }
        self.rig.sim.forget_plan();
        self.stop();
        Ok(())
    }

    /// What a role does with hours that are closed and acknowledged.
    fn archive(&mut self) {
        if !self.up {
            return;
        }
        let journal = self.rig.journal.as_mut().unwrap();
        let undated = self.rig.undated.as_ref().unwrap();
        let done: Vec<_> =
            journal.hours().iter().filter(|(_, l)| l.is_done()).map(|(k, _)| k.clone()).collect();
        for key in done {
            assert!(!undated.is_reading(key.hour));
            journal.archive(&key).unwrap();
        }
        journal.commit().unwrap();
    }

    // ---- what must be -----------------------------------------------------------------------------------------

    fn absorb(&mut self) -> Check {
        self.excuse_losses()?;
        let mut packs = std::mem::take(&mut self.rig.packs);
        if self.mistake == Some(Mistake::PackForgotten)
            && self.lines > 10
            && packs.iter().any(|p| !p.raw.is_empty())
        {
            self.mistake = None;
            packs.retain(|p| p.raw.is_empty());
        }
        if self.mistake == Some(Mistake::PackTwice) && self.lines > 10 {
            let again = |p: &Sealed| Sealed { key: p.key.clone(), raw: p.raw.clone(), ..*p };
            packs = packs.iter().flat_map(|p| [again(p), again(p)]).collect();
        }
        for p in packs {
            let hour = p.key.hour;
            let id = self.ids.entry(hour).or_default();
            *id += 1;
            if p.id != *id && self.mistake.is_none() {
                return Err(format!("{hour} pack {} follows pack {}", p.id, *id - 1));
            }
            *id = p.id;
            if self.done.last().is_some_and(|last| hour <= *last) {
                return Err(format!("{hour} pack {}: hour {:?} is closed", p.id, self.done.last()));
            }
            let log = self.rig.log(&hour.to_string()).ok_or("no log")?;
            let cut = log.cut(p.id).ok_or("no cut")?;
            if !log.clock || cut.seal() != crate::pack::Seal::of(&p.raw) {
                return Err(format!("{hour} pack {} is not what its cut says", p.id));
            }
            if cut.done {
                self.done.insert(hour);
            }
            let (mut start, end) = (cut.start as usize, cut.end as usize);
            if self.mistake == Some(Mistake::PositionWrong) && start > 0 {
                start -= 1;
            }
            if p.raw.is_empty() {
                continue;
            }
            let same = |c: &Content| c.bytes.get(start..end) == Some(&p.raw);
            let fits: Vec<usize> = (0..self.contents.len()).filter(|i| same(&self.contents[*i])).collect();
            let text = String::from_utf8_lossy(&p.raw).into_owned();
            if fits.is_empty() {
                return Err(format!("{hour} pack {}: nobody wrote this to {start}: {text:?}", p.id));
            }
            // Some bytes of two files are equal: the one is meant that was sent up to there.
            let first = fits.iter().copied().find(|i| {
                let sent = &self.contents[*i].sent;
                start > 0 && sent[start - 1] && !sent[start]
            });
            let fresh =
                first.into_iter().chain(fits).find(|i| self.contents[*i].sent[start..end].iter().all(|s| !s));
            let Some(i) = fresh else {
                // Only in an hour that says that something is wrong with it; that is looked at in the end.
                self.trace.push(format!("  sent {hour} {} = twice {start}-{end}", p.id));
                self.twice.push((hour, format!("pack {}: twice: {start}-{end} {text:?}", p.id)));
                continue;
            };
            let c = &mut self.contents[i];
            c.sent[start..end].fill(true);
            self.trace.push(format!("  sent {hour} {} = file {i} {start}-{end} aside={}", p.id, cut.aside));
            if !cut.aside {
                self.current = Some(i);
            }
            // A line that is never finished is sent in the end.
            if !cut.aside && !c.ignored && p.raw.ends_with(b"\n") {
                // A line that was begun in one hour and finished in the next is the next one's.
                let line = p.raw.iter().position(|b| *b == b'\n').unwrap_or(0);
                let (from_ms, to_ms) = (c.written_ms[start + line], c.written_ms[end - 1]);
                let (from_ms, to_ms) = (self.noticed(from_ms), self.noticed(to_ms));
                self.dated.push(Dated { hour, from_ms, to_ms });
            }
        }
        self.excuse_ranges();
        Ok(())
    }

    /// A loss that is told excuses what is gone.
    fn excuse_losses(&mut self) -> Check {
        let live = self.rig.journal.iter().flat_map(|j| j.hours().keys()).map(|k| k.hour);
        let hours: BTreeSet<Hour> = self.ids.keys().copied().chain(live).collect();
        for hour in hours {
            let Some(log) = self.rig.log(&hour.to_string()) else { continue };
            let seen = self.losses.entry(hour).or_default();
            let new: Vec<_> = log.loss.iter().skip(*seen).copied().collect();
            *seen = log.loss.len();
            for (from, to) in new {
                let here = self.names.get(LOG).map(|(c, _)| *c);
                if let (None, Some(i)) = (to, self.current)
                    && self.alive(i) > from as usize
                    && from > 0
                {
                    return Err(format!(
                        "{hour}: told as lost from byte {from}, and file {i} is still there"
                    ));
                }
                for i in 0..self.contents.len() {
                    let c = &mut self.contents[i];
                    let from = from as usize;
                    if let Some(to) = to {
                        self.ranges.push((from, to as usize));
                        break;
                    } else if Some(i) != here {
                        // Nothing tells which of the files beside the path were read before.
                        c.ignore(0);
                    }
                }
            }
        }
        Ok(())
    }

    /// The same of ranges, as soon as what was read before them is here.
    fn excuse_ranges(&mut self) {
        for (from, to) in std::mem::take(&mut self.ranges) {
            for c in &mut self.contents {
                let reached = from == 0 || c.sent.get(from - 1) == Some(&true);
                let to = to.min(c.bytes.len());
                if reached && from < to && !c.sent[from] {
                    c.excused[from..to].fill(true);
                }
            }
        }
    }

    fn finish(&mut self) -> Check {
        self.trace.push("finish".into());
        self.create();
        self.rig.room = (1 << 20, 100);
        self.start()?;
        for secs in [1; 20].into_iter().chain([7; 20]).chain([30; 25]) {
            self.rig.pass(secs * 1000);
            self.look()?;
        }
        // A line that is begun in the file at the path is not sent.
        let live = self.names[LOG].0;
        if !self.contents[live].rest.is_empty() {
            let rest = std::mem::take(&mut self.contents[live].rest);
            let now = self.rig.clock.now_ms();
            let c = &mut self.contents[live];
            c.bytes.extend_from_slice(rest.as_bytes());
            c.written_ms.resize(c.bytes.len(), now);
            c.sent.resize(c.bytes.len(), false);
            c.excused.resize(c.bytes.len(), c.ignored);
            self.rig.write(LOG, &rest);
        }
        for _ in 0..10 {
            self.rig.pass(5000);
            self.look()?;
        }
        for (hour, what) in &self.twice {
            if !self.is_doubtful(*hour) {
                return Err(format!("{hour} {what}"));
            }
        }
        for (i, c) in self.contents.iter().enumerate() {
            let missing = |at: &usize| !c.sent[*at] && !c.excused[*at] && !self.is_told(c.written_ms[*at]);
            if let Some(at) = (0..c.bytes.len()).find(missing) {
                let text = String::from_utf8_lossy(&c.bytes[at..]).into_owned();
                let names: Vec<_> = self.names.iter().filter(|(_, (n, _))| *n == i).collect();
                return Err(format!(
                    "file {i} {names:?}: byte {at} of {} was not sent: {text:?}",
                    c.bytes.len()
                ));
            }
        }
        self.hours_are_true()
    }

    /// When somebody first looked after this moment, if that was in the same hour.
    fn noticed(&self, written_ms: i64) -> i64 {
        let hour = |ms| self.rig.zone.hour_at(ms);
        let look = self.looks.iter().copied().find(|l| *l > written_ms);
        look.filter(|l| hour(*l) == hour(written_ms)).unwrap_or(written_ms)
    }

    fn is_doubtful(&self, hour: Hour) -> bool {
        self.rig.log(&hour.to_string()).is_some_and(|l| !l.notes.is_empty())
    }

    /// Does the hour in which this was written say that something is wrong with it, or the one in which it would have been
    /// read?
    fn is_told(&self, written_ms: i64) -> bool {
        let read = self.looks.iter().copied().find(|l| *l >= written_ms);
        [Some(written_ms), read].into_iter().flatten().any(|ms| self.is_doubtful(self.rig.zone.hour_at(ms)))
    }

    /// A whole hour holds what was written in it, or nearly.
    fn hours_are_true(&self) -> Check {
        let mut hours: Vec<Hour> = self.ids.keys().copied().collect();
        hours.sort();
        for pair in hours.windows(2) {
            if self.rig.zone.next(pair[0]) != pair[1] || !self.done.contains(&pair[0]) {
                return Err(format!("{} and then {}; closed: {:?}", pair[0], pair[1], self.done));
            }
        }
        // Without room lines wait, and hours hold what was read in them.
        if self.lagging {
            return Ok(());
        }
        for d in &self.dated {
            let log = self.rig.log(&d.hour.to_string()).ok_or("no log")?;
            // The first one began with what was there.
            if Some(&d.hour) == self.ids.keys().next() {
                continue;
            }
            let shift = if self.mistake == Some(Mistake::HourWrong) { 3_600_000 } else { 0 };
            let from = self.rig.zone.starts_ms(d.hour).unwrap() - NEAR_MS + shift;
            let to = self.rig.zone.ends_ms(d.hour).unwrap() + NEAR_MS + shift;
            if log.is_done() && log.notes.is_empty() && (d.from_ms < from || d.to_ms > to) {
                let when = |ms| self.rig.zone.format_ms(ms);
                return Err(format!(
                    "{} is whole, and holds bytes of {} to {}",
                    d.hour,
                    when(d.from_ms),
                    when(d.to_ms)
                ));
            }
        }
        Ok(())
    }

    // ---- one run ----------------------------------------------------------------------------------------------

    fn act(&mut self) -> Check {
        let dice = self.rng.below(100);
        let when = self.rig.zone.format_ms(self.rig.clock.now_ms());
        let what = match dice {
            0..28 => "write",
            28..34 => "write old",
            34..60 => "look",
            60..66 => "rotate",
            66..69 => "copytruncate",
            69 => "truncate",
            70..72 => "delete",
            72..75 => "gz",
            75..79 => "stop",
            79..86 => "start",
            86..89 => "crash",
            89..92 => "archive",
            92..94 => "step clock",
            94..97 => "create",
            97 => "long pause",
            _ => "hour's end",
        };
        let names: Vec<String> = self
            .names
            .iter()
            .map(|(n, (c, _))| format!("{}={c}", n.trim_start_matches("/log/access")))
            .collect();
        self.trace.push(format!(
            "{when} up={} current={:?} [{}] {what} {dice}",
            self.up,
            self.current,
            names.join(" ")
        ));
        match dice {
            0..28 => self.write(LOG),
            28..34 => {
                if let Some((name, until)) = self.slow.clone()
                    && self.rig.clock.now_ms() < until
                {
                    self.write(&name);
                }
            }
            34..60 => {
                self.rig.pass(100 + self.rng.below(9000));
                self.look()?;
            }
            60..66 => self.rotate(),
            66..69 => self.copytruncate(true)?,
            69 => self.copytruncate(false)?,
            70..72 => {
                self.remove(LOG);
                if self.rng.chance(30) {
                    self.look()?;
                }
                if self.rng.chance(80) {
                    self.create();
                }
            }
            72..75 => self.gz(),
            75..79 => self.stop(),
            79..86 => self.start()?,
            86..89 => self.crash()?,
            89..92 => self.archive(),
            92..94 => {
                // Not over an hour's edge: there it would be a matter of opinion.
                let now = self.rig.clock.now_ms();
                let delta = self.rng.below(40_000).cast_signed() - 20_000;
                if self.rig.zone.hour_at(now) == self.rig.zone.hour_at(now + delta) {
                    self.rig.step_wall(delta);
                    self.slow = None;
                }
            }
            94..97 => self.create(),
            97 => self.rig.pass(self.rng.below(3 * 3_600_000)),
            _ => {
                // To just before the hour's end.
                let now = self.rig.clock.now_ms();
                let ends = self.rig.zone.ends_ms(self.rig.zone.hour_at(now)).unwrap();
                let to = ends - self.rng.below(8000).cast_signed();
                let looks = self.rng.chance(70);
                while self.rig.clock.now_ms() < to {
                    let step = if looks { 50_000 } else { i64::MAX };
                    self.rig.pass((to - self.rig.clock.now_ms()).min(step).unsigned_abs());
                    if looks {
                        self.look()?;
                    }
                }
            }
        }
        self.bury();
        Ok(())
    }
}

fn run(seed: u64, mistake: Option<Mistake>) -> Check {
    let mut model = Model::new(seed, mistake);
    let actions = 20 + model.rng.below(100);
    let result = (0..actions).try_for_each(|_| model.act()).and_then(|()| model.finish());
    result.map_err(|e| {
        let tail = model.trace.len().saturating_sub(60);
        format!("LOGD_SEED={seed}: {e}\n{}\nalarms: {:#?}", model.trace[tail..].join("\n"), model.rig.alarms)
    })
}

#[test]
fn whatever_happens_each_byte_arrives_once_or_is_told_as_lost() {
    let one = std::env::var("LOGD_SEED").ok().and_then(|s| s.parse().ok());
    let first: u64 = one.unwrap_or(1);
    println!("seeds from {first}");
    let soak = std::env::var("LOGD_SOAK").is_ok_and(|v| v == "1");
    let runs = if one.is_some() {
        1
    } else if soak {
        100_000
    } else {
        5_000
    };
    let mut failed = Vec::new();
    for seed in first..first + runs {
        failed.extend(run(seed, None).err());
    }
    let texts: Vec<&str> = failed.iter().map(|f| f.lines().next().unwrap()).take(40).collect();
    assert!(failed.is_empty(), "{} of {runs}:\n{}\n{}", failed.len(), texts.join("\n"), failed[0]);
}

#[test]
fn the_model_notices_each_mistake() {
    // Few runs have an hour that is whole from its beginning to its end.
    for (mistake, least) in [
        (Mistake::PackForgotten, 20),
        (Mistake::PackTwice, 15),
        (Mistake::PositionWrong, 20),
        (Mistake::HourWrong, 2),
    ] {
        let found = (1..40).filter(|seed| run(*seed, Some(mistake)).is_err()).count();
        assert!(found >= least, "{mistake:?}: {found} of 39");
    }
}
