//! The proof of an hour: the headers journal, line by line.
//!
//! ```text
//! {"Route":[…],"PackLen":N,"offset":O,"bytes":B,"crc32":"8e439b68","crc":"e8cecdb7"}
//! ```
//! `Route` and `PackLen` are the pack's header as the original would store it; `offset` and `bytes` say which bytes of
//! the data file are the pack's, `crc32` is theirs, `crc` that of the line up to `,"crc":`. A line of the original
//! ends after `PackLen`; such a file is [foreign](Line::Foreign): never cut, reordered or certified.
//!
//! P5: a single damaged byte is found from the line's own CRC ([`mend`]). A line that is past
//! mending is rebuilt from its neighbours and the data, because the next line's offset tells its length.

use crate::auth;
use crate::disk::{self, Disk, File};
use crate::pack::{Checked, Entry, Header, HourKey, Meta, Seal, Sha, Totals, decimal, unhex};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// Longest line that is believed, in bytes.
pub const LINE_MAX: usize = 80 << 10;
/// Changes of a byte that are tried; one that fits by chance is seldom, two are as good as never.
const TRIES: usize = 16;
const BLOCK: usize = 64 << 10;
const TAIL: &str = ",\"crc\":\"";
/// With the eight digits, the quotation mark and the brace.
const TAIL_LEN: usize = TAIL.len() + 10;

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
    /// See [`Meta::clock`].
    pub clock: bool,
    /// It came with a signature, which was checked.
    pub authentic: bool,
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
    let parts = line.len().checked_sub(TAIL_LEN).and_then(|n| line.split_at_checked(n));
    parts.is_some_and(|(body, tail)| told(tail) == Some(crc32fast::hash(body)))
}

/// The CRC that a line's end tells.
fn told(tail: &[u8]) -> Option<u32> {
    let digits = tail.strip_prefix(TAIL.as_bytes())?.strip_suffix(b"\"}")?;
    unhex(std::str::from_utf8(digits).ok()?).map(u32::from_be_bytes)
}

fn parse_checked(line: &[u8]) -> Option<Line> {
    let ours: Ours = serde_json::from_slice(line).ok()?;
    let header = Header::parse(line).ok()?;
    let entry = header.route.first()?;
    let number = |k: &str| entry.get(k).and_then(|v| decimal(v));
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
    let authentic = auth::is_signed(entry);
    let meta = header.meta("127.0.0.1").ok()?;
    let crc32 = u32::from_be_bytes(unhex(&ours.crc32?)?);
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
        clock: meta.clock,
        authentic,
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
    /// Every pack came with a good signature.
    pub authentic: bool,
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
            authentic: true,
            dones: 0,
            digest: Sha256::new(),
        }
    }

    /// Adds the next line, or says why it cannot follow.
    pub fn add(&mut self, s: &Stored) -> Result<(), String> {
        if Some(s.id) != self.high.checked_add(1) {
            return Err(format!("pack {} follows pack {} in the proof", s.id, self.high));
        }
        if s.offset != self.bytes {
            return Err(format!(
                "pack {} is said to begin at byte {}, the sum before it is {}",
                s.id, s.offset, self.bytes
            ));
        }
        if self.high.saturating_add(1) > self.first_id && s.generation != self.generation {
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
        self.dones = self.dones.saturating_add(u64::from(s.done));
        self.done = s.done.then(|| s.clone());
        self.notes.extend(s.state.split(',').filter(|w| !w.is_empty()).map(str::to_owned));
        if !s.loss.is_empty() && self.loss.len() < 64 {
            self.notes.insert("loss".into());
            self.loss.push(s.loss.clone());
        }
        self.authentic &= s.authentic;
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
        Self::open_at(disk, path, 0)
    }

    /// The same, to go on at a byte at which a line begins.
    pub fn open_at(disk: &Disk, path: &Path, at: u64) -> disk::Result<Self> {
        let file = match disk.stat(path)? {
            Some(_) => Some(disk.open(path)?),
            None => None,
        };
        Ok(Self { file, at, buf: Vec::new(), start: 0, end_of_file: false })
    }

    /// The byte behind the last line that was given out.
    pub fn position(&self) -> u64 {
        self.at.saturating_add(self.start as u64)
    }

    /// Goes to a line before that of pack `id`, or to it, with a few reads: lines are in the order of their numbers. Where they
    /// are not it stays at the first one and says false.
    pub fn go_near(&mut self, id: u64) -> disk::Result<bool> {
        let Some(file) = &self.file else { return Ok(true) };
        let (mut from, mut to) = (0, file.stat()?.len);
        while to.saturating_sub(from) > BLOCK as u64 {
            let middle = from.saturating_add(to.saturating_sub(from) / 2);
            self.go_to(middle);
            // Whatever is left of the line there.
            self.next()?;
            match self.next()? {
                Some((at, Line::Ours(s))) if s.id <= id => from = at,
                Some((_, Line::Ours(_))) => to = middle,
                _ => {
                    self.go_to(0);
                    return Ok(false);
                }
            }
        }
        self.go_to(from);
        Ok(true)
    }

    fn go_to(&mut self, at: u64) {
        self.buf.clear();
        (self.at, self.start, self.end_of_file) = (at, 0, false);
    }

    /// The next line and the byte at which it begins. A last line without its newline is [`Line::Bad`].
    #[allow(clippy::should_implement_trait)] // it can fail, and its item is not worth a type
    pub fn next(&mut self) -> disk::Result<Option<(u64, Line)>> {
        loop {
            let rest = self.buf.get(self.start..).unwrap_or_default();
            if let Some(n) = memchr::memchr(b'\n', rest) {
                let line = parse(rest.get(..n).unwrap_or_default());
                let at = self.at.saturating_add(self.start as u64);
                self.start = self.start.saturating_add(n).saturating_add(1);
                return Ok(Some((at, line)));
            }
            let at = self.at.saturating_add(self.start as u64);
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
            self.at = self.at.saturating_add(self.start as u64);
            self.start = 0;
            let have = self.buf.len();
            self.buf.resize(have.saturating_add(BLOCK), 0);
            let part = self.buf.get_mut(have..).unwrap_or_default();
            let n = match &self.file {
                Some(f) => f.read_at(part, self.at.saturating_add(have as u64))?,
                None => 0,
            };
            self.buf.truncate(have.saturating_add(n));
            self.end_of_file = n < BLOCK;
        }
    }
}

/// Finds the one byte whose change makes the first line of `region` whole: its place and its value.
pub fn mend(region: &[u8]) -> Option<(usize, u8)> {
    mend_counting(region, &mut 0)
}

/// `work` grows by the bytes that were looked at: a few times those of `region`, whatever they are. Damage to a disk hits
/// many proofs at once, and a start has to be over in seconds.
fn mend_counting(region: &[u8], work: &mut usize) -> Option<(usize, u8)> {
    let mut ends = memchr::memchr_iter(b'\n', region).chain([region.len()]);
    let first = ends.next()?;
    let limit = ends.next().unwrap_or(first).min(LINE_MAX);
    let mut text = region.get(..limit)?.to_vec();
    // A CRC finds every single changed byte, so a line that is whole (and only cannot stand there) has none.
    *work = work.saturating_add(limit);
    if matches!(parse(text.get(..first)?), Line::Ours(_)) {
        return None;
    }
    // The byte is within the line, or it became a newline and the line ends with the next one, or it was the newline.
    let mut found = changed(text.get(..first)?);
    found.extend(changed(&text).into_iter().filter(|(i, _)| *i == first));
    found.extend(run_together(text.get(..first)?));
    *work = work.saturating_add(limit.saturating_mul(3));
    for (i, value) in found.into_iter().take(TRIES) {
        let old = std::mem::replace(text.get_mut(i)?, value);
        let line = text.get(..memchr::memchr(b'\n', &text).unwrap_or(limit))?;
        *work = work.saturating_add(line.len());
        if crc_holds(line) && matches!(parse(line), Line::Ours(_)) {
            return Some((i, value));
        }
        *text.get_mut(i)? = old;
    }
    None
}

/// CRC-32 of one byte; its polynomial is that of IEEE 802.3.
const fn crc_of_byte(byte: u8) -> u32 {
    let (mut crc, mut bit) = (byte as u32, 0_usize);
    while bit < 8 {
        crc = (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
        bit = bit.saturating_add(1);
    }
    crc
}

/// Changes of one byte that give a line the CRC it tells, or let it tell the CRC it has.
///
/// CRCs are linear: the two differ by the CRC of nothing but the change, with as many zero bytes behind it as the body
/// has. Going through the body from its end, that difference is turned back by a zero byte at each step; where it is the
/// CRC of a single byte, that byte is the change. (The highest byte of such a CRC is another one for each byte.)
fn changed(line: &[u8]) -> Vec<(usize, u8)> {
    let Some((body, tail)) = line.len().checked_sub(TAIL_LEN).and_then(|n| line.split_at_checked(n)) else {
        return Vec::new();
    };
    let crc = crc32fast::hash(body);
    let right = format!("{TAIL}{crc:08x}\"}}");
    let mut wrong = (body.len()..).zip(tail.iter().zip(right.bytes())).filter(|(_, (is, want))| *is != want);
    let mut found = Vec::new();
    if let (Some((i, (_, value))), None) = (wrong.next(), wrong.next()) {
        found.push((i, value));
    }
    let Some(told) = told(tail) else { return found };
    let mut by_top = [(0, 0); 256];
    for byte in 0..=255 {
        let crc = crc_of_byte(byte);
        if let Some(place) = by_top.get_mut((crc >> 24) as usize) {
            *place = (byte, crc);
        }
    }
    let mut differ = crc ^ told;
    for (i, old) in body.iter().enumerate().rev() {
        let Some(&(byte, crc)) = by_top.get((differ >> 24) as usize) else { break };
        if differ == crc && byte != 0 {
            found.push((i, old ^ byte));
        }
        differ = (differ ^ crc) << 8 | u32::from(byte);
    }
    found
}

/// Bytes behind the end of a line that is whole, where its newline should be.
fn run_together(text: &[u8]) -> Vec<(usize, u8)> {
    let (mut hasher, mut from) = (crc32fast::Hasher::new(), 0);
    let mut found = Vec::new();
    for at in memchr::memmem::find_iter(text, TAIL) {
        hasher.update(text.get(from..at).unwrap_or_default());
        from = at;
        let end = at.saturating_add(TAIL_LEN);
        if end < text.len() && text.get(at..end).and_then(told) == Some(hasher.clone().finalize()) {
            found.push((end, b'\n'));
        }
    }
    found
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
        clock: false,
    };
    let mut entry: Entry = meta.entry();
    entry.insert("stage".into(), "rebuilt".into());
    let header = Header { route: vec![entry], pack_len: 1 };
    encode(&header, offset, &Checked { bytes: seal.bytes, crc32: seal.crc32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The story: a pack of a long hour that came again had the whole proof read while all others waited.
    #[test]
    fn a_line_is_found_by_its_number_without_reading_all() {
        let (disk, _) = Disk::sim(1);
        let (key, path) = (HourKey::parse("web1_2026112205").unwrap(), Path::new("/proof"));
        let missing = 700;
        let lines = (1..=4_000).filter(|id| *id != missing).map(|id| rebuild(&key, id, 0, id * 2, b"a\n"));
        let proof: Vec<u8> = lines.flatten().collect();
        assert!(proof.len() > 8 * BLOCK);
        disk.replace(path, &proof, 0o640).unwrap();
        for id in (1..=4_100).step_by(37).chain([missing, 3_999, 4_000]) {
            let mut reader = Reader::open(&disk, path).unwrap();
            assert!(reader.go_near(id).unwrap());
            let mut looked = 0;
            let found = loop {
                looked += 1;
                match reader.next().unwrap() {
                    Some((_, Line::Ours(s))) if s.id < id => {}
                    Some((_, Line::Ours(s))) => break s.id == id,
                    None => break false,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(found, id <= 4_000 && id != missing, "{id}");
            assert!(looked < 1_000, "{looked} lines");
        }
        // What the original wrote is in no order.
        disk.replace(path, &b"{}\n".repeat(BLOCK), 0o640).unwrap();
        let mut reader = Reader::open(&disk, path).unwrap();
        assert!(!reader.go_near(5).unwrap());
        assert_eq!(reader.next().unwrap().unwrap().0, 0);
    }

    const KEY: &str = "web1_2026112205";

    /// Three lines, the second `long` bytes longer than it need be.
    fn proof(long: usize) -> [Vec<u8>; 3] {
        [1, 2, 3].map(|id| {
            let line = rebuild(&HourKey::parse(KEY).unwrap(), id, 0, 0, b"line\n");
            let mut header = Header::parse(line.trim_ascii_end()).unwrap();
            for i in 0..if id == 2 { long / 1_000 } else { 0 } {
                header.route[0].insert(format!("k{i}"), "x".repeat(1_000));
            }
            encode(&header, 0, &Checked { bytes: 5, crc32: 7 })
        })
    }

    #[test]
    fn every_changed_byte_is_found() {
        let [_, line, next] = proof(0);
        for behind in [&next[..], b""] {
            for i in 0..line.len() {
                for value in (0..=255).filter(|v| *v != line[i]) {
                    let mut region = [&line, behind].concat();
                    region[i] = value;
                    // What a change leaves whole (an upper-case digit of the CRC) needs no mending.
                    let first = region.iter().position(|b| *b == b'\n').unwrap_or(region.len());
                    if matches!(parse(&region[..first]), Line::Ours(_)) && i + 1 < line.len() {
                        continue;
                    }
                    if i + 1 == line.len() && behind.is_empty() {
                        continue;
                    }
                    assert_eq!(mend(&region), Some((i, line[i])), "byte {i} = {value}");
                }
            }
        }
    }

    #[test]
    fn the_work_does_not_grow_with_the_square_of_the_line() {
        let [first, long, next] = proof(40_000);
        assert!(matches!(parse(long.trim_ascii_end()), Line::Ours(_)), "such a line is believed");
        let zeros = vec![0; LINE_MAX];
        let tails = TAIL.repeat(LINE_MAX / TAIL.len()).into_bytes();
        let (mut one, mut two) = ([&long[..], &next].concat(), [&long[..], &next].concat());
        one[30_000] ^= 1;
        two[30_000] ^= 1;
        two[31_000] ^= 1;
        let cases = [
            (&one, Some((30_000, long[30_000]))),
            (&two, None),
            (&first, None),
            (&zeros, None),
            (&tails, None),
        ];
        for (region, mended) in cases {
            let mut work = 0;
            assert_eq!(mend_counting(region, &mut work), mended);
            assert!(work <= 6 * region.len(), "{work} for {}", region.len());
        }
    }
}
