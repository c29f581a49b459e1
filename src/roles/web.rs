//! The thread that answers HTTP requests, and the one that looks at what the page shows.
//!
//! One thread serves all connections, none of which it waits for: each has a step, a deadline and at most a header's
//! worth of memory; answers are shared. Who is slow, or opens thousands, makes room for the next one. So it takes two
//! threads and some hundred kilobytes, whatever comes, and nothing of the role waits for it: it shares no lock with
//! those who move packs, but for what the overview takes for a moment.

use super::serve::spawn;
use crate::clock::Clock;
use crate::config::allow::network;
use crate::config::{Allow, HttpConfig};
use crate::health::Health;
use crate::http::{self, Body, HEADER_MAX, Names, Page, Path, Rates, Refusal, Request, Type};
use crate::log::Log;
use crate::metrics::{self, Roles};
use crate::overview::{BYTES_MAX, Overview};
use crate::receiver::lock;
use crate::shutdown::Shutdown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown as Half, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Connections at once from one address.
const PER_ADDRESS: usize = 16;
/// Connections that are accepted in one turn.
const ACCEPTS: usize = 128;
/// A request must be complete after this time.
const REQUEST_MS: u64 = 5_000;
/// An answer must be taken within this time.
const ANSWER_MS: u64 = 30_000;
/// Who takes nothing of it for so long does not want it.
const STALL_MS: u64 = 5_000;
/// After the answer, so long and so much is thrown away before the connection is closed.
const DRAIN_MS: u64 = 1_000;
const DRAIN_BYTES: usize = 64 << 10;
/// How long a request waits for an overview that is new.
const FRESH_MS: u64 = 4_000;
/// An overview is not made again before this time has passed.
const OVERVIEW_MS: u64 = 10_000;
/// Making overviews may take one part in so many of the time.
const SHARE: u64 = 20;
/// When it cannot listen it is tried again after this time.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);
const TURN: Duration = Duration::from_millis(100);
const TURN_WAITING: Duration = Duration::from_millis(20);

/// Makes an overview.
pub type Look = Box<dyn FnMut() -> Overview + Send>;

/// What a role has to show.
pub struct Site {
    /// Its name.
    pub word: &'static str,
    /// Which metrics are its.
    pub roles: Roles,
    /// Is it well?
    pub health: Health,
    /// What the page shows, if the role has one.
    pub look: Option<Look>,
}

/// The running threads.
pub struct Web {
    threads: Vec<JoinHandle<()>>,
}

impl Web {
    /// Starts to serve, if the configuration says where. It is no reason for a role not to start if that cannot be: it is told,
    /// and tried again.
    pub fn start(conf: &HttpConfig, site: Site, world: (&Clock, &Log, &Shutdown)) -> Self {
        let (clock, log, stop) = world;
        metrics::START.set(clock.now_ms().unsigned_abs());
        let Some(listen) = conf.listen.clone() else { return Self { threads: Vec::new() } };
        let board = Arc::new(Board::default());
        let has_page = site.look.is_some();
        let mut threads = Vec::new();
        if let Some(look) = site.look {
            let (board, clock, stop) = (Arc::clone(&board), clock.clone(), stop.clone());
            threads.push(spawn("overview", move || board.keep(look, &clock, &stop)));
        }
        let mut server = Server {
            allow: conf.allow.clone(),
            names: Names::new(conf),
            word: site.word,
            roles: site.roles,
            health: site.health,
            page: has_page.then(Page::new),
            board,
            clock: clock.clone(),
            rates: Rates::default(),
            open: Vec::new(),
        };
        let (log, stop) = (log.clone(), stop.clone());
        threads.push(spawn("http", move || {
            while !stop.requested() {
                match TcpListener::bind(&listen).and_then(|l| l.set_nonblocking(true).map(|()| l)) {
                    Ok(listener) => {
                        if let Ok(addr) = listener.local_addr() {
                            log.info(&format!("http: the page and the metrics are at http://{addr}/"));
                        }
                        server.run(&listener, &stop);
                    }
                    Err(e) => {
                        log.error(&format!(
                            "http: listen {listen}: {e}; the role works without its page, and this is tried again; two roles of \
                             one file cannot both have it"
                        ));
                        stop.wait(LISTEN_AGAIN);
                    }
                }
            }
        }));
        Self { threads }
    }

    /// Waits for the end of the threads, after the stop.
    pub fn join(self) {
        for t in self.threads {
            let _ = t.join();
        }
    }
}

/// The overview of now, between who makes it and who shows it.
#[derive(Default)]
struct Board {
    made: Mutex<Made>,
    changed: Condvar,
}

#[derive(Default)]
struct Made {
    json: Option<Body>,
    /// Until when it is new enough.
    good_ms: u64,
    wanted: bool,
}

impl Board {
    /// The overview, and whether it is new enough; if not, another is made.
    fn ask(&self, now_ms: u64) -> (Option<Body>, bool) {
        let mut made = lock(&self.made);
        let fresh = made.json.is_some() && now_ms < made.good_ms;
        if !fresh {
            made.wanted = true;
            self.changed.notify_all();
        }
        (made.json.clone(), fresh)
    }

    fn keep(&self, mut look: Look, clock: &Clock, stop: &Shutdown) {
        while !stop.requested() {
            let mut made = lock(&self.made);
            if !made.wanted {
                // The stop wakes nobody here.
                let wait = Duration::from_millis(200);
                made = self.changed.wait_timeout(made, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
            let wanted = made.wanted;
            drop(made);
            if !wanted {
                continue;
            }
            let began = clock.mono_ms();
            let mut overview = look();
            overview.limit();
            metrics::set_hours(overview.hours.iter().map(|h| h.state.as_str()));
            let json = Body::large(overview.to_json_within(BYTES_MAX));
            let now = clock.mono_ms();
            let rest = OVERVIEW_MS.max(now.saturating_sub(began).saturating_mul(SHARE));
            let mut made = lock(&self.made);
            *made = Made { json: Some(json), good_ms: now.saturating_add(rest), wanted: false };
        }
    }
}

enum Step {
    /// The request's bytes so far.
    Reading(Vec<u8>),
    /// It waits for an overview.
    Waiting(Request),
    Writing {
        head: Vec<u8>,
        body: Arc<[u8]>,
        at: usize,
    },
    /// The answer is out; how much may still be thrown away.
    Draining(usize),
    Over,
}

struct Connection {
    stream: TcpStream,
    ip: IpAddr,
    /// The address at which it arrived.
    local: IpAddr,
    step: Step,
    deadline_ms: u64,
    /// When its step began, or something of the answer was taken last.
    moved_ms: u64,
}

struct Server {
    allow: Allow,
    names: Names,
    word: &'static str,
    roles: Roles,
    health: Health,
    page: Option<Page>,
    board: Arc<Board>,
    clock: Clock,
    rates: Rates,
    open: Vec<Connection>,
}

impl Server {
    fn run(&mut self, listener: &TcpListener, stop: &Shutdown) {
        while !stop.requested() {
            let waiting = self.open.iter().any(|c| matches!(c.step, Step::Waiting(_)));
            let timeout = Timespec::try_from(if waiting { TURN_WAITING } else { TURN }).ok();
            let mut ready = vec![PollFd::new(listener, PollFlags::IN)];
            let flags = |c: &Connection| match c.step {
                Step::Writing { .. } => PollFlags::OUT,
                _ => PollFlags::IN,
            };
            // One that waits has nothing to say, and whether it has gone shows soon enough.
            let polled = self.open.iter().filter(|c| !matches!(c.step, Step::Waiting(_)));
            ready.extend(polled.map(|c| PollFd::new(&c.stream, flags(c))));
            let failed = poll(&mut ready, timeout.as_ref()).is_err();
            let knocks = ready.first().is_some_and(|l| !l.revents().is_empty());
            drop(ready);
            if failed {
                // A signal; or no memory, and then it must not spin.
                stop.wait(TURN_WAITING);
            }
            let now = self.clock.mono_ms();
            let mut open = std::mem::take(&mut self.open);
            for c in &mut open {
                self.advance(c, now);
            }
            open.retain(|c| !matches!(c.step, Step::Over));
            self.open = open;
            // After those that are there: who came first has had its turn before it makes room.
            if knocks && !self.accept(listener, now) {
                stop.wait(TURN);
            }
        }
        self.open.clear();
    }

    /// Takes new connections; false = it failed, for lack of descriptors perhaps.
    fn accept(&mut self, listener: &TcpListener, now: u64) -> bool {
        for _ in 0..ACCEPTS {
            let (stream, addr) = match listener.accept() {
                Ok(new) => new,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(_) => return false,
            };
            let ip = addr.ip().to_canonical();
            let (Ok(local), Ok(())) = (stream.local_addr(), stream.set_nonblocking(true)) else { continue };
            if !self.allow.permits(ip) {
                continue;
            }
            self.make_room(ip);
            let _ = stream.set_nodelay(true);
            let mut c = Connection {
                stream,
                ip,
                local: local.ip(),
                step: Step::Reading(Vec::new()),
                deadline_ms: now.saturating_add(REQUEST_MS),
                moved_ms: now,
            };
            // Most have sent their request already.
            self.advance(&mut c, now);
            if !matches!(c.step, Step::Over) {
                self.open.push(c);
            }
        }
        true
    }

    /// Makes room for a connection from `ip`, among those of the same address if that has many, else of the one that has most.
    /// First goes who still has to say what it wants, or has its answer; then whose answer stands still for longest: whatever
    /// two addresses hold, a third is heard.
    fn make_room(&mut self, ip: IpAddr) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for c in &self.open {
            let n = counts.entry(network(c.ip)).or_default();
            *n = n.saturating_add(1);
        }
        let mine = counts.get(&network(ip)).copied().unwrap_or(0);
        if mine < PER_ADDRESS && self.open.len() < CONNECTIONS_MAX {
            return;
        }
        let most = counts.values().copied().max();
        let may_go = |c: &Connection| {
            if mine >= PER_ADDRESS {
                network(c.ip) == network(ip)
            } else {
                counts.get(&network(c.ip)).copied() == most
            }
        };
        let rank = |c: &Connection| match c.step {
            Step::Reading(_) | Step::Draining(_) | Step::Over => 0,
            Step::Writing { .. } => 1,
            Step::Waiting(_) => 2,
        };
        let all = self.open.iter().enumerate().filter(|(_, c)| may_go(c));
        if let Some(at) = all.min_by_key(|(_, c)| (rank(c), c.moved_ms)).map(|(at, _)| at) {
            self.open.remove(at);
        }
    }

    /// As far as a connection comes without waiting.
    fn advance(&mut self, c: &mut Connection, now: u64) {
        loop {
            let late = now >= c.deadline_ms;
            let next = match &mut c.step {
                Step::Over => return,
                Step::Reading(bytes) => match read_more(&mut c.stream, bytes) {
                    Some(false) => Step::Over,
                    more => match http::parse(bytes, &self.names, c.local) {
                        Ok(Some(request)) if self.rates.allows(c.ip, now) => {
                            c.deadline_ms = now.saturating_add(FRESH_MS);
                            Step::Waiting(request)
                        }
                        Ok(Some(request)) => Self::refuse(http::TOO_MANY, request.head),
                        Ok(None) if late && !bytes.is_empty() => Self::refuse(http::TOO_SLOW, false),
                        Ok(None) if late => Step::Over,
                        Ok(None) if more.is_none() => return,
                        Ok(None) => continue,
                        // Also for garbage: each costs a request.
                        Err(_) if !self.rates.allows(c.ip, now) => Step::Over,
                        Err(refusal) => Self::refuse(refusal, bytes.starts_with(b"HEAD ")),
                    },
                },
                Step::Waiting(request) => {
                    let request = *request;
                    match self.answer(request, late, now) {
                        Some(step) => step,
                        None => return,
                    }
                }
                Step::Writing { head, body, at } => {
                    let before = *at;
                    let written = write_more(&mut c.stream, head, body, at);
                    if *at > before {
                        c.moved_ms = now;
                    }
                    match written {
                        Some(true) => {
                            let _ = c.stream.shutdown(Half::Write);
                            c.deadline_ms = now.saturating_add(DRAIN_MS);
                            Step::Draining(DRAIN_BYTES)
                        }
                        Some(false) => Step::Over,
                        None if late || now.saturating_sub(c.moved_ms) >= STALL_MS => Step::Over,
                        None => return,
                    }
                }
                Step::Draining(left) => {
                    let mut buf = [0; 4096];
                    match c.stream.read(&mut buf) {
                        Ok(n) if n > 0 && *left >= n && !late => Step::Draining(left.saturating_sub(n)),
                        Err(e) if e.kind() == ErrorKind::WouldBlock && !late => return,
                        _ => Step::Over,
                    }
                }
            };
            if matches!(next, Step::Writing { .. }) {
                c.deadline_ms = now.saturating_add(ANSWER_MS);
            }
            (c.step, c.moved_ms) = (next, now);
        }
    }

    fn refuse(r: Refusal, head_only: bool) -> Step {
        match r.code {
            429 => metrics::HTTP_MANY.inc(),
            503 => metrics::HTTP_UNWELL.inc(),
            _ => metrics::HTTP_BAD.inc(),
        }
        answer(r.code, Type::Text, &Body::text(format!("{}\n", r.why)), head_only, false, None)
    }

    /// What is asked for; `None` = it is being made.
    fn answer(&self, r: Request, late: bool, now: u64) -> Option<Step> {
        let ok = |kind, body: &Body, policy: Option<&str>| {
            metrics::HTTP_OK.inc();
            Some(answer(200, kind, body, r.head, r.gzip, policy))
        };
        match (r.path, &self.page) {
            (Path::Page, Some(page)) => ok(Type::Html, &page.body, Some(&page.policy)),
            (Path::Page | Path::Status, None) => Some(Self::refuse(http::NO_PAGE, r.head)),
            (Path::Status, Some(_)) => match self.board.ask(now) {
                (Some(json), fresh) if fresh || late => ok(Type::Json, &json, None),
                (None, _) if late => Some(Self::refuse(http::NOT_YET, r.head)),
                _ => None,
            },
            (Path::Metrics, page) => {
                // With the hours as they are now, if that does not take long.
                if page.is_some() && !self.board.ask(now).1 && !late {
                    return None;
                }
                ok(Type::Metrics, &Body::text(metrics::text(self.roles, self.word)), None)
            }
            (Path::Health, _) => {
                let problems = self.health.problems(now);
                if problems.is_empty() {
                    return ok(Type::Text, &Body::text("ok\n"), None);
                }
                metrics::HTTP_UNWELL.inc();
                let body = Body::text(problems.join("\n").replace('\r', " ") + "\n");
                Some(answer(503, Type::Text, &body, r.head, false, None))
            }
        }
    }
}

fn answer(code: u16, kind: Type, body: &Body, head_only: bool, gzip: bool, policy: Option<&str>) -> Step {
    let zipped = body.gzip.as_ref().filter(|_| gzip);
    let bytes = Arc::clone(zipped.unwrap_or(&body.plain));
    let head = http::head(code, kind, bytes.len(), zipped.is_some(), policy);
    Step::Writing { head, body: if head_only { Arc::from([]) } else { bytes }, at: 0 }
}

/// Reads what is there, up to a header's length. `None` = no more for now, `Some(true)` = there may be more, `Some(false)` =
/// it was closed.
fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<bool> {
    let mut buf = [0; 2048];
    let room = HEADER_MAX.saturating_sub(bytes.len()).min(buf.len());
    if room == 0 {
        return Some(true);
    }
    match stream.read(buf.get_mut(..room).unwrap_or_default()) {
        Ok(0) => Some(false),
        Ok(n) => {
            bytes.extend_from_slice(buf.get(..n).unwrap_or_default());
            Some(true)
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock) => None,
        Err(e) => Some(e.kind() == ErrorKind::Interrupted),
    }
}

/// Writes what fits. `Some(true)` = all is out, `Some(false)` = it was closed.
fn write_more(stream: &mut TcpStream, head: &[u8], body: &[u8], at: &mut usize) -> Option<bool> {
    loop {
        let rest = match head.get(*at..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => body.get(at.saturating_sub(head.len())..).unwrap_or_default(),
        };
        if rest.is_empty() {
            return Some(true);
        }
        match stream.write(rest) {
            Ok(0) => return Some(false),
            Ok(n) => *at = at.saturating_add(n),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Some(false),
        }
    }
}
