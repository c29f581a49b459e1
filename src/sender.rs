//! The sender: which pack goes next, what its outcome means, and the connection it goes over.
//!
//! [`Queue`] decides (packs and a clock in, numbers out); [`Link`] is one connection with one pack in flight. After
//! any doubt about what the other side has, the connection is closed and never used again; the pack is sent again
//! over a new one and the receiver recognises it (P1, P2).
//!
//! With several addresses [`route`] says which one is in use. A pack that is bound to another one is tried there in the
//! background, one at a time, so that an address that is silent takes up no connection of the others.
//!
//! | outcome | when | what follows |
//! |---|---|---|
//! | `Sent` | `ok` | the pack may be forgotten here |
//! | `TempFail` | no connection, no answer, `busy`, `denied` | again, with back-off and full jitter, per pack |
//! | `PermFail` | `wrong header` | five more tries over `held_after`, then held aside; a relay does so with `denied`, too |

mod queue;
pub mod rate;
pub mod route;

pub use queue::{Next, Queue};

use crate::clock;
use crate::config::SenderConfig;
use crate::planted::{self, Bug};
use crate::tls::{self, Stream};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection that was idle longer is not trusted: the receiver may have closed it.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// What a receiver says by closing at once, or without an answer. It does not tell strangers more.
const CLOSED: &str = "if it goes on, see whether this host is in `allow` there";
/// Bytes a second that a slow line carries; what receivers grant by default, too.
const SLOW_LINE: u64 = 64 << 10;

const NO_ANSWER: &str = "no answer in time";

/// How far an attempt came that is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// Nobody answers there at all, so other packs need not try either.
    NoConnection,
    /// There was a connection, and no answer that is known. The pack may be stored.
    NoAnswer,
    /// The receiver said `busy`.
    Answered,
    /// It said `denied`: it knows no key that opens this sender's hours, or misses a signature.
    Denied,
}

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable at the receiver.
    Sent,
    /// Not now.
    TempFail {
        /// For the log.
        reason: String,
        /// How far it came.
        how: Fail,
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

/// One connection to the receiver, opened when needed.
pub struct Link {
    addr: String,
    connect: Duration,
    ack: Duration,
    tls: Option<Arc<tls::Client>>,
    stream: Option<(Stream, Instant)>,
}

impl Link {
    /// A link to `addr` (`host:port`), not connected yet.
    pub fn new(addr: &str, conf: &SenderConfig, tls: Option<&Arc<tls::Client>>) -> Self {
        let ms = Duration::from_millis;
        Self {
            addr: addr.to_owned(),
            connect: ms(conf.connect_timeout_ms),
            ack: ms(conf.ack_timeout_ms),
            tls: tls.cloned(),
            stream: None,
        }
    }

    /// Can a connection be opened?
    pub fn probe(&self) -> Outcome {
        match self.dial() {
            Ok(_) => Outcome::Sent,
            Err(e) => Outcome::TempFail { reason: e.to_string(), how: Fail::NoConnection },
        }
    }

    /// Opens a connection and says nothing: milliseconds that it took, or why nothing could be sent over it. A receiver that
    /// does not want this host closes at once; `patience` is how long that is waited for.
    pub fn try_out(&self, patience: Duration) -> Result<u64, String> {
        self.connected(patience).map(|(_, took)| took)
    }

    /// Sends a test pack over a connection of its own: milliseconds that it took to connect; milliseconds to the answer and
    /// what that is, or why there is none.
    pub fn ping(&self, frame: &[u8], patience: Duration) -> (Option<u64>, Result<(u64, Outcome), String>) {
        let (mut stream, took) = match self.connected(patience) {
            Ok(open) => open,
            Err(why) => return (None, Err(why)),
        };
        let started = Instant::now();
        let slow = Duration::from_millis((frame.len() as u64).saturating_mul(1000) / SLOW_LINE);
        let deadline = clock::deadline(self.ack.saturating_add(slow));
        stream.set_deadline(deadline);
        // Who refuses it may not read all of it: what counts is what it says.
        let sent = stream.write_all(frame).and_then(|()| stream.flush());
        let ms = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let answer = match (answer(&mut stream, deadline), sent) {
            (Ok(outcome), _) => Ok((ms(started), outcome)),
            (Err(why), _) if why.starts_with("closed") => Err(
                "closed the connection without an answer: an earlier version of logd, which knows no test packs (update it, or look \
                 whether packs are taken: `logd status`), or not logd at all"
                    .into(),
            ),
            (Err(why), Ok(())) if why == NO_ANSWER => Err(format!(
                "{why}: connections come through, 64 KiB do not, or the receiver hangs; is there a firewall or a tunnel between?"
            )),
            (Err(why), Err(e)) if why == NO_ANSWER => {
                Err(format!("the test pack could not be sent: {}", tls::explain(&e)))
            }
            // What it said, an alert among others.
            (Err(why), _) => Err(why),
        };
        (Some(took), answer)
    }

    fn connected(&self, patience: Duration) -> Result<(Stream, u64), String> {
        let started = Instant::now();
        let tcp = self.reach().map_err(|e| {
            format!("{e}; does the receiver run there, and does a firewall let this host through?")
        })?;
        let mut stream = self.secure(tcp).map_err(|e| tls::explain(&e))?;
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        stream.set_deadline(clock::deadline(patience));
        match stream.read(&mut [0]) {
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok((stream, took))
            }
            // What TLS says is an alert: the receiver does not want this host's certificate, for instance.
            Err(e) if e.kind() == ErrorKind::InvalidData => Err(tls::explain(&e)),
            _ => Err("it closes the connection at once; is this host in `allow` there?".into()),
        }
    }

    /// Sends one frame (`head` = length and header) and waits for the answer.
    pub fn send(&mut self, head: &[u8], body: &[u8]) -> Outcome {
        let fail = |reason: String, how| Outcome::TempFail { reason, how };
        let kept = self.stream.take().filter(|(_, used)| used.elapsed() < IDLE_MAX);
        let mut stream = match kept.and_then(|(mut s, _)| s.is_open().then_some(s)) {
            Some(s) => s,
            None => match self.dial() {
                Ok(s) => s,
                Err(e) => return fail(format!("cannot connect to {}: {e}", self.addr), Fail::NoConnection),
            },
        };
        // The time for an answer, and what a slow line needs.
        let bytes = head.len().saturating_add(body.len()) as u64;
        let slow = Duration::from_millis(bytes.saturating_mul(1000) / SLOW_LINE);
        stream.set_deadline(clock::deadline(self.ack.saturating_add(slow)));
        // Length and header in one write: the original reads them with one read.
        if let Err(e) =
            stream.write_all(head).and_then(|()| stream.write_all(body)).and_then(|()| stream.flush())
        {
            // The receiver may have said why before it stopped reading.
            return match answer(&mut stream, clock::deadline(Duration::from_millis(200))) {
                Ok(o @ (Outcome::PermFail(_) | Outcome::TempFail { .. })) => o,
                // An alert, such as that the certificate is not wanted.
                Err(why) if self.tls.is_some() => fail(format!("{}: {why}", self.addr), Fail::NoAnswer),
                _ => fail(
                    format!("sending to {} failed: {}; {CLOSED}", self.addr, tls::explain(&e)),
                    Fail::NoAnswer,
                ),
            };
        }
        let outcome = match answer(&mut stream, clock::deadline(self.ack)) {
            Ok(outcome) => outcome,
            Err(why) => fail(format!("{}: {why}", self.addr), Fail::NoAnswer),
        };
        if outcome.keeps_connection() {
            self.stream = Some((stream, Instant::now()));
        }
        outcome
    }

    fn dial(&self) -> std::io::Result<Stream> {
        self.secure(self.reach()?)
    }

    /// Makes a TCP connection TLS, if that is wanted.
    fn secure(&self, tcp: TcpStream) -> std::io::Result<Stream> {
        match &self.tls {
            Some(tls) => tls.connect(&self.addr, tcp, clock::deadline(self.connect)),
            None => Ok(Stream::plain(Arc::new(tcp))),
        }
    }

    fn reach(&self) -> std::io::Result<TcpStream> {
        let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
        for addr in self.addr.to_socket_addrs()? {
            match TcpStream::connect_timeout(&addr, self.connect) {
                Ok(s) => {
                    s.set_nodelay(true)?;
                    return Ok(s);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// Reads the reply: bare text without framing, so only whole known words count.
fn answer(stream: &mut Stream, deadline: Instant) -> Result<Outcome, String> {
    stream.set_deadline(deadline);
    let mut got = Vec::new();
    let mut buf = [0u8; 64];
    loop {
        match got.as_slice() {
            b"ok" => return Ok(Outcome::Sent),
            b"wrong header" => return Ok(Outcome::PermFail("the receiver says `wrong header`".into())),
            b"busy" | b"denied" => {
                let (how, hint) = if got == b"denied" {
                    (Fail::Denied, ": it does not accept this sender's key or certificate, or misses it")
                } else {
                    // The wire has no more than this word.
                    (
                        Fail::Answered,
                        ": it has no room on its disk or in its spool, or waits for other packs; `logd status` there says which",
                    )
                };
                let reason = format!("the receiver says `{}`{hint}", String::from_utf8_lossy(&got));
                return Ok(Outcome::TempFail { reason, how });
            }
            g if [&b"ok"[..], b"wrong header", b"busy", b"denied"].iter().any(|w| w.starts_with(g)) => {}
            // A TLS alert.
            [0x15, ..] => {
                return Err("the receiver speaks TLS: set tls_ca (see logd-security(7))".into());
            }
            g => return Err(format!("unexpected answer {:?}", String::from_utf8_lossy(g))),
        }
        match stream.read(&mut buf) {
            Ok(0) => return Err(format!("closed the connection without an answer; {CLOSED}")),
            Ok(n) => got.extend_from_slice(buf.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(NO_ANSWER.into());
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Err(format!("{e}; {CLOSED}")),
            Err(e) => return Err(tls::explain(&e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::net::TcpListener;

    /// The story: a host that `allow` kept out saw nothing of it in its log.
    #[test]
    fn whoever_is_shut_out_is_told_where_to_look() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let closes = std::thread::spawn(move || (0..2).for_each(|_| drop(listener.accept())));
        let text = format!("[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = {addr}\n");
        let conf = Config::parse("t", text.as_bytes()).tail(false).unwrap().0.sender;
        let mut link = Link::new(&addr, &conf, None);
        for frame in [vec![0; 9], vec![0; 8 << 20]] {
            let outcome = link.send(&frame, &[]);
            let Outcome::TempFail { reason, how: Fail::NoAnswer } = outcome else { panic!("{outcome:?}") };
            assert!(reason.contains("`allow` there"), "{reason}");
        }
        closes.join().unwrap();
    }
}
