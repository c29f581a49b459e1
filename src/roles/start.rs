//! From a configuration file to a running role, and back to an exit code.

mod receiving;
mod storing;

use receiving::start_report;
use storing::{Beyond, run_store};

use super::admission::{fits, key_of};
use super::control::{Control, Live};
use super::documents::{self};
use super::follower::{Follower, RIGHTS, Setup, must_be_seen, resend};
use super::pulse::{self, Pulse};
use super::relay;
use super::serve::{Server, Shared, raise_fd_limit};
use super::ship;
use super::web::{Site, Web};
use crate::auth::{Keyring, Memory};
use crate::clock::{self, Clock, Hour, Zone};
use crate::config::{
    Allow, Config, Errors, LogConfig, Peer, RelayConfig, Role, SenderConfig, Start, TailConfig, Warning,
    WatchConfig,
};
use crate::disk::Disk;
use crate::health::Health;
use crate::instance::{Instance, Refused, ask, foreign};
use crate::log::{Log, Tap, count};
use crate::metrics;
use crate::receiver::gate::Gate;
use crate::receiver::lock;
use crate::shutdown::Shutdown;
use crate::tail::pattern::Pattern;
use crate::tail::streams::{self, Source};
use crate::tail::{Identity, begin, unpack};
use crate::tls;
use rustix::process::geteuid;
use std::cell::OnceCell;
use std::io::IsTerminal;
use std::net::{IpAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How a role is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Go to the background.
    pub detach: bool,
    /// A follower ships what is there and comes to an end.
    pub once: bool,
    /// How long `once` may take.
    pub timeout_ms: Option<u64>,
    /// The monitor makes the tables of its database, and ends.
    pub init_db: bool,
}

/// One start of a role.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    options: RunOptions,
    /// The role's own log, from the moment when it is open.
    log: &'a OnceCell<Log>,
}

impl Deref for Run<'_> {
    type Target = RunOptions;

    fn deref(&self) -> &RunOptions {
        &self.options
    }
}

/// Tells the child that it is the detached one.
const DETACHED: &str = "LOGD_DETACHED";

/// What a role needs of the world.
pub(super) struct World {
    pub disk: Disk,
    pub clock: Clock,
    pub zone: Zone,
    pub log: Log,
    /// What is to be sent to the monitor.
    tap: Option<Arc<Tap>>,
    pub stop: Shutdown,
    pub instance: Instance,
}

impl World {
    /// Starts what runs beside the role; it ends when the result is dropped.
    fn pulse(&self, conf: &WatchConfig, role: Role, host: &str, once: bool) -> Pulse {
        let around = (&self.log, &self.clock, &self.zone);
        Pulse::start(conf, (role.command(), host), around, self.tap.clone(), (once, seed()))
    }
}

/// Runs `role` with the file `config`; the exit code.
pub fn run(role: Role, config: &Path, options: RunOptions) -> u8 {
    loop {
        let log = OnceCell::new();
        match run_until_reload(role, config, Run { options, log: &log }) {
            Ok(Some(code)) => return code,
            Ok(None) => {}
            Err(text) => {
                // Nobody reads the stderr of a daemon, and what its log says last looks like a start.
                if let Some(log) = log.get().filter(|log| log.today().is_some()) {
                    let beginning = format!("logd: {}: ", role.command());
                    log.error(text.strip_prefix(&beginning).unwrap_or(&text));
                }
                crate::log::complain(&text);
                return 2;
            }
        }
    }
}

/// `Ok(None)` = it is to begin again with the file as it is now.
fn run_until_reload(role: Role, config: &Path, options: Run) -> Result<Option<u8>, String> {
    let c = Config::load(config).map_err(|errors| errors.to_string())?;
    let file = (config, &c);
    match role {
        Role::Tail => checked(c.tail(false)).and_then(|(conf, w)| run_tail(file, &conf, &w, options)),
        Role::Collector => {
            checked(c.relay(false)).and_then(|(conf, w)| run_relay(file, &conf, &w, options)).map(Some)
        }
        Role::Fcollector => checked(c.store(false))
            .and_then(|(conf, w)| run_store(file, &conf, &Beyond::Nothing, &w, options))
            .map(Some),
        Role::Monitor => checked(c.monitor(false))
            .and_then(|(conf, w)| super::monitor::run(file, &conf, &w, options))
            .map(Some),
        Role::Etlcollector if !cfg!(feature = "etl") => {
            Err(format!("logd: {}: {}", role.command(), super::tables::NOT_BUILT))
        }
        Role::Etlcollector => checked(c.etl(false))
            .and_then(|(conf, w)| run_store(file, &conf.store, &Beyond::Tables(&conf), &w, options))
            .map(Some),
        Role::Mgocollector if !cfg!(feature = "mongodb") => {
            Err(format!("logd: {}: {}", role.command(), documents::NOT_BUILT))
        }
        Role::Mgocollector => checked(c.mongo(false))
            .and_then(|(conf, w)| run_store(file, &conf.store, &Beyond::Documents(&conf), &w, options))
            .map(Some),
    }
}

fn checked<T>(r: Result<(T, Vec<Warning>), Errors>) -> Result<(T, Vec<Warning>), String> {
    r.map_err(|e| e.to_string())
}

/// `Ok(Err(code))` = nothing more to do here.
pub(super) fn world(
    role: Role,
    config: &Path,
    state_dir: Option<&Path>,
    (log, watch): (&LogConfig, Option<&WatchConfig>),
    zone: Zone,
    options: Run,
) -> Result<Result<World, u8>, String> {
    let name = role.command();
    let (disk, clock) = (Disk::real(), Clock::real());
    let config = std::fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    if std::env::var_os(DETACHED).is_some() {
        // Without a session of its own a closing terminal would take the daemon along.
        let _ = rustix::process::setsid();
    }
    let dir = crate::state::resolve(&role, state_dir);
    // Before there are files of this user.
    let owner = std::fs::metadata(&dir).map(|m| m.uid()).ok();
    if let Some(why) = owner.and_then(|owner| foreign(&dir, geteuid().as_raw(), owner)) {
        return Err(format!("logd: {name}: {why}"));
    }
    if let Some(dir) = &log.dir {
        disk.create_dir_all(dir, 0o755).map_err(|e| format!("logd: {name}: local_dir: {e}"))?;
    }
    crate::state::refuse_links(&dir).map_err(|e| format!("logd: {name}: {e}"))?;
    let instance = match Instance::open(&disk, &dir, name, &config) {
        Ok(i) => i,
        Err(Refused::Running) if options.once => {
            return Err(format!(
                "logd: {name}: state directory {}: in use by the running daemon",
                dir.display()
            ));
        }
        Err(Refused::Running) => {
            if std::io::stderr().is_terminal() {
                crate::log::complain(&format!("logd: {name}: already running with this configuration"));
            }
            return Ok(Err(0));
        }
        Err(Refused::Why(why)) => return Err(format!("logd: {name}: {why}")),
    };
    if options.detach && log.dir.is_none() && std::env::var_os(DETACHED).is_none() {
        crate::log::complain(&format!(
            "logd: {name}: local_dir is not set: in the background its messages go nowhere"
        ));
    }
    if options.detach && std::env::var_os(DETACHED).is_none() {
        drop(instance);
        return detach(name, Log::new(name, log, &disk, &clock, &zone).today()).map(Err);
    }
    let mut log = Log::new(name, log, &disk, &clock, &zone);
    let tap = watch.and_then(|conf| pulse::tap(conf, &mut log));
    let _ = options.log.set(log.clone());
    // As soon as it counts as running: who asks from now on is heard, however long the start takes. Without a place for that, for
    // lack of room, the role serves all the same.
    if let Err(e) = ask::begin(&disk, &instance.dir) {
        log.warn(&format!(
            "{e}; `logd stop` and `logd reload` do not reach this role; nothing else is amiss"
        ));
    }
    let stop = Shutdown::on_signals().map_err(|e| format!("logd: {name}: {e}"))?;
    Ok(Ok(World { disk, clock, zone, log, tap, stop, instance }))
}

/// Starts the same command in the background and sees it through its first moments.
fn detach(name: &str, log: Option<PathBuf>) -> Result<u8, String> {
    let exe =
        std::env::current_exe().map_err(|e| format!("logd: {name}: cannot find its own binary: {e}"))?;
    let child = Command::new(exe)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|e| format!("logd: {name}: cannot start in the background: {e}"))?;
    for _ in 0..20 {
        if let Ok(Some(status)) = child.try_wait() {
            if status.success() {
                return Ok(0);
            }
            let told =
                log.map_or_else(String::new, |file| format!("; its log, {}, says why", file.display()));
            return Err(format!(
                "logd: {name}: stopped at once ({status}); run it without -d to see why{told}"
            ));
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Ok(0)
}

pub(super) fn warn_all(log: &Log, warnings: &[Warning]) {
    for w in warnings {
        log.warn(&w.to_string());
    }
}

fn zone_of(name: Option<&str>) -> Result<Zone, String> {
    match name {
        Some(n) => Zone::named(n),
        None => Zone::local(),
    }
}

fn seed() -> u64 {
    u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ Clock::real().now_ms().unsigned_abs()
}

// ---- follower ----

fn run_tail(
    file: (&Path, &Config),
    conf: &TailConfig,
    warnings: &[Warning],
    options: Run,
) -> Result<Option<u8>, String> {
    let zone = zone_of(conf.timezone.as_deref()).map_err(|e| format!("logd: tail: timezone: {e}"))?;
    let w = match world(
        Role::Tail,
        file.0,
        conf.state_dir.as_deref(),
        (&conf.log, Some(&conf.watch)),
        zone,
        options,
    )? {
        Ok(w) => w,
        Err(code) => return Ok(Some(code)),
    };
    warn_all(&w.log, warnings);
    let say = |e: String| format!("logd: tail: {e}");
    let sources = streams::sources(conf).map_err(say)?;
    // A thousand files are open at once, and some systems begin with a limit of as many.
    raise_fd_limit();
    if conf.nice > 0 {
        // Before there are threads: each has a niceness of its own, which it takes from the one that starts it.
        rustix::process::setpriority_process(None, conf.nice).map_err(|e| say(format!("nice: {e}")))?;
    }
    let own = sources.iter().find(|s| s.conf.stream.is_empty());
    let addr = conf.sender.send_to.first().cloned().unwrap_or_default();
    let (fresh, resume) = first_start(&w, conf, own, &addr, options.once).map_err(say)?;
    let addrs = conf.sender.send_to.join(", ");
    let setup = Setup {
        disk: &w.disk,
        clock: &w.clock,
        zone: &w.zone,
        state_dir: &w.instance.dir,
        served: w.instance.served,
        fresh,
        resume,
        once: options.once,
        seed: seed(),
    };
    // Made here, so that they belong to this user, whoever asks first.
    for dir in [resend::DIR, unpack::DIR] {
        w.disk.create_dir_all(&w.instance.dir.join(dir), 0o750).map_err(|e| say(e.to_string()))?;
    }
    // What is configured and cannot be used ends the start, before anything of it is sent unsigned.
    let key = key_of(conf).map_err(say)?;
    let tls = tls_of(&conf.sender).map_err(say)?;
    let mut f = Follower::open(&setup, conf).map_err(say)?;
    if let Some(key) = &key {
        fits(key, f.streams.host()).map_err(say)?;
        w.log.info(&format!("packs are signed with {}", key.label()));
    }
    f.key = key.map(Arc::new);
    for a in f.alarms.drain(..) {
        w.log.error(&a);
    }
    let name = f.streams.host().to_owned();
    let following = f.streams.following(&f.journal);
    for (path, pos, name) in following.iter().take(MESSAGES_MAX) {
        w.log.info(&format!("following {} from byte {pos} as {name} to {addrs}", path.display()));
    }
    if following.len() > MESSAGES_MAX {
        w.log.info(&format!("and {} more", count(following.len().saturating_sub(MESSAGES_MAX), "file")));
    }
    for s in sources.iter().filter(|_| following.is_empty()) {
        let name = match s.conf.stream.as_str() {
            "" => name.clone(),
            stream => format!("{name}+{stream}"),
        };
        w.log.info(&format!("following {} as {name} to {addrs}", s.conf.log_file));
    }
    if f.resumed > 0 {
        w.log
            .info(&format!("{} not acknowledged before the last stop; sent again", count(f.resumed, "pack")));
    }
    let _pulse = w.pulse(&conf.watch, Role::Tail, &name, options.once);
    let deadline = options.timeout_ms.map(|t| clock::deadline(Duration::from_millis(t)));
    let world = (&w.disk, &w.clock, &w.zone, &w.log, &w.stop);
    let health = Health::default();
    let site = Site { word: "tail", roles: metrics::TAIL, health: health.clone(), look: None };
    // One that ends by itself is asked by nobody, and the running one has the port.
    let web = (!options.once).then(|| Web::start(&conf.http, site, (&w.clock, &w.log, &w.stop)));
    let control = (!options.once).then(|| {
        let here = (w.instance.dir.as_path(), &w.disk, &w.log);
        Control::start(Role::Tail, file, here, &w.stop, Live::Follower(f.key.clone()))
    });
    let all = ship::follow(&mut f, conf, options.once, deadline, tls.as_ref(), world, &health);
    w.stop.request();
    if let Some(web) = web {
        web.join();
    }
    let all = all.map_err(|e| say(e.to_string()))?;
    let left = f.unacknowledged();
    w.log.info(&format!(
        "stopped: {} acknowledged by {addrs}, {left} wait in the journal",
        count(f.sent, "pack")
    ));
    if control.is_some_and(|c| c.again()) {
        return Ok(None);
    }
    if options.once && !all {
        let left = count(left, "pack");
        w.log.error(&format!("{left} not acknowledged in time; run it again, nothing is lost"));
        return Ok(Some(1));
    }
    let left_out = f.streams.left_out();
    if left_out > 0 {
        w.log.error(&format!(
            "{} not sent, named above; they stay on this host: mend what is told there, and run it again",
            count(left_out, "hour")
        ));
        return Ok(Some(1));
    }
    Ok(Some(0))
}

/// Files that are named one by one at the start.
const MESSAGES_MAX: usize = 20;

type Resume = Option<(Hour, u64, u64, PathBuf)>;

/// What a new state directory begins with.
fn first_start(
    w: &World,
    conf: &TailConfig,
    own: Option<&Source>,
    addr: &str,
    once: bool,
) -> Result<(Identity, Resume), String> {
    let name = conf.name.clone().unwrap_or_else(|| own_name(addr));
    let copies = conf.sender.peer == Peer::Logd;
    let Some(Source { conf: own, pattern }) = own else {
        // Only streams are followed; the host's name and zone are fixed all the same.
        return Ok((
            begin(&name, &Pattern::none(), Start::Beginning, &[], copies, (&w.zone, &w.clock)),
            None,
        ));
    };
    // Whoever asks for the oldest hour means those that were compressed, too.
    let archives = once || own.start == Some(Start::Oldest);
    let listed = if archives { unpack::existing(pattern, &w.disk) } else { pattern.existing(&w.disk) };
    if let (true, Err(e)) = (once, &listed) {
        return Err(format!("log_file: {e}; nothing was sent; {RIGHTS}"));
    }
    if once && !pattern.is_dated() && !Path::new(&own.log_file).exists() {
        return Err(format!("log_file: {}: there is no such file", own.log_file));
    }
    // A record of the original's says where to begin, whatever is there.
    let recorded = read_record(conf, pattern, &w.log)?;
    let mut start = own.start.unwrap_or(Start::usual(once, pattern.is_dated()));
    if let (Err(e), None, true) = (&listed, &recorded, must_be_seen(start, pattern))
        && !matches!(Identity::load(&w.disk, &Identity::path(&w.instance.dir, "")), Ok(Some(Ok(_))))
    {
        // Begun now, it would begin with this hour, and no older file would ever be sent.
        return Err(format!(
            "log_file: {e}; nothing was begun: with start = oldest the files must be seen first; {RIGHTS}; then start it again"
        ));
    }
    let existing = listed.unwrap_or_else(|e| {
        w.log.warn(&format!("log_file: {e}; waiting until it can be read"));
        Vec::new()
    });
    let mut resume = None;
    if let Some((hour, lines)) = recorded {
        start = Start::Hour(hour);
        if let (Peer::Original, Some(per_pack)) = (conf.sender.peer, conf.recv_buffer_size) {
            let path = pattern.path(hour);
            let pos = offset_of_line(&w.disk, &path, lines)?;
            let id = lines.checked_div(per_pack).unwrap_or(0).saturating_add(1);
            resume = Some((hour, id, pos, path));
        }
    }
    Ok((begin(&name, pattern, start, &existing, copies, (&w.zone, &w.clock)), resume))
}

/// The original's `line.rec`: path and lines that it had read. What cannot be read must not be taken for nothing: hours would
/// stay unsent without a word.
fn read_record(conf: &TailConfig, pattern: &Pattern, log: &Log) -> Result<Option<(Hour, u64)>, String> {
    let Some(file) = &conf.record_file else { return Ok(None) };
    let at = format!("record_file: {}", file.display());
    let text = match std::fs::read_to_string(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            log.warn(&format!(
                "{at}: no such file: this start does not go on where the original was; if that was meant, stop, remove the \
                 state directory, mend the path and start again"
            ));
            return Ok(None);
        }
        other => other.map_err(|e| {
            format!("{at}: {e}; nothing was sent; let the role's user read it, or leave the key out")
        })?,
    };
    let place = |text: &str| {
        let (path, lines) = text.lines().next()?.trim().rsplit_once(' ')?;
        Some((pattern.hour_of(Path::new(path))?, lines.parse().ok()?))
    };
    match place(&text) {
        None if !text.trim().is_empty() => Err(format!(
            "{at}: `{}` is no path of log_file with a blank and a number of lines behind it; nothing was sent; correct it, or \
             leave the key out",
            text.lines().next().unwrap_or_default().chars().take(200).collect::<String>().escape_debug()
        )),
        found => Ok(found),
    }
}

fn offset_of_line(disk: &Disk, path: &Path, lines: u64) -> Result<u64, String> {
    let file = disk.open(path).map_err(|e| e.to_string())?;
    let (mut at, mut left, mut buf) = (0u64, lines, vec![0; 64 << 10]);
    while left > 0 {
        let n = file.read_at(&mut buf, at).map_err(|e| e.to_string())?;
        if n == 0 {
            return Err(format!(
                "{}: it has fewer than the {lines} lines that record_file tells",
                path.display()
            ));
        }
        for i in memchr::memchr_iter(b'\n', buf.get(..n).unwrap_or_default()) {
            left = left.saturating_sub(1);
            if left == 0 {
                return Ok(at.saturating_add(i as u64).saturating_add(1));
            }
        }
        at = at.saturating_add(n as u64);
    }
    Ok(0)
}

/// The address that this host uses towards the receiver, or its host name when that says nothing.
pub fn own_name(addr: &str) -> String {
    let used = addr.to_socket_addrs().ok().and_then(|mut a| a.next()).and_then(|to| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip().to_canonical())
    });
    match used {
        Some(ip @ IpAddr::V4(_)) if !ip.is_loopback() && !ip.is_unspecified() => ip.to_string(),
        _ => host_name(),
    }
}

/// The name of this host, as far as it can be a sender's.
pub fn host_name() -> String {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let clean: String = node
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '-' })
        .take(64)
        .collect();
    if crate::name::problem(&clean).is_none() { clean } else { "localhost".into() }
}

// ---- receivers ----

/// Connections that wait to be accepted; the kernel has a limit of its own (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

pub(super) fn bind(listen: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(listen).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::AddrInUse => "; another program uses the port",
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need the right to use them",
            _ => "; it must be an address of this host",
        };
        format!("listen {listen}: {e}{hint}")
    })?;
    // The standard library lets 128 connections wait. After an outage a thousand hosts come at once; whoever finds no place
    // tries again a second later, and again two seconds after that.
    rustix::net::listen(&listener, BACKLOG).map_err(|e| format!("listen {listen}: {e}"))?;
    Ok(listener)
}

/// The sender's TLS. What is configured and cannot be used ends the start, before anything is sent in the clear.
fn tls_of(conf: &SenderConfig) -> Result<Option<Arc<tls::Client>>, String> {
    let Some(conf) = &conf.tls else { return Ok(None) };
    Ok(Some(Arc::new(tls::Client::open(conf)?)))
}

fn share(
    w: World,
    gate: Gate,
    allow: &Allow,
    (keys, memory): (Option<Arc<Keyring>>, Arc<Memory>),
    tls: Option<tls::Server>,
) -> (Arc<Shared>, Instance) {
    let shared = Shared {
        gate: Mutex::new(gate),
        dirty: Condvar::new(),
        durable: Condvar::new(),
        disk: w.disk,
        clock: w.clock,
        zone: w.zone,
        log: w.log,
        stop: w.stop,
        no_descriptors: AtomicBool::new(false),
        allow: Mutex::new(allow.clone()),
        allow_changed: AtomicBool::new(false),
        paused: Mutex::new(None),
        keys,
        memory,
        refusals: Mutex::default(),
        alarms: Mutex::default(),
        chatter: Mutex::default(),
        tls,
        health: Health::default(),
        senders: Mutex::default(),
        ages: Mutex::default(),
    };
    (Arc::new(shared), w.instance)
}

/// Begins to hear what is asked of a receiver.
fn controlled(role: Role, file: (&Path, &Config), dir: &Path, s: &Arc<Shared>) -> Control {
    Control::start(role, file, (dir, &s.disk, &s.log), &s.stop, Live::Receiver(Arc::clone(s)))
}

fn run_relay(
    file: (&Path, &Config),
    conf: &RelayConfig,
    warnings: &[Warning],
    options: Run,
) -> Result<u8, String> {
    let say = |e: String| format!("logd: collector: {e}");
    let begun = receiving::begin(
        Role::Collector,
        file.0,
        (&conf.receiver, conf.state_dir.as_deref(), &conf.log, &conf.watch),
        warnings,
        options,
    )?;
    let (w, keys, tls) = match begun {
        Ok(b) => (b.w, (b.keys, b.memory), b.tls),
        Err(code) => return Ok(code),
    };
    let out = tls_of(&conf.sender).map_err(say)?;
    let report = &mut |t: String| w.log.error(&t);
    let (gate, mut relay, waiting) =
        relay::open(&w.disk, &w.instance.dir, conf, host_name(), seed(), report).map_err(say)?;
    if waiting > 0 {
        w.log.info(&format!("{} not acknowledged before the last stop; sent again", count(waiting, "pack")));
    }
    let listener = bind(&conf.receiver.listen).map_err(say)?;
    let addr = listener.local_addr().map_err(|e| say(e.to_string()))?;
    let to = conf.sender.send_to.join(", ");
    let mut pulse = w.pulse(&conf.watch, Role::Collector, &host_name(), false);
    w.log.info(&format!("listening on {addr}, passing on to {to}"));
    let (shared, instance) = share(w, gate, &conf.receiver.allow, keys, tls);
    start_report(&mut pulse, &conf.watch, &shared, &instance.dir, (conf.spool.size, 0), None);
    let server = Server::start(listener, conf.receiver.clone(), &shared, false, conf.spool.group_commit_ms);
    let site = Site { word: "collector", roles: metrics::RELAY, health: shared.health.clone(), look: None };
    let web = Web::start(&conf.http, site, (&shared.clock, &shared.log, &shared.stop));
    let control = controlled(Role::Collector, file, &instance.dir, &shared);
    ship::pass_on(&mut relay, conf, out.as_ref(), server, &shared, &instance.dir);
    drop(control);
    web.join();
    shared.close_senders();
    let left = lock(&shared.gate).spool.waiting();
    shared.log.info(&format!("stopped: {} passed on, {left} wait in the spool", count(relay.sent, "pack")));
    Ok(0)
}
