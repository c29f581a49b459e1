//! The end-to-end benchmark: `cargo bench --bench e2e`.
//!
//! One past hour of unique access-log lines goes from `logd tail` to `logd fcollector`, two processes on loopback,
//! level 6, every promise on, until the hour is certified and its bytes are compared with the source. What the two
//! cost is divided by what the codec alone costs on the same packs in the same run, before and after: a ratio means
//! something on other machines and beside other load, seconds do not.
//!
//! `LOGD_BENCH_MB` (477): size of the hour. `LOGD_SHARED`: the lines are made from `data/apache_combined.log` in that
//! directory, shuffled anew each round; else a seeded generator makes lines that deflate about as well. Every line
//! ends with a running number, so none is repeated. `LOGD_BIN`: a program to measure instead of the one just built. The exit status is 1 if something is not as it must be; missed
//! targets are only printed, because they are noise on a machine that is too small or too busy.
//!
//! Everything lies in one directory below cargo's own temporary directory; it is removed at the end, after an error
//! and after SIGINT or SIGTERM.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use logd::clock::{Clock, Zone};
use logd::disk::sim::Rng;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const NAME: &str = "web-01.example.com";
const LEVEL: u32 = 6;
/// Where packs are cut: `pack_bytes`' default, at the end of a line.
const PACK: usize = 1 << 20;
const MB: f64 = 1e6;
/// The kernel tells CPU time to programs in hundredths of a second (`USER_HZ`), on every architecture we know.
const TICKS: f64 = 100.0;
const PATIENCE: Duration = Duration::from_mins(30);

const TARGET_RATIO: f64 = 1.6;
const TARGET_RSS_MB: f64 = 16.0;

type Result<T> = std::result::Result<T, String>;

/// Processes to end and the directory to remove, whatever happens.
static LEFT: Mutex<(Vec<Pid>, Option<PathBuf>)> = Mutex::new((Vec::new(), None));

fn main() -> ExitCode {
    // `cargo test --benches` runs it to see that it runs; that is not worth half a gigabyte.
    if std::env::args().any(|a| a == "--test" || a == "--list") {
        return ExitCode::SUCCESS;
    }
    let on_signal = ctrlc::set_handler(|| {
        clean_up();
        std::process::exit(130);
    });
    let result = on_signal.map_err(|e| e.to_string()).and_then(|()| run());
    clean_up();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("e2e: {why}");
            ExitCode::FAILURE
        }
    }
}

fn clean_up() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    for pid in left.0.drain(..) {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    }
    if let Some(dir) = left.1.take() {
        let _ = fs::remove_dir_all(dir);
    }
}

fn run() -> Result<()> {
    let megabytes = match std::env::var("LOGD_BENCH_MB") {
        Ok(t) => t.parse().map_err(|_| format!("LOGD_BENCH_MB: {t:?} is not a number"))?,
        Err(_) => 477,
    };
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("e2e-{}", std::process::id()));
    fs::create_dir_all(&scratch).map_err(|e| said(&scratch, &e))?;
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(scratch.clone());

    let zone = Zone::named("UTC")?;
    let hour = zone.hour_at(Clock::real().now_ms() - 2 * 3_600_000).to_string();
    let source = scratch.join(format!("access.log.{hour}"));
    let origin = make_lines(&source, megabytes * 1_000_000)?;
    let before = codec(&source)?;
    let shipped = ship(&scratch, &hour, &source)?;
    let after = codec(&source)?;
    let sync = synced_writes(&scratch.join("synced"))?;
    print!("{}", table(&origin, &shipped, [&before, &after], sync));
    Ok(())
}

fn said(path: &Path, e: &dyn std::fmt::Display) -> String {
    format!("{}: {e}", path.display())
}

// ---- the lines ----

/// Writes the hour's lines; what they were made from.
fn make_lines(path: &Path, bytes: u64) -> Result<String> {
    let mut rng = Rng::new(7);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(|e| said(path, &e))?);
    let shared = std::env::var_os("LOGD_SHARED").map(|d| PathBuf::from(d).join("data/apache_combined.log"));
    let (mut made, mut number, mut line) = (0, 0u64, String::new());
    let mut put = |text: &str| -> Result<bool> {
        number += 1;
        line.clear();
        let _ = writeln!(line, "{text} {number}");
        made += line.len() as u64;
        out.write_all(line.as_bytes()).map_err(|e| said(path, &e))?;
        Ok(made < bytes)
    };
    let origin = if let Some(real) = shared {
        let text = fs::read_to_string(&real).map_err(|e| said(&real, &e))?;
        let mut lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return Err(said(&real, &"no lines"));
        }
        'rounds: loop {
            for i in (1..lines.len()).rev() {
                lines.swap(i, rng.below(i as u64 + 1) as usize);
            }
            for l in &lines {
                if !put(l)? {
                    break 'rounds;
                }
            }
        }
        "$LOGD_SHARED/data/apache_combined.log, shuffled each round".to_owned()
    } else {
        let mut site = Site::new(&mut rng);
        while put(&site.line(&mut rng))? {}
        "the generator, seed 7".to_owned()
    };
    out.flush().map_err(|e| said(path, &e))?;
    Ok(format!("{origin}, {number} lines, a running number at the end of each"))
}

/// A pretended web site: few pages and clients make most of the lines, as everywhere.
struct Site {
    clients: Vec<(String, usize)>,
    pages: Vec<(String, u64)>,
    agents: Vec<String>,
    second: u64,
}

const WORDS: [&str; 32] = [
    "blog",
    "images",
    "articles",
    "projects",
    "search",
    "static",
    "news",
    "user",
    "product",
    "category",
    "dynamic",
    "kibana",
    "presentations",
    "logstash",
    "monitorama",
    "geekery",
    "files",
    "style",
    "reset",
    "favicon",
    "tags",
    "rss",
    "archive",
    "profile",
    "cart",
    "checkout",
    "video",
    "thumb",
    "api",
    "session",
    "download",
    "feed",
];
const ENDS: [&str; 8] = ["/", ".html", ".png", ".css", ".js", ".jpg", "", ".php"];

impl Site {
    fn new(rng: &mut Rng) -> Self {
        let word = |rng: &mut Rng| WORDS.get(rng.below(32) as usize).copied().unwrap_or("x");
        let pages = (0..1500).map(|_| {
            let mut path = String::new();
            for _ in 0..=rng.below(4) {
                let _ = write!(path, "/{}", word(rng));
            }
            if rng.chance(40) {
                let _ = write!(path, "-{}", rng.below(2020));
            }
            (path + ENDS.get(rng.below(8) as usize).copied().unwrap_or(""), rng.below(60_000))
        });
        let pages = pages.collect();
        let agents = (0..500).map(|_| {
            let system = ["Windows NT 6.1; WOW64", "Macintosh; Intel Mac OS X 10_9_1", "X11; Linux x86_64", "Windows NT 5.1"]
                .get(rng.below(4) as usize)
                .copied()
                .unwrap_or("X11");
            let (a, b, c) = (rng.below(40), rng.below(2200), rng.below(200));
            if rng.chance(60) {
                format!("Mozilla/5.0 ({system}) AppleWebKit/537.{a} (KHTML, like Gecko) Chrome/{a}.0.{b}.{c} Safari/537.{a}")
            } else if rng.chance(50) {
                format!("Mozilla/5.0 ({system}; rv:{a}.0) Gecko/20100101 Firefox/{a}.0")
            } else {
                format!("Mozilla/5.0 (compatible; {}bot/{a}.{c}; +http://www.{}.com/bot.html)", word(rng), word(rng))
            }
        });
        let agents: Vec<String> = agents.collect();
        let clients = (0..1800).map(|_| {
            let (a, b, c, d) = (1 + rng.below(223), rng.below(256), rng.below(256), rng.below(256));
            (format!("{a}.{b}.{c}.{d}"), rng.below(agents.len() as u64) as usize)
        });
        Self { clients: clients.collect(), pages, agents, second: 0 }
    }

    /// Small numbers are much more frequent than large ones.
    fn rank(rng: &mut Rng, count: usize) -> usize {
        let n = count as u64;
        rng.below(n).min(rng.below(n)) as usize
    }

    fn line(&mut self, rng: &mut Rng) -> String {
        self.second += u64::from(rng.chance(1));
        let (minute, second) = (self.second / 60 % 60, self.second % 60);
        let client = self.clients.get(Self::rank(rng, self.clients.len()));
        let (address, agent) = client.map_or(("", 0), |(a, n)| (a.as_str(), *n));
        let agent = self.agents.get(agent).map_or("", String::as_str);
        let page = self.pages.get(Self::rank(rng, self.pages.len()));
        let (path, size) = page.map_or(("/", 0), |(p, s)| (p.as_str(), *s));
        let (status, size) = match rng.below(100) {
            0..=2 => (404, 290),
            3..=6 => (304, 0),
            7..=20 => (200, rng.below(200_000)),
            _ => (200, size),
        };
        let referer = match rng.below(10) {
            0..=2 => "-".to_owned(),
            3..=4 => format!("http://www.google.com/url?sa=t&cd={}&ei={:x}", rng.below(10), rng.next_u64()),
            _ => {
                let from = self.pages.get(Self::rank(rng, self.pages.len()));
                format!("http://www.example.com{}", from.map_or("/", |(p, _)| p.as_str()))
            }
        };
        format!(
            "{address} - - [17/May/2015:10:{minute:02}:{second:02} +0000] \"GET {path} HTTP/1.1\" {status} {size} \
             \"{referer}\" \"{agent}\""
        )
    }
}

// ---- the codec alone ----

/// CPU seconds of the codec on the hour's packs.
struct Codec {
    packs: usize,
    raw: u64,
    packed: u64,
    deflate: f64,
    inflate: f64,
    sha: f64,
}

impl Codec {
    fn total(&self) -> f64 {
        self.deflate + self.inflate + self.sha
    }
}

/// Deflates, inflates and hashes (once per end) each pack in this thread. All memory is touched before time counts.
fn codec(source: &Path) -> Result<Codec> {
    let all = fs::read(source).map_err(|e| said(source, &e))?;
    let mut packs = Vec::new();
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let window = rest.get(..PACK).unwrap_or(rest);
        let cut = memchr::memrchr(b'\n', window).map_or(rest.len(), |n| n + 1);
        let (pack, after) = rest.split_at(cut);
        packs.push(pack);
        rest = after;
    }
    let own = std::process::id();
    let mut room = vec![1u8; all.len() / 2 + PACK];
    let mut bodies = Vec::with_capacity(packs.len());
    let mut compress = Compress::new(Compression::new(LEVEL), true);
    let start = cpu(own)?;
    let mut free = room.as_mut_slice();
    for pack in &packs {
        compress.reset();
        match compress.compress(pack, free, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => {}
            other => return Err(format!("deflate: {other:?}: the lines deflate badly")),
        }
        let (body, after) = free.split_at_mut(compress.total_out() as usize);
        bodies.push(body);
        free = after;
    }
    let deflated = cpu(own)?;
    let mut decompress = Decompress::new(true);
    let mut raw = vec![1u8; PACK * 2];
    let inflating = cpu(own)?;
    for (body, pack) in bodies.iter().zip(&packs) {
        decompress.reset(true);
        match decompress.decompress(body, &mut raw, FlushDecompress::Finish) {
            Ok(Status::StreamEnd) if decompress.total_out() == pack.len() as u64 => {}
            other => return Err(format!("inflate: {other:?}")),
        }
    }
    let inflated = cpu(own)?;
    for pack in &packs {
        for _end in ["sender", "receiver"] {
            std::hint::black_box(Sha256::digest(pack));
        }
    }
    let hashed = cpu(own)?;
    let part = |from: Cpu, to: Cpu| to.total() - from.total();
    Ok(Codec {
        packs: packs.len(),
        raw: all.len() as u64,
        packed: bodies.iter().map(|b| b.len() as u64).sum(),
        deflate: part(start, deflated),
        inflate: part(inflating, inflated),
        sha: part(inflated, hashed),
    })
}

// ---- the two processes ----

/// CPU seconds.
#[derive(Clone, Copy)]
struct Cpu {
    user: f64,
    sys: f64,
}

impl Cpu {
    fn total(self) -> f64 {
        self.user + self.sys
    }
}

/// CPU time of a process and its ended threads so far; also of one that has ended and was not waited for.
fn cpu(pid: u32) -> Result<Cpu> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = fs::read_to_string(&path).map_err(|e| said(&path, &e))?;
    // The program's name, in brackets, may hold anything; the fields count from behind it.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| {
        fields.get(i).and_then(|t| t.parse::<f64>().ok()).ok_or_else(|| said(&path, &"unreadable"))
    };
    Ok(Cpu { user: ticks(11)? / TICKS, sys: ticks(12)? / TICKS })
}

/// Peak resident memory so far, in MB.
fn peak_rss(pid: u32) -> Result<f64> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(|e| said(&path, &e))?;
    let kib =
        text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map(|k| k * 1024.0 / MB).ok_or_else(|| said(&path, &"no VmHWM"))
}

struct Usage {
    cpu: Cpu,
    rss_mb: f64,
}

struct Shipped {
    tail: Usage,
    collector: Usage,
    wall: f64,
    packs: u64,
    bytes: u64,
    lines: u64,
}

struct Role {
    child: Child,
    log: PathBuf,
}

impl Role {
    fn start(scratch: &Path, role: &str, config: &str) -> Result<Self> {
        let path = scratch.join(format!("{role}.ini"));
        fs::write(&path, config).map_err(|e| said(&path, &e))?;
        let log = scratch.join(format!("{role}.log"));
        let out = File::create(&log).map_err(|e| said(&log, &e))?;
        let program = std::env::var_os("LOGD_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_logd").into());
        let mut command = Command::new(program);
        command.arg(role).arg(&path).current_dir(scratch);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).spawn();
        let child = child.map_err(|e| format!("logd {role}: {e}"))?;
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).0.push(Pid::from_child(&child));
        Ok(Self { child, log })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `found` says something; an error if the process ends before.
    fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(t) = found(self)? {
                return Ok(t);
            }
            let ended = self.child.try_wait().map_err(|e| e.to_string())?.is_some();
            if ended || start.elapsed() > PATIENCE {
                return Err(format!("no {what}; the process said:\n{}", self.said()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it in the usual way; what it used from its first to its last moment.
    fn stop(mut self) -> Result<Usage> {
        let pid = Pid::from_child(&self.child);
        let rss_mb = peak_rss(self.child.id())?;
        kill_process(pid, Signal::TERM).map_err(|e| e.to_string())?;
        // Ended and not yet waited for: only now are its numbers final, and still there.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map_err(|e| e.to_string())?;
        let cpu = cpu(self.child.id())?;
        let status = self.child.wait().map_err(|e| e.to_string())?;
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).0.retain(|p| *p != pid);
        if !status.success() {
            return Err(format!("a process ended with {status} and said:\n{}", self.said()));
        }
        Ok(Usage { cpu, rss_mb })
    }
}

fn ship(scratch: &Path, hour: &str, source: &Path) -> Result<Shipped> {
    let store = scratch.join("store");
    fs::create_dir_all(&store).map_err(|e| said(&store, &e))?;
    let dir = scratch.display();
    let mut collector = Role::start(
        scratch,
        "fcollector",
        &format!(
            "[fcollector]\nlisten = 127.0.0.1:0\nsave_dir = {dir}/store\nstate_dir = {dir}/fcollector\n"
        ),
    )?;
    let addr = collector.until("listener", |c| {
        let said = c.said();
        let rest = said.split_once("listening on ").map(|(_, rest)| rest);
        Ok(rest.and_then(|r| r.split_once(',')).map(|(addr, _)| addr.to_owned()))
    })?;
    let start = Instant::now();
    let mut tail = Role::start(
        scratch,
        "tail",
        &format!(
            "[tail]\nlog_file = {dir}/access.log.<%Y%m%d%H>\nsend_to = {addr}\nname = {NAME}\ntimezone = UTC\n\
             state_dir = {dir}/tail\nstart = {hour}\nquiet = 0\nclose_wait = 0\ncompress_level = {LEVEL}\n"
        ),
    )?;
    let received = store.join("received");
    let wanted = format!("{NAME}_{hour}_");
    let tag = tail.until("certificate", |_| {
        let names = fs::read_dir(&received).map_err(|e| said(&received, &e))?;
        let found = names.flatten().find(|e| e.file_name().to_string_lossy().starts_with(&wanted));
        Ok(found.map(|e| e.path()))
    })?;
    let wall = start.elapsed().as_secs_f64();
    let (tail, collector) = (tail.stop()?, collector.stop()?);

    let text = fs::read(&tag).map_err(|e| said(&tag, &e))?;
    let cert: serde_json::Value = serde_json::from_slice(&text).map_err(|e| said(&tag, &e))?;
    if cert.get("verified") != Some(&true.into()) {
        return Err(format!("the certificate does not say `verified`: {cert}"));
    }
    equal(source, &store.join("log_data").join(format!("{NAME}_{hour}")))?;
    let number = |k: &str| cert.get(k).and_then(serde_json::Value::as_u64).unwrap_or(0);
    Ok(Shipped {
        tail,
        collector,
        wall,
        packs: number("packs"),
        bytes: number("bytes"),
        lines: number("lines"),
    })
}

fn equal(a: &Path, b: &Path) -> Result<()> {
    let open = |p: &Path| File::open(p).map_err(|e| said(p, &e));
    let (mut fa, mut fb) = (open(a)?, open(b)?);
    let (mut ba, mut bb) = (Vec::new(), Vec::new());
    loop {
        for (f, path, buf) in [(&mut fa, a, &mut ba), (&mut fb, b, &mut bb)] {
            buf.clear();
            f.take(1 << 20).read_to_end(buf).map_err(|e| said(path, &e))?;
        }
        if ba != bb {
            return Err(format!("{} differs from {}", b.display(), a.display()));
        }
        if ba.is_empty() {
            return Ok(());
        }
    }
}

/// MB/s and milliseconds per sync of 64 blocks of 1 MiB, each made durable before the next.
fn synced_writes(path: &Path) -> Result<(f64, f64)> {
    let mut file = File::create(path).map_err(|e| said(path, &e))?;
    let block = vec![b'x'; 1 << 20];
    let start = Instant::now();
    for _ in 0..64 {
        file.write_all(&block).and_then(|()| file.sync_data()).map_err(|e| said(path, &e))?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok((64.0 * block.len() as f64 / MB / seconds, seconds * 1000.0 / 64.0))
}

// ---- the report ----

fn table(origin: &str, s: &Shipped, codec: [&Codec; 2], sync: (f64, f64)) -> String {
    let [first, second] = codec;
    let mean = f64::midpoint(first.total(), second.total());
    let total = s.tail.cpu.total() + s.collector.cpu.total();
    let ratio = total / mean;
    let raw = s.bytes as f64;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let now = Zone::named("UTC").map(|z| z.format_ms(Clock::real().now_ms())).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut env = String::new();
    for key in ["LOGD_BENCH_MB", "LOGD_BIN", "LOGD_SHARED"] {
        if let Ok(value) = std::env::var(key) {
            let _ = write!(env, "{key}={value} ");
        }
    }
    let mut out = String::new();
    let _ = write!(
        out,
        "command   {env}cargo bench --bench e2e\n\
         date      {now} UTC\n\
         machine   {}, {cores} cores, Linux {}, load {}\n\
         lines     {origin}\n\
         hour      {} lines, {:.1} MB, {} packs; deflated {:.3} of that\n\
         \n\
         CPU       user + system seconds of all threads, from the start of the process to its end\n\
         RSS       peak resident memory (VmHWM), MB = 10^6 bytes\n\
         wall      from the start of `logd tail` until the tag of the hour is there; both ends and the benchmark's\n\
         \u{20}         own polling share the cores\n\
         codec     CPU of deflate level {LEVEL}, inflate and one SHA-256 per end over the same packs, in one thread of this\n\
         \u{20}         program, same crates, nothing else; mean of one pass before and one after the shipping\n\
         ratio     CPU of both processes divided by the codec's\n\
         disk      1 MiB written and fdatasync'ed, 64 times, in the same directory\n\
         \n",
        model.map_or("unknown CPU", |(_, m)| m),
        kernel.trim(),
        load.split_whitespace().next().unwrap_or("?"),
        s.lines,
        raw / MB,
        s.packs,
        first.packed as f64 / first.raw as f64,
    );
    let _ = writeln!(out, "|            | user s |  sys s |  CPU s | RSS MB |\n|---|---|---|---|---|");
    for (name, u) in [("tail", &s.tail), ("fcollector", &s.collector)] {
        let (user, sys, all) = (u.cpu.user, u.cpu.sys, u.cpu.total());
        let _ = writeln!(out, "| {name:10} | {user:6.2} | {sys:6.2} | {all:6.2} | {:6.1} |", u.rss_mb);
    }
    let _ = writeln!(out, "| both       |        |        | {total:6.2} |        |\n");
    let _ = writeln!(out, "| codec | deflate s | inflate s | SHA-256 s | CPU s |\n|---|---|---|---|---|");
    for (name, c) in [("before", first), ("after", second)] {
        let (d, i, h, all) = (c.deflate, c.inflate, c.sha, c.total());
        let _ = writeln!(out, "| {name:6} | {d:8.2} | {i:8.2} | {h:8.2} | {all:5.2} |");
    }
    let verdict = |good: bool| if good { "met" } else { "MISSED" };
    let _ = write!(
        out,
        "\nratio               {ratio:.2}   (target: at most {TARGET_RATIO}; {})\n\
         follower's RSS      {:.1} MB   (target: at most {TARGET_RSS_MB} MB; {})\n\
         wall                {:.1} s, {:.0} MB/s\n\
         per CPU second      {:.0} MB\n\
         disk                {:.0} MB/s, {:.1} ms per sync\n",
        verdict(ratio <= TARGET_RATIO),
        s.tail.rss_mb,
        verdict(s.tail.rss_mb <= TARGET_RSS_MB),
        s.wall,
        raw / MB / s.wall,
        raw / MB / total,
        sync.0,
        sync.1,
    );
    if first.packs as u64 != s.packs.saturating_sub(1) && first.packs as u64 != s.packs {
        let _ = writeln!(out, "note: the codec was measured on {} packs, {} were sent", first.packs, s.packs);
    }
    out
}
