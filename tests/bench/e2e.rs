//! One past hour of unique lines goes from `logd tail` to `logd fcollector` on loopback, every promise on, until the hour is
//! certified; then its bytes are compared with the source. Each level by itself; then level 6 once more through a relay.
//!
//! - *CPU*: user and system seconds of all threads of a process from its start until the tag was there.
//! - *codec*: CPU of deflate, inflate and one SHA-256 per end over the same packs, in one thread of this program with the same
//!   crates and nothing else; mean of a pass before and one after the shipping.
//! - *ratio*: CPU of both processes by the codec's.
//! - *wall*: from the start of `logd tail` until the tag is there. Both ends and this program's own polling share the cores.
//! - *RSS*: peak resident memory (`VmHWM`), MB = 10^6 bytes.
//! - *disk*: 1 MiB written and fdatasync'ed, 64 times, in the same directory and run.

use super::lines;
use super::measure::*;
use super::support::{Node, Temp, assert_same, store, tag, until};
use logd::clock::{Clock, Zone};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NAME: &str = "web-01.example.com";
const PATIENCE: Duration = Duration::from_mins(30);
/// On a slower disk the wall time says more of the disk than of us.
const DISK_MIN: f64 = 400.0;

struct Source {
    temp: Temp,
    hour: String,
    path: PathBuf,
    bytes: u64,
}

impl Source {
    fn new() -> Self {
        let temp = scratch("e2e");
        let zone = Zone::named("UTC").unwrap();
        let hour = zone.hour_at(Clock::real().now_ms() - 2 * 3_600_000).to_string();
        let path = temp.path(&format!("access.log.{hour}"));
        println!("lines: {}", lines::write(&path, megabytes() * 1_000_000));
        let bytes = path.metadata().unwrap().len();
        Self { temp, hour, path, bytes }
    }
}

struct Shipped {
    tail: Usage,
    store: Usage,
    relay: Usage,
    wall: f64,
}

/// Ships the hour, through a relay or not.
fn ship(s: &Source, level: u32, keys: &[(&str, &str)], through_relay: bool) -> Shipped {
    let temp = scratch("ship");
    let mut store = store(&temp, &[("checkpoint", "30s")]);
    let mut to = store.addr().to_string();
    let mut relay = through_relay.then(|| Node::start(&temp, "relay", "collector", &[("send_to", &to)], &[]));
    if let Some(r) = &mut relay {
        to = r.addr().to_string();
    }
    let pattern = s.temp.path("access.log.<%Y%m%d%H>").display().to_string();
    let level = level.to_string();
    let mut all = vec![("log_file", pattern.as_str()), ("send_to", &to), ("name", NAME), ("timezone", "UTC")];
    all.extend([("start", s.hour.as_str()), ("quiet", "0"), ("close_wait", "0"), ("compress_level", &level)]);
    all.extend(keys);
    let start = Instant::now();
    let tail = Node::spawn(&temp, "web", "tail", &all, &[]);
    let save = temp.path("save");
    let cert = until(PATIENCE, "the certificate", || tag(&save, NAME, &s.hour));
    let wall = start.elapsed().as_secs_f64();
    let used = Shipped {
        tail: usage(&tail),
        store: usage(&store),
        relay: relay.as_ref().map(usage).unwrap_or_default(),
        wall,
    };
    assert_eq!(cert["verified"], true, "{cert}");
    drop((tail, relay, store));
    assert_same(&save.join("log_data").join(format!("{NAME}_{}", s.hour)), &s.path);
    used
}

/// Codec before and after, and what was shipped between.
fn beside_codec(s: &Source, level: u32, keys: &[(&str, &str)], relay: bool) -> (Shipped, f64) {
    let before = codec(&s.path, level);
    let shipped = ship(s, level, keys, relay);
    let after = codec(&s.path, level);
    let mean = f64::midpoint(before.total(), after.total());
    println!(
        "level {level}: {} packs, deflated {:.3}; codec s: deflate {:.2} {:.2}, inflate {:.2} {:.2}, SHA-256 {:.2} {:.2}",
        before.packs,
        before.ratio,
        before.deflate,
        after.deflate,
        before.inflate,
        after.inflate,
        before.sha,
        after.sha
    );
    for (name, u) in [("tail", shipped.tail), ("relay", shipped.relay), ("fcollector", shipped.store)] {
        if u.rss_mb > 0.0 {
            println!("  {name:10} user {:.2} s, sys {:.2} s, RSS {:.1} MB", u.cpu.user, u.cpu.sys, u.rss_mb);
        }
    }
    (shipped, mean)
}

/// Levels 6, 3 and 1; level 6 with the default of one compressor and with one for each core.
pub fn levels(report: &mut Report) {
    let s = Source::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all = cores.to_string();
    let runs: [(u32, &str, &str); 4] = [
        (6, "1", ""),
        (6, &all, ", a compressor per core"),
        (3, &all, ", a compressor per core"),
        (1, &all, ", a compressor per core"),
    ];
    for (level, compressors, note) in runs {
        // Twice as many connections: one waits for its answer while another one's pack is compressed.
        let senders = (compressors.parse::<usize>().unwrap() * 2).to_string();
        let keys = [("compressors", compressors), ("senders", &senders)];
        let (shipped, codec) = beside_codec(&s, level, &keys, false);
        let cpu = shipped.tail.cpu.total() + shipped.store.cpu.total();
        let what = |part: &str| format!("e2e level {level}{note}: {part}");
        let six = |t: Target| if level == 6 { t } else { Target::None };
        report.row(&what("CPU by codec's"), cpu / codec, "", six(Target::AtMost(1.25)));
        let raw = s.bytes as f64 / MB;
        report.row(&what("raw lines"), raw / shipped.wall, "MB/s", Target::None);
        report.row(&what("raw lines by CPU second"), raw / cpu, "MB", Target::None);
        let (rate, ms) = synced_writes(&s.temp.path("synced"));
        println!("disk: {rate:.0} MB/s of synced writes, {ms:.1} ms each");
        let wall = shipped.wall / (codec / cores as f64);
        let fast = !note.is_empty() && rate >= DISK_MIN;
        let target = if fast { six(Target::AtMost(1.4)) } else { Target::None };
        report.row(&what("wall by codec's CPU / cores"), wall, "", target);
        report.row(&what("follower's RSS"), shipped.tail.rss_mb, "MB", six(Target::AtMost(12.0)));
        report.row(&what("collector's RSS"), shipped.store.rss_mb, "MB", six(Target::AtMost(40.0)));
    }
}

/// Level 6 through a relay.
pub fn relay(report: &mut Report) {
    let s = Source::new();
    let (shipped, codec) = beside_codec(&s, 6, &[], true);
    report.row("relay: its CPU by codec's", shipped.relay.cpu.total() / codec, "", Target::AtMost(0.15));
    report.row("relay: its RSS", shipped.relay.rss_mb, "MB", Target::None);
    report.row("relay: raw lines", s.bytes as f64 / MB / shipped.wall, "MB/s", Target::None);
}
