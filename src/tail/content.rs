//! Is it still the same file? Its content says so, whatever its inode says.

use crate::disk::{self, Disk, File};
use crate::journal::{Cut, HourLog};
use std::path::Path;

/// What a file is to the cuts that were made.
pub(super) enum Content {
    Same,
    /// Equal to the cuts up to this byte, where it ends.
    Shorter(u64),
    New,
}

/// Reads the bytes of a cut from its source again; `None` = the source does not have them any more.
pub fn reread(disk: &Disk, path: &Path, cut: &Cut, raw: &mut Vec<u8>) -> disk::Result<Option<()>> {
    let len = usize::try_from(cut.end.saturating_sub(cut.start)).unwrap_or(usize::MAX);
    if len == 0 {
        raw.clear();
        return Ok(Some(()));
    }
    let file = match disk.open(path) {
        Ok(f) => f,
        Err(e) if e.not_found() => return Ok(None),
        Err(e) => return Err(e),
    };
    if file.stat()?.len < cut.end {
        return Ok(None);
    }
    raw.resize(len, 0);
    let n = file.read_at(raw, cut.start)?;
    Ok((n == len && crc32fast::hash(raw) == cut.crc).then_some(()))
}

/// Is this the file whose bytes the cuts describe?
pub(super) fn compare(file: &File, log: &HourLog) -> disk::Result<Content> {
    let len = file.stat()?.len;
    // After a replacement positions begin again: only the cuts since then speak of this file.
    let mut from = log.cuts.len();
    let mut next = log.pos;
    for (i, c) in log.cuts.iter().enumerate().rev() {
        if c.end != next {
            break;
        }
        (from, next) = (i, c.start);
    }
    let cuts = log.cuts.get(from..).unwrap_or_default();
    let Some(last) = cuts.iter().rev().find(|c| c.end > c.start) else {
        return Ok(if len >= log.pos { Content::Same } else { Content::New });
    };
    let holds = |c: &Cut| holds(file, c.start, c.end, c.crc);
    if len >= last.end && holds(last)? {
        return Ok(Content::Same);
    }
    let mut end = None;
    for c in cuts.iter().filter(|c| c.end > c.start && c.end <= len) {
        if !holds(c)? {
            return Ok(Content::New);
        }
        end = Some(c.end);
    }
    // Bytes after the last whole cut cannot be compared; they are sent again rather than lost.
    Ok(end.filter(|_| len < last.end).map_or(Content::New, Content::Shorter))
}

/// Do bytes with this CRC stand there?
pub(super) fn holds(file: &File, start: u64, end: u64, crc: u32) -> disk::Result<bool> {
    let mut hash = crc32fast::Hasher::new();
    let mut buf = vec![0; 64 << 10];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let part = buf.get_mut(..want).unwrap_or_default();
        if file.read_at(part, at)? < want {
            return Ok(false);
        }
        hash.update(part);
        at = at.saturating_add(want as u64);
    }
    Ok(hash.finalize() == crc)
}
