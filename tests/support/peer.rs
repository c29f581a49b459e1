//! A sender made by hand.
//!
//! Nothing here uses the program's own encoder. Length, JSON, compression, digests and tag are built from the
//! description of the wire format alone, so a mistake in the encoder cannot hide itself in its own tests.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest wait for anything; a machine that is busy with other tests needs a part of it.
const PATIENCE: Duration = Duration::from_secs(40);

/// Looks again and again until there is an answer.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Random numbers (splitmix64) whose seed is printed; `LOGD_SEED` repeats a run.
pub struct Random(u64);

impl Random {
    /// A new one.
    pub fn new() -> Self {
        let told = std::env::var("LOGD_SEED").ok().and_then(|s| s.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = told.unwrap_or(now.subsec_nanos().into());
        println!("seed: {seed}");
        Self(seed)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    /// Puts a list into a random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let j = self.below(i + 1);
            list.swap(i, j);
        }
    }

    /// Bytes that no compression makes smaller.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

/// HMAC-SHA256 (RFC 2104), of a key that is shorter than a block.
pub fn hmac(key: &[u8; 32], text: &[u8]) -> [u8; 32] {
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect() };
    let inner = sha256(&[&pad(0x36)[..], text].concat());
    sha256(&[&pad(0x5c)[..], &inner].concat())
}

// ---- packs ----

/// Lines `from` … `from + n - 1` of a log that is called `what`; all different.
pub fn lines(what: &str, from: usize, n: usize) -> Vec<u8> {
    (from..from + n)
        .fold(String::new(), |mut s, i| {
            let _ = writeln!(s, "{what} line {i:07} café 日志 GET /index.html 200");
            s
        })
        .into_bytes()
}

/// Hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A zlib stream.
pub fn zlib(raw: &[u8]) -> Vec<u8> {
    let mut z = ZlibEncoder::new(Vec::new(), Compression::new(6));
    z.write_all(raw).unwrap();
    z.finish().unwrap()
}

/// A zlib stream of `n` times the same byte, made without holding them.
pub fn zlib_of_one_byte(byte: u8, n: usize) -> Vec<u8> {
    let mut z = ZlibEncoder::new(Vec::new(), Compression::new(9));
    let block = vec![byte; 1 << 20];
    let mut left = n;
    while left > 0 {
        let part = left.min(block.len());
        z.write_all(&block[..part]).unwrap();
        left -= part;
    }
    z.finish().unwrap()
}

/// The four length bytes: base 128, low digit first, high bit = more follow, filled up with zero.
pub fn length(n: usize) -> [u8; 4] {
    let mut out = [0; 4];
    let (mut n, mut i) = (n, 0);
    loop {
        out[i] = u8::try_from(n % 128).unwrap();
        n /= 128;
        if n == 0 {
            return out;
        }
        out[i] += 128;
        i += 1;
    }
}

fn json_text(s: &str) -> String {
    s.chars().fold(String::from("\""), |mut out, c| {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
        out
    }) + "\""
}

type Fields = Vec<(String, String)>;

/// One pack and how its frame is to be wrong.
#[derive(Clone)]
pub struct Pack {
    /// Its own route entry.
    pub fields: Fields,
    /// Further entries, as relays append them.
    pub hops: Vec<Fields>,
    /// The body: zlib stream, then the tag if the pack is ours.
    pub body: Vec<u8>,
    /// `PackLen` as text; the body's true length if absent.
    pub told_len: Option<String>,
}

fn pairs(list: &[(&str, &str)]) -> Fields {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Newlines.
pub fn newlines(raw: &[u8]) -> usize {
    raw.split(|b| *b == b'\n').count() - 1
}

/// Newlines, and an unterminated last line.
fn count_lines(raw: &[u8]) -> usize {
    newlines(raw) + usize::from(raw.last().is_some_and(|b| *b != b'\n'))
}

impl Pack {
    /// A pack as an original sender makes it.
    pub fn original(ip: &str, hour: &str, id: usize, raw: &[u8]) -> Self {
        let (id, n) = (id.to_string(), count_lines(raw).to_string());
        let time = "2026-11-22 07:54:28.821";
        let fields = pairs(&[
            ("ed", time),
            ("elapse", "361.563µs"),
            ("hour", hour),
            ("id", &id),
            ("ip", ip),
            ("lines", &n),
            ("st", time),
            ("stage", "make pack"),
        ]);
        Self { fields, hops: Vec::new(), body: zlib(raw), told_len: None }
    }

    /// A pack of ours; `generation` 0 is the normal copy.
    pub fn ours(name: &str, hour: &str, generation: u64, id: usize, raw: &[u8]) -> Self {
        let mut p = Self::original(name, hour, id, raw)
            .set("v", "1")
            .set("bytes", &raw.len().to_string())
            .set("crc32", &format!("{:08x}", crc32fast::hash(raw)))
            .set("sha256", &hex(&sha256(raw)));
        if generation > 0 {
            p = p.set("gen", &generation.to_string());
        }
        p.body.extend_from_slice(format!("{name}|{hour}|{generation}|{id}").as_bytes());
        p
    }

    /// Sets a key of the pack's own entry.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.fields.retain(|(k, _)| k != key);
        self.fields.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Signs it, as the manual describes; a second time over the first.
    pub fn signed(self, id: &str, secret: &[u8; 32]) -> Self {
        let mut signed = self.set("key", id);
        signed.fields.retain(|(k, _)| k != "mac");
        let free = ["stage", "st", "ed", "elapse"];
        let mut fields: Vec<_> = signed.fields.iter().filter(|(k, _)| !free.contains(&k.as_str())).collect();
        fields.sort();
        let mut text = Vec::new();
        for word in fields.iter().flat_map(|(k, v)| [k, v]) {
            text.extend_from_slice(&u32::try_from(word.len()).unwrap().to_le_bytes());
            text.extend_from_slice(word.as_bytes());
        }
        let mac = hmac(secret, &text);
        signed.set("mac", &hex(&mac))
    }

    /// Says that it is the last one, without totals.
    pub fn done(self) -> Self {
        self.set("done", "1")
    }

    /// Appends a relay's entry.
    pub fn hop(mut self, entry: &[(&str, &str)]) -> Self {
        self.hops.push(pairs(entry));
        self
    }

    /// Replaces the body.
    pub fn with_body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// Lies about the body's length.
    pub fn with_pack_len(mut self, text: &str) -> Self {
        self.told_len = Some(text.to_owned());
        self
    }

    /// The header's JSON.
    pub fn json(&self) -> String {
        let entry = |fields: &Fields| {
            let inner: Vec<String> =
                fields.iter().map(|(k, v)| format!("{}:{}", json_text(k), json_text(v))).collect();
            format!("{{{}}}", inner.join(","))
        };
        let route: Vec<String> = std::iter::once(&self.fields).chain(&self.hops).map(entry).collect();
        let len = self.told_len.clone().unwrap_or_else(|| self.body.len().to_string());
        format!("{{\"Route\":[{}],\"PackLen\":{len}}}", route.join(","))
    }

    /// The bytes that go over the wire.
    pub fn frame(&self) -> Vec<u8> {
        let json = self.json();
        [&length(json.len())[..], json.as_bytes(), &self.body].concat()
    }
}

/// A whole hour of one sender, cut into packs.
#[derive(Clone)]
#[allow(clippy::struct_field_names)] // `hour` is what the wire calls it
pub struct Hour {
    /// Sender.
    pub name: String,
    /// `YYYYMMDDHH`.
    pub hour: String,
    /// Copy.
    pub generation: u64,
    /// The packs' lines.
    pub raws: Vec<Vec<u8>>,
}

impl Hour {
    /// `packs` packs of `per_pack` lines each.
    pub fn new(name: &str, hour: &str, packs: usize, per_pack: usize) -> Self {
        let raws = (0..packs).map(|i| lines(&format!("{name} {hour}"), i * per_pack, per_pack)).collect();
        Self { name: name.into(), hour: hour.into(), generation: 0, raws }
    }

    /// The same lines as another copy.
    pub fn copy(&self, generation: u64) -> Self {
        Self { generation, ..self.clone() }
    }

    /// All its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.raws.concat()
    }

    /// SHA-256 over the packs' digests.
    pub fn digest(&self) -> [u8; 32] {
        sha256(&self.raws.iter().map(|r| sha256(r)).collect::<Vec<_>>().concat())
    }

    /// Its packs as ours; the last one closes the hour with totals.
    pub fn packs(&self) -> Vec<Pack> {
        let pack = |(i, r): (usize, &Vec<u8>)| Pack::ours(&self.name, &self.hour, self.generation, i + 1, r);
        let mut out: Vec<Pack> = self.raws.iter().enumerate().map(pack).collect();
        let last = out.pop().unwrap();
        let all = self.bytes();
        out.push(
            last.done()
                .set("total_lines", &count_lines(&all).to_string())
                .set("total_bytes", &all.len().to_string())
                .set("total_sha256", &hex(&self.digest())),
        );
        out
    }

    /// Its packs as an original sender makes them.
    pub fn original_packs(&self) -> Vec<Pack> {
        let pack = |(i, r): (usize, &Vec<u8>)| Pack::original(&self.name, &self.hour, i + 1, r);
        let mut out: Vec<Pack> = self.raws.iter().enumerate().map(pack).collect();
        let last = out.pop().unwrap();
        out.push(last.done());
        out
    }
}

// ---- the wire ----

/// What the receiver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Durable.
    Ok,
    /// `wrong header`.
    WrongHeader,
    /// `busy`.
    Busy,
    /// `denied`.
    Denied,
    /// The connection was closed, with this last text.
    Closed(String),
}

/// A connection to a receiver.
pub struct Peer {
    addr: SocketAddr,
    stream: TcpStream,
    got: Vec<u8>,
}

impl Peer {
    /// Connects.
    pub fn to(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { addr, stream, got: Vec::new() }
    }

    /// Writes bytes at once; the other side may have closed already.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Writes bytes, and waits until the other process has read them: what follows comes in another read.
    pub fn write_apart(&mut self, bytes: &[u8]) {
        assert!(self.write(bytes));
        let (here, there) =
            (self.stream.local_addr().unwrap().port(), self.stream.peer_addr().unwrap().port());
        let (local, remote) = (format!(":{there:04X}"), format!(":{here:04X}"));
        until("the bytes are read", || {
            let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
            let line = table.lines().find(|l| {
                let mut w = l.split_ascii_whitespace().skip(1);
                w.next().is_some_and(|a| a.ends_with(&local))
                    && w.next().is_some_and(|a| a.ends_with(&remote))
            });
            // Fields: number, local, remote, state, queues as `sent:received`.
            line.and_then(|l| l.split_ascii_whitespace().nth(4))
                .is_none_or(|q| q.ends_with(":00000000"))
                .then_some(())
        });
    }

    /// Ends the connection at once, by a reset.
    pub fn reset(&mut self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
        self.stream = TcpStream::connect(self.addr).unwrap();
    }

    /// The next answer.
    pub fn answer(&mut self) -> Answer {
        let end = Instant::now() + PATIENCE;
        let mut buf = [0; 64];
        loop {
            for (word, answer) in [
                ("ok", Answer::Ok),
                ("wrong header", Answer::WrongHeader),
                ("busy", Answer::Busy),
                ("denied", Answer::Denied),
            ] {
                if self.got.starts_with(word.as_bytes()) {
                    self.got.drain(..word.len());
                    return answer;
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no answer");
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut buf) {
                Ok(n) if n > 0 => self.got.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer: {e}"),
                _ => return Answer::Closed(String::from_utf8_lossy(&self.got).into_owned()),
            }
        }
    }

    /// Sends a pack and reads the answer.
    pub fn send(&mut self, pack: &Pack) -> Answer {
        self.write(&pack.frame());
        self.answer()
    }

    /// Sends a pack as an honest sender does: again over a new connection, as long as the answer is `busy` (for an
    /// original, which does not know that word: a closed connection).
    pub fn deliver(&mut self, pack: &Pack) {
        let original = pack.hops.last().unwrap_or(&pack.fields).iter().all(|(k, _)| k != "v");
        until(&format!("{} is accepted", pack.json()), || match self.send(pack) {
            Answer::Ok => Some(()),
            Answer::Closed(text) if !(original && text.is_empty()) => {
                panic!("closed: {text:?}: {}", pack.json())
            }
            Answer::WrongHeader => panic!("refused: {}", pack.json()),
            Answer::Busy | Answer::Denied | Answer::Closed(_) => {
                *self = Self::to(self.addr);
                None
            }
        });
    }

    /// Delivers packs one after another.
    pub fn send_all<'a>(&mut self, packs: impl IntoIterator<Item = &'a Pack>) {
        for p in packs {
            self.deliver(p);
        }
    }
}
