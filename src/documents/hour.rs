//! One hour's way into the database, as far as its proof goes.

use super::batch::Batch;
use super::server::{Refused, Server, Trouble};
use super::shape::{Made, Shape, Work};
use super::{AGAIN_MAX, Counts, DONE, Marker, Progress, REJECT, STATE, marker};
use crate::config::MongoConfig;
use crate::disk::{self, Disk, File};
use crate::etl::fields::Source;
use crate::etl::format::Span;
use crate::etl::number::put_unsigned;
use crate::integrity::lines::{Line, Reader, Stored};
use crate::integrity::{Certificate, Store};
use crate::pack::HourKey;
use crate::record;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bytes of one message; a server takes 48 MB.
const MESSAGE_MAX: usize = 12 << 20;
/// How long what was acknowledged may be known in memory only.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How often a document that is refused for an unknown reason is tried again.
const TRIES: u32 = 5;
/// Longest pack that is believed, in bytes.
const PACK_MAX: u64 = 256 << 20;

/// Why an hour does not go on.
#[derive(Debug)]
pub enum Stopped {
    /// Our own disk.
    Disk(disk::Error),
    /// The database: later.
    Away(String),
    /// The role stops.
    Stop,
}

impl From<disk::Error> for Stopped {
    fn from(e: disk::Error) -> Self {
        Self::Disk(e)
    }
}

/// What a turn came to.
#[derive(Debug, Default)]
pub struct Turn {
    /// Lines that were written.
    pub written: u64,
    /// Lines that can be no document.
    pub rejected: u64,
    /// The hour is in the database now.
    pub done: Option<Marker>,
    /// What stands in the way, for people: the store must mend it.
    pub wrong: Option<String>,
}

/// What all hours share.
pub struct Documents {
    store: Store,
    save_dir: PathBuf,
    conf: MongoConfig,
    shape: Shape,
}

/// One hour, while it is worked on.
struct Run<'a> {
    all: &'a Documents,
    key: &'a HourKey,
    database: String,
    now: Progress,
    batch: Batch,
    /// For each of the batch, its line: pack and line, and where in `text` it is.
    lines: Vec<(u64, u64, Span)>,
    text: Vec<u8>,
    reject: Option<File>,
    saved: Instant,
    turn: Turn,
}

impl Documents {
    /// Makes the directories.
    pub fn open(disk: &Disk, conf: &MongoConfig, state_dir: &std::path::Path) -> Result<Self, String> {
        let shape = Shape::new(conf)?;
        let s = &conf.store;
        for dir in [DONE, REJECT] {
            disk.create_dir_all(&s.save_dir.join(dir), s.dir_mode).map_err(|e| e.to_string())?;
        }
        disk.create_dir_all(&state_dir.join(STATE), 0o750).map_err(|e| e.to_string())?;
        let store = Store::new(disk, &s.save_dir, state_dir, s.file_mode, s.dir_mode);
        Ok(Self { store, save_dir: s.save_dir.clone(), conf: conf.clone(), shape })
    }

    /// What it was made of.
    pub fn conf(&self) -> &MongoConfig {
        &self.conf
    }

    /// Hours that are not whole in the database.
    pub fn pending(&self) -> disk::Result<Vec<HourKey>> {
        let mut keys: Vec<HourKey> = self.store.hours()?;
        // An hour without lines has no proof.
        keys.extend(self.store.closed_list()?);
        keys.sort();
        keys.dedup();
        let mut list = Vec::new();
        for key in keys {
            if !self.is_done(&key)? {
                list.push(key);
            }
        }
        Ok(list)
    }

    fn certificate(&self, key: &HourKey) -> disk::Result<Option<Certificate>> {
        Ok(self.store.closed(key)?.filter(Certificate::is_tag))
    }

    fn is_done(&self, key: &HourKey) -> disk::Result<bool> {
        let Some(certificate) = self.certificate(key)? else { return Ok(false) };
        Ok(marker(self.store.disk(), &self.save_dir, key)?.is_some_and(|m| m.is_of(&certificate)))
    }

    fn progress_path(&self, key: &HourKey) -> PathBuf {
        self.store.state_dir().join(STATE).join(key.to_string())
    }

    /// Writes what the proof has and the database has not. `stop` is asked between messages.
    pub fn hour(
        &self,
        key: &HourKey,
        server: &mut Server,
        work: &mut Work,
        now_secs: i64,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<Turn, Stopped> {
        if self.is_done(key)? {
            return Ok(Turn::default());
        }
        let disk = self.store.disk();
        // It is of before lines came that are not in the database, or of another copy. Nobody must take it for the present one
        // while that is written.
        let done = self.save_dir.join(DONE);
        if disk.stat(&done.join(key.to_string()))?.is_some() {
            disk.remove(&done.join(key.to_string()))?;
            disk.sync_dir(&done)?;
        }
        let path = self.progress_path(key);
        let known = disk.read_opt(&path, super::SMALL)?;
        let mut now: Progress = known.and_then(|b| record::from_json(&b).ok()).unwrap_or_default();
        let mut run = Run {
            all: self,
            key,
            database: server.database(&key.hour.day_of().to_string()),
            batch: Batch::default(),
            lines: Vec::new(),
            text: Vec::new(),
            reject: None,
            saved: Instant::now(),
            turn: Turn::default(),
            now: Progress::default(),
        };
        let to = (run.database.clone(), self.conf.collection.clone());
        if now.format == 1 && now.place != to && !now.place.0.is_empty() {
            // What is there stays there.
            now = Progress { format: 1, generation: now.generation, ..Progress::default() };
            run.drop_rejects()?;
        }
        now.place = to;
        let place = self.store.place(key);
        if let Some((_, Line::Ours(first))) = Reader::open(disk, &place.headers)?.next()? {
            let upsert = self.conf.upsert;
            if now.format != 1 || now.generation != first.generation {
                // A later copy has taken the place of the one that was written, or nobody knows what was written. A document that
                // was updated may be that of other hours by now: it stays, and is updated again.
                let mut clear = std::mem::take(&mut now.clear);
                if now.format == 1 {
                    clear.push(ids_of(key, now.generation));
                } else {
                    let (from, to) = ids_of(key, first.generation);
                    clear.extend([(format!("{key}."), from), (to, format!("{key}/"))]);
                }
                clear.retain(|_| !upsert);
                let place = now.place;
                now =
                    Progress { format: 1, generation: first.generation, clear, place, ..Progress::default() };
                run.now = now;
                run.drop_rejects()?;
                run.save()?;
            } else {
                run.now = now;
            }
        } else {
            run.now = Progress { format: 1, ..now };
        }
        if run.now.packs == 0 {
            // The collection may have been removed since its index was made, and the hour begins anew because of that.
            server.forget_index();
        }
        for (from, to) in std::mem::take(&mut run.now.clear) {
            server.remove(&run.database, (&from, &to)).map_err(|e| Stopped::Away(e.later()))?;
        }
        run.all_packs(server, work, stop)?;
        run.flush(server)?;
        run.save()?;
        run.certified(server, now_secs)?;
        Ok(run.turn)
    }
}

impl Run<'_> {
    fn disk(&self) -> &Disk {
        self.all.store.disk()
    }

    fn all_packs(
        &mut self,
        server: &mut Server,
        work: &mut Work,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        let place = self.all.store.place(self.key);
        let mut reader = Reader::open_at(self.disk(), &place.headers, self.now.proof)?;
        let source = Source { name: self.key.name.clone(), hour: self.key.hour.to_string() };
        let (mut data, mut raw, mut again) = (None, Vec::new(), self.now.proof == 0);
        loop {
            let pack = match reader.next()? {
                Some((_, Line::Ours(pack))) if pack.generation == self.now.generation => pack,
                // A line was mended: those behind it moved.
                Some(_) if !again => {
                    (reader, again) = (Reader::open(self.disk(), &place.headers)?, true);
                    continue;
                }
                Some((_, Line::Foreign(_))) => {
                    let why = "the original began it, and its proof does not tell which lines are whose; send it again by \
                               `logd resend` of its host: the copy is written";
                    self.turn.wrong = Some(why.into());
                    return Ok(());
                }
                // The end; or it is being written, or the store mends it, or has put another copy in its place.
                _ => return Ok(()),
            };
            if pack.id <= self.now.packs {
                continue;
            }
            if pack.id != self.now.packs.saturating_add(1) || pack.offset != self.now.bytes {
                if again {
                    return Ok(());
                }
                (reader, again) = (Reader::open(self.disk(), &place.headers)?, true);
                continue;
            }
            if data.is_none() && pack.bytes > 0 {
                data = match self.disk().open(&place.data) {
                    Ok(file) => Some(file),
                    Err(e) if e.not_found() => {
                        let why = "its data file was taken away before its lines were in the database; put it back as \
                                   log_data/NAME_HOUR, or send the hour again by `logd resend` of its host";
                        self.turn.wrong = Some(why.into());
                        return Ok(());
                    }
                    Err(e) => return Err(e.into()),
                };
            }
            if !read(data.as_ref(), &pack, &mut raw)? {
                self.turn.wrong = Some(format!(
                    "bytes {} to {} of its data file are not what its proof says; `logd verify` tells more",
                    pack.offset,
                    pack.offset.saturating_add(pack.bytes)
                ));
                return Ok(());
            }
            self.pack(&pack, &raw, &source, (server, work), stop)?;
            self.now.packs = pack.id;
            self.now.bytes = pack.offset.saturating_add(pack.bytes);
            self.now.proof = reader.position();
            if self.saved.elapsed() >= SAVE_EVERY {
                self.flush(server)?;
                self.save()?;
            }
            if stop() {
                return Err(Stopped::Stop);
            }
        }
    }

    fn pack(
        &mut self,
        pack: &Stored,
        raw: &[u8],
        source: &Source,
        (server, work): (&mut Server, &mut Work),
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        let conf = &self.all.conf;
        let mut id = format!("{}.{}.{}.", self.key, self.now.generation, pack.id).into_bytes();
        let (before, mut rest) = (id.len(), raw);
        for n in 1_u64.. {
            if rest.is_empty() {
                break;
            }
            let (line, after) = rest.split_at(memchr::memchr(b'\n', rest).unwrap_or(rest.len()));
            rest = after.get(1..).unwrap_or_default();
            self.now.counts.lines = self.now.counts.lines.saturating_add(1);
            id.truncate(before);
            put_unsigned(n, &mut id);
            match self.all.shape.document(work, line, source, (!conf.upsert).then_some(&id)) {
                Made::Skipped => self.now.counts.skipped = self.now.counts.skipped.saturating_add(1),
                Made::Rejected(why) => self.reject(pack.id, n, &why, line)?,
                Made::Document(document, transaction) => {
                    if conf.upsert {
                        let transaction = transaction.map(|t| (conf.id_key.as_str(), t));
                        self.batch.upsert(&id, transaction, document);
                    } else {
                        self.batch.insert(document);
                    }
                    let start = self.text.len();
                    self.text.extend_from_slice(line);
                    self.lines.push((pack.id, n, Span { start, end: self.text.len() }));
                    if self.batch.len() >= conf.bulk_size
                        || self.batch.elements().len().saturating_add(self.text.len()) >= MESSAGE_MAX
                    {
                        self.flush(server)?;
                        if stop() {
                            return Err(Stopped::Stop);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the batch.
    fn flush(&mut self, server: &mut Server) -> Result<(), Stopped> {
        let upsert = self.all.conf.upsert;
        // One at a time, if a message is refused because of one of its documents.
        let mut alone = false;
        // An update that was carried out late may have made the document meanwhile: once more finds it.
        let mut met = None;
        while !self.batch.is_empty() {
            let one = alone.then(|| self.batch.first());
            let batch = one.as_ref().unwrap_or(&self.batch);
            let sent = batch.len();
            let written = if upsert {
                server.upsert(&self.database, batch).map(|made| {
                    self.now.counts.made = self.now.counts.made.saturating_add(made);
                })
            } else {
                server.insert(&self.database, batch)
            };
            match written {
                Ok(()) => self.passed(sent, 0),
                Err(Trouble::Away(why)) => return Err(Stopped::Away(why)),
                Err(Trouble::Message(why)) if alone => {
                    self.refused(0, &why)?;
                    self.passed(1, 1);
                }
                Err(Trouble::Message(_)) => alone = true,
                Err(Trouble::Strange(at, why)) => {
                    let Some((pack, n, _)) = self.lines.get(at).copied() else {
                        return Err(Stopped::Away(why));
                    };
                    if server.tries(&format!("{} {pack}:{n}", self.key)) < TRIES {
                        return Err(Stopped::Away(why));
                    }
                    self.refused(at, &why)?;
                    // The others of it may be there; once more finds them.
                    self.batch.remove(at);
                    self.lines.remove(at);
                }
                Err(Trouble::Refused(refused)) if upsert => {
                    let Some(first) = refused.first() else { continue };
                    self.passed(first.at, 0);
                    let line = self.lines.first().map(|(pack, n, _)| (*pack, *n));
                    if first.repeated && met != line {
                        met = line;
                        continue;
                    }
                    self.refused(0, &first.why)?;
                    self.passed(1, 1);
                }
                Err(Trouble::Refused(refused)) => {
                    let mut bad = 0_usize;
                    for Refused { at, why, untold, .. } in refused {
                        if !untold || !self.is_there(server, at)? {
                            self.refused(at, &why)?;
                            bad = bad.saturating_add(1);
                        }
                    }
                    self.passed(sent, bad);
                }
            }
        }
        self.text.clear();
        Ok(())
    }

    /// The first `n` are done with; all but the `bad` ones of them are in the database.
    fn passed(&mut self, n: usize, bad: usize) {
        let good = n.saturating_sub(bad) as u64;
        self.now.counts.written = self.now.counts.written.saturating_add(good);
        self.turn.written = self.turn.written.saturating_add(good);
        self.batch.remove_first(n);
        self.lines.drain(..n.min(self.lines.len()));
    }

    /// One can never be: its line is set aside.
    fn refused(&mut self, at: usize, why: &str) -> Result<(), Stopped> {
        let Some((pack, n, place)) = self.lines.get(at).copied() else { return Ok(()) };
        let line = place.of(&self.text).to_vec();
        self.reject(pack, n, &format!("the database refuses it: {why}"), &line)
    }

    /// Is the document of this place in the database?
    fn is_there(&self, server: &mut Server, at: usize) -> Result<bool, Stopped> {
        let Some((pack, n, _)) = self.lines.get(at) else { return Ok(false) };
        let id = format!("{}.{}.{pack}.{n}", self.key, self.now.generation);
        let found = server.count(&self.database, (&id, &format!("{id}\0")));
        Ok(found.map_err(|e| Stopped::Away(e.later()))? > 0)
    }

    /// Those of another copy, or of another place.
    fn drop_rejects(&mut self) -> disk::Result<()> {
        self.reject = None;
        self.disk().remove(&self.all.save_dir.join(REJECT).join(self.key.to_string()))
    }

    /// Keeps a line: pack and line, the reason, the line.
    fn reject(&mut self, pack: u64, n: u64, why: &str, line: &[u8]) -> Result<(), Stopped> {
        if self.reject.is_none() {
            let path = self.all.save_dir.join(REJECT).join(self.key.to_string());
            let file = self.disk().create(&path, self.all.store.file_mode)?;
            // What a crash has left behind what is known comes again.
            file.set_len(self.now.reject_bytes)?;
            self.reject = Some(file);
        }
        let mut text = Vec::new();
        // Writing to a vector cannot fail.
        let _ = write!(text, "{pack}:{n}\t{}\t", why.replace(['\t', '\n', '\r'], " "));
        text.extend_from_slice(line);
        text.push(b'\n');
        if let Some(file) = &self.reject {
            file.write_at(&text, self.now.reject_bytes)?;
        }
        self.now.reject_bytes = self.now.reject_bytes.saturating_add(text.len() as u64);
        self.now.counts.rejected = self.now.counts.rejected.saturating_add(1);
        self.turn.rejected = self.turn.rejected.saturating_add(1);
        Ok(())
    }

    /// Makes durable what is known. Nothing may wait in the batch.
    fn save(&mut self) -> disk::Result<()> {
        if let Some(file) = &self.reject {
            file.sync()?;
            self.disk().sync_dir(&self.all.save_dir.join(REJECT))?;
        }
        let path = self.all.progress_path(self.key);
        self.disk().replace(&path, &record::to_json(&self.now), 0o640)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Writes the marker, if the hour is certified and all of it is acknowledged.
    fn certified(&mut self, server: &mut Server, now_secs: i64) -> Result<(), Stopped> {
        let Some(certificate) = self.all.certificate(self.key)? else { return Ok(()) };
        let now = &self.now;
        // An hour without lines has no proof.
        let same = certificate.bytes == 0
            || (certificate.generation, certificate.packs, certificate.bytes)
                == (now.generation, now.packs, now.bytes);
        if !same {
            return Ok(());
        }
        let counts = now.counts.clone();
        let upsert = self.all.conf.upsert;
        let mut count = |(from, to): (String, String)| {
            server.count(&self.database, (&from, &to)).map_err(|e| Stopped::Away(e.later()))
        };
        // A document that was updated may have been made by any copy.
        let found = count(ids_of(self.key, now.generation))?;
        let any = count(ids(self.key))?;
        let wanted = if upsert { counts.made } else { counts.written };
        if !upsert && found > wanted {
            self.turn.wrong = Some(format!(
                "{found} documents with its _id are there, and {wanted} were written; somebody else has made some: remove \
                 those, and it is counted again"
            ));
            return Ok(());
        }
        if found < wanted || !upsert && any > found {
            // The database has lost what it had acknowledged, or somebody was there; or a removal of another copy's documents
            // was followed by a write of them that had been given up.
            let (generation, place, again) = (now.generation, now.place.clone(), now.again);
            let why = if found < wanted {
                format!("{found} documents are there, and {wanted} were acknowledged")
            } else {
                format!("{} documents of other copies are there", any.saturating_sub(found))
            };
            if again >= AGAIN_MAX {
                self.turn.wrong = Some(format!(
                    "{why}, {again} times now; it is not written anew any more: find out who removes documents, or makes them; \
                     then remove {}, and start the role again",
                    self.all.progress_path(self.key).display()
                ));
                return Ok(());
            }
            let again = again.saturating_add(1);
            if found < wanted {
                self.now = Progress { format: 1, generation, place, again, ..Progress::default() };
                self.drop_rejects()?;
            } else {
                let (from, to) = ids_of(self.key, generation);
                self.now.clear = vec![(format!("{}.", self.key), from), (to, format!("{}/", self.key))];
                self.now.again = again;
            }
            self.save()?;
            return Err(Stopped::Away(format!("{}: {why}; that is mended", self.key)));
        }
        // Somebody else's may be among them.
        let found = if upsert { any.min(counts.written) } else { found };
        if counts.rejected == 0 {
            self.drop_rejects()?;
        }
        let marker = self.marker(&certificate, &counts, found, now_secs);
        let path = self.all.save_dir.join(DONE).join(self.key.to_string());
        self.disk().replace(&path, &record::to_json(&marker), self.all.store.file_mode)?;
        self.turn.done = Some(marker);
        Ok(())
    }

    fn marker(&self, certificate: &Certificate, counts: &Counts, found: u64, at: i64) -> Marker {
        Marker {
            format: 1,
            generation: certificate.generation,
            revision: certificate.revision,
            database: self.database.clone(),
            collection: self.all.conf.collection.clone(),
            lines: counts.lines,
            inserted: found,
            updated: counts.written.saturating_sub(found),
            skipped: counts.skipped,
            rejected: counts.rejected,
            at,
        }
    }
}

/// Where the `_id`s of a copy begin and end: `/` follows the dot.
fn ids_of(key: &HourKey, generation: u64) -> (String, String) {
    (format!("{key}.{generation}."), format!("{key}.{generation}/"))
}

/// The same of an hour.
pub fn ids(key: &HourKey) -> (String, String) {
    (format!("{key}."), format!("{key}/"))
}

/// Reads a pack's lines; false if they are not those that the proof tells of.
fn read(data: Option<&File>, pack: &Stored, raw: &mut Vec<u8>) -> disk::Result<bool> {
    let len = usize::try_from(pack.bytes.min(PACK_MAX)).unwrap_or(0);
    raw.resize(len, 0);
    let n = match data {
        Some(file) if len > 0 => file.read_at(raw, pack.offset)?,
        _ => 0,
    };
    Ok(n as u64 == pack.bytes && crc32fast::hash(raw) == pack.crc32)
}
