//! The proof of an hour: the headers journal, line by line.
//!
//! ```text
//! {"Route":[…],"PackLen":N,"offset":O,"bytes":B,"crc32":"xxxxxxxx","crc":"xxxxxxxx"}
//! ```
//! `Route` and `PackLen` are the pack's header as the original would store it; `offset` and `bytes` say which bytes of
//! the data file are the pack's, `crc32` is theirs, `crc` that of the line up to `,"crc":`. A line of the original
//! ends after `PackLen`; such a file is [foreign](Line::Foreign): never cut, reordered or certified.
//!
//! P5: a single damaged byte is found by trying all ([`mend`]), which the line's own CRC decides. A line that is past
//! mending is rebuilt from its neighbours and the data, because the next line's offset tells its length.

use crate::disk::{self, Disk, File};
use crate::pack::{Checked, Entry, Header, HourKey, Meta, Seal, Sha, Totals};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// Longest line that is believed, in bytes.
const LINE_MAX: usize = 80 << 10;
const BLOCK: usize = 64 << 10;
const TAIL: &str = ",\"crc\":\"";

/// One line of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whose hour.
    pub key: HourKey,
    /// Pack number.
    pub id: u64,
    /// Copy.
    pub generation: u64,
    /// First byte in the data file.
    pub offset: u64,
    /// Raw length in bytes.
    pub bytes: u64,
    /// CRC-32 of the raw bytes.
    pub crc32: u32,
    /// Lines.
    pub lines: u64,
    /// SHA-256 that the sender computed; none from an original sender.
    pub sha256: Option<Sha>,
    /// Was it the last pack?
    pub done: bool,
    /// What the last pack said of the whole.
    pub totals: Option<Totals>,
    /// See [`Meta::state`].
    pub state: String,
    /// See [`Meta::loss`].
    pub loss: String,
    /// See [`Meta::day_hours`].
    pub day_hours: u32,
}

/// One line of the original: what its route entry says, nothing checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignLine {
    /// Pack number.
    pub id: u64,
    /// Lines.
    pub lines: u64,
    /// Was it the last pack?
    pub done: bool,
}

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Ours, whole.
    Ours(Stored),
    /// The original's.
    Foreign(ForeignLine),
    /// Neither.
    Bad,
}

/// The line for a pack stored at `offset`, newline included.
pub fn encode(header: &Header, offset: u64, checked: &Checked) -> Vec<u8> {
    let mut out = header.json();
    out.pop();
    let rest =
        format!(",\"offset\":{offset},\"bytes\":{},\"crc32\":\"{:08x}\"", checked.bytes, checked.crc32);
    out.extend_from_slice(rest.as_bytes());
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(format!("{TAIL}{crc:08x}\"}}\n").as_bytes());
    out
}

/// The line that the original would write.
pub fn encode_foreign(header: &Header) -> Vec<u8> {
    let mut out = header.json();
    out.push(b'\n');
    out
}

#[derive(Deserialize)]
struct Ours {
    offset: Option<u64>,
    bytes: Option<u64>,
    crc32: Option<String>,
}

/// Reads a line (without its newline).
pub fn parse(line: &[u8]) -> Line {
    parse_checked(line).unwrap_or(Line::Bad)
}

fn crc_holds(line: &[u8]) -> bool {
    let Some((body, tail)) = line.len().checked_sub(TAIL.len() + 10).and_then(|n| line.split_at_checked(n))
    else {
        return false;
    };
    let digits = tail.strip_prefix(TAIL.as_bytes()).and_then(|t| t.strip_suffix(b"\"}"));
    let Some(told) = digits.and_then(|d| std::str::from_utf8(d).ok()) else { return false };
    u32::from_str_radix(told, 16).is_ok_and(|c| c == crc32fast::hash(body))
}

fn parse_checked(line: &[u8]) -> Option<Line> {
    let ours: Ours = serde_json::from_slice(line).ok()?;
    let header = Header::parse(line).ok()?;
    let entry = header.route.first()?;
    let number = |k: &str| entry.get(k).and_then(|v| v.parse::<u64>().ok());
    let Some(offset) = ours.offset else {
        // The original wrote `"ip":""` for every sender; the file's name is all that names the host there.
        let known = !line.windows(TAIL.len()).any(|w| w == TAIL.as_bytes());
        let done = entry.get("done").is_some_and(|d| d == "1");
        let lines = number("lines").unwrap_or(0);
        return known.then_some(Line::Foreign(ForeignLine { id: number("id")?, lines, done }));
    };
    if !crc_holds(line) {
        return None;
    }
    let meta = header.meta("127.0.0.1").ok()?;
    let crc32 = u32::from_str_radix(&ours.crc32?, 16).ok()?;
    Some(Line::Ours(Stored {
        key: meta.key,
        id: meta.id,
        generation: meta.generation,
        offset,
        bytes: ours.bytes?,
        crc32,
        lines: meta.lines,
        sha256: meta.seal.map(|s| s.sha256),
        done: meta.done,
        totals: meta.totals,
        state: meta.state,
        loss: meta.loss,
        day_hours: meta.day_hours,
    }))
}

/// Sums over a proof.
#[derive(Clone, Debug)]
pub struct Summary {
    first_id: u64,
    /// Highest stored number; packs before the first are not ours to count.
    pub high: u64,
    /// Copy of the stored packs.
    pub generation: u64,
    /// Raw bytes: where the next pack goes.
    pub bytes: u64,
    /// Lines.
    pub lines: u64,
    /// The last pack that said `done`, if none came after it.
    pub done: Option<Stored>,
    /// An original's `done` that others followed: no tag.
    pub reopened_by_original: bool,
    /// Everything that bars a tag.
    pub notes: BTreeSet<String>,
    /// Lost ranges that any pack named.
    pub loss: Vec<String>,
    /// Every pack has the sender's SHA-256.
    pub sealed: bool,
    /// Packs that said `done`: how often the hour was closed.
    pub dones: u64,
    digest: Sha256,
}

impl Summary {
    /// Nothing stored yet.
    pub fn new(first_id: u64) -> Self {
        Self {
            first_id,
            high: first_id.saturating_sub(1),
            generation: 0,
            bytes: 0,
            lines: 0,
            done: None,
            reopened_by_original: false,
            notes: BTreeSet::new(),
            loss: Vec::new(),
            sealed: true,
            dones: 0,
            digest: Sha256::new(),
        }
    }

    /// Adds the next line, or says why it cannot follow.
    pub fn add(&mut self, s: &Stored) -> Result<(), String> {
        if s.id != self.high + 1 {
            return Err(format!("pack {} follows pack {} in the proof", s.id, self.high));
        }
        if s.offset != self.bytes {
            return Err(format!(
                "pack {} is said to begin at byte {}, the sum before it is {}",
                s.id, s.offset, self.bytes
            ));
        }
        if self.high + 1 > self.first_id && s.generation != self.generation {
            return Err(format!(
                "pack {} is of copy {}, those before it of {}",
                s.id, s.generation, self.generation
            ));
        }
        if self.done.as_ref().is_some_and(|d| d.sha256.is_none()) {
            self.reopened_by_original = true;
        }
        self.generation = s.generation;
        self.high = s.id;
        self.bytes = self.bytes.saturating_add(s.bytes);
        self.lines = self.lines.saturating_add(s.lines);
        self.dones += u64::from(s.done);
        self.done = s.done.then(|| s.clone());
        self.notes.extend(s.state.split(',').filter(|w| !w.is_empty()).map(str::to_owned));
        if !s.loss.is_empty() && self.loss.len() < 64 {
            self.notes.insert("loss".into());
            self.loss.push(s.loss.clone());
        }
        match s.sha256 {
            Some(d) => self.digest.update(d),
            None => self.sealed = false,
        }
        Ok(())
    }

    /// SHA-256 over the packs' digests.
    pub fn digest(&self) -> Sha {
        self.digest.clone().finalize().into()
    }
}

/// Reads a proof line by line, in bounded memory.
pub struct Reader {
    file: Option<File>,
    at: u64,
    buf: Vec<u8>,
    start: usize,
    end_of_file: bool,
}

impl Reader {
    /// Opens the proof; a missing one has no lines.
    pub fn open(disk: &Disk, path: &Path) -> disk::Result<Self> {
        let file = match disk.stat(path)? {
            Some(_) => Some(disk.open(path)?),
            None => None,
        };
        Ok(Self { file, at: 0, buf: Vec::new(), start: 0, end_of_file: false })
    }

    /// The next line and the byte at which it begins. A last line without its newline is [`Line::Bad`].
    #[allow(clippy::should_implement_trait)] // it can fail, and its item is not worth a type
    pub fn next(&mut self) -> disk::Result<Option<(u64, Line)>> {
        loop {
            let rest = self.buf.get(self.start..).unwrap_or_default();
            if let Some(n) = memchr::memchr(b'\n', rest) {
                let line = parse(rest.get(..n).unwrap_or_default());
                let at = self.at + self.start as u64;
                self.start += n + 1;
                return Ok(Some((at, line)));
            }
            let at = self.at + self.start as u64;
            if rest.len() > LINE_MAX {
                // Skipped as a whole: whatever it is, it is not ours.
                self.start = self.buf.len();
                return Ok(Some((at, Line::Bad)));
            }
            if self.end_of_file || self.file.is_none() {
                let torn = !rest.is_empty();
                self.start = self.buf.len();
                return Ok(torn.then_some((at, Line::Bad)));
            }
            self.buf.drain(..self.start);
            self.at += self.start as u64;
            self.start = 0;
            let have = self.buf.len();
            self.buf.resize(have + BLOCK, 0);
            let part = self.buf.get_mut(have..).unwrap_or_default();
            let n = match &self.file {
                Some(f) => f.read_at(part, self.at + have as u64)?,
                None => 0,
            };
            self.buf.truncate(have + n);
            self.end_of_file = n < BLOCK;
        }
    }
}

/// Finds the one byte whose change makes the first line of `region` whole: its place and its value.
pub fn mend(region: &[u8]) -> Option<(usize, u8)> {
    // A CRC finds every single changed byte, so a line that is whole (and only cannot stand there) has none. Trying all
    // of them takes a tenth of a second, and a file of another hour has nothing but such lines.
    let first = memchr::memchr(b'\n', region).unwrap_or(region.len());
    if matches!(parse(region.get(..first)?), Line::Ours(_)) {
        return None;
    }
    let mut text = region.to_vec();
    let limit = memchr::memchr_iter(b'\n', region).nth(1).unwrap_or(region.len()).min(LINE_MAX);
    for i in 0..limit {
        let old = *text.get(i)?;
        for v in 0..=255u8 {
            *text.get_mut(i)? = v;
            let Some(end) = memchr::memchr(b'\n', &text) else { continue };
            let line = text.get(..end)?;
            if v != old && line.ends_with(b"\"}") && crc_holds(line) && matches!(parse(line), Line::Ours(_)) {
                return Some((i, v));
            }
        }
        *text.get_mut(i)? = old;
    }
    None
}

/// A line for a pack whose own line is beyond repair, from what its neighbours and the data say. What it claims is
/// only believed when the whole hour has the digest that the last pack told.
pub fn rebuild(key: &HourKey, id: u64, generation: u64, offset: u64, raw: &[u8]) -> Vec<u8> {
    let seal = Seal::of(raw);
    let meta = Meta {
        key: key.clone(),
        generation,
        id,
        lines: memchr::memchr_iter(b'\n', raw).count() as u64,
        done: false,
        repull: false,
        seal: Some(seal),
        totals: None,
        state: String::new(),
        loss: String::new(),
        day_hours: 0,
    };
    let mut entry: Entry = meta.entry();
    entry.insert("stage".into(), "rebuilt".into());
    let header = Header { route: vec![entry], pack_len: 1 };
    encode(&header, offset, &Checked { bytes: seal.bytes, crc32: seal.crc32 })
}
