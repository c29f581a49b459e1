//! A receiver run as a child process, and what it leaves on disk, read without the program's own code.

use super::peer::{Answer, Hour, Peer, hex, newlines, sha256, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// A directory for one test; it stays if the test fails.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty one.
    pub fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{what}-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os("LOGD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_logd").into(), PathBuf::from)
}

/// All files below a directory with their content.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for e in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if e.file_type().is_ok_and(|t| t.is_dir()) {
                dirs.push(e.path());
            } else {
                out.insert(e.path(), std::fs::read(e.path()).unwrap_or_default());
            }
        }
    }
    out
}

/// A running logd.
pub struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Running {
    /// Runs the program with these arguments, behind `shell` (such as `ulimit -n 9;`) if it is not empty.
    pub fn start(shell: &str, args: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]).arg(program()).args(args);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, to) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *to.lock().unwrap() += &(line + "\n");
            }
        });
        Self { child, log }
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its directory in `/proc`.
    pub fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_default()
    }

    /// A number of kilobytes from `/proc/…/status`.
    pub fn status_kb(&self, key: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|l| l.starts_with(key)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Hundredths of a second of processor time that it has used.
    pub fn ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let fields = stat.rsplit_once(')').unwrap().1;
        fields.split_ascii_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
    }

    /// Names of its threads.
    pub fn threads(&self) -> Vec<String> {
        let dir = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let name = |e: std::fs::DirEntry| std::fs::read_to_string(e.path().join("comm")).ok();
        dir.into_iter().flatten().flatten().filter_map(name).map(|n| n.trim().to_owned()).collect()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let log = Arc::clone(&self.log);
        let child = &mut self.child;
        let status = until("the process ends", || child.try_wait().unwrap());
        // The reader of its standard error may be a little behind.
        until("its last words are read", || (Arc::strong_count(&log) <= 2).then_some(()));
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- log of the process\n{}", self.log());
        }
    }
}

/// A receiving role with its directories. It can be stopped, killed and started again.
pub struct Store {
    dir: Scratch,
    role: &'static str,
    keys: BTreeMap<String, String>,
    /// Shell commands before the program.
    pub shell: String,
    running: Option<Running>,
}

impl Store {
    /// An `fcollector` with these keys beside the usual ones; not started.
    pub fn prepare(what: &str, keys: &[(&str, &str)]) -> Self {
        let dir = Scratch::new(what);
        let mut all = BTreeMap::new();
        let (save, state) = (dir.path("save"), dir.path("state"));
        let usual = [
            ("listen", "127.0.0.1:0"),
            ("min_free", "1M"),
            ("save_dir", save.to_str().unwrap()),
            ("state_dir", state.to_str().unwrap()),
        ];
        for (k, v) in usual.iter().chain(keys) {
            all.insert((*k).to_owned(), (*v).to_owned());
        }
        Self { dir, role: "fcollector", keys: all, shell: String::new(), running: None }
    }

    /// A started `fcollector`.
    pub fn new(what: &str, keys: &[(&str, &str)]) -> Self {
        let mut me = Self::prepare(what, keys);
        me.start();
        me
    }

    /// A started `collector` that passes on to `to`.
    pub fn relay(what: &str, to: SocketAddr, keys: &[(&str, &str)]) -> Self {
        let mut me = Self::prepare(what, keys);
        me.role = "collector";
        me.keys.remove("save_dir");
        me.keys.insert("send_to".into(), to.to_string());
        me.start();
        me
    }

    /// Sets a key for the next start.
    pub fn set(&mut self, key: &str, value: &str) {
        self.keys.insert(key.into(), value.into());
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) {
        let mut text = format!("[{}]\n", self.role);
        for (k, v) in &self.keys {
            let _ = writeln!(text, "{k} = {v}");
        }
        text += "[logAgent]\nlocal_level = debug\n";
        let conf = self.dir.path("logd.ini");
        std::fs::write(&conf, text).unwrap();
        self.running = Some(Running::start(&self.shell, &[self.role, conf.to_str().unwrap()]));
        self.addr();
    }

    /// The running process.
    pub fn process(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        let process = self.process();
        until("it listens", || {
            let log = process.log();
            let rest = log.split_once("listening on ")?.1;
            let addr = rest.split([',', '\n']).next()?;
            rest.contains('\n').then(|| addr.parse().unwrap())
        })
    }

    /// A new connection to it.
    pub fn peer(&self) -> Peer {
        Peer::to(self.addr())
    }

    /// Its messages.
    pub fn log(&self) -> String {
        self.process().log()
    }

    /// Waits for a message.
    pub fn wait_log(&self, text: &str) {
        until(&format!("it says {text:?}"), || self.log().contains(text).then_some(()));
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut process = self.running.take().unwrap();
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// SIGTERM; its last words.
    pub fn stop(&mut self) -> String {
        let mut process = self.running.take().unwrap();
        process.terminate();
        let status = process.wait();
        assert!(status.success(), "{status}: {}", process.log());
        process.log()
    }

    /// SIGTERM and a new start.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// A path below `save_dir`.
    pub fn save(&self, name: &str) -> PathBuf {
        self.dir.path("save").join(name)
    }

    /// A path below `state_dir`.
    pub fn state(&self, name: &str) -> PathBuf {
        self.dir.path("state").join(name)
    }

    /// The directory of both.
    pub fn dir(&self) -> PathBuf {
        self.dir.path("")
    }

    /// The stored lines of an hour, empty if there are none.
    pub fn data(&self, name: &str, hour: &str) -> Vec<u8> {
        std::fs::read(self.save("log_data").join(format!("{name}_{hour}"))).unwrap_or_default()
    }

    /// The proof of an hour.
    pub fn headers(&self, name: &str, hour: &str) -> Vec<u8> {
        std::fs::read(self.save("headers").join(format!("{name}_{hour}"))).unwrap_or_default()
    }

    /// Waits until an hour's file is this long.
    pub fn wait_data(&self, name: &str, hour: &str, len: usize) {
        until(&format!("{name}_{hour} has {len} bytes"), || {
            (self.data(name, hour).len() == len).then_some(())
        });
    }

    /// Waits until the proof of an hour has this many lines.
    pub fn wait_headers(&self, name: &str, hour: &str, lines: usize) {
        until(&format!("{lines} packs of {name}_{hour} are proven"), || {
            (newlines(&self.headers(name, hour)) == lines).then_some(())
        });
    }

    /// Names in a directory below `save_dir`.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let all = std::fs::read_dir(self.save(dir)).into_iter().flatten().flatten();
        let mut out: Vec<String> = all.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        out.sort();
        out
    }

    /// The tag of an hour: its name and its content.
    pub fn tag(&self, name: &str, hour: &str) -> Option<(String, Value)> {
        let prefix = format!("{name}_{hour}_");
        let file = self.names("received").into_iter().find(|n| n.starts_with(&prefix))?;
        let text = std::fs::read(self.save("received").join(&file)).ok()?;
        Some((file, serde_json::from_slice(&text).unwrap_or_default()))
    }

    /// Waits for the tag of an hour that fulfils a condition.
    pub fn wait_tag(&self, name: &str, hour: &str, condition: impl Fn(&Value) -> bool) -> (String, Value) {
        let what = format!("{name}_{hour} has the tag");
        until(&what, || self.tag(name, hour).filter(|(_, c)| condition(c)))
    }

    /// The hour must come to be stored byte for byte, with a tag that proves it.
    pub fn proven(&self, hour: &Hour, revision: u64) -> Value {
        let all = hour.bytes();
        let (file, c) = self.wait_tag(&hour.name, &hour.hour, |c| {
            c["revision"].as_u64() == Some(revision) && c["gen"].as_u64() == Some(hour.generation)
        });
        assert_eq!(self.data(&hour.name, &hour.hour), all, "{}_{}", hour.name, hour.hour);
        let n = newlines(&all);
        assert_eq!(file, format!("{}_{}_{n}", hour.name, hour.hour));
        assert_eq!(c["verified"], true, "{c}");
        assert_eq!(c["packs"].as_u64(), Some(hour.raws.len() as u64), "{c}");
        assert_eq!(c["lines"].as_u64(), Some(n as u64), "{c}");
        assert_eq!(c["bytes"].as_u64(), Some(all.len() as u64), "{c}");
        assert_eq!(c["sha256"].as_str(), Some(hex(&sha256(&all)).as_str()), "{c}");
        assert_eq!(c["digest"].as_str(), Some(hex(&hour.digest()).as_str()), "{c}");
        c
    }

    /// The hour must come to be stored byte for byte, with a tag that says it cannot be verified.
    pub fn unverified(&self, hour: &Hour) -> Value {
        let (file, c) = self.wait_tag(&hour.name, &hour.hour, |_| true);
        let all = hour.bytes();
        assert_eq!(self.data(&hour.name, &hour.hour), all, "{}_{}", hour.name, hour.hour);
        let n = newlines(&all);
        assert_eq!(file, format!("{}_{}_{n}", hour.name, hour.hour));
        assert_eq!(c["verified"], false, "{c}");
        c
    }

    /// Sends a small hour of a new sender and sees it through to its tag: whatever was sent before has been dealt with,
    /// and it still serves.
    pub fn settle(&self) {
        let hour = honest_hour();
        let mut peer = self.peer();
        for p in hour.packs() {
            assert_eq!(peer.send(&p), Answer::Ok, "{}", self.log());
        }
        self.proven(&hour, 1);
    }

    /// As [`Self::settle`], of a sender that may be told to wait.
    pub fn settle_patiently(&self) {
        let hour = honest_hour();
        self.peer().send_all(&hour.packs());
        self.proven(&hour, 1);
    }

    /// What `logd status` says of it.
    pub fn status(&self) -> String {
        let out = Command::new(program()).arg("status").arg(self.dir.path("logd.ini")).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// `logd verify` of the store: exit code and output.
    pub fn verify(&self) -> (Option<i32>, String) {
        let out = Command::new(program()).arg("verify").arg(self.save("")).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

fn honest_hour() -> Hour {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Hour::new(&format!("honest{}", NEXT.fetch_add(1, Ordering::Relaxed)), "2026112200", 2, 3)
}
