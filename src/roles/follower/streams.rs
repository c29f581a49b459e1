//! The streams of a follower: which there are, where each began, and whose turn it is.
//!
//! One thread reads them all. A stream may take two packs' worth of memory in its turn, and the next turn begins with the
//! one that was left out, so that a backlog of one file delays the others by their share and no more. Files that have long
//! been quiet are looked at once a second.

use super::Setup;
use crate::clock::{Clock, Hour, Zone};
use crate::config::{Peer, Start, TailConfig};
use crate::disk::{self, Disk};
use crate::journal::Journal;
use crate::pack::HourKey;
use crate::packer::PackerConfig;
use crate::tail::followed::Followed;
use crate::tail::pattern::Pattern;
use crate::tail::streams::{Found, Source, find, full_name, known_files, sources};
use crate::tail::undated::Undated;
use crate::tail::unpack;
use crate::tail::{FollowConfig, Identity, LOOK_MAX_MS, Scratch, Sealed, Tail, begin};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// How often new files are looked for that a `*` stands for.
const SEARCH_MS: u64 = 5_000;
/// A file that has not grown for this long is quiet.
const QUIET_MS: u64 = 10_000;
/// How often closed hours that are old enough are forgotten.
const PRUNE_MS: u64 = 600_000;
/// So few files are looked at in every turn.
const FEW: usize = 16;
/// Packs of a file that rotation may destroy that are sealed in one turn, and what the retry spool needs for each of them
/// besides its bytes.
const KEEP_PACKS: usize = 16;
const KEEP_HEADER: u64 = 8 << 10;
/// For the headers of one turn's packs.
const KEEP_HEADERS: u64 = KEEP_PACKS as u64 * KEEP_HEADER;

struct Stream {
    tail: Followed,
    /// Where its [`Identity`] lies, and what is written there.
    place: PathBuf,
    saved: Identity,
    look_ms: u64,
    busy_ms: u64,
    /// The retry spool has no room for what rotation may destroy.
    paused: bool,
    /// Why it cannot be read, and when that is said again.
    failing: Option<(String, u64)>,
}

/// How often files are looked at that cannot be read now, in ms.
const GLANCE_MS: u64 = 200;
/// How often it is said of a file that it cannot be read.
const TELL_AGAIN_MS: u64 = 600_000;

/// See the module's header.
pub struct Streams {
    disk: Disk,
    clock: Clock,
    zone: Zone,
    state_dir: PathBuf,
    conf: TailConfig,
    once: bool,
    /// The host's own name and beginning.
    host: Identity,
    sources: Vec<Source>,
    list: Vec<Stream>,
    by_name: HashMap<String, usize>,
    /// The stream whose turn is next.
    next: usize,
    search_ms: u64,
    prune_ms: u64,
    glance_ms: u64,
    /// Streams that have had their part of the retry spool.
    over: BTreeSet<String>,
    told: BTreeSet<String>,
    /// New streams that wait because their files cannot be listed: did each appear beside others, and what is wrong.
    unlisted: BTreeMap<String, (bool, String)>,
    /// Files without a date that are followed, or were.
    known: BTreeSet<PathBuf>,
    scratch: Scratch,
    /// Sentences for the log.
    pub alarms: Vec<String>,
    /// The same, of what went well.
    pub messages: Vec<String>,
}

impl Streams {
    /// Opens those that there are. `damaged` = the journal lost its memory: hours go as new copies.
    pub(super) fn open(
        s: &Setup<'_>,
        conf: &TailConfig,
        host: &Identity,
        journal: &mut Journal,
        damaged: bool,
    ) -> Result<Self, String> {
        let now = s.clock.mono_ms();
        let mut me = Self {
            disk: s.disk.clone(),
            clock: s.clock.clone(),
            zone: s.zone.clone(),
            state_dir: s.state_dir.to_owned(),
            conf: conf.clone(),
            once: s.once,
            host: host.clone(),
            sources: sources(conf)?,
            list: Vec::new(),
            by_name: HashMap::new(),
            next: 0,
            search_ms: now.saturating_add(SEARCH_MS),
            prune_ms: now.saturating_add(PRUNE_MS),
            glance_ms: now,
            over: BTreeSet::new(),
            told: BTreeSet::new(),
            unlisted: BTreeMap::new(),
            known: known_files(s.disk, s.state_dir),
            scratch: Scratch::default(),
            alarms: Vec::new(),
            messages: Vec::new(),
        };
        let text = |e: disk::Error| e.to_string();
        if me.sources.iter().any(|s| !s.conf.stream.is_empty()) {
            me.disk.create_dir_all(&me.state_dir.join("streams"), 0o750).map_err(text)?;
        }
        let archived = journal.archive_list().map_err(text)?;
        let found = me.search();
        let known =
            |f: &Found| matches!(me.disk.stat(&Identity::path(&me.state_dir, &f.stream)), Ok(Some(_)));
        let served: BTreeSet<usize> = found.iter().filter(|f| known(f)).map(|f| f.source).collect();
        for found in found {
            let appeared = served.contains(&found.source);
            me.take_up(found, journal, &archived, appeared, damaged).map_err(text)?;
        }
        if let (true, Some((_, why))) = (me.once, me.unlisted.values().next()) {
            return Err(format!("{why}: nothing of it was sent; {RIGHTS}"));
        }
        let left = journal.hours().iter().filter(|(k, l)| !me.by_name.contains_key(&k.name) && !l.is_done());
        me.alarms.extend(left.map(|(key, log)| {
            format!(
                "{key}: {}: no section of the config follows it any more; what was sealed is sent, its hour stays open",
                log.path.display()
            )
        }));
        me.prune(journal, &archived).map_err(text)?;
        Ok(me)
    }

    /// The streams that there are and that are not followed yet.
    fn search(&mut self) -> Vec<Found> {
        let (mut found, problems) =
            find(&self.disk, &self.sources, &self.host.name, &self.state_dir, &self.known);
        found.retain(|f| !self.by_name.contains_key(&full_name(&self.host.name, &f.stream)));
        for problem in problems {
            if self.told.insert(problem.clone()) {
                self.alarms.push(problem);
            }
        }
        found
    }

    /// Begins or goes on with a stream. `appeared` = others of its section were followed before it: it is new, and nothing
    /// of it may be skipped.
    fn take_up(
        &mut self,
        found: Found,
        journal: &mut Journal,
        archived: &[HourKey],
        appeared: bool,
        damaged: bool,
    ) -> disk::Result<()> {
        let name = full_name(&self.host.name, &found.stream);
        let place = Identity::path(&self.state_dir, &found.stream);
        let mut new = false;
        let identity = if found.stream.is_empty() {
            self.host.clone()
        } else {
            let known = self.known(&place)?;
            new = known.is_none() && appeared && !damaged;
            let fresh = match self.fresh(&name, &found, appeared, known.is_some()) {
                Ok(fresh) => fresh,
                Err(e) => {
                    self.wait_for_list(&found, appeared, &e);
                    return Ok(());
                }
            };
            let kept = known.clone();
            let mut identity = adopt(known, &fresh, journal, archived, damaged);
            identity.files = found.pattern.to_string();
            if kept.as_ref() != Some(&identity) {
                identity.save(&self.disk, &place)?;
            }
            identity
        };
        let Some(source) = self.sources.get(found.source) else { return Ok(()) };
        let follow = FollowConfig {
            packer: PackerConfig {
                pack_bytes: self.conf.pack_bytes,
                max_line: self.conf.max_line,
                lines_per_pack: self.conf.recv_buffer_size,
                flush_ms: source.conf.flush_interval_ms,
            },
            close_wait_ms: source.conf.close_wait_ms.cast_signed(),
            quiet_ms: source.conf.quiet_ms.cast_signed(),
            late_watch_ms: source.conf.late_watch_ms.cast_signed(),
            journal_ms: self.conf.journal_days.cast_signed().saturating_mul(86_400_000),
            once: self.once,
            unpacked: self.state_dir.join(unpack::DIR),
            with_rotated: new,
        };
        let saved = identity.clone();
        let (disk, clock, zone) = (&self.disk, &self.clock, &self.zone);
        let tail = if found.pattern.is_dated() {
            let tail = Tail::open(disk, clock, zone, follow, found.pattern, identity, journal, archived)?;
            Followed::Dated(Box::new(tail))
        } else {
            let path = found.pattern.file();
            self.known.insert(path.clone());
            let mut undated = Undated::open(disk, clock, zone, follow, path, identity, journal, archived)?;
            if damaged {
                undated.doubt();
            }
            Followed::Undated(Box::new(undated))
        };
        let now = self.clock.mono_ms();
        self.by_name.insert(name, self.list.len());
        self.list.push(Stream {
            tail,
            place,
            saved,
            look_ms: now,
            busy_ms: now,
            paused: false,
            failing: None,
        });
        Ok(())
    }

    fn known(&mut self, place: &Path) -> disk::Result<Option<Identity>> {
        Ok(match Identity::load(&self.disk, place)? {
            Some(Ok(identity)) => Some(identity),
            Some(Err(why)) => {
                self.alarms
                    .push(format!("{why}; begun again from the configuration, hours go as new copies"));
                None
            }
            None => None,
        })
    }

    /// A stream without a state that begins with its oldest file must not begin before its files were seen: whatever is older
    /// than that beginning would never be sent.
    fn wait_for_list(&mut self, found: &Found, appeared: bool, e: &disk::Error) {
        let title = self.sources.get(found.source).map_or_else(String::new, |s| s.conf.section());
        let why = format!("{title} log_file: {e}");
        let told = format!(
            "{why}: {} is not begun before its files can be listed, because the oldest of them is its first; trying \
             again; {RIGHTS}",
            full_name(&self.host.name, &found.stream)
        );
        if !self.once && self.told.insert(told.clone()) {
            self.alarms.push(told);
        }
        self.unlisted.insert(found.stream.clone(), (appeared, why));
    }

    /// The beginning of a stream without a state; the error is for one whose files must be seen first. One that is `known` has
    /// its beginning.
    fn fresh(&self, name: &str, found: &Found, appeared: bool, known: bool) -> disk::Result<Identity> {
        let start = match self.sources.get(found.source).and_then(|s| s.conf.start) {
            _ if appeared => Start::Oldest,
            Some(start) => start,
            None => Start::usual(self.once, found.pattern.is_dated()),
        };
        let archives = self.once || (!appeared && start == Start::Oldest);
        let existing = if archives {
            unpack::existing(&found.pattern, &self.disk)
        } else {
            found.pattern.existing(&self.disk)
        };
        let existing = match existing {
            Err(e) if !known && must_be_seen(start, &found.pattern) => return Err(e),
            listed => listed.unwrap_or_default(),
        };
        let copies = self.conf.sender.peer == Peer::Logd;
        Ok(begin(name, &found.pattern, start, &existing, copies, (&self.zone, &self.clock)))
    }

    /// One look at the files of the streams whose turn it is; see [`Tail::step`]. Files that rotation may destroy are read as
    /// far as `keep` says.
    pub(super) fn step(
        &mut self,
        journal: &mut Journal,
        mut room_bytes: usize,
        mut room_packs: usize,
        mut keep: u64,
        out: &mut Vec<Sealed>,
    ) -> disk::Result<()> {
        let now = self.clock.mono_ms();
        self.look_for_new(journal, now)?;
        let (count, before) = (self.list.len(), out.len());
        let share = if count > 1 { self.conf.pack_bytes.saturating_mul(2) } else { usize::MAX };
        let mut unsealed: usize = self.list.iter().map(|s| s.tail.unsealed()).sum();
        let (mut failed, mut starved) = (None, None);
        for i in 0..count {
            let at = self.next.saturating_add(i).checked_rem(count).unwrap_or(0);
            let Some(s) = self.list.get_mut(at).filter(|s| s.look_ms <= now) else { continue };
            if room_packs == 0 || room_bytes < self.conf.pack_bytes {
                // It is the first of the next turn.
                self.next = at;
                break;
            }
            let (mut bytes, mut packs) = (room_bytes.min(share), room_packs);
            if s.tail.is_undated() {
                // What was read before may have to be sealed, too.
                let spare = keep.saturating_sub(self.conf.pack_bytes as u64).saturating_sub(KEEP_HEADERS);
                if spare < self.conf.pack_bytes as u64 || self.over.contains(&s.tail.identity().name) {
                    failed = failed.or(s.tail.glance(journal).err());
                    // It is the first of the next turn.
                    starved = starved.or(Some(at));
                    if !std::mem::replace(&mut s.paused, true) {
                        self.alarms.push(format!(
                            "{}: not read: there is no more room for it in {}, where what rotation may destroy waits (spool_size, min_free); \
                             it is read on when packs are acknowledged",
                            s.tail.identity().name,
                            self.state_dir.join("retry").display()
                        ));
                    }
                    continue;
                }
                s.paused = false;
                bytes = bytes.min(usize::try_from(spare).unwrap_or(usize::MAX));
                packs = packs.min(KEEP_PACKS);
            }
            let (held, sealed) = (s.tail.unsealed(), out.len());
            std::mem::swap(s.tail.scratch(), &mut self.scratch);
            let looked = s.tail.step(journal, bytes, packs, out);
            unsealed = unsealed.saturating_add(s.tail.unsealed()).saturating_sub(held);
            if count > 1 && unsealed > self.conf.tail_memory {
                unsealed = unsealed.saturating_sub(s.tail.unsealed());
                s.tail.seal_all(journal, out);
            }
            std::mem::swap(s.tail.scratch(), &mut self.scratch);
            self.alarms.append(s.tail.alarms());
            // A file that cannot be read must not hold up the others.
            let cannot = match looked {
                Err(e) if e.is_of_one_path() && !self.once => Some(e.to_string()),
                other => {
                    failed = failed.or(other.err());
                    None
                }
            };
            if let Some(why) = &cannot
                && s.failing.as_ref().is_none_or(|(before, again_ms)| before != why || now >= *again_ms)
            {
                self.alarms.push(format!("{why}; nothing is lost, trying again"));
                s.failing = Some((why.clone(), now.saturating_add(TELL_AGAIN_MS)));
            } else if cannot.is_none() {
                s.failing = None;
            }
            if out.len() > sealed || s.tail.unsealed() != held {
                s.busy_ms = now;
            }
            let quiet = count > FEW && now.saturating_sub(s.busy_ms) > QUIET_MS;
            s.look_ms = if quiet || cannot.is_some() { now.saturating_add(LOOK_MAX_MS) } else { now };
            let used: usize = out.iter().skip(sealed).map(|s| s.raw.len()).sum();
            let new = out.len().saturating_sub(sealed);
            if s.tail.is_undated() {
                let headers = KEEP_HEADER.saturating_mul(new as u64);
                keep = keep.saturating_sub(used as u64).saturating_sub(headers);
            }
            room_bytes = room_bytes.saturating_sub(used);
            room_packs = room_packs.saturating_sub(new);
        }
        self.next = starved.unwrap_or(self.next);
        if out.len() == before {
            self.scratch.shrink();
        }
        failed.map_or(Ok(()), Err)
    }

    /// There is no room to read anything; what rotation does meanwhile is seen all the same.
    pub(super) fn glance(&mut self, journal: &Journal) -> disk::Result<()> {
        let now = self.clock.mono_ms();
        // There may be as many turns as packs.
        if now < self.glance_ms {
            return Ok(());
        }
        self.glance_ms = now.saturating_add(GLANCE_MS);
        let looked = self.list.iter_mut().map(|s| s.tail.glance(journal));
        looked.fold(Ok(()), Result::and)
    }

    fn look_for_new(&mut self, journal: &mut Journal, now: u64) -> disk::Result<()> {
        let waits = !self.unlisted.is_empty() || self.sources.iter().any(|s| s.pattern.stars() > 0);
        if now >= self.search_ms && waits {
            self.search_ms = now.saturating_add(SEARCH_MS);
            let new = self.search();
            let archived = if new.is_empty() { Vec::new() } else { journal.archive_list()? };
            for found in new {
                let name = full_name(&self.host.name, &found.stream);
                let message = format!("following {} as {name}", found.pattern);
                let appeared = self.unlisted.remove(&found.stream).is_none_or(|(appeared, _)| appeared);
                self.take_up(found, journal, &archived, appeared, false)?;
                if self.by_name.contains_key(&name) {
                    self.messages.push(message);
                }
            }
        }
        if now >= self.prune_ms {
            self.prune_ms = now.saturating_add(PRUNE_MS);
            let archived = journal.archive_list()?;
            self.prune(journal, &archived)?;
        }
        Ok(())
    }

    /// Forgets old hours; that they are none of ours any more is durable before.
    fn prune(&mut self, journal: &mut Journal, archived: &[HourKey]) -> disk::Result<()> {
        let old: Vec<HourKey> = self.list.iter_mut().flat_map(|s| s.tail.outdated(archived)).collect();
        self.save()?;
        old.iter().try_for_each(|key| journal.forget(key))
    }

    /// Saves what changed of where the streams begin.
    pub(super) fn save(&mut self) -> disk::Result<()> {
        for s in self.list.iter_mut().filter(|s| *s.tail.identity() != s.saved) {
            s.tail.identity().save(&self.disk, &s.place)?;
            s.saved = s.tail.identity().clone();
        }
        Ok(())
    }

    fn stream(&self, name: &str) -> Option<&Followed> {
        self.by_name.get(name).and_then(|i| self.list.get(*i)).map(|s| &s.tail)
    }

    /// The host's name.
    pub fn host(&self) -> &str {
        &self.host.name
    }

    /// The files that are followed now, each with the byte from which, for the first message and for tests.
    pub fn following(&self, journal: &Journal) -> Vec<(PathBuf, u64, String)> {
        let of = |s: &Stream| {
            let name = s.saved.name.clone();
            s.tail.following(journal).into_iter().map(move |(path, pos)| (path, pos, name.clone()))
        };
        self.list.iter().flat_map(of).collect()
    }

    /// Streams that are followed.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// A stream that is not read for lack of room in the retry spool.
    pub fn paused(&self) -> Option<&str> {
        self.list.iter().find(|s| s.paused).map(|s| s.tail.identity().name.as_str())
    }

    /// Is none followed?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Hours of a stream whose files are being read.
    pub(super) fn active(&self, name: &str) -> usize {
        self.stream(name).map_or(0, Followed::active)
    }

    /// Is this a stream of a file that rotation may destroy?
    pub(super) fn is_undated(&self, name: &str) -> bool {
        self.stream(name).is_some_and(Followed::is_undated)
    }

    /// These streams have had their part of the retry spool.
    pub(super) fn set_over(&mut self, over: BTreeSet<String>) {
        self.over = over;
    }

    /// How many such streams there are.
    pub(super) fn undated(&self) -> usize {
        self.list.iter().filter(|s| s.tail.is_undated()).count()
    }

    /// See [`Tail::is_reading`].
    pub(super) fn is_reading(&self, key: &HourKey) -> bool {
        self.stream(&key.name).is_some_and(|t| t.is_reading(key.hour))
    }

    /// See [`Tail::can_restart`].
    pub(super) fn can_restart(&self, key: &HourKey) -> disk::Result<Result<(), String>> {
        match self.stream(&key.name) {
            Some(tail) => tail.can_restart(key.hour),
            None => Ok(Err(format!("no section of the config follows {}", key.name))),
        }
    }

    /// See [`Tail::restart`].
    pub(super) fn restart(
        &mut self,
        journal: &mut Journal,
        key: &HourKey,
        generation: u64,
    ) -> disk::Result<()> {
        match self.by_name.get(&key.name).and_then(|i| self.list.get_mut(*i)) {
            Some(s) => s.tail.restart(journal, key.hour, generation),
            None => Ok(()),
        }
    }

    /// A buffer that a sent pack no longer needs.
    pub(super) fn recycle(&mut self, raw: Vec<u8>) {
        // Of many files each would keep the buffer of a pack, whether or not it has lines.
        if self.list.len() == 1 {
            self.scratch.recycle(raw, self.conf.pack_bytes);
        }
    }

    /// See [`Tail::left_out`].
    pub fn left_out(&self) -> usize {
        self.list.iter().map(|s| s.tail.left_out()).sum()
    }

    /// With `--once`: is everything sealed that will be?
    pub(super) fn at_end(&self) -> bool {
        self.list.iter().all(|s| s.tail.at_end() && !s.paused)
    }
}

/// What to do about files that cannot be listed.
pub const RIGHTS: &str = "let the role's user list it (on Debian usermod -aG adm USER, or SupplementaryGroups=adm in the unit), or \
                          correct the path";

/// Can nothing be begun before the files were listed? Of a file without a date whatever is there is read from its beginning
/// when it can be.
pub fn must_be_seen(start: Start, pattern: &Pattern) -> bool {
    start == Start::Oldest && pattern.is_dated()
}

/// The beginning that holds: the one that is known, but for what a lost memory changes of it.
pub(super) fn adopt(
    known: Option<Identity>,
    fresh: &Identity,
    journal: &Journal,
    archived: &[HourKey],
    damaged: bool,
) -> Identity {
    let lost = known.is_none();
    let mut identity = known.unwrap_or_else(|| fresh.clone());
    if damaged {
        // What was read is to be read once more.
        identity.from_end = false;
    }
    if damaged || lost {
        identity.copies_until = fresh.copies_until;
        let highest = journal.hours().values().map(|h| h.generation).max().unwrap_or(0);
        let next = highest.max(identity.copies_generation).saturating_add(1);
        identity.copies_generation = fresh.copies_generation.max(next);
    }
    if lost {
        // Where this state directory began is told by what it has: no hour in between may be skipped.
        let mine = journal.hours().keys().chain(archived).filter(|k| k.name == identity.name);
        let oldest: Option<Hour> = mine.map(|k| k.hour).min();
        identity.first_hour = oldest.map_or(identity.first_hour, |oldest| identity.first_hour.min(oldest));
    }
    identity
}
