//! The real file system.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Entry, Error, How, Result, Stat};
use crate::metrics;

/// The reason of the first failed sync, shared by a disk, its clones and all its files.
#[derive(Clone, Default)]
struct Poison(Arc<OnceLock<String>>);

impl Poison {
    fn check(&self, op: &'static str, path: &Path) -> Result<()> {
        match self.0.get() {
            Some(reason) => Err(Error::refused(op, path, reason)),
            None => Ok(()),
        }
    }

    /// Notes a failed sync.
    fn note(&self, op: &'static str, path: &Path, source: io::Error) -> Error {
        let e = Error::deadly(op, path, source);
        let _ = self.0.set(e.to_string()); // only the first reason counts
        e
    }
}

/// The real form of a disk.
#[derive(Clone, Default)]
pub(super) struct Real {
    poison: Poison,
}

/// The real form of an open file.
pub(super) struct RealFile {
    file: fs::File,
    poison: Poison,
}

impl Real {
    pub(super) fn failure(&self) -> Option<String> {
        self.poison.0.get().cloned()
    }

    pub(super) fn open(&self, path: &Path, how: How) -> Result<RealFile> {
        // O_NONBLOCK: opening a FIFO or a modem line must not wait for its other end. It changes nothing for a
        // regular file.
        let common = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let ours = common | OFlags::RDWR | OFlags::NOFOLLOW;
        let (flags, mode) = match how {
            How::Read => (common | OFlags::RDONLY, 0),
            How::Write => (ours, 0),
            How::Create(mode) => (ours | OFlags::CREATE, mode),
            How::CreateNew(mode) => (ours | OFlags::CREATE | OFlags::EXCL, mode),
        };
        if matches!(how, How::Create(_) | How::CreateNew(_)) {
            self.poison.check(how.op(), path)?;
        }
        let fail = |e| Error::new(how.op(), path, e);
        let opened = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::from_raw_mode(mode)));
        let file = match opened {
            Ok(fd) => fs::File::from(fd),
            // "Too many levels of symbolic links" would send the reader after a loop that is not there.
            Err(Errno::LOOP) if how != How::Read => {
                let text = "a symbolic link is not accepted here";
                return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, text)));
            }
            Err(e) => return Err(fail(e.into())),
        };
        let meta = file.metadata().map_err(fail)?;
        if meta.is_dir() {
            return Err(fail(Errno::ISDIR.into()));
        }
        if !meta.is_file() {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        Ok(RealFile { file, poison: self.poison.clone() })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.poison.check("rename", from)?;
        // The reason is the destination's (no such directory, no space, another file system) unless the source is
        // gone.
        let blame = || if fs::symlink_metadata(from).is_ok() { to } else { from };
        fs::rename(from, to).map_err(|e| Error::new("rename", blame(), e))
    }

    pub(super) fn remove(&self, path: &Path) -> Result<()> {
        self.poison.check("remove", path)?;
        missing_is_ok("remove", path, fs::remove_file(path))
    }

    pub(super) fn remove_dir(&self, path: &Path) -> Result<()> {
        self.poison.check("remove directory", path)?;
        missing_is_ok("remove directory", path, fs::remove_dir(path))
    }

    pub(super) fn create_dir(&self, path: &Path, mode: u32) -> Result<()> {
        self.poison.check("create directory", path)?;
        match fs::DirBuilder::new().mode(mode).create(path) {
            // Another process was quicker. That it is a directory shows at the first file made in it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(|e| Error::new("create directory", path, e)),
        }
    }

    pub(super) fn sync_dir(&self, path: &Path) -> Result<()> {
        let op = "sync directory";
        self.poison.check(op, path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
            .map_err(|e| Error::errno(op, path, e))?; // nothing was synced yet, so nothing is in doubt
        let began = Instant::now();
        let synced = fs::File::from(dir).sync_all();
        metrics::FSYNC.observe(began.elapsed());
        match synced {
            // Some network and FUSE file systems cannot sync a directory and say so with EINVAL: there the server
            // makes names durable, and no retry or restart would change it (PostgreSQL ignores it likewise).
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
            other => other.map_err(|e| self.poison.note(op, path, e)),
        }
    }

    #[expect(clippy::unused_self, reason = "same shape as the simulated form")]
    pub(super) fn list(&self, path: &Path, keep: &mut dyn FnMut(&str) -> bool) -> Result<Vec<Entry>> {
        let fail = |e| Error::new("list", path, e);
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !keep(&name) {
                continue;
            }
            let is_dir = match entry.file_type() {
                Ok(kind) if kind.is_symlink() => fs::metadata(entry.path()).is_ok_and(|m| m.is_dir()),
                Ok(kind) => kind.is_dir(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue, // removed meanwhile
                Err(e) => return Err(fail(e)),
            };
            entries.push(Entry { name, is_dir });
        }
        Ok(entries)
    }

    #[expect(clippy::unused_self, reason = "same shape as the simulated form")]
    pub(super) fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(stat_of(&meta))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::new("stat", path, e)),
        }
    }

    #[expect(clippy::unused_self, reason = "same shape as the simulated form")]
    pub(super) fn free_bytes(&self, path: &Path) -> Result<u64> {
        let fs = rustix::io::retry_on_intr(|| rustix::fs::statvfs(path))
            .map_err(|e| Error::errno("free space", path, e))?;
        // `bavail`, not `bfree`: what root keeps for itself is not ours to count on.
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    #[expect(clippy::unused_self, reason = "same shape as the simulated form")]
    pub(super) fn free_inodes(&self, path: &Path) -> Result<u64> {
        let fs = rustix::io::retry_on_intr(|| rustix::fs::statvfs(path))
            .map_err(|e| Error::errno("free inodes", path, e))?;
        // Some file systems make inodes as they need them, and say that they have none at all.
        Ok(if fs.f_files == 0 { u64::MAX } else { fs.f_favail })
    }

    pub(super) fn lock(&self, path: &Path) -> Result<Option<RealFile>> {
        let file = self.open(path, How::Create(0o640))?;
        match file.file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(Error::new("lock", path, e)),
        }
    }
}

impl RealFile {
    pub(super) fn read_at(&self, path: &Path, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while let Some(free) = buf.get_mut(filled..).filter(|free| !free.is_empty()) {
            match self.file.read_at(free, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(n) => filled = filled.saturating_add(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::new("read", path, e)),
            }
        }
        Ok(filled)
    }

    pub(super) fn write_at(&self, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        self.poison.check("write", path)?;
        self.file.write_all_at(bytes, offset).map_err(|e| Error::new("write", path, e))
    }

    pub(super) fn sync(&self, path: &Path) -> Result<()> {
        self.poison.check("sync", path)?;
        let began = Instant::now();
        let synced = self.file.sync_data();
        metrics::FSYNC.observe(began.elapsed());
        synced.map_err(|e| self.poison.note("sync", path, e))
    }

    pub(super) fn set_len(&self, path: &Path, len: u64) -> Result<()> {
        self.poison.check("set length", path)?;
        self.file.set_len(len).map_err(|e| Error::new("set length", path, e))
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Stat> {
        self.file.metadata().map(|meta| stat_of(&meta)).map_err(|e| Error::new("stat", path, e))
    }
}

fn missing_is_ok(op: &'static str, path: &Path, result: io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| Error::new(op, path, e)),
    }
}

fn stat_of(meta: &fs::Metadata) -> Stat {
    Stat {
        len: meta.len(),
        dev: meta.dev(),
        ino: meta.ino(),
        mtime_ms: mtime_ms(meta),
        mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
        is_dir: meta.is_dir(),
        is_file: meta.is_file(),
        mode: meta.mode() & 0o7777,
    }
}

fn mtime_ms(meta: &fs::Metadata) -> i64 {
    meta.mtime().saturating_mul(1000).saturating_add(meta.mtime_nsec() / 1_000_000)
}
