//! Goal: what was acknowledged survives a power cut of the real kernel's file system, and no tag that is found after one
//! is false (P1, P2, P3, P5). The simulated disk of `crash` is stricter, but it is our own idea of a disk; here ext4 and
//! its journal decide what is left.
//!
//! Follower, relay and store each have a disk of their own: an ext4 image, mounted through a loop device, with state,
//! spool and hour files on it. While hours are shipped, the power of one, two or all of them is cut at a random moment,
//! and they start again from what their disks hold; the others never stop. So a relay that acknowledged too early is
//! not saved by a follower that forgot its acknowledgements in the same instant. The log files lie outside: they are the
//! web server's, which syncs nothing, and what a cut takes from them no shipper can bring back.
//!
//! **Why a copy is what a power cut leaves.** A disk holds what the kernel has submitted to it and nothing of its page
//! cache. Here the submitted blocks are in the image file, which we copy. First the role is stopped (SIGSTOP), and every
//! thread of it waited for: it has said nothing since, so whatever it ever acknowledged was acknowledged before. What the
//! kernel writes back between then and the copy only adds what a real disk might hold as well. The copy must be of one
//! instant, not of the seconds that `cp` takes: it counts only if the loop device has completed no write meanwhile and
//! had none under way before or after, else it is made again. The file system is not frozen nor synced, which would save what a
//! cut destroys. Then the role is killed, its disk unmounted and the copy mounted instead, which replays the journal.
//!
//! The kernel writes back when it likes, and in half a second it would hardly ever; so before some cuts a few files,
//! picked at random, are synced from outside: data without its proof, a proof without its directory. Mount options change
//! with each cut, `data=writeback,nodelalloc,commit=1` among them, which leaves files of full length with nothing in them.
//!
//! What it cannot show: a disk that lies about its cache or tears a sector, and a cut inside one `fdatasync`, which is
//! over before a stopped thread stops. `crash` has both.

use super::support::load::*;
use super::support::*;
use rustix::process::{Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Hours that are complete at the start, and their lines.
const HOURS: usize = 8;
const LINES: u64 = 15_000;
const LATE_LINES: u64 = 700;

const ROLES: [&str; 3] = ["follower", "relay", "store"];

/// The first is what one gets without asking.
const OPTIONS: [&str; 5] = [
    "data=ordered",
    "data=ordered,commit=1",
    "data=ordered,nodelalloc,commit=1",
    "data=writeback",
    "data=writeback,nodelalloc,commit=1",
];

/// A disk that can lose its power. Its file system is unmounted when it is dropped.
struct Disk {
    dir: PathBuf,
    image: PathBuf,
    copies: u32,
}

fn tool(command: &mut Command) -> Result<(), String> {
    let ran = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let why = String::from_utf8_lossy(&ran.stderr);
    if ran.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", why.trim())) }
}

fn mount(image: &Path, dir: &Path, options: &str) -> Result<(), String> {
    let options = format!("loop,{options}");
    tool(Command::new("mount").args(["-t", "ext4", "-o", &options]).args([image, dir]))
}

/// It is often not in the `PATH` of a user.
fn mkfs() -> PathBuf {
    let places = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join("mkfs.ext4"));
    places.into_iter().find(|p| p.exists()).unwrap_or_else(|| "mkfs.ext4".into())
}

impl Disk {
    /// A new file system below `temp`, or why there can be none here.
    fn new(temp: &Temp, name: &str) -> Result<Self, String> {
        let (dir, image) = (temp.path(name), temp.path(&format!("{name}.0.img")));
        fs::create_dir_all(&dir).unwrap();
        fs::File::create(&image).unwrap().set_len(192 << 20).unwrap();
        // Nothing is left to be initialised in the background: that would be writes that are not ours.
        tool(
            Command::new(mkfs())
                .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
                .arg(&image),
        )?;
        mount(&image, &dir, OPTIONS[0])?;
        Ok(Self { dir, image, copies: 0 })
    }

    /// Unmounts the file system, which also detaches its loop device.
    fn unmount(&self) {
        // Whoever was killed may not have let go of it yet.
        until(SOON, "the disk to be free", || tool(Command::new("umount").arg(&self.dir)).ok());
    }

    /// Writes that the device has completed, and requests that it has in hand.
    fn writes(&self) -> (u64, u64) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let dir = self.dir.to_str().unwrap();
        let line = mounts.lines().find(|l| l.split(' ').nth(1) == Some(dir)).unwrap();
        let device = line.split(' ').next().unwrap().strip_prefix("/dev/").unwrap();
        let stat = fs::read_to_string(format!("/sys/block/{device}/stat")).unwrap();
        let fields: Vec<u64> = stat.split_ascii_whitespace().map(|n| n.parse().unwrap()).collect();
        (fields[4], fields[8])
    }

    /// Copies what the disk holds in this instant. The role that writes to it must be stopped.
    fn copy(&mut self) -> PathBuf {
        self.copies += 1;
        let copy = self.dir.with_extension(format!("{}.img", self.copies));
        until(SOON, "an instant without a write", || {
            let before = self.writes();
            tool(Command::new("cp").args(["--sparse=always"]).args([&self.image, &copy])).unwrap();
            (before.1 == 0 && before == self.writes()).then_some(())
        });
        copy
    }

    /// Puts a copy in the place of the disk.
    fn replace(&mut self, copy: PathBuf, options: &str) {
        self.unmount();
        fs::remove_file(&self.image).unwrap();
        self.image = copy;
        mount(&self.image, &self.dir, options).unwrap();
    }

    /// Syncs some files, as the kernel might do by itself.
    fn write_back_some(&self, rng: &mut Rng) {
        let mut dirs = vec![self.dir.clone()];
        while let Some(dir) = dirs.pop() {
            for e in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if e.file_type().is_ok_and(|t| t.is_dir()) {
                    dirs.push(e.path());
                } else if rng.chance(20) {
                    // It may be gone by now.
                    let _ = fs::File::open(e.path()).and_then(|f| f.sync_data());
                }
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let gone = (0..50).any(|n| {
            thread::sleep(Duration::from_millis(n));
            tool(Command::new("umount").arg(&self.dir)).is_ok()
        });
        if !gone {
            let _ = tool(Command::new("umount").arg("-l").arg(&self.dir));
        }
        // A kept directory is for its messages and the last image.
        if !thread::panicking() {
            let _ = fs::remove_file(&self.image);
        }
    }
}

/// Stops a process; when this returns none of its threads runs.
fn stop(node: &Node) {
    let pid = node.pid().unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    until(SOON, "all threads to stop", || {
        fs::read_dir(&tasks)
            .unwrap()
            .flatten()
            .all(|task| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                // "1234 (name) T …"; a thread that has ended meanwhile has none.
                stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
            })
            .then_some(())
    });
}

/// The disks of follower, relay and store; none if this machine cannot mount them, having said why.
fn disks(temp: &Temp, test: &str) -> Option<[Disk; 3]> {
    let made: Result<Vec<Disk>, String> =
        ["web1", "relay", "store"].iter().map(|n| Disk::new(temp, n)).collect();
    match made {
        Ok(disks) => disks.try_into().ok(),
        Err(why) => {
            println!("skipped: {test}: root, mkfs.ext4 and loop devices are needed: {why}");
            None
        }
    }
}

fn start(temp: &Temp, rng: &mut Rng) -> [Node; 3] {
    let state = ["web1/state", "relay/state", "store/state"].map(|d| temp.path(d).display().to_string());
    let (store_addr, relay_addr) = (fixed_addr().to_string(), fixed_addr().to_string());
    let mut pick = |of: &[&'static str]| of[rng.below(of.len() as u64) as usize];
    let (pack_bytes, senders) = (pick(&["4k", "8k", "20k"]), pick(&["1", "2", "3"]));
    let (segment, checkpoint) = (pick(&["64k", "300k", "16M"]), pick(&["100ms", "1s", "30s"]));
    println!("pack_bytes {pack_bytes}, senders {senders}, segment_size {segment}, checkpoint {checkpoint}");
    let save = temp.path("store/save").display().to_string();
    let keys = [
        ("listen", store_addr.as_str()),
        ("state_dir", &state[2]),
        ("save_dir", &save),
        ("segment_size", segment),
        ("checkpoint", checkpoint),
    ];
    let store = store(temp, &keys);
    let keys = [
        ("listen", relay_addr.as_str()),
        ("state_dir", &state[1]),
        ("senders", senders),
        ("segment_size", segment),
    ];
    let relay = relay(temp, &store_addr, &keys);
    let pattern = temp.path("logs/access.log.<%Y%m%d%H>");
    let keys = [
        ("state_dir", state[0].as_str()),
        ("pack_bytes", pack_bytes),
        ("senders", senders),
        ("segment_size", segment),
        ("window_packs", "48"),
        ("start", "oldest"),
        ("scan_interval", "20ms"),
        ("flush_interval", "100ms"),
        // The hour that is being written stays open; see `kill`.
        ("quiet", "1s"),
        ("close_wait", "24h"),
    ];
    let mut tail = tail(temp, "web1", &pattern, &relay_addr, &keys, &[]);
    tail.ready();
    [tail, relay, store]
}

/// Whose power is cut: one, now and then two, now and then all.
fn victims(rng: &mut Rng) -> Vec<usize> {
    let first = rng.below(3) as usize;
    match rng.below(10) {
        0..6 => vec![first],
        6..8 => vec![first, (first + 1) % 3],
        _ => vec![0, 1, 2],
    }
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let temp = Temp::new("power");
    let Some(mut disks) = disks(&temp, "power cuts") else { return };
    let (seed, started, wanted) = (seed(), Instant::now(), if soak() { 100 } else { 20 });
    let mut rng = Rng::new(seed);
    let sources = sources(&temp, HOURS, LINES, seed);
    let mut appender = Appender::start(&sources[HOURS], seed + HOURS as u64);
    let (save, state) = (temp.path("store/save"), temp.path("web1/state"));
    let mut nodes = start(&temp, &mut rng);

    let arrived = || bytes_of(sources.iter().map(|s| stored(&save, s)));
    let written = || bytes_of(sources.iter().map(|s| s.path.clone()));
    let (mut cuts, mut tags, mut least) = ([0u32; 3], 0, usize::MAX);
    for n in 0..wanted {
        // Any moment: this is no waiting for something.
        thread::sleep(Duration::from_millis(rng.below(700)));
        let pending = until(SOON, "something to be under way", || {
            let n = unacknowledged(&state);
            (n > 0 && arrived() < written()).then_some(n)
        });
        least = least.min(pending);
        let last = n + 1 == wanted;
        if last {
            // Not without a tag having been at stake.
            until(SOON, "a tag", || sources.iter().find_map(|s| tag(&save, "web1", &s.hour)));
        }
        for (node, role) in nodes.iter_mut().zip(ROLES) {
            assert!(node.runs(), "the {role} ended by itself");
        }
        let victims = if last { vec![0, 1, 2] } else { victims(&mut rng) };
        if rng.chance(50) {
            for v in &victims {
                disks[*v].write_back_some(&mut rng);
            }
        }
        for v in &victims {
            stop(&nodes[*v]);
        }
        let copies: Vec<PathBuf> = victims.iter().map(|v| disks[*v].copy()).collect();
        for (v, copy) in victims.iter().zip(copies) {
            nodes[*v].kill();
            disks[*v].replace(copy, OPTIONS[rng.below(OPTIONS.len() as u64) as usize]);
            cuts[*v] += 1;
        }
        if victims.contains(&2) {
            tags += check_tags(&save, &sources);
        }
        for v in &victims {
            nodes[*v].restart();
            nodes[*v].ready();
        }
        for s in &sources {
            check_prefix(&save, s);
        }
        if n == wanted * 6 / 10 {
            append_late_lines(&save, &sources[0], (seed, LINES), LATE_LINES);
        }
    }
    appender.finish();
    let cutting = started.elapsed();
    assert_eq!(nodes[0].terminate(), 0);
    let (lines, _) = settle(&mut nodes, &save, &sources);

    let logs = nodes.each_ref().map(Node::log_of_all_starts);
    for word in ["torn by a crash", "set aside", "took its place", "conflict", "came again from"] {
        println!("{word:?}: {:?}", logs.each_ref().map(|l| l.matches(word).count()));
    }
    assert!(tags > 0, "a tag got lost");
    let disks_cut = cuts.iter().sum::<u32>();
    println!(
        "{disks_cut} disks lost power ({}), each time with at least {least} packs unacknowledged; {:.1} s, {:.1} s in all",
        ROLES.iter().zip(cuts).map(|(r, n)| format!("{r} {n}")).collect::<Vec<_>>().join(", "),
        cutting.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    drop((nodes, disks));
    proved(
        "power cut, ext4",
        format!("{wanted} cuts, {disks_cut} disks; {tags} tags found after cuts; {lines} lines"),
        "0 lost, 0 doubled, 0 torn, 0 false certificates",
    );
}

/// What a follower handed to a relay, all of it acknowledged, before the relay's power is cut; the packs that are left.
/// Syncs do nothing if `lying`.
fn acknowledged_and_left(temp: &Temp, disk: &mut Disk, lying: bool) -> (u64, u64) {
    let log = temp.path("logs/access.log.<%Y%m%d%H>");
    let [hour] = &past_hours(1)[..] else { panic!() };
    temp.file(&format!("logs/access.log.{hour}"), Lines::new("s", 1).block(2_000));
    let (nobody, addr) = (fixed_addr().to_string(), fixed_addr().to_string());
    let state = temp.path("relay/state").display().to_string();
    let keys =
        [("send_to", nobody.as_str()), ("listen", &addr), ("state_dir", &state), ("backoff_max", "200ms")];
    let mut relay = Node::prepare(temp, "relay", "collector", &keys, &[]);
    if lying {
        let calls = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0"];
        let strace = ["strace", "-D", "-f", "-o", "/dev/null"].iter().chain(&calls);
        relay.run_under(&strace.map(ToString::to_string).collect::<Vec<_>>());
    }
    relay.restart();
    relay.ready();
    let mut tail = tail(temp, "web1", &log, &addr, &[("pack_bytes", "8k")], &["--once", "--timeout", "60s"]);
    assert_eq!(tail.wait(Duration::from_secs(70)), 0);
    let packs = |log: &str, before: &str| -> u64 {
        let word = log.split(before).next().unwrap().split([' ', ',']).rfind(|w| !w.is_empty());
        word.unwrap().parse().unwrap_or_else(|e| panic!("{e}: {log}"))
    };
    let acknowledged = packs(&tail.log(), " packs acknowledged");
    stop(&relay);
    let copy = disk.copy();
    relay.kill();
    disk.replace(copy, OPTIONS[0]);
    relay.run_under(&[]);
    relay.restart();
    relay.ready();
    assert_eq!(relay.terminate(), 0);
    (acknowledged, packs(&relay.log(), " wait in the spool"))
}

/// Planted fault: a relay whose syncs do nothing loses what it acknowledged, and we see it; an honest one loses nothing.
#[test]
fn a_cut_takes_what_was_acknowledged_without_a_sync() {
    let traced = tool(Command::new("strace").args(["-D", "-f", "-o", "/dev/null", "true"]));
    if let Err(why) = traced {
        println!("skipped: a planted fault under power cuts: strace: {why}");
        return;
    }
    for lying in [false, true] {
        let temp = Temp::new("power-planted");
        let mut disk = match Disk::new(&temp, "relay") {
            Ok(disk) => disk,
            Err(why) => {
                println!("skipped: a planted fault under power cuts: {why}");
                return;
            }
        };
        let (acknowledged, left) = acknowledged_and_left(&temp, &mut disk, lying);
        println!("lying: {lying}; {acknowledged} packs acknowledged, {left} left after the cut");
        assert!(acknowledged > 20);
        assert_eq!(left == acknowledged, !lying);
    }
}
