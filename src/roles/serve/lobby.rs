//! Where senders must sign: connections whose peers have not done so yet.
//!
//! A crowd of strangers must not have a thread each: whoever signs would wait for the processor among thousands of them. The
//! accepting thread hears them all, never waits for one, and gives a connection a thread of its own when a header has come that
//! may be taken. Of what is not taken no more is read than its header; the body is the thread's.

use super::connection::{Connection, DRAIN, DRAIN_BYTES, DRAIN_SILENT, End, no_room};
use super::peers::Peers;
use crate::clock;
use crate::metrics;
use crate::receiver::lock;
use rustix::event::{Timespec, epoll};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown as Half;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
        let (visitors, events) = (BTreeMap::new(), Vec::with_capacity(TURN));
        Ok(Self { epoll, visitors, events, buf: vec![0; CHUNK], looked: Instant::now() })
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
                let state = State::Header(connection.rest());
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
            let ids: Vec<u64> = self.events.iter().map(|e| e.data.u64()).collect();
            for id in ids {
                self.step(id, peers, &mut serve);
            }
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let due = |v: &Visitor| match v.state {
            State::Header(until) => until <= now,
            State::Room(_) => true,
            State::End { until, silent, .. } => until.min(silent) <= now,
        };
        let due: Vec<u64> = self.visitors.iter().filter(|(_, v)| due(v)).map(|(id, _)| *id).collect();
        for id in due {
            self.step(id, peers, &mut serve);
        }
    }

    /// One of them has something to say, or has been waited for long enough.
    fn step(&mut self, id: u64, peers: &Peers, serve: &mut impl FnMut(u64, Connection)) {
        let Some(mut visitor) = self.visitors.remove(&id) else { return };
        let next = visitor.hear(&mut self.buf).unwrap_or_else(|end| visitor.refuse(end));
        let tcp = visitor.connection.stream.socket();
        match next {
            Next::Stays(state) => {
                let waits = |state: &State| matches!(state, State::Room(_));
                if waits(&state) != waits(&visitor.state) {
                    let flags =
                        if waits(&state) { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
                    // One that is not heard any more ends at its deadline.
                    let _ = epoll::modify(&self.epoll, &*tcp, epoll::EventData::new_u64(id), flags);
                }
                visitor.state = state;
                self.visitors.insert(id, visitor);
            }
            Next::Enters => {
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
    /// Looks at what has come, and takes of it what belongs to its header.
    fn hear(&mut self, buf: &mut [u8]) -> Result<Next, End> {
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
        if now >= until {
            let idle = self.connection.session.idle();
            let late = || End::Broken(if idle { "idle; closed" } else { "too slow; closed" }.into());
            return Err(if waited { no_room() } else { late() });
        }
        // Not read: what follows the header is for another thread.
        let chunk = match tcp.peek(buf) {
            Ok(n) => buf.get(..n).unwrap_or_default(),
            Err(e) if waits(&e) => return Ok(Next::Stays(self.state)),
            Err(e) => return Err(End::Broken(e.to_string())),
        };
        let begun = self.connection.begun(chunk)?.filter(|_| !waited);
        let until = begun.unwrap_or(until);
        let session = &mut self.connection.session;
        if !session.charge_header(chunk, None) {
            return Ok(Next::Stays(State::Room(until)));
        }
        let (used, _) = session.feed(chunk).map_err(End::Refused)?;
        let whole = session.body_len().is_some();
        let taken = buf.get_mut(..used).unwrap_or_default();
        (&*tcp).read_exact(taken).map_err(|e| End::Broken(e.to_string()))?;
        Ok(if whole { Next::Enters } else { Next::Stays(State::Header(until)) })
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
