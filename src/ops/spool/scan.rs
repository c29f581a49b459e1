//! Reads a spool's files without changing them: every record, and every stretch that is none.
//!
//! Nothing is believed but what a record's CRC covers. What a damaged stretch *was* is told from headers inside it, as
//! a hint for people; no byte of it is ever given out as a pack.

use super::Place;
use crate::disk::{self, Disk, Entry, File};
use crate::pack::{self, Meta};
use crate::record::{self, Found, Head};
use crate::spool::{KIND_DONE, KIND_PACK, MARKS_MAX, RECORD_MAX, base_of};
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How often a place in a running role's last segment is looked at before it counts.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(40);
const BLOCK: usize = 64 << 10;

/// What kind of stretch it is that is no whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes that were written are not what they were.
    Damaged,
    /// The end of a file, cut off in the middle of a record.
    TornTail,
    /// The end of a file that holds only zero bytes, as a crash can leave it.
    ZeroTail,
    /// The end of the last segment while a role runs: it may be writing there.
    Live,
    /// A whole pack in a place that is another's.
    Misplaced,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "DAMAGED",
            Self::TornTail => "TORN TAIL",
            Self::ZeroTail => "ZERO TAIL",
            Self::Live => "being written",
            Self::Misplaced => "MISPLACED",
        })
    }
}

/// A stretch of a file that is no whole record.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// The file.
    pub file: PathBuf,
    /// Its first byte.
    pub from: u64,
    /// The byte after its last one.
    pub to: u64,
    /// What it is.
    pub kind: Kind,
    /// Why it is not believed.
    pub why: String,
    /// What its own header says it was, if that can still be read. The header may be damaged, too.
    pub pack: Option<Meta>,
    /// Sequence numbers that it took with it; `None` = more than can be told.
    pub seqs: Option<(u64, u64)>,
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, from, len) = (self.file.display(), self.from, self.to.saturating_sub(self.from));
        write!(f, "{file}: {}: bytes {from} to {} ({len}): {}", self.kind, self.to, self.why)?;
        if let Some(m) = &self.pack {
            write!(f, "; it was {} by its header", m.label())?;
        }
        match self.seqs {
            Some((a, b)) if a == b => write!(f, "; record {a}"),
            Some((a, b)) if a < b => write!(f, "; records {a} to {b}"),
            _ => Ok(()),
        }
    }
}

/// One whole pack.
pub struct Pack<'a> {
    /// Its segment, or its file on a shelf.
    pub file: &'a Path,
    /// Its record.
    pub head: Head,
    /// Marked as durable further on.
    pub done: bool,
    /// What its header says.
    pub meta: Meta,
    /// The frame as on the wire.
    pub frame: &'a [u8],
}

/// What is found in a spool, in its order.
pub enum Piece<'a> {
    /// A whole pack.
    Pack(Pack<'a>),
    /// A stretch that is none.
    Stretch(Stretch),
    /// The pack of the [`Kind::Misplaced`] stretch before it. A start of the role does not deliver it: its number is
    /// another's.
    Misplaced(Pack<'a>),
    /// A file has been read to its end; its length in bytes.
    Read(u64),
    /// What does no harm, and why it is so.
    Note(&'a Path, &'a str),
}

/// The names in a directory; a missing one has none.
pub fn list(disk: &Disk, dir: &Path) -> disk::Result<Vec<Entry>> {
    Ok(gone_is_none(disk.list(dir))?.unwrap_or_default())
}

/// Bytes that there are to be read, about: packs that are held are few.
pub fn size(place: &Place) -> disk::Result<u64> {
    let mut all = 0_u64;
    for entry in list(&place.disk, &place.spool)? {
        let len = place.disk.stat(&place.spool.join(&entry.name))?.map_or(0, |s| s.len);
        all = all.saturating_add(len);
    }
    Ok(all)
}

fn gone_is_none<T>(result: disk::Result<T>) -> disk::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

type See<'a> = dyn FnMut(Piece<'_>) -> Result<(), disk::Error> + 'a;

/// Walks through a spool's segments, oldest first.
pub fn spool(place: &Place, see: &mut See) -> disk::Result<()> {
    let (disk, dir) = (&place.disk, &place.spool);
    let names = list(disk, dir)?;
    let files = names.iter().filter(|e| !e.is_dir);
    let mut bases: Vec<u64> = files.filter_map(|e| base_of(&e.name, ".seg")).collect();
    bases.sort_unstable();
    for e in &names {
        let path = dir.join(&e.name);
        if e.is_dir {
            see(Piece::Note(
                &path,
                "a directory, nothing of the spool's; a start moves it if a file needs its name",
            ))?;
        } else if base_of(&e.name, ".done").is_some_and(|b| bases.binary_search(&b).is_err()) {
            see(Piece::Note(&path, "marks of a segment that is gone; the next start removes it"))?;
        } else if e.name.strip_suffix(".tmp").is_some() {
            see(Piece::Note(&path, "left by a crash while it was written; the next start removes it"))?;
        } else if base_of(&e.name, ".seg").or(base_of(&e.name, ".done")).is_none() {
            see(Piece::Note(&path, "not a spool file"))?;
        }
    }
    for (i, base) in (1..).zip(&bases) {
        segment(place, *base, bases.get(i).copied(), see)?;
    }
    Ok(())
}

/// `next` is the first number of the segment behind this one.
fn segment(place: &Place, base: u64, next: Option<u64>, see: &mut See) -> disk::Result<()> {
    let live = place.running && next.is_none();
    let path = place.spool.join(format!("{base:020}.seg"));
    // All its packs were delivered meanwhile.
    let Some(file) = gone_is_none(place.disk.open(&path))? else { return Ok(()) };
    let marks = marks(place, base, see)?;
    let (mut at, mut expect, mut buf, mut looks) = (0, base, Vec::new(), 0);
    let mut torn = false;
    loop {
        match record::read(&file, at, RECORD_MAX, &mut buf)? {
            Found::End => break,
            Found::Damage { next: behind } => {
                // While this was found the writer may have finished this record, and begun the next one behind it.
                if live && looks < LOOKS {
                    looks = looks.saturating_add(1);
                    thread::sleep(PAUSE);
                    continue;
                }
                looks = 0;
                let at_end = behind >= file.stat()?.len;
                torn = at_end;
                // The record behind it tells how many it took along.
                let after = record::header(&file, behind, RECORD_MAX)?.filter(|_| !at_end);
                let lost = after.filter(|h| h.seq > expect).map(|h| (expect, h.seq.saturating_sub(1)));
                stretches(&file, (at, behind), at_end, live, lost, see)?;
                expect = lost.map_or(expect, |(_, to)| to.saturating_add(1));
                at = behind;
            }
            Found::Record(head) => {
                looks = 0;
                let frame = buf.get(record::HEADER..).unwrap_or_default();
                let odd = match pack::split_frame(frame) {
                    _ if head.kind != KIND_PACK => Err("a record of another kind".to_owned()),
                    None => Err("a whole record whose content is no pack".to_owned()),
                    Some((header, _)) => header.meta("unknown").map_err(|why| why.reason().to_owned()),
                };
                at = head.end();
                match odd {
                    Ok(meta) if head.seq < expect || next.is_some_and(|n| head.seq >= n) => {
                        let why = format!(
                            "record {}, but {expect} is its turn; the pack itself is whole",
                            head.seq
                        );
                        let (file, from, to, pack) = (path.clone(), head.offset, at, Some(meta.clone()));
                        let (kind, seqs) = (Kind::Misplaced, None);
                        see(Piece::Stretch(Stretch { file, from, to, kind, why, pack, seqs }))?;
                        // Marks tell of the number, which is another's.
                        see(Piece::Misplaced(Pack { file: &path, head, done: false, meta, frame }))?;
                    }
                    Ok(meta) => {
                        if head.seq > expect {
                            let why = "records are missing in front of it".to_owned();
                            let seqs = Some((expect, head.seq.saturating_sub(1)));
                            let (from, to, file) = (head.offset, head.offset, path.clone());
                            let kind = Kind::Damaged;
                            see(Piece::Stretch(Stretch { file, from, to, kind, why, pack: None, seqs }))?;
                        }
                        expect = head.seq.saturating_add(1);
                        let i = head.seq.saturating_sub(base);
                        let word = usize::try_from(i / 64).ok().and_then(|w| marks.get(w));
                        let done = word.is_some_and(|w| w & (1 << (i % 64)) != 0);
                        see(Piece::Pack(Pack { file: &path, head, done, meta, frame }))?;
                    }
                    Err(why) => {
                        let (file, from, to) = (path.clone(), head.offset, head.end());
                        let (kind, seqs) = (Kind::Damaged, Some((head.seq, head.seq)));
                        let pack = pack::peek(frame);
                        see(Piece::Stretch(Stretch { file, from, to, kind, why, pack, seqs }))?;
                    }
                }
            }
        }
    }
    if let Some(next) = next.filter(|n| expect < *n && !torn) {
        hole(&path, at, (base, expect, next), &marks, see)?;
    }
    see(Piece::Read(at))
}

/// Judges a segment that ends, between two records, before the number with which the one behind it begins.
///
/// A segment is begun for a pack, and another one only behind its last pack. One between the two may since have been
/// deleted because its packs were done; it, too, began where this one ended. So an empty file was cut, and one whose marks
/// know of packs behind its end; of any other nobody can tell.
fn hole(
    path: &Path,
    at: u64,
    (base, expect, next): (u64, u64, u64),
    marks: &[u64],
    see: &mut See,
) -> disk::Result<()> {
    let last = (0..).step_by(64).zip(marks).filter_map(|(i, w)| Some((i, w.checked_ilog2()?))).last();
    let marked = last.map(|(i, bit)| base.saturating_add(i).saturating_add(u64::from(bit)));
    let marked = marked.filter(|m| (expect..next).contains(m));
    let why = match marked {
        _ if expect == base => "an empty segment, but a later one follows: its packs were cut off",
        Some(_) => "the file ends here, but its marks know of later packs: they were cut off",
        None => {
            let text = format!(
                "records {expect} to {} are in no file: segments of delivered packs are deleted, but a cut exactly at \
                 the end of a pack would look the same",
                next.saturating_sub(1)
            );
            return see(Piece::Note(path, &text));
        }
    };
    // At least these: what was cut off may have been more.
    let seqs = Some((expect, marked.unwrap_or(expect)));
    let (file, why, kind) = (path.to_owned(), why.to_owned(), Kind::Damaged);
    see(Piece::Stretch(Stretch { file, from: at, to: at, kind, why, pack: None, seqs }))
}

/// Names what stands in a stretch without a whole record: one piece for each header that still tells where its record
/// ends, and one for the rest.
fn stretches(
    file: &File,
    (from, to): (u64, u64),
    at_end: bool,
    live: bool,
    lost: Option<(u64, u64)>,
    see: &mut See,
) -> disk::Result<()> {
    let mut at = from;
    let mut found = Vec::new();
    while at < to {
        let head = record::header(file, at, RECORD_MAX)?;
        let (end, kind, why) = match head {
            Some(h) if h.end() <= to => (h.end(), Kind::Damaged, "its CRC-32 does not match".to_owned()),
            Some(h) if at_end => {
                let (all, here) = (h.end().saturating_sub(at), to.saturating_sub(at));
                (to, Kind::TornTail, format!("the record has {all} bytes, {here} are there"))
            }
            _ if is_zero(file, at, to)? => {
                let kind = if at_end { Kind::ZeroTail } else { Kind::Damaged };
                (to, kind, "only zero bytes".to_owned())
            }
            None if at_end && to.saturating_sub(at) < record::HEADER as u64 => {
                (to, Kind::TornTail, "the beginning of a record's header".to_owned())
            }
            _ => (to, Kind::Damaged, "no record header".to_owned()),
        };
        let kind = if live && at_end && end == to { Kind::Live } else { kind };
        let pack = peek(file, at, end)?;
        found.push(Stretch { file: file.path().to_owned(), from: at, to: end, kind, why, pack, seqs: None });
        at = end;
    }
    // The numbers are those of the whole stretch; with one piece they are the piece's.
    let one_each = lost.is_some_and(|(a, b)| b.saturating_sub(a).saturating_add(1) == found.len() as u64);
    for (i, mut s) in (0..).zip(found) {
        s.seqs = lost.map(|(a, b)| if one_each { [a.saturating_add(i); 2].into() } else { (a, b) });
        see(Piece::Stretch(s))?;
    }
    Ok(())
}

/// What the frame in a record at `at` calls itself.
fn peek(file: &File, at: u64, end: u64) -> disk::Result<Option<Meta>> {
    let len = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(BLOCK);
    let mut bytes = vec![0; len];
    let n = file.read_at(&mut bytes, at)?;
    Ok(bytes.get(record::HEADER..n).and_then(pack::peek))
}

fn is_zero(file: &File, mut at: u64, to: u64) -> disk::Result<bool> {
    let mut block = vec![0; BLOCK];
    while at < to {
        let n = file.read_at(&mut block, at)?;
        if n == 0 {
            break;
        }
        if block.get(..n).unwrap_or_default().iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at = at.saturating_add(n as u64);
    }
    Ok(true)
}

/// The bitmap of a segment's packs that are done; damaged marks are none, as at a start of the role.
fn marks(place: &Place, base: u64, see: &mut See) -> disk::Result<Vec<u64>> {
    let path = place.spool.join(format!("{base:020}.done"));
    if place.disk.stat(&path)?.is_some_and(|s| s.is_dir) {
        return Ok(Vec::new());
    }
    let Some(file) = gone_is_none(place.disk.open(&path))? else { return Ok(Vec::new()) };
    let (mut buf, len) = (Vec::new(), file.stat()?.len);
    let found = record::read(&file, 0, MARKS_MAX, &mut buf)?;
    if let Found::Record(h) = found
        && h.kind == KIND_DONE
        && h.seq == base
        && h.end() == len
    {
        let bits = buf.get(record::HEADER..).unwrap_or_default();
        see(Piece::Read(len))?;
        return Ok(bits
            .chunks_exact(8)
            .filter_map(|c| Some(u64::from_le_bytes(*c.first_chunk()?)))
            .collect());
    }
    let why =
        "not the marks of its segment; its packs are delivered again, receivers recognise them".to_owned();
    let (file, kind) = (path, Kind::Damaged);
    see(Piece::Stretch(Stretch { file, from: 0, to: len, kind, why, pack: None, seqs: None }))?;
    Ok(Vec::new())
}

/// Walks through the packs that are held.
pub fn held(place: &Place, see: &mut See) -> disk::Result<()> {
    let Some(dir) = place.state.as_ref().map(|s| s.join("held")) else { return Ok(()) };
    for (name, file) in place.held()? {
        let path = dir.join(name).join(file);
        let Some(file) = gone_is_none(place.disk.open(&path))? else { continue };
        let (mut buf, len) = (Vec::new(), file.stat()?.len);
        let found = record::read(&file, 0, RECORD_MAX, &mut buf)?;
        let frame = buf.get(record::HEADER..).unwrap_or_default();
        let header = pack::split_frame(frame).and_then(|(h, _)| h.meta("unknown").ok());
        match (found, header) {
            (Found::Record(head), Some(meta)) if head.kind == KIND_PACK && head.end() == len => {
                see(Piece::Pack(Pack { file: &path, head, done: false, meta, frame }))?;
                see(Piece::Read(len))?;
            }
            _ => {
                let (pack, kind) = (peek(&file, 0, len)?, Kind::Damaged);
                let (why, file) = ("not a whole pack".to_owned(), path);
                see(Piece::Stretch(Stretch { file, from: 0, to: len, kind, why, pack, seqs: None }))?;
            }
        }
    }
    Ok(())
}
