//! The pack and its wire format: header, body, and the incremental decoder of frames.
//!
//! A pack is the unit of the whole program: numbered, cut and hashed once by the follower (it is then *sealed*), and
//! from there on only passed along. This module knows neither files nor sockets nor the configuration.
//!
//! ```text
//! frame  = length (4 bytes) header (JSON) body (PackLen bytes)
//! length = bytes of the header, unsigned LEB128 varint, padded with zero bytes to four
//! header = {"Route":[{…},{…}],"PackLen":N}       every Route value is a string
//! body   = zlib stream of the raw lines, then the tag "name|hour|gen|id" (absent in packs of the original)
//! ```
//! The four-byte varint is what the original writes. The tag makes bodies differ, because an original receiver drops
//! a body whose MD5 it has seen; its zlib reader ignores what follows the stream.
//!
//! P3, P4: [`BodyCheck`] inflates into what its caller allows or through a fixed window, and stops at the first byte beyond what the header declared;
//! nothing here allocates what a frame only promises.

mod decoder;
pub mod ping;

pub use decoder::{Decoder, Event, HEADER_USUAL};

use crate::clock::Hour;
use crate::planted::{self, Bug};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// Format of the route entries that this program writes (`v`).
pub const VERSION: &str = "1";
/// Longest header that we send, in bytes: the original reads it with a single `read`.
pub const HEADER_OUT_MAX: usize = 1_200;
/// Largest pack number.
pub const ID_MAX: u64 = 1_000_000_000;
/// Most byte ranges of loss that a closing pack names.
pub const LOSS_MAX: usize = 8;
const ROUTE_MAX: usize = 32;
const ENTRY_MAX: usize = 64;
/// Keys of all entries together. A pack's own entry has at most some 25, and a relay's six.
const KEYS_MAX: usize = 256;
const VALUE_MAX: usize = 1_024;

/// A SHA-256 digest.
pub type Sha = [u8; 32];

/// One host's (or stream's) hour: the name and the hour in the file's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HourKey {
    /// Sender's name (`ip` on the wire).
    pub name: String,
    /// Hour, or day for a daily file.
    pub hour: Hour,
}

impl HourKey {
    /// Reads the `NAME_HOUR` form that file names use.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, hour) = text.rsplit_once('_')?;
        if crate::name::problem(name).is_some() {
            return None;
        }
        Some(Self { name: name.to_owned(), hour: Hour::parse(hour)? })
    }
}

impl fmt::Display for HourKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.name, self.hour)
    }
}

/// What a sealed pack's raw lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Raw length in bytes.
    pub bytes: u64,
    /// CRC-32 (IEEE) of the raw bytes.
    pub crc32: u32,
    /// SHA-256 of the raw bytes.
    pub sha256: Sha,
}

impl Seal {
    /// Hashes `raw`.
    pub fn of(raw: &[u8]) -> Self {
        Self { bytes: raw.len() as u64, crc32: crc32fast::hash(raw), sha256: Sha256::digest(raw).into() }
    }

    /// The digest's first eight bytes: enough to tell two packs apart whose CRC-32 somebody has made alike.
    pub fn mark(&self) -> u64 {
        self.sha256.first_chunk().map_or(0, |c| u64::from_be_bytes(*c))
    }
}

/// What the last pack of an hour says about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Lines of the hour.
    pub lines: u64,
    /// Raw bytes of the hour.
    pub bytes: u64,
    /// SHA-256 over the packs' digests in id order.
    pub sha256: Sha,
}

/// The first route entry, checked: what the pack is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Whose hour.
    pub key: HourKey,
    /// Copy of the hour; 0 in normal life.
    pub generation: u64,
    /// Number within the hour, from 1.
    pub id: u64,
    /// Lines in the pack.
    pub lines: u64,
    /// Last pack of the hour.
    pub done: bool,
    /// Sent again on purpose.
    pub repull: bool,
    /// Absent in packs of the original.
    pub seal: Option<Seal>,
    /// On the last pack of a sender that is not the original.
    pub totals: Option<Totals>,
    /// Why the hour cannot be certified although it is whole: `partial`, `changed`, `loss`, joined by commas.
    pub state: String,
    /// Byte ranges of the source that are lost for ever, as `from-to` joined by commas.
    pub loss: String,
    /// Different hour names in this day, on the last pack of an hour; 0 when not told.
    pub day_hours: u32,
    /// The hour was cut by the clock: it holds what was read in it, not what a file of its name held. Told by last packs.
    pub clock: bool,
}

impl Meta {
    /// The text that follows the zlib stream in the body.
    pub fn tag(&self) -> String {
        format!("{}|{}|{}|{}", self.key.name, self.key.hour, self.generation, self.id)
    }
    /// For messages: `name_hour pack 7` with the copy if there is one.
    pub fn label(&self) -> String {
        if self.generation == 0 {
            format!("{} pack {}", self.key, self.id)
        } else {
            format!("{} copy {} pack {}", self.key, self.generation, self.id)
        }
    }
    /// The route entry that says this.
    pub fn entry(&self) -> Entry {
        let mut e = Entry::new();
        let mut put = |k: &str, v: String| e.insert(k.to_owned(), v);
        put("ip", self.key.name.clone());
        put("hour", self.key.hour.to_string());
        put("id", self.id.to_string());
        put("lines", self.lines.to_string());
        if self.done {
            put("done", "1".into());
        }
        if self.repull {
            put("repull", "1".into());
        }
        if self.generation > 0 {
            put("gen", self.generation.to_string());
        }
        if let Some(s) = &self.seal {
            put("v", VERSION.into());
            put("bytes", s.bytes.to_string());
            put("crc32", format!("{:08x}", s.crc32));
            put("sha256", hex(&s.sha256));
        }
        if let Some(t) = &self.totals {
            put("total_lines", t.lines.to_string());
            put("total_bytes", t.bytes.to_string());
            put("total_sha256", hex(&t.sha256));
        }
        if !self.state.is_empty() {
            put("state", self.state.clone());
        }
        if !self.loss.is_empty() {
            put("loss", self.loss.clone());
        }
        if self.day_hours > 0 {
            put("day_hours", self.day_hours.to_string());
        }
        if self.clock && self.done {
            put("cut", "clock".into());
        }
        e
    }
}

/// One route entry.
pub type Entry = BTreeMap<String, String>;

/// Why a frame is not taken, in the ways a sender must tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Can never be accepted: `wrong header` on the wire.
    Wrong(String),
    /// Cannot be accepted now: `busy`.
    Busy(String),
    /// Not signed, or not with a key that opens this sender's hours: `denied`.
    Denied(String),
    /// The connection is closed without a word: an original relay hid who the sender is.
    Close(String),
}

impl Refusal {
    /// The reason, for our log.
    pub fn reason(&self) -> &str {
        match self {
            Self::Wrong(r) | Self::Busy(r) | Self::Denied(r) | Self::Close(r) => r,
        }
    }
}

fn wrong<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Wrong(reason.into()))
}

/// A frame's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Way of the pack so far; the first entry is the pack's own.
    pub route: Vec<Entry>,
    /// Body length in bytes.
    pub pack_len: u64,
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    #[serde(rename = "Route")]
    route: &'a [Entry],
    #[serde(rename = "PackLen")]
    pack_len: u64,
}

#[derive(Deserialize)]
struct HeaderIn {
    #[serde(rename = "Route")]
    route: Vec<EntryIn>,
    #[serde(rename = "PackLen")]
    pack_len: i64,
}

/// A string map that refuses a repeated key: two readers would believe two different packs.
struct EntryIn(Entry);

impl<'de> Deserialize<'de> for EntryIn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = EntryIn;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EntryIn, A::Error> {
                let mut out = Entry::new();
                while let Some((k, v)) = map.next_entry::<String, String>()? {
                    if k.len() > VALUE_MAX || v.len() > VALUE_MAX || out.len() >= ENTRY_MAX {
                        return Err(de::Error::custom("route entry is too large"));
                    }
                    if out.insert(k.clone(), v).is_some() {
                        return Err(de::Error::custom(format!("key {k:?} twice")));
                    }
                }
                Ok(EntryIn(out))
            }
        }
        d.deserialize_map(V)
    }
}

impl Header {
    /// Reads the JSON of a header.
    pub fn parse(json: &[u8]) -> Result<Self, Refusal> {
        let raw: HeaderIn = match serde_json::from_slice(json) {
            Ok(h) => h,
            Err(e) => return wrong(format!("header is not what it should be: {e}")),
        };
        if raw.route.is_empty() || raw.route.len() > ROUTE_MAX {
            return wrong(format!("Route has {} entries", raw.route.len()));
        }
        let keys: usize = raw.route.iter().map(|e| e.0.len()).sum();
        if keys > KEYS_MAX {
            return wrong(format!("Route has {keys} keys; the limit is {KEYS_MAX}"));
        }
        let Ok(pack_len) = u64::try_from(raw.pack_len) else {
            return wrong(format!("PackLen {} is negative", raw.pack_len));
        };
        if pack_len == 0 {
            return wrong("PackLen is 0: even an empty pack has a zlib stream");
        }
        Ok(Self { route: raw.route.into_iter().map(|e| e.0).collect(), pack_len })
    }

    /// Did the last hop understand replies other than `ok`?
    pub fn peer_is_ours(&self) -> bool {
        self.route.last().is_some_and(|e| e.contains_key("v"))
    }

    /// Bytes of memory that it takes, about: each text has an allocation of its own.
    pub fn memory(&self) -> usize {
        let text = |s: &String| s.capacity().saturating_add(size_of::<String>()).saturating_add(16);
        let pair = |(k, v): (&String, &String)| text(k).saturating_add(text(v));
        // A node of the map has room for eleven keys.
        let entry = |e: &Entry| e.iter().map(pair).sum::<usize>().saturating_add(640);
        self.route.iter().map(entry).sum()
    }

    /// The header's JSON.
    pub fn json(&self) -> Vec<u8> {
        // Serialising maps of strings cannot fail.
        serde_json::to_vec(&HeaderOut { route: &self.route, pack_len: self.pack_len }).unwrap_or_default()
    }

    /// Length and header as they go out, in one piece. Entries of relays in the middle are left out when the whole
    /// would be longer than the original can read.
    pub fn encode(&self) -> Vec<u8> {
        let mut json = self.json();
        let mut short = self.clone();
        while (json.len().saturating_add(4) > HEADER_OUT_MAX || short.route.len() > ROUTE_MAX)
            && short.route.len() > 2
        {
            short.route.remove(1);
            json = short.json();
        }
        let mut out = Vec::with_capacity(json.len().saturating_add(4));
        out.extend_from_slice(&varint4(json.len()));
        out.extend_from_slice(&json);
        out
    }

    /// Checks the pack's own entry. `peer` names the sender when the original left `ip` empty.
    pub fn meta(&self, peer: &str) -> Result<Meta, Refusal> {
        let Some(e) = self.route.first() else { return wrong("Route is empty") };
        let text = |k: &str| e.get(k).map_or("", String::as_str);
        let number = |k: &str, max: u64| -> Result<u64, Refusal> {
            let t = text(k);
            match decimal(t) {
                Some(n) if n <= max => Ok(n),
                _ => wrong(format!("{k} {t:?} is not a number up to {max}")),
            }
        };
        let digest = |k: &str| match unhex(text(k)) {
            Some(d) => Ok(d),
            None => wrong(format!("{k} is not a SHA-256 in hex")),
        };
        let flag = |k: &str| match text(k) {
            "" => Ok(false),
            "1" => Ok(true),
            other => wrong(format!("{k} is {other:?}, not \"1\"")),
        };

        let name = match (text("ip"), self.route.len()) {
            ("", 1) => peer,
            ("", _) => {
                return Err(Refusal::Close(
                    "the pack has no sender name and came through an original relay; move relays before followers"
                        .into(),
                ));
            }
            (n, _) => n,
        };
        if let Some(p) = crate::name::problem(name) {
            return wrong(format!("ip {name:?}: {p}"));
        }
        let Some(hour) = Hour::parse(text("hour")) else {
            return wrong(format!("hour {:?} is not YYYYMMDDHH or YYYYMMDD", text("hour")));
        };
        let id = number("id", ID_MAX)?;
        if id == 0 {
            return wrong("id is 0; packs are numbered from 1");
        }
        let seal = match e.get("v").map(String::as_str) {
            None => None,
            Some(VERSION) => {
                let crc = text("crc32");
                let Some(crc32) = unhex(crc).map(u32::from_be_bytes) else {
                    return wrong(format!("crc32 {crc:?} is not 8 hex digits"));
                };
                Some(Seal { bytes: number("bytes", u64::MAX / 4)?, crc32, sha256: digest("sha256")? })
            }
            Some(v) => return wrong(format!("format v {v:?} is not known here; update this receiver first")),
        };
        let done = flag("done")?;
        let totals = if done && e.contains_key("total_sha256") {
            Some(Totals {
                lines: number("total_lines", u64::MAX / 4)?,
                bytes: number("total_bytes", u64::MAX / 4)?,
                sha256: digest("total_sha256")?,
            })
        } else {
            None
        };
        let clock = match text("cut") {
            "" => false,
            "clock" if done => true,
            "clock" => return wrong("cut is told by the last pack of an hour only"),
            other => return wrong(format!("cut is {other:?}, not \"clock\"")),
        };
        Ok(Meta {
            key: HourKey { name: name.to_owned(), hour },
            generation: if e.contains_key("gen") { number("gen", u64::MAX / 4)? } else { 0 },
            id,
            lines: number("lines", u64::MAX / 4)?,
            done,
            repull: flag("repull")?,
            seal,
            totals,
            state: words(text("state"))?,
            loss: words(text("loss"))?,
            day_hours: if e.contains_key("day_hours") { number("day_hours", 25)? as u32 } else { 0 },
            clock,
        })
    }
}

/// `state` and `loss` end up in certificates and on terminals: only plain words and ranges pass.
fn words(text: &str) -> Result<String, Refusal> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-, ".contains(&b);
    if text.len() <= 512 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        wrong("state or loss is malformed")
    }
}

/// Hex digits of a digest.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The bytes of a digest or a checksum from their hex digits, nothing else: `from_str_radix` alone would take `+0f8a286`.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0u8; N];
    if text.len() != N.saturating_mul(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (o, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *o = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// A number of at most 19 decimal digits, nothing else: `parse` alone would take `+5`.
pub fn decimal(text: &str) -> Option<u64> {
    (text.len() <= 19 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// The digest of an hour: SHA-256 over its packs' digests in id order.
pub fn total_digest<'a>(packs: impl Iterator<Item = &'a Sha>) -> Sha {
    let mut h = Sha256::new();
    for p in packs {
        h.update(p);
    }
    h.finalize().into()
}

/// A length as the wire has it before a header, or before a message to the monitor.
pub fn varint4(mut n: usize) -> [u8; 4] {
    let mut out = [0u8; 4];
    for byte in &mut out {
        *byte = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            break;
        }
        *byte |= 0x80;
    }
    out
}

/// The length that these bytes are; `None` = its last byte is not among them.
pub fn unvarint4(bytes: [u8; 4]) -> Option<usize> {
    let mut n = 0usize;
    for (i, b) in bytes.iter().enumerate() {
        n |= usize::from(b & 0x7f) << i.saturating_mul(7);
        if b & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// Deflates packs into bodies; keeps its memory between packs.
pub struct Encoder {
    zlib: Compress,
}

impl Encoder {
    /// `level` 1–9.
    pub fn new(level: u32) -> Self {
        Self { zlib: Compress::new(Compression::new(level), true) }
    }

    /// Replaces `out` by the body of `raw`: the zlib stream, then `tag`.
    pub fn body(&mut self, raw: &[u8], tag: &str, out: &mut Vec<u8>) {
        self.zlib.reset();
        out.clear();
        out.reserve((raw.len() / 4).saturating_add(256));
        loop {
            let rest = raw.get(self.zlib.total_in() as usize..).unwrap_or_default();
            match self.zlib.compress_vec(rest, out, FlushCompress::Finish) {
                Ok(Status::StreamEnd) | Err(_) => break,
                Ok(_) => out.reserve((out.capacity() / 2).saturating_add(4096)),
            }
        }
        out.extend_from_slice(tag.as_bytes());
    }
}

/// What a verified body contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Raw length in bytes.
    pub bytes: u64,
    /// CRC-32 of the raw bytes.
    pub crc32: u32,
}

/// Where the inflated bytes of a body go.
pub trait Sink {
    /// The bytes so far, with room for more; `None` = further ones are checked and not kept.
    fn room(&mut self) -> Option<&mut Vec<u8>>;
}

impl Sink for Vec<u8> {
    fn room(&mut self) -> Option<&mut Vec<u8>> {
        if self.len() == self.capacity() {
            self.reserve(WINDOW);
        }
        Some(self)
    }
}

/// Verifies a body while it streams in: straight into the memory of whoever keeps it, else through one fixed window.
pub struct BodyCheck {
    zlib: Decompress,
    window: Vec<u8>,
    crc: crc32fast::Hasher,
    /// If the digest is asked for, too.
    sha: Option<Sha256>,
    bytes: u64,
    newlines: u64,
    last: u8,
    ended: bool,
    tail: Vec<u8>,
    limit: u64,
}

const WINDOW: usize = 64 << 10;
const TAIL_MAX: usize = 160;

impl BodyCheck {
    /// An inflater that can be used for many packs.
    pub fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
            window: vec![0; WINDOW],
            crc: crc32fast::Hasher::new(),
            sha: None,
            bytes: 0,
            newlines: 0,
            last: b'\n',
            ended: false,
            tail: Vec::new(),
            limit: 0,
        }
    }

    /// Gets ready for the next pack; no more than `limit` raw bytes will be taken.
    pub fn start(&mut self, limit: u64) {
        self.zlib.reset(true);
        self.crc.reset();
        self.sha = None;
        self.bytes = 0;
        self.newlines = 0;
        self.last = b'\n';
        self.ended = false;
        self.tail.clear();
        self.limit = limit;
    }

    /// Asks for the digest, too, before anything of this pack comes: whoever has seen a header can make other lines of the same
    /// length and CRC-32, and only the digest shows that they are not those that were signed.
    pub fn hash(&mut self) {
        self.sha = Some(Sha256::new());
    }

    /// Takes the next part of the body; `sink` gets the raw bytes in order.
    pub fn feed(&mut self, mut part: &[u8], sink: &mut impl Sink) -> Result<(), Refusal> {
        while !self.ended {
            let (in0, out0) = (self.zlib.total_in(), self.zlib.total_out());
            // What comes beyond the limit is not worth anybody's memory.
            let mut kept = if self.bytes < self.limit { sink.room() } else { None };
            let from = kept.as_ref().map_or(0, |k| k.len());
            let status = match &mut kept {
                Some(k) => self.zlib.decompress_vec(part, k, FlushDecompress::None),
                None => self.zlib.decompress(part, &mut self.window, FlushDecompress::None),
            };
            let status = match status {
                Ok(s) => s,
                Err(e) => return wrong(format!("the body is not a zlib stream: {e}")),
            };
            let used = self.zlib.total_in().saturating_sub(in0) as usize;
            let made = self.zlib.total_out().saturating_sub(out0) as usize;
            part = part.get(used..).unwrap_or_default();
            let raw = kept.map_or(self.window.as_slice(), |k| k.as_slice());
            let raw = raw.get(from..from.saturating_add(made)).unwrap_or_default();
            self.bytes = self.bytes.saturating_add(made as u64);
            if self.bytes > self.limit {
                return wrong(format!("the body holds more than the {} bytes it may", self.limit));
            }
            self.crc.update(raw);
            if let Some(sha) = &mut self.sha {
                sha.update(raw);
            }
            self.newlines = self.newlines.saturating_add(memchr::memchr_iter(b'\n', raw).count() as u64);
            self.last = raw.last().copied().unwrap_or(self.last);
            match status {
                Status::StreamEnd => self.ended = true,
                _ if used == 0 && made == 0 => return Ok(()),
                _ => {}
            }
        }
        if self.tail.len().saturating_add(part.len()) > TAIL_MAX {
            return wrong("bytes follow the zlib stream");
        }
        self.tail.extend_from_slice(part);
        Ok(())
    }

    /// Compares what came with what the header said.
    pub fn finish(&self, meta: &Meta) -> Result<Checked, Refusal> {
        if !self.ended {
            return wrong("the zlib stream is cut short");
        }
        let crc32 = self.crc.clone().finalize();
        if planted::is(Bug::MismatchAccepted) {
            return Ok(Checked { bytes: self.bytes, crc32 });
        }
        if let Some(seal) = &meta.seal {
            if self.tail != meta.tag().as_bytes() {
                return wrong("the tag after the body names another pack");
            }
            if (self.bytes, crc32) != (seal.bytes, seal.crc32) {
                return wrong(format!(
                    "the body has {} bytes with CRC {crc32:08x}, the header says {} and {:08x}",
                    self.bytes, seal.bytes, seal.crc32
                ));
            }
            if self.sha.as_ref().is_some_and(|sha| sha.clone().finalize()[..] != seal.sha256) {
                return wrong(
                    "the lines are not those whose SHA-256 the header has: somebody made others of the same CRC",
                );
            }
        } else if !self.tail.is_empty() {
            return wrong("bytes follow the zlib stream");
        }
        // A line that the hour's last pack leaves without a newline counts as a line.
        let unterminated = meta.done && self.last != b'\n' && meta.lines == self.newlines.saturating_add(1);
        if meta.lines != self.newlines && !unterminated {
            return wrong(format!("the body has {} lines, the header says {}", self.newlines, meta.lines));
        }
        Ok(Checked { bytes: self.bytes, crc32 })
    }
}

impl Default for BodyCheck {
    fn default() -> Self {
        Self::new()
    }
}

/// Inflates a stored body again; `None` if it is not what it was.
pub fn inflate(body: &[u8], meta: &Meta, raw: &mut Vec<u8>, max: u64) -> Option<Checked> {
    raw.clear();
    let mut check = BodyCheck::new();
    check.start(meta.seal.map_or(max, |s| s.bytes.min(max)));
    check.feed(body, raw).ok()?;
    check.finish(meta).ok()
}

/// What a damaged frame was, if its header is still whole.
pub fn peek(frame: &[u8]) -> Option<Meta> {
    let len = unvarint4(*frame.first_chunk::<4>()?)?;
    Header::parse(frame.get(4..len.checked_add(4)?)?).ok()?.meta("unknown").ok()
}

/// Splits one whole frame that we stored ourselves into its header and body.
pub fn split_frame(frame: &[u8]) -> Option<(Header, &[u8])> {
    let len = unvarint4(*frame.first_chunk::<4>()?)?;
    let header = Header::parse(frame.get(4..len.checked_add(4)?)?).ok()?;
    let body = frame.get(len.saturating_add(4)..)?;
    (body.len() as u64 == header.pack_len).then_some((header, body))
}
