//! Goal: a disk that is really full, of bytes or of inodes, stops what it must and loses nothing; when there is room again
//! all goes on by itself (P1, P2, P3, P5). `full` fails single calls of a simulated disk; here it is the kernel that
//! says no, to real processes, in the directory of one of them at a time, which is a small tmpfs.
//!
//! The story: a relay whose spool had filled the disk was killed and could not start again, since a start wrote a file; so
//! it could not send what would have made room.
//!
//! What it cannot show: `fdatasync` of a tmpfs never fails, so a disk that takes bytes and then cannot keep them is not
//! here but in `crash` and `full`.

use super::support::small::Small;
use super::support::*;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Whose directory is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Follower,
    Relay,
    StoreState,
    SaveDir,
}

/// How it becomes full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// A stranger's file, which is removed later.
    Foreign,
    /// No inode is left, later there are.
    Inodes,
    /// What the role itself writes, while it gets rid of nothing; later there is more room.
    Own,
    /// As `Own`, and the role is killed while the disk is full. It must start, and what it gets rid of makes room.
    Killed,
}

const SIZE: u64 = 3 << 20;
const BIG: u64 = 400 << 20;
/// Lines of an hour; compressed they are more than a small disk holds, if the role is one that fills it itself.
const LINES: u64 = 4_000;
const MANY_LINES: u64 = 150_000;

/// The three roles and the hours that they ship.
struct World {
    tail: Node,
    relay: Node,
    store: Node,
    small: Small,
    sources: Vec<Source>,
    save: PathBuf,
    /// Goes last, after what is mounted in it.
    _temp: Temp,
}

struct Source {
    hour: String,
    path: PathBuf,
    stream: String,
    lines: Lines,
}

impl Source {
    fn grow(&mut self, n: u64) {
        let text = self.lines.block(n);
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

impl World {
    fn start(place: Place, seed: u64) -> Result<Self, std::io::Error> {
        let temp = Temp::new("tmpfs");
        let small = Small::mount(&temp, "small", SIZE)?;
        let on = |p: Place, other: &str| {
            let dir = if p == place { small.dir().join("own") } else { temp.path(other) };
            dir.display().to_string()
        };
        let sources: Vec<Source> = past_hours(4)
            .iter()
            .zip(0..)
            .map(|(hour, n)| Source {
                hour: hour.to_string(),
                path: temp.path(&format!("logs/log.{hour}")),
                stream: format!("s{n}"),
                lines: Lines::new(&format!("s{n}"), seed + n),
            })
            .collect();
        fs::create_dir_all(temp.path("logs")).unwrap();
        let (store_addr, relay_addr): (SocketAddr, SocketAddr) = (fixed_addr(), fixed_addr());
        let (store_addr, relay_addr) = (store_addr.to_string(), relay_addr.to_string());
        let save = PathBuf::from(on(Place::SaveDir, "save"));
        let (save_dir, state) = (save.display().to_string(), on(Place::StoreState, "store.state"));
        // Real errors are wanted, not the distance that is kept from them.
        let usual = [("min_free", "0"), ("segment_size", "256k")];
        let keys = [("listen", store_addr.as_str()), ("save_dir", &save_dir), ("state_dir", &state)];
        let store = store(&temp, &[&usual[..], &keys].concat());
        let state = on(Place::Relay, "relay.state");
        let keys = [("listen", relay_addr.as_str()), ("state_dir", &state), ("ack_timeout", "5s")];
        let relay = relay(&temp, &store_addr, &[&usual[..], &keys].concat());
        let state = on(Place::Follower, "web1.state");
        let keys = [
            ("state_dir", state.as_str()),
            ("ack_timeout", "5s"),
            ("pack_bytes", "20k"),
            ("start", sources[0].hour.as_str()),
            ("scan_interval", "20ms"),
            ("flush_interval", "100ms"),
            ("quiet", "300ms"),
            // The last hour stays open.
            ("close_wait", "24h"),
        ];
        let pattern = temp.path("logs/log.<%Y%m%d%H>");
        let mut world = Self {
            tail: tail(&temp, "web1", &pattern, &relay_addr, &[&usual[..], &keys].concat(), &[]),
            relay,
            store,
            small,
            sources,
            save,
            _temp: temp,
        };
        world.tail.ready();
        Ok(world)
    }

    fn node(&mut self, place: Place) -> &mut Node {
        match place {
            Place::Follower => &mut self.tail,
            Place::Relay => &mut self.relay,
            Place::StoreState | Place::SaveDir => &mut self.store,
        }
    }

    fn all_run(&mut self) {
        for node in [&mut self.tail, &mut self.relay, &mut self.store] {
            assert!(node.runs(), "a role ended by itself");
        }
    }

    fn stored(&self, source: &Source) -> PathBuf {
        self.save.join(format!("log_data/web1_{}", source.hour))
    }

    /// What is stored is the beginning of what was written, and a tag stands on all of it.
    fn check_so_far(&self) {
        for s in &self.sources {
            let (stored, written) =
                (fs::read(self.stored(s)).unwrap_or_default(), fs::read(&s.path).unwrap_or_default());
            assert!(written.starts_with(&stored), "{}: not the beginning of its source", s.hour);
            if let Some(tag) = tag(&self.save, "web1", &s.hour) {
                assert_eq!(tag["bytes"], written.len(), "{tag}");
            }
        }
    }

    /// The hour is certified, and it is all that its source has.
    fn whole(&self, source: &Source, limit: Duration) {
        until(limit, &format!("the tag of {}", source.hour), || {
            tag(&self.save, "web1", &source.hour).filter(|t| t["lines"] == source.lines.count())
        });
        assert_same(&self.stored(source), &source.path);
    }
}

fn status(config: &Path) -> String {
    let ran = logd(&["status".as_ref(), config.as_os_str()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.out
}

const HANG: Duration = Duration::from_mins(1);

/// One life: it works, it is full, it works again. `None` = this machine lets nobody mount.
fn life(place: Place, how: How, seed: u64) -> Option<()> {
    let started = Instant::now();
    let mut w = match World::start(place, seed) {
        Ok(w) => w,
        Err(e) => {
            println!("skipped: tmpfs: mount: {e}; it needs root");
            return None;
        }
    };
    let own = matches!(how, How::Own | How::Killed);
    // Works: the first hour closes when the second is there.
    w.sources[0].grow(LINES);
    w.sources[1].grow(LINES);
    w.whole(&w.sources[0], HANG);

    // Full, while logs flow.
    match how {
        How::Foreign => w.small.fill(),
        How::Inodes => w.small.no_inodes(),
        // Nobody takes what it has.
        How::Own | How::Killed => match place {
            Place::Follower => w.relay.kill(),
            Place::Relay => w.store.kill(),
            // A spool that is emptied all the time needs help.
            Place::StoreState => w.small.fill(),
            Place::SaveDir => {}
        },
    }
    w.sources[2].grow(if own { MANY_LINES } else { LINES });
    w.sources[3].grow(LINES);
    if (place, own) == (Place::Follower, true) {
        // It has no need of its spool: what does not fit is read again from the log.
        until(HANG, "the disk to be full", || {
            let fs = rustix::fs::statvfs(w.small.dir()).unwrap();
            (fs.f_bavail * fs.f_frsize < 32 << 10).then_some(())
        });
    } else {
        w.node(place).says("paused: disk: ");
    }
    let node = w.node(place);
    let config = node.config().to_owned();
    until(SOON, "status to tell of the full disk", || {
        status(&config).contains("paused: disk: ").then_some(())
    });
    assert!(node.runs(), "it ended by itself");
    w.sources[3].grow(LINES);
    w.check_so_far();
    if how == How::Killed {
        w.node(place).kill();
        w.check_so_far();
        w.node(place).restart();
        w.node(place).ready();
    }

    // Room again.
    match (how, place) {
        (How::Foreign, _) => w.small.free(),
        (How::Inodes, _) => w.small.inodes(),
        (How::Killed, Place::Relay | Place::Follower) => {}
        (How::Own | How::Killed, _) => w.small.resize(BIG, 100_000),
    }
    if own {
        match place {
            Place::Follower => w.relay.restart(),
            Place::Relay => w.store.restart(),
            Place::StoreState | Place::SaveDir => {}
        }
    }
    for at in 1..3 {
        w.whole(&w.sources[at], HANG);
    }
    let open = &w.sources[3];
    let len = fs::metadata(&open.path).unwrap().len();
    until(HANG, "the open hour to be stored", || {
        (fs::metadata(w.stored(open)).is_ok_and(|m| m.len() == len)).then_some(())
    });
    w.all_run();
    until(SOON, "status to be content again", || (!status(&config).contains("paused")).then_some(()));

    // The last hour may close, too.
    assert_eq!(w.tail.terminate(), 0);
    w.tail.restart_with(&["--once", "--timeout", "60s"]);
    assert_eq!(w.tail.wait(HANG), 0);
    for s in &w.sources {
        w.whole(s, HANG);
        let faults = check_lines(&fs::read(w.stored(s)).unwrap(), &s.stream, s.lines.count());
        assert_eq!(faults, Faults { good: s.lines.count(), ..Faults::default() });
    }
    assert_eq!((w.relay.terminate(), w.store.terminate()), (0, 0));
    let verify = logd(&["verify".as_ref(), w.save.as_os_str()]);
    assert_eq!(verify.code, 0, "{verify:?}");
    println!("{place:?} {how:?}: {:.1} s", started.elapsed().as_secs_f64());
    Some(())
}

const ALL: [(Place, How); 15] = [
    (Place::Follower, How::Foreign),
    (Place::Follower, How::Inodes),
    (Place::Follower, How::Own),
    (Place::Relay, How::Foreign),
    (Place::Relay, How::Inodes),
    (Place::Relay, How::Own),
    (Place::Relay, How::Killed),
    (Place::StoreState, How::Foreign),
    (Place::StoreState, How::Inodes),
    (Place::SaveDir, How::Foreign),
    (Place::SaveDir, How::Inodes),
    (Place::SaveDir, How::Own),
    (Place::SaveDir, How::Killed),
    (Place::Follower, How::Killed),
    (Place::StoreState, How::Killed),
];

/// One life for each of them, a few at a time.
fn lives(what: &str, chosen: impl Fn(Place, How) -> bool) {
    let seed = seed();
    let list: Vec<_> = ALL.into_iter().filter(|(p, h)| chosen(*p, *h)).collect();
    let (next, lived) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                while let Some((place, how)) = list.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    if life(*place, *how, seed).is_some() {
                        lived.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let lived = lived.into_inner();
    if lived > 0 {
        proved(what, lived, "0 lost, 0 doubled, 0 torn, 0 false certificates");
    }
}

#[test]
fn a_full_disk_is_only_a_delay() {
    lives("disks really full: of bytes, of inodes, by others, by the role itself", |_, h| h != How::Killed);
}

#[test]
fn a_role_that_is_killed_on_a_full_disk_starts_again() {
    lives("roles killed on a full disk and started there", |_, h| h == How::Killed);
}
