//! The receiver: bytes of a connection in, verified packs and replies out.
//!
//! [`Session`] cuts one connection's bytes into packs and verifies each when it is whole (P3, P4); [`gate`]
//! decides what each of them is and makes it durable (P1, P2). Neither reads a socket nor sleeps: threads in
//! `roles` do that. Memory follows what has really arrived: a [`Budget`] is charged for every byte, and the oldest
//! frame may exceed it, so that there is always one that can finish.

mod budget;
pub mod gate;

pub use budget::{Budget, Charge, Closer};

use crate::auth::{self, Keyring, Memory};
use crate::config::ReceiverConfig;
use crate::config::allow::network;
use crate::pack::ping::Ping;
use crate::pack::{Checked, Decoder, Event, HEADER_USUAL, Header, Meta, Refusal, Sink};
use crate::tls::Certificate;
use budget::HEADERS;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A lock that a panicking thread leaves behind ends the process anyway.
pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pack that came in whole and is what its header says.
pub struct Arrived {
    /// Its header; an empty `ip` is filled in.
    pub header: Header,
    /// The pack's own entry.
    pub meta: Meta,
    /// Raw length and CRC as counted here.
    pub checked: Checked,
    /// The body as received.
    pub body: Vec<u8>,
    /// The raw lines, if the budget had room for them.
    pub raw: Option<Raw>,
    /// Its signature was checked and is good.
    pub authentic: bool,
    charge: Option<Charge>,
}

/// Raw lines that are kept, charged as they appear.
pub struct Raw {
    lines: Vec<u8>,
    /// What the header said that it will be.
    declared: usize,
    charge: Charge,
}

impl AsRef<[u8]> for Raw {
    fn as_ref(&self) -> &[u8] {
        &self.lines
    }
}

impl Raw {
    /// Bytes of memory that it takes.
    pub fn capacity(&self) -> usize {
        self.lines.capacity()
    }

    /// Makes room for more. The vector's capacity is what is charged, not its length. False = there is no room; the pack
    /// is inflated again when it is stored.
    fn grow(&mut self) -> bool {
        let want = self.lines.capacity().saturating_mul(4).clamp(RAW_MIN, self.declared.max(RAW_MIN));
        let more = want.saturating_sub(self.lines.capacity());
        if more == 0 || !self.charge.grow(more) {
            return false;
        }
        self.lines.reserve_exact(want.saturating_sub(self.lines.len()));
        true
    }
}

/// First memory of a pack's lines.
const RAW_MIN: usize = 16 << 10;

impl Sink for Option<Raw> {
    fn room(&mut self) -> Option<&mut Vec<u8>> {
        if self.as_mut().is_some_and(|raw| raw.lines.len() == raw.lines.capacity() && !raw.grow()) {
            *self = None;
        }
        self.as_mut().map(|raw| &mut raw.lines)
    }
}

struct Frame {
    header: Header,
    meta: Meta,
    body: Vec<u8>,
    raw: Option<Raw>,
    authentic: bool,
    charge: Charge,
    /// Memory of the header that is not charged yet.
    owed: usize,
}

/// One connection's state.
pub struct Session {
    conf: Arc<ReceiverConfig>,
    peer: String,
    /// Whom frames without a good signature are counted for.
    from: String,
    close: Option<Closer>,
    keep_raw: bool,
    budget: Arc<Budget>,
    decoder: Decoder,
    /// For a header that is coming in and is longer than usual.
    header: Option<Charge>,
    frame: Option<Frame>,
    /// A test pack that is coming in, and the CRC of what has come.
    ping: Option<(Ping, crc32fast::Hasher)>,
    /// One that has come in, until somebody asks.
    pinged: Option<String>,
    ours: bool,
    keys: Option<Arc<Keyring>>,
    certificate: Option<Certificate>,
    memory: Option<Arc<Memory>>,
}

impl Session {
    /// A session with `peer`; `keep_raw` if somebody here wants the raw lines.
    pub fn new(conf: &Arc<ReceiverConfig>, budget: &Arc<Budget>, peer: IpAddr, keep_raw: bool) -> Self {
        Self {
            conf: Arc::clone(conf),
            peer: peer_name(peer),
            from: network(peer.to_canonical()).to_string(),
            close: None,
            keep_raw,
            budget: Arc::clone(budget),
            // The body's limit is kept by `begin`, which knows how to refuse.
            decoder: Decoder::new(conf.max_header, u64::MAX),
            header: None,
            frame: None,
            ping: None,
            pinged: None,
            ours: false,
            keys: None,
            certificate: None,
            memory: None,
        }
    }

    /// Only what these keys have signed is taken.
    #[must_use]
    pub fn with_keys(mut self, keys: Option<Arc<Keyring>>) -> Self {
        self.keys = keys;
        self
    }

    /// Who is denied is remembered there.
    #[must_use]
    pub fn remembering(mut self, memory: &Arc<Memory>) -> Self {
        self.memory = Some(Arc::clone(memory));
        self
    }

    /// Where room is short, a frame that comes too slowly is ended by this.
    #[must_use]
    pub fn closed_by(mut self, close: Closer) -> Self {
        self.close = Some(close);
        self
    }

    /// Only packs of hosts that this certificate names are taken.
    pub fn belongs_to(&mut self, certificate: Certificate) {
        self.certificate = Some(certificate);
    }

    /// The certificate that it belongs to.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Is a pack coming in whose signature is good?
    pub fn is_proven(&self) -> bool {
        self.frame.as_ref().is_some_and(|f| f.authentic)
    }

    /// Is a pack coming in whose header may be taken?
    pub fn has_pack(&self) -> bool {
        self.frame.is_some()
    }

    /// Has the peer's last header shown that it understands other replies than `ok`?
    pub fn peer_is_ours(&self) -> bool {
        self.ours
    }

    /// Is the session between two frames?
    pub fn idle(&self) -> bool {
        self.frame.is_none() && self.decoder.at_boundary()
    }

    /// Length of the body that is coming in, once its header is there: what a deadline can be made from.
    pub fn body_len(&self) -> Option<u64> {
        let test = self.ping.as_ref().map(|(ping, _)| ping.len);
        self.frame.as_ref().map(|f| f.header.pack_len).or(test)
    }

    /// Who has sent a test pack that is whole and good, once.
    pub fn take_pinged(&mut self) -> Option<String> {
        self.pinged.take()
    }

    /// Charges the memory for `n` body bytes that are about to be taken, and makes it; the header's, too. False when the
    /// deadline passes first.
    pub fn charge(&mut self, n: usize, deadline: Instant) -> bool {
        let Some(f) = &mut self.frame else { return true };
        let whole = usize::try_from(f.header.pack_len).unwrap_or(usize::MAX);
        let (len, capacity) = (f.body.len(), f.body.capacity());
        let need = len.saturating_add(n).min(whole);
        // The vector's capacity is what is charged, not its length.
        let want = if need <= capacity {
            capacity
        } else {
            capacity.saturating_add(capacity / 2).clamp(need, whole.max(need))
        };
        if !f.charge.wait(want.saturating_sub(capacity).saturating_add(f.owed), deadline) {
            return false;
        }
        f.owed = 0;
        f.body.reserve_exact(want.saturating_sub(len));
        true
    }

    /// Would a header that `input` is part of need memory that is to be charged first?
    pub fn is_long(&self, input: &[u8]) -> bool {
        let charged = self.header.as_ref().map_or(0, Charge::bytes);
        self.decoder.memory_with(input) > HEADER_USUAL.saturating_add(charged)
    }

    /// Charges the memory of a header that `input` is part of, and makes it. False when the deadline passes first; without one,
    /// if it would have to wait.
    pub fn charge_header(&mut self, input: &[u8], deadline: Option<Instant>) -> bool {
        let memory = self.decoder.memory_with(input);
        if let Some(long) = memory.checked_sub(HEADER_USUAL).filter(|long| *long > 0) {
            let budget = &self.budget;
            let charge = self.header.get_or_insert_with(|| budget.enter(HEADERS, self.close.clone()));
            let more = long.saturating_sub(charge.bytes());
            let charged = match deadline {
                Some(deadline) => charge.wait(more, deadline),
                None => charge.now(more),
            };
            if !charged {
                return false;
            }
        }
        self.decoder.reserve(memory);
        true
    }

    /// Takes a prefix of `input`; a complete pack comes out as soon as its last byte is in.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Arrived>), Refusal> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let (n, event) = self.decoder.feed(rest)?;
            used = used.saturating_add(n);
            if event.is_some() {
                self.header = None;
            }
            match event {
                None => return Ok((used, None)),
                Some(Event::Header(h)) => {
                    self.begin(h)?;
                    // The caller can set a deadline that fits the body's length.
                    return Ok((used, None));
                }
                Some(Event::Ping(h)) => {
                    self.begin_ping(&h)?;
                    return Ok((used, None));
                }
                Some(Event::Body(part)) => {
                    if let Some((_, crc)) = &mut self.ping {
                        crc.update(part);
                        continue;
                    }
                    let Some(f) = &mut self.frame else { return Ok((used, None)) };
                    f.body.extend_from_slice(part);
                }
                Some(Event::End) => {
                    if let Some((ping, crc)) = self.ping.take() {
                        if crc.finalize() != ping.crc32 {
                            return Err(Refusal::Wrong("a test pack was changed on its way".into()));
                        }
                        self.pinged = Some(ping.name);
                        return Ok((used, None));
                    }
                    let Some(f) = self.frame.take() else { return Ok((used, None)) };
                    let Frame { header, meta, body, mut raw, mut authentic, charge, .. } = f;
                    charge.whole();
                    // A body may take minutes, and its key may have been taken away since its header came.
                    if let (Some(keys), Some(entry)) = (&self.keys, header.route.first()) {
                        authentic = keys.admit(entry, &meta.key, &self.peer).map_err(Refusal::Denied)?;
                    }
                    // A relay without keys passes signatures on: it must not take other lines for those that were signed.
                    let signed = header.route.first().is_some_and(|e| !auth::signature(e).is_empty());
                    let hashed = meta.seal.is_some() && (signed || self.keys.is_some());
                    let checked = self.budget.with_check(|check| {
                        check.start(meta.seal.map_or(self.conf.max_raw as u64, |s| s.bytes));
                        if hashed {
                            check.hash();
                        }
                        check.feed(&body, &mut raw)?;
                        check.finish(&meta)
                    })?;
                    match (&self.keys, header.route.first(), &self.memory) {
                        (Some(keys), Some(entry), _) => keys.arrived(entry, &meta.key, &self.peer, authentic),
                        (_, _, Some(memory)) => memory.taken_unasked(&meta.key.name, &self.peer),
                        _ => {}
                    }
                    return Ok((
                        used,
                        Some(Arrived { header, meta, checked, body, raw, authentic, charge: Some(charge) }),
                    ));
                }
            }
        }
    }

    /// A test pack is asked what a pack is asked, and nobody remembers it.
    fn begin_ping(&mut self, header: &Header) -> Result<(), Refusal> {
        self.ours = header.peer_is_ours();
        let ping = Ping::of(header)?;
        if let Some(certificate) = self.certificate.as_ref().filter(|c| !c.opens(&ping.name)) {
            return Err(Refusal::Denied(format!(
                "{}: test pack: {} does not name this sender",
                ping.name,
                certificate.label()
            )));
        }
        // A relay passes signatures on and has none of its own.
        if let (Some(keys), Some(entry), false) = (&self.keys, header.route.first(), ping.relay) {
            let judged = keys.judge(entry, &ping.name);
            judged.map_err(|why| Refusal::Denied(format!("test pack: {why}")))?;
        }
        self.ping = Some((ping, crc32fast::Hasher::new()));
        Ok(())
    }

    fn begin(&mut self, mut header: Header) -> Result<(), Refusal> {
        self.ours = header.peer_is_ours();
        let (len, max) = (header.pack_len, self.conf.max_body as u64);
        if len > max {
            return Err(Refusal::Wrong(format!("PackLen {len}; the limit is {max}")));
        }
        let meta = header.meta(&self.peer)?;
        if let Some(e) = header.route.first_mut() {
            e.insert("ip".into(), meta.key.name.clone());
        }
        // Before a byte of the body: a stranger gets no memory and no time.
        if let Some(certificate) = self.certificate.as_ref().filter(|c| !c.opens(&meta.key.name)) {
            let why = format!(
                "{}: {} does not name this sender; make it one that does, or if it is a relay's, list its name in tls_relays",
                meta.key.name,
                certificate.label()
            );
            if let Some(memory) = &self.memory {
                memory.denied(&meta.key.name, &self.peer, &why);
            }
            return Err(Refusal::Denied(why));
        }
        let authentic = if let (Some(keys), Some(entry)) = (&self.keys, header.route.first()) {
            keys.admit(entry, &meta.key, &self.peer).map_err(Refusal::Denied)?
        } else {
            false
        };
        let max = self.conf.max_raw as u64;
        let declared = meta.seal.map_or(max, |s| s.bytes);
        if declared > max {
            return Err(Refusal::Wrong(format!("{declared} raw bytes; the limit is {max}")));
        }
        let whose = if authentic { auth::host_of(&meta.key.name) } else { &self.from };
        let charge = self.budget.enter(whose, self.close.clone());
        let owed = header.memory();
        // Charged as they appear: what a header promises must take nothing from others. A few large packs would use
        // up what spares many small ones a second inflating.
        let fits = meta.seal.is_some_and(|s| s.bytes <= self.budget.cap() as u64 / 4);
        let declared = usize::try_from(declared).unwrap_or(usize::MAX);
        let raw =
            (self.keep_raw && fits).then(|| Raw { lines: Vec::new(), declared, charge: charge.luxury() });
        self.frame = Some(Frame { header, meta, body: Vec::new(), raw, authentic, charge, owed });
        Ok(())
    }
}

/// The name that an original sender gets, which sent none: its address.
fn peer_name(peer: IpAddr) -> String {
    let text = peer.to_canonical().to_string();
    if text.starts_with(':') { format!("0{text}") } else { text }
}
