//! What users would pick instead, with the same lines and in the same run: one file of unique lines (`LOGD_BENCH_MB`) goes over TCP
//! on loopback into another file, both ends on this machine.
//!
//! - *wall*: from the start of the sending process until the receiving file has all bytes, looked at every 3 ms. The
//!   receiving process runs before. The hour's tag, which the others have no equal to, comes later and is only printed.
//! - *CPU*: user and system seconds of all threads of each process from its start until then.
//! - *RSS*: the most resident memory until then (`VmHWM`).
//! - *raw lines by CPU second*: MB by the CPU seconds of both ends.
//!
//! Afterwards the two files are compared; a peer whose file differs is printed and counts for nothing. No two programs
//! promise the same:
//!
//! | program | what an acknowledgement means | on the wire | what is lost when an end is killed |
//! |---|---|---|---|
//! | rsyslog, RELP | the line is in the receiver's queue in memory | plain | what that queue holds; and, as its file position is saved at a stop only, the sender reads anew or skips |
//! | syslog-ng, disk buffer | the kernel took the line: there is no answer, the buffer forgets it then | plain | what the sockets hold, and the receiver's queue |
//! | logd | the lines are fdatasync'ed at the receiver, with a SHA-256 of each pack checked | zlib | nothing; nothing comes twice |
//!
//! So the peers neither compress nor hash nor wait for a disk, and logd's wall has all three in it; they treat each line as a
//! message with a header and logd does not. They run as Debian delivers them, with one file of configuration for each end, queues in
//! memory but for syslog-ng's reliable disk buffer, and the receiver's parsing as light as it goes. Two of rsyslog's defaults are
//! changed in its favour: with a RELP window of 128 it waits for delayed TCP acknowledgements (about 2,000 lines a second
//! on loopback), and with two workers lines change places.
//!
//! Not here, because Debian does not have them: Fluent Bit, Vector, Filebeat, Fluentd. syslog-ng's ALTP, which has
//! acknowledgements, is not in its free edition.
//!
//! Nothing is installed from here: `apt-get install --no-install-recommends rsyslog rsyslog-relp`. Debian's syslog-ng cannot be
//! installed beside it: `apt-get install libivykis0 libnet1 libpcre3; apt-get download syslog-ng-core; dpkg -x syslog-ng-core*.deb DIR`
//! and `LOGD_SYSLOG_NG=DIR`. Without the variable it is looked for in its usual place.

use super::lines;
use super::measure::*;
use super::support::{Node, Reaped, Temp, certified, first_difference, store, until};
use logd::clock::{Clock, Zone};
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const NAME: &str = "web-01.example.com";
/// A receiving file that does not grow for so long will not grow any more.
const STUCK: Duration = Duration::from_secs(30);
const RSYSLOG: &str = "/usr/sbin/rsyslogd";

struct Source {
    temp: Temp,
    hour: String,
    path: PathBuf,
    bytes: u64,
}

struct Shipped {
    wall: f64,
    sender: Usage,
    receiver: Usage,
}

/// Waits until a file has so many bytes; false = it will not.
fn filled(path: &Path, bytes: u64) -> bool {
    let (mut seen, mut grown) = (0, Instant::now());
    loop {
        let now = path.metadata().map_or(0, |m| m.len());
        if now >= bytes {
            return true;
        }
        if now > seen {
            (seen, grown) = (now, Instant::now());
        } else if grown.elapsed() > STUCK {
            println!("{}: {seen} of {bytes} bytes, and no more of them for {STUCK:?}", path.display());
            return false;
        }
        thread::sleep(Duration::from_millis(3));
    }
}

fn same(what: &str, stored: &Path, s: &Source) -> bool {
    let at = first_difference(&fs::read(stored).unwrap(), &fs::read(&s.path).unwrap());
    if let Some(at) = at {
        println!("{what}: the two files differ from byte {at} on");
    }
    at.is_none()
}

/// A port that was free just now.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process in the foreground; what it says is in a file of `dir`.
fn start(command: &mut Command, log: &Path) -> Reaped {
    let log = File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Reaped(command.spawn().unwrap())
}

/// Starts the receiver, then the sender, each with its configuration, and measures until all bytes are there.
fn race(
    what: &str,
    s: &Source,
    conf: impl Fn(&Path, u16) -> [String; 2],
    command: impl Fn(&Path, &Path) -> Command,
) -> Option<Shipped> {
    let temp = scratch("peer");
    let port = port();
    let [receiver, sender] = conf(temp.dir(), port);
    let [receiver, sender] = [("receiver", receiver), ("sender", sender)].map(|(end, text)| {
        let dir = temp.path(end);
        fs::create_dir_all(&dir).unwrap();
        let file = temp.file(&format!("{end}.conf"), text);
        (command(&dir, &file), dir.join("said"))
    });
    let (mut command, said) = receiver;
    let receiver = start(&mut command, &said);
    until(Duration::from_secs(20), &format!("{what} to listen; {}", said.display()), || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let (mut command, said) = sender;
    let begun = Instant::now();
    let sender = start(&mut command, &said);
    let out = temp.path("out");
    let came = filled(&out, s.bytes);
    let wall = begun.elapsed().as_secs_f64();
    if !came {
        println!("{what}: {}", fs::read_to_string(&said).unwrap_or_default().trim());
        return None;
    }
    let shipped = Shipped { wall, sender: usage_of(sender.0.id()), receiver: usage_of(receiver.0.id()) };
    drop((sender, receiver));
    same(what, &out, s).then_some(shipped)
}

/// imfile, omrelp, imrelp, omfile.
fn rsyslog(s: &Source) -> Option<Shipped> {
    if !Path::new(RSYSLOG).exists() {
        println!(
            "rsyslog: not here; `apt-get install --no-install-recommends rsyslog rsyslog-relp` and run it again"
        );
        return None;
    }
    let source = s.path.display();
    let conf = |dir: &Path, port: u16| {
        let (dir, common) = (dir.display(), "parser.escapeControlCharactersOnReceive=\"off\"");
        // A second worker joins when the queue grows, and then lines change places.
        let queue = "main_queue(queue.workerThreads=\"1\")";
        [
            format!(
                "global(workDirectory=\"{dir}/receiver\" {common})\n{queue}\n\
                 module(load=\"imrelp\" ruleset=\"store\")\n\
                 template(name=\"line\" type=\"string\" string=\"%msg%\\n\")\n\
                 ruleset(name=\"store\") {{ action(type=\"omfile\" file=\"{dir}/out\" template=\"line\") }}\n\
                 input(type=\"imrelp\" port=\"{port}\")\n"
            ),
            format!(
                "global(workDirectory=\"{dir}/sender\" {common})\n{queue}\n\
                 module(load=\"imfile\")\n\
                 module(load=\"omrelp\")\n\
                 template(name=\"wire\" type=\"string\" string=\"<134>1 %timestamp:::date-rfc3339% web web - - - %msg%\")\n\
                 ruleset(name=\"ship\") {{ action(type=\"omrelp\" target=\"127.0.0.1\" port=\"{port}\" template=\"wire\" \
                 windowSize=\"10000\") }}\n\
                 input(type=\"imfile\" file=\"{source}\" tag=\"web\" ruleset=\"ship\")\n"
            ),
        ]
    };
    race("rsyslog", s, conf, |dir, conf| {
        let mut command = Command::new(RSYSLOG);
        command.arg("-n").arg("-i").arg(dir.join("pid")).arg("-f").arg(conf);
        command
    })
}

/// file, network with a reliable disk buffer, network, file.
fn syslog_ng(s: &Source) -> Option<Shipped> {
    let unpacked = std::env::var_os("LOGD_SYSLOG_NG").map(PathBuf::from);
    let root = unpacked.clone().unwrap_or_else(|| "/".into());
    let program = root.join("usr/sbin/syslog-ng");
    if !program.exists() {
        println!(
            "syslog-ng: no {}; the header of tests/bench/peers.rs says how to get it",
            program.display()
        );
        return None;
    }
    let source = s.path.display();
    let conf = |dir: &Path, port: u16| {
        let dir = dir.display();
        [
            format!(
                "@version: 3.35\n\
                 source wire {{ network(ip(\"127.0.0.1\") port({port}) transport(\"tcp\") flags(no-parse) log-fetch-limit(1000) \
                 log-iw-size(10000)); }};\n\
                 destination lines {{ file(\"{dir}/out\" template(\"$MSG\\n\")); }};\n\
                 log {{ source(wire); destination(lines); flags(flow-control); }};\n"
            ),
            format!(
                "@version: 3.35\n\
                 source lines {{ file(\"{source}\" flags(no-parse) log-fetch-limit(1000) log-iw-size(10000)); }};\n\
                 destination wire {{ network(\"127.0.0.1\" port({port}) transport(\"tcp\") template(\"$MSG\\n\") \
                 disk-buffer(reliable(yes) disk-buf-size(1073741824) dir(\"{dir}/sender\"))); }};\n\
                 log {{ source(lines); destination(wire); flags(flow-control); }};\n"
            ),
        ]
    };
    race("syslog-ng", s, conf, |dir, conf| {
        let mut command = Command::new(&program);
        command.args(["-F", "--no-caps"]).arg("-f").arg(conf);
        for (option, file) in [("-R", "persist"), ("-p", "pid"), ("-c", "control")] {
            command.arg(option).arg(dir.join(file));
        }
        if unpacked.is_some() {
            let libraries = root.join("usr/lib/syslog-ng");
            let modules = fs::read_dir(&libraries).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir());
            command.env("LD_LIBRARY_PATH", libraries).arg("--module-path").arg(modules.unwrap());
        }
        command
    })
}

/// `logd tail` to `logd fcollector`.
fn ours(s: &Source, level: &str) -> Option<Shipped> {
    let temp = scratch("ours");
    let mut store = store(&temp, &[("checkpoint", "30s")]);
    let to = store.addr().to_string();
    let pattern = s.temp.path("access.log.<%Y%m%d%H>").display().to_string();
    let cores = thread::available_parallelism().map_or(1, usize::from).to_string();
    let keys = [
        ("log_file", pattern.as_str()),
        ("send_to", &to),
        ("name", NAME),
        ("timezone", "UTC"),
        ("start", &s.hour),
        ("quiet", "0"),
        ("close_wait", "0"),
        ("compress_level", level),
        ("compressors", &cores),
    ];
    let begun = Instant::now();
    let tail = Node::spawn(&temp, "web", "tail", &keys, &[]);
    let save = temp.path("save");
    let out = save.join("log_data").join(format!("{NAME}_{}", s.hour));
    let came = filled(&out, s.bytes);
    let wall = begun.elapsed().as_secs_f64();
    assert!(came, "logd did not ship all");
    let shipped = Shipped { wall, sender: usage(&tail), receiver: usage(&store) };
    certified(&save, NAME, &s.hour);
    println!("logd, level {level}: the tag was there after {:.2} s", begun.elapsed().as_secs_f64());
    drop((tail, store));
    same("logd", &out, s).then_some(shipped)
}

/// See the header.
pub fn peers(report: &mut Report) {
    let temp = scratch("peers");
    let hour = Zone::named("UTC").unwrap().hour_at(Clock::real().now_ms() - 2 * 3_600_000).to_string();
    let path = temp.path(&format!("access.log.{hour}"));
    println!("lines: {}", lines::write(&path, megabytes() * 1_000_000));
    let bytes = path.metadata().unwrap().len();
    let s = Source { temp, hour, path, bytes };
    let mut tell = |what: &str, run: Option<Shipped>| {
        let run = run?;
        for (end, u) in [("sender", run.sender), ("receiver", run.receiver)] {
            println!("  {end:10} user {:.2} s, sys {:.2} s", u.cpu.user, u.cpu.sys);
        }
        let raw = s.bytes as f64 / MB;
        let mut row = |part: &str, value, unit| {
            report.row(&format!("peers, {what}: {part}"), value, unit, Target::None);
        };
        row("wall", run.wall, "s");
        row("sender's CPU", run.sender.cpu.total(), "s");
        row("receiver's CPU", run.receiver.cpu.total(), "s");
        row("raw lines by CPU second", raw / (run.sender.cpu.total() + run.receiver.cpu.total()), "MB");
        row("sender's RSS", run.sender.rss_mb, "MB");
        row("receiver's RSS", run.receiver.rss_mb, "MB");
        Some(run.wall)
    };
    let others = [tell("rsyslog", rsyslog(&s)), tell("syslog-ng", syslog_ng(&s))];
    let six = tell("logd, level 6", ours(&s, "6"));
    tell("logd, level 1", ours(&s, "1"));
    if let (Some(six), Some(best)) = (six, others.into_iter().flatten().reduce(f64::min)) {
        report.row("peers: logd, level 6: wall by the best peer's", six / best, "", Target::AtMost(1.0));
    }
}
