//! `logd spool check DIR`: is all of it whole?

use super::Place;
use super::scan::{self, Kind, Piece};
use crate::disk;
use crate::ops::out::{self, Out};
use crate::ops::{NO, YES};

#[derive(Default)]
struct Counts {
    files: usize,
    packs: usize,
    waiting: usize,
    held: usize,
    bad: usize,
    bad_bytes: u64,
    bytes: u64,
    /// Of all files.
    size: u64,
}

/// The exit code: 0 all whole, 1 something is not.
pub fn run(place: &Place, out: &mut Out) -> disk::Result<u8> {
    let mut n = Counts { size: scan::size(place)?, ..Counts::default() };
    scan::spool(place, &mut |piece| {
        look(piece, false, &mut n, out);
        Ok(())
    })?;
    scan::held(place, &mut |piece| {
        look(piece, true, &mut n, out);
        Ok(())
    })?;
    out.line(format_args!(
        "{}: {} ({}): {} whole: {} waiting, {} done, {} held; {}{}",
        place.spool.display(),
        out::count(n.files, "file"),
        out::bytes(n.bytes),
        out::count(n.packs, "pack"),
        n.waiting,
        n.packs.saturating_sub(n.waiting).saturating_sub(n.held),
        n.held,
        match n.bad {
            0 => "nothing is damaged".to_owned(),
            bad => format!(
                "{} NOT WHOLE, {} bytes",
                out::count(bad, "stretch").replace("hs", "hes"),
                n.bad_bytes
            ),
        },
        if place.running { "; a role runs on it" } else { "" }
    ));
    if n.bad == 0 {
        return Ok(YES);
    }
    out.line(
        "what is not whole in a segment is copied to quarantine/ when the role starts; `logd status` on the store names \
         the hours that lack packs, as `gaps` or, where their end is lost, as `open, overdue`; `logd \
         resend` on their host sends them again; `logd spool salvage` saves the rest elsewhere",
    );
    Ok(NO)
}

fn look(piece: Piece<'_>, held: bool, n: &mut Counts, out: &mut Out) {
    match piece {
        Piece::Pack(pack) => {
            n.packs = n.packs.saturating_add(1);
            n.waiting = n.waiting.saturating_add(usize::from(!pack.done && !held));
            n.held = n.held.saturating_add(usize::from(held));
            let read = n.bytes.saturating_add(pack.head.end());
            out.progress_of(read.min(n.size), n.size, &|| {
                format!("spool check: {} of {} read", out::bytes(read), out::bytes(n.size))
            });
        }
        Piece::Stretch(s) => {
            if s.kind != Kind::Live {
                n.bad = n.bad.saturating_add(1);
                n.bad_bytes = n.bad_bytes.saturating_add(s.to.saturating_sub(s.from));
            }
            out.line(s);
        }
        Piece::Misplaced(_) => {}
        Piece::Read(len) => {
            n.files = n.files.saturating_add(1);
            n.bytes = n.bytes.saturating_add(len);
        }
        Piece::Note(path, why) => out.line(format_args!("{}: {why}", path.display())),
    }
}
