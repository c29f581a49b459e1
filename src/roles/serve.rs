//! Threads of a receiving role: one accepts, one per connection, one commits.

mod peers;

use super::Dates;
use super::watch::Ages;
use crate::auth::{Keyring, Memory};
use crate::clock::{self, Clock, Zone};
use crate::config::allow::network;
use crate::config::{Allow, ReceiverConfig};
use crate::disk::Disk;
use crate::disk::sim::Rng;
use crate::health::Health;
use crate::log::{Cap, Log, count};
use crate::metrics;
use crate::pack::{Meta, Refusal};
use crate::receiver::gate::{Answer, Gate};
use crate::receiver::{Budget, Session, lock};
use crate::shutdown::Shutdown;
use crate::tls::{self, Stream};
use peers::{Peer, Peers, close_all_idle, close_idle, close_of_many, close_strangers, close_unproven, held};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown as Half, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Read at a time, into the stack: thousands of connections may be open, and each that is silent must cost little.
const CHUNK: usize = 8 << 10;
const STACK: usize = 256 << 10;
/// How often it is asked whether the key file is another one now, in ms.
const KEYS_MS: u64 = 1_000;
/// A connection lives as long as it is used; so often it is asked whether its certificate is still good, in ms.
const TRUST_MS: u64 = 60_000;
/// How soon an idle listener sees that the role stops.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// File descriptors that are kept for files.
const RESERVED_FDS: usize = 512;
/// A clock may be wrong by so much before packs are refused for it; hours are named in their hosts' own zones besides.
const AHEAD_MS: i64 = 24 * 3_600_000;
/// After a refusal, so much is read and thrown away before the connection is closed.
const DRAIN_BYTES: usize = 1 << 20;

/// What all threads of a receiver share.
pub struct Shared {
    /// The one lock.
    pub gate: Mutex<Gate>,
    /// Something was appended.
    pub dirty: Condvar,
    /// The durable mark moved.
    pub durable: Condvar,
    pub disk: Disk,
    pub clock: Clock,
    pub zone: Zone,
    pub log: Log,
    pub stop: Shutdown,
    /// A connection could not open a file for lack of descriptors: whoever holds many gives some up.
    pub no_descriptors: AtomicBool,
    /// Who may connect, and whether that is another list now.
    pub allow: Mutex<Allow>,
    pub allow_changed: AtomicBool,
    /// Why nothing is taken at the moment.
    pub paused: Mutex<Option<String>>,
    /// Who may send, if that is asked.
    pub keys: Option<Arc<Keyring>>,
    /// TLS, if connections have it.
    pub tls: Option<tls::Server>,
    /// Who has sent and who was denied.
    pub memory: Arc<Memory>,
    /// Refusals that were logged lately.
    pub refusals: Mutex<Cap>,
    /// What was told lately of packs that contradict others, and of those that changed nothing.
    pub alarms: Mutex<Cap>,
    pub chatter: Mutex<Cap>,
    /// Is the role well?
    pub health: Health,
    /// Who has sent lately, by name.
    pub senders: Mutex<BTreeMap<String, Seen>>,
    /// Since when packs of the spool wait.
    pub ages: Mutex<Ages>,
}

impl Shared {
    /// Logs that something was refused, unless there was too much of that lately.
    fn refused(&self, error: bool, text: &str) {
        let (allowed, unsaid) = lock(&self.refusals).allows(self.clock.mono_ms());
        if let Some(unsaid) = unsaid {
            self.log.warn(&format!("{unsaid}; `logd status` names some of whom"));
        }
        if !allowed {
            return;
        }
        if error { self.log.error(text) } else { self.log.warn(text) }
    }

    /// Logs what senders can cause as often as they like, unless there was too much of it lately.
    fn capped(&self, cap: &Mutex<Cap>, error: bool, text: &str) {
        let say = |text: &str| if error { self.log.error(text) } else { self.log.info(text) };
        let (allowed, unsaid) = lock(cap).allows(self.clock.mono_ms());
        if let Some(unsaid) = unsaid {
            say(&unsaid);
        }
        if allowed {
            say(text);
        }
    }

    /// Writes what is remembered of senders, if that is due.
    pub fn save_senders(&self) {
        self.write_senders(false);
    }

    /// The same at the end.
    pub fn close_senders(&self) {
        self.write_senders(true);
    }

    fn write_senders(&self, last: bool) {
        if let Err(e) = self.memory.save(last) {
            super::disk_error(&self.disk, &self.log, &e);
        }
    }
}

/// A sender's last pack.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where it came from: the sender, or a relay.
    pub ip: IpAddr,
    /// When (unix milliseconds).
    pub at_ms: i64,
}

/// Senders that are remembered.
const SENDERS_MAX: usize = 4_096;

/// The running threads.
pub struct Server {
    accept: JoinHandle<()>,
    commit: JoinHandle<()>,
    peers: Peers,
    shared: Arc<Shared>,
    /// Nobody will append any more.
    ended: Arc<AtomicBool>,
}

impl Server {
    /// Starts to serve on a bound listener. `keep_raw` if somebody wants the raw lines of what arrives.
    pub fn start(
        listener: TcpListener,
        conf: ReceiverConfig,
        shared: &Arc<Shared>,
        keep_raw: bool,
        commit_ms: u64,
    ) -> Self {
        let peers: Peers = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let (s, e) = (Arc::clone(shared), Arc::clone(&ended));
        let commit = spawn("commit", move || commit_loop(&s, &e, commit_ms));
        let (s, p) = (Arc::clone(shared), Arc::clone(&peers));
        let accept = spawn("accept", move || accept_loop(&listener, &Arc::new(conf), &s, &p, keep_raw));
        Self { accept, commit, peers, shared: Arc::clone(shared), ended }
    }

    /// Stops: no new connections, those that are idle are closed, packs in hand are finished until `deadline`.
    pub fn join(self, deadline: Instant) {
        let _ = self.accept.join();
        loop {
            let mut left = 0_usize;
            for p in lock(&self.peers).values() {
                left = left.saturating_add(1);
                if p.idle_since.load(Ordering::Relaxed) != u64::MAX || Instant::now() >= deadline {
                    let _ = p.stream.shutdown(Half::Both);
                }
            }
            if left == 0 || Instant::now().saturating_duration_since(deadline) >= Duration::from_secs(1) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Packs in hand were answered: only now nobody waits for a sync.
        self.ended.store(true, Ordering::Relaxed);
        self.shared.dirty.notify_all();
        let _ = self.commit.join();
    }
}

pub fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    // Without threads there is no role: as with any panic, the process ends.
    #[allow(clippy::expect_used)]
    std::thread::Builder::new().name(name.into()).spawn(f).expect("the system refuses a thread")
}

/// Group commit: one fdatasync for all packs that were appended meanwhile.
fn commit_loop(s: &Shared, ended: &AtomicBool, gather_ms: u64) {
    let mut last = 0;
    loop {
        let mut gate = lock(&s.gate);
        let job = loop {
            if let Some(job) = gate.spool.begin_sync() {
                break job;
            }
            if ended.load(Ordering::Relaxed) {
                return;
            }
            gate = s
                .dirty
                .wait_timeout(gate, Duration::from_millis(200))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        drop(gate);
        while let Err(e) = job.run() {
            super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
            // Not reached for a failed sync. A directory that cannot be opened for lack of descriptors is tried again;
            // anything else would break the promise that `ok` means durable.
            if !e.too_many_files() || s.stop.requested() {
                std::process::exit(2);
            }
        }
        let mut gate = lock(&s.gate);
        gate.spool.end_sync(&job);
        let now = gate.spool.durable();
        drop(gate);
        s.durable.notify_all();
        // When several senders are busy, a short wait lets their packs share the next sync.
        if now.saturating_sub(last) > 2 && gather_ms > 0 {
            std::thread::sleep(Duration::from_millis(gather_ms));
        }
        last = now;
    }
}

fn accept_loop(
    listener: &TcpListener,
    conf: &Arc<ReceiverConfig>,
    s: &Arc<Shared>,
    peers: &Peers,
    keep_raw: bool,
) {
    if let Err(e) = listener.set_nonblocking(true) {
        s.log.error(&format!("listener: {e}; stopping; what was acknowledged is on disk, and whoever starts the role tries again"));
        s.stop.request();
        return;
    }
    let budget = Budget::new(conf.inflight_bytes);
    let max = max_connections(conf);
    let mut next_id = 0u64;
    let mut rng = Rng::new(s.clock.now_ms().unsigned_abs());
    let look_again = Timespec::try_from(LOOK_AGAIN).ok();
    let (mut keys_ms, mut tls_ms, mut cas, mut dates) = (0, 0, 0, Dates::default());
    let must_prove = s.keys.is_some() || s.tls.as_ref().is_some_and(tls::Server::asks_for_certificates);
    while !s.stop.requested() {
        let now = s.clock.mono_ms();
        if let Some(keys) = s.keys.as_ref().filter(|_| now >= keys_ms) {
            keys_ms = now.saturating_add(KEYS_MS);
            match keys.refresh() {
                None => {}
                Some(Ok(n)) => {
                    // Whoever is refused by these, too, is told of again.
                    for what in ["keys_file: ", "pack from "] {
                        s.log.anew(what);
                    }
                    s.health.set("keys", None);
                    s.log.info(&format!("keys_file: read again: {}", count(n, "key")));
                }
                Some(Err(why)) => {
                    let text = format!("{why}; the keys of before are used on");
                    s.log.error(&format!("keys_file: {text}"));
                    s.health.set("keys", Some(text));
                }
            }
        }
        if let Some(tls) = s.tls.as_ref().filter(|_| now >= tls_ms) {
            tls_ms = now.saturating_add(KEYS_MS);
            match tls.refresh() {
                None => {}
                Some(Ok(())) => {
                    s.log.info("tls: certificate and key read again");
                    dates.read(None);
                    if cas != tls.cas() {
                        cas = tls.cas();
                        close_all_idle(peers);
                    }
                }
                Some(Err(why)) => {
                    let text = format!("{why}; the certificate of before is used on");
                    s.log.error(&text);
                    dates.read(Some(text));
                }
            }
            dates.look("tls", || tls.expiries(), (&s.clock, &s.zone, &s.log, &s.health));
        }
        if s.allow_changed.swap(false, Ordering::Relaxed) {
            close_strangers(peers, &lock(&s.allow), &s.log);
        }
        let (stream, addr) = match listener.accept() {
            Ok(a) => a,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let mut waits = [PollFd::new(listener, PollFlags::IN)];
                if poll(&mut waits, look_again.as_ref()).is_err() {
                    // A signal; or no memory, and then it must not spin.
                    s.stop.wait(Duration::from_millis(20));
                }
                continue;
            }
            Err(e) => {
                // EMFILE and its like pass; a connection that died while it waited concerns nobody.
                if !matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) {
                    s.log.warn(&format!("accept: {e}; connections wait, nothing is lost"));
                    close_idle(peers, must_prove);
                    s.stop.wait(Duration::from_millis(100));
                }
                continue;
            }
        };
        let ip = addr.ip().to_canonical();
        if !lock(&s.allow).permits(ip) {
            metrics::REJECTED_ALLOW.inc();
            let why = "not in `allow`; closed; add it there if it belongs to you";
            s.refused(false, &format!("connection from {ip}: {why}"));
            s.memory.denied("", &ip.to_string(), why);
            continue;
        }
        let from = network(ip);
        let (mine, unproven) = held(peers, from);
        if mine >= conf.max_connections_per_address {
            metrics::REJECTED_LIMIT.inc();
            s.refused(false, &format!(
                "connection from {ip}: it has {mine} already, the limit; closed; its packs wait there, nothing is lost; if many hosts \
                 come from that address (a relay, NAT), raise max_connections_per_address"
            ));
            continue;
        }
        if must_prove
            && unproven >= conf.max_unproven_per_address
            && !close_unproven(peers, from, s.tls.is_some().then_some(&mut rng))
        {
            metrics::REJECTED_LIMIT.inc();
            s.refused(false, &format!(
                "connection from {ip}: it has {unproven} under way that have shown no good signature or certificate, the \
                 limit; closed"
            ));
            continue;
        }
        if lock(peers).len() >= max
            && !close_idle(peers, must_prove)
            && !close_of_many(peers, from, must_prove)
        {
            metrics::REJECTED_LIMIT.inc();
            s.refused(false, &format!(
                "connection from {ip}: all {max} connections are busy; closed; its packs wait there, nothing is lost; raise \
                 max_connections, and the limit of open files if that is what bounds it (`logd check --host` tells)"
            ));
            continue;
        }
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let idle_since = Arc::new(AtomicU64::new(s.clock.mono_ms()));
        next_id = next_id.saturating_add(1);
        let id = next_id;
        let proven = Arc::new(AtomicBool::new(false));
        let peer = Peer {
            stream: Arc::clone(&stream),
            ip,
            from,
            idle_since: Arc::clone(&idle_since),
            proven: Arc::clone(&proven),
            closing: AtomicBool::new(false),
        };
        lock(peers).insert(id, peer);
        metrics::ACCEPTED.inc();
        metrics::CONNECTIONS.inc();
        let session =
            Session::new(conf, &budget, ip, keep_raw).with_keys(s.keys.clone()).remembering(&s.memory);
        let (shared, socket) = (Arc::clone(s), Arc::clone(&stream));
        let session = session.closed_by(Arc::new(move || {
            let _ = socket.shutdown(Half::Both);
            shared.refused(
                false,
                &format!(
                    "connection from {ip}: its pack comes too slowly, and the bytes in flight are at a limit \
                     (inflight_bytes): closed; its sender keeps it and tries again"
                ),
            );
        }));
        let mut c = Connection {
            stream: Stream::plain(stream),
            session,
            s: Arc::clone(s),
            conf: Arc::clone(conf),
            idle_since,
            proven,
            ip,
            trusted: (0, 0),
        };
        let p = Arc::clone(peers);
        let spawned =
            std::thread::Builder::new().name("connection".into()).stack_size(STACK).spawn(move || {
                c.run();
                metrics::CONNECTIONS.dec();
                lock(&p).remove(id);
            });
        if let Err(e) = spawned {
            metrics::CONNECTIONS.dec();
            s.log.warn(&format!(
                "connection from {ip}: no thread for it: {e}; closed; its packs wait there, nothing is lost; raise TasksMax= of the \
                 unit, or lower max_connections"
            ));
            lock(peers).remove(id);
        }
    }
}

/// Connections that are served at once: so many that descriptors are left for files.
pub fn max_connections(conf: &ReceiverConfig) -> usize {
    conf.max_connections.min(fd_limit().saturating_sub(RESERVED_FDS).max(16))
}

/// The process's limit of open files.
pub fn fd_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|n| usize::try_from(n).ok()).unwrap_or(1 << 20)
}

/// Raises the limit of open files as far as this user may.
pub fn raise_fd_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // Without it there is the limit that there was.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, ..limit },
    );
}

struct Connection {
    stream: Stream,
    session: Session,
    s: Arc<Shared>,
    conf: Arc<ReceiverConfig>,
    idle_since: Arc<AtomicU64>,
    proven: Arc<AtomicBool>,
    ip: IpAddr,
    /// Under which `tls_client_ca` its certificate was found good, and when.
    trusted: (u64, u64),
}

enum End {
    Closed,
    Refused(Refusal),
    Broken(String),
    /// There is no TLS with this peer.
    NoTls(String),
}

impl Connection {
    fn run(&mut self) {
        let end = match self.open() {
            Ok(()) => self.serve(),
            Err(end) => end,
        };
        match end {
            End::Closed => {}
            End::Broken(why) => self.s.log.debug(&format!("connection from {}: {why}", self.ip)),
            End::NoTls(why) => {
                self.s.memory.denied("", &self.ip.to_string(), &format!("TLS: {why}"));
                self.s
                    .log
                    .warn(&format!("connection from {}: TLS: {why}; closed; nothing was taken", self.ip));
                // The alert that says why must arrive.
                self.say_and_drain("");
            }
            End::Refused(refusal) => {
                let (text, counter) = match &refusal {
                    Refusal::Wrong(_) => ("wrong header", &metrics::REFUSED_WRONG),
                    Refusal::Busy(_) => ("busy", &metrics::REFUSED_BUSY),
                    Refusal::Denied(_) => ("denied", &metrics::REFUSED_DENIED),
                    Refusal::Close(_) => ("", &metrics::REFUSED_CLOSED),
                };
                counter.inc();
                let what = format!("pack from {}: refused: {}", self.ip, refusal.reason());
                match refusal {
                    Refusal::Busy(_) => {
                        self.s.refused(false, &format!("{what}; its sender keeps it and tries again"));
                    }
                    _ => self
                        .s
                        .refused(true, &format!("{what}; its sender keeps it; nothing of it is stored here")),
                }
                self.say_and_drain(if self.session.peer_is_ours() { text } else { "" });
            }
        }
        let _ = self.stream.tcp().shutdown(Half::Both);
    }

    /// TLS, if that is asked for.
    fn open(&mut self) -> Result<(), End> {
        let Some(tls) = &self.s.tls else { return Ok(()) };
        let deadline = clock::deadline(Duration::from_millis(self.conf.header_timeout_ms));
        let (tcp, cas) = (self.stream.socket(), tls.cas());
        let Some((stream, certificate)) = tls.accept(tcp, deadline).map_err(End::NoTls)? else {
            return Err(End::Closed);
        };
        if !stream.is_tls() {
            self.s.log.warn(&format!("connection from {}: without TLS, which `tls = accept` takes; set `tls = require` when all senders have it", self.ip));
        }
        self.stream = stream;
        self.trusted = (cas, self.s.clock.mono_ms());
        if let Some(certificate) = certificate {
            // With keys, too, it is the signature that proves.
            self.proven.store(self.s.keys.is_none(), Ordering::Relaxed);
            self.session.belongs_to(certificate);
        }
        Ok(())
    }

    /// The peer may still be writing: closing at once would destroy our answer on its way.
    fn say_and_drain(&mut self, text: &str) {
        self.stream.set_deadline(clock::deadline(Duration::from_secs(1)));
        let _ = self.stream.write_all(text.as_bytes()).and_then(|()| self.stream.flush());
        self.stream.close_write();
        let mut stream = self.stream.tcp();
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        let until = clock::deadline(Duration::from_secs(2));
        let (mut buf, mut left) = ([0; CHUNK], DRAIN_BYTES);
        while left > 0 && Instant::now() < until {
            match stream.read(&mut buf) {
                Ok(0) | Err(_) => return,
                Ok(n) => left = left.saturating_sub(n),
            }
        }
    }

    fn serve(&mut self) -> End {
        let ms = Duration::from_millis;
        let mut buf = [0u8; CHUNK];
        let mut deadline = Instant::now();
        loop {
            if self.session.idle() {
                if self.s.stop.requested() {
                    return End::Closed;
                }
                self.idle_since.store(self.s.clock.mono_ms(), Ordering::Relaxed);
                deadline = clock::deadline(ms(self.conf.idle_timeout_ms));
            }
            let late = if self.session.idle() { "idle; closed" } else { "too slow; closed" };
            self.stream.set_deadline(deadline);
            let n = match self.stream.read(&mut buf) {
                Ok(0) if self.session.idle() => return End::Closed,
                Ok(0) => return End::Broken("closed in the middle of a frame".into()),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return End::Broken(late.into()),
                Err(e) => return End::Broken(tls::explain(&e)),
            };
            if self.session.idle() && self.s.tls.is_none() && buf.first() == Some(&tls::HANDSHAKE) {
                let why =
                    "it speaks TLS, and this receiver does not: set tls_cert here, or take tls_ca out there";
                return End::NoTls(why.into());
            }
            if self.session.idle() {
                // A frame has one deadline for its header, whatever way its bytes drip in.
                deadline = clock::deadline(ms(self.conf.header_timeout_ms));
                self.idle_since.store(u64::MAX, Ordering::Relaxed);
            }
            let mut chunk = buf.get(..n).unwrap_or_default();
            while !chunk.is_empty() {
                let had_header = self.session.body_len().is_some();
                let charged = if had_header {
                    self.session.charge(chunk.len(), deadline)
                } else {
                    self.session.charge_header(chunk, deadline)
                };
                if !charged {
                    return End::Refused(Refusal::Busy("the bytes in flight are at their limit".into()));
                }
                let (used, arrived) = match self.session.feed(chunk) {
                    Ok(r) => r,
                    Err(refusal) => return End::Refused(refusal),
                };
                chunk = chunk.get(used..).unwrap_or_default();
                if let (false, Some(len)) = (had_header, self.session.body_len()) {
                    let by_size = len.saturating_mul(1000).checked_div(self.conf.body_rate_min).unwrap_or(0);
                    deadline = clock::deadline(ms(self.conf.body_timeout_ms.saturating_add(by_size)));
                    if !self.session.charge(0, deadline) {
                        return End::Refused(Refusal::Busy("the bytes in flight are at their limit".into()));
                    }
                }
                if let Some(name) = self.session.take_pinged() {
                    if let Err(end) = self.pong(&name) {
                        return end;
                    }
                    deadline = clock::deadline(ms(self.conf.header_timeout_ms));
                } else if let Some(pack) = arrived {
                    if let Err(end) = self.settle(pack) {
                        return end;
                    }
                    deadline = clock::deadline(ms(self.conf.header_timeout_ms));
                } else if used == 0 {
                    break;
                }
            }
        }
    }

    /// A connection may have begun under a CA that was taken away, or with a certificate that is over by now.
    fn check_trust(&mut self) -> Result<(), End> {
        let (Some(tls), Some(certificate)) = (&self.s.tls, self.session.certificate()) else { return Ok(()) };
        let (cas, now) = (tls.cas(), self.s.clock.mono_ms());
        if self.trusted.0 != cas || now.saturating_sub(self.trusted.1) >= TRUST_MS {
            tls.trusts(certificate).map_err(|why| End::NoTls(format!("{}: {why}", certificate.label())))?;
            self.trusted = (cas, now);
        }
        Ok(())
    }

    /// What of a pack is of a time that is not yet: hours would wait for ever, and a copy of tomorrow would be newer than all
    /// that are sent to mend it.
    fn ahead(&self, meta: &Meta) -> Option<String> {
        let now = self.s.clock.now_ms();
        let latest = now.saturating_add(AHEAD_MS);
        let name = &meta.key.name;
        let what = if i64::try_from(meta.generation).map_or(true, |begun| begun > latest) {
            format!(
                "its copy is numbered {}, which is a time (Unix milliseconds) that is not yet",
                meta.generation
            )
        } else if meta.key.hour.day_of() > self.s.zone.day_at(latest.saturating_add(AHEAD_MS)) {
            "its hour is not yet".to_owned()
        } else {
            return None;
        };
        Some(format!(
            "{}: {what}; here it is {}: correct the clock of {name}, or of this host, or the date in the name of its log \
             file; a copy is then numbered anew by `logd resend` on {name}",
            meta.label(),
            self.s.zone.format_ms(now)
        ))
    }

    /// Answers a test pack: would a pack be taken?
    fn pong(&mut self, name: &str) -> Result<(), End> {
        if let Some(why) = lock(&self.s.paused).clone() {
            return Err(End::Refused(Refusal::Busy(why)));
        }
        if lock(&self.s.gate).spool.room().is_ok_and(|room| room == 0) {
            return Err(End::Refused(Refusal::Busy("the spool is full".into())));
        }
        let text = format!("test pack of {name} from {}: accepted; nothing of it is stored", self.ip);
        self.s.capped(&self.s.chatter, false, &text);
        self.stream.set_deadline(clock::deadline(Duration::from_secs(10)));
        let said = self.stream.write_all(b"ok").and_then(|()| self.stream.flush());
        said.map_err(|e| End::Broken(tls::explain(&e)))
    }

    /// Decides about a pack and answers when it is durable.
    fn settle(&mut self, pack: crate::receiver::Arrived) -> Result<(), End> {
        if let Some(why) = lock(&self.s.paused).clone() {
            return Err(End::Refused(Refusal::Busy(why)));
        }
        self.check_trust()?;
        self.proven.fetch_or(self.session.is_proven(), Ordering::Relaxed);
        if let Some(why) = self.ahead(&pack.meta) {
            return Err(End::Refused(Refusal::Busy(why)));
        }
        let label = pack.meta.label();
        let now = self.s.clock.mono_ms();
        let wall_ms = self.s.clock.now_ms();
        let wall = self.s.zone.format_ms(wall_ms);
        let name = pack.meta.key.name.clone();
        let (lines, bytes, packed) = (pack.meta.lines, pack.checked.bytes, pack.body.len() as u64);
        let (answer, alarms, known) = {
            let mut gate = lock(&self.s.gate);
            let before = gate.known;
            let answer = gate.offer(pack, now, &wall);
            (answer, std::mem::take(&mut gate.alarms), gate.known > before)
        };
        for a in alarms {
            self.s.capped(&self.s.alarms, true, &a);
        }
        if known {
            metrics::KNOWN_PACKS.inc();
            let text = format!("{label}: came again from {}; not stored twice", self.ip);
            self.s.capped(&self.s.chatter, false, &text);
        }
        match answer {
            Err(e) => {
                if e.too_many_files() {
                    self.s.no_descriptors.store(true, Ordering::Relaxed);
                }
                super::disk_trouble(&self.s.disk, &self.s.log, &self.s.stop, &e);
                return Err(End::Refused(Refusal::Busy(e.to_string())));
            }
            Ok(Answer::Refuse(r)) => return Err(End::Refused(r)),
            Ok(Answer::Now) => {}
            Ok(Answer::When(seq)) => {
                self.s.dirty.notify_one();
                lock(&self.s.ages).note(seq, now);
                let mut gate = lock(&self.s.gate);
                while gate.spool.durable() <= seq {
                    let wait = Duration::from_secs(1);
                    gate = self.s.durable.wait_timeout(gate, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        metrics::RECEIVED_PACKS.inc();
        metrics::RECEIVED_LINES.add(lines);
        metrics::RECEIVED_BYTES.add(bytes);
        metrics::RECEIVED_WIRE_BYTES.add(packed);
        self.seen(name, wall_ms);
        self.stream.set_deadline(clock::deadline(Duration::from_secs(10)));
        self.stream
            .write_all(b"ok")
            .and_then(|()| self.stream.flush())
            .map_err(|e| End::Broken(tls::explain(&e)))
    }

    /// Notes who has sent. Names come from outside: there is room for so many, and the one that was heard longest ago goes.
    fn seen(&self, name: String, at_ms: i64) {
        let mut senders = lock(&self.s.senders);
        if senders.len() >= SENDERS_MAX && !senders.contains_key(&name) {
            let oldest = senders.iter().min_by_key(|(_, seen)| seen.at_ms).map(|(name, _)| name.clone());
            oldest.and_then(|name| senders.remove(&name));
        }
        senders.insert(name, Seen { ip: self.ip, at_ms });
    }
}
