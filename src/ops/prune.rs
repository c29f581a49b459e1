//! `logd prune CONFIG|SAVE_DIR --older 30d`: removes hours that were certified long ago: data, proof, tag, `closed`. Never one that
//! is open, doubtful, late or in any way not plain, or whose lines a database or tables still need. It may run beside a collector.
//!
//! **Beside a collector** bytes may come for an hour at any moment, and must not go into a file that is being removed. A
//! collector removes an hour's tag before it takes such bytes. So the data file is first moved to `aside/NAME_HOUR.pruned`,
//! durably, and only then the tag is asked for: if it still stands, whatever comes later finds the data gone and goes to
//! `aside/NAME_HOUR.late`, as when a batch job took the file; if it does not, the file is put back. A compressed file is moved in
//! the same way, to `.gz.pruned`. What a crash leaves is an hour whose data was taken away, which is no fault, and such a
//! file, which the next run removes or puts back; if lines have come for the hour meanwhile it does neither, and names it.
//! One run works at a time: it would put back what another one is about to remove.
//!
//! Then go: proof, `closed`, the tags of the day and the fleet that stand on it, the hour's tag, what a role beyond the store
//! keeps of it, the data. Before the first of them `pruned.json` says up to which hour hours are gone, so that nobody misses them.

use super::inventory::{Files, Filter, Inventory, LATER, Proof};
use super::out::{self, Out};
use super::{ERROR, NO, YES};
use crate::clock::{Clock, Zone};
use crate::config::{Config, Role};
use crate::disk::{self, Disk, Lock};
use crate::documents::DONE;
use crate::etl::marks;
use crate::integrity::{Certificate, Store, packed};
use crate::inventory::pruned::Pruned;
use crate::pack::HourKey;
use crate::roles::beyond;
use crate::state;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Younger hours are still watched for late lines by their hosts.
pub const OLDER_MIN_MS: u64 = 3 * 86_400_000;

/// What an hour's data is called, below `aside`, while it is being removed: behind its name.
const PRUNED: &str = ".pruned";
/// Below `aside`: who holds it works.
const LOCK: &str = ".prune.lock";

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Hours whose end and certificate are older than this go.
    pub older_ms: u64,
    /// Tags and `closed` stay, only the lines and their proof go.
    pub keep_certificates: bool,
    /// Only tell.
    pub dry_run: bool,
}

#[derive(Default)]
struct Counts {
    hours: usize,
    bytes: u64,
    failed: usize,
}

/// Removes what is old; 1 = something that is old stays, as it is not plainly certified.
pub fn run(path: &Path, asked: &Asked, out: &mut Out) -> u8 {
    prune(path, asked, out).unwrap_or_else(|why| {
        out.complain(format_args!("logd: prune: {why}"));
        ERROR
    })
}

fn place(path: &Path, asked: &Asked) -> Result<(Role, PathBuf, PathBuf), String> {
    if !path.is_dir() {
        let config = Config::load(path).map_err(|e| e.to_string())?;
        let (role, c) = config.any_store(false).map_err(|e| e.to_string())?;
        let state_dir = state::resolve(&role, c.state_dir.as_deref());
        return Ok((role, c.save_dir, state_dir));
    }
    if !asked.keep_certificates {
        return Err(format!(
            "{}: the collector's state directory knows each hour, too: name its config instead, or give --keep-certificates",
            path.display()
        ));
    }
    // Nothing of a state directory is touched then.
    let role = match () {
        () if path.join(DONE).is_dir() => Role::Mgocollector,
        () if path.join(marks::DONE).is_dir() => Role::Etlcollector,
        () => Role::Fcollector,
    };
    Ok((role, path.to_owned(), path.join(".no-state")))
}

fn prune(path: &Path, asked: &Asked, out: &mut Out) -> Result<u8, String> {
    crate::disk::make_readable();
    let (role, save_dir, state_dir) = place(path, asked)?;
    let owner = std::fs::metadata(&save_dir).map_err(|e| format!("{}: {e}", save_dir.display()))?.uid();
    if !asked.dry_run && owner != rustix::process::geteuid().as_raw() {
        return Err(format!(
            "{}: it belongs to user {owner}; run it as that user: sudo -u '#{owner}'",
            save_dir.display()
        ));
    }
    let (disk, zone, now_ms) = (Disk::real(), Zone::local()?, Clock::real().now_ms());
    let mut inv = Inventory::read(&disk, &save_dir, &Filter::default())?;
    let store = Store::new(&disk, &save_dir, &state_dir, 0o644, 0o755);
    let prune = Prune { store, role, asked: *asked };
    let (mut n, mut kept) = (Counts::default(), BTreeMap::new());
    // Held until the end.
    let lock = if asked.dry_run { None } else { Some(prune.lock()?) };
    if lock.is_some() && prune.leftovers(&inv, &mut kept).map_err(|e| e.to_string())? {
        inv = Inventory::read(&disk, &save_dir, &Filter::default())?;
    }
    let mut pruned = Pruned::read(&disk, &save_dir).map_err(|e| e.to_string())?;
    let until = now_ms.saturating_sub(i64::try_from(asked.older_ms).unwrap_or(i64::MAX));
    let all = inv.hours.len();
    for (i, (key, files)) in inv.hours.iter().enumerate() {
        if out.gone() {
            break;
        }
        let removed = out::bytes(n.bytes);
        out.progress_of(i as u64, all as u64, &|| format!("prune: {i} of {all} hours, {removed} removed"));
        if zone.ends_ms(key.hour).is_none_or(|ends| ends > until) {
            continue;
        }
        let certificate = match plain(&inv, key, files, until) {
            Ok(Ok(certificate)) => certificate,
            Ok(Err(None)) => continue,
            Ok(Err(Some(why))) => {
                kept.entry(key.clone()).or_insert(why);
                continue;
            }
            Err(e) => {
                n.failed = n.failed.saturating_add(1);
                out.complain(format_args!("logd: prune: {key}: {e}; it stays"));
                continue;
            }
        };
        let lines =
            || Ok(files.data || files.headers || disk.stat(&packed::path(&prune.store, key))?.is_some());
        if asked.keep_certificates
            && (certificate.bytes == 0 || !lines().map_err(|e: disk::Error| e.to_string())?)
        {
            continue;
        }
        let there = beyond::done(role).map_or(Ok(true), |done| done(&disk, &save_dir, key, &certificate));
        if !matches!(there, Ok(true)) {
            let why = there.err().map_or(String::new(), |e| format!(" ({e})"));
            kept.insert(
                key.clone(),
                format!("its lines are not in the tables or the database yet{why}; `logd status` tells more"),
            );
            continue;
        }
        if !asked.dry_run && !asked.keep_certificates {
            pruned.note(key.hour);
            // A full disk may refuse it until something is gone: it is tried again, and what remains is told at the end.
            let _ = pruned.save(&disk, &save_dir);
        }
        match prune.hour(key, &certificate) {
            Ok(Some(bytes)) => {
                (n.hours, n.bytes) = (n.hours.saturating_add(1), n.bytes.saturating_add(bytes));
            }
            Ok(None) => {
                let why = format!(
                    "bytes came for it just now; look for its data in aside/{key}.pruned if it is not in its place"
                );
                kept.insert(key.clone(), why);
            }
            Err(e) => {
                n.failed = n.failed.saturating_add(1);
                out.complain(format_args!("logd: prune: {e}; {key} stays or is gone in part, run it again"));
                if e.fatal() {
                    break;
                }
            }
        }
    }
    if let Err(e) = pruned.save(&disk, &save_dir) {
        n.failed = n.failed.saturating_add(1);
        out.complain(format_args!(
            "logd: prune: {}; `logd status` may call hours silent that were removed",
            super::rights(&e)
        ));
    }
    for (key, why) in &kept {
        out.line(format_args!("{key}: stays: {why}"));
    }
    let word = if asked.dry_run { "would be removed" } else { "removed" };
    let rest = if asked.keep_certificates { ", their certificates stay" } else { "" };
    let stay = if kept.is_empty() {
        String::new()
    } else {
        format!("; {} of that age not", out::count(kept.len(), "hour"))
    };
    out.line(format_args!("{} {word} ({}){rest}{stay}", out::count(n.hours, "hour"), out::bytes(n.bytes)));
    Ok(match (n.failed, kept.len()) {
        (0, 0) => YES,
        (0, _) => NO,
        _ => ERROR,
    })
}

/// The certificate of an hour that may go; or why it stays, `None` = it was certified later than it ended.
fn plain(
    inv: &Inventory,
    key: &HourKey,
    files: &Files,
    until: i64,
) -> disk::Result<Result<Certificate, Option<String>>> {
    let stays = |why: &str| Ok(Err(Some(why.to_owned())));
    let c = match inv.proof(key)? {
        Proof::Tag(c) => c,
        Proof::Doubtful(c) => return Ok(Err(Some(format!("it has no tag: {}", c.state)))),
        Proof::Foreign => return stays("its tag is no certificate (the original's, or damaged)"),
        Proof::Later => return stays(LATER),
        Proof::None => return stays("it is not certified"),
    };
    if c.certified.saturating_mul(1000) > until {
        return Ok(Err(None));
    }
    let aside = files.late
        || files.gaps
        || files.doubtful
        || !(files.building.is_empty()
            && files.early.is_empty()
            && files.conflict.is_empty()
            && files.lost.is_empty());
    if aside {
        return stays("something of it is aside or doubtful; `logd status` tells more");
    }
    if files.tags.as_slice() != [c.tag_name()] || !c.is_tag() {
        return stays("its tag is not the one that its certificate names");
    }
    let data = inv.store.disk().stat(&inv.store.place(key).data)?;
    if data.is_some_and(|s| s.len != c.bytes) {
        return stays("its data has another length than its certificate; `logd verify` tells more");
    }
    Ok(Ok(c))
}

struct Prune {
    store: Store,
    role: Role,
    asked: Asked,
}

impl Prune {
    fn lock(&self) -> Result<Lock, String> {
        let (disk, aside) = (self.store.disk(), self.store.path("aside"));
        let held = disk.create_dir_all(&aside, 0o755).and_then(|()| disk.lock(&aside.join(LOCK)));
        held.map_err(|e| e.to_string())?.ok_or_else(|| {
            format!(
                "{}: another `logd prune` works there; nothing was done; run it again when that has ended",
                aside.display()
            )
        })
    }

    /// Moves a name, durably.
    fn move_to(&self, from: &Path, to: &Path) -> disk::Result<()> {
        let disk = self.store.disk();
        disk.rename(from, to)?;
        for dir in [to.parent(), from.parent()].into_iter().flatten() {
            disk.sync_dir(dir)?;
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> disk::Result<()> {
        let disk = self.store.disk();
        if disk.stat(path)?.is_none() {
            return Ok(());
        }
        disk.remove(path)?;
        path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))
    }

    /// The bytes of data that went; `None` = something came for the hour meanwhile, and it stays.
    fn hour(&self, key: &HourKey, certificate: &Certificate) -> disk::Result<Option<u64>> {
        let (disk, place) = (self.store.disk(), self.store.place(key));
        let compressed = packed::path(&self.store, key);
        let plain = disk.stat(&place.data)?.map(|s| (place.data.clone(), s.len, format!("{key}{PRUNED}")));
        let data = match plain {
            None => disk.stat(&compressed)?.map(|s| (compressed.clone(), s.len, format!("{key}.gz{PRUNED}"))),
            plain => plain,
        };
        let bytes = data.as_ref().map_or(0, |(_, len, _)| *len);
        if self.asked.dry_run {
            return Ok(Some(bytes));
        }
        let moved = data.map(|(from, _, name)| (from, self.store.path("aside").join(name)));
        if let Some((from, aside)) = &moved {
            self.move_to(from, aside)?;
        }
        // Whoever takes bytes for it has removed the tag before.
        let stands = self.store.tag(key)?.and_then(|(_, c)| c);
        if stands.as_ref() != Some(certificate) {
            // They may have found it gone; then they are beside it, and it is no beginning of theirs any more.
            let late = self.store.closed(key)?.is_some_and(|c| c.state == "late");
            if let Some((from, aside)) = moved.filter(|_| !late)
                && disk.stat(&from)?.is_none()
            {
                self.move_to(&aside, &from)?;
            }
            return Ok(None);
        }
        self.remove(&place.headers)?;
        // Beside the data it is what a compression left that was killed.
        self.remove(&compressed)?;
        if !self.asked.keep_certificates {
            let received = self.store.path("received");
            self.remove(&self.store.state_dir().join("closed").join(key.to_string()))?;
            for tag in [
                format!("{}_{}", key.name, key.hour.day_of()),
                format!("all_{}", key.hour),
                certificate.tag_name(),
            ] {
                self.remove(&received.join(tag))?;
            }
            for file in beyond::files(self.role, &self.store, key) {
                self.remove(&file)?;
            }
        }
        if let Some((_, aside)) = &moved {
            self.remove(aside)?;
        }
        Ok(Some(bytes))
    }

    /// What a run left that was killed; whether there was anything. An hour's data goes only if nothing but its certificate is left
    /// of it.
    fn leftovers(&self, inv: &Inventory, kept: &mut BTreeMap<HourKey, String>) -> disk::Result<bool> {
        let (disk, dir) = (self.store.disk(), self.store.path("aside"));
        let mut any = false;
        for entry in disk.list(&dir)? {
            let Some(name) = entry.name.strip_suffix(PRUNED) else { continue };
            let (name, gz) = name.strip_suffix(".gz").map_or((name, false), |name| (name, true));
            let Some(key) = HourKey::parse(name) else { continue };
            any = true;
            let (place, left) = (self.store.place(&key), dir.join(&entry.name));
            let files = inv.hours.get(&key);
            let came = files.is_some_and(|f| {
                f.late
                    || f.doubtful
                    || !(f.building.is_empty() && f.early.is_empty() && f.conflict.is_empty())
            });
            let certified = matches!(inv.proof(&key)?, Proof::Tag(_));
            let proof = disk.stat(&place.headers)?.is_some();
            let there = disk.stat(&left)?.map(|s| (s.dev, s.ino));
            let from = if gz { packed::path(&self.store, &key) } else { place.data };
            // Whoever keeps certificates has removed none.
            let finished = !self.asked.keep_certificates && self.store.closed(&key)?.is_none();
            if !came && !proof && (certified || finished) {
                self.remove(&left)?;
            } else if !came && proof && disk.stat(&from)?.is_none() {
                self.move_to(&left, &from)?;
            } else if disk.stat(&from)?.is_some_and(|s| Some((s.dev, s.ino)) == there) {
                // Of a name that was moved a power cut may leave both.
                self.remove(&left)?;
            } else {
                let why = format!(
                    "lines came for it while it was being removed; its data is in {}; take it from there, and remove that file, which \
                     nobody else does",
                    left.display()
                );
                kept.insert(key, why);
            }
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::super::status;
    use super::super::testing::{Build, Temp, fates, key, printed, simulated};
    use super::super::verify::{self, Verdict};
    use super::*;
    use crate::disk::Fault;

    const PACKS: &[&str] = &["a\n", "b\n"];
    const MONTH: u64 = 30 * 86_400_000;

    fn names(dir: &Path) -> Vec<String> {
        let mut list: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        list.sort();
        list
    }

    /// A store whose hours are of 2025 and were certified then, and its config.
    fn store(temp: &Temp) -> (PathBuf, PathBuf) {
        let save = temp.path("save");
        let old = |k: &str| {
            let mut c = Build::new(k, PACKS).certify(&save);
            c.certified = 1_764_000_000;
            let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
            store.certify(&c).unwrap();
        };
        old("web1_2025112205");
        old("web1_2025112206");
        temp.file("save/received/web1_20251122", "{}");
        temp.file("save/received/all_2025112205", "[]");
        let text = format!(
            "[fcollector]\nlisten = :1\nallow = any\nsave_dir = {}\nstate_dir = {}\n",
            save.display(),
            temp.path("state").display()
        );
        (save, temp.file("c.ini", &text))
    }

    fn asked(keep_certificates: bool, dry_run: bool) -> Asked {
        Asked { older_ms: MONTH, keep_certificates, dry_run }
    }

    #[test]
    fn only_plainly_certified_old_hours_go_with_all_that_is_theirs() {
        let temp = Temp::new();
        let (save, config) = store(&temp);
        // Old, and in one way or another not plain; and one that was certified just now.
        Build { done: false, ..Build::new("web2_2025112205", PACKS) }.store(&save);
        Build { state: "partial", ..Build::new("web3_2025112205", PACKS) }.certify(&save);
        let again = Build::new("web4_2025112205", PACKS).certify(&save);
        assert!(again.certified > 1_764_000_000);
        Build::new("web5_2025112205", PACKS).certify(&save);
        temp.file("save/aside/web5_2025112205.late", "x");
        let mut c = Build::new("web6_2025112205", PACKS).certify(&save);
        c.certified = 1_764_000_000;
        Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755).certify(&c).unwrap();
        std::fs::write(save.join("log_data/web6_2025112205"), "a\n").unwrap();
        let mut c = Build::new("web7_2025112205", PACKS).certify(&save);
        (c.format, c.certified) = (2, 1_764_000_000);
        Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755).certify(&c).unwrap();
        let before = (names(&save.join("log_data")), names(&save.join("received")));
        let (code, out, err) = printed(|out| run(&config, &asked(false, true), out));
        assert_eq!(code, NO, "{out}{err}");
        assert!(out.contains("2 hours would be removed (8 B)"), "{out}");
        assert_eq!((names(&save.join("log_data")), names(&save.join("received"))), before);
        let (code, out, err) = printed(|out| run(&config, &asked(false, false), out));
        assert_eq!((code, err.as_str()), (NO, ""), "{out}");
        for (k, why) in [
            ("web2", "not certified"),
            ("web3", "no tag: partial"),
            ("web6", "another length"),
            ("web7", "later format"),
            ("web5", "certified"),
        ] {
            let told =
                out.lines().any(|l| l.starts_with(&format!("{k}_2025112205: stays")) && l.contains(why));
            // web5 was certified later: it is not of that age.
            assert_eq!(told, k != "web5", "{k}: {out}");
        }
        let rest: Vec<String> = (2..=7).map(|n| format!("web{n}_2025112205")).collect();
        assert_eq!(names(&save.join("log_data")), rest);
        assert_eq!(names(&save.join("headers")), rest);
        assert!(!names(&save.join("received")).iter().any(|n| n.starts_with("web1") || n.starts_with("all")));
        assert!(!names(&temp.path("state/closed")).iter().any(|n| n.starts_with("web1")));
        assert!(!names(&save.join("aside")).iter().any(|n| n.ends_with(".pruned")));
    }

    #[test]
    fn hours_whose_rows_were_not_made_stay() {
        let temp = Temp::new();
        let (save, config) = store(&temp);
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text.replace("[fcollector]", "[etlcollector]\ncolumns_file = /x");
        let config = temp.file("c.ini", &text);
        let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
        let mut of = marks::Origin::of(&store.closed(&key("web1_2025112205")).unwrap().unwrap());
        for revision in [of.revision + 1, of.revision] {
            of.revision = revision;
            let marker = marks::Marker {
                format: 1,
                name: "web1_2025112205".into(),
                source: of.clone(),
                rules: String::new(),
                lines: 0,
                rows: std::collections::BTreeMap::default(),
                filtered: std::collections::BTreeMap::default(),
                rejected: std::collections::BTreeMap::default(),
                files: Vec::new(),
                failed: String::new(),
                again: false,
                at: 0,
            };
            let bytes = String::from_utf8(crate::record::to_json(&marker)).unwrap();
            temp.file("save/etl_done/web1_2025112205", &bytes);
            let (code, out, err) = printed(|out| run(&config, &asked(false, false), out));
            assert!(code == NO && out.contains("web1_2025112206: stays: its lines are not in"), "{out}{err}");
            let there = save.join("log_data/web1_2025112205").exists();
            assert_eq!(there, revision != 1, "{out}{err}");
        }
    }

    #[test]
    fn certificates_may_stay_and_a_store_alone_must_keep_them() {
        let temp = Temp::new();
        let (save, _) = store(&temp);
        let (code, _, err) = printed(|out| run(&save, &asked(false, false), out));
        assert!(code == ERROR && err.contains("--keep-certificates"), "{err}");
        let (code, out, err) = printed(|out| run(&save, &asked(true, false), out));
        assert_eq!((code, err.as_str()), (YES, ""), "{out}");
        assert!(out.contains("2 hours removed (8 B), their certificates stay"), "{out}");
        assert!(names(&save.join("log_data")).is_empty() && names(&save.join("headers")).is_empty());
        assert_eq!(names(&save.join("received")).len(), 4);
        assert_eq!(names(&temp.path("state/closed")), ["web1_2025112205", "web1_2025112206"]);
        let (code, out, _) = printed(|out| verify::run(&save, &Filter::default(), out));
        assert!(code == YES && out.contains("2 moved away"), "{out}");
        let (code, out, _) = printed(|out| run(&save, &asked(true, false), out));
        assert!(code == YES && out.contains("0 hours removed"), "{out}");
    }

    /// They were removed like any other, and the lines were nowhere.
    #[test]
    fn hours_that_are_not_in_the_database_stay_and_its_files_go_with_the_others() {
        let temp = Temp::new();
        let (save, config) = store(&temp);
        let text = std::fs::read_to_string(&config).unwrap().replace("fcollector", "mgocollector");
        std::fs::write(&config, text + "db = d\ncollection = c\n").unwrap();
        let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
        let (done, stale) = ("web1_2025112205", "web1_2025112206");
        // The other one's marker is of an earlier certificate.
        for (name, more) in [(done, 0), (stale, 1)] {
            let c = store.closed(&key(name)).unwrap().unwrap();
            let marker = serde_json::json!({
                "format": 1, "gen": c.generation, "revision": c.revision + more, "database": "d20251122",
                "collection": "c", "lines": 2, "inserted": 2, "updated": 0, "skipped": 0, "rejected": 0, "at": 0,
            });
            let json = String::from_utf8(crate::record::to_json(&marker)).unwrap();
            temp.file(&format!("save/documents_done/{name}"), &json);
            temp.file(&format!("save/documents_reject/{name}"), "x");
            temp.file(&format!("state/documents/{name}"), "{}");
        }
        let all = || {
            ["save/documents_done", "save/documents_reject", "state/documents"].map(|d| names(&temp.path(d)))
        };
        let (code, out, err) = printed(|out| run(&save, &asked(true, true), out));
        assert!(code == NO && out.contains("1 hour would be removed"), "{out}{err}");
        let (code, out, err) = printed(|out| run(&config, &asked(false, false), out));
        assert_eq!((code, err.as_str()), (NO, ""), "{out}");
        assert!(
            out.contains(&format!("{stale}: stays: its lines are not in the tables or the database yet")),
            "{out}"
        );
        assert!(out.contains("1 hour removed"), "{out}");
        assert_eq!(all(), [[stale], [stale], [stale]]);
        assert_eq!(names(&save.join("log_data")), [stale]);
    }

    /// A power cut or a kill in the place of each call: nothing that is left is called wrong, and the next run ends it.
    #[test]
    fn a_stop_at_any_call_is_ended_by_the_next_run() {
        let temp = Temp::new();
        store(&temp);
        let hour = key("web1_2025112205");
        let mut stops = 0;
        for (fate, keep) in fates().into_iter().flat_map(|fate| [(fate, false), (fate, true)]) {
            for at in 1.. {
                let (disk, sim) = simulated(&temp);
                let store = Store::new(&disk, Path::new("/save"), Path::new("/state"), 0o644, 0o755);
                disk.create_dir_all(Path::new("/save/aside"), 0o755).unwrap();
                let prune = Prune { store, role: Role::Fcollector, asked: asked(keep, false) };
                let look = || Inventory::read(&disk, Path::new("/save"), &Filter::default()).unwrap();
                let run = || -> disk::Result<()> {
                    prune.leftovers(&look(), &mut BTreeMap::new())?;
                    if let Proof::Tag(c) = look().proof(&hour)? {
                        prune.hour(&hour, &c)?;
                    }
                    Ok(())
                };
                sim.plan(sim.calls() + at, Fault::Torn);
                let ended = run().is_ok();
                sim.restart(fate);
                sim.forget_plan();
                let inv = look();
                if let Some(files) = inv.hours.get(&hour) {
                    let said = verify::hour(&inv, &hour, files, &mut 0).unwrap();
                    assert!(!matches!(said, Verdict::Wrong(_)), "call {at}, {fate:?}: {said:?}");
                }
                run().unwrap();
                let mut left: Vec<_> = sim.paths().into_iter().map(|(path, _)| path).collect();
                left.retain(|path| path.to_string_lossy().contains("web1_2025112205"));
                let kept = if keep {
                    ["/save/received/web1_2025112205_2", "/state/closed/web1_2025112205"]
                } else {
                    ["", ""]
                };
                left.retain(|path| !kept.contains(&path.to_str().unwrap()));
                assert!(left.is_empty(), "call {at}, {fate:?}, {keep}: {left:?}: {:?}", sim.log());
                if ended {
                    break;
                }
                stops += 1;
            }
        }
        println!("prune: stopped {stops} times");
        assert!(stops > 60, "{stops}");
    }

    /// A collector takes bytes for the hour while it is being removed; and a run is killed in the middle.
    #[test]
    fn what_comes_meanwhile_and_what_a_crash_leaves_lose_nothing() {
        let temp = Temp::new();
        let (save, config) = store(&temp);
        let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
        let hour = key("web1_2025112205");
        let certificate = store.closed(&hour).unwrap().unwrap();
        store.revoke(&hour).unwrap();
        let prune = Prune { store: store.clone(), role: Role::Fcollector, asked: asked(false, false) };
        assert_eq!(prune.hour(&hour, &certificate).unwrap(), None);
        assert_eq!(std::fs::read_to_string(save.join("log_data/web1_2025112205")).unwrap(), "a\nb\n");
        assert!(save.join("headers/web1_2025112205").exists());
        // Killed after the data was moved; and after the proof had gone, too.
        for file in ["web1_2025112205", "web1_2025112206"] {
            std::fs::rename(save.join("log_data").join(file), save.join(format!("aside/{file}.pruned")))
                .unwrap();
        }
        std::fs::remove_file(save.join("headers/web1_2025112206")).unwrap();
        let (_, out, err) = printed(|out| run(&config, &asked(false, false), out));
        assert_eq!(err, "", "{out}");
        assert!(out.contains("web1_2025112205: stays: it is not certified"), "{out}");
        assert_eq!(std::fs::read_to_string(save.join("log_data/web1_2025112205")).unwrap(), "a\nb\n");
        assert!(!names(&save.join("aside")).iter().any(|n| n.ends_with(".pruned")));
        // One run at a time.
        let held = prune.lock().unwrap();
        let (code, _, err) = printed(|out| run(&config, &asked(false, false), out));
        assert!(code == ERROR && err.contains("another `logd prune` works there"), "{err}");
        drop(held);
        assert!(
            !names(&save.join("received")).iter().any(|n| n.contains("2025112206")),
            "{:?}",
            names(&save.join("received"))
        );
    }

    /// Killed when the data was moved, or when the proof had gone, too; then lines came, and the hour is not certified any more.
    /// The second run left the data where nobody looks, or removed it.
    #[test]
    fn data_of_an_hour_that_got_lines_after_a_crash_is_kept_and_named() {
        for proof in [true, false] {
            let temp = Temp::new();
            let (save, config) = store(&temp);
            let name = "web1_2025112205";
            std::fs::create_dir_all(save.join("aside")).unwrap();
            let aside = save.join(format!("aside/{name}.pruned"));
            std::fs::rename(save.join("log_data").join(name), &aside).unwrap();
            if !proof {
                std::fs::remove_file(save.join("headers").join(name)).unwrap();
            }
            let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
            store.revoke(&key(name)).unwrap();
            temp.file(&format!("save/aside/{name}.late"), "c\n");
            for _ in 0..2 {
                let (code, out, err) = printed(|out| run(&config, &asked(false, false), out));
                assert!(
                    code == NO && out.contains(&format!("its data is in {}", aside.display())),
                    "{out}{err}"
                );
                assert_eq!(std::fs::read_to_string(&aside).unwrap(), "a\nb\n");
            }
        }
    }

    /// While an older hour stays, every hour that was removed was called silent, and `--missing` asked for it again; and if
    /// the store was down, overdue, since its footprint still named it.
    #[test]
    fn what_was_removed_is_not_missed() {
        let temp = Temp::new();
        let (save, config) = store(&temp);
        Build { state: "partial", ..Build::new("web1_2025112204", PACKS) }.certify(&save);
        let hosts = temp.file("hosts", "web1\nweb2 2025112206\n");
        let text = std::fs::read_to_string(&config).unwrap();
        temp.file("c.ini", &format!("{text}hosts_file = {}\n", hosts.display()));
        let mut print = crate::footprint::Footprint::default();
        let pending = crate::footprint::Pending { bytes: 1, crc32: 0, mark: 0, seq: 1, weight: 1 };
        print.accept(&key("web1_2025112206"), 0, 1, pending, 0);
        print.save(&Disk::real(), &temp.path("state"), "now").unwrap();
        let missing = || {
            let filter = Filter { host: None, since: None };
            let (_, out, err) = printed(|out| status::run(&config, &filter, status::View::Missing, out));
            assert_eq!(err, "");
            out.lines().filter(|l| l.contains(" 2025112")).map(str::to_owned).collect::<Vec<_>>()
        };
        let table = || printed(|out| status::run(&config, &Filter::default(), status::View::All, out)).1;
        assert!(!missing().contains(&"web1 2025112205".to_owned()) && table().contains("web1  2025112206"));
        assert_eq!(printed(|out| run(&config, &asked(false, false), out)).0, NO);
        assert!(names(&save).contains(&"pruned.json".to_owned()), "{:?}", names(&save));
        let left = missing();
        assert!(left.contains(&"web1 2025112204".to_owned()), "{left:?}");
        assert!(!left.iter().any(|l| l.contains("2025112205") || l.contains("2025112206")), "{left:?}");
        assert!(!table().contains("web1  2025112206"), "{}", table());
        // It only grows.
        let mut pruned = Pruned::read(&Disk::real(), &save).unwrap();
        pruned.note(key("web1_2025112205").hour);
        assert!(pruned.covers(key("web1_2025112206").hour) && !pruned.covers(key("web1_2025112207").hour));
        assert!(!pruned.covers(key("web1_20251122").hour), "of files that hold days it says nothing");
    }

    /// A compression that was under way when the hour went puts its file there afterwards.
    #[test]
    fn a_compressed_file_alone_goes_although_the_certificate_stays() {
        let temp = Temp::new();
        let (save, _) = store(&temp);
        assert_eq!(printed(|out| run(&save, &asked(true, false), out)).0, YES);
        temp.file("save/log_data/web1_2025112205.gz", "x");
        let (code, out, err) = printed(|out| run(&save, &asked(true, false), out));
        assert!(code == YES && out.contains("1 hour removed"), "{out}{err}");
        assert!(names(&save.join("log_data")).is_empty());
    }

    /// The compressed file went last, and nothing named it when that had not been reached.
    #[test]
    fn a_compressed_hour_goes_as_a_whole_after_a_crash_too() {
        for keep in [true, false] {
            for killed in 0..3 {
                let temp = Temp::new();
                let (save, config) = store(&temp);
                let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
                let hour = key("web1_2025112205");
                let certificate = store.closed(&hour).unwrap().unwrap();
                packed::pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap();
                assert!(packed::finish(&store, &hour, &certificate).unwrap());
                std::fs::create_dir_all(save.join("aside")).unwrap();
                if killed > 0 {
                    let aside = save.join("aside/web1_2025112205.gz.pruned");
                    std::fs::rename(packed::path(&store, &hour), aside).unwrap();
                }
                if killed > 1 {
                    std::fs::remove_file(save.join("headers/web1_2025112205")).unwrap();
                }
                let (code, out, err) = printed(|out| run(&config, &asked(keep, false), out));
                assert_eq!((code, err.as_str()), (YES, ""), "{out}");
                let aside = names(&save.join("aside"));
                assert!(names(&save.join("log_data")).is_empty() && aside == [LOCK], "{killed}: {aside:?}");
            }
        }
    }
}
