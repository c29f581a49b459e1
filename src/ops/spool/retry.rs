//! `logd spool retry DIR`: packs that were held aside go back into the spool.
//!
//! As at a start of the role, a pack is durable in the spool before its file in `held/` goes: a crash in between leaves
//! both, and whoever gets the pack twice recognises it. The role's lock is held meanwhile.

use super::{Place, scan};
use crate::config::SpoolConfig;
use crate::disk;
use crate::ops::out::{self, Out};
use crate::ops::{NO, YES};
use crate::spool::{AppendError, Shelf, Spool};
use std::os::unix::fs::MetadataExt;

/// The limits are the role's; moving a pack from one directory to the other takes no room in the end.
const CONF: SpoolConfig =
    SpoolConfig { size: u64::MAX / 4, segment_size: 16 << 20, min_free: 0, group_commit_ms: 0 };
/// Quarantine as its default limits have it.
const QUARANTINE: (u64, u64) = (256 << 20, 1 << 30);

/// The exit code: 0 nothing is held any more, or was (whether or not a role runs), 1 something still is.
pub fn run(place: &Place, out: &mut Out) -> Result<u8, String> {
    let text = |e: disk::Error| e.to_string();
    let Some(state) = &place.state else {
        return Err(format!(
            "{}: held packs lie beside a spool, in held/ of the role's state directory; name that directory: {}",
            place.spool.display(),
            super::WHERE
        ));
    };
    // What somebody else creates here the role could not open at its next start.
    if let Ok(meta) = std::fs::metadata(state)
        && meta.uid() != rustix::process::geteuid().as_raw()
    {
        return Err(format!("{}: it belongs to user {}; run it as that user", state.display(), meta.uid()));
    }
    let files = place.held().map_err(text)?;
    if files.is_empty() {
        out.line(format_args!("{}: nothing is held", state.display()));
        return Ok(YES);
    }
    let running = || {
        format!(
            "{}: a role runs on it; stop it first, or just restart it: a start sends held packs again",
            state.display()
        )
    };
    let _lock = place.disk.lock(&state.join("lock")).map_err(text)?.ok_or_else(running)?;
    if scan::list(&place.disk, &place.spool).map_err(text)?.is_empty()
        && place.disk.stat(&place.spool).map_err(text)?.is_none()
    {
        return Err(format!(
            "{}: this role has no spool (spool_size = 0); its next start sends held packs again from their source",
            state.display()
        ));
    }
    let open = |name: &str, limits: (u64, u64)| {
        Shelf::open(&place.disk, &state.join(name), limits.0, limits.1).map_err(text)
    };
    let (mut quarantine, mut held) =
        (open("quarantine", QUARANTINE)?, open("held", (u64::MAX / 4, u64::MAX / 4))?);
    let mut report = |t: String| out.complain(format_args!("logd: spool retry: {t}"));
    let mut spool =
        Spool::open(&place.disk, &place.spool, &mut quarantine, &CONF, &mut report, &mut |_, _| {})
            .map_err(text)?;
    let (mut queued, mut left) = (0_usize, 0_usize);
    for (name, file) in files {
        let path = state.join("held").join(&name).join(&file);
        let Some(frame) = held.get(&name, &file).map_err(text)? else {
            left = left.saturating_add(1);
            out.line(format_args!(
                "{}: damaged, it stays; send the pack again from its source",
                path.display()
            ));
            continue;
        };
        match spool.append(&[&frame]) {
            Ok(_) => spool.sync().map_err(text)?,
            Err(AppendError::Full(why)) => {
                left = left.saturating_add(1);
                out.line(format_args!("{}: stays: {why}", path.display()));
                continue;
            }
            Err(AppendError::Disk(e)) => return Err(e.to_string()),
        }
        held.remove(&name, &file).map_err(text)?;
        queued = queued.saturating_add(1);
        out.line(format_args!("{}: waits in the spool again", path.display()));
    }
    spool.close().map_err(text)?;
    let (queued, rest) = (out::count(queued, "pack"), out::count(left, "file"));
    out.line(format_args!("{queued} queued again, {rest} left in held/; start the role now"));
    Ok(if left == 0 { YES } else { NO })
}
