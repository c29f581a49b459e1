//! Where senders must sign: connections whose peers have not done so yet.
//!
//! A crowd of strangers must not have a thread each: whoever signs would wait for the processor among thousands of them. The
//! accepting thread hears them all, never waits for one, and gives a connection a thread of its own when a header has come that
//! may be taken. Of what is not taken no more is read than its header; the body is the thread's. Test packs, which a relay sends
//! without a signature, are answered here.
//!
//! A handshake of TLS keeps a processor busy for longer than a thread costs, and those who come next would wait for it: with TLS a
//! connection has its thread from its first byte on.

use super::connection::{Connection, DRAIN, DRAIN_BYTES, DRAIN_SILENT, End, no_room};
use super::peers::Peers;
use crate::clock;
use crate::metrics;
use crate::receiver::lock;
use crate::tls::SILENT;
use rustix::event::{Timespec, epoll};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown as Half;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Connections that are heard before another one is accepted.
const TURN: usize = 16;
/// How often deadlines are looked at, and whether there is room now for headers that wait for it.
const LOOK: Duration = Duration::from_millis(250);
/// Looked at a time; what is thrown away is read as much at a time.
const CHUNK: usize = 8 << 10;

/// See above.
pub struct Lobby {
    epoll: OwnedFd,
    /// The oldest first.
    visitors: BTreeMap<u64, Visitor>,
    /// Those of them that wait for room.
    waiting: BTreeSet<u64>,
    events: Vec<epoll::Event>,
    buf: Vec<u8>,
    looked: Instant,
}

struct Visitor {
    connection: Connection,
    state: State,
}

/// What is waited for, and until when.
#[derive(Clone, Copy)]
enum State {
    /// A header, or more of it.
    Header(Instant),
    /// Room for a header.
    Room(Instant),
    /// The end, after a refusal.
    End { until: Instant, silent: Instant, left: usize },
}

/// What becomes of a connection.
enum Next {
    Stays(State),
    /// Its header may be taken.
    Enters,
    Goes,
}

impl Lobby {
    /// Nobody is there.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (visitors, waiting, events) = (BTreeMap::new(), BTreeSet::new(), Vec::with_capacity(TURN));
        Ok(Self { epoll, visitors, waiting, events, buf: vec![0; CHUNK], looked: Instant::now() })
    }

    /// A connection that was accepted.
    pub fn enter(&mut self, id: u64, connection: Connection, peers: &Peers) {
        let tcp = connection.stream.socket();
        let added = tcp.set_nonblocking(true).and_then(|()| {
            let data = epoll::EventData::new_u64(id);
            epoll::add(&self.epoll, &*tcp, data, epoll::EventFlags::IN).map_err(io::Error::from)
        });
        match added {
            Ok(()) => {
                let state = State::Header(connection.first_deadline());
                self.visitors.insert(id, Visitor { connection, state });
            }
            // The limit of what a user may watch, or no memory.
            Err(e) => {
                connection.tell(End::Broken(e.to_string()));
                gone(id, peers);
            }
        }
    }

    /// Hears those who have something to say, a few of them. `serve` gets those whose header may be taken.
    pub fn turn(&mut self, peers: &Peers, mut serve: impl FnMut(u64, Connection)) {
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        if !self.visitors.is_empty() && epoll::wait(&self.epoll, room, Some(&Timespec::default())).is_ok() {
            let over = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            let flags = |e: &epoll::Event| e.flags;
            let all: Vec<_> = self.events.iter().map(|e| (e.data.u64(), flags(e).intersects(over))).collect();
            for (id, over) in all {
                self.step(id, over, peers, &mut serve);
            }
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let due = |v: &Visitor| match v.state {
            State::Header(until) | State::Room(until) => until <= now,
            State::End { until, silent, .. } => until.min(silent) <= now,
        };
        let due: Vec<u64> = self.visitors.iter().filter(|(_, v)| due(v)).map(|(id, _)| *id).collect();
        for id in due {
            self.step(id, false, peers, &mut serve);
        }
        // Who came first goes first, and while he finds no room nobody else does: thousands may wait.
        while let Some(first) = self.waiting.first().copied() {
            self.step(first, false, peers, &mut serve);
            if self.waiting.first() == Some(&first) {
                break;
            }
        }
    }

    /// One of them has something to say, or has been waited for long enough; or it is over with it.
    fn step(&mut self, id: u64, over: bool, peers: &Peers, serve: &mut impl FnMut(u64, Connection)) {
        let Some(mut visitor) = self.visitors.remove(&id) else { return };
        let is_first = self.waiting.first().is_none_or(|first| *first >= id);
        let heard = visitor.hear(&mut self.buf, is_first, over);
        let next = heard.unwrap_or_else(|end| visitor.refuse(end));
        let tcp = visitor.connection.stream.socket();
        self.waiting.remove(&id);
        match next {
            Next::Stays(state) => {
                let waits = |state: &State| matches!(state, State::Room(_));
                if waits(&state) != waits(&visitor.state) {
                    let flags =
                        if waits(&state) { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
                    // One that is not heard any more ends at its deadline.
                    let _ = epoll::modify(&self.epoll, &*tcp, epoll::EventData::new_u64(id), flags);
                }
                if waits(&state) {
                    self.waiting.insert(id);
                }
                visitor.state = state;
                self.visitors.insert(id, visitor);
            }
            Next::Enters => {
                let connection = &visitor.connection;
                connection.entered.store(true, Ordering::Relaxed);
                connection.proven.store(connection.session.is_proven(), Ordering::Relaxed);
                let _ = epoll::delete(&self.epoll, &*tcp);
                let _ = tcp.set_nonblocking(false);
                serve(id, visitor.connection);
            }
            // The socket is shared: it is watched until the last one who has it lets it go.
            Next::Goes => {
                let _ = epoll::delete(&self.epoll, &*tcp);
                let _ = tcp.shutdown(Half::Both);
                gone(id, peers);
            }
        }
    }

    /// All go: what they had to say was not answered and is kept there.
    pub fn close(self, peers: &Peers) {
        for (id, visitor) in self.visitors {
            let _ = visitor.connection.stream.tcp().shutdown(Half::Both);
            gone(id, peers);
        }
    }
}

impl AsFd for Lobby {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A connection has ended.
pub fn gone(id: u64, peers: &Peers) {
    metrics::CONNECTIONS.dec();
    lock(peers).remove(id);
}

impl Visitor {
    /// Looks at what has come, and takes of it what belongs to its header. `is_first`: of those who wait for room nobody came
    /// before it; `over`: the connection is closed, whatever can still be read of it.
    fn hear(&mut self, buf: &mut [u8], is_first: bool, over: bool) -> Result<Next, End> {
        let (tcp, now) = (self.connection.stream.socket(), Instant::now());
        let (until, waited) = match self.state {
            State::Header(until) => (until, false),
            State::Room(until) => (until, true),
            State::End { until, silent, left } => {
                let more = match (&*tcp).read(buf) {
                    Ok(0) => None,
                    Ok(n) => Some((clock::deadline(DRAIN_SILENT), left.saturating_sub(n))),
                    Err(e) => waits(&e).then_some((silent, left)),
                };
                let more = more.filter(|(silent, left)| *left > 0 && now < until.min(*silent));
                return Ok(
                    more.map_or(Next::Goes, |(silent, left)| Next::Stays(State::End { until, silent, left }))
                );
            }
        };
        let tls = self.connection.s.tls.is_some();
        if now >= until {
            let idle = self.connection.session.idle();
            if tls {
                return Err(End::NoTls(SILENT.into()));
            }
            let late = || End::Broken(if idle { "idle; closed" } else { "too slow; closed" }.into());
            return Err(if waited { no_room() } else { late() });
        }
        if waited && over {
            return Err(End::Broken("closed before there was room for its header".into()));
        }
        // Not read: what follows the header is for another thread.
        let chunk = match tcp.peek(buf) {
            Ok(n) => buf.get(..n).unwrap_or_default(),
            Err(e) if waits(&e) => return Ok(Next::Stays(self.state)),
            Err(e) => return Err(End::Broken(e.to_string())),
        };
        if tls {
            return if chunk.is_empty() { Err(End::Closed) } else { Ok(Next::Enters) };
        }
        let begun = self.connection.begun(chunk)?.filter(|_| !waited);
        let until = begun.unwrap_or(until);
        let session = &mut self.connection.session;
        if session.is_long(chunk) && !is_first || !session.charge_header(chunk, None) {
            return Ok(Next::Stays(State::Room(until)));
        }
        let (used, _) = session.feed(chunk).map_err(End::Refused)?;
        let (pack, pinged) = (session.has_pack(), session.take_pinged());
        let taken = buf.get_mut(..used).unwrap_or_default();
        (&*tcp).read_exact(taken).map_err(|e| End::Broken(e.to_string()))?;
        if let Some(name) = pinged {
            self.connection.pong(&name)?;
            return Ok(Next::Stays(State::Header(self.connection.rest())));
        }
        Ok(if pack { Next::Enters } else { Next::Stays(State::Header(until)) })
    }

    /// Says why it ends, and waits for the peer's end: what it is still writing would destroy our answer on its way.
    fn refuse(&self, end: End) -> Next {
        let Some(text) = self.connection.tell(end) else { return Next::Goes };
        let mut tcp = self.connection.stream.tcp();
        // A few bytes find room, or the peer has read nothing for long.
        let _ = tcp.write(text.as_bytes()).and_then(|_| tcp.shutdown(Half::Write));
        let (until, silent) = (clock::deadline(DRAIN), clock::deadline(DRAIN_SILENT));
        Next::Stays(State::End { until, silent, left: DRAIN_BYTES })
    }
}

/// Is nothing there yet?
fn waits(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
