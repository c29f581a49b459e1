//! `logd spool ls DIR`: a line for each pack that is not done, with the key that it was signed with.

use super::Place;
use super::scan::{self, Kind, Pack, Piece};
use crate::auth;
use crate::disk;
use crate::ops::out::{self, Out};
use crate::ops::{NO, YES};
use crate::pack::split_frame;
use serde_json::{Value, json};

/// Why a pack lies in `held/`.
const REFUSED: &str = "the receiver refused it for good; its log says why";

/// Prints the packs; damage is for [`check`](super::check) and only counted here. The exit code: 0 these are all, 1
/// something is not whole, so there may have been more.
pub fn run(place: &Place, all: bool, for_programs: bool, out: &mut Out) -> disk::Result<u8> {
    let (mut rows, mut damaged, mut waiting) = (Vec::new(), 0_usize, 0_usize);
    if !for_programs {
        out.line(format_args!(
            "{:<9} {:<40} {:>12} {:>12}  {:<12} FILE",
            "STATE", "PACK", "BYTES", "OFFSET", "KEY"
        ));
    }
    let mut see = |piece: Piece<'_>, held: bool| {
        match piece {
            Piece::Pack(p) if all || !p.done => {
                let state = match (held, p.done) {
                    (true, _) => "held",
                    (false, true) => "done",
                    (false, false) => "waiting",
                };
                waiting = waiting.saturating_add(usize::from(state == "waiting"));
                if for_programs {
                    rows.push(row(&p, state));
                } else {
                    let reason = if held { format!(": {REFUSED}") } else { String::new() };
                    let (label, bytes, offset) = (p.meta.label(), p.frame.len(), p.head.offset);
                    let file = p.file.display();
                    let key = key(&p);
                    let key = if key.is_empty() { "-" } else { &key };
                    out.line(format_args!(
                        "{state:<9} {label:<40} {bytes:>12} {offset:>12}  {key:<12} {file}{reason}"
                    ));
                }
            }
            Piece::Stretch(s) => damaged = damaged.saturating_add(usize::from(s.kind != Kind::Live)),
            _ => {}
        }
        Ok(())
    };
    scan::spool(place, &mut |piece| see(piece, false))?;
    scan::held(place, &mut |piece| see(piece, true))?;
    if for_programs {
        let all = json!({"format": 1, "running": place.running, "not_whole": damaged, "packs": rows});
        out.line(format_args!("{all:#}"));
    }
    if waiting > 0 && place.running && !for_programs {
        out.line(
            "at most these wait: the role that runs here marks packs as done some seconds, a store up to a \
             minute, after they were delivered",
        );
    }
    if damaged == 0 {
        return Ok(YES);
    }
    let places = out::count(damaged, "place");
    out.complain(format_args!("logd: spool ls: {places} not whole; `logd spool check` names what was there"));
    Ok(NO)
}

/// The ID of the key that it was signed with, if it was.
fn key(p: &Pack) -> String {
    let header = split_frame(p.frame).map(|(header, _)| header);
    let id = header.as_ref().and_then(|h| h.route.first()).map(auth::key_id);
    // Nobody has checked it.
    crate::log::escape(id.unwrap_or_default())
}

fn row(p: &Pack, state: &str) -> Value {
    let m = &p.meta;
    json!({
        "name": m.key.name, "hour": m.key.hour.to_string(), "gen": m.generation, "id": m.id,
        "bytes": p.frame.len(), "raw_bytes": m.seal.map(|s| s.bytes), "file": p.file.display().to_string(),
        "offset": p.head.offset, "key": key(p), "record": p.head.seq, "state": state,
        "reason": (state == "held").then_some(REFUSED),
    })
}
