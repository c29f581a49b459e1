//! Goal: whichever of follower, relay and store dies in front of whichever of its system calls, the next start goes on as
//! if nothing had been: nothing is lost, stored twice or torn, and no certificate is false (P1, P2, P3, P5).
//!
//! Two hours of three packs go the whole way, then the first one, certified by now, gets late lines; when all is certified
//! again the role in question is asked to stop. This is done once under `strace` to learn each role's calls. Then it is
//! done again for each of them on fresh directories: the role gets SIGKILL on entering that call, so the call has no
//! effect, is started again, and must finish. A process changes the world by system calls only, hence there are no other
//! moments to die at than between two of them; to die after a call is to die before the next. Then the same for the start
//! after such a death: from some of them, each role is killed once more at each call of its recovery.
//!
//! A call is named by kind, file and count (`fdatasync` of the store's segment, the second), so that it is the same one
//! in each run although threads take turns as they like. A call on a socket has no name: it is the n-th of its kind in
//! whichever thread comes to its n-th first. What depends on timing alone (how often a loop turned) is sometimes not
//! reached; such runs are counted apart.
//!
//! Left out are calls that neither change a file nor touch a socket (`statx`, `pread64`, `mmap`, `futex` …): a death in
//! front of one leaves what a death in front of the next call would leave. What it cannot show: a write that is done in
//! part, and what a power cut makes of unsynced data; the simulated disk of `crash` and `power` do that.

use super::support::load::*;
use super::support::*;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Calls that change a file or touch a socket; some under the names that other C libraries use.
const CALLS: &str = "open,openat,creat,read,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,\
                     rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,truncate,ftruncate,\
                     fallocate,copy_file_range,flock,chmod,fchmod,fchmodat,socket,bind,listen,connect,accept,accept4,\
                     sendto,sendmsg,recvfrom,recvmsg,shutdown,close";

/// Every so many calls one is chosen in the short profile.
const STRIDE: usize = 7;

/// Runs at a time; they mostly wait, late lines being looked for once a second.
const PARALLEL: usize = 12;

/// Lines of the two hours: two packs, and one.
const LINES: [u64; 2] = [45, 15];

const ROLES: [&str; 3] = ["follower", "relay", "store"];
const NAMES: [&str; 3] = ["web1", "relay", "store"];

/// One call of a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    call: String,
    /// Of the file, below the directory of the run; none for a socket.
    path: Option<String>,
    nth: u32,
}

impl Point {
    /// The command under which a role dies in front of this call.
    fn command(&self, dir: &Path) -> Vec<String> {
        let inject = format!("inject={}:signal=KILL:when={}", self.call, self.nth);
        let mut command = tracer(&self.call, "/dev/null");
        command.extend(["-e".into(), inject]);
        if let Some(path) = &self.path {
            command.extend(["-P".into(), dir.join(path).display().to_string()]);
        }
        command
    }
}

/// With `-D` the role stays our child, as if there were no strace.
fn tracer(calls: &str, output: &str) -> Vec<String> {
    // A question mark: not every machine has every call.
    let trace = format!("trace={}", calls.split(',').map(|c| format!("?{c}")).collect::<Vec<_>>().join(","));
    ["strace", "-D", "-f", "-y", "-s", "0", "-e", "signal=none", "-o", output, "-e", &trace]
        .map(str::to_owned)
        .into()
}

/// The calls in a log of strace, in their order. The files of the role's own process (libraries, `/proc`) are left out.
fn points(log: &str, dir: &Path) -> Vec<Point> {
    let below = format!("{}/", dir.display());
    let (mut counts, mut out) = (BTreeMap::new(), Vec::new());
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        // "<... read resumed>" is the second half of a call that was counted.
        let Some((call, args)) = rest.trim_start().split_once('(') else { continue };
        if !call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let named = match args.split_once('"') {
            Some((before, rest)) if before.is_empty() || before.starts_with("AT_FDCWD") => {
                rest.split('"').next()
            }
            _ => args.split_once('<').and_then(|(_, rest)| rest.split('>').next()),
        };
        let path = match named {
            Some(p) if p.starts_with('/') => match p.strip_prefix(&below) {
                Some(p) => Some(p.to_owned()),
                None => continue,
            },
            _ => None,
        };
        // strace counts in each thread for itself.
        let count = counts.entry((thread, call, path.clone())).or_insert(0);
        *count += 1;
        let point = Point { call: call.into(), path, nth: *count };
        if !out.contains(&point) {
            out.push(point);
        }
    }
    out
}

/// One follower, relay and store in a directory of their own, not started.
struct World {
    temp: Temp,
    sources: Vec<Source>,
    late: bool,
    nodes: [Node; 3],
}

impl World {
    fn new(hours: &[String]) -> Self {
        let temp = Temp::new("syscalls");
        let mut sources = Vec::new();
        for (n, (hour, lines)) in hours.iter().zip(LINES).enumerate() {
            let (stream, mut made) = (format!("s{n}"), Lines::new(&format!("s{n}"), n as u64));
            let path = temp.file(&format!("logs/access.log.{hour}"), made.block(lines));
            sources.push(Source { hour: hour.clone(), path, stream, lines: Arc::new(lines.into()) });
        }
        let (store_addr, relay_addr) = (fixed_addr().to_string(), fixed_addr().to_string());
        let save = temp.path("save").display().to_string();
        let keys = [
            ("listen", store_addr.as_str()),
            ("save_dir", &save),
            ("checkpoint", "100ms"),
            ("segment_size", "64k"),
            ("group_commit", "0"),
        ];
        let store = Node::prepare(&temp, "store", "fcollector", &keys, &[]);
        let keys = [
            ("listen", relay_addr.as_str()),
            ("send_to", &store_addr),
            ("senders", "1"),
            ("backoff_max", "200ms"),
            ("segment_size", "64k"),
            ("group_commit", "0"),
        ];
        let relay = Node::prepare(&temp, "relay", "collector", &keys, &[]);
        let pattern = temp.path("logs/access.log.<%Y%m%d%H>").display().to_string();
        let keys = [
            ("log_file", pattern.as_str()),
            ("send_to", &relay_addr),
            ("name", "web1"),
            ("start", "oldest"),
            ("senders", "1"),
            ("backoff_max", "200ms"),
            ("pack_bytes", "4k"),
            ("scan_interval", "20ms"),
            ("flush_interval", "20ms"),
            ("quiet", "20ms"),
            ("close_wait", "0"),
        ];
        let tail = Node::prepare(&temp, "web1", "tail", &keys, &[]);
        Self { temp, sources, late: false, nodes: [tail, relay, store] }
    }

    fn save(&self) -> std::path::PathBuf {
        self.temp.path("save")
    }

    /// Is all certified that was written, and does the follower know that it is done? When it is so for the first time
    /// the late lines come.
    fn is_done(&mut self) -> bool {
        let certified = |s: &Source| {
            let lines = s.lines.load(Ordering::Relaxed);
            tag(&self.save(), "web1", &s.hour).is_some_and(|t| t["lines"] == lines)
        };
        let done = self.sources.iter().all(certified) && unacknowledged(&self.temp.path("web1.state")) == 0;
        if done && !self.late {
            self.late = true;
            append_late_lines(&self.save(), &self.sources[0], (0, LINES[0]), 5);
            return false;
        }
        done
    }

    /// Starts one role, under this command, the others having been started. Goes on until it dies, which is `true`, or
    /// was asked to stop and did.
    fn dies(&mut self, role: usize, under: &[String]) -> bool {
        self.nodes[role].run_under(under);
        self.nodes[role].restart();
        let (started, mut done) = (Instant::now(), false);
        while self.nodes[role].runs() && !done {
            assert!(started.elapsed() < LATER, "the hours do not become whole");
            // Asked to stop before it serves it would die of the signal.
            let log = self.nodes[role].log();
            done = (log.contains("following ") || log.contains("listening on ")) && self.is_done();
            thread::sleep(Duration::from_millis(2));
        }
        let code = if done && self.nodes[role].runs() {
            self.nodes[role].terminate()
        } else {
            self.nodes[role].wait(SOON)
        };
        self.nodes[role].run_under(&[]);
        if role == 2 {
            check_store_at_rest(&self.save(), &self.sources);
        }
        // Killed by us; a panic would be another signal.
        let killed = code == -Signal::KILL.as_raw();
        assert!(killed || (code == 0 && done), "the {} ended with {code}", ROLES[role]);
        killed
    }

    fn start_others(&mut self, role: usize) {
        for other in (0..3).filter(|n| *n != role) {
            self.nodes[other].restart();
        }
    }

    /// The role is started again and everything must come to its end; then everything is looked at.
    fn finish(mut self, role: usize) {
        self.nodes[role].restart();
        until(LATER, "both hours to be whole", || self.is_done().then_some(()));
        for node in &mut self.nodes {
            assert!(node.runs());
            node.kill();
        }
        let save = self.save();
        assert_eq!(check_tags(&save, &self.sources), 2);
        for s in &self.sources {
            let n = s.lines.load(Ordering::Relaxed);
            let bytes = fs::read(stored(&save, s)).unwrap();
            assert_eq!(check_lines(&bytes, &s.stream, n), Faults { good: n, ..Faults::default() });
            assert_same(&stored(&save, s), &s.path);
            for dir in ["aside", "doubtful"] {
                let names = fs::read_dir(save.join(dir)).unwrap().map(|e| e.unwrap().file_name());
                let wrong: Vec<_> = names.filter(|n| n.to_string_lossy().contains(&s.hour)).collect();
                assert!(wrong.is_empty(), "{dir}/ has {wrong:?}");
            }
        }
        let verify = logd(&["verify".as_ref(), save.as_os_str()]);
        assert_eq!(verify.code, 0, "{verify:?}");
    }

    /// Runs one role under strace and reads what it called.
    fn listen(&mut self, role: usize) -> Vec<Point> {
        let log = self.temp.path(&format!("{}.strace", NAMES[role]));
        assert!(!self.dies(role, &tracer(CALLS, &log.display().to_string())));
        // strace ends after the process that it watches.
        let text = until(SOON, "strace to end", || {
            fs::read_to_string(&log)
                .ok()
                .filter(|t| t.lines().last().is_some_and(|l| l.contains("+++ exited")))
        });
        points(&text, self.temp.dir())
    }
}

/// One run: the deaths of one role, one after the other.
#[derive(Clone)]
struct Run {
    role: usize,
    deaths: Vec<Point>,
}

impl Run {
    /// Makes the run; how many of its deaths there were. The last one may not be reached.
    fn make(&self, hours: &[String]) -> usize {
        let mut world = World::new(hours);
        world.start_others(self.role);
        let mut died = 0;
        for point in &self.deaths {
            let command = point.command(world.temp.dir());
            if !world.dies(self.role, &command) {
                break;
            }
            died += 1;
        }
        world.finish(self.role);
        died
    }
}

/// Tells which run it was if it panics.
struct Named<'a>(&'a Run);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("wrong: the {} died before {:?}", ROLES[self.0.role], self.0.deaths);
        }
    }
}

/// Makes all runs, some at a time; for each how many deaths there were.
fn make_all(runs: &[Run], hours: &[String]) -> Vec<usize> {
    let (next, died) = (AtomicUsize::new(0), Mutex::new(vec![0; runs.len()]));
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(run) = runs.get(n) else { return };
                    let named = Named(run);
                    let deaths = run.make(hours);
                    drop(named);
                    died.lock().unwrap()[n] = deaths;
                }
            });
        }
    });
    died.into_inner().unwrap()
}

/// Can we trace a process here?
fn can_trace() -> bool {
    let ran = Command::new("strace")
        .args(["-D", "-f", "-o", "/dev/null", "-e", "inject=kill:signal=KILL", "true"])
        .output();
    ran.is_ok_and(|o| o.status.success())
}

#[test]
fn killed_before_each_system_call_and_before_each_of_its_recovery() {
    if !can_trace() {
        println!("skipped: a kill before each system call: strace is missing or may not trace");
        return;
    }
    let (seed, started) = (seed(), Instant::now());
    let hours: Vec<String> = past_hours(2).iter().map(ToString::to_string).collect();
    let (stride, recoveries) = if soak() { (1, 6) } else { (STRIDE, 2) };
    let offset = seed as usize % stride;
    let (mut runs, mut all) = (Vec::new(), [0; 3]);
    for role in 0..3 {
        let mut world = World::new(&hours);
        world.start_others(role);
        let calls = world.listen(role);
        world.finish(role);
        // A role that does not sync, or does not use the network, was not listened to.
        for call in ["fdatasync", "rename", "recvfrom"] {
            assert!(calls.iter().any(|p| p.call.starts_with(call)), "no {call} of the {}", ROLES[role]);
        }
        let deaths = |p: &Point| Run { role, deaths: vec![p.clone()] };
        runs.extend(calls.iter().skip(offset).step_by(stride).map(deaths));
        all[role] = calls.len();

        // After a death in front of a sync there is most to mend.
        let syncs: Vec<&Point> = calls.iter().filter(|p| p.call == "fdatasync").collect();
        for first in (1..=recoveries).map(|n| syncs[syncs.len() * n / (recoveries + 1)]) {
            let mut world = World::new(&hours);
            world.start_others(role);
            let command = first.command(world.temp.dir());
            if !world.dies(role, &command) {
                println!("the {} did not come to {first:?}", ROLES[role]);
                continue;
            }
            let calls = world.listen(role);
            world.finish(role);
            let deaths = |p: &Point| Run { role, deaths: vec![first.clone(), p.clone()] };
            runs.extend(calls.iter().skip(offset).step_by(stride).map(deaths));
        }
    }
    println!(
        "{} runs: one of {stride} calls, from number {offset} on, of {all:?} and of {recoveries} recoveries each",
        runs.len()
    );
    let died = make_all(&runs, &hours);
    let (mut first, mut again, mut missed) = ([0; 3], [0; 3], Vec::new());
    for (run, died) in runs.iter().zip(died) {
        if died == run.deaths.len() {
            (if died == 1 { &mut first } else { &mut again })[run.role] += 1;
        } else {
            missed.push(format!("{}: {:?}", ROLES[run.role], run.deaths.last()));
        }
    }
    println!(
        "follower, relay, store: {first:?} deaths, {again:?} deaths in recovery, {} calls not reached: {missed:#?}",
        missed.len()
    );
    println!("{:.1} s", started.elapsed().as_secs_f64());
    let (first, again) = (first.iter().sum::<usize>(), again.iter().sum::<usize>());
    assert!((first + again) * 10 > runs.len() * 8, "too many calls were not reached");
    proved(
        "kill before a system call",
        format!("{} kills, {again} of them in recovery", first + again),
        "0 lost, 0 doubled, 0 torn, 0 false certificates",
    );
}
