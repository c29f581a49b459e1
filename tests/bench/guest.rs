//! What a follower costs the host that it is a guest of.
//!
//! - *latency*: a line every 200 ms; how long until it stands in the collector's data file, as a part of `flush_interval`
//!   plus one second. Then the same beside a backlog of another file, against that without.
//! - *idle*: one file, then a thousand, that nobody writes to; CPU time of the follower as a part of one core over 60 s, and how
//!   often its threads were woken.
//! - *neighbour*: nginx (if there is one) answers as many requests as it can to two clients, and logs them; how many are left
//!   when a follower beside it catches up a backlog, with the defaults, with `nice = 19` and with `max_rate = 4M`.

use super::measure::*;
use super::support::{Lines, Node, Temp, store, until};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const FLUSH: Duration = Duration::from_secs(5);
/// How long idle processes are watched.
const IDLE: Duration = Duration::from_mins(1);

/// See the header.
pub fn latency(report: &mut Report) {
    let most = FLUSH.as_secs_f64() + 1.0;
    let alone = trickle("latency", 0).as_secs_f64();
    let what = "latency: worst time until a line is stored, by flush_interval + 1 s";
    report.row(what, alone / most, "", Target::AtMost(1.0));
    let beside = trickle("backlog", 300).as_secs_f64();
    report.row("latency beside a backlog of 300 MB", beside / most, "", Target::AtMost(1.0));
    report.row("latency beside a backlog, by that without", beside / alone, "", Target::None);
}

fn now_hour() -> String {
    let zone = logd::clock::Zone::named("UTC").unwrap();
    zone.hour_at(logd::clock::Clock::real().now_ms()).to_string()
}

/// A follower of the files below `dir`, one stream for each directory in it.
fn follower(temp: &Temp, to: &str, keys: &[(&str, &str)]) -> Node {
    let pattern = temp.path("log").join("*").join("access.log.<%Y%m%d%H>").display().to_string();
    let streams = format!("1G\n[tail:*]\nlog_file = {pattern}");
    let mut all = vec![("send_to", to), ("name", "web1"), ("timezone", "UTC"), ("start", "oldest")];
    all.extend(keys);
    // The last key: what follows it is a section of its own.
    all.push(("spool_size", &streams));
    Node::spawn(temp, "web1", "tail", &all, &[])
}

fn backlog(dir: &Path, megabytes: usize) {
    fs::create_dir_all(dir).unwrap();
    let mut file = fs::File::create(dir.join(format!("access.log.{}", now_hour()))).unwrap();
    let block = Lines::new("backlog", 1).block(10_000);
    let mut written = 0;
    while written < megabytes << 20 {
        file.write_all(block.as_bytes()).unwrap();
        written += block.len();
    }
}

/// The worst time from a line's write to its arrival, beside a backlog of so many megabytes.
fn trickle(what: &str, megabytes: usize) -> Duration {
    let temp = Temp::new(what);
    let mut store = store(&temp, &[]);
    let quiet = temp.path("log").join("quiet");
    fs::create_dir_all(&quiet).unwrap();
    let hour = now_hour();
    let path = quiet.join(format!("access.log.{hour}"));
    let mut file = fs::File::create(&path).unwrap();
    if megabytes > 0 {
        backlog(&temp.path("log").join("backlog"), megabytes);
    }
    let _follower = follower(&temp, &store.addr().to_string(), &[]);
    let stored = temp.path("save").join("log_data").join(format!("web1+quiet_{hour}"));
    let (mut written, mut worst) = (Vec::new(), Duration::ZERO);
    let (mut lines, begun, mut arrived) = (Lines::new("quiet", 2), Instant::now(), 0);
    let mut length = 0u64;
    while arrived < written.len() || begun.elapsed() < Duration::from_secs(20) {
        if begun.elapsed() < Duration::from_secs(20) {
            let line = lines.line();
            file.write_all(line.as_bytes()).unwrap();
            length += line.len() as u64;
            written.push((length, Instant::now()));
        }
        thread::sleep(Duration::from_millis(200));
        let there = fs::metadata(&stored).map_or(0, |m| m.len());
        while let Some((_, at)) = written.get(arrived).filter(|(end, _)| *end <= there) {
            worst = worst.max(at.elapsed());
            arrived += 1;
        }
        assert!(
            begun.elapsed() < Duration::from_mins(5),
            "{what}: {arrived} of {} lines arrived",
            written.len()
        );
    }
    worst
}

/// See the header.
pub fn idle(report: &mut Report) {
    for (files, target) in [(1, 0.1), (1000, 1.0)] {
        let temp = Temp::new("idle");
        let mut store = store(&temp, &[]);
        let hour = now_hour();
        for n in 0..files {
            let dir = temp.path("log").join(format!("v{n}"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("access.log.{hour}")), "a line\n").unwrap();
        }
        let follower = follower(&temp, &store.addr().to_string(), &[]);
        let data = temp.path("save").join("log_data");
        until(Duration::from_mins(2), "the files to arrive", || {
            (fs::read_dir(&data).ok()?.count() >= files).then_some(())
        });
        thread::sleep(Duration::from_secs(20));
        let (before, woken, begun) = (cpu(&follower), wakeups(&follower), Instant::now());
        thread::sleep(IDLE);
        let seconds = begun.elapsed().as_secs_f64();
        let part = (cpu(&follower) - before) / seconds * 100.0;
        let what = format!("idle, {files} quiet files");
        report.row(&format!("{what}: CPU"), part, "% of a core", Target::AtMost(target));
        let woken = (wakeups(&follower) - woken) as f64 / seconds;
        report.row(&format!("{what}: wake-ups"), woken, "a second", Target::None);
        let limit = if files == 1 { Target::AtMost(6.0) } else { Target::None };
        report.row(&format!("{what}: RSS"), rss(&follower), "MB", limit);
    }
}

/// nginx on a port of loopback, with its log in `dir`.
struct Nginx {
    child: Child,
    port: u16,
}

impl Nginx {
    fn start(dir: &Path) -> Option<Self> {
        fs::create_dir_all(dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.display();
        let conf = dir.join("nginx.conf");
        fs::write(
            &conf,
            format!(
                "daemon off;\nworker_processes 2;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\nhttp {{\n\
                 access_log {at}/access.log combined;\nkeepalive_requests 1000000;\nclient_body_temp_path {at}/b;\n\
                 proxy_temp_path {at}/p;\nfastcgi_temp_path {at}/f;\nuwsgi_temp_path {at}/u;\nscgi_temp_path {at}/s;\n\
                 server {{ listen 127.0.0.1:{port}; location / {{ return 200 \"ok\\n\"; }} }} }}\n"
            ),
        )
        .unwrap();
        let child = Command::new("nginx").arg("-c").arg(&conf).stderr(Stdio::null()).spawn().ok()?;
        let nginx = Self { child, port };
        until(Duration::from_secs(10), "nginx", || TcpStream::connect(("127.0.0.1", port)).ok());
        Some(nginx)
    }

    /// Requests that two clients get answered in so many seconds.
    fn requests(&self, seconds: u64) -> u64 {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
                    let mut answer = [0; 4096];
                    while !stop.load(Ordering::Relaxed) {
                        stream.write_all(b"GET /index.html HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                        assert!(stream.read(&mut answer).unwrap() > 0);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(Duration::from_secs(seconds));
            stop.store(true, Ordering::Relaxed);
        });
        count.load(Ordering::Relaxed)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// See the header.
pub fn neighbour(report: &mut Report) {
    let temp = Temp::new("neighbour");
    let Some(nginx) = Nginx::start(&temp.path("nginx")) else {
        return println!("neighbour: there is no nginx; `apt-get install nginx-light` and run it again");
    };
    // The collector is on this machine only because there is no other: it must not count as the follower.
    let mut store = store(&temp, &[]);
    let addr = store.addr().to_string();
    backlog(&temp.path("log").join("backlog"), 2_000);
    nginx.requests(3);
    let before = nginx.requests(10);
    let ways = [
        ("the defaults", vec![]),
        ("nice = 19", vec![("nice", "19")]),
        ("max_rate = 4M", vec![("max_rate", "4M")]),
    ];
    for (what, keys) in ways {
        let own = Temp::new("guest");
        fs::create_dir_all(own.path("log")).unwrap();
        std::os::unix::fs::symlink(temp.path("log").join("backlog"), own.path("log").join("backlog"))
            .unwrap();
        let guest = follower(&own, &addr, &keys);
        thread::sleep(Duration::from_secs(1));
        let beside = nginx.requests(10);
        let caught = cpu(&guest);
        println!("neighbour: {caught:.1} CPU seconds of the follower in 11");
        let part = beside as f64 / before as f64;
        report.row(
            &format!("neighbour: what nginx still answers beside a catch-up, {what}"),
            part,
            "",
            Target::None,
        );
    }
    let after = nginx.requests(10);
    report.row("neighbour: what nginx answers alone again", after as f64 / before as f64, "", Target::None);
}
