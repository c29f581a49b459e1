//! Threads of a receiving role: one accepts, one per connection (where senders must sign, of those that have, and with TLS of those
//! that have said something: [`lobby`]), one commits.

mod connection;
mod lobby;
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
use crate::receiver::gate::Gate;
use crate::receiver::{Budget, Session, lock};
use crate::shutdown::Shutdown;
use crate::tls::{self, Stream};
use connection::Connection;
use lobby::{Lobby, gone};
use peers::{
    Peer, Peers, close_all_idle, close_idle, close_of_many, close_strangers, close_unproven, held, unprove,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Shutdown as Half, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const STACK: usize = 256 << 10;
/// How often it is asked whether the key file is another one now, in ms.
const KEYS_MS: u64 = 1_000;
/// How soon an idle listener sees that the role stops.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// File descriptors that are kept for files.
const RESERVED_FDS: usize = 512;
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
    let mut lobby = match (s.keys.is_some() || s.tls.is_some()).then(Lobby::new).transpose() {
        Ok(lobby) => lobby,
        Err(e) => {
            s.log.warn(&format!("epoll: {e}; each connection has a thread from its start"));
            None
        }
    };
    let evicted = |ip: IpAddr| {
        metrics::EVICTED.inc();
        s.refused(
            false,
            &format!("connection from {ip}: closed, because others want to connect; its sender tries again; if such are your own \
                 hosts, raise max_unproven_per_address or max_connections"),
        );
    };
    // No descriptor is left: until then nobody is accepted.
    let mut hold = Instant::now();
    while !s.stop.requested() {
        if let Some(lobby) = &mut lobby {
            lobby.turn(peers, |id, connection| start(id, connection, peers));
        }
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
                    unprove(peers);
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
        let accepted =
            if Instant::now() < hold { Err(ErrorKind::WouldBlock.into()) } else { listener.accept() };
        let (stream, addr) = match accepted {
            Ok(a) => a,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let lobby = lobby.as_ref().map(|lobby| PollFd::new(lobby, PollFlags::IN));
                let listener = (Instant::now() >= hold).then(|| PollFd::new(listener, PollFlags::IN));
                let mut waits: Vec<_> = lobby.into_iter().chain(listener).collect();
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
                    let one = must_prove.then(|| close_unproven(peers, None, None)).flatten();
                    one.or_else(|| close_idle(peers, must_prove)).map(evicted);
                    hold = clock::deadline(LOOK_AGAIN);
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
            && close_unproven(peers, Some(from), s.tls.is_some().then_some(&mut rng)).map(evicted).is_none()
        {
            metrics::REJECTED_LIMIT.inc();
            s.refused(false, &format!(
                "connection from {ip}: it has {unproven} under way that have shown no good signature or certificate, the \
                 limit; closed"
            ));
            continue;
        }
        let is_full = lock(peers).len() >= max;
        let make_room = || {
            let one = if must_prove { close_unproven(peers, None, None) } else { close_idle(peers, false) };
            one.or_else(|| close_of_many(peers, from, must_prove)).map(evicted)
        };
        if is_full && make_room().is_none() {
            metrics::REJECTED_LIMIT.inc();
            s.refused(false, &format!(
                "connection from {ip}: all {max} connections are busy; closed; its packs wait there, nothing is lost; raise \
                 max_connections, and the limit of open files if that is what bounds it (`logd check --host` tells)"
            ));
            continue;
        }
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let began = s.clock.mono_ms();
        let idle_since = Arc::new(AtomicU64::new(began));
        let entered = Arc::new(AtomicBool::new(lobby.is_none()));
        next_id = next_id.saturating_add(1);
        let id = next_id;
        let proven = Arc::new(AtomicBool::new(false));
        let peer = Peer {
            stream: Arc::clone(&stream),
            ip,
            from,
            began,
            idle_since: Arc::clone(&idle_since),
            entered: Arc::clone(&entered),
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
        let connection = Connection {
            stream: Stream::plain(stream),
            session,
            s: Arc::clone(s),
            conf: Arc::clone(conf),
            idle_since,
            entered,
            proven,
            ip,
            trusted: (0, 0),
        };
        match &mut lobby {
            Some(lobby) => lobby.enter(id, connection, peers),
            None => start(id, connection, peers),
        }
    }
    if let Some(lobby) = lobby {
        lobby.close(peers);
    }
}

/// Gives a connection its thread.
fn start(id: u64, mut connection: Connection, peers: &Peers) {
    let (s, ip, all) = (Arc::clone(&connection.s), connection.ip, Arc::clone(peers));
    let thread = std::thread::Builder::new().name("connection".into()).stack_size(STACK);
    let spawned = thread.spawn(move || {
        connection.run();
        gone(id, &all);
    });
    if let Err(e) = spawned {
        s.log.warn(&format!(
            "connection from {ip}: no thread for it: {e}; closed; its packs wait there, nothing is lost; raise TasksMax= of the \
             unit, or lower max_connections"
        ));
        gone(id, peers);
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
