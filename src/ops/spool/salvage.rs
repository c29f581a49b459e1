//! `logd spool salvage DIR --to NEW`: everything that is whole, in a directory of its own.
//!
//! `NEW` becomes a state directory for `logd collector`: its `spool/` holds the packs byte for byte, so a relay started on
//! it delivers them, and receivers recognise what they have. `NEW/role.json` marks it, so that no other role takes it.
//! `NEW/lost.txt` names each place that is not whole; it is written last, so its presence proves that the work was
//! finished. The old directory is only read.
//!
//! A whole pack in a place that is another's is carried too: its CRC says that it was accepted, and whoever has it
//! recognises it. That place counts as not whole all the same, because what belongs there may be missing.

use super::Place;
use super::scan::{self, Kind, Piece};
use crate::config::{Role, SpoolConfig};
use crate::disk;
use crate::instance;
use crate::ops::out::{self, Out};
use crate::ops::{NO, YES};
use crate::spool::{AppendError, Shelf, Spool};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

const CONF: SpoolConfig =
    SpoolConfig { size: u64::MAX / 4, segment_size: 16 << 20, min_free: 0, group_commit_ms: 0 };

/// The exit code: 0 all of it was whole, 1 something is lost.
pub fn run(place: &Place, to: &Path, all: bool, out: &mut Out) -> Result<u8, String> {
    let text = |e: disk::Error| e.to_string();
    let disk = &place.disk;
    if !scan::list(disk, to).map_err(text)?.is_empty() {
        return Err(format!("--to {}: not empty; name a new directory", to.display()));
    }
    let old = place.state.as_ref().unwrap_or(&place.spool);
    if let (Ok(to), Ok(old)) = (std::path::absolute(to), std::path::absolute(old))
        && to.starts_with(&old)
    {
        return Err(format!("--to {}: inside of what is to be left as it is", to.display()));
    }
    disk.create_dir_all(to, 0o750).map_err(text)?;
    instance::mark(disk, to, Role::Collector.command()).map_err(text)?;
    // Nothing is set aside in a spool that is empty when it is opened.
    let mut none = Shelf::open(disk, &to.join("quarantine"), 0, 0).map_err(text)?;
    let mut spool =
        Spool::open(disk, &to.join("spool"), &mut none, &CONF, &mut |_| {}, &mut |_, _| {}).map_err(text)?;
    let (mut saved, mut bytes, mut done, mut lost) = (0_usize, 0_u64, 0_usize, Vec::new());
    let mut full = None;
    let (size, mut files, mut at) = (scan::size(place).map_err(text)?, 0_u64, 0_u64);
    let mut see = |piece: Piece<'_>| {
        match &piece {
            Piece::Pack(p) | Piece::Misplaced(p) => at = files.saturating_add(p.head.end()),
            Piece::Read(len) => files = files.saturating_add(*len),
            _ => {}
        }
        match piece {
            Piece::Pack(p) if p.done && !all => done = done.saturating_add(1),
            Piece::Pack(p) | Piece::Misplaced(p) => match spool.append(&[p.frame]) {
                Ok(_) => {
                    saved = saved.saturating_add(1);
                    bytes = bytes.saturating_add(p.frame.len() as u64);
                }
                Err(AppendError::Disk(e)) => return Err(e),
                Err(AppendError::Full(why)) => full = full.take().or(Some(why)),
            },
            Piece::Stretch(s) => lost.push(s),
            Piece::Read(..) | Piece::Note(..) => {}
        }
        let (saved, read) = (saved, out::bytes(bytes));
        out.progress_of(at.min(size), size, &|| {
            format!("spool salvage: {}, {read}", out::count(saved, "pack"))
        });
        Ok(())
    };
    scan::spool(place, &mut see).and_then(|()| scan::held(place, &mut see)).map_err(text)?;
    if let Some(why) = full {
        return Err(format!("{why}; make room, remove {} and run it again", to.display()));
    }
    spool.close().map_err(text)?;
    for s in lost.extract_if(.., |s| s.kind == Kind::Live) {
        out.line(format_args!("left out, neither saved nor lost: {s}"));
    }
    let mut list = String::new();
    for s in &lost {
        let what = if s.kind == Kind::Misplaced { "saved, but not whole" } else { "not saved" };
        out.line(format_args!("{what}: {s}"));
        let _ = writeln!(list, "{s}");
    }
    let known: BTreeSet<String> =
        lost.iter().filter_map(|s| s.pack.as_ref()).map(|m| m.key.to_string()).collect();
    disk.replace(&to.join("lost.txt"), list.as_bytes(), 0o640).map_err(text)?;
    out.line(format_args!(
        "{} saved ({}) into {}, {} not whole, {} done and left out",
        out::count(saved, "pack"),
        out::bytes(bytes),
        to.display(),
        out::count(lost.len(), "place"),
        done
    ));
    if place.running {
        out.line(format_args!(
            "a role runs on {}: what it wrote meanwhile is missing here, and neither in lost.txt nor in the exit code; for \
             all of it stop the role and run this again into another directory",
            place.spool.display()
        ));
    }
    out.line(format_args!(
        "to deliver them: logd collector with state_dir = {} (owned by its user), and send_to as before; receivers \
         recognise what they have",
        to.display()
    ));
    if lost.is_empty() {
        return Ok(YES);
    }
    let hours: Vec<String> = known.into_iter().collect();
    let hours = if hours.is_empty() {
        String::new()
    } else {
        format!(" (hours concerned, at least: {})", hours.join(", "))
    };
    out.line(format_args!(
        "what is not saved stands in {}{hours}; when the rest is delivered, `logd status` on the store names the hours \
         that lack packs, as `gaps` or, where their end is lost, as `open, overdue`; `logd resend` on their \
         host sends them again; files in quarantine/ are not read",
        to.join("lost.txt").display()
    ));
    Ok(NO)
}
