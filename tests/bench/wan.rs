//! A follower far from its collector: 50 ms each way, so that a pack's answer comes 100 ms after it at the earliest.
//!
//! Between `logd tail` and `logd fcollector` stands a proxy in this process. It delays every byte by 50 ms in each direction
//! and never limits how many are under way: per direction a thread stamps what it reads, another one writes it when its time
//! has come, and up to 32 MiB wait between them. The kernel completes a connection to the proxy at once, so a handshake's round
//! trip is imitated: what arrives in the first 100 ms counts as having arrived at their end. *Not imitated*: the congestion
//! window, losses, and a link's own rate. A real link of this length needs some round trips until it carries a pack of 170 kB
//! in one, and again after each pause, unless `net.ipv4.tcp_slow_start_after_idle` is 0.
//!
//! Data: a past hour of unique lines, as many as the connections could carry in 12 s.
//!
//! - *raw MB/s*: the bytes that came after the first pack, by the seconds from the first pack in the collector's data file to the
//!   last, both seen by its length (looked at every 3 ms). The wall from the start to the tag would add what an hour costs
//!   once: the handshake, the first seal, the close, and the collector's reading it again.
//! - *by senders x `pack_bytes` / round trip*: what would be carried if all time were the link's. What is missing is the time in
//!   which a connection carries nothing.
//! - *the collector's part*: mean time from a pack's last byte at the collector to its answer there. *The follower's part*: from
//!   the answer's arrival to the first byte of the next pack on that connection: taking the answer, waiting for a pack,
//!   compressing it. Both as the proxy sees them, so its own delays are in them. CPU is shared by all three.

use super::lines;
use super::measure::*;
use super::support::{Node, assert_same, certified, store, until};
use logd::clock::{Clock, Zone};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const ONE_WAY: Duration = Duration::from_millis(50);
const ROUND_TRIP_MS: u64 = 100;
/// `pack_bytes`' default.
const PACK_BYTES: f64 = 1_048_576.0;
/// For so long the link alone would be busy.
const SECONDS: u64 = 12;
const PATIENCE: Duration = Duration::from_mins(5);
const NAME: &str = "web-01.example.com";
const CHUNK: usize = 64 << 10;
/// Chunks on their way in one direction of a connection.
const UNDER_WAY: usize = 512;

/// What the proxy sees of the two ends.
#[derive(Default)]
struct Ends {
    packs: u32,
    collector: Duration,
    turns: u32,
    follower: Duration,
}

/// Since when one connection waits for an end, if it does.
#[derive(Default)]
struct Turn {
    given: Option<Instant>,
    answered: Option<Instant>,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Out,
    Back,
}

/// A connection as its four threads see it.
#[derive(Clone)]
struct Watch {
    ends: Arc<Mutex<Ends>>,
    turn: Arc<Mutex<Turn>>,
}

impl Watch {
    fn read(&self, way: Way) {
        let mut turn = self.turn.lock().unwrap();
        let since = if way == Way::Out { turn.answered.take() } else { turn.given.take() };
        let Some(waited) = since.map(|s| s.elapsed()) else { return };
        let mut ends = self.ends.lock().unwrap();
        if way == Way::Out {
            ends.turns += 1;
            ends.follower += waited;
        } else {
            ends.packs += 1;
            ends.collector += waited;
        }
    }

    fn written(&self, way: Way) {
        let mut turn = self.turn.lock().unwrap();
        *(if way == Way::Out { &mut turn.given } else { &mut turn.answered }) = Some(Instant::now());
    }
}

/// Reads and stamps; nothing counts as having come before `opened`. An empty chunk is the end.
fn receive(
    mut from: TcpStream,
    opened: Instant,
    way: Way,
    watch: &Watch,
    to: &SyncSender<(Instant, Vec<u8>)>,
) {
    let mut buf = vec![0; CHUNK];
    loop {
        let n = from.read(&mut buf).unwrap_or(0);
        if n > 0 {
            watch.read(way);
        }
        let due = Instant::now().max(opened) + ONE_WAY;
        if to.send((due, buf[..n].to_vec())).is_err() || n == 0 {
            return;
        }
    }
}

fn deliver(from: &Receiver<(Instant, Vec<u8>)>, way: Way, watch: &Watch, mut to: TcpStream) {
    for (due, bytes) in from {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if bytes.is_empty() || to.write_all(&bytes).is_err() {
            break;
        }
        watch.written(way);
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Starts the proxy; its threads end with this program, and those of a connection with it.
fn far_away(collector: SocketAddr) -> (SocketAddr, Arc<Mutex<Ends>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let ends = Arc::new(Mutex::new(Ends::default()));
    let seen = Arc::clone(&ends);
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(collector));
            // The follower finds its connection closed, as if the collector had done it.
            let Ok(far) = far else { continue };
            let opened = Instant::now() + ONE_WAY * 2;
            let watch = Watch { ends: Arc::clone(&seen), turn: Arc::default() };
            for (way, from, to) in [(Way::Out, &near, &far), (Way::Back, &far, &near)] {
                to.set_nodelay(true).unwrap();
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let (stamped, due) = sync_channel(UNDER_WAY);
                let (reading, writing) = (watch.clone(), watch.clone());
                thread::spawn(move || receive(from, opened, way, &reading, &stamped));
                thread::spawn(move || deliver(&due, way, &writing, to));
            }
        }
    });
    (addr, ends)
}

/// Ships an hour over the proxy with these keys; raw MB/s.
fn ship(senders: u32, keys: &[(&str, &str)]) -> f64 {
    let temp = scratch("wan");
    let zone = Zone::named("UTC").unwrap();
    let hour = zone.hour_at(Clock::real().now_ms() - 2 * 3_600_000).to_string();
    let source = temp.path(&format!("access.log.{hour}"));
    let packs = u64::from(senders) * SECONDS * 1000 / ROUND_TRIP_MS;
    println!("lines: {}", lines::write(&source, packs << 20));
    let bytes = source.metadata().unwrap().len();
    let mut store = store(&temp, &[("checkpoint", "30s")]);
    let (addr, ends) = far_away(store.addr());
    let (to, pattern) = (addr.to_string(), temp.path("access.log.<%Y%m%d%H>").display().to_string());
    let mut all = vec![("log_file", pattern.as_str()), ("send_to", &to), ("name", NAME), ("timezone", "UTC")];
    all.extend([("start", hour.as_str()), ("quiet", "0"), ("close_wait", "0")]);
    all.extend(keys);
    let begun = Instant::now();
    let tail = Node::spawn(&temp, "web", "tail", &all, &[]);
    let save = temp.path("save");
    let data = save.join("log_data").join(format!("{NAME}_{hour}"));
    let length = || data.metadata().map_or(0, |m| m.len());
    let (first, from) = until(PATIENCE, "the first pack", || {
        let n = length();
        (n > 0).then(|| (n, Instant::now()))
    });
    until(PATIENCE, "the last pack", || (length() >= bytes).then_some(()));
    let steady = from.elapsed().as_secs_f64();
    let (sent, stored) = (usage(&tail), usage(&store));
    let cert = certified(&save, NAME, &hour);
    let wall = begun.elapsed().as_secs_f64();
    assert_eq!(cert["verified"], true, "{cert}");
    {
        let e = ends.lock().unwrap();
        let mean = |sum: Duration, n: u32| sum.as_secs_f64() * 1000.0 / f64::from(n.max(1));
        println!(
            "{} MB, {} packs; first to last pack {steady:.2} s, start to tag {wall:.2} s",
            bytes / 1_000_000,
            e.packs
        );
        println!(
            "mean of a pack: the collector's part {:.1} ms, the follower's {:.1} ms",
            mean(e.collector, e.packs),
            mean(e.follower, e.turns)
        );
    }
    for (name, u) in [("tail", sent), ("fcollector", stored)] {
        println!("  {name:10} user {:.2} s, sys {:.2} s, RSS {:.1} MB", u.cpu.user, u.cpu.sys, u.rss_mb);
    }
    drop((tail, store));
    assert_same(&data, &source);
    (bytes - first) as f64 / MB / steady
}

/// The defaults, and eight connections with a compressor per core.
pub fn wan(report: &mut Report) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let eight = [("senders", "8"), ("compressors", cores.as_str())];
    for (senders, keys) in [(2, &[][..]), (8, &eight[..])] {
        let rate = ship(senders, keys);
        let most = f64::from(senders) * PACK_BYTES / MB * 1000.0 / ROUND_TRIP_MS as f64;
        let what = format!("wan, senders = {senders}: raw MB/s by senders x pack_bytes / round trip");
        report.row(&what, rate / most, "", Target::AtLeast(0.8));
        let target = if senders == 8 { Target::AtLeast(60.0) } else { Target::None };
        report.row(&format!("wan, senders = {senders}: raw lines"), rate, "MB/s", target);
    }
}
