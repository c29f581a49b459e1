//! The two images of the simulated machine: what a running program sees (live) and what a power cut leaves
//! (durable), with the changes in between.
//!
//! Content and names become durable separately. A file keeps the ordered writes since its last sync; the machine
//! keeps one ordered list of name changes since the last sync of their directories.
//!
//! **What a power cut may do to names.** Each pending change is kept or lost on its own, with the order that every
//! journaling file system keeps: a change of a name happens only if what it changes is there. So a lost creation
//! loses the later rename of the file, and a lost removal loses the later creation under that name; a file that
//! nobody removed or replaced never vanishes. A rename within a directory is atomic. A rename between directories
//! may leave both names (arrival kept, departure lost), never neither: no program could guard against that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::sim::{Outcome, Rng};
use super::{Entry, Stat};

/// A file or directory for ever; unlike inode numbers never handed out again.
pub(super) type NodeId = u64;

/// A name in a directory.
pub(super) type Place = (NodeId, OsString);

const ROOT: NodeId = 0;

/// Power cuts keep or lose whole sectors.
const SECTOR: u64 = 512;

/// A change of content since the last sync.
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

/// What files and directories have in common.
#[derive(Default)]
struct Meta {
    /// `None` once the number is free for others.
    ino: Option<u64>,
    mode: u32,
    mtime_ms: i64,
    /// Live names. Two only after a power cut in a rename between directories.
    links: u32,
    /// Open handles.
    open: u32,
}

#[derive(Default)]
struct FileNode {
    meta: Meta,
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Default)]
struct DirNode {
    meta: Meta,
    live: BTreeMap<OsString, NodeId>,
    durable: BTreeMap<OsString, NodeId>,
}

/// A change of a name since the last sync of its directory.
enum Op {
    Link { at: Place, node: NodeId },
    Unlink { at: Place, node: NodeId },
    Rename { from: Place, to: Place, node: NodeId, replaced: Option<NodeId> },
}

impl Op {
    fn node(&self) -> NodeId {
        match self {
            Op::Link { node, .. } | Op::Unlink { node, .. } | Op::Rename { node, .. } => *node,
        }
    }
}

/// The simulated machine's files.
pub(super) struct Image {
    files: BTreeMap<NodeId, FileNode>,
    dirs: BTreeMap<NodeId, DirNode>,
    pending: Vec<Op>,
    next_node: NodeId,
    next_ino: u64,
    free_inos: BTreeSet<u64>,
    /// Nodes that lost their last name since the last collection.
    garbage: u32,
    /// The modification time of later writes.
    pub(super) mtime_ms: i64,
}

impl Image {
    pub(super) fn new() -> Image {
        let meta = Meta { ino: Some(2), mode: 0o755, links: 1, ..Meta::default() };
        let root = DirNode { meta, ..DirNode::default() };
        Image {
            files: BTreeMap::new(),
            dirs: BTreeMap::from([(ROOT, root)]),
            pending: Vec::new(),
            next_node: ROOT + 1,
            next_ino: 11,
            free_inos: BTreeSet::new(),
            garbage: 0,
            mtime_ms: 1_700_000_000_000,
        }
    }

    // ---- looking -------------------------------------------------------------------------------------------

    /// The node at a path. Relative paths start at the root.
    pub(super) fn find(&self, path: &Path) -> Result<NodeId, Errno> {
        let mut node = ROOT;
        for part in path.components() {
            match part {
                Component::Normal(name) => node = self.child(node, name)?.ok_or(Errno::NOENT)?,
                Component::ParentDir => return Err(Errno::INVAL), // no caller builds such paths
                _ => {}
            }
        }
        Ok(node)
    }

    /// The directory and name that a path means; the name need not exist.
    pub(super) fn place(&self, path: &Path) -> Result<Place, Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let dir = self.find(path.parent().unwrap_or(Path::new("/")))?;
        if !self.is_dir(dir) {
            return Err(Errno::NOTDIR);
        }
        Ok((dir, name.to_os_string()))
    }

    fn child(&self, dir: NodeId, name: &OsStr) -> Result<Option<NodeId>, Errno> {
        Ok(self.dirs.get(&dir).ok_or(Errno::NOTDIR)?.live.get(name).copied())
    }

    pub(super) fn at(&self, place: &Place) -> Option<NodeId> {
        self.child(place.0, &place.1).ok().flatten()
    }

    pub(super) fn is_dir(&self, node: NodeId) -> bool {
        self.dirs.contains_key(&node)
    }

    pub(super) fn is_empty_dir(&self, node: NodeId) -> bool {
        self.dirs.get(&node).is_some_and(|d| d.live.is_empty())
    }

    pub(super) fn content(&self, node: NodeId) -> &[u8] {
        self.files.get(&node).map_or(&[], |f| &f.live)
    }

    pub(super) fn stat(&self, node: NodeId) -> Option<Stat> {
        let (meta, len, is_dir) = match (self.files.get(&node), self.dirs.get(&node)) {
            (Some(f), _) => (&f.meta, f.live.len() as u64, false),
            (_, Some(d)) => (&d.meta, 4096, true),
            _ => return None,
        };
        let ino = meta.ino.unwrap_or(0);
        Some(Stat {
            len,
            dev: 1,
            ino,
            mtime_ms: meta.mtime_ms,
            mtime_ns: meta.mtime_ms.saturating_mul(1_000_000),
            is_dir,
            is_file: !is_dir,
            mode: meta.mode,
        })
    }

    pub(super) fn list(&self, node: NodeId) -> Result<Vec<Entry>, Errno> {
        let dir = self.dirs.get(&node).ok_or(Errno::NOTDIR)?;
        let entry = |(name, node): (&OsString, &NodeId)| {
            Some(Entry { name: name.to_str()?.to_owned(), is_dir: self.is_dir(*node) })
        };
        Ok(dir.live.iter().filter_map(entry).collect())
    }

    /// Bytes of all live content, files without a name but still open included.
    pub(super) fn used(&self) -> u64 {
        let alive = self.files.values().filter(|f| f.meta.links > 0 || f.meta.open > 0);
        alive.map(|f| f.live.len() as u64).sum()
    }

    /// All live files with their lengths.
    pub(super) fn paths(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut unseen = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, node)) = unseen.pop() {
            if let Some(file) = self.files.get(&node) {
                found.push((path.clone(), file.live.len() as u64));
            }
            let names = self.dirs.get(&node).into_iter().flat_map(|d| &d.live);
            unseen.extend(names.map(|(name, node)| (path.join(name), *node)));
        }
        found.sort();
        found
    }

    // ---- changing the live image ---------------------------------------------------------------------------

    /// Creates a file or directory under a free name.
    pub(super) fn create(&mut self, at: Place, mode: u32, dir: bool) -> NodeId {
        let node = self.next_node;
        self.next_node = self.next_node.saturating_add(1);
        let ino = Some(self.take_ino());
        let meta = Meta { ino, mode, mtime_ms: self.mtime_ms, links: 1, open: 0 };
        if dir {
            self.dirs.insert(node, DirNode { meta, ..DirNode::default() });
        } else {
            self.files.insert(node, FileNode { meta, ..FileNode::default() });
        }
        self.set_live(&at, Some(node));
        self.pending.push(Op::Link { at, node });
        node
    }

    /// Removes a name that exists.
    pub(super) fn unlink(&mut self, at: Place) {
        if let Some(node) = self.set_live(&at, None) {
            self.drop_link(node);
            self.pending.push(Op::Unlink { at, node });
        }
    }

    /// Moves a name that exists; what is at `to` is replaced.
    pub(super) fn rename(&mut self, from: Place, to: Place) {
        let Some(node) = self.at(&from) else { return };
        // POSIX: two names of one file; rename does nothing and says Ok.
        if self.at(&to) == Some(node) {
            return;
        }
        self.set_live(&from, None);
        let replaced = self.set_live(&to, Some(node));
        if let Some(old) = replaced {
            self.drop_link(old);
        }
        self.pending.push(Op::Rename { from, to, node, replaced });
    }

    /// Changes a live entry and returns what was there.
    fn set_live(&mut self, at: &Place, node: Option<NodeId>) -> Option<NodeId> {
        let mtime_ms = self.mtime_ms;
        let dir = self.dirs.get_mut(&at.0)?;
        dir.meta.mtime_ms = mtime_ms;
        match node {
            Some(node) => dir.live.insert(at.1.clone(), node),
            None => dir.live.remove(&at.1),
        }
    }

    pub(super) fn write(&mut self, node: NodeId, offset: u64, bytes: &[u8]) {
        self.change(node, Change::Write { offset, bytes: bytes.to_vec() });
    }

    pub(super) fn set_len(&mut self, node: NodeId, len: u64) {
        self.change(node, Change::SetLen(len));
    }

    fn change(&mut self, node: NodeId, change: Change) {
        let mtime_ms = self.mtime_ms;
        if let Some(file) = self.files.get_mut(&node) {
            file.meta.mtime_ms = mtime_ms;
            apply(&mut file.live, &change);
            file.pending.push(change);
        }
    }

    // ---- open handles and inode numbers --------------------------------------------------------------------

    fn meta_mut(&mut self, node: NodeId) -> Option<&mut Meta> {
        match self.files.get_mut(&node) {
            Some(file) => Some(&mut file.meta),
            None => self.dirs.get_mut(&node).map(|d| &mut d.meta),
        }
    }

    pub(super) fn opened(&mut self, node: NodeId) {
        if let Some(meta) = self.meta_mut(node) {
            meta.open = meta.open.saturating_add(1);
        }
    }

    pub(super) fn closed(&mut self, node: NodeId) {
        if let Some(meta) = self.meta_mut(node) {
            meta.open = meta.open.saturating_sub(1);
        }
        self.release(node);
    }

    fn drop_link(&mut self, node: NodeId) {
        if let Some(meta) = self.meta_mut(node) {
            meta.links = meta.links.saturating_sub(1);
        }
        self.release(node);
    }

    /// Frees the inode number of a file that nobody can reach any more.
    fn release(&mut self, node: NodeId) {
        let Some(meta) = self.meta_mut(node) else { return };
        if meta.links == 0 && meta.open == 0 {
            if let Some(ino) = meta.ino.take() {
                self.free_inos.insert(ino);
            }
            self.garbage = self.garbage.saturating_add(1);
        }
    }

    fn take_ino(&mut self) -> u64 {
        self.free_inos.pop_first().unwrap_or_else(|| {
            self.next_ino = self.next_ino.saturating_add(1);
            self.next_ino
        })
    }

    /// Forgets nodes that neither image, no pending change and no handle can reach.
    fn collect(&mut self) {
        let open = self.files.iter().filter(|(_, f)| f.meta.open > 0).map(|(id, _)| *id);
        let mut unseen: Vec<NodeId> = self.pending.iter().map(Op::node).chain(open).collect();
        unseen.push(ROOT);
        let mut reachable = BTreeSet::new();
        while let Some(node) = unseen.pop() {
            if reachable.insert(node)
                && let Some(dir) = self.dirs.get(&node)
            {
                unseen.extend(dir.live.values().chain(dir.durable.values()));
            }
        }
        self.files.retain(|id, _| reachable.contains(id));
        self.dirs.retain(|id, _| reachable.contains(id));
        self.garbage = 0;
    }

    // ---- durability ----------------------------------------------------------------------------------------

    pub(super) fn sync(&mut self, node: NodeId) {
        if let Some(file) = self.files.get_mut(&node) {
            for change in file.pending.drain(..) {
                apply(&mut file.durable, &change);
            }
        }
    }

    /// Makes a directory's names durable. What leaves it for another directory takes that one along: a journal
    /// commits both halves, and without it a crash could leave neither name.
    pub(super) fn sync_dir(&mut self, dir: NodeId) {
        let mut unseen = vec![dir];
        let mut done = BTreeSet::new();
        while let Some(id) = unseen.pop() {
            if !done.insert(id) {
                continue;
            }
            for op in &self.pending {
                if let Op::Rename { from, to, node, .. } = op {
                    if from.0 == id {
                        unseen.push(to.0);
                    }
                    // A directory with two names would be no tree.
                    if to.0 == id && self.dirs.contains_key(node) {
                        unseen.push(from.0);
                    }
                }
            }
            if let Some(dir) = self.dirs.get_mut(&id) {
                dir.durable.clone_from(&dir.live);
            }
        }
        let left = std::mem::take(&mut self.pending).into_iter().filter_map(|op| match op {
            Op::Link { at, .. } | Op::Unlink { at, .. } if done.contains(&at.0) => None,
            Op::Rename { from, .. } if done.contains(&from.0) => None,
            // Arrived for certain; whether the old name is gone is still open.
            Op::Rename { from, to, node, .. } if done.contains(&to.0) => Some(Op::Unlink { at: from, node }),
            other => Some(other),
        });
        self.pending = left.collect();
        if self.garbage > 64 {
            self.collect();
        }
    }

    /// The machine or only the process stopped; makes the image that the next process finds.
    pub(super) fn restart(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Killed => {}
            Outcome::LoseUnsynced => self.pending.clear(),
            Outcome::KeepAll => {
                self.pending.clear();
                for dir in self.dirs.values_mut() {
                    dir.durable.clone_from(&dir.live);
                }
                for file in self.files.values_mut() {
                    file.durable.clone_from(&file.live);
                }
            }
            Outcome::Random(seed) => {
                let mut rng = Rng::new(seed);
                // Mostly kept, mostly lost and mixed each find other bugs.
                let keep = *[10, 50, 90].get(rng.below(3) as usize).unwrap_or(&50);
                for op in std::mem::take(&mut self.pending) {
                    if rng.chance(keep) {
                        self.apply_durable(op, rng.chance(50));
                    }
                }
                for file in self.files.values_mut() {
                    for change in file.pending.drain(..) {
                        if rng.chance(keep) {
                            apply(&mut file.durable, &change);
                        } else {
                            damage(&mut file.durable, change, &mut rng);
                        }
                    }
                }
            }
        }
        if outcome != Outcome::Killed {
            for dir in self.dirs.values_mut() {
                dir.live.clone_from(&dir.durable);
            }
            for file in self.files.values_mut() {
                file.live.clone_from(&file.durable);
                file.pending.clear();
            }
        }
        self.recount();
    }

    /// Applies a pending change of a name to the durable image, if what it changes is there.
    fn apply_durable(&mut self, op: Op, both_halves: bool) {
        match op {
            Op::Link { at, node } => {
                if self.durable(&at).is_none() {
                    self.set_durable(at, Some(node));
                }
            }
            Op::Unlink { at, node } => {
                if self.durable(&at) == Some(node) {
                    self.set_durable(at, None);
                }
            }
            Op::Rename { from, to, node, replaced } => {
                let target = self.durable(&to);
                // Another file there means that its own departure was lost: then replacing it would destroy a
                // file that nobody removed.
                if self.durable(&from) == Some(node) && (target.is_none() || target == replaced) {
                    let atomic = from.0 == to.0 || self.is_dir(node);
                    self.set_durable(to, Some(node));
                    if atomic || both_halves {
                        self.set_durable(from, None);
                    }
                }
            }
        }
    }

    fn durable(&self, at: &Place) -> Option<NodeId> {
        self.dirs.get(&at.0)?.durable.get(&at.1).copied()
    }

    fn set_durable(&mut self, at: Place, node: Option<NodeId>) {
        if let Some(dir) = self.dirs.get_mut(&at.0) {
            match node {
                Some(node) => dir.durable.insert(at.1, node),
                None => dir.durable.remove(&at.1),
            };
        }
    }

    /// After a restart: no handles, links as the live image has them, and inode numbers without doubles. (A lost
    /// removal brings a file back whose number was handed out again meanwhile.)
    fn recount(&mut self) {
        let files = self.files.values_mut().map(|f| &mut f.meta);
        for meta in files.chain(self.dirs.values_mut().map(|d| &mut d.meta)) {
            (meta.links, meta.open) = (0, 0);
        }
        let mut named = vec![ROOT];
        let mut seen = BTreeSet::new();
        while let Some(node) = named.pop() {
            if let Some(meta) = self.meta_mut(node) {
                meta.links = meta.links.saturating_add(1);
            }
            if seen.insert(node)
                && let Some(dir) = self.dirs.get(&node)
            {
                named.extend(dir.live.values());
            }
        }
        self.collect();
        let mut taken = BTreeSet::new();
        let ids: Vec<NodeId> = self.files.keys().chain(self.dirs.keys()).copied().collect();
        let mut homeless = Vec::new();
        for id in ids {
            let Some(meta) = self.meta_mut(id) else { continue };
            if meta.links == 0 {
                meta.ino = None;
            } else if !meta.ino.is_some_and(|ino| taken.insert(ino)) {
                homeless.push(id);
            }
        }
        self.free_inos = (12..=self.next_ino).filter(|ino| !taken.contains(ino)).collect();
        for id in homeless {
            let ino = self.take_ino();
            if let Some(meta) = self.meta_mut(id) {
                meta.ino = Some(ino);
            }
        }
    }

    // ---- somebody else's doings: durable at once -------------------------------------------------------------

    /// Makes pending changes of a name durable before it is changed in both images: else a file that was renamed
    /// away from it would have no name left.
    fn settle(&mut self, place: &Place) {
        let touches = |op: &Op| match op {
            Op::Link { at, .. } | Op::Unlink { at, .. } => at == place,
            Op::Rename { from, to, .. } => from == place || to == place,
        };
        if self.pending.iter().any(touches) {
            self.sync_dir(place.0);
        }
    }

    /// Writes or appends to a file, creating it and its directories.
    pub(super) fn put(&mut self, path: &Path, bytes: &[u8], append: bool) {
        let mut node = ROOT;
        let parts: Vec<&OsStr> = path.iter().filter(|part| *part != "/").collect();
        for (i, name) in parts.iter().enumerate() {
            let at = (node, name.to_os_string());
            self.settle(&at);
            node = match self.at(&at) {
                Some(node) => node,
                None => self.create(at.clone(), 0o644, i.saturating_add(1) < parts.len()),
            };
            self.pending.retain(|op| !matches!(op, Op::Link { at: made, .. } if *made == at));
            self.set_durable(at, Some(node));
        }
        let len = if append { self.content(node).len() as u64 } else { 0 };
        if !append {
            self.set_len(node, 0);
        }
        self.write(node, len, bytes);
        self.sync(node);
    }

    /// Deletes a file or a directory with all that is in it.
    pub(super) fn remove_tree(&mut self, path: &Path) {
        let (Ok(at), Ok(top)) = (self.place(path), self.find(path)) else { return };
        self.settle(&at);
        let mut unseen = vec![(at.clone(), top)];
        while let Some((at, node)) = unseen.pop() {
            let names = self.dirs.get(&node).into_iter().flat_map(|d| &d.live);
            unseen.extend(names.map(|(name, child)| ((node, name.clone()), *child)));
            self.set_live(&at, None);
            self.drop_link(node);
        }
        // No older durable name may bring it back.
        self.pending.retain(|op| op.node() != top);
        for dir in self.dirs.values_mut() {
            dir.durable.retain(|_, node| *node != top);
        }
    }

    /// Flips bits of a byte in both images.
    pub(super) fn flip(&mut self, node: NodeId, offset: u64, mask: u8) -> bool {
        let Some(file) = self.files.get_mut(&node) else { return false };
        let Some(byte) = file.live.get_mut(offset as usize) else { return false };
        *byte ^= mask;
        if let Some(byte) = file.durable.get_mut(offset as usize) {
            *byte ^= mask;
        }
        for change in &mut file.pending {
            if let Change::Write { offset: start, bytes } = change
                && let Some(at) = offset.checked_sub(*start)
                && let Some(byte) = bytes.get_mut(at as usize)
            {
                *byte ^= mask;
            }
        }
        true
    }

    /// Cuts a file in both images.
    pub(super) fn truncate(&mut self, node: NodeId, len: u64) -> bool {
        let Some(file) = self.files.get_mut(&node) else { return false };
        let shorter = len < file.live.len() as u64;
        if shorter {
            file.live.truncate(len as usize);
            file.durable.truncate(len as usize);
            for change in &mut file.pending {
                match change {
                    Change::Write { offset, bytes } => bytes.truncate(len.saturating_sub(*offset) as usize),
                    Change::SetLen(n) => *n = (*n).min(len),
                }
            }
            // A write that began beyond the cut must not lengthen the file again.
            file.pending.retain(|c| !matches!(c, Change::Write { bytes, .. } if bytes.is_empty()));
        }
        shorter
    }
}

/// Applies a change of content.
fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => {
            let start = *offset as usize;
            let end = start.saturating_add(bytes.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            if let Some(part) = content.get_mut(start..end) {
                part.copy_from_slice(bytes);
            }
        }
        Change::SetLen(len) => content.resize(*len as usize, 0),
    }
}

/// What a power cut does to a change that it does not keep: lost; the new length without the data, as when only
/// the metadata made it; or the first sectors of a write.
fn damage(content: &mut Vec<u8>, change: Change, rng: &mut Rng) {
    let Change::Write { offset, mut bytes } = change else { return };
    let end = offset.saturating_add(bytes.len() as u64);
    match rng.below(3) {
        0 => {}
        1 => content.resize(content.len().max(end as usize), 0),
        _ => {
            let first = (offset / SECTOR).saturating_add(1);
            let boundaries = end.div_ceil(SECTOR).saturating_sub(first);
            if boundaries > 0 {
                let cut = first.saturating_add(rng.below(boundaries)).saturating_mul(SECTOR);
                bytes.truncate(cut.saturating_sub(offset) as usize);
                apply(content, &Change::Write { offset, bytes });
            }
        }
    }
}
