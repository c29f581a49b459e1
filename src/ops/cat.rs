//! `logd cat CONFIG|SAVE_DIR HOST HOUR`: the lines of an hour as they are stored, on standard output. What is certified is compared
//! with its certificate while it goes by.

use super::inventory::{Filter, Inventory, LATER, Proof};
use super::out::Out;
use super::{ERROR, NO, YES, status};
use crate::disk::Disk;
use crate::integrity::{Health, packed, scan};
use crate::pack::{HourKey, hex};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;

const BLOCK: usize = 256 << 10;

/// Prints the hour; 1 = it is not what its certificate says, or has none.
pub fn run(path: &Path, key: &HourKey, out: &mut Out) -> u8 {
    cat(path, key, out).unwrap_or_else(|why| {
        out.complain(format_args!("logd: cat: {why}"));
        ERROR
    })
}

fn cat(path: &Path, key: &HourKey, out: &mut Out) -> Result<u8, String> {
    let save_dir = if path.is_dir() { path.to_owned() } else { status::save_dir_of(path)? };
    let filter = Filter { host: Some(key.name.clone()), since: Some(key.hour) };
    let inv = Inventory::read(&Disk::real(), &save_dir, &filter)?;
    let text = |e: crate::disk::Error| e.to_string();
    let proof = inv.proof(key).map_err(text)?;
    let place = inv.store.place(key);
    let compressed = packed::path(&inv.store, key);
    let mut lines: Box<dyn Read> = match inv.store.disk().open(&place.data) {
        Ok(file) => Box::new(packed::plain(file)),
        Err(e) if e.not_found() && inv.store.disk().stat(&compressed).map_err(text)?.is_some() => {
            Box::new(packed::open(inv.store.disk(), &compressed).map_err(text)?)
        }
        Err(e) if e.not_found() => {
            return match proof {
                Proof::Tag(c) if c.empty => Ok(YES),
                Proof::Tag(_) => Err(format!(
                    "{}: not here, although the hour is certified: a batch job or `logd prune` took it away",
                    place.data.display()
                )),
                _ => Err(format!(
                    "{}: nothing of it is stored; `logd status {} --host {}` tells which hours there are",
                    place.data.display(),
                    path.display(),
                    key.name
                )),
            };
        }
        Err(e) => return Err(format!("{e}; run it as a user who may read the store")),
    };
    let (mut sha, mut at, mut buf) = (Sha256::new(), 0_u64, vec![0; BLOCK]);
    loop {
        let n = match lines.read(&mut buf) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            n => n.map_err(|e| format!("{key}: after {at} bytes: {e}; `logd verify` tells more"))?,
        };
        if n == 0 {
            break;
        }
        let part = buf.get(..n).unwrap_or_default();
        sha.update(part);
        out.bytes(part);
        if out.gone() {
            return Ok(YES);
        }
        at = at.saturating_add(n as u64);
    }
    Ok(match proof {
        // One that was begun by the original has no digest; it has a length.
        Proof::Tag(c) if c.bytes == at && (c.sha256.is_empty() || c.sha256 == hex(&sha.finalize())) => YES,
        Proof::Tag(c) => {
            out.complain(format_args!(
                "logd: cat: {key}: WRONG: these {at} bytes are not the {} that were certified; `logd verify {}` tells more and \
                 what to do",
                c.bytes,
                save_dir.display()
            ));
            NO
        }
        Proof::Doubtful(c) => {
            out.complain(format_args!(
                "logd: cat: {key}: it has no tag: {}; this is what could be stored",
                c.state
            ));
            NO
        }
        Proof::Later => {
            out.complain(format_args!(
                "logd: cat: {key}: {LATER}: whether this is the whole hour is not known"
            ));
            NO
        }
        Proof::None => {
            out.complain(format_args!(
                "logd: cat: {key}: it has no certificate: this is its beginning, and may grow"
            ));
            NO
        }
        Proof::Foreign => {
            let found = scan(inv.store.disk(), &place).map_err(text)?;
            // The original's tag says nothing, and its proof has no digests.
            if matches!(found.health, Health::Foreign { .. }) || found.summary.high == 0 {
                return Ok(YES);
            }
            out.complain(format_args!(
                "logd: cat: {key}: its tag is no certificate, although its proof is ours: `logd verify {} --host {}` tells more",
                save_dir.display(),
                key.name
            ));
            NO
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Build, Temp, key, printed};
    use super::*;

    /// It was taken for the original's, and wrong bytes for right ones.
    #[test]
    fn a_damaged_tag_vouches_for_nothing() {
        let temp = Temp::new();
        let save = temp.path("save");
        Build::new("web1_2026112205", &["a\n", "b\n"]).certify(&save);
        for content in ["", "{\"name\": \"web1"] {
            temp.file("save/received/web1_2026112205_2", content);
            let (code, out, err) = printed(|out| run(&save, &key("web1_2026112205"), out));
            assert_eq!((code, out.as_str()), (NO, "a\nb\n"), "{err}");
            assert!(err.contains("its tag is no certificate, although its proof is ours"), "{err}");
        }
    }

    /// Without a digest it vouched for any bytes.
    #[test]
    fn a_tag_without_a_digest_still_tells_the_length() {
        let temp = Temp::new();
        let save = temp.path("save");
        let mut certificate = Build::new("web1_2026112205", &["a\n", "b\n"]).certify(&save);
        certificate.sha256 = String::new();
        crate::integrity::Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755)
            .certify(&certificate)
            .unwrap();
        let cat = || printed(|out| run(&save, &key("web1_2026112205"), out));
        assert_eq!(cat().0, YES);
        temp.file("save/log_data/web1_2026112205", "a\n");
        let (code, _, err) = cat();
        assert!(code == NO && err.contains("these 2 bytes are not the 4"), "{err}");
    }

    #[test]
    fn a_compressed_hour_is_read_as_any_other() {
        let temp = Temp::new();
        let save = temp.path("save");
        let certificate = Build::new("web1_2026112205", &["a\n", "b\n"]).certify(&save);
        let store = crate::integrity::Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
        let hour = key("web1_2026112205");
        packed::pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap();
        assert!(packed::finish(&store, &hour, &certificate).unwrap());
        assert_eq!(printed(|out| run(&save, &hour, out)), (YES, "a\nb\n".into(), String::new()));
        let verify = || printed(|out| super::super::verify::run(&save, &Filter::default(), out));
        let (code, out, err) = verify();
        assert!(code == YES && out.contains("1 right"), "{out}{err}");
        // One bit of it.
        let path = packed::path(&store, &hour);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (code, out, _) = verify();
        assert!(code == NO && out.contains("WRONG"), "{out}");
        assert_ne!(printed(|out| run(&save, &hour, out)).0, YES);
    }

    #[test]
    fn an_hour_is_printed_and_what_is_wrong_with_it_told() {
        let temp = Temp::new();
        let save = temp.path("save");
        Build::new("web1_2026112205", &["a\n", "b\n"]).certify(&save);
        Build { done: false, ..Build::new("web1_2026112206", &["c\n"]) }.store(&save);
        Build { state: "partial", ..Build::new("web1_2026112207", &["d\n"]) }.certify(&save);
        let cat = |k: &str| printed(|out| run(&save, &key(k), out));
        assert_eq!(cat("web1_2026112205"), (YES, "a\nb\n".into(), String::new()));
        let (code, out, err) = cat("web1_2026112206");
        assert_eq!((code, out.as_str()), (NO, "c\n"));
        assert!(err.contains("may grow"), "{err}");
        let (code, out, err) = cat("web1_2026112207");
        assert_eq!((code, out.as_str()), (NO, "d\n"));
        assert!(err.contains("no tag: partial"), "{err}");
        let (code, _, err) = cat("web1_2026112208");
        assert!(code == ERROR && err.contains("nothing of it is stored"), "{err}");
        std::fs::write(save.join("log_data/web1_2026112205"), "a\nB\n").unwrap();
        let (code, out, err) = cat("web1_2026112205");
        assert_eq!((code, out.as_str()), (NO, "a\nB\n"));
        assert!(err.contains("WRONG"), "{err}");
        std::fs::remove_file(save.join("log_data/web1_2026112205")).unwrap();
        let (code, _, err) = cat("web1_2026112205");
        assert!(code == ERROR && err.contains("took it away"), "{err}");
    }
}
