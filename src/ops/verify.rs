//! `logd verify CONFIG|SAVE_DIR`: reads every stored hour again, pack by pack, and compares it with the digests that its
//! sender computed and with its certificate. It needs nothing but the store, so it works on a copy and on a backup.
//!
//! An hour is *right*, *wrong*, *not verifiable* (the original stored it, or nothing proves it) or *moved away* (a batch
//! job took the data of a certified hour, which is normal). A collector may be running: what it is just writing is
//! not wrong, so an hour without a certificate is read again when its files changed meanwhile.

use super::inventory::{Files, Filter, Inventory, LATER, Proof};
use super::out::{self, Out};
use super::{ERROR, NO, YES, status};
use crate::disk::{self, Disk};
use crate::integrity::lines::Summary;
use crate::integrity::packed;
use crate::integrity::{self, Certificate, Fault, Health};
use crate::pack::{HourKey, hex};
use crate::roles::whole::Beside;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::Path;

/// How often an hour is read that changes while it is read.
const LOOKS: usize = 3;
const BLOCK: usize = 256 << 10;

/// What is found out about one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what its sender sealed.
    Right,
    /// The part that is proven is right; the hour is not at its end.
    Open,
    /// It is not, and why.
    Wrong(String),
    /// Nobody told what it must be.
    NotVerifiable(String),
    /// A batch job took its data.
    MovedAway(String),
}

#[derive(Default)]
struct Counts {
    right: usize,
    open: usize,
    wrong: usize,
    not_verifiable: usize,
    moved: usize,
    unread: usize,
    bytes: u64,
}

/// Verifies the hours of a store; its directory is given, or its configuration.
pub fn run(path: &Path, filter: &Filter, out: &mut Out) -> u8 {
    let disk = Disk::real();
    let save_dir = if path.is_file() { status::save_dir_of(path) } else { Ok(path.to_owned()) };
    let read = save_dir.and_then(|dir| Ok((Inventory::read(&disk, &dir, filter)?, dir)));
    let (inv, save_dir) = match read {
        Ok(read) => read,
        Err(why) => {
            out.complain(format_args!("logd: verify: {why}"));
            return ERROR;
        }
    };
    let all = inv.hours.len();
    let mut n = Counts::default();
    for (i, (key, files)) in inv.hours.iter().enumerate() {
        if out.gone() {
            break;
        }
        let read = out::bytes(n.bytes);
        let text = || format!("verify: {i} of {all} hours, {read} read");
        out.progress_of(i as u64, all as u64, &text);
        match hour(&inv, key, files, &mut n.bytes) {
            Ok(Verdict::Right) => n.right = n.right.saturating_add(1),
            Ok(Verdict::Open) => n.open = n.open.saturating_add(1),
            Ok(Verdict::Wrong(why)) => {
                n.wrong = n.wrong.saturating_add(1);
                out.line(format_args!("{key}: WRONG: {why}; {}", next_step(&inv, key, files)));
            }
            Ok(Verdict::NotVerifiable(why)) => {
                n.not_verifiable = n.not_verifiable.saturating_add(1);
                out.line(format_args!("{key}: not verifiable: {why}"));
            }
            Ok(Verdict::MovedAway(why)) => {
                n.moved = n.moved.saturating_add(1);
                out.line(format_args!("{key}: moved away: {why}"));
            }
            Err(e) => {
                n.unread = n.unread.saturating_add(1);
                out.complain(format_args!(
                    "logd: verify: {key}: cannot read: {e}; run it as a user who may read the store"
                ));
            }
        }
    }
    out.line(summary(all, &n));
    if all == 0 && (filter.host.is_some() || filter.since.is_some()) {
        let of = filter.host.as_ref().map_or(String::new(), |host| format!(" of {host}"));
        let since = filter.since.map_or(String::new(), |hour| format!(" since {hour}"));
        out.complain(format_args!(
            "logd: verify: {}: there is no hour{of}{since}, so nothing was verified; is it the right name, and the right directory?",
            save_dir.display()
        ));
        return NO;
    }
    match (n.unread, n.wrong) {
        (0, 0) => YES,
        (0, _) => NO,
        _ => ERROR,
    }
}

/// Nothing is changed here, but a tag that stands lets batch jobs start from what is wrong: whoever reads this takes
/// it away.
fn next_step(inv: &Inventory, key: &HourKey, files: &Files) -> String {
    let wider = [format!("{}_{}", key.name, key.hour.day_of()), format!("all_{}", key.hour)];
    let there =
        |tag: &String| matches!(inv.store.disk().stat(&inv.store.path("received").join(tag)), Ok(Some(_)));
    let mut tags: Vec<String> = files
        .tags
        .iter()
        .chain(wider.iter().filter(|tag| there(tag)))
        .map(|tag| format!("received/{tag}"))
        .collect();
    let tags = match tags.pop() {
        None => "remove no file".to_owned(),
        Some(last) if tags.is_empty() => {
            format!("remove {last}, which still calls it whole, and no other file")
        }
        Some(last) => {
            format!("remove {} and {last}, which still call it whole, and no other file", tags.join(", "))
        }
    };
    if matches!(inv.proof(key), Ok(Proof::Tag(c) | Proof::Doubtful(c)) if c.cut == "clock") {
        return format!(
            "{tags}; its file has no date, so {} cannot send the hour again as a whole: compare these files with the rotated \
             ones there",
            key.name
        );
    }
    format!(
        "{tags}; then `logd resend CONFIG {}` on {}: a copy takes the place of these files",
        key.hour, key.name
    )
}

fn summary(all: usize, n: &Counts) -> String {
    let mut text = format!("{}: {} right ({} read)", out::count(all, "hour"), n.right, out::bytes(n.bytes));
    for (count, what) in [
        (n.open, "open and right so far"),
        (n.wrong, "WRONG"),
        (n.not_verifiable, "not verifiable"),
        (n.moved, "moved away"),
        (n.unread, "not readable"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

/// Verifies one hour of an inventory; `read` grows by the bytes that were read.
pub fn hour(inv: &Inventory, key: &HourKey, files: &Files, read: &mut u64) -> disk::Result<Verdict> {
    let proof = inv.proof(key)?;
    if let [first, second, ..] = files.tags.as_slice() {
        return Ok(Verdict::Wrong(format!("received: it has two tags, {first} and {second}")));
    }
    let certificate = match &proof {
        Proof::Tag(c) | Proof::Doubtful(c) => Some(c),
        Proof::None | Proof::Foreign | Proof::Later => None,
    };
    let place = inv.store.place(key);
    let disk = inv.store.disk();
    if !files.headers {
        return without_proof(inv, key, files, certificate, &proof, read);
    }
    let compressed = packed::path(&inv.store, key);
    if disk.stat(&place.data)?.is_none() && disk.stat(&compressed)?.is_some() {
        return without_lines(inv, key, certificate, &compressed, read);
    }
    if disk.stat(&place.data)?.is_none() {
        return without_data(inv, key, files, certificate, &proof);
    }
    let mut last = None;
    for _ in 0..LOOKS {
        let before = (disk.stat(&place.data)?.map(|s| s.len), disk.stat(&place.headers)?.map(|s| s.len));
        let Some(found) = integrity::reread(disk, &place, &mut Beside::default())? else {
            return Ok(match integrity::scan(disk, &place)?.health {
                Health::Damaged(why) => Verdict::Wrong(format!("{why}; the original wrote there too")),
                _ => Verdict::NotVerifiable("the original began it, and its proof has no digests".into()),
            });
        };
        *read = read.saturating_add(found.summary.bytes);
        let settled =
            before == (disk.stat(&place.data)?.map(|s| s.len), disk.stat(&place.headers)?.map(|s| s.len));
        let fine = found.fault.is_none();
        last = Some(found);
        if settled || fine {
            break;
        }
    }
    let Some(found) = last else { return Ok(Verdict::Right) };
    let (data, headers) = (place.data.display(), place.headers.display());
    if let Some(why) = &found.fault {
        // Bytes are written before their line: until the hour is certified that is the normal course. A tag says that it
        // is, even one whose content says nothing any more.
        if proof == Proof::None && matches!(why, Fault::Beyond(_)) {
            return Ok(Verdict::Open);
        }
        let file = if matches!(why, Fault::Proof(_)) { &headers } else { &data };
        return Ok(Verdict::Wrong(format!("{file}: {why}")));
    }
    if let Some(c) = certificate {
        return Ok(match compare(c, &found.summary, Some(&found.sha256)) {
            Some(why) => Verdict::Wrong(format!("its certificate says {why}")),
            None => told_otherwise(&found.summary).map_or_else(|| tag_name(c, files), Verdict::Wrong),
        });
    }
    // Its bytes are what the proof says, and that is all that is known.
    if proof == Proof::Later {
        return Ok(told_otherwise(&found.summary)
            .map_or_else(|| Verdict::NotVerifiable(LATER.into()), Verdict::Wrong));
    }
    if proof == Proof::Foreign {
        let tag = files.tags.first().map_or("", String::as_str);
        return Ok(Verdict::Wrong(format!(
            "received/{tag}: not a certificate, although logd stored the hour"
        )));
    }
    Ok(if found.summary.done.is_some() { whole(&found.summary) } else { Verdict::Open })
}

/// An hour at its end that has no certificate (yet): its totals decide.
fn whole(s: &Summary) -> Verdict {
    match told_otherwise(s) {
        Some(why) => Verdict::Wrong(why),
        None if s.sealed => Verdict::Right,
        None => Verdict::NotVerifiable(
            "its sender told no digests; the stored bytes have the CRC-32 they came with".into(),
        ),
    }
}

/// What the sender told of the whole hour, where that differs. Where its source lost bytes the totals count them
/// still: that difference has a reason.
fn told_otherwise(s: &Summary) -> Option<String> {
    let t = s.done.as_ref()?.totals.filter(|_| !s.notes.contains("loss"))?;
    let same = (t.lines, t.bytes) == (s.lines, s.bytes) && (!s.sealed || t.sha256 == s.digest());
    (!same).then(|| {
        format!(
            "the sender told {} lines, {} bytes, digest {}; stored are {} lines, {} bytes, digest {}",
            t.lines,
            t.bytes,
            hex(&t.sha256),
            s.lines,
            s.bytes,
            hex(&s.digest())
        )
    })
}

fn tag_name(c: &Certificate, files: &Files) -> Verdict {
    match files.tags.first() {
        Some(tag) if *tag != c.tag_name() => {
            Verdict::Wrong(format!("received/{tag}: its content belongs to {}", c.tag_name()))
        }
        _ => Verdict::Right,
    }
}

/// The first thing that a certificate says otherwise.
fn compare(c: &Certificate, s: &Summary, sha256: Option<&str>) -> Option<String> {
    let differs = |what: &str, told: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
        Some(format!("{what} {told}, stored is {is}"))
    };
    if c.generation != s.generation {
        return differs("copy", &c.generation, &s.generation);
    }
    for (what, told, is) in
        [("packs", c.packs, s.high), ("lines", c.lines, s.lines), ("bytes", c.bytes, s.bytes)]
    {
        if told != is {
            return differs(what, &told, &is);
        }
    }
    if let Some(is) = sha256.filter(|is| *is != c.sha256) {
        return differs("SHA-256", &c.sha256, &is);
    }
    // An original sender tells no digests, so there is nothing that this could be equal to.
    let digest = hex(&s.digest());
    if s.sealed && c.digest != digest {
        return differs("digest", &c.digest, &digest);
    }
    if c.empty != (c.bytes == 0) {
        return differs("empty", &c.empty, &format!("{} bytes", c.bytes));
    }
    if c.verified && !s.sealed {
        return Some("verified, but its proof has packs without a digest".into());
    }
    if c.is_tag() && s.done.is_none() {
        return Some("whole, but no last pack is stored".into());
    }
    if c.verified && s.done.as_ref().is_none_or(|d| d.totals.is_none()) {
        return Some("verified, but the last pack tells no totals".into());
    }
    None
}

fn taken_and_late(data: &Path, key: &HourKey) -> String {
    format!("{}: not here; later bytes wait in aside/{key}.late and its tag was revoked", data.display())
}

/// Data without a proof, or a certificate alone.
fn without_proof(
    inv: &Inventory,
    key: &HourKey,
    files: &Files,
    certificate: Option<&Certificate>,
    proof: &Proof,
    read: &mut u64,
) -> disk::Result<Verdict> {
    let disk = inv.store.disk();
    let (data, compressed) = (inv.store.place(key).data, packed::path(&inv.store, key));
    let there = disk.stat(&data)?.is_some();
    let is_packed = !there && disk.stat(&compressed)?.is_some();
    let Some(c) = certificate else {
        return Ok(match proof {
            Proof::Foreign => Verdict::NotVerifiable("the original's tag, and no proof".into()),
            Proof::Later => Verdict::NotVerifiable(LATER.into()),
            _ if files.late && !there => Verdict::Wrong(taken_and_late(&data, key)),
            _ if there => Verdict::NotVerifiable(format!("{}: no proof in headers", data.display())),
            // Only packs that wait in aside/: nothing that could be read.
            _ => Verdict::Open,
        });
    };
    if !there && !is_packed {
        return Ok(Verdict::MovedAway("its certificate is here, its data and its proof are not".into()));
    }
    // The certificate alone still tells what the whole file must be.
    let (at, (len, sha256)) = if is_packed {
        match packed::digest(disk, &compressed)? {
            Ok(found) => (compressed, found),
            Err(why) => return Ok(Verdict::Wrong(why)),
        }
    } else {
        let found = digest(disk, &data)?;
        (data, found)
    };
    *read = read.saturating_add(len);
    Ok(if c.sha256.is_empty() && len == c.bytes {
        Verdict::NotVerifiable("the original began it, and its certificate has no digest".into())
    } else if (len, sha256.as_str()) == (c.bytes, c.sha256.as_str()) {
        Verdict::Right
    } else {
        Verdict::Wrong(format!(
            "{}: {len} bytes with SHA-256 {sha256}, certified are {} with {}; its proof in headers is missing",
            at.display(),
            c.bytes,
            c.sha256
        ))
    })
}

/// An hour that was compressed: the certificate tells what its lines must be, and so does its proof.
fn without_lines(
    inv: &Inventory,
    key: &HourKey,
    certificate: Option<&Certificate>,
    compressed: &Path,
    read: &mut u64,
) -> disk::Result<Verdict> {
    let disk = inv.store.disk();
    let at = compressed.display();
    let (len, sha256) = match packed::digest(disk, compressed)? {
        Ok(found) => found,
        Err(why) => return Ok(Verdict::Wrong(why)),
    };
    *read = read.saturating_add(len);
    let Some(c) = certificate else {
        return Ok(Verdict::Wrong(format!(
            "{at}: compressed, and no certificate says any more that it is whole; later bytes wait in aside/{key}.late"
        )));
    };
    if (len, sha256.as_str()) != (c.bytes, c.sha256.as_str()) {
        return Ok(Verdict::Wrong(format!(
            "{at}: {len} bytes with SHA-256 {sha256}, certified are {} with {}",
            c.bytes, c.sha256
        )));
    }
    let found = integrity::scan(disk, &inv.store.place(key))?;
    Ok(match compare(c, &found.summary, Some(&sha256)) {
        Some(why) if !matches!(found.health, Health::Foreign { .. }) => {
            Verdict::Wrong(format!("its certificate says {why}"))
        }
        _ => Verdict::Right,
    })
}

fn digest(disk: &Disk, path: &Path) -> disk::Result<(u64, String)> {
    let file = disk.open(path)?;
    let (mut sha, mut at, mut buf) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        let n = file.read_at(&mut buf, at)?;
        sha.update(buf.get(..n).unwrap_or_default());
        at = at.saturating_add(n as u64);
        if n < buf.len() {
            return Ok((at, hex(&sha.finalize())));
        }
    }
}

/// A proof whose data is not here: what the proof says can still be compared.
fn without_data(
    inv: &Inventory,
    key: &HourKey,
    files: &Files,
    certificate: Option<&Certificate>,
    proof: &Proof,
) -> disk::Result<Verdict> {
    let place = inv.store.place(key);
    let found = integrity::scan(inv.store.disk(), &place)?;
    let data = place.data.display();
    let foreign = matches!(found.health, Health::Foreign { .. });
    // Without data a proof of bytes is always "damaged"; one that ends before its file does has a bad line.
    let broken = found.good_len < found.headers_len;
    Ok(match (certificate, &found.health) {
        (None, _) if foreign || *proof == Proof::Foreign => {
            Verdict::NotVerifiable(format!("{data}: not here, and the original's proof has no digests"))
        }
        (_, Health::Damaged(why)) if broken => Verdict::Wrong(why.clone()),
        (None, _) if *proof == Proof::Later => Verdict::NotVerifiable(LATER.into()),
        (Some(c), _) if !foreign => match compare(c, &found.summary, None) {
            Some(why) => Verdict::Wrong(format!("its certificate says {why}")),
            None if c.bytes == 0 => Verdict::Right,
            None => Verdict::MovedAway(format!("{data}: not here; its certificate agrees with its proof")),
        },
        // The original's hour, finished here: a tag that is not verified.
        (Some(_), _) => {
            Verdict::MovedAway(format!("{data}: not here; its certificate is not a verified one"))
        }
        (None, _) if found.summary.bytes == 0 => {
            if found.summary.done.is_some() {
                whole(&found.summary)
            } else {
                Verdict::Open
            }
        }
        (None, _) if files.late => Verdict::Wrong(taken_and_late(&place.data, key)),
        (None, _) => Verdict::Wrong(format!(
            "{data}: not here, {} bytes are proven and no certificate says that they were whole",
            found.summary.bytes
        )),
    })
}

#[cfg(test)]
mod tests;
