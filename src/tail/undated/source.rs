//! What is read: a plain file, or a compressed one whose bytes come out in order only.
//!
//! A plain file may be emptied and written anew under the reader (`copytruncate`). So each read begins a little before
//! the position, and what was read there the last time must still stand there: one read, no second look.

use super::super::BLOCK;
use crate::disk::{self, Disk, File, Stat};
use flate2::read::MultiGzDecoder;
use std::io::{self, Read};
use std::path::Path;

/// Bytes before the position that must not have changed.
const TAIL: usize = 1024;
/// Bytes after it that were seen, but were no line yet: these, too.
const AHEAD: usize = 256;

/// What a look at a source brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// The buffer holds what follows; `whole` = up to the end, `more` = fewer bytes than are there and wanted.
    Bytes { whole: bool, more: bool },
    /// It is not the content that was read before.
    Rewritten,
}

/// A plain file.
pub(super) struct Plain {
    pub(super) file: File,
    pub(super) dev: u64,
    pub(super) ino: u64,
    /// Its length at the last look.
    pub(super) seen: u64,
    /// Its time at the last look.
    pub(super) mtime_ms: i64,
    /// When it was seen to grow, by the monotonic clock.
    pub(super) grown_ms: u64,
    checked: bool,
    tail: Vec<u8>,
    ahead: Vec<u8>,
    buf: Vec<u8>,
}

impl Plain {
    /// Reads on at `at`.
    pub(super) fn new(file: File, at: u64, mono_ms: u64) -> disk::Result<Self> {
        let Stat { len, dev, ino, mtime_ms, .. } = file.stat()?;
        let mut tail = vec![0; usize::try_from(at).unwrap_or(TAIL).min(TAIL)];
        let from = at.saturating_sub(tail.len() as u64);
        let n = file.read_at(&mut tail, from)?;
        tail.truncate(n);
        let (ahead, buf) = (Vec::new(), Vec::new());
        let seen = len.max(at);
        Ok(Self { file, dev, ino, seen, mtime_ms, grown_ms: mono_ms, checked: false, tail, ahead, buf })
    }

    /// What must stand around the position: the bytes before it, and the first ones after it.
    pub(super) fn mark(&self) -> (&[u8], &[u8]) {
        (&self.tail, &self.ahead)
    }

    /// Remembers what stands at `at`, while it waits for its turn: it may be emptied before that.
    pub(super) fn peek(&mut self, at: u64, mono_ms: u64, block: &mut Vec<u8>) -> disk::Result<()> {
        if self.fetch(at, AHEAD, AHEAD, mono_ms, block)? != Fetched::Rewritten {
            self.took(block, 0);
        }
        Ok(())
    }

    fn fetch(
        &mut self,
        at: u64,
        most: usize,
        wants: usize,
        mono_ms: u64,
        out: &mut Vec<u8>,
    ) -> disk::Result<Fetched> {
        out.clear();
        let stat = self.file.stat()?;
        if stat.len < at || stat.len < self.seen {
            return Ok(Fetched::Rewritten);
        }
        let useful = usize::try_from(stat.len.saturating_sub(at)).unwrap_or(usize::MAX).min(wants);
        let want = useful.min(most);
        if want > 0 || !self.checked || stat.mtime_ms != self.mtime_ms {
            let before = self.tail.len();
            self.buf.resize(before.saturating_add(want.max(self.ahead.len())), 0);
            let n = self.file.read_at(&mut self.buf, at.saturating_sub(before as u64))?;
            let (old, new) = self.buf.get(..n).and_then(|b| b.split_at_checked(before)).unwrap_or_default();
            if old != self.tail || !new.starts_with(&self.ahead) {
                return Ok(Fetched::Rewritten);
            }
            out.extend_from_slice(new.get(..want).unwrap_or(new));
        }
        if stat.len > self.seen {
            self.grown_ms = mono_ms;
        }
        (self.seen, self.mtime_ms, self.checked) = (stat.len, stat.mtime_ms, true);
        Ok(Fetched::Bytes {
            whole: at.saturating_add(out.len() as u64) >= stat.len,
            more: out.len() == want && want < useful,
        })
    }

    fn took(&mut self, block: &[u8], taken: usize) {
        let (old, new) = block.split_at_checked(taken).unwrap_or((block, &[]));
        let keep = TAIL.saturating_sub(old.len());
        self.tail.drain(..self.tail.len().saturating_sub(keep));
        self.tail.extend_from_slice(old.get(old.len().saturating_sub(TAIL)..).unwrap_or(old));
        self.ahead.clear();
        self.ahead.extend_from_slice(new.get(..AHEAD).unwrap_or(new));
    }
}

/// A file as the standard library's readers want it.
struct InOrder {
    file: File,
    at: u64,
}

impl Read for InOrder {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at = self.at.saturating_add(n as u64);
        Ok(n)
    }
}

/// A compressed file.
pub(super) struct Gz {
    inflate: MultiGzDecoder<InOrder>,
    id: (u64, u64),
    /// Inflated and not taken; its first byte is byte `start` of the log.
    buf: Vec<u8>,
    start: u64,
    ended: bool,
    /// What is wrong with the file, behind the bytes that came out of it.
    broken: Option<String>,
    mtime_ms: i64,
}

impl Gz {
    /// Nothing is inflated yet.
    pub(super) fn new(file: File) -> disk::Result<Self> {
        let Stat { mtime_ms, dev, ino, .. } = file.stat()?;
        let inflate = MultiGzDecoder::new(InOrder { file, at: 0 });
        Ok(Self { inflate, id: (dev, ino), buf: Vec::new(), start: 0, ended: false, broken: None, mtime_ms })
    }

    /// The next bytes of the log; none at its end. The error says what is wrong with the file.
    pub(super) fn next(&mut self, block: &mut [u8]) -> disk::Result<Result<usize, String>> {
        match self.inflate.read(block) {
            Ok(n) => Ok(Ok(n)),
            Err(e) => match e.downcast::<disk::Error>() {
                Ok(disk) => Err(disk),
                Err(e) => Ok(Err(e.to_string())),
            },
        }
    }

    fn fetch(&mut self, at: u64, wants: usize, out: &mut Vec<u8>) -> disk::Result<Fetched> {
        out.clear();
        let mut block = vec![0; BLOCK.min(64 << 10)];
        loop {
            let gone =
                usize::try_from(at.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.buf.len());
            self.buf.drain(..gone);
            self.start = self.start.saturating_add(gone as u64);
            if self.ended || (self.start >= at && self.buf.len() > wants) {
                break;
            }
            match self.next(&mut block)? {
                Ok(n) => {
                    self.buf.extend_from_slice(block.get(..n).unwrap_or_default());
                    self.ended = n == 0;
                }
                Err(why) => (self.ended, self.broken) = (true, Some(why)),
            }
        }
        out.extend_from_slice(self.buf.get(..wants).unwrap_or(&self.buf));
        Ok(Fetched::Bytes { whole: self.ended && self.buf.len() <= wants, more: false })
    }
}

/// See the module's header.
pub(super) enum Source {
    /// As the writer makes it.
    Plain(Box<Plain>),
    /// As logrotate leaves it.
    Gz(Box<Gz>),
}

impl Source {
    /// Opens a file to be read from `at`; `None` = it is gone.
    pub(super) fn open(
        disk: &Disk,
        path: &Path,
        gz: bool,
        at: u64,
        mono_ms: u64,
    ) -> disk::Result<Option<Self>> {
        let file = match disk.open(path) {
            Ok(f) => f,
            Err(e) if e.not_found() => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(Some(if gz {
            Self::Gz(Box::new(Gz::new(file)?))
        } else {
            Self::Plain(Box::new(Plain::new(file, at, mono_ms)?))
        }))
    }

    /// Fills `out` with what follows `at`: at most `most` bytes of the `wants` that are useful.
    pub(super) fn fetch(
        &mut self,
        at: u64,
        most: usize,
        wants: usize,
        mono_ms: u64,
        out: &mut Vec<u8>,
    ) -> disk::Result<Fetched> {
        match self {
            Self::Plain(p) => p.fetch(at, most, wants, mono_ms, out),
            Self::Gz(g) => g.fetch(at, wants, out),
        }
    }

    /// So many bytes of what was fetched are taken.
    pub(super) fn took(&mut self, block: &[u8], taken: usize) {
        if let Self::Plain(p) = self {
            p.took(block, taken);
        }
    }

    /// Device and inode of a compressed file.
    pub(super) fn gz_inode(&self) -> Option<(u64, u64)> {
        match self {
            Self::Plain(_) => None,
            Self::Gz(g) => Some(g.id),
        }
    }

    /// Device and inode of a plain file.
    pub(super) fn inode(&self) -> Option<(u64, u64)> {
        match self {
            Self::Plain(p) => Some((p.dev, p.ino)),
            Self::Gz(_) => None,
        }
    }

    /// The plain file.
    pub(super) fn plain(&self) -> Option<&Plain> {
        match self {
            Self::Plain(p) => Some(p),
            Self::Gz(_) => None,
        }
    }

    /// What is wrong with a compressed file.
    pub(super) fn broken(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Gz(g) => g.broken.clone(),
        }
    }

    /// Time of its last change, as far as it was seen.
    pub(super) fn mtime_ms(&self) -> i64 {
        match self {
            Self::Plain(p) => p.mtime_ms,
            Self::Gz(g) => g.mtime_ms,
        }
    }

    /// Does something follow `at`?
    pub(super) fn has_more(&self, at: u64) -> disk::Result<bool> {
        Ok(match self {
            Self::Plain(p) => p.file.stat()?.len != at,
            Self::Gz(g) => !g.ended || !g.buf.is_empty(),
        })
    }
}
