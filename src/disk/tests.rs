//! The disk, real and simulated: what a caller may rely on after a crash, and that the simulation can tell.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::sim::Rng;
use super::*;

fn p(text: &str) -> &Path {
    Path::new(text)
}

/// A directory that is removed at the end of the test.
struct Temp(PathBuf);

impl Temp {
    fn new() -> Temp {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("logd-disk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Temp(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn no_space() -> i32 {
    Errno::NOSPC.raw_os_error()
}

fn io_error() -> i32 {
    Errno::IO.raw_os_error()
}

fn seeds() -> impl Iterator<Item = Outcome> {
    [Outcome::KeepAll, Outcome::LoseUnsynced, Outcome::Killed].into_iter().chain((0..60).map(Outcome::Random))
}

// ---- both forms ----------------------------------------------------------------------------------------------

/// What both forms must do alike.
fn common(disk: &Disk, dir: &Path) {
    let sub = dir.join("a/b");
    disk.create_dir_all(&sub, 0o755).unwrap();
    disk.create_dir_all(&sub, 0o755).unwrap();
    let path = sub.join("file");
    assert!(disk.open(&path).err().unwrap().not_found());
    assert!(disk.open_rw(&path).err().unwrap().not_found());
    assert_eq!(disk.read_opt(&path, 10).unwrap(), None);
    assert_eq!(disk.stat(&path).unwrap(), None);
    disk.remove(&path).unwrap();
    disk.remove_dir(&dir.join("none")).unwrap();

    let file = disk.create_new(&path, 0o600).unwrap();
    let again = disk.create_new(&path, 0o600).err().unwrap();
    assert_eq!(again.source.kind(), io::ErrorKind::AlreadyExists);
    assert!(again.to_string().starts_with(&format!("create: {}: ", path.display())), "{again}");
    file.write_at(b"hello", 3).unwrap();
    file.sync().unwrap();
    disk.sync_dir(&sub).unwrap();
    assert_eq!(disk.read(&path, 8).unwrap(), b"\0\0\0hello");
    assert_eq!(disk.read(&path, 7).unwrap_err().source.kind(), io::ErrorKind::FileTooLarge);
    let mut buf = [9; 4];
    assert_eq!(file.read_at(&mut buf, 6).unwrap(), 2);
    assert_eq!(&buf, b"lo\x09\x09");
    assert_eq!(file.read_at(&mut buf, 100).unwrap(), 0);
    assert_eq!(disk.create(&path, 0o600).unwrap().stat().unwrap().len, 8);

    let stat = disk.stat(&path).unwrap().unwrap();
    assert_eq!(stat, file.stat().unwrap());
    assert!(stat.is_file && !stat.is_dir && stat.mode == 0o600 && stat.mtime_ms > 1_600_000_000_000);
    assert!(disk.stat(&sub).unwrap().unwrap().is_dir);

    file.set_len(4).unwrap();
    assert_eq!(file.stat().unwrap().len, 4);
    let reader = disk.open(&path).unwrap();
    assert!(reader.write_at(b"x", 0).is_err() && reader.set_len(0).is_err());
    assert!(!reader.write_at(b"x", 0).unwrap_err().fatal());

    // A handle follows the file, not the name.
    let moved = sub.join("moved");
    disk.rename(&path, &moved).unwrap();
    disk.replace(&moved, b"new", 0o644).unwrap();
    file.write_at(b"old", 0).unwrap();
    assert_eq!(disk.read(&moved, 100).unwrap(), b"new");
    assert_ne!(file.stat().unwrap().ino, disk.stat(&moved).unwrap().unwrap().ino);
    let e = disk.rename(&sub.join("none"), &moved).unwrap_err();
    assert!(e.not_found() && e.path.ends_with("none"));
    let e = disk.rename(&moved, &dir.join("none/x")).unwrap_err();
    assert!(e.not_found() && e.path.ends_with("none/x"));

    // A temporary file left by a crash is in nobody's way.
    disk.create(&sub.join(".moved.tmp"), 0o600).unwrap().write_at(b"longer than the new one", 0).unwrap();
    disk.replace(&moved, b"newer", 0o644).unwrap();
    assert_eq!(disk.read(&moved, 100).unwrap(), b"newer");

    let entries: Vec<(String, bool)> =
        disk.list(&dir.join("a")).unwrap().into_iter().map(|e| (e.name, e.is_dir)).collect();
    assert_eq!(entries, [("b".to_owned(), true)]);
    disk.create(&sub.join("0"), 0o600).unwrap();
    let names: Vec<String> = disk.list(&sub).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["0", "moved"]);

    assert!(disk.open(&sub).is_err() && disk.remove(&sub).is_err(), "a directory is no file");
    assert!(disk.remove_dir(&sub).is_err(), "not empty");
    assert!(disk.create_dir_all(&moved, 0o755).is_err(), "a file is in the way");
    disk.remove(&moved).unwrap();
    disk.remove(&sub.join("0")).unwrap();
    disk.remove_dir(&sub).unwrap();
    assert!(disk.free_bytes(dir).unwrap() > 0);
    assert!(disk.free_bytes(&dir.join("none")).unwrap_err().not_found());

    let lock = disk.lock(&dir.join("lock")).unwrap();
    assert!(lock.is_some());
    assert!(disk.lock(&dir.join("lock")).unwrap().is_none());
    drop(lock);
    assert!(disk.lock(&dir.join("lock")).unwrap().is_some());
    assert_eq!(disk.failure(), None);
}

#[test]
fn both_forms_do_the_same() {
    let temp = Temp::new();
    common(&Disk::real(), &temp.0);
    let (disk, sim) = Disk::sim(1);
    common(&disk, p("/"));
    assert_eq!(sim.paths(), [(PathBuf::from("/lock"), 0)]);
}

#[test]
fn handles_cross_threads() {
    fn check<T: Send + Sync>() {}
    check::<Disk>();
    check::<File>();
    check::<SimDisk>();
    check::<Lock>();
    check::<Error>();
}

#[test]
fn errors_say_what_kind_they_are() {
    let of = |errno: Errno| Error::new("write", p("/x"), errno.into());
    assert!(of(Errno::NOSPC).no_space() && of(Errno::DQUOT).no_space() && !of(Errno::IO).no_space());
    assert!(of(Errno::MFILE).too_many_files() && of(Errno::NFILE).too_many_files());
    assert!(of(Errno::NOENT).not_found() && !of(Errno::NOENT).fatal());
    let e = io::Error::from(of(Errno::NOENT));
    assert_eq!(e.kind(), io::ErrorKind::NotFound);
    assert!(e.to_string().starts_with("write: /x: No such file"), "{e}");
}

// ---- the real form -------------------------------------------------------------------------------------------

#[test]
fn real_links_fifos_and_foreign_names() {
    use std::os::unix::ffi::OsStrExt;
    let temp = Temp::new();
    let disk = Disk::real();
    let (target, link) = (temp.0.join("target"), temp.0.join("link"));
    std::fs::write(&target, b"log").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert_eq!(disk.read(&link, 100).unwrap(), b"log");
    for e in [disk.open_rw(&link), disk.create(&link, 0o600)] {
        assert!(e.err().unwrap().to_string().contains("symbolic link"));
    }
    // Replacing a link replaces the link, not what it points to.
    disk.replace(&link, b"mine", 0o600).unwrap();
    assert_eq!(disk.read(&target, 100).unwrap(), b"log");
    assert_eq!(disk.read(&link, 100).unwrap(), b"mine");

    let fifo = temp.0.join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for e in [disk.open(&fifo), disk.open_rw(&fifo), disk.create(&fifo, 0o600)] {
        assert!(e.err().unwrap().to_string().contains("not a regular file"));
    }

    std::os::unix::fs::symlink(&temp.0, temp.0.join("loop")).unwrap();
    std::os::unix::fs::symlink("nowhere", temp.0.join("dangling")).unwrap();
    std::fs::write(temp.0.join(std::ffi::OsStr::from_bytes(b"\xff")), b"").unwrap();
    let entries = disk.list(&temp.0).unwrap();
    let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["dangling", "fifo", "link", "loop", "target"]);
    let dirs: Vec<&str> = entries.iter().filter(|e| e.is_dir).map(|e| e.name.as_str()).collect();
    assert_eq!(dirs, ["loop"]);
}

// ---- the simulated form: durability ----------------------------------------------------------------------------

#[test]
fn content_and_name_become_durable_separately() {
    let (disk, sim) = Disk::sim(1);
    let file = disk.create(p("/a"), 0o600).unwrap();
    file.write_at(b"one", 0).unwrap();
    file.sync().unwrap();
    sim.restart(Outcome::LoseUnsynced);
    assert_eq!(sim.paths(), [], "synced content without a synced name is lost");

    let file = disk.create(p("/a"), 0o600).unwrap();
    file.write_at(b"one", 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(p("/")).unwrap();
    file.write_at(b"two", 3).unwrap();
    assert_eq!(disk.read(p("/a"), 100).unwrap(), b"onetwo");
    sim.restart(Outcome::LoseUnsynced);
    assert_eq!(disk.read(p("/a"), 100).unwrap(), b"one");

    // Removed, but not durably so.
    disk.remove(p("/a")).unwrap();
    sim.restart(Outcome::LoseUnsynced);
    assert_eq!(disk.read(p("/a"), 100).unwrap(), b"one");

    // A process that is killed leaves everything to be seen, and nothing of it durable.
    disk.open_rw(p("/a")).unwrap().write_at(b"two", 3).unwrap();
    sim.restart(Outcome::Killed);
    assert_eq!(disk.read(p("/a"), 100).unwrap(), b"onetwo");
    sim.restart(Outcome::LoseUnsynced);
    assert_eq!(disk.read(p("/a"), 100).unwrap(), b"one");
}

#[test]
fn random_power_cuts_find_every_kind_of_damage() {
    let (mut kept, mut lost, mut zero, mut torn, mut unnamed) = (0, 0, 0, 0, 0);
    for seed in 0..300 {
        let (disk, sim) = Disk::sim(seed);
        let file = disk.create(p("/a"), 0o600).unwrap();
        file.write_at(&[1; 100], 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir(p("/")).unwrap();
        file.write_at(&[2; 2000], 100).unwrap();
        disk.create(p("/b"), 0o600).unwrap();
        sim.restart(Outcome::Random(seed));
        let got = disk.read(p("/a"), 10_000).unwrap();
        assert_eq!(got[..100], [1; 100], "what was synced stays");
        let rest = &got[100..];
        match rest.len() {
            0 => lost += 1,
            2000 if rest.iter().all(|b| *b == 2) => kept += 1,
            2000 if rest.iter().all(|b| *b == 0) => zero += 1,
            n => {
                assert!(rest.iter().all(|b| *b == 2) && (n + 100) % 512 == 0, "length {n}");
                torn += 1;
            }
        }
        unnamed += u32::from(disk.stat(p("/b")).unwrap().is_none());
    }
    for count in [kept, lost, zero, torn, unnamed, 300 - unnamed] {
        assert!(count > 10, "{kept} kept, {lost} lost, {zero} zero, {torn} torn, {unnamed} unnamed");
    }
}

/// Runs `body` on the machine that `setup` prepared, with the fault at each of its calls in turn and each outcome,
/// and hands the restarted machine to `check`, with whether `body` said Ok.
fn crash_everywhere(
    setup: impl Fn(&Disk),
    body: impl Fn(&Disk) -> Result<()>,
    check: impl Fn(&Disk, bool, &str),
) {
    let (disk, sim) = Disk::sim(0);
    setup(&disk);
    let begin = sim.calls();
    body(&disk).unwrap();
    let calls = sim.calls() - begin;
    assert!(calls > 0);
    for fault in [Fault::Crash, Fault::Torn, Fault::Error(no_space()), Fault::ShortThenError(no_space())] {
        for call in 1..=calls + 1 {
            for outcome in seeds() {
                let (disk, sim) = Disk::sim(call);
                setup(&disk);
                if call <= calls {
                    sim.plan(sim.calls() + call, fault); // the last round goes on to the end and stops there
                }
                let done = body(&disk).is_ok();
                assert_eq!(done, call > calls, "{fault:?} at {call}");
                sim.restart(outcome);
                check(&disk, done, &format!("{fault:?} at {call}, {outcome:?}: {:#?}", sim.log()));
            }
        }
    }
}

#[test]
fn replace_is_atomic_and_durable() {
    let old = vec![b'o'; 3000];
    let new = vec![b'n'; 2000];
    crash_everywhere(
        |disk| {
            disk.create_dir_all(p("/d"), 0o755).unwrap();
            disk.replace(p("/d/state"), &old, 0o600).unwrap();
        },
        |disk| disk.replace(p("/d/state"), &new, 0o600),
        |disk, done, story| {
            let got = disk.read(p("/d/state"), 10_000).unwrap();
            assert!(got == new || (got == old && !done), "{story}");
            disk.replace(p("/d/state"), b"next", 0o600).unwrap();
            assert_eq!(disk.list(p("/d")).unwrap().len(), 1, "the leftover is cleared: {story}");
        },
    );
    // The first one ever: missing or whole.
    crash_everywhere(
        |disk| disk.create_dir_all(p("/d"), 0o755).unwrap(),
        |disk| disk.replace(p("/d/state"), &new, 0o600),
        |disk, done, story| match disk.read_opt(p("/d/state"), 10_000).unwrap() {
            None => assert!(!done, "{story}"),
            Some(got) => assert!(got == new, "{story}"),
        },
    );
}

/// The test above must be able to fail: without the sync of the content the rename may win the race.
#[test]
fn a_replace_without_sync_is_caught() {
    let mut torn = 0;
    for seed in 0..60 {
        let (disk, sim) = Disk::sim(seed);
        disk.replace(p("/state"), b"old", 0o600).unwrap();
        let file = disk.create(p("/tmp"), 0o600).unwrap();
        file.write_at(b"new", 0).unwrap();
        disk.rename(p("/tmp"), p("/state")).unwrap();
        disk.sync_dir(p("/")).unwrap();
        sim.restart(Outcome::Random(seed));
        let got = disk.read(p("/state"), 100).unwrap();
        torn += u32::from(got != b"old" && got != b"new");
    }
    assert!(torn > 5);
}

#[test]
fn directories_are_durable_level_by_level() {
    crash_everywhere(
        |_| {},
        |disk| disk.create_dir_all(p("/a/b/c"), 0o755),
        |disk, done, story| {
            assert!(!done || disk.stat(p("/a/b/c")).unwrap().is_some(), "{story}");
        },
    );
    // Made by a process that was killed before it could sync the parent, then found by the next one.
    let (disk, sim) = Disk::sim(1);
    sim.plan(3, Fault::Crash);
    disk.create_dir_all(p("/a"), 0o755).unwrap_err();
    sim.restart(Outcome::Killed);
    assert!(disk.stat(p("/a")).unwrap().is_some());
    disk.create_dir_all(p("/a"), 0o755).unwrap();
    sim.restart(Outcome::LoseUnsynced);
    assert!(disk.stat(p("/a")).unwrap().is_some());
}

#[test]
fn a_rename_between_directories_may_double_but_never_lose() {
    let (mut both, mut old, mut new) = (0, 0, 0);
    for seed in 0..400 {
        let (disk, sim) = Disk::sim(seed);
        disk.create_dir_all(p("/a"), 0o755).unwrap();
        disk.create_dir_all(p("/b"), 0o755).unwrap();
        disk.replace(p("/a/x"), b"data", 0o600).unwrap();
        disk.rename(p("/a/x"), p("/b/y")).unwrap();
        match seed % 4 {
            0 => disk.sync_dir(p("/a")).unwrap(),
            1 => disk.sync_dir(p("/b")).unwrap(),
            _ => {}
        }
        sim.restart(Outcome::Random(seed));
        let there = |path| disk.read_opt(p(path), 100).unwrap().is_some_and(|bytes| bytes == b"data");
        match (there("/a/x"), there("/b/y")) {
            (true, true) => both += 1,
            (true, false) => old += 1,
            (false, true) => new += 1,
            (false, false) => panic!("lost with seed {seed}: {:#?}", sim.log()),
        }
        if seed % 4 == 0 {
            assert!(!there("/a/x") && there("/b/y"), "the directory it left was synced");
        }
        if seed % 4 == 1 {
            assert!(there("/b/y"), "the directory it came to was synced");
        }
    }
    assert!(both > 10 && old > 10 && new > 10, "{both} both, {old} old, {new} new");
}

#[test]
fn rotation_without_syncs_never_loses_a_file() {
    for seed in 0..400 {
        let (disk, sim) = Disk::sim(seed);
        disk.replace(p("/log"), b"first", 0o600).unwrap();
        disk.rename(p("/log"), p("/log.1")).unwrap();
        disk.create(p("/tmp"), 0o600).unwrap().write_at(b"second", 0).unwrap();
        disk.rename(p("/tmp"), p("/log")).unwrap();
        disk.rename(p("/log"), p("/log.0")).unwrap();
        disk.create(p("/log"), 0o600).unwrap();
        if seed % 2 == 0 {
            sim.put(p("/log"), b"third");
        }
        sim.restart(Outcome::Random(seed));
        let holders = sim.paths().iter().filter(|(path, _)| disk.read(path, 99).unwrap() == b"first").count();
        assert_eq!(holders, 1, "seed {seed}: {:?} {:#?}", sim.paths(), sim.log());
        assert!(seed % 2 == 1 || disk.read(p("/log"), 99).unwrap() == b"third");
    }
}

// ---- the simulated form: faults --------------------------------------------------------------------------------

#[test]
fn a_failed_sync_poisons() {
    for dir in [false, true] {
        let (disk, sim) = Disk::sim(1);
        let file = disk.create(p("/a"), 0o600).unwrap();
        file.write_at(b"one", 0).unwrap();
        sim.plan(3, Fault::Error(no_space()));
        let e = if dir { disk.sync_dir(p("/")) } else { file.sync() }.unwrap_err();
        assert!(e.fatal() && e.no_space(), "{e}");
        assert!(disk.clone().failure().unwrap().contains("sync"));
        let refused = [
            file.sync(),
            file.write_at(b"x", 0),
            file.set_len(0),
            disk.sync_dir(p("/")),
            disk.remove(p("/a")),
            disk.rename(p("/a"), p("/b")),
            disk.replace(p("/a"), b"x", 0o600),
            disk.create_dir_all(p("/d"), 0o755),
            disk.create(p("/a"), 0o600).map(drop),
            disk.lock(p("/lock")).map(drop),
        ];
        assert!(refused.into_iter().all(|r| r.unwrap_err().fatal()));
        assert_eq!(sim.calls(), 3, "nothing touched the disk");
        assert_eq!(disk.read(p("/a"), 10).unwrap(), b"one", "reading goes on");
        assert!(!sim.crashed());
        sim.restart(Outcome::KeepAll);
        assert_eq!(disk.failure(), None);
        disk.open_rw(p("/a")).unwrap().sync().unwrap();
    }
}

#[test]
fn faults_at_a_write() {
    let (disk, sim) = Disk::sim(7);
    let file = disk.create(p("/a"), 0o600).unwrap();
    sim.plan(2, Fault::Error(io_error()));
    sim.plan(3, Fault::ShortThenError(no_space()));
    sim.plan(5, Fault::Torn);
    let e = file.write_at(&[1; 100], 0).unwrap_err();
    assert_eq!((e.source.raw_os_error(), e.fatal()), (Some(io_error()), false));
    assert_eq!(file.stat().unwrap().len, 0);
    assert!(file.write_at(&[1; 100], 0).unwrap_err().no_space());
    assert!(file.stat().unwrap().len < 100);
    file.write_at(&[1; 100], 0).unwrap();
    assert!(file.write_at(&[2; 100], 100).unwrap_err().fatal());
    assert!(sim.crashed() && disk.failure().unwrap().contains("call 5"));
    assert!(disk.read(p("/a"), 1000).unwrap_err().fatal(), "a stopped machine reads nothing either");
    assert!(sim.log().last().unwrap().contains("Torn"), "{:?}", sim.log());
    sim.restart(Outcome::KeepAll);
    let len = disk.stat(p("/a")).unwrap().unwrap().len;
    assert!((100..200).contains(&len));
}

#[test]
fn a_lost_sync_says_ok() {
    let (disk, sim) = Disk::sim(1);
    disk.replace(p("/a"), b"", 0o600).unwrap();
    let file = disk.open_rw(p("/a")).unwrap();
    file.write_at(b"one", 0).unwrap();
    sim.plan(sim.calls() + 1, Fault::Lost);
    file.sync().unwrap();
    sim.restart(Outcome::LoseUnsynced);
    assert_eq!(disk.read(p("/a"), 10).unwrap(), b"");
}

#[test]
fn old_handles_stay_dead() {
    let (disk, sim) = Disk::sim(1);
    disk.replace(p("/a"), b"one", 0o600).unwrap();
    let file = disk.open_rw(p("/a")).unwrap();
    let lock = disk.lock(p("/lock")).unwrap();
    sim.crash();
    assert!(file.read_at(&mut [0], 0).unwrap_err().fatal() && sim.crashed());
    sim.plan(1, Fault::Crash); // past: must not strike
    sim.restart(Outcome::KeepAll);
    let calls = [
        file.write_at(b"x", 0),
        file.sync(),
        file.set_len(0),
        file.stat().map(drop),
        file.read_at(&mut [0], 0).map(drop),
    ];
    assert!(calls.into_iter().all(|r| r.unwrap_err().fatal()));
    let fresh = disk.lock(p("/lock")).unwrap();
    assert!(fresh.is_some(), "a crash frees locks");
    drop(lock);
    assert!(disk.lock(p("/lock")).unwrap().is_none(), "a dead lock frees nobody's");
    drop(file);
    assert_eq!(disk.read(p("/a"), 10).unwrap(), b"one");
}

#[test]
fn a_full_disk_cuts_writes_short() {
    let (disk, sim) = Disk::sim(1);
    disk.replace(p("/a"), &[1; 60], 0o600).unwrap();
    sim.set_capacity(Some(100));
    assert_eq!(disk.free_bytes(p("/")).unwrap(), 40);
    let e = disk.replace(p("/a"), &[2; 60], 0o600).unwrap_err();
    assert!(e.no_space() && !e.fatal() && disk.failure().is_none());
    assert_eq!(disk.list(p("/")).unwrap().len(), 1, "the half copy does not keep the disk full");
    let file = disk.open_rw(p("/a")).unwrap();
    file.write_at(&[3; 60], 0).unwrap();
    assert!(file.write_at(&[3; 60], 60).unwrap_err().no_space());
    assert_eq!(file.stat().unwrap().len, 100);
    sim.set_capacity(None);
    file.write_at(&[3; 60], 60).unwrap();
    sim.set_free_bytes(5);
    assert_eq!(disk.free_bytes(p("/a")).unwrap(), 5);
}

#[test]
fn inode_numbers_are_handed_out_again() {
    let (disk, sim) = Disk::sim(1);
    let ino = |path| disk.stat(p(path)).unwrap().unwrap().ino;
    sim.put(p("/logs/a"), b"a");
    sim.put(p("/logs/b"), b"b");
    let (a, b) = (ino("/logs/a"), ino("/logs/b"));
    assert_ne!(a, b);
    let open = disk.open(p("/logs/a")).unwrap();
    sim.remove_tree(p("/logs/a"));
    sim.put(p("/logs/c"), b"c");
    assert_ne!(ino("/logs/c"), a, "still open");
    assert_eq!(open.stat().unwrap().ino, a);
    drop(open);
    sim.put(p("/logs/d"), b"d");
    assert_eq!(ino("/logs/d"), a);
    // A removal that a crash undoes must not give two files one number.
    disk.remove(p("/logs/b")).unwrap();
    sim.put(p("/logs/e"), b"e");
    assert_eq!(ino("/logs/e"), b);
    sim.restart(Outcome::LoseUnsynced);
    assert_ne!(ino("/logs/b"), ino("/logs/e"));
}

#[test]
fn what_others_do_is_durable_at_once() {
    let (disk, sim) = Disk::sim(1);
    sim.set_mtime_ms(5000);
    sim.put(p("/var/log/x"), b"one\n");
    sim.set_mtime_ms(6000);
    sim.append(p("/var/log/x"), b"two\n");
    sim.append(p("/var/log/y"), b"y");
    assert_eq!(sim.calls(), 0);
    assert_eq!(disk.stat(p("/var/log/x")).unwrap().unwrap().mtime_ms, 6000);
    assert!(
        sim.flip(p("/var/log/x"), 0, 0x20) && !sim.flip(p("/var/log/x"), 8, 1) && !sim.flip(p("/no"), 0, 1)
    );
    assert!(sim.truncate(p("/var/log/x"), 7) && !sim.truncate(p("/var/log/x"), 7));
    sim.restart(Outcome::LoseUnsynced);
    assert_eq!(disk.read(p("/var/log/x"), 100).unwrap(), b"One\ntwo");
    assert_eq!(sim.paths(), [(PathBuf::from("/var/log/x"), 7), (PathBuf::from("/var/log/y"), 1)]);
    sim.put(p("/var/log/x"), b"new");
    sim.restart(Outcome::Random(3));
    assert_eq!(disk.read(p("/var/log/x"), 100).unwrap(), b"new");
    disk.create(p("/var/log/z"), 0o600).unwrap();
    sim.remove_tree(p("/var"));
    sim.restart(Outcome::KeepAll);
    assert_eq!(disk.list(p("/")).unwrap(), []);
}

/// Random programs on the live image against a plain model, with restarts that must keep what was synced.
#[test]
fn synced_files_survive_random_programs() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let (disk, sim) = Disk::sim(seed);
        let mut synced = std::collections::BTreeMap::new();
        for step in 0..100u64 {
            let path = PathBuf::from(format!("/{}", rng.below(5)));
            let to = PathBuf::from(format!("/{}", rng.below(5)));
            match rng.below(6) {
                0 => {
                    let bytes = step.to_le_bytes().repeat(100);
                    disk.replace(&path, &bytes, 0o600).unwrap();
                    synced.insert(path, bytes);
                }
                1 => {
                    disk.remove(&path).unwrap();
                    disk.sync_dir(p("/")).unwrap();
                    synced.remove(&path);
                }
                2 if disk.stat(&path).unwrap().is_some() => {
                    disk.rename(&path, &to).unwrap();
                    disk.sync_dir(p("/")).unwrap();
                    if let Some(bytes) = synced.remove(&path) {
                        synced.insert(to, bytes);
                    }
                }
                3 => {
                    let unsynced = disk.create(&path.with_extension("part"), 0o600).unwrap();
                    unsynced.write_at(&[7; 700], rng.below(2000)).unwrap();
                }
                4 => sim.restart(Outcome::Random(rng.next_u64())),
                _ => {}
            }
            for (path, bytes) in &synced {
                assert_eq!(
                    &disk.read(path, 10_000).unwrap(),
                    bytes,
                    "seed {seed} step {step}: {:#?}",
                    sim.log()
                );
            }
        }
    }
}

#[test]
fn a_shortage_says_how_much_is_free_unless_it_is_said_again_and_again() {
    let (disk, sim) = Disk::sim(1);
    let dir = Path::new("/d");
    sim.put(&dir.join("a"), b"");
    sim.set_free_bytes(3 << 20);
    let told = "3.0 MiB free below /d, min_free is 5.0 MiB";
    assert_eq!(disk.shortage(dir, 5 << 20).unwrap().as_deref(), Some(told));
    let told = "less than 5.0 MiB free below /d, min_free is 5.0 MiB";
    assert_eq!(disk.shortage_in_short(dir, 5 << 20).unwrap().as_deref(), Some(told));
    assert_eq!(disk.shortage(dir, 1 << 20).unwrap(), None);
    assert_eq!(fitting_min_free(3 << 20), Some(3 << 20));
    // Next to nothing is a shortage whatever min_free says, and no smaller one helps.
    sim.set_free_bytes(812);
    assert!(disk.shortage(dir, 0).unwrap().unwrap().starts_with("812 B free"));
    assert_eq!(fitting_min_free(812), None);
}
