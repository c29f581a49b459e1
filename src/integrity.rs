//! What a collector knows for certain about the hours it stores.
//!
//! Carries P2 and P3. Files below `save_dir`:
//!
//! - `log_data/<name>_<hour>`: the raw lines, packs in id order.
//! - `headers/<name>_<hour>`: the proof, one JSON line per stored pack ([`lines`]). A line is written only after its
//!   pack's bytes are durable, so it proves bytes `offset … offset+bytes` of the data file.
//! - `received/<name>_<hour>_<lines>`: the tag; its presence tells batch jobs that the hour is whole, its content is
//!   the [`Certificate`]. `received/<name>_<day>` and `received/all_<hour>` say the same of a day and of the fleet.
//! - `doubtful/<name>_<hour>`: a certificate that is no proof, with the reason in `state`.
//! - `aside/`: copies being built (`<name>_<hour>.<gen>/`), replaced ones (`….replaced`), `early/`, `conflict/`,
//!   `….gaps`, `….late`, files of `early/` that were damaged (`….damaged`), and the intent of an unfinished
//!   installation (`….install`).
//!
//! and below the state directory `closed/<name>_<hour>`: the certificate of a closed hour again, so that its proof
//! need not be read at start. It can be deleted; it is made again from the proof.

pub mod lines;
pub mod packed;

use crate::clock::Hour;
use crate::disk::{self, Disk};
use crate::pack::{self, HourKey, hex};
use crate::planted::{self, Bug};
use crate::record;
use lines::{Line, Reader, Stored, Summary};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Below so many tags they are not listed again because they have become many.
const TAGGED_MIN: usize = 10_000;
/// Longest state file of this module, in bytes.
const SMALL: u64 = 4 << 20;

/// Where one copy of an hour lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose hour it is.
    pub key: HourKey,
    /// The raw lines.
    pub data: PathBuf,
    /// The proof.
    pub headers: PathBuf,
    /// Number of the first pack in these files: 1, but in a `.late` file.
    pub first_id: u64,
}

/// A certificate: the content of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// 1.
    pub format: u32,
    /// Sender's name.
    pub name: String,
    /// Hour, or day.
    pub hour: Hour,
    /// Copy; 0 in normal life.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// How often the hour was certified, later bytes included.
    pub revision: u64,
    /// Packs.
    pub packs: u64,
    /// Lines.
    pub lines: u64,
    /// Raw bytes.
    pub bytes: u64,
    /// SHA-256 over the packs' digests in id order, hex; equal to what the sender computed.
    pub digest: String,
    /// SHA-256 of the stored file as a whole, hex: what `sha256sum` prints.
    pub sha256: String,
    /// The stored bytes were read again and are what the sender read from its source.
    pub verified: bool,
    /// Every pack was signed with a key that opens this sender's hours. Without keys: false.
    #[serde(default)]
    pub authentic: bool,
    /// The hour had no bytes.
    pub empty: bool,
    /// Why this is not a proof; empty on a tag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Byte ranges of the source that are lost.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub loss: String,
    /// Hour names in this day, if the sender told; 0 = not told.
    #[serde(default)]
    pub day_hours: u32,
    /// `clock`: the hour holds what was read in it, not what a file of its name held. Else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cut: String,
    /// When it was written (unix seconds).
    pub certified: i64,
}

impl Certificate {
    /// Name of the tag: `<name>_<hour>_<lines>`.
    pub fn tag_name(&self) -> String {
        format!("{}_{}_{}", self.name, self.hour, self.lines)
    }
    /// Does a tag (and not only a doubtful certificate) belong to it?
    pub fn is_tag(&self) -> bool {
        self.state.is_empty()
    }
}

/// What `received/` held when it was listed, and what was added since.
struct Tagged {
    /// Hashes of hours.
    hours: HashSet<u64>,
    /// How many there were when it was listed.
    listed: usize,
    /// When the directory had last been changed, by us: if it is another time, somebody else was there.
    changed_ns: i64,
}

/// Paths and modes of one store.
#[derive(Clone)]
pub struct Store {
    disk: Disk,
    save_dir: PathBuf,
    closed: PathBuf,
    /// Which hours may have a tag, once somebody asked: see [`Store::may_have_tag`].
    tagged: Arc<Mutex<Option<Tagged>>>,
    /// Mode of files that others read.
    pub file_mode: u32,
    /// Mode of their directories.
    pub dir_mode: u32,
}

impl Store {
    /// Paths only; makes nothing.
    pub fn new(disk: &Disk, save_dir: &Path, state_dir: &Path, file_mode: u32, dir_mode: u32) -> Self {
        let closed = state_dir.join("closed");
        let tagged = Arc::default();
        Self { disk: disk.clone(), save_dir: save_dir.to_owned(), closed, tagged, file_mode, dir_mode }
    }

    /// Makes the directories.
    pub fn create_dirs(&self) -> disk::Result<()> {
        for d in ["log_data", "headers", "received", "aside", "doubtful"] {
            self.disk.create_dir_all(&self.save_dir.join(d), self.dir_mode)?;
        }
        self.disk.create_dir_all(&self.closed, 0o750)
    }

    /// The state directory of its collector.
    pub fn state_dir(&self) -> &Path {
        self.closed.parent().unwrap_or(&self.closed)
    }

    /// The disk it lies on.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// A path below `save_dir`.
    pub fn path(&self, dir: &str) -> PathBuf {
        self.save_dir.join(dir)
    }

    /// Where consumers find the hour.
    pub fn place(&self, key: &HourKey) -> Place {
        let name = key.to_string();
        Place {
            key: key.clone(),
            data: self.path("log_data").join(&name),
            headers: self.path("headers").join(&name),
            first_id: 1,
        }
    }

    /// Directory in which a later copy is built.
    pub fn building_dir(&self, key: &HourKey, generation: u64) -> PathBuf {
        self.path("aside").join(format!("{key}.{generation}"))
    }

    /// Where a later copy is built.
    pub fn building(&self, key: &HourKey, generation: u64) -> Place {
        let dir = self.building_dir(key, generation);
        Place { key: key.clone(), data: dir.join("data"), headers: dir.join("headers"), first_id: 1 }
    }

    /// Copies of an hour that are being built.
    pub fn building_list(&self, key: &HourKey) -> disk::Result<Vec<u64>> {
        let dir = self.path("aside");
        if self.disk.stat(&dir)?.is_none() {
            return Ok(Vec::new());
        }
        let prefix = format!("{key}.");
        let number = |n: &str| n.strip_prefix(&prefix)?.parse::<u64>().ok();
        Ok(self.disk.list(&dir)?.iter().filter(|e| e.is_dir).filter_map(|e| number(&e.name)).collect())
    }

    /// Where bytes go that come after the data file of a closed hour was taken away.
    pub fn late(&self, key: &HourKey, first_id: u64) -> Place {
        let aside = self.path("aside");
        let (data, headers) = (aside.join(format!("{key}.late")), aside.join(format!("{key}.late.headers")));
        Place { key: key.clone(), data, headers, first_id }
    }

    /// Hours that have a proof in place.
    pub fn hours(&self) -> disk::Result<Vec<HourKey>> {
        let dir = self.path("headers");
        if self.disk.stat(&dir)?.is_none() {
            return Ok(Vec::new());
        }
        Ok(self.disk.list(&dir)?.iter().filter_map(|e| HourKey::parse(&e.name)).collect())
    }

    fn read_json(&self, path: &Path) -> disk::Result<Option<Certificate>> {
        let bytes = self.disk.read_opt(path, SMALL)?;
        Ok(bytes.and_then(|b| record::from_json(&b).ok()))
    }

    /// The certificate of a closed hour, if it is closed.
    pub fn closed(&self, key: &HourKey) -> disk::Result<Option<Certificate>> {
        let found = self.read_json(&self.closed.join(key.to_string()))?;
        Ok(found.filter(|c| c.name == key.name && c.hour == key.hour))
    }

    /// Hours that have a `closed` file.
    pub fn closed_list(&self) -> disk::Result<Vec<HourKey>> {
        Ok(self.disk.list(&self.closed)?.iter().filter_map(|e| HourKey::parse(&e.name)).collect())
    }

    /// The tag of an hour, whatever its line count: its file name and, unless the original wrote it, its content.
    pub fn tag(&self, key: &HourKey) -> disk::Result<Option<(String, Option<Certificate>)>> {
        let Some(name) = self.tag_names(key)?.into_iter().next() else { return Ok(None) };
        let content = self.read_json(&self.path("received").join(&name))?;
        Ok(Some((name, content)))
    }

    /// File names of an hour's tags: one, unless somebody has copied or renamed it.
    fn tag_names(&self, key: &HourKey) -> disk::Result<Vec<String>> {
        let dir = self.path("received");
        if self.disk.stat(&dir)?.is_none() {
            return Ok(Vec::new());
        }
        let prefix = format!("{key}_");
        let names = self.disk.list(&dir)?;
        let at = names.partition_point(|e| e.name < prefix);
        let from = names.into_iter().skip(at).map(|e| e.name);
        Ok(from.take_while(|n| n.starts_with(&prefix)).collect())
    }

    /// Could a tag of this hour stand? Whoever writes the store asks before it lists `received/`, which holds a file for each
    /// hour that was ever certified: a month of a thousand hosts is 720,000, and a listing for each hour would take a
    /// tenth of a core. So the directory is listed once, and again when somebody else has changed it or when what was
    /// listed is less than half of what is known; 8 bytes of each name are kept.
    pub fn may_have_tag(&self, key: &HourKey) -> disk::Result<bool> {
        let dir = self.path("received");
        let changed = self.received_changed()?;
        let mut tagged = self.tagged.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |t: &Tagged| {
            Some(t.changed_ns) == changed && t.hours.len() <= t.listed.saturating_mul(2).max(TAGGED_MIN)
        };
        if !tagged.as_ref().is_some_and(known) {
            let Some(changed_ns) = changed else { return Ok(false) };
            // Whatever its third part is, the first two name the hour.
            let hour = |name: &str| name.match_indices('_').nth(1).map_or(name.len(), |(at, _)| at);
            let hours: HashSet<u64> = self
                .disk
                .list(&dir)?
                .iter()
                .map(|e| hash(e.name.get(..hour(&e.name)).unwrap_or(&e.name)))
                .collect();
            *tagged = Some(Tagged { listed: hours.len(), hours, changed_ns });
        }
        Ok(tagged.as_ref().is_none_or(|t| t.hours.contains(&hash(&key.to_string()))))
    }

    /// When a name was last added to `received/` or removed; `None` = it is not there.
    fn received_changed(&self) -> disk::Result<Option<i64>> {
        Ok(self.disk.stat(&self.path("received"))?.map(|s| s.mtime_ns))
    }

    /// Since `before` we have changed `received/` ourselves. If somebody else had changed it until then, that must still be
    /// noticed; what somebody does at the very same moment is not.
    fn note_received(&self, before: Option<i64>) -> disk::Result<()> {
        let now = self.received_changed()?;
        if let Some(t) = self.tagged.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && Some(t.changed_ns) == before
        {
            t.changed_ns = now.unwrap_or(0);
        }
        Ok(())
    }

    /// The doubtful certificate of an hour.
    pub fn doubtful(&self, key: &HourKey) -> disk::Result<Option<Certificate>> {
        self.read_json(&self.path("doubtful").join(key.to_string()))
    }

    /// Files a certificate: as tag or as doubtful, then as closed. Batch jobs see it when the tag's rename is done. A
    /// standing tag that says otherwise goes first: it is known to be false now.
    pub fn certify(&self, cert: &Certificate) -> disk::Result<()> {
        let json = record::to_json(cert);
        let key = HourKey { name: cert.name.clone(), hour: cert.hour };
        let known = self.may_have_tag(&key)?;
        if known && self.tag_names(&key)?.iter().any(|n| !cert.is_tag() || *n != cert.tag_name()) {
            self.revoke(&key)?;
        }
        let doubtful = self.path("doubtful").join(key.to_string());
        let received = self.path("received");
        // What an interrupted compression left beside the data is of an earlier certificate.
        if self.disk.stat(&self.place(&key).data)?.is_some() {
            self.disk.remove(&packed::path(self, &key))?;
        }
        if cert.is_tag() {
            if let Some(t) = self.tagged.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                t.hours.insert(hash(&key.to_string()));
            }
            let before = self.received_changed()?;
            self.disk.replace(&received.join(cert.tag_name()), &json, self.file_mode)?;
            self.note_received(before)?;
            self.disk.remove(&doubtful)?;
        } else {
            self.disk.replace(&doubtful, &json, self.file_mode)?;
        }
        self.close(cert)
    }

    /// Files a certificate as closed whose tag stands.
    pub fn close(&self, cert: &Certificate) -> disk::Result<()> {
        let key = HourKey { name: cert.name.clone(), hour: cert.hour };
        self.disk.replace(&self.closed.join(key.to_string()), &record::to_json(cert), 0o640)
    }

    /// Takes back everything that says the hour is whole: its tag, its day's, the fleet's. Durable when it returns;
    /// only then may bytes that change the hour be acknowledged. Where a batch job took the data file away, the
    /// closed file stays, as `late`: it tells where the bytes that come now begin.
    ///
    /// The tags of the day and of the fleet go first, then the closed file, at last the hour's own tag: whatever a crash
    /// leaves, the tag is still there to say that it must be taken away before later bytes are acknowledged, and an hour
    /// without a closed file is verified again at start.
    pub fn revoke(&self, key: &HourKey) -> disk::Result<()> {
        let closed = self.closed(key)?;
        let received = self.path("received");
        let before = self.received_changed()?;
        self.disk.remove(&received.join(format!("{}_{}", key.name, key.hour.day_of())))?;
        self.disk.remove(&received.join(format!("all_{}", key.hour)))?;
        self.disk.sync_dir(&received)?;
        let path = self.closed.join(key.to_string());
        let gone = self.disk.stat(&self.place(key).data)?.is_none();
        if let Some(mut late) = closed.clone().filter(|c| gone && c.bytes > 0) {
            "late".clone_into(&mut late.state);
            self.disk.replace(&path, &record::to_json(&late), 0o640)?;
        } else {
            self.disk.remove(&path)?;
            self.disk.sync_dir(&self.closed)?;
        }
        if let Some(c) = &closed {
            self.disk.remove(&received.join(c.tag_name()))?;
        }
        while let Some((name, _)) = self.tag(key)? {
            self.disk.remove(&received.join(name))?;
        }
        if !planted::is(Bug::TagRemovalNotSynced) {
            self.disk.sync_dir(&received)?;
        }
        self.note_received(before)?;
        self.disk.remove(&self.path("doubtful").join(key.to_string()))?;
        self.disk.sync_dir(&self.path("doubtful"))
    }

    /// The certificate of an hour whose tag stands. Somebody may have taken the tag away alone, because the hour is wrong: the
    /// wider tags must not call it whole again.
    pub fn tagged_now(&self, key: &HourKey) -> disk::Result<Option<Certificate>> {
        let Some(c) = self.closed(key)?.filter(Certificate::is_tag) else { return Ok(None) };
        let stands = self.disk.stat(&self.path("received").join(c.tag_name()))?.is_some();
        Ok(stands.then_some(c))
    }

    /// Writes the day's tag when every hour of it has one. The last hour's sender says how many names the day has.
    pub fn day_tag(&self, key: &HourKey) -> disk::Result<bool> {
        let day = key.hour.day_of();
        if key.hour.is_daily() {
            return Ok(false);
        }
        // From the last hour backwards: the latest of them tells how many names the day has. No zone has ever dropped
        // more than two hours: a smaller number is a mistake or a lie.
        let (mut have, mut lack, mut may_lack) = (0_u32, 0_u32, None);
        for h in (0..24).rev() {
            let Some(hour) = Hour::new(day.year(), day.month(), day.day(), Some(h)) else { continue };
            match self.tagged_now(&HourKey { name: key.name.clone(), hour })? {
                Some(c) => {
                    have = have.saturating_add(1);
                    let told = (22..24).contains(&c.day_hours).then(|| 24_u32.saturating_sub(c.day_hours));
                    may_lack.get_or_insert(told.unwrap_or(0));
                }
                None => lack = lack.saturating_add(1),
            }
            if lack > may_lack.unwrap_or(2) {
                return Ok(false);
            }
        }
        let json = serde_json::json!({"format": 1, "name": key.name, "day": day.to_string(), "hours": have});
        let path = self.path("received").join(format!("{}_{day}", key.name));
        let before = self.received_changed()?;
        self.disk.replace(&path, json.to_string().as_bytes(), self.file_mode)?;
        self.note_received(before)?;
        Ok(true)
    }

    /// Writes the fleet's tag when every expected host's hour has one.
    pub fn fleet_tag(&self, hour: Hour, hosts: &[String]) -> disk::Result<bool> {
        let mut rows = Vec::new();
        for name in hosts {
            match self.tagged_now(&HourKey { name: name.clone(), hour })? {
                Some(c) => rows.push(serde_json::json!({
                    "name": c.name, "lines": c.lines, "bytes": c.bytes, "digest": c.digest, "sha256": c.sha256,
                    "verified": c.verified, "empty": c.empty,
                })),
                None => return Ok(false),
            }
        }
        if rows.is_empty() {
            return Ok(false);
        }
        let path = self.path("received").join(format!("all_{hour}"));
        let text = serde_json::to_vec_pretty(&rows).unwrap_or_default();
        let before = self.received_changed()?;
        self.disk.replace(&path, &text, self.file_mode)?;
        self.note_received(before)?;
        Ok(true)
    }

    /// File of [`Shelf`](crate::spool::Shelf) names for one pack of a copy: `<hour>.<gen>.<id>`.
    pub fn shelf_name(key: &HourKey, generation: u64, id: u64) -> String {
        format!("{}.{generation}.{id}", key.hour)
    }

    /// Are packs set aside that contradict stored ones of this copy?
    pub fn has_conflict(&self, key: &HourKey, generation: u64) -> disk::Result<bool> {
        let dir = self.path("aside").join("conflict").join(&key.name);
        if self.disk.stat(&dir)?.is_none() {
            return Ok(false);
        }
        let prefix = format!("{}.{generation}.", key.hour);
        Ok(self.disk.list(&dir)?.iter().any(|e| e.name.starts_with(&prefix)))
    }
}

fn hash(hour: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    hour.hash(&mut h);
    h.finish()
}

/// What is wrong with a stored copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The proof has a damaged line, or one that cannot follow.
    Proof(String),
    /// A pack's bytes are not what they were: which, where.
    Data(String),
    /// So many bytes follow the proven ones. While an hour is being stored that is the normal course.
    Beyond(u64),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Proof(why) | Self::Data(why) => f.write_str(why),
            Self::Beyond(n) => write!(f, "{n} bytes follow the proven ones"),
        }
    }
}

/// What reading a stored hour again found.
#[derive(Clone, Debug)]
pub struct Reread {
    /// Sums over the proof.
    pub summary: Summary,
    /// SHA-256 of the data file, hex.
    pub sha256: String,
    /// First thing that is not as it must be.
    pub fault: Option<Fault>,
}

/// Reads the data file of a copy again, pack by pack, against its proof. `None` = the original's proof has no offsets.
///
/// `whole` computes the digest of the file: the packs' digests are as much work again, and with large files both go on at the
/// same time.
pub fn reread(disk: &Disk, place: &Place, whole: &mut dyn Whole) -> disk::Result<Option<Reread>> {
    let mut reader = Reader::open(disk, &place.headers)?;
    let data = match disk.stat(&place.data)? {
        Some(_) => Some(disk.open(&place.data)?),
        None => None,
    };
    let mut summary = Summary::new(place.first_id);
    let mut buf = Vec::new();
    let fault = loop {
        let stored = match reader.next()? {
            None => break None,
            Some((_, Line::Ours(s))) => s,
            Some((_, Line::Foreign(_))) => return Ok(None),
            Some((at, Line::Bad)) => {
                break Some(Fault::Proof(format!("the proof has a damaged line at byte {at}")));
            }
        };
        if let Err(why) = belongs(place, &stored).and_then(|()| summary.add(&stored)) {
            break Some(Fault::Proof(format!("the proof: {why}")));
        }
        if let Some(why) = reread_pack(data.as_ref(), &stored, whole, &mut buf)? {
            break Some(Fault::Data(why));
        }
    };
    let len = disk.stat(&place.data)?.map_or(0, |s| s.len);
    let fault = fault.or((len > summary.bytes).then(|| Fault::Beyond(len.saturating_sub(summary.bytes))));
    Ok(Some(Reread { summary, sha256: hex(&whole.digest()), fault }))
}

/// Files change their names when people move or restore them: a whole hour of another host has sums that agree.
fn belongs(place: &Place, s: &Stored) -> Result<(), String> {
    if s.key == place.key {
        return Ok(());
    }
    Err(format!("pack {} is of {}, and the file is that of {}", s.id, s.key, place.key))
}

/// Bytes that are read at a time.
const REREAD: usize = 128 << 10;

/// The digest of a whole file, block by block.
pub trait Whole {
    /// Takes the next block, and may put another buffer, of any content, in its place.
    fn take(&mut self, block: &mut Vec<u8>);
    /// The digest of all blocks so far; then it begins anew.
    fn digest(&mut self) -> pack::Sha;
}

impl Whole for Sha256 {
    fn take(&mut self, block: &mut Vec<u8>) {
        self.update(&*block);
    }

    fn digest(&mut self) -> pack::Sha {
        self.finalize_reset().into()
    }
}

fn reread_pack(
    data: Option<&disk::File>,
    s: &Stored,
    whole: &mut dyn Whole,
    buf: &mut Vec<u8>,
) -> disk::Result<Option<String>> {
    let mut sha = Sha256::new();
    let mut crc = crc32fast::Hasher::new();
    let (mut at, end) = (s.offset, s.offset.saturating_add(s.bytes));
    while at < end {
        let want = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(REREAD);
        buf.resize(want, 0);
        let n = match data {
            Some(f) => f.read_at(buf, at)?,
            None => 0,
        };
        if n < want {
            let end = at.saturating_add(n as u64);
            return Ok(Some(format!("pack {}: the data file ends at byte {end}", s.id)));
        }
        // One digest per byte would do if packs were not hashed one by one; both are asked for by people.
        match s.sha256 {
            Some(_) => sha.update(&*buf),
            None => crc.update(buf),
        }
        whole.take(buf);
        at = at.saturating_add(n as u64);
    }
    let range = format!("bytes {} to {end}", s.offset);
    Ok(match s.sha256 {
        Some(want) if <[u8; 32]>::from(sha.finalize()) != want => {
            Some(format!("pack {} ({range}) does not have the SHA-256 that its sender computed", s.id))
        }
        None if crc.finalize() != s.crc32 => {
            Some(format!("pack {} ({range}) does not have the CRC-32 it was stored with", s.id))
        }
        _ => None,
    })
}

/// How the files of one copy are.
#[derive(Clone, Debug)]
pub enum Health {
    /// Proof and data agree; `data_len` may go beyond the proof.
    Good,
    /// The original began it.
    Foreign {
        /// Stored pack numbers.
        ids: std::collections::HashSet<u64>,
        /// Number of the pack that said `done`, if exactly one did.
        done: Option<u64>,
        /// Two packs said `done`, or one came after it: no tag.
        barred: bool,
        /// Lines.
        lines: u64,
    },
    /// Nothing is appended; its packs go aside until a new copy mends it.
    Damaged(String),
}

/// What is on disk of one copy of an hour.
#[derive(Clone, Debug)]
pub struct Scan {
    /// See [`Health`].
    pub health: Health,
    /// Sums over the good part of the proof.
    pub summary: Summary,
    /// Length of the data file.
    pub data_len: u64,
    /// Length of the proof file.
    pub headers_len: u64,
    /// Byte of the proof at which its good part ends.
    pub good_len: u64,
}

impl Scan {
    /// Nothing is stored.
    pub fn empty(first_id: u64) -> Self {
        let summary = Summary::new(first_id);
        Self { health: Health::Good, summary, data_len: 0, headers_len: 0, good_len: 0 }
    }
}

/// Length of a file, 0 if it is missing. What is no file has an error, and no length.
fn len_of(disk: &Disk, path: &Path) -> disk::Result<u64> {
    match disk.stat(path)? {
        Some(s) if !s.is_file => disk.open(path).map(|_| 0),
        found => Ok(found.map_or(0, |s| s.len)),
    }
}

/// Reads the proof of a copy from its first line to its last. Changes nothing.
pub fn scan(disk: &Disk, place: &Place) -> disk::Result<Scan> {
    let mut out = Scan::empty(place.first_id);
    out.headers_len = len_of(disk, &place.headers)?;
    let mut reader = Reader::open(disk, &place.headers)?;
    let mut damage = None;
    while let Some((at, line)) = reader.next()? {
        match (line, &mut out.health) {
            (Line::Ours(s), Health::Good) => {
                out.good_len = at;
                if let Err(why) = belongs(place, &s).and_then(|()| out.summary.add(&s)) {
                    damage = Some(format!("{} at byte {at}: {why}", place.headers.display()));
                    break;
                }
            }
            (Line::Foreign(f), Health::Good) if out.summary.high.saturating_add(1) == place.first_id => {
                out.health = Health::Foreign {
                    ids: std::collections::HashSet::from([f.id]),
                    done: f.done.then_some(f.id),
                    barred: false,
                    lines: f.lines,
                };
            }
            (Line::Foreign(f), Health::Foreign { ids, done, barred, lines }) => {
                if ids.insert(f.id) {
                    *lines = lines.saturating_add(f.lines);
                }
                *barred |= f.done && done.is_some_and(|d| d != f.id);
                if f.done {
                    *done = Some(f.id);
                }
            }
            // An original that was killed tears its last line: the pack's bytes may be there or not, we do not know.
            (_, Health::Foreign { barred, .. }) => *barred = true,
            _ => {
                damage = Some(format!("{}: damaged line at byte {at}", place.headers.display()));
                out.good_len = at;
                break;
            }
        }
    }
    // Read after the proof: what is proven must be there by then, even while somebody stores.
    out.data_len = len_of(disk, &place.data)?;
    if let Some(why) = damage {
        out.health = Health::Damaged(why);
        return Ok(out);
    }
    out.good_len = out.headers_len;
    if matches!(out.health, Health::Good) && out.data_len < out.summary.bytes {
        out.health = Health::Damaged(format!(
            "{}: {} bytes, but {} are proven",
            place.data.display(),
            out.data_len,
            out.summary.bytes
        ));
    }
    Ok(out)
}

/// Repairs a damaged line of a proof in place, if one changed byte or the line's neighbours explain it. Says what
/// it did; `None` = nothing could be done.
pub fn repair(
    disk: &Disk,
    key: &HourKey,
    place: &Place,
    found: &Scan,
    aside: &Path,
) -> disk::Result<Option<String>> {
    let file = disk.open_rw(&place.headers)?;
    let at = found.good_len;
    let mut region = vec![0; 2 * lines::LINE_MAX];
    let n = file.read_at(&mut region, at)?;
    region.truncate(n);
    if at.saturating_add(n as u64) == found.headers_len && matches!(lines::parse(&region), Line::Ours(_)) {
        file.write_at(b"\n", found.headers_len)?;
        file.sync()?;
        return Ok(Some(format!("{}: its last newline was missing", place.headers.display())));
    }
    if let Some((i, value)) = lines::mend(&region) {
        file.write_at(&[value], at.saturating_add(i as u64))?;
        file.sync()?;
        return Ok(Some(format!(
            "{}: byte {} was damaged; its line's CRC told what it had been",
            place.headers.display(),
            at.saturating_add(i as u64)
        )));
    }
    // The next good line tells where the lost one's bytes end.
    let mut from = 0;
    while let Some(n) = memchr::memchr(b'\n', region.get(from..).unwrap_or_default()) {
        from = from.saturating_add(n).saturating_add(1);
        let rest = region.get(from..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let Line::Ours(next) = lines::parse(rest.get(..end).unwrap_or_default()) else { continue };
        let (id, offset) = (found.summary.high.saturating_add(1), found.summary.bytes);
        let lost = next.offset.checked_sub(offset).filter(|_| next.offset <= found.data_len);
        let Some(lost) = lost.filter(|_| next.key == *key && next.id == id.saturating_add(1)) else {
            return Ok(None);
        };
        let mut raw = vec![0; usize::try_from(lost).unwrap_or(0)];
        if raw.len() > 256 << 20 || disk.open(&place.data)?.read_at(&mut raw, offset)? < raw.len() {
            return Ok(None);
        }
        let mut all = disk.read(&place.headers, 1 << 30)?;
        let line = lines::rebuild(key, id, next.generation, offset, &raw);
        let (start, stop) = (at as usize, (at as usize).saturating_add(from));
        if stop > all.len() {
            return Ok(None);
        }
        let old: Vec<u8> = all.splice(start..stop, line).collect();
        let aside = aside.join(format!("{key}.{}.line-{id}", next.generation));
        let mode = disk.stat(&place.headers)?.map_or(0o640, |s| s.mode);
        disk.replace(&aside, &old, 0o640)?;
        disk.replace(&place.headers, &all, mode)?;
        return Ok(Some(format!(
            "{}: the line of pack {id} was damaged; rebuilt from its neighbours and the data; the old one is kept \
             as {}; the hour is certified only if its digest is the sender's",
            place.headers.display(),
            aside.display()
        )));
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
