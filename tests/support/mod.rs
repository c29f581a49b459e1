//! What the modules share: roles as child processes ([`Node`]), directories that go when a test passes ([`Temp`]),
//! lines that check themselves ([`Lines`]), and waiting without sleeping blindly ([`until`]).
//!
//! A test never leaves a process behind: dropping a [`Node`] kills it. When a test fails, its directory stays and the
//! end of every node's messages is printed.

#![allow(dead_code, reason = "each module uses its part")]

pub mod keeper;
pub mod lines;
pub mod load;
pub mod mongo;
pub mod peer;
pub mod proxy;
pub mod siege;
pub mod sim;
pub mod small;
pub mod store;

pub use lines::*;
use logd::clock::{Clock, Hour, Zone};
pub use logd::disk::sim::Rng;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Time within which anything that should happen at once has happened, on a slow and busy machine too.
pub const SOON: Duration = Duration::from_secs(30);

/// Time within which late lines have arrived. A follower looks for them at intervals that double, so that a busy machine
/// waits once more as long as it has taken so far.
pub const LATER: Duration = Duration::from_mins(3);

/// The program under test.
pub fn bin() -> PathBuf {
    let path = std::env::var_os("LOGD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_logd").into(), PathBuf::from);
    path.canonicalize().unwrap_or_else(|e| panic!("LOGD_BIN {}: {e}", path.display()))
}

/// The directory with real logs, or `None` with the line that `tests/all` collects.
pub fn shared(test: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("LOGD_SHARED").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: {test}: LOGD_SHARED is not set");
    }
    dir.map(|d| d.canonicalize().unwrap_or_else(|e| panic!("LOGD_SHARED {}: {e}", d.display())))
}

/// A row of the table that `tests/prove` prints: what was done, how often, and what came of it.
pub fn proved(what: &str, how_many: impl std::fmt::Display, result: &str) {
    println!("proved | {what} | {how_many} | {result}");
}

/// Is the full profile wanted?
pub fn soak() -> bool {
    std::env::var_os("LOGD_SOAK").is_some_and(|v| v == "1")
}

/// The seed of a random test, printed so that a failing run can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var("LOGD_SEED").ok().map(|s| s.parse().expect("LOGD_SEED is a number"));
    let seed = given.unwrap_or_else(|| Clock::real().now_ms().unsigned_abs() % 1_000_000_007);
    println!("seed: {seed}");
    seed
}

/// Asks again and again until there is an answer; panics with `what` after `limit`.
pub fn until<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < limit, "after {limit:?} still waiting for: {what}");
        thread::sleep(Duration::from_millis(3));
    }
}

/// A directory that is removed when the test passes.
pub struct Temp(PathBuf);

impl Temp {
    /// Makes one; `test` is for whoever finds it after a failure.
    pub fn new(test: &str) -> Self {
        Self::within(&std::env::temp_dir(), test)
    }
    /// Makes one below `dir`.
    pub fn within(dir: &Path, test: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = dir.join(format!("logd-{test}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }
    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    /// Writes a file in it, with its parents.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("kept: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

// ---- commands ----

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 = a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `logd ARGS` to its end.
pub fn logd<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ran {
    run(Command::new(bin()).args(args), Duration::from_mins(2))
}

/// Runs a command to its end, or kills it and panics.
pub fn run(command: &mut Command, limit: Duration) -> Ran {
    fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
        thread::spawn(move || {
            let mut all = Vec::new();
            let _ = from.read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        })
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Reaped(command.spawn().unwrap());
    let (out, err) = (collect(child.0.stdout.take().unwrap()), collect(child.0.stderr.take().unwrap()));
    let status = until(limit, &format!("the end of {command:?}"), || child.0.try_wait().unwrap());
    Ran { code: status.code().unwrap_or(-1), out: out.join().unwrap(), err: err.join().unwrap() }
}

/// A child that does not outlive its test.
pub struct Reaped(pub Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// ---- roles ----

/// One role as a child process. Its config is `NAME.ini`, its messages are in `NAME.log`, its state in `NAME.state`.
pub struct Node {
    name: String,
    role: String,
    args: Vec<String>,
    config: PathBuf,
    log: PathBuf,
    files: Option<u64>,
    under: Vec<String>,
    child: Option<Reaped>,
    /// Where in the log the running process began.
    began: u64,
}

impl Node {
    /// Writes the config and starts the role; does not wait for it. Later keys win over earlier ones, and over the
    /// defaults: a state directory below `temp`, little free space needed, and for a receiver a port of the kernel's
    /// choice.
    pub fn spawn(temp: &Temp, name: &str, role: &str, keys: &[(&str, &str)], args: &[&str]) -> Self {
        let mut node = Self::prepare(temp, name, role, keys, args);
        node.restart();
        node
    }

    /// As [`Node::spawn`], but only writes the config.
    pub fn prepare(temp: &Temp, name: &str, role: &str, keys: &[(&str, &str)], args: &[&str]) -> Self {
        let state = temp.path(&format!("{name}.state")).display().to_string();
        let mut all = vec![("state_dir", state.as_str())];
        if role == "monitor" {
            all.extend([("recv_port", "127.0.0.1:0"), ("allow", "127.0.0.0/8")]);
        } else {
            all.push(("min_free", "1M"));
        }
        if ["collector", "fcollector", "etlcollector", "mgocollector"].contains(&role) {
            all.extend([("listen", "127.0.0.1:0"), ("allow", "127.0.0.0/8")]);
        }
        for (key, value) in keys {
            all.retain(|(k, _)| k != key);
            all.push((key, value));
        }
        let mut ini = format!("[{}]\n", if role == "monitor" { "receiver" } else { role });
        let mut others = String::new();
        for (key, value) in all {
            // `[section] key` is a key of another section.
            match key.split_once("] ") {
                Some((section, key)) => write!(others, "{section}]\n{key} = {value}\n").unwrap(),
                None => writeln!(ini, "{key} = {value}").unwrap(),
            }
        }
        Self {
            name: name.into(),
            role: role.into(),
            args: args.iter().map(|&a| a.to_owned()).collect(),
            config: temp.file(&format!("{name}.ini"), ini + &others),
            log: temp.path(&format!("{name}.log")),
            files: None,
            under: Vec::new(),
            child: None,
            began: 0,
        }
    }

    /// As [`Node::spawn`], and waits until the role serves.
    pub fn start(temp: &Temp, name: &str, role: &str, keys: &[(&str, &str)], args: &[&str]) -> Self {
        let mut node = Self::spawn(temp, name, role, keys, args);
        node.ready();
        node
    }

    /// Starts it again with the same config and `args`.
    pub fn restart_with(&mut self, args: &[&str]) {
        self.args = args.iter().map(|&a| a.to_owned()).collect();
        self.restart();
    }

    /// Starts it again, killing it first if it runs.
    pub fn restart(&mut self) {
        self.child = None;
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        self.began = log.metadata().unwrap().len();
        let mut words = self.under.clone();
        if let Some(n) = self.files {
            words.extend(["sh", "-c", &format!("ulimit -n {n} && exec \"$@\""), "sh"].map(str::to_owned));
        }
        words.push(bin().display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.arg(&self.role).args(&self.args).arg(&self.config);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(Reaped(command.spawn().unwrap()));
    }

    /// From the next start on it may have only so many files and connections open.
    pub fn limit_files(&mut self, n: u64) {
        self.files = Some(n);
    }

    /// From the next start on it runs under this command, which must end by becoming the program; none if empty.
    pub fn run_under(&mut self, command: &[String]) {
        self.under = command.to_vec();
    }

    /// Waits until the role says that it serves.
    pub fn ready(&mut self) {
        let word = if self.role == "tail" { "following " } else { "listening on " };
        self.says(word);
    }

    /// Waits until this start has said something that contains `word`; the line.
    pub fn says(&mut self, word: &str) -> String {
        let what = format!("{} to say {word:?}", self.name);
        until(SOON, &what, || {
            // Asked first, so that what it said last is not missed.
            let ended = self.child.as_mut().and_then(|c| c.0.try_wait().unwrap());
            let log = self.log();
            // A line counts when it is whole.
            let line = log.split_inclusive('\n').find(|l| l.contains(word) && l.ends_with('\n'));
            assert!(
                line.is_some() || ended.is_none(),
                "{} ended ({ended:?}) instead of saying {word:?}",
                self.name
            );
            line.map(|l| l.trim_end().to_owned())
        })
    }

    /// The address on which a receiver listens.
    pub fn addr(&mut self) -> SocketAddr {
        let line = self.says("listening on ");
        let rest = line.split_once("listening on ").unwrap().1;
        rest.split([',', ' ']).next().unwrap().parse().unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// What this start has said.
    pub fn log(&self) -> String {
        self.log_of_all_starts().split_off(usize::try_from(self.began).unwrap())
    }

    /// What it has said since it was first started.
    pub fn log_of_all_starts(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        // One byte per bad byte, so that offsets stay true.
        bytes.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '?' }).collect()
    }

    /// Its config file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its process, if it was not reaped.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|c| Pid::from_child(&c.0))
    }

    /// A number of `/proc/PID/status`: `Threads`, or `VmHWM`, the most memory that it ever had, in kB.
    pub fn proc_status(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid().unwrap().as_raw_nonzero());
        let status = fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Is it running?
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.0.try_wait().unwrap().is_none())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Asks it to stop and waits for its end; the exit code.
    pub fn terminate(&mut self) -> i32 {
        kill_process(self.pid().unwrap(), Signal::TERM).unwrap();
        self.wait(SOON)
    }

    /// Waits for its end; the exit code, or the signal's number below zero.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let what = format!("the end of {}", self.name);
        let child = self.child.as_mut().unwrap();
        let status: ExitStatus = until(limit, &what, || child.0.try_wait().unwrap());
        self.child = None;
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child = None;
        if thread::panicking() {
            let log = self.log_of_all_starts();
            let lines: Vec<&str> = log.lines().collect();
            println!("---- the last that {} said:", self.name);
            lines.iter().skip(lines.len().saturating_sub(30)).for_each(|l| println!("{l}"));
        }
    }
}

/// A store that serves; hour files below `save`.
pub fn store(temp: &Temp, keys: &[(&str, &str)]) -> Node {
    let save = temp.path("save").display().to_string();
    let mut all = vec![("save_dir", save.as_str()), ("checkpoint", "200ms")];
    all.extend(keys);
    Node::start(temp, "store", "fcollector", &all, &[])
}

/// A relay that serves.
pub fn relay(temp: &Temp, send_to: &str, keys: &[(&str, &str)]) -> Node {
    let mut all = vec![("send_to", send_to), ("backoff_max", "200ms")];
    all.extend(keys);
    Node::start(temp, "relay", "collector", &all, &[])
}

/// A follower of `log_file` called `host`; it is not waited for.
pub fn tail(
    temp: &Temp,
    host: &str,
    log_file: &Path,
    send_to: &str,
    keys: &[(&str, &str)],
    args: &[&str],
) -> Node {
    let log_file = log_file.display().to_string();
    let mut all = vec![("log_file", log_file.as_str()), ("send_to", send_to), ("name", host)];
    all.push(("backoff_max", "200ms"));
    all.extend(keys);
    Node::spawn(temp, host, "tail", &all, args)
}

/// An address for a role that is restarted and must come back to the same one. It is on a loopback address of this
/// test's own: on 127.0.0.1 the kernel might meanwhile give the port to somebody's outgoing connection, or connect a
/// waiting sender with itself.
pub fn fixed_addr() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = (std::process::id() ^ 0x55AA).to_be_bytes();
    let n = NEXT.fetch_add(1, Ordering::SeqCst) as u8;
    let own = SocketAddr::from(([127, 1 + n % 250, high, low.clamp(1, 254)], 0));
    let listener = std::net::TcpListener::bind(own)
        // Not every system has all of 127/8.
        .or_else(|_| std::net::TcpListener::bind("127.0.0.1:0"));
    listener.unwrap().local_addr().unwrap()
}

/// A connection from `127.0.0.N`, which takes little at a time.
pub fn connect_from(n: u8, to: SocketAddr) -> TcpStream {
    // Not for the processes that other tests start meanwhile: what they may open is counted.
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4_096).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, n], 0))).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    socket.into()
}

// ---- hours, stored files ----

/// The last `n` hours that are over, oldest first.
pub fn past_hours(n: usize) -> Vec<Hour> {
    let (zone, now) = (Zone::local().unwrap(), Clock::real().now_ms());
    let mut out = Vec::new();
    for back in 1.. {
        let hour = zone.hour_at(now - back * 3_600_000);
        if zone.ends_ms(hour).is_some_and(|e| e <= now) && !out.contains(&hour) {
            out.insert(0, hour);
        }
        if out.len() == n {
            break;
        }
    }
    out
}

/// The tag of an hour: its certificate.
pub fn tag(save: &Path, host: &str, hour: impl std::fmt::Display) -> Option<Value> {
    let prefix = format!("{host}_{hour}_");
    let entry = fs::read_dir(save.join("received")).ok()?.map(Result::unwrap).find(|e| {
        let name = e.file_name();
        name.to_str().is_some_and(|n| n.starts_with(&prefix))
    })?;
    // It may be revoked between the two looks.
    serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()
}

/// Waits for an hour's tag.
pub fn certified(save: &Path, host: &str, hour: impl std::fmt::Display) -> Value {
    until(SOON, &format!("the tag of {host}_{hour}"), || tag(save, host, &hour))
}

/// As `gzip` compresses it.
pub fn gzipped(text: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gz, text).unwrap();
    gz.finish().unwrap()
}

/// Panics unless the two files hold the same bytes; says where they differ.
pub fn assert_same(stored: &Path, source: &Path) {
    let read = |p: &Path| fs::read(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    let (a, b) = (read(stored), read(source));
    if let Some(at) = first_difference(&a, &b) {
        let (a_len, b_len) = (a.len(), b.len());
        panic!(
            "{} ({a_len} bytes) and {} ({b_len} bytes) differ from byte {at} on:\n stored: {:?}\n source: {:?}",
            stored.display(),
            source.display(),
            excerpt(&a, at),
            excerpt(&b, at)
        );
    }
}

/// Where two byte strings differ first; `None` = they are equal.
pub fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    Some(a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len())))
}

/// Some bytes around a place, for a message.
pub fn excerpt(bytes: &[u8], at: usize) -> String {
    let part = &bytes[at.saturating_sub(60).min(bytes.len())..(at + 60).min(bytes.len())];
    String::from_utf8_lossy(part).into_owned()
}

/// Flips one byte of a file.
pub fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}
