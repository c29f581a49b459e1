//! What all suites measure with: CPU, memory and wake-ups of processes, the codec alone, the disk, and the report.

use super::support::{Node, Temp};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use logd::clock::{Clock, Zone};
use rustix::process::Pid;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// 10^6 bytes.
pub const MB: f64 = 1e6;
/// Where packs are cut: `pack_bytes`' default, at the end of a line.
const PACK: usize = 1 << 20;
/// The kernel tells CPU time to programs in hundredths of a second (`USER_HZ`), on every architecture we know.
const TICKS: f64 = 100.0;

/// A directory on the disk that cargo builds on: `/tmp` may be memory.
pub fn scratch(what: &str) -> Temp {
    Temp::within(Path::new(env!("CARGO_TARGET_TMPDIR")), what)
}

/// Size of an hour in MB.
pub fn megabytes() -> u64 {
    std::env::var("LOGD_BENCH_MB").map_or(477, |t| t.parse().expect("LOGD_BENCH_MB is a number"))
}

// ---- processes ----

/// CPU seconds.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub sys: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.sys
    }
}

/// What a process has used so far: CPU time of all its threads, ended ones too; most memory that it ever had.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    pub cpu: Cpu,
    pub rss_mb: f64,
}

fn cpu_of(pid: &str) -> Cpu {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The program's name, in brackets, may hold anything; the fields count from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |i: usize| fields[i].parse::<f64>().unwrap() / TICKS;
    Cpu { user: ticks(11), sys: ticks(12) }
}

fn pid(node: &Node) -> String {
    node.pid().map(Pid::as_raw_nonzero).unwrap().to_string()
}

/// CPU seconds of a process so far.
pub fn cpu(node: &Node) -> f64 {
    cpu_of(&pid(node)).total()
}

/// CPU seconds of this process so far.
pub fn own_cpu() -> f64 {
    cpu_of("self").total()
}

/// What a process has used so far.
pub fn usage(node: &Node) -> Usage {
    Usage { cpu: cpu_of(&pid(node)), rss_mb: node.proc_status("VmHWM") as f64 * 1024.0 / MB }
}

/// The same of a process that is none of ours.
pub fn usage_of(pid: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let most = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()).unwrap();
    Usage { cpu: cpu_of(&pid.to_string()), rss_mb: most.parse::<f64>().unwrap() * 1024.0 / MB }
}

/// Memory that it has now, in MB.
pub fn rss(node: &Node) -> f64 {
    node.proc_status("VmRSS") as f64 * 1024.0 / MB
}

/// How often threads of a process that are still there went to sleep: so often they were woken.
pub fn wakeups(node: &Node) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid(node))).unwrap();
    let of = |status: String| -> Option<u64> {
        status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    };
    tasks.filter_map(|t| fs::read_to_string(t.unwrap().path().join("status")).ok()).filter_map(of).sum()
}

// ---- the codec alone ----

/// CPU seconds of the codec on an hour's packs.
pub struct Codec {
    pub packs: usize,
    /// Packed bytes by raw bytes.
    pub ratio: f64,
    pub deflate: f64,
    pub inflate: f64,
    pub sha: f64,
}

impl Codec {
    pub fn total(&self) -> f64 {
        self.deflate + self.inflate + self.sha
    }
}

/// Deflates, inflates and hashes (once per end) each pack in this thread, with the crates that the program uses and nothing
/// else. All memory is touched before time counts.
pub fn codec(source: &Path, level: u32) -> Codec {
    let all = fs::read(source).unwrap();
    let mut packs = Vec::new();
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let window = rest.get(..PACK).unwrap_or(rest);
        let (pack, after) = rest.split_at(memchr::memrchr(b'\n', window).map_or(rest.len(), |n| n + 1));
        packs.push(pack);
        rest = after;
    }
    let mut room = vec![1u8; all.len() / 2 + PACK];
    let mut bodies = Vec::with_capacity(packs.len());
    let mut compress = Compress::new(Compression::new(level), true);
    let start = own_cpu();
    let mut free = room.as_mut_slice();
    for pack in &packs {
        compress.reset();
        let done = compress.compress(pack, free, FlushCompress::Finish).unwrap();
        assert_eq!(done, Status::StreamEnd, "the lines deflate badly");
        let (body, after) = free.split_at_mut(compress.total_out() as usize);
        bodies.push(body);
        free = after;
    }
    let deflated = own_cpu();
    let mut decompress = Decompress::new(true);
    let mut raw = vec![1u8; PACK * 2];
    let inflating = own_cpu();
    for body in &bodies {
        decompress.reset(true);
        let done = decompress.decompress(body, &mut raw, FlushDecompress::Finish).unwrap();
        assert_eq!(done, Status::StreamEnd);
    }
    let inflated = own_cpu();
    for pack in &packs {
        for _end in ["sender", "receiver"] {
            std::hint::black_box(Sha256::digest(pack));
        }
    }
    let hashed = own_cpu();
    let packed: usize = bodies.iter().map(|b| b.len()).sum();
    Codec {
        packs: packs.len(),
        ratio: packed as f64 / all.len() as f64,
        deflate: deflated - start,
        inflate: inflated - inflating,
        sha: hashed - inflated,
    }
}

/// MB/s and milliseconds per sync of 64 blocks of 1 MiB, each made durable before the next.
pub fn synced_writes(path: &Path) -> (f64, f64) {
    let mut file = File::create(path).unwrap();
    let block = vec![b'x'; 1 << 20];
    let start = Instant::now();
    for _ in 0..64 {
        file.write_all(&block).and_then(|()| file.sync_data()).unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    (64.0 * block.len() as f64 / MB / seconds, seconds * 1000.0 / 64.0)
}

// ---- the report ----

/// What is demanded of a number.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Printed for whoever compares.
    None,
}

/// Prints as it goes, and all that has a target once more at the end.
pub struct Report {
    table: String,
    missed: usize,
}

impl Report {
    /// Prints what this run is.
    pub fn new(suites: &[&String]) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = Zone::named("UTC").map(|z| z.format_ms(Clock::real().now_ms())).unwrap();
        let mut env = String::new();
        for key in ["LOGD_BENCH_MB", "LOGD_BIN", "LOGD_SHARED"] {
            if let Ok(value) = std::env::var(key) {
                let _ = write!(env, "{key}={value} ");
            }
        }
        let suites: String = suites.iter().fold(String::new(), |all, s| all + " " + s);
        println!(
            "command   {env}cargo bench{}{suites}\ndate      {now} UTC\nmachine   {}, {cores} cores, Linux {}, load {}",
            if suites.is_empty() { "" } else { " --" },
            model.map_or("unknown CPU", |(_, m)| m),
            kernel.trim(),
            load.split_whitespace().next().unwrap_or("?"),
        );
        Self { table: String::new(), missed: 0 }
    }

    /// A number, with two digits behind the point.
    pub fn row(&mut self, what: &str, value: f64, unit: &str, target: Target) {
        let space = if unit.is_empty() { "" } else { " " };
        let (wanted, good) = match target {
            Target::AtMost(t) => (format!("at most {t}"), value <= t),
            Target::AtLeast(t) => (format!("at least {t}"), value >= t),
            Target::None => {
                println!("{what}: {value:.2}{space}{unit}");
                return;
            }
        };
        let verdict = if good { "met" } else { "MISSED" };
        self.missed += usize::from(!good);
        println!("{what}: {value:.2}{space}{unit} (target: {wanted}; {verdict})");
        let _ =
            writeln!(self.table, "| {what} | {value:.2}{space}{unit} | {wanted}{space}{unit} | {verdict} |");
    }

    /// Prints the table.
    pub fn end(self) {
        if !self.table.is_empty() {
            println!(
                "\n| what | measured | target | |\n|---|---|---|---|\n{}\nmissed: {}",
                self.table, self.missed
            );
        }
    }
}
