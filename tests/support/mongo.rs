//! A server that speaks `MongoDB`'s protocol, of the test's own, on disk; and a second client, in Python, which reads
//! back what is there. Both come from `PyPI` into a virtual environment below cargo's target directory, once.
//!
//! What the server does not do as the real one: it is no cluster. Two [`Mongos`] before one server are what a client
//! takes for a cluster's.

use super::{Ran, Reaped, SOON, Temp, fixed_addr, run, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// These versions were tried; another server may fail in other ways.
const WANTED: [&str; 2] = ["secantusdb==0.7.0b3", "pymongo==4.20.1"];

/// The environment's directory. Panics with the reason if it is not there and cannot be made.
fn environment() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mongo-venv");
        // Other test programs may want it at the same time.
        let lock = File::create(dir.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let made = dir.join("made");
        if fs::read_to_string(&made).is_ok_and(|m| m == WANTED.join(" ")) {
            return dir;
        }
        let _ = fs::remove_dir_all(&dir);
        let step = |command: &mut Command, need: &str| {
            let ran = run(command, Duration::from_mins(5));
            assert_eq!(ran.code, 0, "{command:?}: {}{}\n{need}", ran.out, ran.err);
        };
        step(
            Command::new("python3").args(["-m", "venv"]).arg(&dir),
            "the server for this test lives in a virtual environment: apt-get install python3-venv",
        );
        step(
            Command::new(dir.join("bin/python"))
                .args(["-m", "pip", "install", "-q", "--disable-pip-version-check"])
                .args(WANTED),
            "the server for this test comes from PyPI, which must be in reach once",
        );
        fs::write(made, WANTED.join(" ")).unwrap();
        dir
    })
}

fn program(name: &str) -> Command {
    Command::new(environment().join("bin").join(name))
}

fn script() -> Command {
    let mut command = program("python");
    command.args(["-W", "error", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mongo.py")]);
    command
}

/// A server of this test's own.
pub struct Server {
    dir: PathBuf,
    addr: SocketAddr,
    args: Vec<String>,
    child: Option<Reaped>,
}

impl Server {
    /// One that is a replica set of one member, and runs.
    pub fn new(temp: &Temp) -> Self {
        let mut server = Self::prepare(temp, &[]);
        server.start();
        server
    }

    /// One that has never run yet.
    pub fn prepare(temp: &Temp, args: &[&str]) -> Self {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        Self { dir: temp.path("mongo"), addr: fixed_addr(), args, child: None }
    }

    /// Starts it, at the same address each time, and waits until it answers.
    pub fn start(&mut self) {
        self.spawn();
        self.ready();
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self) {
        self.child = None;
        fs::create_dir_all(&self.dir).unwrap();
        let log = File::options().create(true).append(true).open(self.dir.with_extension("log")).unwrap();
        let child = program("secantusd-py")
            .args(["--host", &self.addr.ip().to_string(), "--port", &self.addr.port().to_string()])
            .arg("--storage-path")
            .arg(&self.dir)
            .args(&self.args)
            // It would read a config file there.
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(Reaped(child));
    }

    /// Waits until it answers.
    pub fn ready(&mut self) {
        let log = self.dir.with_extension("log");
        until(SOON * 2, "the server to listen", || {
            let ended = self.child.as_mut().and_then(|c| c.0.try_wait().unwrap());
            assert!(
                ended.is_none(),
                "the server ended: {ended:?}\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            TcpStream::connect(self.addr).ok()
        });
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Stops it in an orderly way.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
        until(SOON, "the end of the server", || child.0.try_wait().unwrap());
    }

    /// It keeps its connections and answers nothing, or does again.
    pub fn freeze(&self, frozen: bool) {
        freeze(self.child.as_ref().unwrap(), frozen);
    }

    /// Does it run?
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the script `mongo.py` answers to a command.
    pub fn ask(&self, command: &str, argument: &Value) -> Value {
        let ran = self.try_ask(command, argument);
        assert_eq!(ran.code, 0, "{command} {argument}: {}{}", ran.out, ran.err);
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{command}: {e}: {}", ran.out))
    }

    fn try_ask(&self, command: &str, argument: &Value) -> Ran {
        // The argument may be longer than a command line.
        let file = self.dir.with_extension(format!("{:?}.json", std::thread::current().id()));
        fs::write(&file, argument.to_string()).unwrap();
        run(script().arg(command).arg(self.addr.to_string()).arg(&file), Duration::from_mins(3))
    }
}

fn freeze(child: &Reaped, frozen: bool) {
    kill_process(Pid::from_child(&child.0), if frozen { Signal::STOP } else { Signal::CONT }).unwrap();
}

/// Something before a server that a client takes for the `mongos` of a cluster.
pub struct Mongos {
    addr: SocketAddr,
    server: SocketAddr,
    child: Option<Reaped>,
}

impl Mongos {
    /// One that runs.
    pub fn new(server: &Server) -> Self {
        let mut mongos = Self { addr: fixed_addr(), server: server.addr, child: None };
        mongos.start();
        mongos
    }

    /// Starts it again, at the same address.
    pub fn start(&mut self) {
        self.child = None;
        let child = script()
            .arg("mongos")
            .args([self.addr.to_string(), self.server.to_string()])
            .stdin(Stdio::null())
            .spawn();
        self.child = Some(Reaped(child.unwrap()));
        until(SOON, "a mongos to listen", || TcpStream::connect(self.addr).ok());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// It keeps its connections and answers nothing, or does again.
    pub fn freeze(&self, frozen: bool) {
        freeze(self.child.as_ref().unwrap(), frozen);
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Asks the script for what needs no server.
pub fn make(command: &str, arguments: &[&str]) -> Value {
    let ran = run(script().arg(command).args(arguments), Duration::from_mins(3));
    assert_eq!(ran.code, 0, "{command} {arguments:?}: {}{}", ran.out, ran.err);
    serde_json::from_str(&ran.out).unwrap()
}
