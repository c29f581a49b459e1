//! One connection: its frames, the answers, and what is said of its end.

use super::super::disk_trouble;
use super::{SENDERS_MAX, Seen, Shared};
use crate::clock;
use crate::config::ReceiverConfig;
use crate::metrics;
use crate::pack::{Meta, Refusal};
use crate::receiver::gate::Answer;
use crate::receiver::{Arrived, Session, lock};
use crate::tls::{self, Stream};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown as Half};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Read at a time, into the stack: thousands of connections may be open, and each that is silent must cost little.
const CHUNK: usize = 8 << 10;
/// A connection lives as long as it is used; so often it is asked whether its certificate is still good, in ms.
const TRUST_MS: u64 = 60_000;
/// A clock may be wrong by so much before packs are refused for it; hours are named in their hosts' own zones besides.
const AHEAD_MS: i64 = 24 * 3_600_000;
/// After a refusal, so much is read and thrown away before the connection is closed, for so long, and for so long while nothing
/// comes.
pub const DRAIN_BYTES: usize = 1 << 20;
pub const DRAIN: Duration = Duration::from_secs(2);
pub const DRAIN_SILENT: Duration = Duration::from_millis(500);

/// What a connection is served with.
pub struct Connection {
    pub stream: Stream,
    pub session: Session,
    pub s: Arc<Shared>,
    pub conf: Arc<ReceiverConfig>,
    /// All three as the accepting thread sees them ([`super::peers::Peer`]).
    pub idle_since: Arc<AtomicU64>,
    pub entered: Arc<AtomicBool>,
    pub proven: Arc<AtomicBool>,
    pub ip: IpAddr,
    /// Under which `tls_client_ca` its certificate was found good, and when.
    pub trusted: (u64, u64),
}

/// How a connection ends.
pub enum End {
    Closed,
    Refused(Refusal),
    Broken(String),
    /// There is no TLS with this peer.
    NoTls(String),
}

impl Connection {
    /// Serves it until its end.
    pub fn run(&mut self) {
        let end = match self.open() {
            Ok(()) => self.serve(),
            Err(end) => end,
        };
        if let Some(text) = self.tell(end) {
            self.say_and_drain(text);
        }
        let _ = self.stream.tcp().shutdown(Half::Both);
    }

    /// Logs why it ends. The last words for the peer, which must arrive; `None` = none.
    pub fn tell(&self, end: End) -> Option<&'static str> {
        match end {
            End::Closed => None,
            End::Broken(why) => {
                self.s.log.debug(&format!("connection from {}: {why}", self.ip));
                None
            }
            End::NoTls(why) => {
                self.s.memory.denied("", &self.ip.to_string(), &format!("TLS: {why}"));
                self.s
                    .log
                    .warn(&format!("connection from {}: TLS: {why}; closed; nothing was taken", self.ip));
                // The alert that says why must arrive.
                Some("")
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
                Some(if self.session.peer_is_ours() { text } else { "" })
            }
        }
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
        let _ = stream.set_read_timeout(Some(DRAIN_SILENT));
        let until = clock::deadline(DRAIN);
        let (mut buf, mut left) = ([0; CHUNK], DRAIN_BYTES);
        while left > 0 && Instant::now() < until {
            match stream.read(&mut buf) {
                Ok(0) | Err(_) => return,
                Ok(n) => left = left.saturating_sub(n),
            }
        }
    }

    fn serve(&mut self) -> End {
        let mut buf = [0u8; CHUNK];
        // Its first header may be here already, and nothing else.
        let mut deadline = match self.body_deadline() {
            Ok(deadline) => deadline,
            Err(end) => return end,
        };
        loop {
            if self.session.idle() {
                if self.s.stop.requested() {
                    return End::Closed;
                }
                deadline = self.rest();
            }
            let late = if self.session.idle() { "idle; closed" } else { "too slow; closed" };
            self.stream.set_deadline(deadline);
            let n = match self.stream.read(&mut buf) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return End::Broken(late.into()),
                Err(e) => return End::Broken(tls::explain(&e)),
            };
            let mut chunk = buf.get(..n).unwrap_or_default();
            match self.begun(chunk) {
                Ok(Some(header)) => deadline = header,
                Ok(None) => {}
                Err(end) => return end,
            }
            while !chunk.is_empty() {
                match self.take(chunk, &mut deadline) {
                    Ok(Some(used)) => chunk = chunk.get(used..).unwrap_or_default(),
                    Ok(None) => break,
                    Err(end) => return end,
                }
            }
        }
    }

    /// Just accepted: until when it must say something.
    pub fn first_deadline(&self) -> Instant {
        if self.s.tls.is_some() { self.header_deadline() } else { self.rest() }
    }

    /// Between two frames: until when the next one may begin.
    pub fn rest(&self) -> Instant {
        self.idle_since.store(self.s.clock.mono_ms(), Ordering::Relaxed);
        clock::deadline(Duration::from_millis(self.conf.idle_timeout_ms))
    }

    /// Something was read, of a frame that begins or is under way. If one begins, until when its header must be here.
    pub fn begun(&self, chunk: &[u8]) -> Result<Option<Instant>, End> {
        if !self.session.idle() {
            let why = "closed in the middle of a frame";
            return if chunk.is_empty() { Err(End::Broken(why.into())) } else { Ok(None) };
        }
        match chunk.first() {
            None => Err(End::Closed),
            Some(&tls::HANDSHAKE) if self.s.tls.is_none() => {
                let why =
                    "it speaks TLS, and this receiver does not: set tls_cert here, or take tls_ca out there";
                Err(End::NoTls(why.into()))
            }
            Some(_) => {
                self.idle_since.store(u64::MAX, Ordering::Relaxed);
                Ok(Some(self.header_deadline()))
            }
        }
    }

    /// A frame has one deadline for its header, whatever way its bytes drip in.
    fn header_deadline(&self) -> Instant {
        clock::deadline(Duration::from_millis(self.conf.header_timeout_ms))
    }

    /// The header is here, and perhaps a body follows: until when that must be here.
    fn body_deadline(&mut self) -> Result<Instant, End> {
        let Some(len) = self.session.body_len() else { return Ok(Instant::now()) };
        let by_size = len.saturating_mul(1000).checked_div(self.conf.body_rate_min).unwrap_or(0);
        let deadline =
            clock::deadline(Duration::from_millis(self.conf.body_timeout_ms.saturating_add(by_size)));
        if self.session.charge(0, deadline) { Ok(deadline) } else { Err(no_room()) }
    }

    /// Takes some of what was read, and answers what it completes. How much; `None` = there must be more.
    fn take(&mut self, chunk: &[u8], deadline: &mut Instant) -> Result<Option<usize>, End> {
        let had_header = self.session.body_len().is_some();
        let charged = if had_header {
            self.session.charge(chunk.len(), *deadline)
        } else {
            self.session.charge_header(chunk, Some(*deadline))
        };
        if !charged {
            return Err(no_room());
        }
        let (used, arrived) = self.session.feed(chunk).map_err(End::Refused)?;
        if !had_header && self.session.body_len().is_some() {
            *deadline = self.body_deadline()?;
        }
        if let Some(name) = self.session.take_pinged() {
            self.pong(&name)?;
        } else if let Some(pack) = arrived {
            self.settle(pack)?;
        } else {
            return Ok((used > 0).then_some(used));
        }
        *deadline = self.header_deadline();
        Ok(Some(used))
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
    pub fn pong(&mut self, name: &str) -> Result<(), End> {
        if let Some(why) = lock(&self.s.paused).clone() {
            return Err(End::Refused(Refusal::Busy(why)));
        }
        // Strangers may ask, too, and the accepting thread for them: it waits for nobody who stores.
        if self.s.gate.try_lock().is_ok_and(|gate| gate.spool.room().is_ok_and(|room| room == 0)) {
            return Err(End::Refused(Refusal::Busy("the spool is full".into())));
        }
        let text = format!("test pack of {name} from {}: accepted; nothing of it is stored", self.ip);
        self.s.capped(&self.s.chatter, false, &text);
        self.stream.set_deadline(clock::deadline(Duration::from_secs(10)));
        let said = self.stream.write_all(b"ok").and_then(|()| self.stream.flush());
        said.map_err(|e| End::Broken(tls::explain(&e)))
    }

    /// Decides about a pack and answers when it is durable.
    fn settle(&mut self, pack: Arrived) -> Result<(), End> {
        if let Some(why) = lock(&self.s.paused).clone() {
            return Err(End::Refused(Refusal::Busy(why)));
        }
        self.check_trust()?;
        self.proven.fetch_or(pack.authentic, Ordering::Relaxed);
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
                disk_trouble(&self.s.disk, &self.s.log, &self.s.stop, &e);
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

/// The budget is used up, and remained so.
pub fn no_room() -> End {
    End::Refused(Refusal::Busy("the bytes in flight are at their limit".into()))
}
