//! The monitor's threads: one receives, one asks for heart-beats, one keeps what is known; with a database one delivers,
//! and two serve the page if it has one.
//!
//! How many nodes there are changes nothing in that. A thousand roles keep a connection for their messages open, so that
//! one `poll` serves all of them, and another one all heart-beats.

use super::admission::{is_open_monitor, may_monitor};
use super::alarm::Program;
use super::control::{Control, Live};
use super::fleet;
use super::outages;
use super::serve::{fd_limit, raise_fd_limit, spawn};
use super::start::{Run, World, bind, host_name, warn_all, world};
use super::watch::Watch;
use super::web::{Look, Site, Web};
use crate::clock::{Clock, Zone};
use crate::config::allow::network;
use crate::config::{Allow, Config, MonitorConfig, Role, Warning};
use crate::disk::Disk;
use crate::health::Health;
use crate::heartbeat::{self, Frames, Message};
use crate::inventory::known::Known;
use crate::log::{Cap, Log, count};
use crate::metrics;
use crate::monitor::Monitor;
use crate::monitor::check::{self, Checks};
use crate::overview::{Node, Overview};
use crate::receiver::lock;
use crate::shutdown::Shutdown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Connections at once.
const CONNECTIONS_MAX: usize = 4_096;
/// Connections at once from one address.
const PER_ADDRESS: usize = 256;
/// File descriptors for everything but connections and heart-beats.
const RESERVED_FDS: usize = 128;
/// A frame must be whole so long after its first byte.
const FRAME_TIME: Duration = Duration::from_secs(10);
/// A connection on which nothing is said for so long is closed; roles of the original keep one open for their messages.
const IDLE: Duration = Duration::from_hours(24);
/// Bytes read from one connection before the others have their turn.
const TURN: usize = 64 << 10;
/// Bytes of frames that are not whole, over all connections.
const HELD_MAX: usize = 16 << 20;
/// How soon a stop is seen.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Heart-beats asked for at the same time.
const ASKED_MAX: usize = 256;
/// What comes of questions within this time is looked at together: where a switch is dead that is one alarm.
const GATHER: Duration = Duration::from_secs(1);
/// For how long an event that could not be recorded is told by `/healthz`, ms.
const UNRECORDED_MS: i64 = 600_000;
/// Every so many rounds the list of nodes is read again.
const READ_AGAIN: u64 = 3;

/// What the threads share.
pub(super) struct Shared {
    pub monitor: Mutex<Monitor>,
    pub disk: Disk,
    pub clock: Clock,
    pub log: Log,
    pub stop: Shutdown,
    pub health: Health,
    zone: Zone,
    /// The name of this host.
    host: String,
    /// Sentences that were logged lately, of each kind.
    told: Mutex<[Cap; 4]>,
}

/// The kind of what is said of nodes that do not answer. What others cause is counted apart from it, by its level.
const OUTAGE: usize = 3;

/// Runs the role; the exit code.
pub(super) fn run(
    file: (&Path, &Config),
    conf: &MonitorConfig,
    warnings: &[Warning],
    options: Run,
) -> Result<u8, String> {
    let say = |e: String| format!("logd: monitor: {e}");
    if options.init_db {
        return super::database::init(conf).map(|()| 0).map_err(say);
    }
    if conf.db.is_some() && !cfg!(feature = "mysql") {
        let text = "db_host is set, and this program was built without the feature mysql; build with `cargo build --release \
                    --features mysql`, or leave db_host empty: nodes and messages are then kept in the state directory";
        return Err(say(text.into()));
    }
    raise_fd_limit();
    let zone = Zone::local().map_err(say)?;
    let dir = crate::state::resolve(&Role::Monitor, conf.state_dir.as_deref());
    may_monitor(conf, &dir).map_err(say)?;
    let w = match world(Role::Monitor, file.0, conf.state_dir.as_deref(), (&conf.log, None), zone, options)? {
        Ok(w) => w,
        Err(code) => return Ok(code),
    };
    warn_all(&w.log, warnings);
    w.instance.note_open(&w.disk, is_open_monitor(conf).is_some()).map_err(|e| say(e.to_string()))?;
    let monitor = Monitor::open(&w.disk, &w.instance.dir, conf, &w.zone).map_err(|e| say(e.to_string()))?;
    let listener = bind(&conf.listen).map_err(say)?;
    let addr = listener.local_addr().map_err(|e| say(e.to_string()))?;
    let known = count(monitor.nodes.len(), "node");
    let host = host_name();
    let prefix = format!("logd monitor on {host}");
    let World { disk, clock, zone, log, stop, instance, .. } = w;
    let (monitor, health) = (Mutex::new(monitor), Health::default());
    let told = Mutex::default();
    let s = Arc::new(Shared { monitor, disk, clock, log, stop, health, zone, host, told });
    s.tell();
    s.log.info(&format!("listening on {addr}, {known} known"));
    let mut threads = Vec::new();
    if let Some(program) = Program::new(&conf.alarm, &prefix) {
        let s = Arc::clone(&s);
        threads.push(spawn("alarm", move || outages::run(&s, &program)));
    }
    let (r, allow) = (Arc::clone(&s), conf.allow.clone());
    threads.push(spawn("receive", move || Receiver::new(r, allow).run(&listener)));
    let (c, every) = (Arc::clone(&s), Duration::from_millis(conf.check_interval_ms));
    threads.push(spawn("check", move || c.check(every)));
    threads.extend(super::database::start(conf, &s, &instance.dir)?);
    let (hosts, shown, began_ms) = (conf.hosts_file.clone(), conf.http.hours, s.clock.now_ms());
    let look: Look = {
        let (s, dir) = (Arc::clone(&s), instance.dir.clone());
        Box::new(move || s.look((hosts.as_deref(), &dir), shown, began_ms))
    };
    let site = Site { word: "monitor", roles: metrics::MONITOR, health: s.health.clone(), look: Some(look) };
    let web = Web::start(&conf.http, site, (&s.clock, &s.log, &s.stop));
    let control = Control::start(Role::Monitor, file, (&instance.dir, &s.disk, &s.log), &s.stop, Live::Other);
    s.keep();
    drop(control);
    web.join();
    let until = Instant::now().checked_add(Duration::from_millis(conf.quit_timeout_ms));
    for thread in threads {
        while !thread.is_finished() && until.is_some_and(|u| Instant::now() < u) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
    let mut monitor = lock(&s.monitor);
    let closed =
        monitor.events.sync().and_then(|()| monitor.nodes.close()).and_then(|()| monitor.hours.save());
    drop(monitor);
    if let Err(e) = closed {
        s.trouble(&e);
    }
    s.tell();
    s.log.info("stopped");
    Ok(0)
}

impl Shared {
    /// Says what the core has to say. Never under its lock: a full log must not hold it up.
    pub fn tell(&self) {
        let (said, outages) = {
            let mut m = lock(&self.monitor);
            (std::mem::take(&mut m.said), std::mem::take(&mut m.outages))
        };
        for (level, text) in outages {
            self.say_of(OUTAGE, level, &text);
        }
        for (level, text) in said {
            self.say(level, &text);
        }
    }

    fn say(&self, level: u8, text: &str) {
        self.say_of(usize::from(level), level, text);
    }

    /// Logs what others can cause, but not more of it than a disk can bear. Refusals, registrations and outages do not
    /// keep each other out.
    fn say_of(&self, kind: usize, level: u8, text: &str) {
        let now = self.clock.mono_ms();
        let (allowed, unsaid) = lock(&self.told).get_mut(kind).map_or((true, None), |cap| cap.allows(now));
        if let Some(unsaid) = unsaid {
            self.log.warn(&unsaid);
        }
        match level {
            _ if !allowed => {}
            0 => self.log.error(text),
            1 => self.log.warn(text),
            _ => self.log.info(text),
        }
    }

    /// A failed sync ends the process; anything else passes.
    pub fn trouble(&self, e: &crate::disk::Error) {
        super::disk_error(&self.disk, &self.log, e);
    }

    /// What the page shows: all that was told, and the silence of hosts that are expected, but for those who are retired in the
    /// state directory.
    fn look(&self, (hosts_file, dir): (Option<&Path>, &Path), shown: u64, began_ms: i64) -> Overview {
        let now_ms = self.clock.now_ms();
        let mut o = lock(&self.monitor).overview(now_ms, &self.host);
        o.advice = fleet::advice();
        o.unwell = self.health.problems(self.clock.mono_ms());
        let mut trouble = Vec::new();
        let hosts = fleet::expected(hosts_file, &mut trouble);
        o.expected = hosts.iter().map(|host| host.name.clone()).collect();
        let said = Known::read(&self.disk, dir).unwrap_or_else(|e| {
            trouble.push(e.to_string());
            Known::default()
        });
        trouble.extend(fleet::complete(&mut o, false, shown, (&self.zone, now_ms), (&hosts, &said)));
        // Its own warnings are mostly of nodes, and so among the events.
        let own = self.log.recent().into_iter().filter(|r| r.error);
        o.errors.extend(own.map(|r| fleet::entry(&self.host, r)));
        o.errors.sort_by_key(|e| std::cmp::Reverse(e.time_ms));
        let me = Node {
            host: self.host.clone(),
            role: "monitor".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            last_beat_ms: now_ms,
            alive: Some(true),
            since_ms: began_ms,
            ..Node::default()
        };
        o.nodes.insert(0, me);
        o.trouble = trouble.join("; ");
        o
    }

    /// Keeps what is known on the disk, until the role is to stop.
    fn keep(&self) {
        let (mut minute, mut watch) = (self.clock.mono_ms(), Watch::new(&self.health));
        // Before the first wait: whoever asks at once must not be told that it is stuck.
        watch.turn(&self.clock);
        while !self.stop.wait(Duration::from_secs(1)) {
            let now = self.clock.mono_ms();
            let mut m = lock(&self.monitor);
            m.count();
            let mut nodes = Ok(());
            if now.saturating_sub(minute) >= 60_000 {
                minute = now;
                let now_ms = self.clock.now_ms();
                m.forget(now_ms);
                nodes = m.commit(now_ms);
            }
            let kept = nodes.and(m.events.sync()).and(m.hours.save_soon(now));
            let unrecorded = m.unrecorded.clone();
            drop(m);
            watch.turn(&self.clock);
            watch.disk(&kept);
            let lately = unrecorded.filter(|(at, _)| self.clock.now_ms().saturating_sub(*at) < UNRECORDED_MS);
            self.health.set("events", lately.map(|(_, why)| format!("events could not be recorded: {why}")));
            if let Err(e) = kept {
                self.trouble(&e);
            }
            self.tell();
        }
    }

    /// Asks every node for its heart-beat, round by round. A round does not wait for the end of the one before.
    fn check(&self, every: Duration) {
        let mut checks = Checks::new(ASKED_MAX.min(fd_limit().checked_div(4).unwrap_or(0).max(4)));
        let (mut round, mut next) = (0_u64, Instant::now());
        let (mut beats, mut since) = (Vec::new(), next);
        while !self.stop.requested() {
            let now = Instant::now();
            if now >= next {
                next = now.checked_add(every).unwrap_or(now);
                round = round.wrapping_add(1);
                let mut m = lock(&self.monitor);
                let again =
                    if round.is_multiple_of(READ_AGAIN) { m.read_again(self.clock.now_ms()) } else { Ok(()) };
                checks.begin(&m.targets());
                drop(m);
                if let Err(e) = again {
                    self.trouble(&e);
                }
                self.tell();
            }
            if beats.is_empty() {
                since = now;
            }
            let wait = next.saturating_duration_since(now).min(LOOK_AGAIN);
            beats.extend(checks.step(wait));
            if !beats.is_empty() && (!checks.busy() || since.elapsed() >= GATHER) {
                self.checked(std::mem::take(&mut beats));
            } else if !checks.busy() {
                self.stop.wait(wait);
            }
        }
    }

    fn checked(&self, beats: Vec<check::Beat>) {
        let now_ms = self.clock.now_ms();
        let mut m = lock(&self.monitor);
        m.checked(beats, now_ms);
        // An outage that is known survives a restart, and is not told twice.
        let saved = m.commit(now_ms);
        drop(m);
        if let Err(e) = saved {
            self.trouble(&e);
        }
        self.tell();
    }
}

struct Peer {
    stream: TcpStream,
    ip: IpAddr,
    /// The same with its port and link.
    at: SocketAddr,
    frames: Frames,
    /// When it said something last.
    heard: Instant,
    /// When the frame began that is not whole yet.
    begun: Option<Instant>,
    answers: Vec<u8>,
}

struct Receiver {
    s: Arc<Shared>,
    allow: Allow,
    peers: BTreeMap<u64, Peer>,
    next: u64,
    most: usize,
}

impl Receiver {
    fn new(s: Arc<Shared>, allow: Allow) -> Self {
        let room =
            fd_limit().saturating_sub(RESERVED_FDS).saturating_sub(fd_limit().checked_div(4).unwrap_or(0));
        Self { s, allow, peers: BTreeMap::new(), next: 0, most: CONNECTIONS_MAX.min(room.max(16)) }
    }

    fn run(&mut self, listener: &TcpListener) {
        if let Err(e) = listener.set_nonblocking(true) {
            self.s.log.error(&format!("listener: {e}; stopping; whoever starts the monitor tries again"));
            self.s.stop.request();
            return;
        }
        let look_again = Timespec::try_from(LOOK_AGAIN).ok();
        while !self.s.stop.requested() {
            let mut waits = vec![PollFd::new(listener, PollFlags::IN)];
            waits.extend(self.peers.values().map(|p| PollFd::new(&p.stream, PollFlags::IN)));
            let polled = poll(&mut waits, look_again.as_ref());
            let mut ready = waits.iter().map(|w| !w.revents().is_empty());
            let new = ready.next().unwrap_or(false);
            let heard: Vec<u64> =
                self.peers.keys().copied().zip(ready).filter(|(_, r)| *r).map(|(id, _)| id).collect();
            if polled.is_err() {
                // A signal; or no memory, and then it must not spin.
                self.s.stop.wait(Duration::from_millis(20));
                continue;
            }
            self.hear(&heard);
            self.close_late();
            if new {
                self.accept(listener);
            }
        }
    }

    /// Reads what came, takes the frames in it, makes them durable together, and answers.
    fn hear(&mut self, ids: &[u64]) {
        let (mut asked, mut buf) = (false, vec![0; 16 << 10]);
        let now_ms = self.s.clock.now_ms();
        for id in ids {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            match peer.read(&self.s, &mut buf, now_ms) {
                Ok(true) => asked |= !peer.answers.is_empty(),
                Ok(false) => drop(self.peers.remove(id)),
                Err(why) => {
                    let ip = peer.ip;
                    self.peers.remove(id);
                    self.s.say(
                        1,
                        &format!(
                            "connection from {ip}: {why}; closed; only what came whole before it is kept"
                        ),
                    );
                }
            }
        }
        if asked {
            let committed = lock(&self.s.monitor).commit(now_ms);
            if let Err(e) = &committed {
                self.s.trouble(e);
            }
            for id in ids {
                let Some(peer) = self.peers.get_mut(id).filter(|p| !p.answers.is_empty()) else { continue };
                let mut answers = std::mem::take(&mut peer.answers);
                if committed.is_err() {
                    let m = [("err", "1"), ("msg", "the monitor's disk fails; try again")];
                    answers = heartbeat::frame(&m.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
                }
                // An answer is short: a peer whose buffer has no room for it does not read.
                if peer.stream.write_all(&answers).is_err() {
                    self.peers.remove(id);
                }
            }
        }
        self.s.tell();
    }

    fn close_late(&mut self) {
        // Frames that are under way have a limit together, too: the largest goes.
        while self.peers.values().map(|p| p.frames.held()).fold(0, usize::saturating_add) > HELD_MAX {
            let Some((id, ip)) =
                self.peers.iter().max_by_key(|(_, p)| p.frames.held()).map(|(id, p)| (*id, p.ip))
            else {
                break;
            };
            self.peers.remove(&id);
            self.s.say(1, &format!("connection from {ip}: too many frames are under way; closed"));
        }
        let s = &self.s;
        self.peers.retain(|_, p| {
            let slow = p.begun.is_some_and(|at| at.elapsed() > FRAME_TIME);
            if slow {
                s.say(1, &format!("connection from {}: a frame was not whole in time; closed", p.ip));
            }
            !slow && p.heard.elapsed() <= IDLE
        });
    }

    fn accept(&mut self, listener: &TcpListener) {
        // Some at a time, so that those who are here are heard.
        for _ in 0..64 {
            let (stream, addr) = match listener.accept() {
                Ok(a) => a,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => return,
                Err(e) => {
                    self.s.say(1, &format!("accept: {e}; connections wait"));
                    self.make_room(None);
                    self.s.stop.wait(Duration::from_millis(100));
                    return;
                }
            };
            let ip = addr.ip().to_canonical();
            if !self.allow.permits(ip) {
                let text = "not in `allow`; closed; add it there if it belongs to you";
                self.s.say(1, &format!("connection from {ip}: {text}"));
                continue;
            }
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let mine = self.peers.values().filter(|p| network(p.ip) == network(ip)).count();
            if mine >= PER_ADDRESS {
                self.make_room(Some(ip));
            } else if self.peers.len() >= self.most {
                self.make_room(None);
            }
            let _ = stream.set_nodelay(true);
            let (frames, heard) = (Frames::default(), Instant::now());
            self.next = self.next.wrapping_add(1);
            self.peers.insert(
                self.next,
                Peer { stream, ip, at: addr, frames, heard, begun: None, answers: Vec::new() },
            );
        }
    }

    /// Closes the connection of an address, or else of the one that has most, of which nothing whole has come for longest: no
    /// number of addresses keeps a newcomer out, however they hold what they have.
    fn make_room(&mut self, of: Option<IpAddr>) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for p in self.peers.values() {
            let n = counts.entry(network(p.ip)).or_default();
            *n = n.saturating_add(1);
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let may_go = |p: &Peer| match of {
            Some(ip) => network(p.ip) == network(ip),
            None => counts.get(&network(p.ip)) == Some(&most),
        };
        let oldest =
            self.peers.iter().filter(|(_, p)| may_go(p)).min_by_key(|(_, p)| p.begun.unwrap_or(p.heard));
        let Some((id, ip)) = oldest.map(|(id, p)| (*id, p.ip)) else { return };
        self.peers.remove(&id);
        let n = counts.get(&network(ip)).copied().unwrap_or(0);
        self.s.say(
            1,
            &format!("connection from {ip}: closed to make room for another; it has {n} of {}", self.most),
        );
    }
}

impl Peer {
    /// False = the peer has closed. An error is a reason to close the connection.
    fn read(&mut self, s: &Shared, buf: &mut [u8], now_ms: i64) -> Result<bool, String> {
        let mut left = TURN;
        let mut open = true;
        while left > 0 && open {
            let n = match self.stream.read(buf) {
                Ok(0) => {
                    open = false;
                    0
                }
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.to_string()),
            };
            left = left.saturating_sub(n.max(1));
            self.heard = Instant::now();
            self.frames.feed(buf.get(..n).unwrap_or_default());
            while let Some(json) = self.frames.take()? {
                self.begun = None;
                let answer: Option<Message> = lock(&s.monitor).take(&json, self.at, now_ms)?;
                if let Some(m) = answer {
                    self.answers.extend(heartbeat::frame(&m));
                }
            }
        }
        if self.frames.begun() {
            self.begun.get_or_insert(self.heard);
        }
        if !open && self.frames.begun() {
            return Err("closed in the middle of a frame".into());
        }
        // Who has closed its half only may still want the answer.
        if !open && !self.answers.is_empty() {
            if let Err(e) = lock(&s.monitor).commit(now_ms) {
                s.trouble(&e);
            } else {
                let _ = self.stream.write_all(&self.answers);
            }
        }
        Ok(open)
    }
}
