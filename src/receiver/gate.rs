//! The gate: one decision per pack, under one lock, before anything is acknowledged.
//!
//! | verdict | what happens | reply |
//! |---|---|---|
//! | new, early | appended to the spool | `ok` when durable |
//! | known | nothing | `ok` when the *first* copy is durable |
//! | conflict | set aside durably in `aside/conflict/` | `ok` |
//! | old copy | nothing, counted | `ok` |
//! | no room | nothing | `busy` |
//!
//! Bytes that change a certified hour take its tags away, durably, before they are acknowledged (P3). A relay has no
//! memory of hours: it recognises only what it took lately and passes everything else on, in any order.

use super::{Arrived, Raw};
use crate::auth;
use crate::disk;
use crate::footprint::{CopyPrint, Footprint, HourPrint, Pending, Verdict, load_json};
use crate::integrity::lines::{Line, Reader, Stored};
use crate::integrity::{Health, Place, Store, scan};
use crate::pack::{Checked, Entry, HEADER_OUT_MAX, HourKey, Meta, Refusal, VERSION, split_frame};
use crate::planted::{self, Bug};
use crate::spool::{AppendError, Loc, Shelf, Spool};
use std::collections::{HashMap, VecDeque};

/// Packs that a relay recognises when they come again.
const RECENT: usize = 4096;

/// Packs of a copy of an hour that are kept although they contradict stored ones; what nobody has signed must not take the room
/// of what is signed.
const CONFLICTS: usize = 8;
const CONFLICTS_SIGNED: usize = 16;
/// Default of `max_header`, which the next receiver may have.
const HEADER_DEFAULT: usize = 64 << 10;
const NAME_RESERVE: usize = 128;

/// What to answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// `ok` as soon as the spool's durable mark has passed this number.
    When(u64),
    /// `ok` at once.
    Now,
    /// A refusal.
    Refuse(Refusal),
}

/// What only a collector has: memory of what is stored.
pub struct Memory {
    /// The store.
    pub store: Store,
    /// Which packs are here.
    pub footprint: Footprint,
    /// Packs beyond a gap, `aside/early`.
    pub early: Shelf,
    /// Packs that contradict stored ones, `aside/conflict`.
    pub conflict: Shelf,
    /// Raw bytes of packs that are beyond a gap, per host.
    pub early_per_name: u64,
    /// In all.
    pub early_total: u64,
}

/// With the signature: of two packs that are alike otherwise the next receiver may take only one.
type Identity = (HourKey, u64, u64, u64, u32, String);

/// See the module's header.
pub struct Gate {
    /// Where packs become durable.
    pub spool: Spool,
    /// `None` in a relay.
    pub memory: Option<Memory>,
    /// Raw lines of packs in the spool that the budget still holds.
    pub raw: HashMap<u64, Raw>,
    /// Entry that a relay appends to the route.
    hop: Option<String>,
    /// Longest header that the next receiver is sure to read.
    header_max: usize,
    recent: HashMap<Identity, u64>,
    recent_order: VecDeque<Identity>,
    /// Packs that came again.
    pub known: u64,
    /// Sentences for the log.
    pub alarms: Vec<String>,
}

impl Gate {
    /// A collector's gate. `spooled` are the packs that the spool held at start, in its order.
    pub fn collector(
        spool: Spool,
        mut memory: Memory,
        spooled: Vec<(Loc, Meta, u64, u32)>,
        now_ms: u64,
    ) -> disk::Result<Self> {
        for (loc, meta, bytes, crc32) in spooled {
            if memory.footprint.hour(&meta.key, now_ms).is_none() {
                match load(&mut memory, &meta.key, now_ms) {
                    // The storing half tells of the bad file. Until it is mended this hour's packs are asked to wait.
                    Err(e) if !e.fatal() => continue,
                    other => other?,
                }
            }
            let mark = meta.seal.map_or(0, |s| s.mark());
            let p = Pending { bytes, crc32, mark, seq: loc.seq, weight: weight(loc.len) };
            let print = memory.footprint.hour(&meta.key, now_ms);
            let stored =
                print.and_then(|h| h.copies.get(&meta.generation)).is_some_and(|c| meta.id <= c.high);
            if !stored {
                memory.footprint.accept(&meta.key, meta.generation, meta.id, p, now_ms);
            }
        }
        Ok(Self::new(spool, Some(memory), None))
    }

    /// A relay's gate; `name` goes into the route entry that it appends.
    pub fn relay(spool: Spool, name: String) -> Self {
        Self::new(spool, None, Some(name))
    }

    /// What becomes longer than this (a receiver's `max_header`) by the entry that is appended is refused: the next receiver
    /// would read none of it, and say nothing.
    #[must_use]
    pub fn with_headers_up_to(self, max_header: usize) -> Self {
        // A relay behind this one may have a longer name.
        let reserve = if max_header > HEADER_OUT_MAX.saturating_mul(2) { NAME_RESERVE } else { 0 };
        Self { header_max: max_header.min(HEADER_DEFAULT).saturating_sub(reserve), ..self }
    }

    fn new(spool: Spool, memory: Option<Memory>, hop: Option<String>) -> Self {
        Self {
            spool,
            memory,
            raw: HashMap::new(),
            hop,
            header_max: usize::MAX,
            recent: HashMap::new(),
            recent_order: VecDeque::new(),
            known: 0,
            alarms: Vec::new(),
        }
    }

    /// Decides about one pack. Times in milliseconds of the monotonic clock, but `wall` for the route.
    pub fn offer(&mut self, mut a: Arrived, now_ms: u64, wall: &str) -> disk::Result<Answer> {
        let (key, generation, id) = (a.meta.key.clone(), a.meta.generation, a.meta.id);
        if self.memory.is_some() {
            if let Some(answer) = self.remember(&a, now_ms)? {
                return Ok(answer);
            }
        } else {
            let identity = identity(&a);
            // What somebody asked for once more is missing further on.
            if let Some(seq) = self.recent.get(&identity).filter(|_| !a.meta.repull) {
                self.known = self.known.saturating_add(1);
                return Ok(if planted::is(Bug::DuplicateAckedEarly) {
                    Answer::Now
                } else {
                    Answer::When(*seq)
                });
            }
        }
        let identity = identity(&a);
        if let (Some(_), false, Some(entry)) = (&self.memory, a.authentic, a.header.route.first_mut()) {
            // A signature that nobody has checked must not stand in the proof.
            auth::unsign(entry);
        }
        if let Some(name) = &self.hop {
            a.header.route.push(hop(name, wall));
        }
        let head = a.header.encode();
        if head.len().saturating_sub(4) > self.header_max {
            return Ok(Answer::Refuse(Refusal::Wrong(format!(
                "{}: its header would have {} bytes with the entry of this relay; the limit is {}",
                a.meta.label(),
                head.len().saturating_sub(4),
                self.header_max
            ))));
        }
        let loc = match self.spool.append(&[&head, &a.body]) {
            Ok(loc) => loc,
            Err(AppendError::Full(why)) => return Ok(Answer::Refuse(Refusal::Busy(why))),
            Err(AppendError::Disk(e)) => return Err(e),
        };
        if let Some(m) = &mut self.memory {
            let Checked { bytes, crc32 } = a.checked;
            let mark = a.meta.seal.map_or(0, |s| s.mark());
            let p = Pending { bytes, crc32, mark, seq: loc.seq, weight: weight(loc.len) };
            m.footprint.accept(&key, generation, id, p, now_ms);
            if let Some(raw) = a.raw.take() {
                self.raw.insert(loc.seq, raw);
            }
        } else {
            self.recent.insert(identity.clone(), loc.seq);
            self.recent_order.push_back(identity);
            if self.recent_order.len() > RECENT
                && let Some(old) = self.recent_order.pop_front()
            {
                self.recent.remove(&old);
            }
        }
        drop(a.charge.take());
        if planted::is(Bug::AckBeforeSync) {
            return Ok(Answer::Now);
        }
        Ok(Answer::When(loc.seq))
    }

    /// Bars packs of an hour while a certificate for one of its copies is filed; false if the copy has got some.
    pub fn hold(&mut self, key: &HourKey, generation: u64, now_ms: u64) -> disk::Result<bool> {
        let Some(m) = &mut self.memory else { return Ok(false) };
        if m.footprint.hour(key, now_ms).is_none() {
            load(m, key, now_ms)?;
        }
        if m.footprint.has_pending(key, generation) && !planted::is(Bug::CertifiedMeanwhile) {
            return Ok(false);
        }
        if let Some(h) = m.footprint.hour(key, now_ms) {
            h.certifying = true;
        }
        Ok(true)
    }

    /// The pack that was accepted under this number of the spool: hour, copy, number, if that is known.
    pub fn spooled(&self, seq: u64) -> Option<(HourKey, u64, u64)> {
        if let Some(m) = &self.memory {
            return m.footprint.spooled(seq);
        }
        let (key, generation, id, ..) = self.recent.iter().find(|(_, s)| **s == seq)?.0;
        Some((key.clone(), *generation, *id))
    }

    /// An accepted pack cannot be read any more: when it comes again it is new.
    pub fn lost(&mut self, key: &HourKey, generation: u64, id: u64) {
        if let Some(m) = &mut self.memory {
            m.footprint.lost(key, generation, id);
        }
        let other = |i: &Identity| (&i.0, i.1, i.2) != (key, generation, id);
        self.recent.retain(|i, _| other(i));
        self.recent_order.retain(other);
    }

    /// A collector's decision; `None` = take the pack.
    fn remember(&mut self, a: &Arrived, now_ms: u64) -> disk::Result<Option<Answer>> {
        let Some(m) = &mut self.memory else { return Ok(None) };
        let meta = &a.meta;
        let key = &meta.key;
        if let Err(why) = m.footprint.make_room(key, meta.generation) {
            return Ok(Some(Answer::Refuse(Refusal::Busy(why))));
        }
        if m.footprint.hour(key, now_ms).is_none() {
            load(m, key, now_ms)?;
        }
        let mark = meta.seal.map_or(0, |s| s.mark());
        let verdict = match m.footprint.judge(key, meta.generation, meta.id, &a.checked, mark) {
            Verdict::Stored => compare(&m.store, meta, a)?,
            // What nobody has signed must not make signed lines vanish: they are kept, and told.
            Verdict::Old(_) if a.authentic && m.store.closed(key)?.is_some_and(|c| !c.authentic) => {
                Verdict::Conflict
            }
            v => v,
        };
        match verdict {
            Verdict::Known(seq) => {
                self.known = self.known.saturating_add(1);
                Ok(Some(if seq == 0 { Answer::Now } else { Answer::When(seq) }))
            }
            Verdict::Old(installed) => {
                self.alarms.push(format!(
                    "{}: of a copy older than the certified one ({installed}); acknowledged and dropped; \
                     after the hour was sent again nothing needs to be done; only if this copy was meant to \
                     be the newer one, its sender's clock is behind: correct it and send the hour again",
                    meta.label()
                ));
                Ok(Some(Answer::Now))
            }
            Verdict::Certifying => {
                Ok(Some(Answer::Refuse(Refusal::Busy(format!("{key} is being certified; try again")))))
            }
            Verdict::Conflict => {
                let of_copy = format!("{}.{}.", key.hour, meta.generation);
                let kept =
                    m.conflict.list(&key.name)?.iter().filter(|file| file.starts_with(&of_copy)).count();
                let most = if a.authentic { CONFLICTS_SIGNED } else { CONFLICTS };
                if kept >= most {
                    // Those that are kept bar the certificate; what is right comes with a new copy.
                    self.alarms.push(format!(
                        "{}: other bytes under this number are stored already; {kept} packs that contradict others are kept \
                         of this hour, the limit: acknowledged and dropped; send the hour again from its source to end \
                         the conflict",
                        meta.label()
                    ));
                    return Ok(Some(Answer::Now));
                }
                let frame = [a.header.encode(), a.body.clone()].concat();
                let file =
                    format!("{}.{:08x}", Store::shelf_name(key, meta.generation, meta.id), a.checked.crc32);
                if !m.conflict.put(&key.name, &file, &frame)? {
                    let why = format!("{}: conflicting packs of this sender fill their limit", meta.label());
                    return Ok(Some(Answer::Refuse(Refusal::Busy(why))));
                }
                // A certificate that was true before stays true; one in the making sees the file.
                self.alarms.push(format!(
                    "{}: other bytes under this number are stored already; kept in {}; \
                     send the hour again from its source to end the conflict",
                    meta.label(),
                    m.conflict.dir().join(&key.name).join(&file).display()
                ));
                Ok(Some(Answer::Now))
            }
            Verdict::Early if planted::is(Bug::IdAboveIgnored) => Ok(Some(Answer::Now)),
            Verdict::Early | Verdict::New | Verdict::Stored => {
                let weight = weight((a.body.len() as u64).saturating_add(1024));
                if verdict == Verdict::Early
                    && !m.footprint.early_fits(&key.name, weight, m.early_per_name, m.early_total)
                {
                    let why =
                        format!("{}: packs before it are missing and its host's share is full", meta.label());
                    return Ok(Some(Answer::Refuse(Refusal::Busy(why))));
                }
                if let Some(h) = m.footprint.hour(key, now_ms)
                    && h.certified == Some(meta.generation)
                    && !planted::is(Bug::TagKept)
                {
                    m.store.revoke(key)?;
                    h.certified = None;
                }
                Ok(None)
            }
        }
    }
}

/// What a pack counts for while it waits: its bytes on disk, but a small one is a file and memory, too.
fn weight(len: u64) -> u64 {
    len.max(8 << 10)
}

fn identity(a: &Arrived) -> Identity {
    let id = if planted::is(Bug::DedupeByBody) { 0 } else { a.meta.id };
    let signature = a.header.route.first().map_or("", auth::signature).to_owned();
    (a.meta.key.clone(), a.meta.generation, id, a.checked.bytes, a.checked.crc32, signature)
}

fn hop(name: &str, wall: &str) -> Entry {
    let pairs =
        [("ip", name), ("stage", "tcp recv"), ("st", wall), ("ed", wall), ("elapse", "0s"), ("v", VERSION)];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Is a stored pack the one that came again? The proof knows.
fn compare(store: &Store, meta: &Meta, a: &Arrived) -> disk::Result<Verdict> {
    let places =
        [store.place(&meta.key), store.building(&meta.key, meta.generation), store.late(&meta.key, 1)];
    for place in &places {
        if let Some(s) = find(store, place, meta)? {
            let told = meta.seal.map(|seal| seal.sha256);
            let same = (s.bytes, s.crc32) == (a.checked.bytes, a.checked.crc32)
                && (s.sha256.is_none() || told.is_none() || s.sha256 == told);
            return Ok(if same { Verdict::Known(0) } else { Verdict::Conflict });
        }
    }
    // The proof was archived by somebody; the number is known to be stored.
    Ok(Verdict::Known(0))
}

fn find(store: &Store, place: &Place, meta: &Meta) -> disk::Result<Option<Stored>> {
    let mut reader = Reader::open(store.disk(), &place.headers)?;
    let in_order = reader.go_near(meta.id)?;
    while let Some((_, line)) = reader.next()? {
        match line {
            Line::Ours(s) if s.id == meta.id && s.generation == meta.generation => return Ok(Some(s)),
            Line::Ours(s) if in_order && s.id > meta.id => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}

/// Derives an hour's footprint from what is on disk.
fn load(m: &mut Memory, key: &HourKey, now_ms: u64) -> disk::Result<()> {
    let mut hour = HourPrint::default();
    let store = &m.store;
    let disk = store.disk();
    let closed = store.closed(key)?;
    let add = |hour: &mut HourPrint, place: &Place, fallback: Option<u64>| -> disk::Result<()> {
        let found = scan(disk, place)?;
        if let Health::Foreign { ids, .. } = found.health {
            hour.foreign = Some(ids);
        } else if found.summary.high > 0 {
            let generation = fallback.unwrap_or(found.summary.generation);
            hour.copies.insert(generation, CopyPrint::new(found.summary.high));
        }
        Ok(())
    };
    let place = store.place(key);
    match &closed {
        Some(c) if disk.stat(&place.data)?.is_none() && c.bytes > 0 => {
            add(&mut hour, &store.late(key, c.packs.saturating_add(1)), Some(c.generation))?;
        }
        Some(c) => {
            hour.copies.insert(c.generation, CopyPrint::new(c.packs));
            if let Health::Foreign { ids, .. } = scan_if_foreign(store, c, &place)? {
                hour.foreign = Some(ids);
            }
        }
        None => {
            add(&mut hour, &place, None)?;
            // The tag may stand although the `closed` file is lost: later bytes must take it away all the same.
            if let Some(generation) = hour.copies.last_key_value().map(|(g, _)| *g)
                && store.may_have_tag(key)?
            {
                hour.certified =
                    store.tag(key)?.map(|_| generation).filter(|_| !planted::is(Bug::TagOfUnclosedKept));
            }
        }
    }
    if let Some(c) = &closed {
        hour.certified = Some(c.generation);
        hour.floor = if c.is_tag() { c.generation } else { 0 };
    }
    for generation in store.building_list(key)? {
        add(&mut hour, &store.building(key, generation), Some(generation))?;
    }
    for (generation, id, file) in m.early.packs_of(key)? {
        let Some(frame) = m.early.get(&key.name, &file)? else { continue };
        let Some((header, _)) = split_frame(&frame) else { continue };
        let Ok(meta) = header.meta(&key.name) else { continue };
        let (bytes, crc32, mark) = meta.seal.map_or((0, 0, 0), |s| (s.bytes, s.crc32, s.mark()));
        let p = Pending { bytes, crc32, mark, seq: 0, weight: weight(frame.len() as u64) };
        let copy = hour.copies.entry(generation).or_default();
        if id > copy.high {
            copy.pending.insert(id, p);
        }
    }
    if planted::is(Bug::FootprintBelieved) {
        for (k, (generation, high, _)) in load_json(disk, store.state_dir()).unwrap_or_default() {
            let copy = hour.copies.entry(generation).or_default();
            copy.high = copy.high.max(if k == *key { high } else { 0 });
        }
    }
    m.footprint.load(key, hour, now_ms);
    Ok(())
}

/// Only an hour without a sender's digest can be one that the original began; others are spared the reading.
fn scan_if_foreign(store: &Store, c: &crate::integrity::Certificate, place: &Place) -> disk::Result<Health> {
    if c.verified { Ok(Health::Good) } else { Ok(scan(store.disk(), place)?.health) }
}
