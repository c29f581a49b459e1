//! Goal: what a follower reads from its hour files is, after a relay, stored byte for byte and certified; and whoever
//! asks about it (`verify`, `ready`) gets a true answer. Every role is a process of its own, as in production.

use super::support::*;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// One host: its name and its sources, as (hour, path).
struct Host {
    name: String,
    pattern: PathBuf,
    files: Vec<(String, PathBuf)>,
}

/// Ships all hosts with `--once` by way of a relay, compares and asks; the store stays for whoever looks further.
fn ship_and_prove(temp: &Temp, hosts: &[Host]) {
    let mut names: Vec<String> = hosts.iter().map(|h| h.name.clone()).collect();
    names.push("missing4".into());
    let hosts_file = temp.file("hosts", names.join("\n"));
    let mut store = store(temp, &[("hosts_file", hosts_file.to_str().unwrap())]);
    let mut relay = relay(temp, &store.addr().to_string(), &[]);
    let to = relay.addr().to_string();
    let mut tails: Vec<Node> = hosts
        .iter()
        .map(|h| tail(temp, &h.name, &h.pattern, &to, &[], &["--once", "--timeout", "60s"]))
        .collect();
    for t in &mut tails {
        assert_eq!(t.wait(Duration::from_secs(70)), 0);
    }
    let save = temp.path("save");
    let mut same = 0;
    for host in hosts {
        for (hour, source) in &host.files {
            let tag = certified(&save, &host.name, hour);
            assert_eq!(tag["verified"], true, "{tag}");
            assert_same(&save.join("log_data").join(format!("{}_{hour}", host.name)), source);
            same += 1;
        }
    }
    println!("{same} of {same} data files are equal to their sources, with verified tags");

    // The fourth host has sent nothing.
    let (hour, _) = &hosts[0].files[0];
    let ready = logd(&[Path::new("ready"), store.config(), Path::new(hour)]);
    assert_eq!(ready.code, 1, "{ready:?}");
    assert!((ready.out.clone() + &ready.err).contains("missing4"), "{ready:?}");
    assert!(!(ready.out.clone() + &ready.err).contains(&hosts[0].name), "{ready:?}");
    assert!(!save.join("received").join(format!("all_{hour}")).exists());

    assert_eq!((relay.terminate(), store.terminate()), (0, 0));
    let verify = logd(&["verify".as_ref(), save.as_os_str()]);
    assert_eq!(verify.code, 0, "{verify:?}");

    let (hour, source) = hosts[1].files.iter().max_by_key(|(_, p)| fs::metadata(p).unwrap().len()).unwrap();
    let name = format!("{}_{hour}", hosts[1].name);
    flip(&save.join("log_data").join(&name), fs::metadata(source).unwrap().len() / 2);
    let verify = logd(&["verify".as_ref(), save.as_os_str()]);
    assert_eq!(verify.code, 1, "{verify:?}");
    let wrong: Vec<&str> = verify.out.lines().filter(|l| l.contains("WRONG:")).collect();
    assert!(wrong.len() == 1 && wrong[0].starts_with(&name), "{verify:?}");
}

#[test]
fn generated_hours_arrive_identical() {
    let temp = Temp::new("e2e");
    let hours = past_hours(4);
    let hosts: Vec<Host> = ["web1", "web2", "10.1.2.3"]
        .iter()
        .zip(1..)
        .map(|(name, n)| {
            let mut lines = Lines::new(name, n);
            let files = hours.iter().zip(0..).map(|(hour, i)| {
                let mut text = lines.block(3_000 + 20_000 * (i % 2));
                if i == 2 {
                    // Nothing ends the last line of this hour; and some bytes are no text.
                    text.truncate(text.len() - 1);
                }
                let mut bytes = text.into_bytes();
                if i == 1 {
                    bytes.extend_from_slice(b"\xff\xfe\0 not UTF-8\r\n\n\n");
                }
                (hour.to_string(), temp.file(&format!("logs/{name}/access.log.{hour}"), bytes))
            });
            let files = files.collect();
            Host {
                name: (*name).into(),
                pattern: temp.path(&format!("logs/{name}/access.log.<%Y%m%d%H>")),
                files,
            }
        })
        .collect();
    ship_and_prove(&temp, &hosts);
}

#[test]
fn real_hours_arrive_identical() {
    let Some(shared) = shared("real_hours_arrive_identical") else { return };
    let temp = Temp::new("e2e-kafka");
    let hosts: Vec<Host> = (0..3)
        .map(|n| {
            let (name, dir) = (format!("broker{n}"), shared.join(format!("data/kafka/broker{n}")));
            let mut files: Vec<(String, PathBuf)> = fs::read_dir(&dir)
                .unwrap()
                .map(|e| e.unwrap().path())
                .map(|p| (p.to_str().unwrap().rsplit_once("log.").unwrap().1.replace('-', ""), p))
                .collect();
            files.sort();
            Host { name, pattern: dir.join("server.log.<%Y-%m-%d-%H>"), files }
        })
        .collect();
    assert_eq!(hosts.iter().map(|h| h.files.len()).sum::<usize>(), 24);
    ship_and_prove(&temp, &hosts);
}

// ---- demo ----

fn demo(temp: &Temp, args: &[&str]) -> Ran {
    // Its own temporary directory is below ours, so that we see whether it leaves anything.
    fs::create_dir_all(temp.path("tmp")).unwrap();
    let mut command = Command::new(bin());
    command.arg("demo").args(args).env("TMPDIR", temp.path("tmp")).current_dir(temp.dir());
    run(&mut command, Duration::from_mins(2))
}

fn leftovers(temp: &Temp) -> Vec<PathBuf> {
    fs::read_dir(temp.path("tmp")).unwrap().map(|e| e.unwrap().path()).collect()
}

/// Processes whose command line names this directory.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let all = fs::read_dir("/proc").unwrap().filter_map(|e| fs::read(e.ok()?.path().join("cmdline")).ok());
    let lines = all.map(|c| String::from_utf8_lossy(&c).replace('\0', " "));
    lines.filter(|l| l.contains(dir)).collect()
}

#[test]
fn demo_ends_with_all_hours_identical_and_leaves_nothing() {
    let temp = Temp::new("demo");
    let ran = demo(&temp, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.lines().last(), Some("identical: 12 of 12 hours"), "{ran:?}");
    assert_eq!(leftovers(&temp), [] as [PathBuf; 0]);
    println!("{}", ran.out);
}

#[test]
fn demo_ships_real_logs_by_pattern() {
    let Some(shared) = shared("demo_ships_real_logs_by_pattern") else { return };
    let temp = Temp::new("demo-kafka");
    // Relative to the working directory, as one types it.
    std::os::unix::fs::symlink(shared.join("data"), temp.path("data")).unwrap();
    let ran = demo(&temp, &["data/kafka/broker*/server.log.<%Y-%m-%d-%H>"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.lines().last(), Some("identical: 24 of 24 hours"), "{ran:?}");
    assert_eq!(leftovers(&temp), [] as [PathBuf; 0]);
}

#[test]
fn demo_keeps_its_files_where_it_is_told() {
    let temp = Temp::new("demo-dir");
    let [hour, ..] = past_hours(1)[..] else { panic!() };
    for host in ["a_b", "a-b", "c d"] {
        temp.file(&format!("in/{host}/x.{hour}.log"), Lines::new(host, 7).block(100));
    }
    let ran = demo(&temp, &["in/*/x.<%Y%m%d%H>.log", "--dir", "kept"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.lines().last(), Some("identical: 3 of 3 hours"), "{ran:?}");
    assert!(ran.out.contains(temp.path("kept").to_str().unwrap()), "{ran:?}");
    let verify = logd(&["verify".as_ref(), temp.path("kept/store").as_os_str()]);
    assert_eq!((verify.code, verify.out.lines().count()), (0, 1), "{verify:?}");

    let again = demo(&temp, &["--dir", "kept"]);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.err.contains("kept") && again.err.contains("not empty"), "{again:?}");
}

#[test]
fn demo_says_what_is_wrong_with_a_pattern() {
    let temp = Temp::new("demo-wrong");
    temp.file("in/web1/access.2026112205", "a\n");
    temp.file("in/web1/tomorrow.2999010100", "a\n");
    for (pattern, word) in [
        ("in/*/access.log", "<%Y"),
        ("in/*/access.<%Y%m>", "%d"),
        ("in/*/other.<%Y%m%d%H>", "no file"),
        ("in/web*/acc*.<%Y%m%d%H>", "director"),
        ("nowhere/*/access.<%Y%m%d%H>", "nowhere"),
        ("in/*/tomorrow.<%Y%m%d%H>", "not over"),
    ] {
        let ran = demo(&temp, &[pattern]);
        assert_eq!(ran.code, 2, "{pattern}: {ran:?}");
        assert!(ran.err.contains(word), "{pattern}: {ran:?}");
        assert_eq!(leftovers(&temp), [] as [PathBuf; 0]);
    }
}

/// A demo is ended while it works; its children must not stay, whatever ends it.
#[test]
fn demo_takes_its_children_along() {
    use rustix::process::{Pid, Signal, kill_process};
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let temp = Temp::new("demo-killed");
        // Enough lines that it is still at work when the signal comes.
        let [hour, ..] = past_hours(1)[..] else { panic!() };
        temp.file(&format!("in/web1/x.{hour}"), Lines::new("web1", 1).block(400_000));
        fs::create_dir_all(temp.path("tmp")).unwrap();
        let mut command = Command::new(bin());
        command.args(["demo", "in/*/x.<%Y%m%d%H>"]).env("TMPDIR", temp.path("tmp")).current_dir(temp.dir());
        let log = fs::File::create(temp.path("demo.out")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = Reaped(command.spawn().unwrap());
        until(SOON, "three children", || (processes_of(&temp.path("tmp")).len() >= 3).then_some(()));
        let at = Instant::now();
        kill_process(Pid::from_child(&child.0), signal).unwrap();
        let status = until(SOON, "the demo's end", || child.0.try_wait().unwrap());
        until(SOON, "the end of its children", || processes_of(&temp.path("tmp")).is_empty().then_some(()));
        println!("after {signal:?}: {status}, all gone after {:?}", at.elapsed());
        if signal != Signal::KILL {
            assert!(!status.success(), "{signal:?}");
            assert_eq!(leftovers(&temp), [] as [PathBuf; 0]);
        }
    }
}

/// A line of a gigabyte (64 MB in CI), NUL bytes, CRLF, no UTF-8 and no newline at the end: bytes are bytes.
#[test]
fn whatever_the_bytes_are_they_arrive_identical() {
    let temp = Temp::new("bytes");
    let hour = past_hours(1)[0];
    let log = temp.path("log");
    fs::create_dir(&log).unwrap();
    let source = log.join(format!("access.log.{hour}"));
    let mut file = fs::File::create(&source).unwrap();
    let all: Vec<u8> = (0..=255).collect();
    for part in [b"crlf\r\n\r\n\r".as_slice(), b"\0\0\n\0", b"\xff\xfe\x80 no text\n", &all, b"\n\n\n"] {
        file.write_all(part).unwrap();
    }
    let chunk: Vec<u8> =
        (0..1u32 << 20).map(|n| b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26).collect();
    for _ in 0..if soak() { 1024 } else { 64 } {
        file.write_all(&chunk).unwrap();
    }
    file.write_all(b"\nand a last line without an end\r").unwrap();
    drop(file);
    let mut store = store(&temp, &[]);
    let to = store.addr().to_string();
    let pattern = log.join("access.log.<%Y%m%d%H>");
    let keys = [("start", "oldest"), ("close_wait", "0"), ("quiet", "200ms")];
    let mut follower = tail(&temp, "web1", &pattern, &to, &keys, &[]);
    let save = temp.path("save");
    until(Duration::from_mins(5), "the tag", || tag(&save, "web1", hour));
    assert_eq!(certified(&save, "web1", hour)["verified"], true);
    assert_same(&save.join("log_data").join(format!("web1_{hour}")), &source);
    for node in [&follower, &store] {
        let most = node.proc_status("VmHWM");
        assert!(most < 96 << 10, "{most} kB");
    }
    assert_eq!((follower.terminate(), store.terminate()), (0, 0));
}
