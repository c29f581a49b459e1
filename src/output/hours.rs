//! Hour files: packs from the spool become data files with a proof beside them.
//!
//! Carries P2: packs are applied in id order only, so a data file is at every moment a prefix of the hour. The order
//! of durability is data, then the proof's line, then the spool's `done`; a [`Hours::checkpoint`] does it for all
//! files that changed (`checkpoint`). What lies beyond a gap waits in the spool, and on a shelf when it would pin a segment.
//! `missing` notes packs that are lost and gives out what lies beyond a gap that stays,
//! `start` brings files and proofs together again after a crash, `copies` certifies hours and installs later copies,
//! `stuck` keeps an hour whose files cannot be used from standing in the way of the others (P4).
//! Files and what they prove: see [`crate::integrity`].

mod checkpoint;
mod copies;
mod missing;
mod start;
mod stuck;

pub use checkpoint::{Due, Progress};
pub use copies::{Filed, VerifyDone, VerifyJob};
pub use start::Spooled;

use crate::auth;
use crate::disk::{self, Disk, File};
use crate::integrity::lines::{self, Stored, Summary};
use crate::integrity::{Certificate, Health, Place, Scan, Store};
use crate::metrics;
use crate::pack::{self, Checked, Header, HourKey, Meta, split_frame};
use crate::planted::{self, Bug};
use crate::spool::{Loc, Reader, Shelf};
use std::collections::{BTreeMap, BTreeSet};
use stuck::Stuck;

/// Hours at rest leave memory after this time.
const FORGET_MS: u64 = 10 * 60 * 1000;
/// Hours in memory; beyond that those at rest leave it at once. Those that are not have their limit in the footprint.
pub const STATES_MAX: usize = 8_192;
/// A data file with so many new bytes is synced before the checkpoint.
const SYNC_BYTES: u64 = 32 << 20;
/// Lines in memory of packs that wait for the ones before them.
const KEPT_MAX: usize = 8 << 20;

/// Raw lines of a pack, with whatever accounts for their memory.
pub type Raw = Box<dyn AsRef<[u8]>>;

/// What this stage needs of the configuration.
#[derive(Clone, Debug)]
pub struct HoursConfig {
    /// Largest raw pack, in bytes.
    pub max_raw: u64,
    /// Copies (two files each) that are open at once.
    pub max_open: usize,
    /// How long a gap is waited for before `….gaps` is written, in ms.
    pub gap_wait_ms: u64,
}

enum Early {
    Spool(Loc),
    Shelf(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    InPlace,
    Building,
    /// The data file of a closed hour was taken away; later bytes are kept aside.
    Late,
}

struct Copy {
    place: Place,
    role: Role,
    health: Health,
    summary: Summary,
    files: Option<(File, File)>,
    data_end: u64,
    /// Bytes written since the data file was last synced.
    unsynced: u64,
    headers_len: u64,
    /// Proof lines of applied packs, written at the checkpoint.
    lines: Vec<u8>,
    /// Spool numbers that are done at the checkpoint.
    seqs: Vec<u64>,
    early: BTreeMap<u64, Early>,
    early_since_ms: u64,
    gaps_written: bool,
    new_names: bool,
    /// Number up to which a verification was handed out.
    verified_to: u64,
    /// Its result is not in yet.
    verifying: bool,
}

impl Copy {
    fn new(place: Place, role: Role, found: Scan) -> Box<Self> {
        Box::new(Self {
            role,
            data_end: if matches!(found.health, Health::Foreign { .. })
                || planted::is(Bug::BytesBeyondProofKept)
            {
                found.data_len
            } else {
                found.summary.bytes
            },
            unsynced: 0,
            headers_len: found.headers_len,
            health: found.health,
            summary: found.summary,
            files: None,
            lines: Vec::new(),
            seqs: Vec::new(),
            early: BTreeMap::new(),
            early_since_ms: 0,
            gaps_written: false,
            // Names that a killed process made may exist in memory only.
            new_names: !planted::is(Bug::NewNamesNotSynced),
            verified_to: 0,
            verifying: false,
            place,
        })
    }

    /// Spool numbers of what nobody needs once the copy is dropped.
    fn let_go(self) -> Vec<u64> {
        let waiting = self.early.into_values().filter_map(|e| match e {
            Early::Spool(loc) => Some(loc.seq),
            Early::Shelf(_) => None,
        });
        self.seqs.into_iter().chain(waiting).collect()
    }

    fn open(&mut self, store: &Store) -> disk::Result<()> {
        if self.files.is_some() {
            return Ok(());
        }
        let disk = store.disk();
        if self.role == Role::Building
            && let Some(dir) = self.place.data.parent()
        {
            disk.create_dir_all(dir, store.dir_mode)?;
        }
        let data = disk.create(&self.place.data, store.file_mode)?;
        let headers = disk.create(&self.place.headers, store.file_mode)?;
        if matches!(self.health, Health::Foreign { .. }) && self.headers_len > 0 && self.lines.is_empty() {
            // An original that was killed tore its last line: ours must not become part of it.
            let mut last = [0];
            headers.read_at(&mut last, self.headers_len.saturating_sub(1))?;
            self.lines.extend((last != *b"\n").then_some(b'\n'));
        }
        self.files = Some((data, headers));
        Ok(())
    }
}

#[derive(Default)]
struct HourState {
    /// In boxes: a map has room for eleven, and an hour has one.
    copies: BTreeMap<u64, Box<Copy>>,
    in_place: Option<u64>,
    closed: Option<Certificate>,
    /// A copy is being installed in another's place; a full disk stopped it between two steps.
    installing: Option<(u64, u64)>,
    used_ms: u64,
}

impl HourState {
    /// Bytes that were certified and that the copy in place still has: of one that is damaged or cut short nobody can say that
    /// it is better than another.
    fn certified_bytes(&self) -> u64 {
        let certified = self.closed.as_ref().filter(|c| c.verified).map_or(0, |c| c.bytes);
        match self.in_place.and_then(|generation| self.copies.get(&generation)) {
            Some(copy) if matches!(copy.health, Health::Good) => certified.min(copy.summary.bytes),
            Some(_) => 0,
            // A batch job has taken it away.
            None => certified,
        }
    }
}

/// See the module's header.
pub struct Hours {
    store: Store,
    conf: HoursConfig,
    reader: Reader,
    early: Shelf,
    states: BTreeMap<HourKey, HourState>,
    stuck: BTreeMap<HourKey, Stuck>,
    dirty: BTreeSet<(HourKey, u64)>,
    verify: Vec<VerifyJob>,
    /// The disk refused a verification: the next checkpoint, which hands it out again, must not wait for its time.
    verify_again: bool,
    raw: Vec<u8>,
    /// By number of the spool; given up at each checkpoint.
    kept: BTreeMap<u64, Raw>,
    kept_bytes: usize,
    frame: Vec<u8>,
    shelved: Vec<(HourKey, u64, u64)>,
    /// Numbers of packs that were acknowledged and cannot be read any more: their copies get no tag before they came again.
    missing: Shelf,
    /// Those for which there was no room at the start.
    unwritten: Vec<(HourKey, u64, u64)>,
    lost: Vec<(HourKey, u64, u64)>,
    done_now: Vec<u64>,
    open_copies: usize,
    /// Packs stored since the start.
    pub packs: u64,
    /// Sentences for the log.
    pub alarms: Vec<String>,
}

impl Hours {
    fn disk(&self) -> &Disk {
        self.store.disk()
    }

    /// Applies a durable pack of the spool, and what was waiting behind it. `raw`, its lines, spares inflating. Called again
    /// with the same pack after an error (a full disk), it goes on where it was. Where only the files of this hour cannot
    /// be used, the pack waits as if those before it were missing.
    pub fn apply(&mut self, loc: Loc, frame: &[u8], raw: Option<Raw>, now_ms: u64) -> disk::Result<()> {
        let Some((header, body)) = split_frame(frame) else {
            self.alarms.push(format!(
                "spool record {}: not a frame, nobody knows of which hour; left in the spool; `logd spool check` tells where it is, \
                 `logd status` names the hour as `gaps`: send that again by `logd resend`",
                loc.seq
            ));
            return Ok(());
        };
        let Ok(meta) = header.meta("unknown") else {
            self.alarms
                .push(format!("spool record {}: its header is refused now; left in the spool", loc.seq));
            return Ok(());
        };
        if !self.stuck.contains_key(&meta.key) {
            match self.apply_pack(loc, frame, &header, &meta, body, raw, now_ms) {
                Err(e) if e.is_of_one_path() => self.stick(&meta.key, &e, now_ms),
                other => return other,
            }
        }
        self.keep_back(&meta.key, meta.generation, meta.id, loc, now_ms);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // one pack, in the forms that it has by now
    fn apply_pack(
        &mut self,
        loc: Loc,
        frame: &[u8],
        header: &Header,
        meta: &Meta,
        body: &[u8],
        raw: Option<Raw>,
        now_ms: u64,
    ) -> disk::Result<()> {
        if !self.states.contains_key(&meta.key) {
            self.load(&meta.key, &Spooled::default(), now_ms)?;
        }
        self.continue_install(&meta.key)?;
        let Some(generation) = self.choose(&meta.key, meta.generation) else {
            self.done_now.push(loc.seq);
            return Ok(());
        };
        let Some(state) = self.states.get_mut(&meta.key) else { return Ok(()) };
        state.used_ms = now_ms;
        self.reopen(&meta.key, generation, meta.id)?;
        let Some(state) = self.states.get_mut(&meta.key) else { return Ok(()) };
        let Some(copy) = state.copies.get_mut(&generation) else { return Ok(()) };
        match &copy.health {
            Health::Damaged(_) => {
                if self.shelve(&meta.key, generation, meta.id, frame)? {
                    self.done_now.push(loc.seq);
                } else if let Some(c) = self.copy(&meta.key, generation) {
                    c.early.insert(meta.id, Early::Spool(loc));
                }
                return Ok(());
            }
            Health::Foreign { ids, .. } if ids.contains(&meta.id) => {
                copy.seqs.push(loc.seq);
                self.dirty.insert((meta.key.clone(), generation));
                return Ok(());
            }
            Health::Good if meta.id <= copy.summary.high => {
                copy.seqs.push(loc.seq);
                self.dirty.insert((meta.key.clone(), generation));
                self.renew(&meta.key, generation)?;
                // Called again after an error: what waited behind this pack may wait still.
                return self.drain(&meta.key, generation);
            }
            Health::Good if meta.id > copy.summary.high.saturating_add(1) => {
                if copy.early.is_empty() {
                    copy.early_since_ms = now_ms;
                }
                if matches!(copy.early.get(&meta.id), Some(Early::Shelf(_))) {
                    // It moved to the shelf before a crash; the spool did not know yet.
                    copy.seqs.push(loc.seq);
                } else {
                    copy.early.insert(meta.id, Early::Spool(loc));
                    self.keep_raw(loc.seq, raw);
                }
                self.dirty.insert((meta.key.clone(), generation));
                return Ok(());
            }
            _ => {}
        }
        self.write(header, meta, body, raw.as_deref().map(AsRef::as_ref), generation, Some(loc.seq))?;
        self.drain(&meta.key, generation)
    }

    /// Lines of a pack whose turn will come in a moment, because senders work in parallel.
    fn keep_raw(&mut self, seq: u64, raw: Option<Raw>) {
        let Some(raw) = raw else { return };
        let held = self.kept_bytes.saturating_add((*raw).as_ref().len());
        if held <= KEPT_MAX {
            self.kept_bytes = held;
            self.kept.insert(seq, raw);
        }
    }

    /// The gate took the tags back before it accepted more of a certified copy.
    fn reopen(&mut self, key: &HourKey, generation: u64, id: u64) -> disk::Result<()> {
        let closed = self.states.get(key).and_then(|s| s.closed.as_ref());
        let Some(c) = closed.filter(|c| c.generation == generation && id > c.packs).cloned() else {
            return Ok(());
        };
        let gone = c.bytes > 0 && self.disk().stat(&self.store.place(key).data)?.is_none();
        if let Some(state) = self.states.get_mut(key) {
            state.closed = None;
        }
        if gone {
            self.keep_late(key, &c);
        }
        Ok(())
    }

    /// A pack that is stored already came as new to the gate, which took back the tag: the hour is verified again.
    fn renew(&mut self, key: &HourKey, generation: u64) -> disk::Result<()> {
        let Some(state) = self.states.get_mut(key) else { return Ok(()) };
        if state.closed.is_some() && self.store.closed(key)?.is_none() {
            state.closed = None;
            if let Some(copy) = state.copies.get_mut(&generation) {
                copy.verified_to = 0;
            }
        }
        Ok(())
    }

    /// A batch job took the data file of a closed hour away: what comes now is kept in a file of its own.
    fn keep_late(&mut self, key: &HourKey, closed: &Certificate) {
        let late = self.store.late(key, closed.packs.saturating_add(1));
        let Some(state) = self.states.get_mut(key) else { return };
        state.closed = Some(closed.clone());
        if state.copies.get(&closed.generation).is_some_and(|c| c.role == Role::Late) {
            return;
        }
        let found = Scan::empty(late.first_id);
        let mut copy = Copy::new(late, Role::Late, found);
        if let Some(mut old) = state.copies.remove(&closed.generation) {
            copy.early = std::mem::take(&mut old.early);
            self.done_now.extend(old.let_go());
        }
        state.copies.insert(closed.generation, copy);
        state.in_place = None;
        self.alarms.push(format!(
            "{key}: lines came after its data file was taken away; they are in aside/{key}.late, its tag is revoked; \
             give them to the job that took the file, or send the hour again"
        ));
    }

    /// Which copy a pack belongs to; `None` = it is of no use any more.
    fn choose(&mut self, key: &HourKey, generation: u64) -> Option<u64> {
        let state = self.states.get_mut(key)?;
        let floor = state.closed.as_ref().filter(|c| c.is_tag()).map_or(0, |c| c.generation);
        if generation < floor && !planted::is(Bug::OldCopyInstalled) {
            return None;
        }
        if planted::is(Bug::CopyIntoOld) && state.in_place.is_some() {
            return state.in_place;
        }
        if state.copies.contains_key(&generation) {
            return Some(generation);
        }
        let (place, role) = match (state.in_place, &state.closed) {
            (None, Some(c)) if c.generation == generation && c.bytes > 0 => {
                // Loaded without its data file: see `start`.
                (self.store.late(key, c.packs.saturating_add(1)), Role::Late)
            }
            (None, None) => {
                state.in_place = Some(generation);
                (self.store.place(key), Role::InPlace)
            }
            _ => (self.store.building(key, generation), Role::Building),
        };
        let found = Scan::empty(place.first_id);
        state.copies.insert(generation, Copy::new(place, role, found));
        Some(generation)
    }

    fn write(
        &mut self,
        header: &Header,
        meta: &Meta,
        body: &[u8],
        raw: Option<&[u8]>,
        generation: u64,
        seq: Option<u64>,
    ) -> disk::Result<()> {
        let checked = match raw {
            Some(r) => Checked {
                bytes: r.len() as u64,
                crc32: meta.seal.map_or_else(|| crc32fast::hash(r), |s| s.crc32),
            },
            None => {
                if let Some(c) = pack::inflate(body, meta, &mut self.raw, self.conf.max_raw) {
                    c
                } else {
                    self.alarms.push(format!(
                        "{}: its body does not inflate any more; left in the spool; its hour is not certified before that pack comes again: \
                         `logd resend` on its host sends it",
                        meta.label()
                    ));
                    return Ok(());
                }
            }
        };
        self.open_files(&meta.key, generation)?;
        let bytes = raw.unwrap_or(&self.raw);
        let Some(copy) = self.states.get_mut(&meta.key).and_then(|s| s.copies.get_mut(&generation)) else {
            return Ok(());
        };
        let Some((data, _)) = &copy.files else { return Ok(()) };
        data.write_at(bytes, copy.data_end)?;
        copy.unsynced = copy.unsynced.saturating_add(bytes.len() as u64);
        if copy.unsynced >= SYNC_BYTES {
            // Little is left to do when the hour ends; its proof follows at the checkpoint.
            data.sync()?;
            copy.unsynced = 0;
        }
        if let Health::Foreign { ids, done, barred, lines } = &mut copy.health {
            ids.insert(meta.id);
            *barred |= meta.done && done.is_some_and(|d| d != meta.id);
            *lines = lines.saturating_add(meta.lines);
            if meta.done {
                *done = Some(meta.id);
            }
            copy.lines.extend_from_slice(&lines::encode_foreign(header));
        } else {
            let signed = header.route.first().is_some_and(auth::is_signed);
            let stored = stored(meta, copy.data_end, &checked, signed);
            if let Err(why) = copy.summary.add(&stored) {
                self.alarms.push(format!("{}: {why}", meta.label()));
                return Ok(());
            }
            copy.lines.extend_from_slice(&lines::encode(header, copy.data_end, &checked));
        }
        copy.data_end = copy.data_end.saturating_add(checked.bytes);
        copy.seqs.extend(seq);
        self.dirty.insert((meta.key.clone(), generation));
        self.packs = self.packs.saturating_add(1);
        metrics::STORED_PACKS.inc();
        metrics::STORED_LINES.add(meta.lines);
        metrics::STORED_BYTES.add(checked.bytes);
        Ok(())
    }

    /// Opens the files of a copy; when there are too many open ones, the others are closed first.
    fn open_files(&mut self, key: &HourKey, generation: u64) -> disk::Result<()> {
        let closed = |s: &HourState| s.copies.get(&generation).is_some_and(|c| c.files.is_none());
        if !self.states.get(key).is_some_and(closed) {
            return Ok(());
        }
        if self.open_copies >= self.conf.max_open {
            self.make_room()?;
        }
        let open = |me: &mut Self| match me.states.get_mut(key).and_then(|s| s.copies.get_mut(&generation)) {
            Some(copy) => copy.open(&me.store),
            None => Ok(()),
        };
        match open(self) {
            // Others have taken more than was planned for; they need some, too.
            Err(e) if e.too_many_files() => {
                self.conf.max_open = (self.open_copies / 2).max(1);
                self.make_room()?;
                open(self)?;
            }
            other => other?,
        }
        self.open_copies = self.open_copies.saturating_add(1);
        Ok(())
    }

    /// Somebody else in this process lacks descriptors: half of ours are given up for good.
    pub fn relieve(&mut self) -> disk::Result<()> {
        self.conf.max_open = (self.open_copies / 2).max(1);
        self.make_room()
    }

    /// Closes all files. Only synced ones may be closed, since the kernel may forget a write error with the file.
    fn make_room(&mut self) -> disk::Result<()> {
        for copy in self.states.values_mut().flat_map(|s| s.copies.values_mut()) {
            // The proof's new lines are still in memory: only the data has to be safe.
            if let (false, Some((data, _))) = (copy.lines.is_empty(), &copy.files) {
                data.sync()?;
            }
            copy.files = None;
        }
        self.open_copies = 0;
        Ok(())
    }

    /// Applies the packs that waited behind a gap which is filled now.
    fn drain(&mut self, key: &HourKey, generation: u64) -> disk::Result<()> {
        loop {
            let Some(copy) = self.states.get_mut(key).and_then(|s| s.copies.get_mut(&generation)) else {
                return Ok(());
            };
            let Some(id) = copy.next_early() else { return Ok(()) };
            let mut frame = std::mem::take(&mut self.frame);
            let (found, seq, file) = match copy.early.get(&id) {
                None => return Ok(()),
                Some(Early::Spool(loc)) => (self.reader.fetch_at(loc, &mut frame)?, Some(loc.seq), None),
                Some(Early::Shelf(file)) => {
                    let kept = match self.early.get(&key.name, file) {
                        Err(e) if e.not_found() => None,
                        other => other?,
                    };
                    let there = kept.is_some();
                    frame = kept.unwrap_or_default();
                    (there, None, Some(file.clone()))
                }
            };
            let parts = split_frame(&frame).filter(|_| found);
            let Some((header, body)) = parts else {
                self.note_lost(key, generation, id)?;
                if let Some(copy) = self.copy(key, generation) {
                    copy.early.remove(&id);
                }
                let kept = match file {
                    Some(file) => self.unshelve_damaged(key, generation, id, &file)?,
                    None => String::new(),
                };
                self.alarms.push(format!(
                    "{key} pack {id}: damaged while it waited for the packs before it{kept}; send it or its hour again from \
                     the source"
                ));
                return Ok(());
            };
            let raw = seq.and_then(|seq| self.kept.remove(&seq));
            let freed = raw.as_ref().map_or(0, |r| (**r).as_ref().len());
            self.kept_bytes = self.kept_bytes.saturating_sub(freed);
            if let Ok(meta) = header.meta("unknown") {
                self.write(&header, &meta, body, raw.as_deref().map(AsRef::as_ref), generation, seq)?;
            }
            let copy = self.states.get_mut(key).and_then(|s| s.copies.get_mut(&generation));
            let Some(copy) = copy.filter(|c| c.has(id)) else { return Ok(()) };
            copy.early.remove(&id);
            if file.is_some() {
                // The shelf's file goes when the pack is durable in the data file.
                self.shelved.push((key.clone(), generation, id));
            }
            self.frame = frame;
        }
    }

    fn copy(&mut self, key: &HourKey, generation: u64) -> Option<&mut Copy> {
        self.states.get_mut(key)?.copies.get_mut(&generation).map(|copy| &mut **copy)
    }

    fn shelve(&mut self, key: &HourKey, generation: u64, id: u64, frame: &[u8]) -> disk::Result<bool> {
        let kept = self.early.put(&key.name, &Store::shelf_name(key, generation, id), frame)?;
        if !kept {
            self.alarms.push(format!(
                "{key} pack {id}: no room in aside/early; it stays in the spool, nothing is lost; packs before it are missing \
                 (`logd status`): send those, or raise early_per_name or early_total"
            ));
        }
        Ok(kept)
    }

    fn close_files(&mut self) {
        for copy in self.states.values_mut().flat_map(|s| s.copies.values_mut()) {
            if copy.lines.is_empty() {
                copy.files = None;
            }
        }
        self.open_copies =
            self.states.values().flat_map(|s| s.copies.values()).filter(|c| c.files.is_some()).count();
    }

    fn forget_idle(&mut self, now_ms: u64) {
        let (dirty, stuck) = (&self.dirty, &self.stuck);
        let at_rest = |key: &HourKey, s: &HourState| {
            let busy = s.copies.iter().any(|(g, c)| {
                (c.verifying && !planted::is(Bug::VerificationForgotten))
                    || !c.lines.is_empty()
                    || !c.seqs.is_empty()
                    || !c.early.is_empty()
                    || dirty.contains(&(key.clone(), *g))
            });
            !busy && !stuck.contains_key(key)
        };
        self.states.retain(|key, s| now_ms.saturating_sub(s.used_ms) < FORGET_MS || !at_rest(key, s));
        let over = self.states.len().saturating_sub(STATES_MAX);
        if over > 0 {
            // They are on disk, whole; a quarter at a time, those first that were used longest ago.
            let mut rest: Vec<(u64, HourKey)> = self
                .states
                .iter()
                .filter(|(key, s)| at_rest(key, s))
                .map(|(key, s)| (s.used_ms, key.clone()))
                .collect();
            rest.sort();
            for (_, key) in rest.iter().take(over.saturating_add(STATES_MAX / 4)) {
                self.states.remove(key);
            }
        }
        self.open_copies =
            self.states.values().flat_map(|s| s.copies.values()).filter(|c| c.files.is_some()).count();
    }
}

fn stored(meta: &Meta, offset: u64, checked: &Checked, authentic: bool) -> Stored {
    Stored {
        key: meta.key.clone(),
        id: meta.id,
        generation: meta.generation,
        offset,
        bytes: checked.bytes,
        crc32: checked.crc32,
        lines: meta.lines,
        sha256: meta.seal.map(|s| s.sha256),
        done: meta.done,
        totals: meta.totals,
        state: meta.state.clone(),
        loss: meta.loss.clone(),
        day_hours: meta.day_hours,
        clock: meta.clock,
        authentic,
    }
}
