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
//! cache. Here the submitted blocks are in the image file, so a copy of that file is what a cut leaves, if it is of one
//! instant and not of the time that `cp` takes. Freezing the file system of the role would sync it first and save what
//! a cut destroys. So the image lies on a file system of its own, the *shelf*, and that one is frozen (`fsfreeze`): from
//! then on no block gets into the image, in the middle of whatever `fdatasync` or journal commit was under way, while the
//! role and its own file system know nothing. A sync that needs a block cannot end any more, so nothing is acknowledged
//! that is not in the copy. When it is made the role is killed, its disk unmounted and the copy mounted instead, which
//! replays the journal.
//!
//! The kernel writes back when it likes, and in half a second it would hardly ever; so before some cuts a few files,
//! picked at random, are synced from outside: data without its proof, a proof without its directory. Mount options change
//! with each cut, `data=writeback,nodelalloc,commit=1` among them, which leaves files of full length with nothing in them.
//!
//! What it cannot show: a disk that lies about its cache, tears a sector, or writes in another order than it was told
//! to. `crash` has these.

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

/// A file system in a file; unmounted when it is dropped, which also detaches its loop device.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, dir: &Path, options: &str) -> Result<Self, String> {
        let options = format!("loop,{options}");
        tool(Command::new("mount").args(["-t", "ext4", "-o", &options]).args([image, dir]))?;
        Ok(Self(dir.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever was killed may not have let go of it yet.
        let gone = (0..60).any(|n| {
            thread::sleep(Duration::from_millis(n));
            tool(Command::new("umount").arg(&self.0)).is_ok()
        });
        if !gone {
            let _ = tool(Command::new("umount").arg("-l").arg(&self.0));
        }
    }
}

/// The file system on which images lie.
struct Shelf(Mount);

impl Shelf {
    /// A new one below `temp`, or why there can be none here.
    fn new(temp: &Temp) -> Result<Self, String> {
        let (dir, image) = (temp.path("shelf"), temp.path("shelf.img"));
        fs::create_dir_all(&dir).unwrap();
        make_file_system(&image, 1 << 30)?;
        let shelf = Self(Mount::new(&image, &dir, "data=ordered")?);
        shelf.freeze().map(drop)?;
        Ok(shelf)
    }

    /// No block gets into any image while this is kept.
    fn freeze(&self) -> Result<Frozen<'_>, String> {
        tool(Command::new("fsfreeze").arg("-f").arg(&self.0.0))?;
        Ok(Frozen(self))
    }
}

struct Frozen<'a>(&'a Shelf);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = tool(Command::new("fsfreeze").arg("-u").arg(&self.0.0.0));
    }
}

/// A disk that can lose its power.
struct Disk {
    mount: Option<Mount>,
    dir: PathBuf,
    image: PathBuf,
}

fn tool(command: &mut Command) -> Result<(), String> {
    let ran = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let why = String::from_utf8_lossy(&ran.stderr);
    if ran.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", why.trim())) }
}

/// It is often not in the `PATH` of a user.
fn mkfs() -> PathBuf {
    let places = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join("mkfs.ext4"));
    places.into_iter().find(|p| p.exists()).unwrap_or_else(|| "mkfs.ext4".into())
}

/// Nothing is left to be initialised in the background: that would be writes that are not ours.
fn make_file_system(image: &Path, bytes: u64) -> Result<(), String> {
    fs::File::create(image).unwrap().set_len(bytes).unwrap();
    let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    tool(Command::new(mkfs()).args(options).arg(image))
}

impl Disk {
    /// A new one that is mounted as `name` below `temp`, or why there can be none here.
    fn new(temp: &Temp, shelf: &Shelf, name: &str) -> Result<Self, String> {
        let (dir, image) = (temp.path(name), shelf.0.0.join(format!("{name}.img")));
        fs::create_dir_all(&dir).unwrap();
        make_file_system(&image, 128 << 20)?;
        let mount = Some(Mount::new(&image, &dir, OPTIONS[0])?);
        Ok(Self { mount, dir, image })
    }

    /// Where the copy of it goes: off the shelf.
    fn copy(&self) -> PathBuf {
        self.dir.with_extension("cut")
    }

    /// Puts the copy in the place of the disk.
    fn replace(&mut self, options: &str) {
        self.mount = None;
        fs::remove_file(&self.image).unwrap();
        copy(&self.copy(), &self.image);
        self.mount = Some(Mount::new(&self.image, &self.dir, options).unwrap());
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

fn copy(from: &Path, to: &Path) {
    tool(Command::new("cp").arg("--sparse=always").args([from, to])).unwrap();
}

/// Cuts the power of some roles at one instant; they have their disks back, and do not run.
fn cut(shelf: &Shelf, victims: &mut [(&mut Node, &mut Disk)], rng: &mut Rng) {
    let frozen = shelf.freeze().unwrap();
    for (_, disk) in victims.iter() {
        copy(&disk.image, &disk.copy());
        // Nothing came while we copied: the premise of it all.
        tool(Command::new("cmp").args([&disk.image, &disk.copy()])).unwrap();
    }
    // Those that wait for their disk die when they get it; what they still write goes to the old image.
    for (node, _) in victims.iter() {
        let _ = kill_process(node.pid().unwrap(), Signal::KILL);
    }
    drop(frozen);
    for (node, disk) in victims {
        node.kill();
        disk.replace(OPTIONS[rng.below(OPTIONS.len() as u64) as usize]);
    }
}

/// A shelf with disks of these names; none if this machine cannot mount them, having said why.
fn disks<const N: usize>(temp: &Temp, names: [&str; N], test: &str) -> Option<(Shelf, [Disk; N])> {
    let made = Shelf::new(temp).and_then(|shelf| {
        let disks: Vec<Disk> = names.iter().map(|n| Disk::new(temp, &shelf, n)).collect::<Result<_, _>>()?;
        Ok((shelf, disks))
    });
    match made {
        Ok((shelf, disks)) => Some((shelf, disks.try_into().ok()?)),
        Err(why) => {
            println!("skipped: {test}: root, mkfs.ext4, loop devices and fsfreeze are needed: {why}");
            None
        }
    }
}

fn start(temp: &Temp, rng: &mut Rng) -> [Node; 3] {
    let state = ["web1/state", "relay/state", "store/state"].map(|d| temp.path(d).display().to_string());
    let save = temp.path("store/save").display().to_string();
    let own = |i: usize| ("state_dir", state[i].as_str());
    roles(temp, rng, [&[own(0)], &[own(1)], &[own(2), ("save_dir", &save)]])
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
    let Some((shelf, mut disks)) = disks(&temp, ["web1", "relay", "store"], "power cuts") else { return };
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
        let last = n + 1 == wanted;
        if last {
            // Not without a tag at stake, one that is durable: the store notes the hour only then.
            let closed = |s: &Source| temp.path(&format!("store/state/closed/web1_{}", s.hour)).exists();
            until(SOON, "a tag", || sources[1..].iter().any(closed).then_some(()));
        }
        let pending = until(SOON, "something to be under way", || {
            let n = unacknowledged(&state);
            (n > 0 && arrived() < written()).then_some(n)
        });
        least = least.min(pending);
        for (node, role) in nodes.iter_mut().zip(ROLES) {
            assert!(node.runs(), "the {role} ended by itself");
        }
        let victims = if last { vec![0, 1, 2] } else { victims(&mut rng) };
        if rng.chance(50) {
            for v in &victims {
                disks[*v].write_back_some(&mut rng);
            }
        }
        let pairs = nodes.iter_mut().zip(&mut disks).enumerate();
        let mut cut_off: Vec<_> = pairs.filter(|(v, _)| victims.contains(v)).map(|(_, pair)| pair).collect();
        cut(&shelf, &mut cut_off, &mut rng);
        for v in &victims {
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
    assert!(tags > 0, "the tag that was durable is gone");
    let disks_cut = cuts.iter().sum::<u32>();
    println!(
        "{disks_cut} disks lost power ({}), each time with at least {least} packs unacknowledged; {:.1} s, {:.1} s in all",
        ROLES.iter().zip(cuts).map(|(r, n)| format!("{r} {n}")).collect::<Vec<_>>().join(", "),
        cutting.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    drop((nodes, disks, shelf));
    proved(
        "power cut, ext4",
        format!("{wanted} cuts, {disks_cut} disks; {tags} tags found after cuts; {lines} lines"),
        "0 lost, 0 doubled, 0 torn, 0 false certificates",
    );
}

/// What a follower handed to a relay, all of it acknowledged, before the relay's power is cut; the packs that are left.
/// Syncs do nothing if `lying`.
fn acknowledged_and_left(temp: &Temp, shelf: &Shelf, disk: &mut Disk, lying: bool) -> (u64, u64) {
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
    cut(shelf, &mut [(&mut relay, disk)], &mut Rng::new(1));
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
        let Some((shelf, [mut disk])) = disks(&temp, ["relay"], "a planted fault under power cuts") else {
            return;
        };
        let (acknowledged, left) = acknowledged_and_left(&temp, &shelf, &mut disk, lying);
        println!("lying: {lying}; {acknowledged} packs acknowledged, {left} left after the cut");
        assert!(acknowledged > 20);
        assert_eq!(left == acknowledged, !lying);
    }
}
