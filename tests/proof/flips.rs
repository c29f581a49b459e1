//! Goal: one byte of any state file flipped, or the file cut there, on real processes (P5, and P1–P3 with it): the role
//! starts, the hours become whole by themselves or the damage is told with host and hour, nothing is doubled, and no
//! certificate is false.
//!
//! A follower, a relay and a store are stopped in the middle of their work: one hour is certified; of the next one a part
//! is stored, a part waits in the store's spool, a part in the relay's, and a part in the follower's retry spool; a second
//! host's last pack is held by the relay. Their directories are kept. For each place a fresh copy of them is laid out
//! under the same paths, the one byte is changed, and the three are started again with everything reachable.
//!
//! [`state`](super::state) does the same on the simulator, where every place is cheap; here processes, locks, sockets and
//! the kernel's files take part. What is not tried: log files and stored lines (they are not state), and two places at once.

use super::peer::{self, Answer, Peer};
use super::support::*;
use logd::disk::Disk;
use logd::spool::Shelf;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Places in a run of CI.
const SAMPLES: u64 = 300;
/// Worlds that work side by side: they wait more than they compute.
const WORKERS: usize = 4;
/// The same in the full profile.
const WORKERS_SOAK: usize = 8;
/// What is kept of a world, and laid out again.
const DIRS: [&str; 4] = ["web1.state", "relay.state", "store.state", "save"];

/// One follower, relay and store, the hours that they carry, and their state as it was kept.
struct World {
    temp: Temp,
    nodes: [Node; 3],
    /// What the hours must come to be, by name and hour.
    hours: BTreeMap<(String, String), Vec<u8>>,
}

/// A place, and what is done there.
#[derive(Clone, Debug)]
struct Place {
    file: PathBuf,
    at: u64,
    cut: bool,
}

impl Place {
    /// Index of the role whose file it is.
    fn role(&self) -> usize {
        let dir = self.file.iter().next().unwrap();
        ["web1.state", "relay.state"].iter().position(|d| dir == *d).unwrap_or(2)
    }

    /// Does the file hold the only copy of something that was acknowledged, or is it the proof itself? Then the hour may stay
    /// open, if that is told.
    fn may_stay_open(&self) -> bool {
        let text = self.file.display().to_string();
        let dirs =
            ["relay.state/spool", "relay.state/held", "store.state/spool", "save/headers", "save/received"];
        dirs.iter().any(|d| text.starts_with(d)) && self.file.extension().is_none_or(|e| e != "done")
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for e in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(e.file_name());
        if e.file_type().unwrap().is_dir() {
            copy_tree(&e.path(), &target);
        } else {
            fs::copy(e.path(), target).unwrap();
        }
    }
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<(PathBuf, u64)>) {
    for e in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if e.file_type().unwrap().is_dir() {
            walk(root, &e.path(), found);
        } else {
            found.push((e.path().strip_prefix(root).unwrap().to_owned(), e.metadata().unwrap().len()));
        }
    }
    found.sort();
}

impl World {
    fn new() -> Self {
        let temp = Temp::new("flips");
        // Over for more than an hour: `status` gives an hour that has just ended some time.
        let past = past_hours(3);
        let [first, second] = [past[0].to_string(), past[1].to_string()];
        let mut lines = Lines::new("web1", 7);
        let mut hours = BTreeMap::new();
        let (store_addr, relay_addr) = (fixed_addr().to_string(), fixed_addr().to_string());
        let hosts = temp.file("hosts", "web1\nweb2\n").display().to_string();
        let keys = [("listen", store_addr.as_str()), ("hosts_file", &hosts), ("checkpoint", "1h")];
        let mut store = store(&temp, &keys);
        let mut relay = relay(&temp, &store_addr, &[("listen", relay_addr.as_str())]);
        let pattern = temp.path("logs/access.log.<%Y%m%d%H>");
        let keys = [
            ("pack_bytes", "4k"),
            ("start", "oldest"),
            ("scan_interval", "10ms"),
            ("flush_interval", "10ms"),
            ("quiet", "100ms"),
            // The second hour stays open while the world is built.
            ("close_wait", "24h"),
        ];
        let one = temp.file(&format!("logs/access.log.{first}"), lines.block(60));
        let two = temp.file(&format!("logs/access.log.{second}"), lines.block(20));
        let more = |lines: &mut Lines| {
            let mut file = OpenOptions::new().append(true).open(&two).unwrap();
            file.write_all(lines.block(20).as_bytes()).unwrap();
        };
        let mut tail = tail(&temp, "web1", &pattern, &relay_addr, &keys, &[]);
        certified(&temp.path("save"), "web1", &first);
        let host = peer::Hour::new("web2", &second, 3, 10);
        let packs = host.packs();
        let stored = temp.path(&format!("save/log_data/web1_{second}"));
        let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
        until(SOON, "a part of the second hour to be stored", || (size(&stored) == size(&two)).then_some(()));
        assert_eq!(Peer::to(relay_addr.parse().unwrap()).send(&packs[0]), Answer::Ok);
        let second_host = temp.path(&format!("save/log_data/web2_{second}"));
        until(SOON, "the second host's first pack", || (size(&second_host) > 0).then_some(()));
        // What it has stored lies in its spool, too, for it was not synced.
        store.kill();
        more(&mut lines);
        // Marks lag: a pack that has just been delivered may still be shown. So each is asked for by its number.
        let waiting = |dir: &str, name: &str, id: u64| {
            let ls = logd(&["spool".as_ref(), "ls".as_ref(), temp.path(dir).as_os_str(), "--json".as_ref()]);
            let rows: Value = serde_json::from_str(&ls.out).unwrap_or_default();
            let packs = rows["packs"].as_array().cloned().unwrap_or_default();
            let is_it = |p: &Value| p["name"] == name && p["hour"] == second && p["id"] == id;
            packs.iter().any(|p| is_it(p) && p["state"] == "waiting").then_some(())
        };
        until(SOON, "a pack to wait in the relay", || waiting("relay.state", "web1", 2));
        assert_eq!(Peer::to(relay_addr.parse().unwrap()).send(&packs[1]), Answer::Ok);
        assert_eq!(relay.terminate(), 0);
        for (dir, name, id) in
            [("relay.state", "web1", 2), ("relay.state", "web2", 2), ("store.state", "web2", 1)]
        {
            assert!(waiting(dir, name, id).is_some(), "{name} pack {id} does not wait in {dir}");
        }
        more(&mut lines);
        until(SOON, "a pack to wait in the retry spool", || waiting("web1.state", "web1", 3));
        assert_eq!(tail.terminate(), 0);
        let held = temp.path("relay.state/held");
        let mut held = Shelf::open(&Disk::real(), &held, 1 << 20, 1 << 20).unwrap();
        assert!(held.put("web2", &format!("{second}.0.3.00000000"), &packs[2].frame()).unwrap());

        for (hour, file) in [(&first, &one), (&second, &two)] {
            hours.insert(("web1".to_owned(), hour.clone()), fs::read(file).unwrap());
        }
        hours.insert(("web2".to_owned(), second.clone()), host.bytes());
        for dir in DIRS {
            copy_tree(&temp.path(dir), &temp.path("kept").join(dir));
        }
        // From now on what is stored is synced soon, so that it is certified soon.
        let config = fs::read_to_string(store.config()).unwrap();
        fs::write(store.config(), config.replace("checkpoint = 1h", "checkpoint = 100ms")).unwrap();
        Self { temp, nodes: [tail, relay, store], hours }
    }

    fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut all = Vec::new();
        walk(&self.temp.path("kept"), &self.temp.path("kept"), &mut all);
        all.retain(|(path, len)| *len > 0 && !path.starts_with("save/log_data"));
        all
    }

    /// Lays the kept state out again, with this change, and starts the three.
    fn begin(&mut self, place: Option<&Place>) -> Duration {
        for node in &mut self.nodes {
            node.kill();
        }
        for (dir, log) in DIRS.iter().zip(["web1.log", "relay.log", "store.log", ""]) {
            let to = self.temp.path(dir);
            let _ = fs::remove_dir_all(&to);
            copy_tree(&self.temp.path("kept").join(dir), &to);
            let _ = fs::remove_file(self.temp.path(log));
        }
        if let Some(p) = place {
            let path = self.temp.path(p.file.to_str().unwrap());
            let mut bytes = fs::read(&path).unwrap();
            if p.cut {
                bytes.truncate(usize::try_from(p.at).unwrap());
            } else {
                bytes[usize::try_from(p.at).unwrap()] ^= 1 << (p.at % 8);
            }
            fs::write(&path, bytes).unwrap();
        }
        let damaged = place.map_or(2, Place::role);
        let started = Instant::now();
        for i in [damaged, 2, 1, 0] {
            if i == damaged && self.nodes[i].runs() {
                continue;
            }
            match i {
                0 => self.nodes[i].restart_with(&["--once", "--timeout", "25s"]),
                _ => self.nodes[i].restart(),
            }
            if i == damaged {
                self.nodes[i].ready();
            }
        }
        started.elapsed()
    }

    fn data(&self, name: &str, hour: &str) -> Vec<u8> {
        fs::read(self.temp.path(&format!("save/log_data/{name}_{hour}"))).unwrap_or_default()
    }

    /// Names of the hours that are not stored as they must be, or have no true certificate.
    fn not_whole(&self) -> Vec<(String, String)> {
        let whole = |name: &str, hour: &str, want: &[u8]| {
            let tag = tag(&self.temp.path("save"), name, hour);
            let says = |t: &Value| t["verified"] == true && t["bytes"] == want.len();
            tag.is_some_and(|t| says(&t)) && self.data(name, hour) == want
        };
        let open = self.hours.iter().filter(|((name, hour), want)| !whole(name, hour, want));
        open.map(|(key, _)| key.clone()).collect()
    }

    /// What the operator is told of an hour that is not whole: a line with host and hour that says what is wrong.
    fn told(&self, name: &str, hour: &str) -> Option<String> {
        let config = self.nodes[2].config().as_os_str();
        let status = logd(&["status".as_ref(), config]);
        let mut lines = status.out.lines().skip_while(|l| !l.contains("wrong:"));
        lines.find(|l| l.contains(name) && l.contains(hour)).map(str::to_owned)
    }

    /// Everything has stopped: stored bytes are those of the source, once and in order; a tag that can be believed says what
    /// is stored. One whose own check does not hold must be told.
    fn judge_at_rest(&self, what: &str) {
        for ((name, hour), want) in &self.hours {
            let got = self.data(name, hour);
            assert!(want.starts_with(&got), "{what}: {name}_{hour}: stored is no beginning of the source");
            let prefix = format!("{name}_{hour}_");
            for e in fs::read_dir(self.temp.path("save/received")).unwrap().map(Result::unwrap) {
                if !e.file_name().to_str().unwrap().starts_with(&prefix) {
                    continue;
                }
                let bytes = fs::read(e.path()).unwrap();
                match logd::record::from_json::<logd::integrity::Certificate>(&bytes) {
                    Ok(c) => assert!(
                        c.verified && got == *want && c.bytes == got.len() as u64,
                        "{what}: a false certificate: {c:?}"
                    ),
                    Err(_) => assert!(
                        self.told(name, hour).is_some(),
                        "{what}: a damaged tag of {name}_{hour} untold"
                    ),
                }
            }
        }
    }

    /// One place; true = the hours became whole by themselves.
    fn run(&mut self, place: Option<&Place>) -> (bool, Duration) {
        let what = place.map_or("untouched".to_owned(), |p| format!("{p:?}"));
        let start = self.begin(place);
        let may_stay_open = place.is_some_and(Place::may_stay_open);
        let began = Instant::now();
        let mut told = BTreeMap::new();
        let whole = loop {
            let open = self.not_whole();
            if open.is_empty() {
                break true;
            }
            // What will not come is told when all that waits has been delivered; that takes a moment.
            if may_stay_open && began.elapsed() > Duration::from_millis(1_500) {
                told = open
                    .iter()
                    .filter_map(|(n, h)| Some(((n, h), self.told(n, h)?)))
                    .map(|((n, h), t)| ((n.clone(), h.clone()), t))
                    .collect();
                if told.len() == open.len() {
                    break false;
                }
            }
            assert!(
                began.elapsed() < SOON,
                "{what}: {open:?} neither whole nor told; told: {told:?}; follower:\n{}relay:\n{}store:\n{}",
                self.nodes[0].log(),
                self.nodes[1].log(),
                self.nodes[2].log()
            );
            thread::sleep(Duration::from_millis(5));
        };
        let end = self.nodes[0].wait(SOON);
        assert!(end == 0, "{what}: the follower ended with {end}: {}", self.nodes[0].log());
        for i in [1, 2] {
            assert!(
                self.nodes[i].runs(),
                "{what}: {} ended: {}",
                ["relay", "store"][i - 1],
                self.nodes[i].log()
            );
            self.nodes[i].kill();
        }
        self.judge_at_rest(&what);
        if let (false, Some(p)) = (whole, place.filter(|p| !p.cut)) {
            // One byte hits one record of one hour, and the role that read it says so, too; tags are read by `status`.
            let log = self.nodes[p.role()].log();
            let name = p.file.file_name().unwrap().to_str().unwrap();
            assert!(
                log.contains(name) || p.file.starts_with("save/received"),
                "{what}: the role does not name the file: {log}"
            );
            assert!(told.len() == 1, "{what}: more than one hour is not whole: {told:?}");
        }
        (whole, start)
    }
}

/// A stored byte that is not the source's, and a certificate that says more than is stored: an oracle that finds nothing must be
/// able to find something.
fn the_judge_sees_planted_faults(w: &World) {
    let sees =
        || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| w.judge_at_rest("planted"))).is_err();
    let (name, hour) = w.hours.keys().next().unwrap();
    let data = w.temp.path(&format!("save/log_data/{name}_{hour}"));
    assert!(!sees());
    flip(&data, 40);
    assert!(sees(), "a changed byte");
    flip(&data, 40);
    let stored = fs::read(&data).unwrap();
    fs::write(&data, &stored[..stored.len() - 9]).unwrap();
    assert!(sees(), "a certificate of more than is stored");
    fs::write(&data, [&stored[..], b"again\n"].concat()).unwrap();
    assert!(sees(), "bytes behind the end");
    fs::write(&data, stored).unwrap();
    assert!(!sees());
}

/// The places: each file's first by seed, then every so many bytes over all files.
fn places(files: &[(PathBuf, u64)], seed: u64) -> Vec<Place> {
    let total: u64 = files.iter().map(|(_, len)| len).sum();
    let step = if soak() { 8 } else { (total / SAMPLES).max(1) };
    let (mut all, mut next) = (Vec::new(), seed % step);
    for (file, len) in files {
        let mut put = |at: u64, cut: bool| all.push(Place { file: file.clone(), at, cut });
        if next >= *len {
            put(seed % len, seed.is_multiple_of(2));
        }
        let mut n = 0;
        while next < *len {
            put(next, n % 4 == 3 && !soak());
            if soak() {
                put(next, true);
            }
            next += step;
            n += 1;
        }
        next -= len;
    }
    all
}

#[test]
fn one_damaged_byte_anywhere_is_mended_or_told() {
    let seed = seed();
    let begun = Instant::now();
    let mut worlds: Vec<World> = thread::scope(|s| {
        let all: Vec<_> =
            (0..if soak() { WORKERS_SOAK } else { WORKERS }).map(|_| s.spawn(World::new)).collect();
        all.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let files = worlds[0].files();
    let dirs = [
        "journal/log",
        "journal/hours",
        "retry",
        "role.json",
        "follower.json",
        "spool",
        "held",
        "headers",
        "received",
        "closed",
    ];
    for dir in dirs {
        assert!(
            files.iter().any(|(p, _)| p.display().to_string().contains(dir)),
            "no file in {dir}: {files:?}"
        );
    }
    // Without damage all becomes whole, or everything below would say nothing.
    assert!(worlds[0].run(None).0);
    the_judge_sees_planted_faults(&worlds[0]);
    let built = begun.elapsed();

    let total: u64 = files.iter().map(|(_, len)| len).sum();
    let list = places(&files, seed);
    let cuts = list.iter().filter(|p| p.cut).count();
    let (next, whole) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let slowest = thread::scope(|s| {
        let work = |w: &mut World| {
            let mut slowest = Duration::ZERO;
            while let Some(place) = list.get(next.fetch_add(1, Ordering::SeqCst)) {
                // The worlds differ in a few bytes, such as times and ports.
                let Some((_, len)) = w.files().into_iter().find(|(f, _)| *f == place.file) else { continue };
                let place = Place { at: place.at.min(len - 1), ..place.clone() };
                let (by_itself, start) = w.run(Some(&place));
                whole.fetch_add(usize::from(by_itself), Ordering::SeqCst);
                slowest = slowest.max(start);
            }
            slowest
        };
        let all: Vec<_> = worlds.iter_mut().map(|w| s.spawn(move || work(w))).collect();
        all.into_iter().map(|w| w.join().unwrap()).max().unwrap()
    });
    let (places, whole) = (list.len(), whole.into_inner());
    println!(
        "{} files of {total} bytes; {places} places, {cuts} of them cuts; whole by themselves: {whole}, the others were \
         told; slowest start {slowest:?}; built in {built:?}, {:?} in all",
        files.len(),
        begun.elapsed()
    );
    proved(
        "one byte of a state file flipped, or the file cut there: follower, relay and store as processes",
        format!("{places} places in {} files", files.len()),
        "0 lost untold, 0 doubled, 0 torn, 0 false certificates",
    );
}
