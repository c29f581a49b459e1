//! A small real file system that can be filled, and grown again: a tmpfs. Needs the right to mount.

use super::Temp;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Inodes when they are not what is short.
const INODES: u64 = 100_000;

/// A mounted tmpfs. It is unmounted when dropped, also by a panic; declare it before the processes that use it.
pub struct Small {
    dir: PathBuf,
    size: u64,
}

impl Small {
    /// Mounts one of so many bytes at `temp/name`; why it is not possible here.
    pub fn mount(temp: &Temp, name: &str, size: u64) -> Result<Self, std::io::Error> {
        let dir = temp.path(name);
        fs::create_dir_all(&dir)?;
        let data = CString::new(format!("size={size},nr_inodes={INODES},mode=0755"))?;
        mount("logd-test", &dir, "tmpfs", MountFlags::empty(), Some(data.as_c_str()))?;
        Ok(Self { dir, size })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Another size in bytes, another number of inodes; what is there stays.
    pub fn resize(&self, size: u64, inodes: u64) {
        self.remount(size, inodes).unwrap();
    }

    fn remount(&self, size: u64, inodes: u64) -> rustix::io::Result<()> {
        let data = CString::new(format!("size={size},nr_inodes={inodes}")).unwrap();
        mount_remount(&self.dir, MountFlags::empty(), data)
    }

    /// A stranger takes every byte that is left.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.dir.join("foreign")).unwrap();
        for block in [64 << 10, 512] {
            let end = loop {
                if let Err(e) = file.write_all(&vec![b'x'; block]) {
                    break e;
                }
            };
            assert_eq!(end.kind(), ErrorKind::StorageFull, "{end}");
        }
    }

    /// The stranger's file goes.
    pub fn free(&self) {
        fs::remove_file(self.dir.join("foreign")).unwrap();
    }

    /// From now on there are no more inodes than are in use.
    pub fn no_inodes(&self) {
        let full = || {
            let used = INODES - rustix::fs::statvfs(&self.dir).unwrap().f_favail;
            self.remount(self.size, used)
        };
        // A role may make one between the two.
        let done = (0..100).map(|_| full()).find(|done| *done != Err(rustix::io::Errno::INVAL));
        done.expect("as many inodes as are in use").unwrap();
    }

    /// There are inodes again.
    pub fn inodes(&self) {
        self.resize(self.size, INODES);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A process that is just being killed may still have files open there.
        if let Err(e) = unmount(&self.dir, UnmountFlags::DETACH) {
            println!("{}: not unmounted: {e}", self.dir.display());
        }
    }
}
