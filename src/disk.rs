//! The only file writer of the program (P1, P5).
//!
//! Everything that must survive goes through a [`Disk`], for three reasons:
//!
//! * every I/O error carries its operation and path, so no caller can forget them;
//! * durability has one vocabulary: [`File::sync`] makes *content* durable, [`Disk::sync_dir`] makes *names*
//!   durable, and neither does the other's work;
//! * the same code runs on a simulated machine ([`Disk::sim`]) that can stop, fail or lose at the n-th call, so
//!   a test can crash a whole follower → relay → collector anywhere and look at what is left.
//!
//! **Poison.** After a failed `fsync` the kernel may already have dropped the dirty pages and marked them clean:
//! a second `fsync` then says Ok about data that is gone (`PostgreSQL`, 2018). So the first failed sync poisons
//! the whole `Disk`: [`Disk::failure`] gives the reason, every later mutating call is refused without touching
//! the disk, and the process must end and start again from what is durable.
//!
//! **Files it creates.** None of its own but `.<name>.tmp` beside a file that [`Disk::replace`] is writing. Such a
//! file proves nothing; the next `replace` of the same name removes it.
//!
//! Modes are subject to the process's umask, as everywhere in Unix.

mod image;
mod real;
pub mod sim;
/// What this process makes from now on, others may read. Commands call it that leave something for a role: it may be another
/// user's, and whoever asks may have a narrower umask.
pub fn make_readable() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// May this user execute this real file?
pub fn may_execute(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Does a process hold the lock of [`Disk::lock`] on this real file? `None` = nobody can tell. Makes no file.
pub fn is_locked(path: &Path) -> Option<bool> {
    let file = std::fs::File::open(path).ok()?;
    match file.try_lock_shared() {
        Ok(()) => Some(false),
        Err(std::fs::TryLockError::WouldBlock) => Some(true),
        Err(std::fs::TryLockError::Error(_)) => None,
    }
}

/// The lock of a real file or directory that is there, as long as what is returned lives; `None` = another process has it.
pub fn take_lock(path: &Path) -> Result<Option<std::fs::File>> {
    let file = std::fs::File::open(path).map_err(|e| Error::new("open", path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::new("lock", path, e)),
    }
}

/// May this user make names in the real directory `path`?
pub fn may_write(path: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::planted::{self, Bug};
use rustix::io::Errno;

pub use sim::{Fault, Outcome, SimDisk};

/// A disk with less room than this is full: no pack of usual size fits.
const NEXT_TO_NOTHING: u64 = 64 << 10;

/// A failed disk operation: what, where, why.
#[derive(Debug)]
pub struct Error {
    /// The operation, as a verb: `open`, `write`, `sync` …
    pub op: &'static str,
    /// The file or directory it was for.
    pub path: PathBuf,
    /// The reason.
    pub source: io::Error,
    fatal: bool,
}

/// What every operation of this module returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `op` on `path`.
    pub fn new(op: &'static str, path: &Path, source: io::Error) -> Error {
        Error { op, path: path.to_path_buf(), source, fatal: false }
    }

    fn errno(op: &'static str, path: &Path, errno: Errno) -> Error {
        Error::new(op, path, errno.into())
    }

    /// An error after which the process must end.
    fn deadly(op: &'static str, path: &Path, source: io::Error) -> Error {
        Error { fatal: true, ..Error::new(op, path, source) }
    }

    /// The refusal of a call after an earlier sync failed or the simulated machine stopped.
    fn refused(op: &'static str, path: &Path, reason: &str) -> Error {
        Error::deadly(op, path, io::Error::other(format!("refused after an earlier failure: {reason}")))
    }

    /// The file or directory does not exist.
    pub fn not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// This user may not.
    pub fn denied(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }

    /// The file system or the quota is full.
    pub fn no_space(&self) -> bool {
        self.is(&[Errno::NOSPC, Errno::DQUOT])
    }

    /// The process or the machine has no file descriptor left.
    pub fn too_many_files(&self) -> bool {
        self.is(&[Errno::MFILE, Errno::NFILE])
    }

    /// Only what stands at its path is in the way: not a failed sync, nor lack of room or of descriptors, which all
    /// files suffer.
    pub fn is_of_one_path(&self) -> bool {
        !(self.fatal || self.no_space() || self.too_many_files())
    }

    /// A sync failed, now or earlier, or the simulated machine stopped: the process must end.
    pub fn fatal(&self) -> bool {
        self.fatal
    }

    fn is(&self, errnos: &[Errno]) -> bool {
        self.source.raw_os_error().is_some_and(|raw| errnos.iter().any(|e| e.raw_os_error() == raw))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.op, self.path.display(), self.source)
    }
}

impl std::error::Error for Error {
    // Display prints the source already; naming it here too would make a caller that walks the chain print it
    // twice.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> io::Error {
        io::Error::new(e.source.kind(), e)
    }
}

/// What is known about a file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Length in bytes.
    pub len: u64,
    /// Device number.
    pub dev: u64,
    /// Inode number. Freed numbers are handed out again: equal numbers do not prove that it is the same file.
    pub ino: u64,
    /// Time of the last modification, Unix milliseconds.
    pub mtime_ms: i64,
    /// The same in nanoseconds, as exact as the file system is.
    pub mtime_ns: i64,
    /// It is a directory.
    pub is_dir: bool,
    /// It is a regular file.
    pub is_file: bool,
    /// Permission bits (the lowest twelve bits of `st_mode`).
    pub mode: u32,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name, without the directory.
    pub name: String,
    /// It is a directory, or a symbolic link to one.
    pub is_dir: bool,
}

/// A machine's file system, real or simulated. Cheap to clone; all clones share the poison.
#[derive(Clone)]
pub struct Disk(Kind);

#[derive(Clone)]
enum Kind {
    Real(real::Real),
    Sim(sim::Sim),
}

/// An open regular file. It keeps working on its inode after a rename or a removal of its name.
pub struct File {
    path: PathBuf,
    kind: FileKind,
}

enum FileKind {
    Real(real::RealFile),
    Sim(sim::SimFile),
}

/// An exclusive lock, held until dropped. The kernel drops it too when the process ends, however it ends.
pub struct Lock {
    _kind: LockKind,
}

/// Held only for its `Drop`.
enum LockKind {
    Real { _file: real::RealFile },
    Sim { _lock: sim::SimLock },
}

/// Calls the same method on whichever form it is.
macro_rules! on {
    ($self:expr, $form:ident => $call:expr) => {
        match &$self.0 {
            Kind::Real($form) => $call,
            Kind::Sim($form) => $call,
        }
    };
}

/// How a file is to be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Read only, following symbolic links: a log file may be one.
    Read,
    /// Read and write; it must exist. Never through a symbolic link: our own files are never links, so a link
    /// there was planted.
    Write,
    /// As `Write`, created with this mode when missing.
    Create(u32),
    /// As `Write`, created with this mode; it must be missing.
    CreateNew(u32),
}

impl How {
    fn op(self) -> &'static str {
        match self {
            How::Read => "open",
            How::Write => "open for writing",
            How::Create(_) | How::CreateNew(_) => "create",
        }
    }
}

impl Disk {
    /// This machine's file system.
    pub fn real() -> Disk {
        Disk(Kind::Real(real::Real::default()))
    }

    /// A simulated machine with an empty root directory, and the handle by which a test breaks it.
    pub fn sim(seed: u64) -> (Disk, SimDisk) {
        let sim = sim::Sim::new(seed);
        (Disk(Kind::Sim(sim.clone())), SimDisk::new(sim))
    }

    fn open_as(&self, path: &Path, how: How) -> Result<File> {
        let kind = match &self.0 {
            Kind::Real(real) => FileKind::Real(real.open(path, how)?),
            Kind::Sim(sim) => FileKind::Sim(sim.open(path, how)?),
        };
        Ok(File { path: path.to_path_buf(), kind })
    }

    /// Opens an existing regular file for reading, following symbolic links. Never waits: a FIFO is refused like
    /// everything that is not a regular file.
    pub fn open(&self, path: &Path) -> Result<File> {
        self.open_as(path, How::Read)
    }

    /// Opens an existing regular file for reading and writing; a symbolic link is refused.
    pub fn open_rw(&self, path: &Path) -> Result<File> {
        self.open_as(path, How::Write)
    }

    /// Opens a regular file for reading and writing, creating it when missing; its content is kept. The name is
    /// durable only after [`Disk::sync_dir`].
    pub fn create(&self, path: &Path, mode: u32) -> Result<File> {
        self.open_as(path, How::Create(mode))
    }

    /// Creates a file that must not exist. The name is durable only after [`Disk::sync_dir`].
    pub fn create_new(&self, path: &Path, mode: u32) -> Result<File> {
        self.open_as(path, How::CreateNew(mode))
    }

    /// The whole content of a file of at most `max` bytes. A longer one is an error of kind `FileTooLarge`,
    /// decided before memory is taken for it.
    pub fn read(&self, path: &Path, max: u64) -> Result<Vec<u8>> {
        let too_long = |len: u64| {
            let text = format!("{len} bytes long, more than the {max} allowed here");
            Error::new("read", path, io::Error::new(io::ErrorKind::FileTooLarge, text))
        };
        let file = self.open(path)?;
        let len = file.stat()?.len;
        if len > max {
            return Err(too_long(len));
        }
        // One byte more than stat said, so that a file growing meanwhile cannot pass for a whole one.
        let mut bytes = vec![0; len.saturating_add(1) as usize];
        let mut filled = 0;
        while let Some(free) = bytes.get_mut(filled..).filter(|free| !free.is_empty()) {
            match file.read_at(free, filled as u64)? {
                0 => break,
                n => filled = filled.saturating_add(n),
            }
            if filled as u64 > max {
                return Err(too_long(filled as u64));
            }
            if filled == bytes.len() {
                let grown = bytes.len().saturating_mul(2).min(max.saturating_add(1) as usize);
                bytes.resize(grown, 0);
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// As [`Disk::read`], but `None` when the file is missing.
    pub fn read_opt(&self, path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
        match self.read(path, max) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Replaces the content of a file so that after a crash it holds either all of the old or all of the new:
    /// temporary file, sync, rename, directory sync. Two threads must not replace the same file at once.
    pub fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        let Some(name) = path.file_name() else {
            return Err(Error::errno("replace", path, Errno::INVAL));
        };
        let mut tmp_name = OsString::from(".");
        tmp_name.push(name);
        tmp_name.push(".tmp");
        let tmp = path.with_file_name(tmp_name);
        let file = match self.create_new(&tmp, mode) {
            // Left by a crash. Removed rather than reused: it may have another mode, or be a planted link.
            Err(e) if e.source.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(&tmp)?;
                self.create_new(&tmp, mode)?
            }
            other => other?,
        };
        let moved = file.write_at(bytes, 0).and_then(|()| file.sync()).and_then(|()| self.rename(&tmp, path));
        if let Err(e) = moved {
            // On a full disk the half-written copy would keep it full. If this fails too, the next replace
            // removes it; the first error is the one worth telling.
            let _ = self.remove(&tmp);
            return Err(e);
        }
        self.sync_dir(parent_of(path))
    }

    /// Renames a file or an empty directory, replacing what was at `to`. Durable only after [`Disk::sync_dir`] of
    /// both directories, `to`'s first.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        on!(self, d => d.rename(from, to))
    }

    /// Removes a file; that it is missing already is fine.
    pub fn remove(&self, path: &Path) -> Result<()> {
        on!(self, d => d.remove(path))
    }

    /// Removes an empty directory; that it is missing already is fine.
    pub fn remove_dir(&self, path: &Path) -> Result<()> {
        on!(self, d => d.remove_dir(path))
    }

    /// Creates a directory and its missing parents, each durable before the next is begun.
    pub fn create_dir_all(&self, path: &Path, mode: u32) -> Result<()> {
        let mut missing = Vec::new();
        let mut level = path;
        loop {
            match self.stat(level)? {
                Some(stat) if stat.is_dir => break,
                Some(_) => return Err(Error::errno("create directory", level, Errno::NOTDIR)),
                None => missing.push(level),
            }
            match level.parent() {
                Some(up) if !up.as_os_str().is_empty() => level = up,
                _ => break,
            }
        }
        // The deepest level that exists may have been made by a process that was killed before it could sync the
        // parent, so it is made durable too. Without the right to open that parent it was not us who made it.
        if missing.last() != Some(&level)
            && let Err(e) = self.sync_dir(parent_of(level))
            && (e.fatal() || !e.denied())
        {
            return Err(e);
        }
        for level in missing.into_iter().rev() {
            on!(self, d => d.create_dir(level, mode))?;
            self.sync_dir(parent_of(level))?;
        }
        Ok(())
    }

    /// Makes the names in a directory durable: what was created in it, renamed into or out of it, removed.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        if planted::is(Bug::NoDirectorySync) {
            return Ok(());
        }
        on!(self, d => d.sync_dir(path))
    }

    /// The names in a directory, sorted. Names that are not UTF-8 are not ours and are left out.
    pub fn list(&self, path: &Path) -> Result<Vec<Entry>> {
        self.list_some(path, &mut |_| true)
    }

    /// The same, of those names only that `keep` takes: of a directory with millions of names the others take no memory.
    pub fn list_some(&self, path: &Path, keep: &mut dyn FnMut(&str) -> bool) -> Result<Vec<Entry>> {
        let mut entries = on!(self, d => d.list(path, keep))?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// What is at `path`, following symbolic links; `None` when nothing is.
    pub fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        on!(self, d => d.stat(path))
    }

    /// The bytes that this process may still write to the file system that holds `path`.
    pub fn free_bytes(&self, path: &Path) -> Result<u64> {
        on!(self, d => d.free_bytes(path))
    }

    /// What the file system that holds `path` is short of, as a sentence: it has less than `min_free` bytes, or so
    /// little of bytes or names that next to nothing can be written whatever `min_free` says.
    pub fn shortage(&self, path: &Path, min_free: u64) -> Result<Option<String>> {
        let free = self.free_bytes(path)?;
        if free < min_free.max(NEXT_TO_NOTHING) {
            return Ok(Some(short_of(path, &size(free), min_free)));
        }
        self.no_inode(path)
    }

    /// The same for a message that repeats: without how much is free, which is another number each time.
    pub fn shortage_in_short(&self, path: &Path, min_free: u64) -> Result<Option<String>> {
        let least = min_free.max(NEXT_TO_NOTHING);
        if self.free_bytes(path)? < least {
            return Ok(Some(short_of(path, &format!("less than {}", size(least)), min_free)));
        }
        self.no_inode(path)
    }

    fn no_inode(&self, path: &Path) -> Result<Option<String>> {
        let full = on!(self, d => d.free_inodes(path))? == 0;
        Ok(full.then(|| format!("no inode free below {}: remove files, however small", path.display())))
    }

    /// Takes an exclusive lock on the file `path`, which is created when missing and never removed. `None` when
    /// somebody else holds it.
    pub fn lock(&self, path: &Path) -> Result<Option<Lock>> {
        Ok(match &self.0 {
            Kind::Real(real) => real.lock(path)?.map(|file| Lock { _kind: LockKind::Real { _file: file } }),
            Kind::Sim(sim) => sim.lock(path)?.map(|lock| Lock { _kind: LockKind::Sim { _lock: lock } }),
        })
    }

    /// Why every mutating call is refused from now on: a sync failed, or the simulated machine stopped.
    pub fn failure(&self) -> Option<String> {
        on!(self, d => d.failure())
    }
}

fn short_of(path: &Path, free: &str, min_free: u64) -> String {
    format!("{free} free below {}, min_free is {}", path.display(), size(min_free))
}

/// The `min_free` that would do with so many free bytes; `None` = none would.
pub fn fitting_min_free(free: u64) -> Option<u64> {
    (free >= NEXT_TO_NOTHING).then_some(free)
}

/// A size for people: `812 B`, `1.4 GiB`.
pub fn size(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    String::new()
}

/// Calls the same method on whichever form the file has.
macro_rules! on_file {
    ($self:expr, $form:ident => $call:expr) => {
        match &$self.kind {
            FileKind::Real($form) => $call,
            FileKind::Sim($form) => $call,
        }
    };
}

impl File {
    /// Reads until `buf` is full or the file ends; returns how much was read.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        on_file!(self, f => f.read_at(&self.path, buf, offset))
    }

    /// Writes all of `bytes`. After an error any prefix of them may have been written.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        on_file!(self, f => f.write_at(&self.path, bytes, offset))
    }

    /// Makes content and length durable (`fdatasync`), not the name. A failure poisons the disk.
    pub fn sync(&self) -> Result<()> {
        on_file!(self, f => f.sync(&self.path))
    }

    /// Cuts the file, or lengthens it with zero bytes.
    pub fn set_len(&self, len: u64) -> Result<()> {
        on_file!(self, f => f.set_len(&self.path, len))
    }

    /// What is known about the open file.
    pub fn stat(&self) -> Result<Stat> {
        on_file!(self, f => f.stat(&self.path))
    }

    /// The path it was opened by; the file may have been renamed since.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The directory that holds `path`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(up) if up.as_os_str().is_empty() => Path::new("."),
        Some(up) => up,
        None => path, // the root is its own parent
    }
}
