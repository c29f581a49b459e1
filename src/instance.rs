//! One running role: its state directory, locked and marked.
//!
//! `role.json` in the state directory names the role, the format and the configuration that began it; its presence
//! proves that the directory has served. `lock` is held while the role runs. Roles never share a directory.

pub mod ask;

use crate::disk::{self, Disk, Lock};
use crate::record;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Format of the state directory.
const FORMAT: u32 = 1;
const MARK_MAX: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
    role: String,
    config: PathBuf,
    /// When it was last started: could whoever reaches its port send, and nobody had said so? Earlier versions did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<bool>,
}

impl Mark {
    /// Why `role` must not use the directory.
    fn unfit(&self, dir: &Path, role: &str) -> Option<String> {
        let at = dir.display();
        if self.role != role {
            Some(format!("state directory {at}: it is a {}'s; give {role} its own state_dir", self.role))
        } else if self.format != FORMAT {
            Some(format!(
                "state directory {at}: format {} is not known to this version; start the version that wrote it",
                self.format
            ))
        } else {
            None
        }
    }
}

fn unsafe_mode(disk: &Disk, dir: &Path) -> disk::Result<Option<String>> {
    let open = disk.stat(dir)?.is_some_and(|s| s.mode & 0o002 != 0);
    Ok(open.then(|| format!("state directory {}: anybody may write it; chmod o-w it first", dir.display())))
}

/// Why whoever starts a role as `user` must not use a directory of `owner`: what root writes there its owner cannot write later.
pub fn foreign(dir: &Path, user: u32, owner: u32) -> Option<String> {
    (user == 0 && owner != 0).then(|| {
        format!(
            "state directory {}: it belongs to user {owner}, and root would leave files there that this user cannot write; start \
             it as that user (sudo -u '#{owner}'), or chown the directory",
            dir.display()
        )
    })
}

/// Why a start of `role` would refuse this directory, as far as that can be seen from outside.
pub fn problem(disk: &Disk, dir: &Path, role: &str) -> disk::Result<Option<String>> {
    match disk.stat(dir)? {
        None => return Ok(None),
        Some(s) if !s.is_dir => {
            return Ok(Some(format!(
                "state directory {}: not a directory; remove or rename it",
                dir.display()
            )));
        }
        Some(_) => {}
    }
    if let Some(why) = unsafe_mode(disk, dir)? {
        return Ok(Some(why));
    }
    let mark = disk.read_opt(&dir.join("role.json"), MARK_MAX)?;
    Ok(mark.and_then(|bytes| record::from_json::<Mark>(&bytes).ok()).and_then(|m| m.unfit(dir, role)))
}

/// A state directory that is ours as long as this lives.
pub struct Instance {
    /// The directory.
    pub dir: PathBuf,
    /// Did it serve before this start?
    pub served: bool,
    _lock: Lock,
}

/// Why a role does not start.
#[derive(Debug)]
pub enum Refused {
    /// It runs already with this configuration: not an error.
    Running,
    /// Anything else, with the next step.
    Why(String),
}

impl From<disk::Error> for Refused {
    fn from(e: disk::Error) -> Self {
        if e.denied() {
            return Self::Why(format!(
                "{e}; it is another user's: was the role started as root once? chown -R its state_dir to the user that runs it"
            ));
        }
        Self::Why(e.to_string())
    }
}

impl Instance {
    /// Makes, locks and marks `dir` for `role` run with the file `config`.
    pub fn open(disk: &Disk, dir: &Path, role: &str, config: &Path) -> Result<Self, Refused> {
        disk.create_dir_all(dir, 0o750).map_err(|e| {
            Refused::Why(format!("state directory: {e}; set state_dir to one that this user may write"))
        })?;
        if let Some(why) = unsafe_mode(disk, dir)? {
            return Err(Refused::Why(why));
        }
        let path = dir.join("role.json");
        let held = disk.lock(&dir.join("lock"))?;
        let old = disk.read_opt(&path, MARK_MAX)?;
        let mark = old.as_ref().and_then(|b| record::from_json::<Mark>(b).ok());
        let Some(lock) = held else {
            return Err(match mark {
                Some(m) if m.config == config && m.role == role => Refused::Running,
                Some(m) => Refused::Why(format!(
                    "state directory {}: in use by `logd {} {}`; give each its own state_dir",
                    dir.display(),
                    m.role,
                    m.config.display()
                )),
                None => Refused::Why(format!(
                    "state directory {}: in use by another logd; stop that one, or set another state_dir",
                    dir.display()
                )),
            });
        };
        if let Some(why) = mark.as_ref().and_then(|m| m.unfit(dir, role)) {
            return Err(Refused::Why(why));
        }
        let open = mark.map_or(Some(false), |m| m.open);
        let mark = Mark { format: FORMAT, role: role.into(), config: config.into(), open };
        let text = record::to_json(&mark);
        // On a full disk a relay that cannot start cannot send what would make room: what stands there already is not
        // written again.
        if old.as_deref() != Some(&text[..]) {
            disk.replace(&path, &text, 0o640)?;
        }
        // A damaged mark still shows that the directory has served.
        Ok(Self { dir: dir.to_owned(), served: old.is_some(), _lock: lock })
    }

    /// Notes whether it serves whoever reaches its port without having been told to. To be called when nothing of the
    /// configuration can end the start any more.
    pub fn note_open(&self, disk: &Disk, open: bool) -> disk::Result<()> {
        let path = self.dir.join("role.json");
        let mark = disk.read_opt(&path, MARK_MAX)?.and_then(|b| record::from_json::<Mark>(&b).ok());
        let Some(mark) = mark.filter(|m| m.open != Some(open)) else { return Ok(()) };
        match disk.replace(&path, &record::to_json(&Mark { open: Some(open), ..mark }), 0o640) {
            // The next start notes it.
            Err(e) if e.no_space() => Ok(()),
            other => other,
        }
    }
}

/// The role and the configuration that began this directory, or began it last.
pub fn begun_by(disk: &Disk, dir: &Path) -> Option<(String, PathBuf)> {
    let bytes = disk.read_opt(&dir.join("role.json"), MARK_MAX).ok()??;
    record::from_json::<Mark>(&bytes).ok().map(|m| (m.role, m.config))
}

/// May a role serve from this directory whoever reaches its port, because it has done so until now? Only where that was noted, or
/// where an earlier version served, which noted nothing.
pub fn served_open(dir: &Path) -> bool {
    match Disk::real().read_opt(&dir.join("role.json"), MARK_MAX) {
        Ok(mark) => mark
            .and_then(|bytes| record::from_json::<Mark>(&bytes).ok())
            .is_some_and(|mark| mark.open != Some(false)),
        // Somebody else's, who only looks: a start fails for that by itself.
        Err(_) => true,
    }
}

/// Marks `dir` as the state directory of a `role` that is still to be started, so that no other takes it.
pub fn mark(disk: &Disk, dir: &Path, role: &str) -> disk::Result<()> {
    let mark = Mark { format: FORMAT, role: role.into(), config: PathBuf::new(), open: Some(false) };
    disk.replace(&dir.join("role.json"), &record::to_json(&mark), 0o640)
}

/// Does a role run in this state directory? `None` = nobody can tell. Takes the lock for an instant and changes nothing.
pub fn is_running(dir: &Path) -> Option<bool> {
    let lock = dir.join("lock");
    // Whoever runs has made it.
    if matches!(lock.try_exists(), Ok(false)) { Some(false) } else { disk::is_locked(&lock) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_starts_nothing_in_a_directory_of_somebody_else() {
        let why = foreign(Path::new("/s"), 0, 7).unwrap();
        assert!(why.starts_with("state directory /s: it belongs to user 7") && why.contains("'#7'"), "{why}");
        for (user, owner) in [(0, 0), (7, 7), (7, 0)] {
            assert_eq!(foreign(Path::new("/s"), user, owner), None);
        }
    }

    #[test]
    fn a_directory_has_one_role_and_one_process() {
        let (disk, sim) = Disk::sim(1);
        let (dir, conf) = (Path::new("/s"), Path::new("/etc/a.ini"));
        let first = Instance::open(&disk, dir, "tail", conf).unwrap();
        assert!(!first.served);
        assert!(matches!(Instance::open(&disk, dir, "tail", conf), Err(Refused::Running)));
        let other = Instance::open(&disk, dir, "tail", Path::new("/etc/b.ini"));
        assert!(matches!(other, Err(Refused::Why(w)) if w.contains("/etc/a.ini")));
        drop(first);
        // Only room is what makes a full spool shrink again, and only a role that starts makes room.
        sim.set_capacity(Some(0));
        assert!(Instance::open(&disk, dir, "tail", conf).is_ok());
        sim.set_capacity(None);
        assert!(
            matches!(Instance::open(&disk, dir, "collector", conf), Err(Refused::Why(w)) if w.contains("a tail's"))
        );
        assert!(Instance::open(&disk, dir, "tail", conf).unwrap().served);
    }
}
