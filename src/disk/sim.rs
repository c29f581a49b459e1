//! The simulated machine: the calls, the faults, and the test's handle on both.
//!
//! Every mutating call has a number. A test first runs once to learn how many there are ([`SimDisk::calls`]), then
//! again for each number with a fault planned there ([`SimDisk::plan`]), restarts the machine
//! ([`SimDisk::restart`]) and looks at what is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::image::{Image, NodeId};
use super::{Entry, Error, How, Result, Stat};

/// Longer files would only exhaust the memory of the test.
const MAX_FILE: u64 = 1 << 32;

/// How many calls [`SimDisk::log`] remembers.
const LOG_LINES: usize = 200;

/// What happens instead of a planned call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The machine stops before the call.
    Crash,
    /// A write gets only a prefix done, then the machine stops. Any other call: as `Crash`.
    Torn,
    /// The call fails with this errno and does nothing. A failed sync poisons the disk.
    Error(i32),
    /// A write gets a prefix done, then fails with this errno. Any other call: as `Error`.
    ShortThenError(i32),
    /// A sync says Ok and makes nothing durable. Any other call happens as usual.
    Lost,
}

/// What a restart finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A power cut after which everything is there, as if just synced.
    KeepAll,
    /// A power cut that lost everything not synced.
    LoseUnsynced,
    /// A power cut that kept some of what was not synced: each write kept, lost, zero-filled or torn at a sector,
    /// each change of a name kept or lost (see `image`), by this seed.
    Random(u64),
    /// Only the process was killed: everything is there, but what was not synced still is not durable, and a
    /// later power cut may lose it.
    Killed,
}

/// A small seeded generator (`SplitMix64`), the same on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that always gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        // Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64().checked_rem(n).unwrap_or(0)
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }
}

struct State {
    image: Image,
    /// Counts restarts: handles and locks of an earlier epoch are dead.
    epoch: u64,
    calls: u64,
    plan: BTreeMap<u64, Fault>,
    log: VecDeque<String>,
    crashed: bool,
    failure: Option<String>,
    rng: Rng,
    free_bytes: u64,
    capacity: Option<u64>,
    locks: BTreeSet<NodeId>,
    unreadable: BTreeMap<PathBuf, Range<u64>>,
    forbidden: BTreeSet<PathBuf>,
    bad_reads: usize,
}

/// What kind of call it is, for the faults that depend on it.
enum What {
    Write { offset: u64, len: u64 },
    Sync,
    Other,
}

/// How a call goes on.
enum Go {
    All,
    Nothing,
    /// A write of so many bytes, then this.
    Part(u64, Fault),
}

impl State {
    /// Refuses everything on a stopped machine.
    fn running(&self, op: &'static str, path: &Path) -> Result<()> {
        match &self.failure {
            Some(reason) if self.crashed => Err(Error::refused(op, path, reason)),
            _ => Ok(()),
        }
    }

    /// Refuses mutating calls on a poisoned or stopped machine.
    fn mutable(&self, op: &'static str, path: &Path) -> Result<()> {
        match &self.failure {
            Some(reason) => Err(Error::refused(op, path, reason)),
            None => Ok(()),
        }
    }

    fn alive(&self, epoch: u64, op: &'static str, path: &Path) -> Result<()> {
        if self.epoch != epoch {
            return Err(Error::refused(op, path, "the machine was restarted since this file was opened"));
        }
        self.running(op, path)
    }

    /// Counts a mutating call and decides by the plan how it goes on.
    fn step(&mut self, op: &'static str, path: &Path, what: &What) -> Result<Go> {
        self.mutable(op, path)?;
        self.calls = self.calls.saturating_add(1);
        let fault = self.plan.remove(&self.calls);
        self.note(op, path, what, fault);
        let Some(fault) = fault else { return Ok(Go::All) };
        match (fault, what) {
            (Fault::Torn | Fault::ShortThenError(_), What::Write { len, .. }) => {
                Ok(Go::Part(self.rng.below(*len), fault))
            }
            (Fault::Lost, What::Sync) => Ok(Go::Nothing),
            (Fault::Lost, _) => Ok(Go::All),
            _ => Err(self.strike(fault, op, path, matches!(what, What::Sync))),
        }
    }

    /// The fault itself, after whatever part of the call happened.
    fn strike(&mut self, fault: Fault, op: &'static str, path: &Path, sync: bool) -> Error {
        match fault {
            Fault::Error(errno) | Fault::ShortThenError(errno) => {
                let source = io::Error::from_raw_os_error(errno);
                let e = Error::new(op, path, source);
                // No fsync says that: it is the open of the directory to be synced, and nothing is in doubt yet.
                if sync && !e.too_many_files() {
                    let e = Error { fatal: true, ..e };
                    self.failure = Some(e.to_string());
                    e
                } else {
                    e
                }
            }
            Fault::Crash | Fault::Torn | Fault::Lost => {
                let reason = format!("simulated crash at call {} ({op} {})", self.calls, path.display());
                let e = Error::refused(op, path, &reason);
                self.failure = Some(reason);
                self.crashed = true;
                e
            }
        }
    }

    fn note(&mut self, op: &'static str, path: &Path, what: &What, fault: Option<Fault>) {
        use std::fmt::Write as _;
        let mut line = format!("{}: {op} {}", self.calls, path.display());
        if let What::Write { offset, len } = what {
            let _ = write!(line, " at {offset}, {len} bytes"); // a String takes everything
        }
        if let Some(fault) = fault {
            let _ = write!(line, " -> {fault:?}");
        }
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }
}

/// The simulated form of a disk.
#[derive(Clone)]
pub(super) struct Sim(Arc<Mutex<State>>);

/// The simulated form of an open file.
pub(super) struct SimFile {
    sim: Sim,
    epoch: u64,
    node: NodeId,
    writable: bool,
}

/// The simulated form of a lock.
pub(super) struct SimLock {
    sim: Sim,
    epoch: u64,
    node: NodeId,
}

impl Sim {
    pub(super) fn new(seed: u64) -> Sim {
        Sim(Arc::new(Mutex::new(State {
            image: Image::new(),
            epoch: 0,
            calls: 0,
            plan: BTreeMap::new(),
            log: VecDeque::new(),
            crashed: false,
            failure: None,
            rng: Rng::new(seed),
            free_bytes: 1 << 40,
            capacity: None,
            locks: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            forbidden: BTreeSet::new(),
            bad_reads: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked in another thread has failed already; its message is worth more than ours.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    pub(super) fn open(&self, path: &Path, how: How) -> Result<SimFile> {
        let op = how.op();
        let state = &mut *self.state();
        state.running(op, path)?;
        let fail = |errno| Error::errno(op, path, errno);
        let node = match how {
            How::Read if state.forbidden.contains(path) => return Err(fail(Errno::ACCESS)),
            How::Read | How::Write => state.image.find(path).map_err(fail)?,
            How::Create(mode) | How::CreateNew(mode) => {
                state.mutable(op, path)?;
                let place = state.image.place(path).map_err(fail)?;
                match state.image.at(&place) {
                    Some(_) if matches!(how, How::CreateNew(_)) => return Err(fail(Errno::EXIST)),
                    Some(node) => node,
                    None => {
                        state.step(op, path, &What::Other)?;
                        state.image.create(place, mode, false)
                    }
                }
            }
        };
        if state.image.is_dir(node) {
            return Err(fail(Errno::ISDIR));
        }
        state.image.opened(node);
        Ok(SimFile { sim: self.clone(), epoch: state.epoch, node, writable: how != How::Read })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let op = "rename";
        let state = &mut *self.state();
        state.mutable(op, from)?;
        let fail = |errno| Error::errno(op, to, errno);
        let node = state.image.find(from).map_err(|e| Error::errno(op, from, e))?;
        let from_place = state.image.place(from).map_err(fail)?;
        let to_place = state.image.place(to).map_err(fail)?;
        if from != to && to.starts_with(from) {
            return Err(fail(Errno::INVAL));
        }
        if let Some(old) = state.image.at(&to_place).filter(|old| *old != node) {
            match (state.image.is_dir(node), state.image.is_dir(old)) {
                (false, true) => return Err(fail(Errno::ISDIR)),
                (true, false) => return Err(fail(Errno::NOTDIR)),
                (true, true) if !state.image.is_empty_dir(old) => return Err(fail(Errno::NOTEMPTY)),
                _ => {}
            }
        }
        state.step(op, to, &What::Other)?;
        state.image.rename(from_place, to_place);
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> Result<()> {
        self.unlink("remove", path, false)
    }

    pub(super) fn remove_dir(&self, path: &Path) -> Result<()> {
        self.unlink("remove directory", path, true)
    }

    fn unlink(&self, op: &'static str, path: &Path, dir: bool) -> Result<()> {
        let state = &mut *self.state();
        state.mutable(op, path)?;
        let (place, node) = match state.image.place(path).map(|p| (state.image.at(&p), p)) {
            Ok((Some(node), place)) => (place, node),
            Ok((None, _)) | Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::errno(op, path, e)),
        };
        match (dir, state.image.is_dir(node)) {
            (false, true) => return Err(Error::errno(op, path, Errno::ISDIR)),
            (true, false) => return Err(Error::errno(op, path, Errno::NOTDIR)),
            (true, true) if !state.image.is_empty_dir(node) => {
                return Err(Error::errno(op, path, Errno::NOTEMPTY));
            }
            _ => {}
        }
        state.step(op, path, &What::Other)?;
        state.image.unlink(place);
        Ok(())
    }

    pub(super) fn create_dir(&self, path: &Path, mode: u32) -> Result<()> {
        let op = "create directory";
        let state = &mut *self.state();
        state.mutable(op, path)?;
        let place = state.image.place(path).map_err(|e| Error::errno(op, path, e))?;
        if state.image.at(&place).is_none() {
            state.step(op, path, &What::Other)?;
            state.image.create(place, mode, true);
        }
        Ok(())
    }

    pub(super) fn sync_dir(&self, path: &Path) -> Result<()> {
        let op = "sync directory";
        let state = &mut *self.state();
        state.mutable(op, path)?;
        let dir = state.image.find(path).map_err(|e| Error::errno(op, path, e))?;
        if !state.image.is_dir(dir) {
            return Err(Error::errno(op, path, Errno::NOTDIR));
        }
        if let Go::All = state.step(op, path, &What::Sync)? {
            state.image.sync_dir(dir);
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path, keep: &mut dyn FnMut(&str) -> bool) -> Result<Vec<Entry>> {
        let state = self.state();
        state.running("list", path)?;
        let fail = |errno| Error::errno("list", path, errno);
        let mut all = state.image.list(state.image.find(path).map_err(fail)?).map_err(fail)?;
        all.retain(|e| keep(&e.name));
        Ok(all)
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        let state = self.state();
        state.running("stat", path)?;
        match state.image.find(path) {
            Ok(node) => Ok(state.image.stat(node)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::errno("stat", path, e)),
        }
    }

    pub(super) fn free_bytes(&self, path: &Path) -> Result<u64> {
        let state = self.state();
        state.running("free space", path)?;
        state.image.find(path).map_err(|e| Error::errno("free space", path, e))?;
        let room = state.capacity.map_or(u64::MAX, |max| max.saturating_sub(state.image.used()));
        Ok(state.free_bytes.min(room))
    }

    /// The simulated machine has as many inodes as anybody wants.
    pub(super) fn free_inodes(&self, path: &Path) -> Result<u64> {
        self.state().running("free inodes", path).map(|()| u64::MAX)
    }

    pub(super) fn lock(&self, path: &Path) -> Result<Option<SimLock>> {
        let file = self.open(path, How::Create(0o640))?;
        let taken = self.state().locks.insert(file.node);
        Ok(taken.then(|| SimLock { sim: self.clone(), epoch: file.epoch, node: file.node }))
    }
}

impl SimFile {
    pub(super) fn read_at(&self, path: &Path, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.sim.state();
        state.alive(self.epoch, "read", path)?;
        let bad = state.unreadable.get(path);
        if bad.is_some_and(|bad| offset < bad.end && bad.start < offset.saturating_add(buf.len() as u64)) {
            state.bad_reads = state.bad_reads.saturating_add(1);
            return Err(Error::errno("read", path, Errno::IO));
        }
        let rest = state.image.content(self.node).get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }

    fn check_write(&self, state: &State, op: &'static str, path: &Path, end: u64) -> Result<()> {
        state.alive(self.epoch, op, path)?;
        state.mutable(op, path)?;
        if !self.writable {
            return Err(Error::errno(op, path, Errno::BADF));
        }
        if end > MAX_FILE {
            return Err(Error::errno(op, path, Errno::FBIG));
        }
        Ok(())
    }

    pub(super) fn write_at(&self, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        let state = &mut *self.sim.state();
        let len = bytes.len() as u64;
        let end = offset.saturating_add(len);
        self.check_write(state, "write", path, end)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let go = state.step("write", path, &What::Write { offset, len })?;
        let wanted = if let Go::Part(n, _) = go { n } else { len };
        let growth =
            offset.saturating_add(wanted).saturating_sub(state.image.content(self.node).len() as u64);
        let room = state.capacity.map_or(u64::MAX, |max| max.saturating_sub(state.image.used()));
        let written = wanted.saturating_sub(growth.saturating_sub(room));
        if let Some(part) = bytes.get(..written as usize).filter(|part| !part.is_empty()) {
            state.image.write(self.node, offset, part);
        }
        match go {
            Go::Part(_, fault) => Err(state.strike(fault, "write", path, false)),
            _ if written < wanted => Err(Error::errno("write", path, Errno::NOSPC)),
            _ => Ok(()),
        }
    }

    pub(super) fn sync(&self, path: &Path) -> Result<()> {
        let state = &mut *self.sim.state();
        state.alive(self.epoch, "sync", path)?;
        if let Go::All = state.step("sync", path, &What::Sync)? {
            state.image.sync(self.node);
        }
        Ok(())
    }

    pub(super) fn set_len(&self, path: &Path, len: u64) -> Result<()> {
        let state = &mut *self.sim.state();
        self.check_write(state, "set length", path, len)?;
        state.step("set length", path, &What::Other)?;
        // A real disk would refuse the write that fills what is only a length here.
        let growth = len.saturating_sub(state.image.content(self.node).len() as u64);
        if state.capacity.is_some_and(|max| growth > max.saturating_sub(state.image.used())) {
            return Err(Error::errno("set length", path, Errno::NOSPC));
        }
        state.image.set_len(self.node, len);
        Ok(())
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Stat> {
        let state = self.sim.state();
        state.alive(self.epoch, "stat", path)?;
        state.image.stat(self.node).ok_or_else(|| Error::errno("stat", path, Errno::NOENT))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        if state.epoch == self.epoch {
            state.image.closed(self.node);
        }
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        if state.epoch == self.epoch {
            state.locks.remove(&self.node);
        }
    }
}

/// The test's handle on a simulated machine.
#[derive(Clone)]
pub struct SimDisk(Sim);

impl SimDisk {
    pub(super) fn new(sim: Sim) -> SimDisk {
        SimDisk(sim)
    }

    /// How many mutating calls there were. Calls that change nothing (opening a file that exists, removing one
    /// that does not) do not count; each step of [`super::Disk::replace`] does.
    pub fn calls(&self) -> u64 {
        self.0.state().calls
    }

    /// Plans a fault instead of the call with this number, counted from 1.
    pub fn plan(&self, at_call: u64, fault: Fault) {
        self.0.state().plan.insert(at_call, fault);
    }

    /// Planned faults that are still to come.
    pub fn planned(&self) -> usize {
        self.0.state().plan.len()
    }

    /// Planned faults that are still to come do not.
    pub fn forget_plan(&self) {
        self.0.state().plan.clear();
    }

    /// The machine has stopped.
    pub fn crashed(&self) -> bool {
        self.0.state().crashed
    }

    /// Stops the machine: every call fails until [`SimDisk::restart`].
    pub fn crash(&self) {
        let mut state = self.0.state();
        state.crashed = true;
        state.failure = Some("simulated crash".to_owned());
    }

    /// Starts the machine again, stopping it first if it runs. Files and locks of before stay dead; planned
    /// faults that are still to come stay planned, and calls are counted on.
    pub fn restart(&self, outcome: Outcome) {
        let state = &mut *self.0.state();
        state.image.restart(outcome);
        state.epoch = state.epoch.saturating_add(1);
        state.crashed = false;
        state.failure = None;
        state.locks.clear();
        state.plan = state.plan.split_off(&state.calls.saturating_add(1));
    }

    /// The last mutating calls as text, to explain a failing test.
    pub fn log(&self) -> Vec<String> {
        self.0.state().log.iter().cloned().collect()
    }

    /// What [`super::Disk::free_bytes`] says (at most; a capacity may leave less).
    pub fn set_free_bytes(&self, bytes: u64) {
        self.0.state().free_bytes = bytes;
    }

    /// Limits the bytes of all live content: a write beyond it is cut short with `ENOSPC`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.state().capacity = bytes;
    }

    /// The modification time, Unix milliseconds, that later writes get.
    pub fn set_mtime_ms(&self, unix_ms: i64) {
        self.0.state().image.mtime_ms = unix_ms;
    }

    /// These bytes of a file give an input/output error from now on, if it is opened by this path; an empty range ends it.
    pub fn set_unreadable(&self, path: &Path, bytes: Range<u64>) {
        self.0.state().unreadable.insert(path.to_owned(), bytes);
    }

    /// How often that was met.
    pub fn bad_reads(&self) -> usize {
        self.0.state().bad_reads
    }

    /// What stands at this path may not be opened for reading.
    pub fn set_forbidden(&self, path: &Path, forbidden: bool) {
        let mut state = self.0.state();
        if forbidden {
            state.forbidden.insert(path.to_owned());
        } else {
            state.forbidden.remove(path);
        }
    }

    /// Flips the bits of `mask` in one byte of a file, in both images. False when there is no such byte.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> bool {
        let state = &mut *self.0.state();
        state.image.find(path).is_ok_and(|node| state.image.flip(node, offset, mask))
    }

    /// Cuts a file in both images. False when it is missing or not longer than `len`.
    pub fn truncate(&self, path: &Path, len: u64) -> bool {
        let state = &mut *self.0.state();
        state.image.find(path).is_ok_and(|node| state.image.truncate(node, len))
    }

    /// Looks at the live content of a file, without a copy of it.
    pub fn look<R>(&self, path: &Path, at: impl FnOnce(Option<&[u8]>) -> R) -> R {
        let state = &*self.0.state();
        at(state.image.find(path).ok().map(|node| state.image.content(node)))
    }

    /// All live files with their lengths, sorted.
    pub fn paths(&self) -> Vec<(PathBuf, u64)> {
        self.0.state().image.paths()
    }

    /// Somebody deletes a file or directory with all that is in it; durable at once.
    pub fn remove_tree(&self, path: &Path) {
        self.0.state().image.remove_tree(path);
    }

    /// Somebody writes this file anew (same inode when it exists); durable at once, not counted as a call.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        self.0.state().image.put(path, bytes, false);
    }

    /// Somebody appends to this file, creating it when missing; durable at once, not counted as a call.
    pub fn append(&self, path: &Path, bytes: &[u8]) {
        self.0.state().image.put(path, bytes, true);
    }
}
