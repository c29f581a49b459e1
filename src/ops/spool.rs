//! `logd spool check|ls|retry|salvage DIR`: a spool as its files tell it, for the operator who must know what lies in it,
//! whether it is whole, and what can be saved of it.
//!
//! * `check` reads everything and names what is not whole. It exits with 1 for anything that the start of the role
//!   would set aside, even for the torn end that a crash leaves: nobody can tell from the file whether that was acknowledged.
//! * `ls` prints a line for each pack that waits or is held; it exits with 1 where something is not whole.
//! * `retry` puts held packs back into the spool, as a start of the role does.
//! * `salvage` writes what is whole into a new state directory, from which a relay sends it on.
//!
//! `check`, `ls` and `salvage` open files for reading only and take no lock but for the instant of one look, so they also
//! work beside a running role and on a read-only copy. What a running role is just writing is not damage: only the end
//! of the last segment can be that, and there it is looked at again. Marks lag behind, so a pack that has just been
//! delivered may still be shown as waiting.

mod check;
mod ls;
mod retry;
mod salvage;
mod scan;
#[cfg(test)]
mod tests;

use super::ERROR;
use super::out::Out;
use crate::disk::Disk;
use crate::{instance, spool};
use std::path::{Path, PathBuf};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Is all of it whole?
    Check,
    /// What is in it?
    Ls {
        /// Packs that are done, too.
        all: bool,
        /// For programs.
        json: bool,
    },
    /// Held packs go back into the spool.
    Retry,
    /// Whole packs go into a new directory.
    Salvage {
        /// The directory; it must be missing or empty.
        to: PathBuf,
        /// Packs that are done, too.
        all: bool,
    },
}

/// How the right directory is found.
const WHERE: &str = "it is state_dir of the role's section, and `logd status CONFIG` prints it";

/// The directories that an argument means.
struct Place {
    disk: Disk,
    /// The role's state directory, if the spool lies in one.
    state: Option<PathBuf>,
    /// The spool.
    spool: PathBuf,
    /// A role holds the state directory's lock.
    running: bool,
}

impl Place {
    /// `dir` is a spool, or a state directory with one in it.
    fn find(disk: &Disk, dir: &Path) -> Result<Self, String> {
        let say = |e: crate::disk::Error| {
            if e.not_found() {
                format!("{e}; name the role's state directory: {WHERE}")
            } else {
                super::rights(&e)
            }
        };
        if disk.stat(dir).map_err(say)?.is_some_and(|s| !s.is_dir) {
            return Err(format!(
                "{}: not a directory; name the role's state directory: {WHERE}",
                dir.display()
            ));
        }
        let names = disk.list(dir).map_err(say)?;
        let has = |name: &str| names.iter().any(|e| e.name == name);
        let inside = ["spool", "retry"].into_iter().find(|n| names.iter().any(|e| e.is_dir && e.name == *n));
        let (state, spool) = match inside {
            Some(name) => (Some(dir.to_owned()), dir.join(name)),
            // A role that has not had a pack yet, or that has no spool.
            None if has("role.json") => (Some(dir.to_owned()), dir.join("spool")),
            None => {
                let named = dir.file_name().is_some_and(|n| n == "spool" || n == "retry");
                if !named && !names.iter().any(|e| spool::base_of(&e.name, ".seg").is_some()) {
                    return Err(format!(
                        "{}: neither a spool (it has no .seg file) nor a state directory (it has neither spool/ nor \
                         retry/); name the role's state directory: {WHERE}",
                        dir.display()
                    ));
                }
                let up = dir.canonicalize().ok().and_then(|d| d.parent().map(Path::to_owned));
                let marked = |d: &PathBuf| disk.stat(&d.join("role.json")).is_ok_and(|s| s.is_some());
                (up.filter(|d| named && marked(d)), dir.to_owned())
            }
        };
        let running = state.as_deref().and_then(instance::is_running) == Some(true);
        Ok(Self { disk: disk.clone(), state, spool, running })
    }

    /// Files of the shelf of packs that were refused: sender's directory and file.
    fn held(&self) -> crate::disk::Result<Vec<(String, String)>> {
        let Some(dir) = self.state.as_ref().map(|s| s.join("held")) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for sub in scan::list(&self.disk, &dir)?.into_iter().filter(|e| e.is_dir) {
            let files = scan::list(&self.disk, &dir.join(&sub.name))?;
            let files = files.into_iter().filter(|e| !e.is_dir && !e.name.starts_with('.'));
            found.extend(files.map(|e| (sub.name.clone(), e.name)));
        }
        Ok(found)
    }
}

/// Does it; the exit code.
pub fn run(dir: &Path, action: &Action, out: &mut Out) -> u8 {
    run_on(&Disk::real(), dir, action, out)
}

fn run_on(disk: &Disk, dir: &Path, action: &Action, out: &mut Out) -> u8 {
    let name = match action {
        Action::Check => "check",
        Action::Ls { .. } => "ls",
        Action::Retry => "retry",
        Action::Salvage { .. } => "salvage",
    };
    let done = Place::find(disk, dir).and_then(|place| match action {
        Action::Check => check::run(&place, out).map_err(|e| e.to_string()),
        Action::Ls { all, json } => ls::run(&place, *all, *json, out).map_err(|e| e.to_string()),
        Action::Retry => retry::run(&place, out),
        Action::Salvage { to, all } => salvage::run(&place, to, *all, out),
    });
    done.unwrap_or_else(|why| {
        out.complain(format_args!("logd: spool {name}: {why}"));
        ERROR
    })
}
