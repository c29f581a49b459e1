//! What runs beside every role: its heart-beat, its messages to the monitor, its alarms.
//!
//! Each of these has a thread of its own and none of them is ever waited for: a start does not need the monitor, and a
//! stop gives it [`PARTING`]. They go on until the role has ended, so that its last messages are sent.

use super::alarm::Alarms;
use super::serve::spawn;
use crate::clock::{Clock, Zone};
use crate::config::{Level, WatchConfig};
use crate::heartbeat::{self, BEAT, Me, Registrar};
use crate::log::{Log, Tap, Told};
use crate::metrics;
use crate::receiver::lock;
use crate::shutdown::Shutdown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a question to the monitor may take.
const ASK: Duration = Duration::from_secs(5);
/// How long a parting word may take, and how long the end of a role waits for all of this.
const PARTING: Duration = Duration::from_secs(2);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// How soon a thread sees that the role has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The first and the longest wait before a port or a connection is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// What the threads share.
pub struct World {
    pub log: Log,
    pub clock: Clock,
    pub zone: Zone,
    /// The role has ended.
    pub quit: Shutdown,
    /// Who this is; the port is 0 until heart-beats are answered.
    pub me: Mutex<Me>,
}

/// The threads of a role; dropping it ends them.
pub struct Pulse {
    pub alarms: Alarms,
    pub world: Arc<World>,
    threads: Vec<JoinHandle<()>>,
}

/// Whom messages go to, if anybody; to be asked before the log is cloned.
pub fn tap(conf: &WatchConfig, log: &mut Log) -> Option<Arc<Tap>> {
    conf.log_to.as_ref().map(|_| log.tap(conf.log_level))
}

impl Pulse {
    /// Starts what the config asks for. A follower that runs `once` has no heart-beat: it is expected to end.
    pub fn start(
        conf: &WatchConfig,
        (role, host): (&str, &str),
        (log, clock, zone): (&Log, &Clock, &Zone),
        tap: Option<Arc<Tap>>,
        (once, seed): (bool, u64),
    ) -> Self {
        let me = Me {
            role: role.to_owned(),
            hostname: host.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            port: 0,
            ip: None,
        };
        let world = Arc::new(World {
            log: log.untapped(),
            clock: clock.clone(),
            zone: zone.clone(),
            quit: Shutdown::default(),
            me: Mutex::new(me),
        });
        let (alarms, alarm_thread) =
            Alarms::start(&conf.alarm, &format!("logd {role} on {host}"), &world.log);
        let mut threads: Vec<_> = alarm_thread.into_iter().collect();
        if let Some(listen) = conf.hb_listen.clone().filter(|_| !once) {
            let w = Arc::clone(&world);
            threads.push(spawn("heart-beat", move || w.answer(&listen)));
            if let Some(monitor) = conf.monitor.clone() {
                let w = Arc::clone(&world);
                threads.push(spawn("register", move || w.register(&monitor, seed)));
            }
        }
        if let (Some(to), Some(tap)) = (conf.log_to.clone(), tap) {
            let w = Arc::clone(&world);
            threads.push(spawn("messages", move || w.send_messages(&to, &tap)));
        }
        Self { alarms, world, threads }
    }
}

impl Pulse {
    /// A further thread that ends with the others.
    pub fn add(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.world.quit.request();
        self.alarms.stop();
        let until = Instant::now().checked_add(PARTING.saturating_add(Duration::from_secs(1)));
        for thread in self.threads.drain(..) {
            // A name that is being looked up cannot be hurried: then the end of the process ends the thread.
            while !thread.is_finished() && until.is_some_and(|u| Instant::now() < u) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// Tries the addresses of `host:port` in turn: `localhost` may have two, of which the monitor has one. The last error is told.
pub fn reach<T>(to: &str, mut go: impl FnMut(SocketAddr) -> Result<T, String>) -> Result<T, String> {
    let all = to.to_socket_addrs().map_err(|e| e.to_string())?;
    let mut failed = "the name has no address".to_owned();
    for at in all.take(ADDRESSES_MAX) {
        match go(at) {
            Ok(done) => return Ok(done),
            Err(why) => failed = why,
        }
    }
    Err(failed)
}

impl World {
    /// Answers every connection with the heart-beat, until the role has ended.
    fn answer(&self, listen: &str) {
        let mut wait = RETRY.0;
        let listener = loop {
            let bound = TcpListener::bind(listen).and_then(|l| l.set_nonblocking(true).map(|()| l));
            match bound {
                Ok(listener) => break listener,
                Err(e) => self.log.warn(&format!(
                    "hb_port {listen}: {e}; the monitor cannot see that this role lives; the role works on, and the port is \
                     tried again"
                )),
            }
            if self.quit.wait(wait) {
                return;
            }
            wait = wait.saturating_mul(2).min(RETRY.1);
        };
        if let Ok(at) = listener.local_addr() {
            self.log.info(&format!("heart-beats are answered on {at}"));
            let mut me = lock(&self.me);
            me.port = at.port();
            me.ip = Some(at.ip()).filter(|ip| !ip.is_unspecified());
        }
        let look_again = Timespec::try_from(LOOK_AGAIN).ok();
        while !self.quit.requested() {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    // One byte always fits into an empty buffer; nothing is read, and nobody is waited for.
                    let _ = stream.set_nonblocking(true);
                    let _ = stream.write_all(BEAT);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let mut waits = [PollFd::new(&listener, PollFlags::IN)];
                    if poll(&mut waits, look_again.as_ref()).is_err() {
                        self.quit.wait(Duration::from_millis(20));
                    }
                }
                // EMFILE and its like pass.
                Err(_) => drop(self.quit.wait(Duration::from_millis(100))),
            }
        }
    }

    /// Registers, again and again, and takes the entry back at the end.
    fn register(&self, monitor: &str, seed: u64) {
        let mut registrar = Registrar::new(self.clock.mono_ms(), seed);
        let mut reached = None;
        while !self.quit.wait(LOOK_AGAIN) {
            let me = lock(&self.me).clone();
            if me.port == 0 || !registrar.due(self.clock.mono_ms()) {
                continue;
            }
            let result = reach(monitor, |to| {
                let answer = heartbeat::ask(to, ASK, |own| {
                    let mut m = me.request("register", Some(own));
                    let lag_s = metrics::LAG.get().checked_div(1_000).unwrap_or(0);
                    m.insert("lag".into(), lag_s.to_string());
                    m.insert("paused".into(), metrics::PAUSED.get().to_string());
                    m
                })?;
                reached = Some(to);
                heartbeat::done(&answer).map(|()| heartbeat::again_ms(&answer))
            });
            match registrar.tried(result, self.clock.mono_ms()) {
                Some((true, text)) => self.log.info(&format!("monitor {monitor}: {text}")),
                Some((false, text)) => self.log.warn(&format!("monitor {monitor}: {text}")),
                None => {}
            }
        }
        if let (true, Some(to)) = (registrar.registered(), reached) {
            let me = lock(&self.me).clone();
            let told = heartbeat::ask(to, PARTING, |own| me.request("unregister", Some(own)));
            if let Err(why) = told.and_then(|answer| heartbeat::done(&answer)) {
                self.log.warn(&format!("monitor {monitor}: {why}; it will take this stop for a failure"));
            }
        }
    }

    /// Sends what is tapped from the log. A message that cannot be sent waits; what the queue cannot hold is counted.
    fn send_messages(&self, to: &str, tap: &Tap) {
        let (mut stream, mut waiting): (Option<TcpStream>, Option<Told>) = (None, None);
        let (mut wait, mut dropped, mut failing) = (RETRY.0, 0_u64, false);
        let mut retry_at = Instant::now();
        let mut end = None;
        loop {
            if self.quit.requested() {
                // What was said last is sent, too, if that is quickly done.
                let end = *end.get_or_insert_with(|| Instant::now().checked_add(Duration::from_secs(1)));
                if end.is_none_or(|end| Instant::now() >= end) || failing {
                    return;
                }
            }
            dropped = dropped.saturating_add(tap.take_dropped());
            if waiting.is_none() {
                waiting = tap.take(LOOK_AGAIN);
            }
            let Some(told) = &waiting else {
                if self.quit.requested() {
                    return;
                }
                continue;
            };
            if Instant::now() < retry_at {
                self.quit.wait(LOOK_AGAIN);
                continue;
            }
            let result = self.send(to, &mut stream, dropped, told);
            match result {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        self.log.info(&format!("tcp_addr {to}: messages are sent again"));
                    }
                    if dropped > 0 {
                        self.log.warn(&format!(
                            "tcp_addr {to}: {dropped} messages were too many to wait and were not sent; they are in the log here"
                        ));
                    }
                    (waiting, dropped, wait) = (None, 0, RETRY.0);
                }
                Err(why) => {
                    stream = None;
                    if !std::mem::replace(&mut failing, true) {
                        self.log.warn(&format!("tcp_addr {to}: {why}; messages wait, and the role works on"));
                    }
                    retry_at = Instant::now().checked_add(wait).unwrap_or_else(Instant::now);
                    wait = wait.saturating_mul(2).min(RETRY.1);
                }
            }
        }
    }

    fn send(
        &self,
        to: &str,
        stream: &mut Option<TcpStream>,
        dropped: u64,
        told: &Told,
    ) -> Result<(), String> {
        // A monitor that was started again has closed its end; what is written then would vanish.
        if stream.as_ref().is_some_and(is_closed) {
            *stream = None;
        }
        let open = if let Some(open) = stream {
            open
        } else {
            let new = reach(to, |at| TcpStream::connect_timeout(&at, ASK).map_err(|e| e.to_string()))?;
            let _ = new.set_nodelay(true);
            new.set_write_timeout(Some(ASK)).map_err(|e| e.to_string())?;
            stream.insert(new)
        };
        let own = open.local_addr().map_err(|e| e.to_string())?.ip().to_canonical();
        let me = lock(&self.me).clone();
        let frame = |time_ms: i64, level: Level, text: &str| {
            // As the original writes it: 2026/11/22 08:23:58.
            let time: String = self.zone.format_ms(time_ms).replacen('-', "/", 2).chars().take(19).collect();
            let kind = match level {
                Level::Debug => "DEBUG",
                Level::Info => "INFO",
                Level::Warning => "WARNING",
                Level::Error => "ERROR",
            };
            let mut m = me.message(Some(own), &time, kind, text);
            m.insert("ms".into(), time_ms.to_string());
            heartbeat::frame(&m)
        };
        let mut bytes = frame(told.time_ms, told.level, &told.text);
        if dropped > 0 {
            let text =
                format!("{dropped} messages could not be sent in time; they are in this host's log only");
            bytes.extend(frame(self.clock.now_ms(), Level::Warning, &text));
        }
        open.write_all(&bytes).map_err(|e| e.to_string())
    }
}

/// Has the peer closed? It never sends anything.
fn is_closed(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let open = matches!(stream.peek(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock);
    !open || stream.set_nonblocking(false).is_err()
}
