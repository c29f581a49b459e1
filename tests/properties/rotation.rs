//! Goal: logrotate in each of its modes, as its manual shows them, and a writer that never stops: what was in a file arrives,
//! once, whole.
//!
//! The writer opens its file anew when it is told to, as nginx does at USR1. The follower is killed in the middle. With
//! `copytruncate` what the writer adds while logrotate copies is in no file any more; that is counted and printed.

use super::support::*;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const ROTATIONS: usize = 5;

/// Writes numbered lines until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl Writer {
    fn start(dir: PathBuf) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), written.clone());
        let thread = thread::spawn(move || {
            let open = || fs::File::options().append(true).create(true).open(dir.join("access.log")).unwrap();
            let (mut file, mut lines) = (open(), Lines::new("w", 1));
            while !stopped.load(Ordering::Relaxed) {
                file.write_all(lines.block(5).as_bytes()).unwrap();
                count.store(lines.count(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
                if fs::remove_file(dir.join("reopen")).is_ok() {
                    file = open();
                }
            }
            lines.count()
        });
        Self { stop, written, thread }
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The lines of all files that rotation left, each file whole.
fn in_files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("access.log") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let mut text = String::new();
        if path.extension().is_some_and(|e| e == "gz") {
            flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8(bytes).unwrap();
        }
        all.extend(text.lines().map(str::to_owned));
    }
    all.sort();
    all
}

/// The highest number of a line that arrived.
fn newest(save: &Path) -> Option<u64> {
    stored(save).iter().filter_map(|l| number(format!("{l}\n").as_bytes(), "w")).max()
}

fn stored(save: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(save.join("log_data")).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with("web1_") {
            all.extend(fs::read_to_string(entry.path()).unwrap().lines().map(str::to_owned));
        }
    }
    all.sort();
    all
}

/// logrotate's options for one way of rotating.
fn rotate(what: &str, options: &str, loses: bool) {
    match Command::new("logrotate").arg("--version").output() {
        Ok(out) if out.status.success() => {}
        _ => return println!("skipped: {what}: there is no logrotate"),
    }
    let temp = Temp::new("rotation");
    let dir = temp.path("log");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("access.log"), "").unwrap();
    let mut store = store(&temp, &[]);
    let path = dir.join("access.log").display().to_string();
    let addr = store.addr().to_string();
    let keys = [
        ("log_file", path.as_str()),
        ("send_to", &addr),
        ("name", "web1"),
        ("start", "beginning"),
        ("flush_interval", "200ms"),
        ("quiet", "1s"),
        ("backoff_max", "200ms"),
    ];
    let mut tail = Node::spawn(&temp, "web1", "tail", &keys, &[]);
    tail.ready();
    let conf = temp.file(
        "logrotate.conf",
        format!(
            "{path} {{\n    hourly\n    rotate 1000\n    missingok\n    {options}\n    postrotate\n        touch \
             {}/reopen\n    endscript\n}}\n",
            dir.display()
        ),
    );
    let writer = Writer::start(dir.clone());
    let save = temp.path("save");
    for n in 0..ROTATIONS {
        thread::sleep(Duration::from_millis(500));
        // Of several rotations that a follower meets at once it cannot know whether they were all: not before it has gone on
        // with the new file is there another one.
        let now = writer.written.load(Ordering::Relaxed);
        until(SOON, "a line of the new file", || {
            thread::sleep(Duration::from_millis(100));
            newest(&save).filter(|n| *n > now)
        });
        let mut run = Command::new("logrotate");
        run.arg("-f").arg("-s").arg(temp.path("logrotate.state")).arg(&conf);
        let ran = run_for(&mut run);
        assert!(ran.contains("status 0"), "{what}: {ran}");
        if n == 2 {
            thread::sleep(Duration::from_secs(2));
            tail.kill();
            tail.restart();
        }
    }
    let written = writer.finish();
    let expected = in_files(&dir);
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut arrived = stored(&save);
    while arrived.len() < expected.len() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(200));
        arrived = stored(&save);
    }
    let mut once = arrived.clone();
    once.dedup();
    assert_eq!(once.len(), arrived.len(), "{what}: lines arrived twice");
    let missing: Vec<&String> = expected.iter().filter(|l| once.binary_search(l).is_err()).collect();
    assert!(
        missing.is_empty(),
        "{what}: {} lines did not arrive: {:?}\n{}",
        missing.len(),
        missing.first(),
        tail.log()
    );
    let lost = written - arrived.len() as u64;
    println!(
        "{what}: {written} lines written, {} arrived, {lost} overwritten by copytruncate",
        arrived.len()
    );
    assert!(loses || lost == 0, "{what}: {lost} of {written} lines are nowhere");
    // What nobody can know of bars a certificate; here there is nothing of the kind.
    let said = tail.log_of_all_starts();
    assert!(loses || !said.contains("not certified"), "{what}: {said}");
    assert_eq!((tail.terminate(), store.terminate()), (0, 0));
}

fn run_for(command: &mut Command) -> String {
    let out = command.output().unwrap();
    format!(
        "status {}\n{}{}",
        out.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

#[test]
fn logrotate_create() {
    rotate("create", "create", false);
}

#[test]
fn logrotate_compress() {
    rotate("compress", "create\n    compress\n    delaycompress", false);
}

#[test]
fn logrotate_dateext() {
    rotate("dateext", "create\n    dateext\n    dateformat -%Y%m%d%H-%s", false);
}

#[test]
fn logrotate_dateext_compress() {
    rotate(
        "dateext, delaycompress",
        "create\n    dateext\n    dateformat -%Y%m%d%H-%s\n    compress\n    delaycompress",
        false,
    );
}

#[test]
fn logrotate_copytruncate() {
    rotate("copytruncate", "copytruncate", true);
}

#[test]
fn logrotate_copytruncate_compress() {
    rotate("copytruncate, compress", "copytruncate\n    compress", true);
}
