//! The sender: which pack goes next, what its outcome means, and the connection it goes over.
//!
//! [`Queue`] decides (packs and a clock in, numbers out); [`Link`] is one connection with one pack in flight. After
//! any doubt about what the other side has, the connection is closed and never used again; the pack is sent again
//! over a new one and the receiver recognises it (P1, P2).
//!
//! | outcome | when | what follows |
//! |---|---|---|
//! | `Sent` | `ok` | the pack may be forgotten here |
//! | `TempFail` | no connection, no answer, `busy`, `denied` | again, with back-off and full jitter, per pack |
//! | `PermFail` | `wrong header` | five more tries over `held_after`, then held aside |

pub mod rate;

use crate::config::SenderConfig;
use crate::disk::sim::Rng;
use crate::planted::{self, Bug};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const BACKOFF_MIN_MS: u64 = 200;
/// Tries after the first `wrong header`.
const REFUSALS_MAX: u32 = 5;
/// A connection that was idle longer is not trusted: the receiver may have closed it.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable at the receiver.
    Sent,
    /// Not now. `link` = nobody answers there at all, so other packs need not try either.
    TempFail {
        /// For the log.
        reason: String,
        /// There was no connection.
        link: bool,
    },
    /// The receiver says that it can never take this pack.
    PermFail(String),
}

impl Outcome {
    /// May the connection carry another pack? After anything but an `ok` an answer may still be on its way, and would
    /// be taken for the next pack's.
    pub fn keeps_connection(&self) -> bool {
        *self == Self::Sent || planted::is(Bug::StaleConnection)
    }
}

/// What to do with a pack after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Forget it.
    Done,
    /// It stays in the queue.
    Again,
    /// Set it aside; it left the queue.
    Hold,
}

#[derive(Clone, Default)]
struct Item {
    ready_ms: u64,
    attempts: u32,
    refusals: u32,
    first_refusal_ms: u64,
    busy: bool,
}

/// The packs that wait for being sent, oldest first. It holds numbers only.
pub struct Queue {
    items: BTreeMap<u64, Item>,
    backoff_max_ms: u64,
    held_after_ms: u64,
    link_ready_ms: u64,
    link_fails: u32,
    turn: bool,
    rng: Rng,
}

impl Queue {
    /// An empty queue. `seed` is for the jitter.
    pub fn new(conf: &SenderConfig, seed: u64) -> Self {
        Self {
            items: BTreeMap::new(),
            backoff_max_ms: conf.backoff_max_ms,
            held_after_ms: conf.held_after_ms,
            link_ready_ms: 0,
            link_fails: 0,
            turn: false,
            rng: Rng::new(seed),
        }
    }

    /// Adds a pack; lower numbers go first.
    pub fn push(&mut self, number: u64) {
        self.items.entry(number).or_default();
    }

    /// Packs in the queue, those under way included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Packs that were not tried yet.
    pub fn fresh(&self) -> usize {
        self.items.values().filter(|i| i.attempts == 0).count()
    }

    /// Is the queue empty?
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Has the other side not been reachable lately?
    pub fn is_link_down(&self) -> bool {
        self.link_fails > 0
    }

    /// The pack to send now, if one is ready; it counts as under way until [`Queue::report`].
    pub fn next(&mut self, now_ms: u64) -> Option<u64> {
        if now_ms < self.link_ready_ms {
            return None;
        }
        // In turn the oldest pack and the one that has been ready longest (an untried one first): packs that are
        // refused again and again must not take up every sender.
        self.turn = !self.turn;
        let mut ready = self.items.iter_mut().filter(|(_, i)| !i.busy && i.ready_ms <= now_ms);
        let (number, item) =
            if self.turn { ready.next()? } else { ready.min_by_key(|(n, i)| (i.ready_ms, **n))? };
        item.busy = true;
        Some(*number)
    }

    /// When the next pack is ready, if all are waiting; for a thread that wants to sleep.
    pub fn ready_at(&self) -> Option<u64> {
        let first = self.items.values().filter(|i| !i.busy).map(|i| i.ready_ms).min()?;
        Some(first.max(self.link_ready_ms))
    }

    /// Takes an outcome.
    pub fn report(&mut self, number: u64, outcome: &Outcome, now_ms: u64) -> Next {
        let Some(mut item) = self.items.remove(&number) else { return Next::Done };
        item.busy = false;
        item.attempts += 1;
        match outcome {
            Outcome::Sent => {
                self.link_fails = 0;
                return Next::Done;
            }
            Outcome::TempFail { link: false, .. } if planted::is(Bug::SentCountsAsAcked) => {
                return Next::Done;
            }
            Outcome::TempFail { link: true, .. } => {
                // Nothing is wrong with the pack; everybody waits for the link.
                self.link_fails += 1;
                self.link_ready_ms = now_ms + self.backoff(self.link_fails);
                item.ready_ms = now_ms;
            }
            Outcome::TempFail { .. } => {
                self.link_fails = 0;
                item.ready_ms = now_ms + self.backoff(item.attempts);
            }
            Outcome::PermFail(_) => {
                self.link_fails = 0;
                if item.refusals == 0 {
                    item.first_refusal_ms = now_ms;
                }
                item.refusals += 1;
                let waited = now_ms.saturating_sub(item.first_refusal_ms);
                if item.refusals > REFUSALS_MAX && waited >= self.held_after_ms {
                    return Next::Hold;
                }
                let step = self.held_after_ms / u64::from(REFUSALS_MAX);
                item.ready_ms = item.first_refusal_ms + step * u64::from(item.refusals);
            }
        }
        self.items.insert(number, item);
        Next::Again
    }

    fn backoff(&mut self, attempts: u32) -> u64 {
        let cap =
            BACKOFF_MIN_MS.saturating_mul(1 << attempts.min(20)).min(self.backoff_max_ms).max(BACKOFF_MIN_MS);
        BACKOFF_MIN_MS + self.rng.below(cap - BACKOFF_MIN_MS + 1)
    }
}

/// One connection to the receiver, opened when needed.
pub struct Link {
    addr: String,
    connect: Duration,
    ack: Duration,
    stream: Option<(TcpStream, Instant)>,
}

impl Link {
    /// A link to `addr` (`host:port`), not connected yet.
    pub fn new(addr: &str, conf: &SenderConfig) -> Self {
        let ms = Duration::from_millis;
        Self {
            addr: addr.to_owned(),
            connect: ms(conf.connect_timeout_ms),
            ack: ms(conf.ack_timeout_ms),
            stream: None,
        }
    }

    /// Sends one frame (`head` = length and header) and waits for the answer.
    pub fn send(&mut self, head: &[u8], body: &[u8]) -> Outcome {
        let fail = |reason: String, link| Outcome::TempFail { reason, link };
        let mut stream = match self.stream.take().filter(|(_, used)| used.elapsed() < IDLE_MAX) {
            Some((s, _)) => s,
            None => match self.dial() {
                Ok(s) => s,
                Err(e) => return fail(format!("cannot connect to {}: {e}", self.addr), true),
            },
        };
        // Length and header in one write: the original reads them with one read.
        if let Err(e) = stream.write_all(head).and_then(|()| stream.write_all(body)) {
            // The receiver may have said why before it stopped reading.
            return match answer(&mut stream, Instant::now() + Duration::from_millis(200)) {
                Ok(o @ (Outcome::PermFail(_) | Outcome::TempFail { .. })) => o,
                _ => fail(format!("sending to {} failed: {e}", self.addr), false),
            };
        }
        let outcome = match answer(&mut stream, Instant::now() + self.ack) {
            Ok(outcome) => outcome,
            Err(why) => fail(format!("{}: {why}", self.addr), false),
        };
        if outcome.keeps_connection() {
            self.stream = Some((stream, Instant::now()));
        }
        outcome
    }

    fn dial(&self) -> std::io::Result<TcpStream> {
        let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
        for addr in self.addr.to_socket_addrs()? {
            match TcpStream::connect_timeout(&addr, self.connect) {
                Ok(s) => {
                    s.set_nodelay(true)?;
                    s.set_write_timeout(Some(self.ack))?;
                    return Ok(s);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// Reads the reply: bare text without framing, so only whole known words count.
fn answer(stream: &mut TcpStream, deadline: Instant) -> Result<Outcome, String> {
    let mut got = Vec::new();
    let mut buf = [0u8; 64];
    loop {
        match got.as_slice() {
            b"ok" => return Ok(Outcome::Sent),
            b"wrong header" => return Ok(Outcome::PermFail("the receiver says `wrong header`".into())),
            b"busy" | b"denied" => {
                let word = String::from_utf8_lossy(&got).into_owned();
                return Ok(Outcome::TempFail { reason: format!("the receiver says `{word}`"), link: false });
            }
            g if [&b"ok"[..], b"wrong header", b"busy", b"denied"].iter().any(|w| w.starts_with(g)) => {}
            g => return Err(format!("unexpected answer {:?}", String::from_utf8_lossy(g))),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no answer in time".into());
        }
        stream.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
        match stream.read(&mut buf) {
            Ok(0) => return Err("closed the connection without an answer".into()),
            Ok(n) => got.extend_from_slice(buf.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err("no answer in time".into());
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn queue() -> Queue {
        let text = b"[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = h:1\n";
        Queue::new(&Config::parse("t", text).tail(false).unwrap().0.sender, 1)
    }

    #[test]
    fn oldest_first_and_a_refused_pack_delays_no_other() {
        let mut q = queue();
        (1..=3).for_each(|n| q.push(n));
        assert_eq!((q.next(0), q.next(0)), (Some(1), Some(2)));
        let busy = Outcome::TempFail { reason: "busy".into(), link: false };
        assert_eq!(q.report(1, &busy, 0), Next::Again);
        assert_eq!(q.next(0), Some(3));
        assert_eq!(q.next(0), None);
        assert_eq!(q.next(60_000), Some(1));
    }

    #[test]
    fn without_a_link_all_wait_and_the_first_goes_first_again() {
        let mut q = queue();
        (1..=2).for_each(|n| q.push(n));
        let down = Outcome::TempFail { reason: "refused".into(), link: true };
        let n = q.next(0).unwrap();
        q.report(n, &down, 0);
        assert!(q.is_link_down());
        assert_eq!(q.next(0), None);
        assert!(q.ready_at().unwrap() >= BACKOFF_MIN_MS);
        assert_eq!(q.next(60_000), Some(1));
        q.report(1, &Outcome::Sent, 60_000);
        assert!(!q.is_link_down());
    }

    #[test]
    fn wrong_header_is_tried_five_more_times_over_ten_minutes() {
        let mut q = queue();
        q.push(1);
        let (mut now, mut tries) = (0, 0);
        loop {
            assert_eq!(q.next(now), Some(1));
            tries += 1;
            match q.report(1, &Outcome::PermFail("wrong header".into()), now) {
                Next::Hold => break,
                _ => now = q.ready_at().unwrap(),
            }
        }
        assert_eq!((tries, now), (6, 600_000));
        assert!(q.is_empty());
    }
}
