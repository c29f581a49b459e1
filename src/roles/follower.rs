//! The follower's core: tail, journal, retry spool and queue joined, without threads.
//!
//! Carries P1 from the file to the wire: [`Follower::step`] seals packs and commits the journal before any of them
//! can come out of [`Follower::next_job`]; [`Follower::report`] takes what became of it. A pack's bytes are in
//! memory (bounded by `tail_memory`) or a sender's frame, in the retry spool, or only in the source, from where a cut is read again.
//!
//! Where rotation may destroy the source, that is no place for them: such a pack is in the retry spool before the journal
//! knows its cut, and if there is no room, nothing is read.

pub mod bound;
pub mod resend;
mod retry;
mod streams;

use crate::auth::{self, Key};
use crate::clock::{Clock, Zone};
use crate::config::{Peer, TailConfig};
use crate::disk::{self, Disk};
use crate::journal::{Event, HourLog, Journal};
use crate::metrics;
use crate::pack::{Encoder, Header, HourKey, Meta, Seal, split_frame};
use crate::planted::{self, Bug};
use crate::sender::{Next, Outcome, Queue};
use crate::spool::{Loc, Reader, Shelf, Spool};
use crate::tail::{Identity, Sealed, meta_of, unpack};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
pub use streams::{RIGHTS, Streams, must_be_seen};

/// Hours that are archived in one turn, so that a thousand streams that close at once do not stop it.
const ARCHIVE_AT_ONCE: usize = 64;
/// How long a count of all waiting packs holds, in ms.
const COUNT_MS: u64 = 100;

enum Bytes {
    Memory(Vec<u8>),
    /// A sender has them.
    Away,
    Spool(Loc),
    Source,
}

struct Waiting {
    key: HourKey,
    generation: u64,
    id: u64,
    bytes: Bytes,
    weight: usize,
    since_ms: u64,
}

/// What a sender thread gets.
pub enum Load {
    /// Lines that it compresses.
    Raw(Box<Meta>, Vec<u8>),
    /// A whole frame.
    Frame(Vec<u8>),
}

/// One pack to send.
pub struct Job {
    /// Number in the queue.
    pub number: u64,
    /// Its bytes.
    pub load: Load,
}

impl Job {
    /// The frame to send. What were its lines is not needed after that.
    pub fn frame(&self, encoder: &mut Encoder, key: Option<&Key>, wall: &str, out: &mut Vec<u8>) {
        match &self.load {
            Load::Frame(f) => out.clone_from(f),
            Load::Raw(meta, raw) => {
                encoder.body(raw, &meta.tag(), out);
                let mut entry = meta.entry();
                for (k, v) in [("stage", "make pack"), ("st", wall), ("ed", wall), ("elapse", "0s")] {
                    entry.insert(k.into(), v.into());
                }
                if let Some(key) = key {
                    key.sign(&mut entry);
                }
                let header = Header { route: vec![entry], pack_len: out.len() as u64 };
                // The header tells the body's length; moving the small body beats a second buffer per sender.
                out.splice(0..0, header.encode());
            }
        }
    }
}

/// See the module's header.
pub struct Follower {
    disk: Disk,
    clock: Clock,
    zone: Zone,
    conf: TailConfig,
    state_dir: PathBuf,
    /// The files.
    pub streams: Streams,
    /// The cuts.
    pub journal: Journal,
    /// What is to be sent.
    pub queue: Queue,
    retry: Option<Spool>,
    retry_reader: Option<Reader>,
    held: Shelf,
    waiting: BTreeMap<u64, Waiting>,
    numbers: HashMap<(HourKey, u64), u64>,
    next_number: u64,
    in_memory: usize,
    /// Sealed, and not yet known to be durable in the journal; each with its place in the retry spool, if it has to have one.
    unreleased: Vec<(Sealed, Option<Loc>)>,
    acked: BTreeMap<(HourKey, u64), Vec<u64>>,
    frame: Vec<u8>,
    recorded: Option<(PathBuf, u64)>,
    marks_saved: u64,
    /// Packs of the retry spool whose acknowledgement the journal does not have yet.
    retry_done: Vec<u64>,
    /// Until when a count of `window_packs` holds, and the count.
    window: (u64, usize),
    window_told: bool,
    /// When the streams' parts of the retry spool are counted again.
    parts_ms: u64,
    /// Packs acknowledged and packs sent more than once since the start.
    pub sent: u64,
    /// Packs that the journal held unacknowledged at start.
    pub resumed: usize,
    look_for_requests_ms: u64,
    /// Requests of `logd resend` that wait for their turn; at first nobody has looked.
    requests: usize,
    look_at_held_ms: u64,
    route_saved: Option<bound::RouteFile>,
    /// What packs are signed with.
    pub key: Option<Arc<Key>>,
    /// Sentences for the log.
    pub alarms: Vec<String>,
    /// The same, of what went well.
    pub messages: Vec<String>,
}

/// What [`Follower::open`] needs besides the configuration.
pub struct Setup<'a> {
    /// Where everything lies.
    pub disk: &'a Disk,
    /// The time.
    pub clock: &'a Clock,
    /// The hours' zone.
    pub zone: &'a Zone,
    /// The state directory.
    pub state_dir: &'a Path,
    /// Has it served before?
    pub served: bool,
    /// Identity for a new state directory.
    pub fresh: Identity,
    /// An original's position to go on from (`peer = original`): hour, first pack number, byte, file.
    pub resume: Option<(crate::clock::Hour, u64, u64, PathBuf)>,
    /// Ship what is there and come to an end.
    pub once: bool,
    /// For the jitter.
    pub seed: u64,
}

impl Follower {
    /// Opens the state directory and finds out where to go on.
    pub fn open(s: &Setup<'_>, conf: &TailConfig) -> Result<Self, String> {
        let text = |e: disk::Error| e.to_string();
        let mut alarms = Vec::new();
        let disk = s.disk;
        let known = match Identity::load(disk, &Identity::path(s.state_dir, "")).map_err(text)? {
            Some(Ok(id)) => Some(id),
            Some(Err(why)) => {
                alarms.push(format!("{why}; begun again from the configuration, hours go as new copies"));
                None
            }
            None => None,
        };
        if let Some(id) = &known {
            let name = conf.name.as_ref().map(|_| s.fresh.name.as_str());
            if let Some(why) = id.unfit(name, &s.zone.name(), s.state_dir) {
                return Err(why);
            }
        }
        let (mut journal, damaged) =
            Journal::open(disk, s.state_dir, s.served && known.is_some(), &mut |t| alarms.push(t))
                .map_err(text)?;
        let archived = journal.archive_list().map_err(text)?;
        let identity = streams::adopt(known.clone(), &s.fresh, &journal, &archived, damaged);
        if known.as_ref() != Some(&identity) {
            identity.save(disk, &Identity::path(s.state_dir, "")).map_err(text)?;
        }
        if damaged {
            restart_hours(disk, &mut journal, &identity).map_err(text)?;
        }
        if let (true, Some((hour, first_id, pos, path))) = (known.is_none(), s.resume.clone()) {
            let hour = HourKey { name: identity.name.clone(), hour };
            journal.append(&Event::Opened {
                hour: hour.to_string(),
                generation: 0,
                path,
                first_id,
                pos,
                clock: false,
            });
        }
        match journal.commit() {
            // Each turn tries it again, and until it succeeds nothing new is sent.
            Err(e) if e.no_space() => {}
            other => other.map_err(text)?,
        }

        let held = s.state_dir.join("held");
        let held =
            Shelf::open(disk, &held, conf.sender.held_per_name, conf.sender.held_total).map_err(text)?;
        let mut streams = Streams::open(s, conf, &identity, &mut journal, damaged)?;
        alarms.append(&mut streams.alarms);
        let mut me = Self {
            disk: disk.clone(),
            clock: s.clock.clone(),
            zone: s.zone.clone(),
            conf: conf.clone(),
            state_dir: s.state_dir.to_owned(),
            streams,
            journal,
            queue: Queue::new(&conf.sender, s.seed),
            retry: None,
            retry_reader: None,
            held,
            waiting: BTreeMap::new(),
            numbers: HashMap::new(),
            next_number: 1,
            in_memory: 0,
            unreleased: Vec::new(),
            acked: BTreeMap::new(),
            frame: Vec::new(),
            recorded: None,
            marks_saved: s.clock.mono_ms(),
            retry_done: Vec::new(),
            window: (0, 0),
            window_told: false,
            parts_ms: 0,
            sent: 0,
            resumed: 0,
            look_for_requests_ms: 0,
            requests: usize::MAX,
            look_at_held_ms: s.clock.mono_ms().saturating_add(conf.sender.held_after_ms),
            route_saved: None,
            key: None,
            alarms,
            messages: Vec::new(),
        };
        me.check_bindings();
        me.take_up_unacknowledged();
        me.open_retry_spool(damaged || known.is_none()).map_err(text)?;
        Ok(me)
    }

    fn take_up_unacknowledged(&mut self) {
        let mut all = Vec::new();
        for (key, log) in self.journal.hours() {
            all.extend(log.unacked.iter().map(|id| (key.clone(), log.generation, *id)));
        }
        all.sort_by_key(|a| (a.0.hour, a.2));
        self.resumed = all.len();
        for (key, generation, id) in all {
            self.add(key, generation, id, Bytes::Source, 0);
        }
    }

    fn add(&mut self, key: HourKey, generation: u64, id: u64, bytes: Bytes, weight: usize) {
        let number = self.next_number;
        self.next_number = self.next_number.saturating_add(1);
        self.numbers.insert((key.clone(), id), number);
        let bound = self.lane_of(&key);
        let since_ms = self.clock.mono_ms();
        self.waiting.insert(number, Waiting { key, generation, id, bytes, weight, since_ms });
        self.queue.push(number);
        self.queue.bind(number, bound);
    }

    /// One turn: reads files, seals packs, makes them durable in the journal, and only then queues them.
    pub fn step(&mut self) -> disk::Result<()> {
        let noted = self.retry_done.len();
        let turned = self.turn(noted);
        if turned.as_ref().is_err_and(disk::Error::no_space) && noted > 0 {
            // Packs that are delivered may be what fills the disk: without their room nothing could be noted ever again.
            self.forget_retry(noted.min(self.retry_done.len()))?;
            self.journal.commit()?;
        }
        turned
    }

    fn turn(&mut self, noted: usize) -> disk::Result<()> {
        self.tick_route();
        self.note_acks()?;
        if let Err(e) = self.take_requests() {
            if e.fatal() {
                return Err(e);
            }
            self.alarms.push(format!("{e}; requests of `logd resend` wait"));
        }
        let now = self.clock.mono_ms();
        if now >= self.look_at_held_ms
            && let Some(mut retry) = self.retry.take()
        {
            self.look_at_held_ms = now.saturating_add(self.conf.sender.held_after_ms);
            let done = self.put_back(&mut retry, false);
            self.retry = Some(retry);
            done?;
        }
        if self.queue.is_link_down() {
            self.spill()?;
        }
        // In catch-up the journal is synced once per half of the memory, not once per pack.
        let full = self.in_memory > self.conf.tail_memory / 2;
        let sealed = self.in_window().saturating_add(self.unreleased.len());
        let packs = self.conf.window_packs.saturating_sub(sealed);
        if !self.queue.is_link_down() {
            self.window_told = false;
        } else if packs == 0 && !std::mem::replace(&mut self.window_told, true) {
            self.alarms.push(format!(
                "{} packs wait to be acknowledged, as many as window_packs allows: no file is read until they become fewer; nothing is lost while the log files stay; see what `sending to` says, or \
                 raise window_packs",
                self.waiting.len()
            ));
        }
        let looked = if full || packs == 0 {
            self.streams.glance(&self.journal)
        } else {
            let room = self.conf.tail_memory.saturating_sub(self.in_memory);
            let keep = self.room_to_keep()?;
            let mut sealed = Vec::new();
            // What was sealed before an error is released all the same.
            let looked = self.streams.step(&mut self.journal, room, packs, keep, &mut sealed);
            count_sealed(&self.journal, &sealed);
            self.unreleased.extend(sealed.into_iter().map(|s| (s, None)));
            looked
        };
        self.keep_unreleased()?;
        if planted::is(Bug::CutBeforeJournal) {
            self.journal.flush()?;
        } else {
            self.journal.commit()?;
        }
        self.forget_retry(noted)?;
        for (s, kept) in std::mem::take(&mut self.unreleased) {
            if let Some(loc) = kept {
                self.add(s.key, s.generation, s.id, Bytes::Spool(loc), 0);
                self.streams.recycle(s.raw);
                continue;
            }
            let weight = s.raw.len();
            self.in_memory = self.in_memory.saturating_add(weight);
            self.add(s.key, s.generation, s.id, Bytes::Memory(s.raw), weight);
        }
        self.shed();
        self.save_route()?;
        self.alarms.append(&mut self.streams.alarms);
        self.messages.append(&mut self.streams.messages);
        self.streams.save()?;
        // Behind the journal's commit: whatever these marks call done is acknowledged in the journal, too.
        let now = self.clock.mono_ms();
        if let Some(r) =
            self.retry.as_mut().filter(|_| now.saturating_sub(self.marks_saved) >= super::MARKS_MS)
        {
            self.marks_saved = now;
            r.save_marks()?;
        }
        looked
    }

    /// Notes what was acknowledged and archives hours that are whole. None of it has to be durable now.
    fn note_acks(&mut self) -> disk::Result<()> {
        for ((key, generation), ids) in std::mem::take(&mut self.acked) {
            self.journal.append(&Event::Acked { hour: key.to_string(), generation, ids, to: None });
        }
        self.keep_record()?;
        let reading = |k: &HourKey| self.streams.is_reading(k) && !planted::is(Bug::LateBytesForgotten);
        let whole = |k: &HourKey, l: &HourLog| l.is_done() && l.unacked.is_empty() && !reading(k);
        let done: Vec<HourKey> = self
            .journal
            .hours()
            .iter()
            .filter(|(k, l)| whole(k, l))
            .map(|(k, _)| k.clone())
            .take(ARCHIVE_AT_ONCE)
            .collect();
        for key in done {
            self.journal.archive(&key)?;
            let unpacked = unpack::place(&self.state_dir.join(unpack::DIR), &key);
            if self.disk.stat(&unpacked)?.is_some() {
                self.disk.remove(&unpacked)?;
            }
        }
        self.journal.flush()
    }

    /// Keeps `record_file` as the original would, for a way back.
    fn keep_record(&mut self) -> disk::Result<()> {
        let Some(path) = &self.conf.record_file else { return Ok(()) };
        // The original knows one file.
        let own = |(key, log): &(&HourKey, &HourLog)| key.name == self.streams.host() && !log.clock;
        let Some((_, log)) = self.journal.hours().iter().rfind(own) else { return Ok(()) };
        let first_open = log.unacked.first().copied().unwrap_or(u64::MAX);
        let lines: u64 = log.cuts.iter().take_while(|c| c.id < first_open).map(|c| c.lines).sum();
        let now = (log.path.clone(), lines);
        if self.recorded.as_ref() != Some(&now) {
            self.disk.replace(path, format!("{} {lines}", now.0.display()).as_bytes(), 0o644)?;
            self.recorded = Some(now);
        }
        Ok(())
    }

    /// Wall time as route entries have it.
    pub fn wall(&self) -> String {
        self.zone.format_ms(self.clock.now_ms())
    }

    fn meta(&self, number: u64) -> Option<Meta> {
        let w = self.waiting.get(&number)?;
        self.meta_of_pack(&w.key, w.generation, w.id)
    }

    fn meta_of_pack(&self, key: &HourKey, generation: u64, id: u64) -> Option<Meta> {
        let log = self.journal.hour(key).filter(|log| log.generation == generation)?;
        let mut meta = meta_of(key, log, id, &self.zone)?;
        if self.conf.sender.peer == Peer::Original {
            // The original knows no copies, takes one `done` per hour, and would certify a partial hour.
            let first_done = log.cuts.iter().find(|c| c.done).map(|c| c.id);
            meta.generation = 0;
            meta.repull = false;
            meta.done = meta.done && first_done == Some(meta.id) && meta.state.is_empty();
        }
        Some(meta)
    }

    /// The next pack to send, if one is ready.
    pub fn next_job(&mut self) -> disk::Result<Option<Job>> {
        loop {
            let Some(number) = self.queue.next(self.clock.mono_ms()) else { return Ok(None) };
            let Some(meta) = self.meta(number) else {
                // Its hour began anew as another copy.
                self.queue.drop_unsent(number);
                self.forget(number);
                continue;
            };
            return match self.load(number, meta) {
                Ok(Some(load)) => Ok(Some(Job { number, load })),
                Ok(None) => {
                    self.queue.drop_unsent(number);
                    self.forget(number);
                    continue;
                }
                Err(e) => {
                    // Its turn comes again.
                    self.queue.put_off(number, self.clock.mono_ms());
                    Err(e)
                }
            };
        }
    }

    /// A pack's bytes, from wherever they are; `None` = it was sent before, and cannot be again.
    fn load(&mut self, number: u64, meta: Meta) -> disk::Result<Option<Load>> {
        if let Some(w) = self.waiting.get_mut(&number) {
            match std::mem::replace(&mut w.bytes, Bytes::Away) {
                Bytes::Memory(raw) => return Ok(Some(Load::Raw(Box::new(meta), raw))),
                Bytes::Spool(loc) => {
                    w.bytes = Bytes::Spool(loc);
                    let mut frame = Vec::new();
                    let good = match &self.retry_reader {
                        Some(r) => r.fetch_at(&loc, &mut frame)?,
                        None => false,
                    };
                    if good {
                        return Ok(Some(Load::Frame(self.signed_anew(frame))));
                    }
                    w.bytes = Bytes::Source;
                }
                Bytes::Source | Bytes::Away => w.bytes = Bytes::Source,
            }
        }
        self.read_again(meta)
    }

    /// A pack that waited on disk goes out with the key of today: that of then may not be valid any more.
    fn signed_anew(&self, frame: Vec<u8>) -> Vec<u8> {
        let Some((mut header, body)) = split_frame(&frame) else { return frame };
        let Some(entry) = header.route.first_mut() else { return frame };
        let before = entry.clone();
        match &self.key {
            Some(key) => key.sign(entry),
            None => auth::unsign(entry),
        }
        if *entry == before { frame } else { [&header.encode(), body].concat() }
    }

    /// Reads a cut from its source again. What the source does not have any more is named as lost, unless the receiver has
    /// acknowledged it once.
    fn read_again(&mut self, mut meta: Meta) -> disk::Result<Option<Load>> {
        let mut raw = Vec::new();
        let log = self.journal.hour(&meta.key);
        let found = match log.and_then(|l| l.cut(meta.id).map(|c| (l, c))) {
            Some((log, cut)) => {
                let (path, cut) = (log.path.clone(), cut.clone());
                let (acked, generation) = (log.again.contains(&meta.id), log.generation);
                let there = resend::bytes_of(&self.disk, log, &cut, &mut raw)?;
                if !there && acked {
                    self.alarms.push(format!(
                        "{}: not sent again: {} does not hold it any more; look for it in a backup: it cannot be sent from here",
                        meta.label(),
                        path.display()
                    ));
                    let (hour, ids) = (meta.key.to_string(), vec![meta.id]);
                    self.journal.append(&Event::Acked { hour, generation, ids, to: None });
                    return Ok(None);
                }
                if !there {
                    let range = format!("{}-{}", cut.start, cut.end);
                    self.alarms.push(format!(
                        "{}: {} does not hold bytes {range} any more; lost; the hour is not certified: see `logd status` of its store",
                        meta.label(),
                        path.display()
                    ));
                    let hour = meta.key.to_string();
                    let range = Some((cut.start, Some(cut.end)));
                    self.journal.append(&Event::Note { hour, what: "loss".into(), range, pos: None });
                }
                there.then_some(()).ok_or((cut.start, cut.end))
            }
            None => Err((0, 0)),
        };
        if let Err((from, to)) = found {
            raw.clear();
            meta.lines = 0;
            meta.seal = Some(Seal::of(&[]));
            meta.loss = format!("{from}-{to}");
            meta.state = "loss".into();
        }
        Ok(Some(Load::Raw(Box::new(meta), raw)))
    }

    fn forget(&mut self, number: u64) {
        self.queue.remove(number);
        if let Some(w) = self.waiting.remove(&number) {
            self.numbers.remove(&(w.key, w.id));
            self.in_memory = self.in_memory.saturating_sub(w.weight);
        }
    }

    /// A job's lines are in its frame now, and their memory is free for others.
    pub fn packed(&mut self, number: u64, raw: Vec<u8>) {
        if let Some(w) = self.waiting.get_mut(&number) {
            self.in_memory = self.in_memory.saturating_sub(std::mem::take(&mut w.weight));
        }
        self.streams.recycle(raw);
    }

    /// Takes what became of a job; `frame` is what was sent.
    pub fn report(&mut self, job: Job, frame: &[u8], outcome: &Outcome) -> disk::Result<()> {
        let number = job.number;
        let to = self.asked(number);
        match self.queue.report(number, outcome, self.clock.mono_ms()) {
            Next::Done => {
                let Some(w) = self.waiting.remove(&number) else { return Ok(()) };
                self.in_memory = self.in_memory.saturating_sub(w.weight);
                self.numbers.remove(&(w.key.clone(), w.id));
                if let Bytes::Spool(loc) = &w.bytes {
                    self.retry_done.push(loc.seq);
                }
                self.bind_hour(&w.key, w.generation, to);
                self.acked.entry((w.key, w.generation)).or_default().push(w.id);
                self.sent = self.sent.saturating_add(1);
                count_sent(&job, frame);
                Ok(())
            }
            Next::Again => {
                // A lost range is found out anew each time; anything else is kept, so that the source may go.
                self.keep(job, frame)
            }
            Next::Hold => {
                let Some(w) = self.waiting.get(&number) else { return Ok(()) };
                let file = format!("{}.{}.{}", w.key.hour, w.generation, w.id);
                let kept =
                    self.held.put(&w.key.name, &file, frame).inspect_err(|_| self.queue.push(number))?;
                self.alarms.push(format!(
                    "{} pack {}: the receiver refuses it for good; {}; it is tried again later",
                    w.key,
                    w.id,
                    if kept { "kept in held/" } else { "held/ is full, it stays where it is" }
                ));
                if !kept {
                    self.queue.push(number);
                    return self.keep(job, frame);
                }
                if let Some(w) = self.waiting.remove(&number) {
                    // Its frame is in held/ now, durably, and comes back as another record.
                    if let Bytes::Spool(loc) = &w.bytes {
                        self.retry_done.push(loc.seq);
                    }
                    self.in_memory = self.in_memory.saturating_sub(w.weight);
                    self.numbers.remove(&(w.key, w.id));
                }
                Ok(())
            }
        }
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// With `--once`: has everything that is there been acknowledged?
    pub fn is_finished(&self) -> bool {
        self.requests == 0 && self.streams.at_end() && self.waiting.is_empty() && self.unreleased.is_empty()
    }

    /// Packs that are sealed and not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.waiting.len()
    }

    /// For how long the oldest pack has been waiting for its acknowledgement, in ms.
    pub fn oldest_ms(&self) -> u64 {
        let oldest = self.waiting.first_key_value().map(|(_, w)| w.since_ms);
        oldest.map_or(0, |at| self.clock.mono_ms().saturating_sub(at))
    }

    /// Bytes of the retry spool, and packs in it.
    pub fn retry_spool(&self) -> (u64, u64) {
        self.retry.as_ref().map_or((0, 0), |r| (r.bytes(), r.waiting()))
    }

    /// Why no file is read, if that is so for longer than a moment.
    pub fn paused(&self) -> Option<String> {
        let full = self.window_told.then(|| {
            format!("{} packs wait, as many as window_packs allows: no file is read", self.waiting.len())
        });
        full.or_else(|| {
            let name = self.streams.paused()?;
            Some(format!("{name}: not read, the retry spool has no room for it (spool_size, min_free)"))
        })
    }

    /// A clean stop: acknowledgements and marks are written.
    pub fn close(&mut self) -> disk::Result<()> {
        self.keep_unreleased()?;
        self.note_acks()?;
        self.journal.commit()?;
        self.forget_retry(self.retry_done.len())?;
        match &mut self.retry {
            Some(r) => r.close(),
            None => Ok(()),
        }
    }
}

fn count_sealed(journal: &Journal, sealed: &[Sealed]) {
    for s in sealed {
        metrics::SEALED_PACKS.inc();
        metrics::SEALED_BYTES.add(s.raw.len() as u64);
        let log = journal.hour(&s.key).filter(|log| log.generation == s.generation);
        metrics::SEALED_LINES.add(log.and_then(|log| log.cut(s.id)).map_or(0, |cut| cut.lines));
    }
}

fn count_sent(job: &Job, frame: &[u8]) {
    metrics::SENT_PACKS.inc();
    metrics::SENT_WIRE_BYTES.add(frame.len() as u64);
    let told = match &job.load {
        Load::Raw(meta, _) => Some((meta.lines, meta.seal)),
        Load::Frame(_) => split_frame(frame).and_then(|(h, _)| h.meta("").ok()).map(|m| (m.lines, m.seal)),
    };
    if let Some((lines, seal)) = told {
        metrics::SENT_LINES.add(lines);
        metrics::SENT_BYTES.add(seal.map_or(0, |s| s.bytes));
    }
}

/// After damage: every open hour is sent whole, as a copy above any that was sent before; so is a closed one whose file
/// has grown, because later packs of it may have been sent. An hour of a file without a date that is closed is known to its
/// end; an open one is read once more from where it began, if that is still there.
fn restart_hours(disk: &Disk, journal: &mut Journal, identity: &Identity) -> disk::Result<()> {
    let mut open: Vec<(HourKey, PathBuf, Option<u64>)> = journal
        .hours()
        .iter()
        .filter(|(_, l)| !l.clock || !l.is_done())
        .map(|(k, l)| (k.clone(), l.path.clone(), l.clock.then_some(l.begin)))
        .collect();
    for key in journal.archive_list()? {
        let Some(log) = journal.archived(&key)?.filter(|_| journal.hour(&key).is_none()) else { continue };
        if !log.clock && disk.stat(&log.path)?.is_some_and(|s| s.len > log.pos) {
            open.push((key, log.path, None));
        }
    }
    // What was noted of a closed hour may be lost.
    let closed = journal.hours().iter().filter(|(_, l)| l.clock && l.is_done());
    for hour in closed.map(|(k, _)| k.to_string()).collect::<Vec<_>>() {
        journal.append(&Event::Note { hour, what: "partial".into(), range: None, pos: None });
    }
    for (key, path, begin) in open {
        journal.append(&Event::Opened {
            hour: key.to_string(),
            generation: identity.copies_generation,
            path,
            first_id: 1,
            pos: begin.unwrap_or(0),
            clock: begin.is_some(),
        });
    }
    Ok(())
}
