//! What must be true: P2 and P3 after every round, P1 when everything has settled.

use super::{STORE, World};
use logd::clock::Hour;
use logd::integrity::Certificate;
use logd::pack::HourKey;
use logd::record;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// What earlier rounds have seen, so that nothing good is ever taken back.
#[derive(Default)]
pub(super) struct Seen {
    /// Disk calls of the collector's machine and its restarts at the last look.
    at: (u64, u32),
    /// The highest pack of each copy (`NAME_HOUR`, number) whose sender was told that the collector has it.
    pub(super) acked: BTreeMap<(String, u64), u64>,
    /// Bytes that a tag has vouched for, by `NAME_HOUR`.
    certified: BTreeMap<String, u64>,
    /// Inode and length of the data file.
    data: BTreeMap<String, (u64, usize)>,
    /// Tags by file name: reading JSON is what a round costs most.
    tags: BTreeMap<String, (Vec<u8>, Certificate)>,
}

impl World {
    /// The certificate that is no proof, of an hour of the first stream.
    pub fn doubtful(&self, hour: &str) -> Option<Certificate> {
        let name = self.streams[0].name;
        record::from_json(&self.file(&format!("/store/doubtful/{name}_{hour}"))?).ok()
    }

    /// What is stored of an hour of the first stream.
    pub fn stored(&self, hour: &str) -> String {
        let path = format!("/store/log_data/{}_{hour}", self.streams[0].name);
        String::from_utf8(self.file(&path).unwrap_or_default()).unwrap()
    }

    /// Looks at what is stored of an hour.
    fn data<R>(&self, key: &str, at: impl FnOnce(&[u8]) -> R) -> R {
        let path = format!("/store/log_data/{key}");
        self.machines[STORE].sim.look(Path::new(&path), |found| at(found.unwrap_or_default()))
    }

    /// The collector's live files.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.machines[STORE].disk.read_opt(Path::new(path), 1 << 20).ok().flatten()
    }

    /// Verified tags of the first stream: hour and certificate.
    pub fn tags(&self) -> BTreeMap<String, Certificate> {
        let name = self.streams[0].name;
        let tags = self.all_tags(&mut self.seen.lock().unwrap()).into_iter().filter(|(_, c)| c.name == name);
        tags.map(|(_, c)| (c.hour.to_string(), c)).collect()
    }

    /// All verified tags, by `NAME_HOUR`. Any other file there than tags of what was really sent is a false claim.
    fn all_tags(&self, seen: &mut Seen) -> BTreeMap<String, Certificate> {
        let disk = &self.machines[STORE].disk;
        let mut out = BTreeMap::new();
        let Ok(names) = disk.list(Path::new("/store/received")) else { return out };
        for e in names.iter().filter(|e| !e.name.starts_with('.')) {
            if e.name.matches('_').count() == 1 {
                let (name, hour) = e.name.split_once('_').unwrap();
                let known = name == "all" || self.streams.iter().any(|s| s.name == name);
                assert!(known && Hour::parse(hour).is_some(), "P3: a tag for nobody: {}", e.name);
                continue;
            }
            let path = format!("/store/received/{}", e.name);
            let old = seen.tags.get(&e.name).map(|(b, _)| b);
            let same = self.machines[STORE].sim.look(Path::new(&path), |b| b == old.map(Vec::as_slice));
            if !same {
                let bytes = self.file(&path).unwrap_or_default();
                match record::from_json::<Certificate>(&bytes) {
                    Ok(c) => seen.tags.insert(e.name.clone(), (bytes, c)),
                    Err(_) if !self.judged => continue,
                    Err(w) => panic!("P3: {}: {w}\n{}", e.name, self.explain()),
                };
            }
            let cert = seen.tags[&e.name].1.clone();
            assert!(cert.tag_name() == e.name, "P3: a tag under the name {}", e.name);
            let key = HourKey { name: cert.name.clone(), hour: cert.hour }.to_string();
            out.insert(key, cert);
        }
        out
    }

    /// P2 and P3 at this moment.
    pub fn judge(&self) {
        let m = &self.machines[STORE];
        let seen = &mut *self.seen.lock().unwrap();
        let at = (m.sim.calls(), m.restarts);
        if !self.judged || m.sim.crashed() || seen.at == at {
            return;
        }
        if seen.at.1 != at.1 {
            // A crash may undo the creation of a file that was not durable.
            seen.data.clear();
        }
        seen.at = at;
        let tags = self.all_tags(seen);
        // What the process wrote and has not synced may be anything after a crash, but never after a start.
        let running = self.collector.is_some();
        for (key, source) in &self.source {
            let (same, len) = self.data(key, |stored| (source.starts_with(stored), stored.len()));
            let told = format!("{key}: damaged: ");
            let excused = || self.spoiled && self.messages.iter().any(|m| m.starts_with(&told));
            // What a crash left of an hour is mended when its files can be used; until then it has no tag.
            let waits = || {
                let key = HourKey::parse(key).unwrap();
                self.collector.as_ref().is_some_and(|(_, c)| c.hours.is_stuck(&key))
            };
            assert!(
                !running || same || excused() || waits(),
                "P2: {key}: stored bytes are no prefix of the source\n{}",
                self.explain_hours(std::slice::from_ref(key))
            );
            if running {
                self.nothing_is_taken_back(key, len, seen);
            }
        }
        for (key, cert) in tags {
            let source = self.source.get(&key).cloned().unwrap_or_default();
            let (same, len) = self.data(&key, |stored| (source.starts_with(stored), stored.len()));
            assert!(cert.verified, "P3: {key}: a tag without a verification");
            assert!(
                same && len as u64 == cert.bytes,
                "P3: {key}: a tag for {} bytes, {len} are stored\n{}",
                cert.bytes,
                self.explain()
            );
            let acked = seen.acked.get(&(key.clone(), cert.generation)).copied().unwrap_or(0);
            assert!(
                cert.packs >= acked || self.spoiled,
                "P3: {key}: a tag for {} packs, {acked} were acknowledged\n{}",
                cert.packs,
                self.explain()
            );
            let best = seen.certified.entry(key).or_default();
            *best = cert.bytes.max(*best);
        }
    }

    /// Bytes once certified stay, and a file that gives way to another copy is kept.
    fn nothing_is_taken_back(&self, key: &str, len: usize, seen: &mut Seen) {
        let disk = &self.machines[STORE].disk;
        let path = format!("/store/log_data/{key}");
        let Ok(Some(stat)) = disk.stat(Path::new(&path)) else { return };
        let best = seen.certified.get(key).copied().unwrap_or(0);
        assert!(
            len as u64 >= best,
            "P2: {key}: {best} bytes were certified, {len} are left\n{}",
            self.explain()
        );
        let (ino, old) = seen.data.insert(key.to_owned(), (stat.ino, len)).unwrap_or_default();
        if ino != 0 && ino != stat.ino && old > 0 {
            let aside = disk.list(Path::new("/store/aside")).unwrap_or_default();
            let kept = aside.iter().any(|e| {
                e.name.starts_with(&format!("{key}."))
                    && e.name.ends_with(".replaced")
                    && self.file(&format!("/store/aside/{}/data", e.name)).is_some_and(|d| !d.is_empty())
            });
            assert!(kept, "P2: {key}: a copy was replaced and is not kept\n{}", self.explain());
        }
    }

    /// All hours so far of the first stream are certified and identical.
    pub fn is_whole(&self, hours: &[&str]) -> bool {
        let name = self.streams[0].name;
        let tags = self.all_tags(&mut self.seen.lock().unwrap());
        hours.iter().all(|h| self.is_hour_whole(&format!("{name}_{h}"), &tags))
    }

    fn is_hour_whole(&self, key: &str, tags: &BTreeMap<String, Certificate>) -> bool {
        let source = self.source.get(key).map_or(&[][..], Vec::as_slice);
        tags.contains_key(key) && self.data(key, |stored| stored == source)
    }

    /// Of these hours (`NAME_HOUR`) those that are not certified and identical.
    pub fn missing(&self, keys: &[String]) -> Vec<String> {
        let tags = self.all_tags(&mut self.seen.lock().unwrap());
        keys.iter().filter(|k| !self.is_hour_whole(k, &tags)).cloned().collect()
    }

    /// Tags of days and of the fleet that should be there and are not.
    pub fn missing_tags(&self, names: &[String]) -> Vec<String> {
        let missing = |n: &&String| self.file(&format!("/store/received/{n}")).is_none();
        names.iter().filter(missing).cloned().collect()
    }

    /// Turns until all `hours` are whole; fails when that takes more than ten simulated minutes.
    pub fn settle(&mut self, hours: &[&str]) {
        for _ in 0..1200 {
            if self.is_whole(hours) {
                return;
            }
            self.round(500);
        }
        panic!("no progress in ten minutes: {hours:?} are not whole\n{}", self.explain());
    }

    /// What was said of these hours (`NAME_HOUR`), for a failing test.
    pub fn explain_hours(&self, keys: &[String]) -> String {
        let about = |m: &&String| {
            keys.iter().any(|k| {
                let (name, hour) = k.split_once('_').unwrap();
                (name == "all" || m.contains(name)) && m.contains(hour)
            })
        };
        let said: Vec<&str> = self.messages.iter().filter(about).map(String::as_str).collect();
        if self.quiet {
            return String::new();
        }
        format!("{}\nof these hours:\n{}", self.explain(), said.join("\n"))
    }

    /// What happened, for a failing test.
    pub fn explain(&self) -> String {
        let mut out = String::new();
        if self.quiet {
            return out;
        }
        for (i, m) in self.machines.iter().enumerate() {
            let log = m.sim.log();
            let tail = log.len().saturating_sub(30);
            let _ = writeln!(out, "machine {i} ({} restarts):\n  {}", m.restarts, log[tail..].join("\n  "));
            for (p, n) in m.sim.paths() {
                let _ = writeln!(out, "  {} {n}", p.display());
            }
        }
        let tail = self.messages.len().saturating_sub(20);
        out + &self.messages[tail..].join("\n")
    }
}
