//! Senders by the hundred in one thread: packs whose bodies are made before time counts, and connections that are waited for
//! together. Only a pack's header is made when it is sent, so that the load leaves the cores to the program under test.

use super::lines;
use super::support::{Node, Reaped, Rng, SOON, Temp, until};
use logd::clock::{Clock, Hour, Zone};
use logd::pack::{Encoder, Header, HourKey, Meta, Seal, Totals, total_digest};
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

// ---- packs ----

struct Body {
    raw: Vec<u8>,
    lines: u64,
    seal: Seal,
    /// Without the tag, which is each pack's own and makes all bodies different.
    zlib: Vec<u8>,
}

/// Lines cut into packs and deflated. Hours take them in turn, each from another one on.
pub struct Pool(Vec<Body>);

impl Pool {
    /// So many packs; their numbers of lines are drawn from `size` (seed 7). Deflated at the default level, 6.
    pub fn new(packs: usize, size: RangeInclusive<u64>) -> Self {
        let mut rng = Rng::new(7);
        let mut draw = || size.start() + rng.below(size.end() - size.start() + 1);
        let (mut bodies, mut raw, mut left) = (Vec::new(), Vec::new(), draw());
        let (mut encoder, mut count) = (Encoder::new(6), left);
        lines::each(|line| {
            raw.extend_from_slice(line.as_bytes());
            left -= 1;
            if left == 0 {
                let mut zlib = Vec::new();
                encoder.body(&raw, "", &mut zlib);
                let seal = Seal::of(&raw);
                bodies.push(Body { raw: std::mem::take(&mut raw), lines: count, seal, zlib });
                count = draw();
                left = count;
            }
            bodies.len() < packs
        });
        Self(bodies)
    }

    /// Mean of a pack's raw bytes.
    pub fn mean(&self) -> f64 {
        self.0.iter().map(|b| b.raw.len()).sum::<usize>() as f64 / self.0.len() as f64
    }
}

/// An hour of a host, pack by pack.
pub struct Sending {
    key: HourKey,
    /// The pool's pack that is this hour's first.
    from: usize,
    sent: u64,
}

impl Sending {
    /// Nothing is sent yet.
    pub fn new(host: usize, hour: Hour) -> Self {
        // Neighbours must not send the same lines at the same time.
        Self { key: HourKey { name: name(host), hour }, from: host * 31, sent: 0 }
    }

    /// Packs so far.
    pub fn packs(&self) -> u64 {
        self.sent
    }

    /// Raw bytes so far.
    pub fn bytes(&self, pool: &Pool) -> u64 {
        self.bodies(pool).map(|b| b.seal.bytes).sum()
    }

    /// Raw bytes of it that are in its stored file.
    pub fn stored(&self, save: &Path) -> u64 {
        fs::metadata(save.join("log_data").join(self.key.to_string())).map_or(0, |m| m.len())
    }

    fn body<'a>(&self, pool: &'a Pool, id: u64) -> &'a Body {
        &pool.0[(self.from + id as usize) % pool.0.len()]
    }

    fn bodies<'a>(&self, pool: &'a Pool) -> impl Iterator<Item = &'a Body> {
        (1..=self.sent).map(|id| self.body(pool, id))
    }

    /// The frame of the next pack; with `done` it closes the hour and tells its totals.
    pub fn next(&mut self, pool: &Pool, done: bool) -> Vec<u8> {
        self.sent += 1;
        let body = self.body(pool, self.sent);
        let totals = done.then(|| Totals {
            lines: self.bodies(pool).map(|b| b.lines).sum(),
            bytes: self.bodies(pool).map(|b| b.seal.bytes).sum(),
            sha256: total_digest(self.bodies(pool).map(|b| &b.seal.sha256)),
        });
        let meta = Meta {
            key: self.key.clone(),
            generation: 0,
            id: self.sent,
            lines: body.lines,
            done,
            repull: false,
            seal: Some(body.seal),
            totals,
            state: String::new(),
            loss: String::new(),
            day_hours: if done { 24 } else { 0 },
            clock: false,
        };
        let tag = meta.tag();
        let mut entry = meta.entry();
        // As a follower's packs have them; the receiver does not read them.
        let time = "2026-11-22 07:54:28.821";
        for (k, v) in [("stage", "make pack"), ("st", time), ("ed", time), ("elapse", "0s")] {
            entry.insert(k.into(), v.into());
        }
        let pack_len = (body.zlib.len() + tag.len()) as u64;
        let mut frame = Header { route: vec![entry], pack_len }.encode();
        frame.extend_from_slice(&body.zlib);
        frame.extend_from_slice(tag.as_bytes());
        frame
    }

    /// The stored file must have what was sent, byte by byte.
    pub fn check(&self, pool: &Pool, save: &Path) {
        let path = save.join("log_data").join(self.key.to_string());
        let stored = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut rest = stored.as_slice();
        for (body, id) in self.bodies(pool).zip(1..) {
            rest = rest.strip_prefix(body.raw.as_slice()).unwrap_or_else(|| {
                panic!("{}: pack {id} of {} is not what was sent", path.display(), self.sent)
            });
        }
        assert!(rest.is_empty(), "{}: {} bytes follow what was sent", path.display(), rest.len());
    }
}

/// What the sender of this number is called.
pub fn name(host: usize) -> String {
    format!("web-{host:05}.example.com")
}

/// An hour in the past.
pub fn hours_ago(n: u64) -> Hour {
    Zone::named("UTC").unwrap().hour_at(Clock::real().now_ms() - n.cast_signed() * 3_600_000)
}

// ---- connections ----

/// What a refused sender waits before it sends its pack again: a follower's shortest back-off.
const BACK_OFF: Duration = Duration::from_millis(200);

struct Peer {
    stream: TcpStream,
    /// When its pack was first handed to the socket; `None` = it has none under way.
    since: Option<Instant>,
    frame: Vec<u8>,
}

/// Connections with one pack under way each.
pub struct Fleet {
    to: SocketAddr,
    epoll: OwnedFd,
    peers: Vec<Peer>,
    events: Vec<epoll::Event>,
    /// Who was told to wait, and until when.
    waiting: VecDeque<(Instant, usize)>,
    /// How often somebody was told to wait.
    pub refused: u64,
}

impl Fleet {
    /// Connects so many senders, each from an address of its own.
    pub fn connect(to: SocketAddr, count: usize) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let connected = |n| Peer { stream: connected(to, &epoll, n), since: None, frame: Vec::new() };
        let peers = (0..count).map(connected).collect();
        let events = Vec::with_capacity(256);
        Self { to, epoll, peers, events, waiting: VecDeque::new(), refused: 0 }
    }

    /// Has it no pack under way?
    pub fn is_free(&self, who: usize) -> bool {
        self.peers[who].since.is_none()
    }

    /// Hands a frame to a connection's socket, which has room for it: nothing else is under way there.
    pub fn send(&mut self, who: usize, frame: Vec<u8>) {
        let peer = &mut self.peers[who];
        assert!(peer.since.replace(Instant::now()).is_none());
        peer.frame = frame;
        peer.stream.write_all(&peer.frame).unwrap();
    }

    /// Waits for answers until `limit`, and for one at the most: who got `ok`, and how long after [`Fleet::send`]. Who is told
    /// to wait does so, and sends the pack again over a new connection.
    pub fn answers(&mut self, limit: Duration) -> Vec<(usize, Duration)> {
        while self.waiting.front().is_some_and(|(until, _)| *until <= Instant::now()) {
            let Some((_, who)) = self.waiting.pop_front() else { break };
            self.peers[who].stream = connected(self.to, &self.epoll, who);
            let peer = &mut self.peers[who];
            peer.stream.write_all(&peer.frame).unwrap();
        }
        self.events.clear();
        let limit =
            Timespec::try_from(if self.waiting.is_empty() { limit } else { limit.min(BACK_OFF) }).unwrap();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        epoll::wait(&self.epoll, room, Some(&limit)).unwrap();
        let mut out = Vec::new();
        for event in &self.events {
            let who = event.data.u64() as usize;
            let peer = &mut self.peers[who];
            let mut answer = [0; 64];
            let n = peer.stream.read(&mut answer).unwrap();
            match &answer[..n] {
                b"ok" => out.push((who, peer.since.take().expect("a pack under way").elapsed())),
                b"busy" => {
                    epoll::delete(&self.epoll, &peer.stream).unwrap();
                    self.refused += 1;
                    self.waiting.push_back((Instant::now() + BACK_OFF, who));
                }
                other => panic!("sender {who}: {:?}", String::from_utf8_lossy(other)),
            }
        }
        out
    }

    /// Every connection sends as soon as it may what `next` gives it, until that is nothing more; then all are waited for.
    /// The times to the answers.
    pub fn drive(&mut self, mut next: impl FnMut(usize) -> Option<Vec<u8>>) -> Vec<Duration> {
        let mut times = Vec::new();
        let (mut free, mut under_way): (Vec<usize>, usize) = ((0..self.peers.len()).collect(), 0);
        loop {
            for who in free.drain(..) {
                if let Some(frame) = next(who) {
                    self.send(who, frame);
                    under_way += 1;
                }
            }
            if under_way == 0 {
                return times;
            }
            let last = Instant::now();
            while free.is_empty() {
                assert!(last.elapsed() < SOON, "no answer in {SOON:?}");
                for (who, took) in self.answers(SOON) {
                    times.push(took);
                    free.push(who);
                    under_way -= 1;
                }
            }
        }
    }
}

/// A connection of sender `n` from its own address, watched by the epoll.
fn connected(to: SocketAddr, epoll: &OwnedFd, n: usize) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let own = Ipv4Addr::new(127, 1, (n / 250) as u8, (n % 250 + 1) as u8);
    rustix::net::bind(&socket, &SocketAddrV4::new(own, 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    epoll::add(epoll, &stream, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN).unwrap();
    stream
}

/// Lets this process, and those that it starts, open as many files as the system allows.
pub fn raise_fd_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

// ---- the collector ----

/// A collector with its defaults, but for `keys`; hour files below `save`. It is not started.
pub fn collector(temp: &Temp, keys: &[(&str, &str)]) -> Node {
    let save = temp.path("save").display().to_string();
    Node::prepare(temp, "store", "fcollector", &[&[("save_dir", save.as_str())], keys].concat(), &[])
}

/// The tags of an hour, by name.
pub fn tags(save: &Path, hour: Hour) -> HashMap<String, PathBuf> {
    let listed = fs::read_dir(save.join("received")).into_iter().flatten().flatten();
    let middle = format!("_{hour}_");
    listed
        .filter_map(|e| {
            let file = e.file_name().into_string().ok()?;
            Some((file.split_once(&middle)?.0.to_owned(), e.path()))
        })
        .collect()
}

/// Counts the syncs of a running process until its end, in the kernel: that costs it nothing worth a second run.
pub struct SyncCounter {
    perf: Reaped,
    counted: PathBuf,
}

impl SyncCounter {
    /// `None` = there is no `perf`, or it may not count here.
    pub fn of(node: &Node, temp: &Temp) -> Option<Self> {
        const CALLS: &str = "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync";
        let tried = Command::new("perf").args(["stat", "-e", CALLS, "true"]).output();
        if !tried.is_ok_and(|o| o.status.success()) {
            return None;
        }
        let (counted, pid) = (temp.path("syncs"), node.pid().unwrap().as_raw_nonzero().to_string());
        let mut perf = Command::new("perf");
        perf.args(["stat", "-x", ",", "-e", CALLS, "-p", &pid, "-o"]).arg(&counted);
        let perf = Reaped(perf.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        // It opens its output when it has begun.
        until(SOON, "perf to count", || counted.exists().then_some(()));
        Some(Self { perf, counted })
    }

    /// The number, after the process has ended.
    pub fn end(mut self) -> u64 {
        until(SOON, "perf to end", || self.perf.0.try_wait().unwrap());
        let text = fs::read_to_string(&self.counted).unwrap();
        let lines = text.lines().filter(|l| l.contains("sync"));
        lines.map(|l| l.split(',').next().unwrap().parse::<u64>().unwrap_or_else(|_| panic!("{l}"))).sum()
    }
}
