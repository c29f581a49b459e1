//! Shelves: what is set aside, one file each.

use super::{KIND_PACK, MODE, RECORD_MAX};
use crate::auth::host_of;
use crate::disk::{self, Disk};
use crate::pack::HourKey;
use crate::record::{self, Found};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A directory of packs that are set aside, one file each, below one directory per sender: `held`, early packs,
/// conflicts, quarantine. Bounded per host, all of its streams together, and in total (P4), so that one bad host stops only
/// itself.
pub struct Shelf {
    disk: Disk,
    dir: PathBuf,
    per_name: u64,
    total: u64,
    used: BTreeMap<String, u64>,
    by_host: BTreeMap<String, u64>,
    all: u64,
    dir_mode: u32,
    file_mode: u32,
}

impl Shelf {
    /// Opens the directory (made when first needed) and counts what is in it. Limits in bytes.
    pub fn open(disk: &Disk, dir: &Path, per_name: u64, total: u64) -> disk::Result<Self> {
        let (mut used, mut by_host, mut all) = (BTreeMap::new(), BTreeMap::<String, u64>::new(), 0_u64);
        if disk.stat(dir)?.is_some() {
            for sub in disk.list(dir)?.into_iter().filter(|e| e.is_dir) {
                let mut sum = 0_u64;
                for f in disk.list(&dir.join(&sub.name))? {
                    if !f.is_dir && f.name.starts_with('.') && f.name.strip_suffix(".tmp").is_some() {
                        // Left by a crash; what it was to become is still where it came from.
                        disk.remove(&dir.join(&sub.name).join(&f.name))?;
                        continue;
                    }
                    let stat = disk.stat(&dir.join(&sub.name).join(&f.name))?;
                    sum = sum.saturating_add(stat.map_or(0, |s| s.len));
                }
                let of_host = by_host.entry(host_of(&sub.name).to_owned()).or_default();
                *of_host = of_host.saturating_add(sum);
                all = all.saturating_add(sum);
                used.insert(sub.name, sum);
            }
        }
        let disk = disk.clone();
        let dir = dir.to_owned();
        Ok(Self { disk, dir, per_name, total, used, by_host, all, dir_mode: 0o750, file_mode: MODE })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Would `len` more bytes of this sender fit?
    pub fn fits(&self, name: &str, len: u64) -> bool {
        self.by_host.get(host_of(name)).copied().unwrap_or(0).saturating_add(len) <= self.per_name
            && self.all.saturating_add(len) <= self.total
    }

    /// Bytes set aside in all.
    pub fn bytes(&self) -> u64 {
        self.all
    }

    /// Keeps a frame, durably; false when a limit is reached. The same name again is the same pack.
    pub fn put(&mut self, name: &str, file: &str, frame: &[u8]) -> disk::Result<bool> {
        let mut out = Vec::with_capacity(frame.len().saturating_add(record::HEADER));
        record::encode(KIND_PACK, 0, 0, &[frame], &mut out);
        let path = self.dir.join(name).join(file);
        if self.disk.stat(&path)?.is_some() && self.get(name, file)?.is_none() {
            // What stands there is damaged; this is whole.
            self.disk.replace(&path, &out, self.file_mode)?;
        }
        self.put_raw(name, file, &out)
    }

    pub(super) fn put_raw(&mut self, name: &str, file: &str, bytes: &[u8]) -> disk::Result<bool> {
        let dir = self.dir.join(name);
        let path = dir.join(file);
        if self.disk.stat(&path)?.is_some() {
            // Its name may so far exist only in the memory of a machine whose process was killed.
            self.disk.sync_dir(&dir)?;
            return Ok(true);
        }
        if !self.fits(name, bytes.len() as u64) {
            return Ok(false);
        }
        self.disk.create_dir_all(&dir, self.dir_mode)?;
        self.disk.replace(&path, bytes, self.file_mode)?;
        let len = bytes.len() as u64;
        let used = self.used.entry(name.to_owned()).or_insert(0);
        *used = used.saturating_add(len);
        let of_host = self.by_host.entry(host_of(name).to_owned()).or_insert(0);
        *of_host = of_host.saturating_add(len);
        self.all = self.all.saturating_add(len);
        Ok(true)
    }

    /// The frame in a file of [`Shelf::put`]; `None` if it is damaged.
    pub fn get(&self, name: &str, file: &str) -> disk::Result<Option<Vec<u8>>> {
        let path = self.dir.join(name).join(file);
        let mut buf = Vec::new();
        let found = record::read(&self.disk.open(&path)?, 0, RECORD_MAX, &mut buf)?;
        let good = matches!(found, Found::Record(h) if h.kind == KIND_PACK);
        Ok(good.then(|| buf.split_off(record::HEADER)))
    }

    /// Files of one sender.
    pub fn list(&self, name: &str) -> disk::Result<Vec<String>> {
        let dir = self.dir.join(name);
        if self.disk.stat(&dir)?.is_none() {
            return Ok(Vec::new());
        }
        Ok(self.disk.list(&dir)?.into_iter().filter(|e| !e.is_dir).map(|e| e.name).collect())
    }

    /// Packs of one hour, where files are named `<hour>.<copy>.<id>`: copy, number, file.
    pub fn packs_of(&self, key: &HourKey) -> disk::Result<Vec<(u64, u64, String)>> {
        let prefix = format!("{}.", key.hour);
        let mut out = Vec::new();
        for file in self.list(&key.name)? {
            let numbers = file.strip_prefix(&prefix).and_then(|r| r.split_once('.'));
            if let Some((Ok(copy), Ok(id))) = numbers.map(|(c, i)| (c.parse::<u64>(), i.parse::<u64>())) {
                out.push((copy, id, file));
            }
        }
        out.sort();
        Ok(out)
    }

    /// Senders that have something here.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.used.keys().map(String::as_str)
    }

    /// Forgets a file whose content is durable elsewhere.
    pub fn remove(&mut self, name: &str, file: &str) -> disk::Result<()> {
        let path = self.dir.join(name).join(file);
        let len = self.disk.stat(&path)?.map_or(0, |s| s.len);
        self.disk.remove(&path)?;
        self.forget(name, len)
    }

    /// Moves a file that is of no use here, for people to look at; it does not count any more.
    pub fn move_out(&mut self, name: &str, file: &str, to: &Path) -> disk::Result<()> {
        let from = self.dir.join(name).join(file);
        let len = self.disk.stat(&from)?.map_or(0, |s| s.len);
        self.disk.rename(&from, to)?;
        for dir in [to.parent(), from.parent()].into_iter().flatten() {
            self.disk.sync_dir(dir)?;
        }
        self.forget(name, len)
    }

    fn forget(&mut self, name: &str, len: u64) -> disk::Result<()> {
        if let Some(u) = self.used.get_mut(name) {
            let len = len.min(*u);
            self.all = self.all.saturating_sub(len);
            if let Some(of_host) = self.by_host.get_mut(host_of(name)) {
                *of_host = of_host.saturating_sub(len);
                if *of_host == 0 {
                    self.by_host.remove(host_of(name));
                }
            }
            *u = u.saturating_sub(len);
            if *u == 0 {
                self.used.remove(name);
                self.disk.remove_dir(&self.dir.join(name))?;
            }
        }
        Ok(())
    }
}
