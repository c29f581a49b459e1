//! What a role and the monitor say to each other: frames, registrations, messages.
//!
//! ```text
//! frame = length (4 bytes, as before a pack's header) JSON (an object of strings)
//! node  -> monitor  {"hostname":…,"ip":…,"port":…,"req":"register"|"unregister","role":…}
//! monitor -> node   {"err":"0","msg":"success"}; any other `err` is a failure, and `msg` says which
//!                   ours adds "again":"60" for whoever tells a "lag": to register again after so many seconds
//! node  -> monitor  {"ip":…,"msg":…,"port":…,"time":…,"type":…}, a message; it is not answered
//!                   ours adds "ms", its time in Unix milliseconds, which needs no zone
//! node  -> monitor  {"hours":…,"hostname":…,"ip":…,"port":…,"req":"hours","role":…,"store":…}, states of hours (ours)
//!                   "store" tells stores of one host apart; of all hours from "first" on, and not of changes only, are those
//!                   of "report" (a number), of which this is "part" of "parts": what it does not name is there no more
//!                   "left":"3" in the answer: so many hours are left out, and `msg` says why
//! ```
//! All of it but `hours` is the original's, which ignores members that it does not know (`version`, `ms`, `lag`: the age of
//! the oldest line that is not delivered, in seconds, and `paused`: `1` if nothing is taken for lack of room) and answers a request that it does not know with an `err`. An original monitor reads a frame by its length and nothing else, so that a
//! request waits for its answer before the next one is sent.
//!
//! A heart-beat is the byte `!`, with which a node answers every connection to its `hb_port`.
//!
//! P4: a frame has a limit, and no memory is taken for what is only promised.

use crate::pack::{unvarint4, varint4};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of the JSON of one frame, at most.
pub const FRAME_MAX: usize = 64 << 10;
/// The answer to a connection to the heart-beat port.
pub const BEAT: &[u8; 1] = b"!";
/// Tries in quick succession, before it is said that the monitor cannot be reached.
const FIRST_TRIES: u32 = 3;
/// Longest wait between two tries, ms.
const BACKOFF_MAX_MS: u64 = 300_000;
/// A role registers again after this time, so that a monitor that lost its state learns of it, ms.
const AGAIN_MS: u64 = 600_000;
/// Seconds after which our monitor wants to be told the lag again.
pub const LAG_AGAIN_S: u64 = 60;

/// An object of strings.
pub type Message = BTreeMap<String, String>;

/// The frame of a message.
pub fn frame(message: &Message) -> Vec<u8> {
    // A map of strings cannot fail to be written.
    let json = serde_json::to_vec(message).unwrap_or_default();
    let mut out = varint4(json.len()).to_vec();
    out.extend_from_slice(&json);
    out
}

/// Reads the JSON of a frame. An error is a sentence without a full stop.
pub fn parse(json: &[u8]) -> Result<Message, String> {
    serde_json::from_slice(json).map_err(|e| format!("a frame that is no object of strings: {e}"))
}

/// Cuts a stream of bytes into frames.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Adds what was read. Whoever feeds takes all frames out before more is fed, so that no more than a frame and one
    /// reading is ever held.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The JSON of the next frame that is whole. An error is one of the stream: nothing after it can be read.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, String> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = match unvarint4(*length) {
            Some(n) if n <= FRAME_MAX => n,
            _ => return Err(format!("no frame, or one of more than {FRAME_MAX} bytes")),
        };
        // Said at once to whoever speaks something else, such as HTTP, instead of waiting for the rest of it.
        if length == 0 || rest.first().is_some_and(|b| *b != b'{') {
            return Err("no frame of JSON".into());
        }
        let Some(json) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.bytes.drain(..length.saturating_add(4));
        if self.bytes.is_empty() {
            // A thousand connections that are silent must cost little.
            self.bytes = Vec::new();
        }
        Ok(Some(json))
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Has a frame begun that is not whole?
    pub fn begun(&self) -> bool {
        !self.bytes.is_empty()
    }
}

/// Connects, sends one request and waits for its answer, all of it within `limit`. An error is a sentence without a full
/// stop. `request` gets the address that this host uses towards `to`.
pub fn ask(
    to: SocketAddr,
    limit: Duration,
    request: impl FnOnce(IpAddr) -> Message,
) -> Result<Message, String> {
    let until = Instant::now().checked_add(limit);
    let left = || {
        let left = until.map_or(limit, |u| u.saturating_duration_since(Instant::now()));
        if left.is_zero() { Err("no answer in time".to_owned()) } else { Ok(left) }
    };
    let said = |e: std::io::Error| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => e.to_string(),
    };
    let mut stream = TcpStream::connect_timeout(&to, left()?).map_err(said)?;
    let own = stream.local_addr().map_err(said)?.ip().to_canonical();
    stream.set_write_timeout(Some(left()?)).map_err(said)?;
    stream.write_all(&frame(&request(own))).map_err(said)?;
    let (mut frames, mut buf) = (Frames::default(), [0; 1 << 10]);
    loop {
        if let Some(json) = frames.take()? {
            return parse(&json);
        }
        stream.set_read_timeout(Some(left()?)).map_err(said)?;
        match stream.read(&mut buf) {
            Ok(0) => return Err("closed without an answer".into()),
            Ok(n) => frames.feed(buf.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(said(e)),
        }
    }
}

/// Is this the answer to a request that was done?
pub fn done(answer: &Message) -> Result<(), String> {
    match answer.get("err").map(String::as_str) {
        Some("0") => Ok(()),
        Some(_) => Err(format!("it answers {:?}", answer.get("msg").map_or("", String::as_str))),
        None => Err("an answer without `err`: is it a monitor?".into()),
    }
}

/// Does it say that it knows no such request, as an original does of ours?
pub fn is_unknown(answer: &Message) -> bool {
    answer.get("err").is_some_and(|err| err == "-1")
}

/// After how many ms the monitor wants to hear of the role again.
pub fn again_ms(answer: &Message) -> u64 {
    let told = answer.get("again").and_then(|s| s.parse::<u64>().ok()).map(|s| s.saturating_mul(1_000));
    // Neither a flood nor silence, whatever it says.
    told.map_or(AGAIN_MS, |ms| ms.clamp(10_000, AGAIN_MS))
}

/// Who registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// Its role.
    pub role: String,
    /// The host's name.
    pub hostname: String,
    /// The version of the program; empty = not told.
    pub version: String,
    /// The port on which it answers; 0 = it does not.
    pub port: u16,
    /// The address on which it answers, if that is only one.
    pub ip: Option<IpAddr>,
}

impl Me {
    /// A request; `own` is the address used towards the monitor.
    pub fn request(&self, req: &str, own: Option<IpAddr>) -> Message {
        let mut m = self.signed(own);
        let mut put = |k: &str, v: &str| m.insert(k.to_owned(), v.to_owned());
        put("req", req);
        put("role", &self.role);
        put("hostname", &self.hostname);
        if !self.version.is_empty() {
            put("version", &self.version);
        }
        m
    }

    /// A message for the monitor's error log; `time` as `2026/11/22 08:23:58`, `kind` in capitals.
    pub fn message(&self, own: Option<IpAddr>, time: &str, kind: &str, text: &str) -> Message {
        let mut m = self.signed(own);
        let mut put = |k: &str, v: &str| m.insert(k.to_owned(), v.to_owned());
        put("time", time);
        put("type", kind);
        put("msg", text);
        m
    }

    fn signed(&self, own: Option<IpAddr>) -> Message {
        let ip = self.ip.or(own).map_or(String::new(), |ip| ip.to_string());
        let port = if self.port == 0 { String::new() } else { self.port.to_string() };
        [("ip".to_owned(), ip), ("port".to_owned(), port)].into()
    }
}

/// When to register, and what to say of it. It knows no sockets.
#[derive(Debug)]
pub struct Registrar {
    due_ms: u64,
    failures: u32,
    registered: bool,
    /// Makes the waits of many hosts different.
    seed: u64,
}

impl Registrar {
    /// One that registers at once.
    pub fn new(now_ms: u64, seed: u64) -> Self {
        Self { due_ms: now_ms, failures: 0, registered: false, seed: seed | 1 }
    }

    /// Is it time?
    pub fn due(&self, now_ms: u64) -> bool {
        now_ms >= self.due_ms
    }

    /// Has the monitor an entry of this role, as far as is known?
    pub fn registered(&self) -> bool {
        self.registered
    }

    /// What came of a try: after how many ms to register again, or why it failed. A sentence for the log where there is
    /// something to say, with `true` for a good one.
    pub fn tried(&mut self, result: Result<u64, String>, now_ms: u64) -> Option<(bool, String)> {
        let wait = result.as_ref().copied().unwrap_or_else(|_| {
            1_000_u64.checked_shl(self.failures.min(20)).unwrap_or(BACKOFF_MAX_MS).min(BACKOFF_MAX_MS)
        });
        // After an outage a thousand hosts must not come in one second: up to a fifth of the wait more.
        self.seed ^= self.seed.wrapping_shl(13);
        self.seed ^= self.seed.wrapping_shr(7);
        self.seed ^= self.seed.wrapping_shl(17);
        let more = self.seed.checked_rem(wait.checked_div(5).unwrap_or(1).max(1)).unwrap_or(0);
        self.due_ms = now_ms.saturating_add(wait).saturating_add(more);
        match result {
            Ok(_) => {
                let news = !self.registered || self.failures >= FIRST_TRIES;
                (self.failures, self.registered) = (0, true);
                news.then(|| (true, "registered".into()))
            }
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                let text = format!("{why}; the role works on, and tries to register again and again");
                (self.failures == FIRST_TRIES).then_some((false, text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Me {
        let text = String::from;
        Me { role: text("tail"), hostname: text("vm"), version: String::new(), port: 4000, ip: None }
    }

    /// What the captures of the original hold; tests/properties/monitor.rs compares with them where they are at hand.
    #[test]
    fn frames_are_those_of_the_original_byte_by_byte() {
        let register = b"F\0\0\0{\"hostname\":\"vm\",\"ip\":\"\",\"port\":\"4000\",\"req\":\"register\",\"role\":\"tail\"}";
        assert_eq!(frame(&me().request("register", None)), register);
        let unregister =
            b"H\0\0\0{\"hostname\":\"vm\",\"ip\":\"\",\"port\":\"4000\",\"req\":\"unregister\",\"role\":\"tail\"}";
        assert_eq!(frame(&me().request("unregister", None)), unregister);
        let text = "get connection from 127.0.0.1:1399 failed! Error:dial tcp 127.0.0.1:1399: connect: connection refused";
        let log = frame(&me().message(None, "2026/11/22 08:23:58", "ERROR", text));
        let wanted = format!(
            "{{\"ip\":\"\",\"msg\":\"{text}\",\"port\":\"4000\",\"time\":\"2026/11/22 08:23:58\",\"type\":\"ERROR\"}}"
        );
        assert_eq!(log, [b"\xb1\x01\0\0", wanted.as_bytes()].concat());
    }

    #[test]
    fn frames_are_found_however_their_bytes_come() {
        let bytes: Vec<u8> =
            ["register", "unregister"].iter().flat_map(|r| frame(&me().request(r, None))).collect();
        for step in 1..bytes.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for chunk in bytes.chunks(step) {
                frames.feed(chunk);
                while let Some(json) = frames.take().unwrap() {
                    found.push(parse(&json).unwrap()["req"].clone());
                }
            }
            assert_eq!((found, frames.begun()), (vec!["register".into(), "unregister".into()], false));
        }
        for bad in [&b"\xff\xff\xff\xff"[..], &varint4(FRAME_MAX + 1), b"GET / HTTP/1.0\r\n"] {
            let mut frames = Frames::default();
            frames.feed(bad);
            assert!(frames.take().is_err(), "{bad:?}");
        }
        for bad in [&b""[..], b"{", b"[]", b"{\"a\":1}", b"{\"a\":{}}", b"\xff"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn three_tries_come_soon_then_fewer_and_they_never_end() {
        let mut r = Registrar::new(0, 7);
        let mut now = 0;
        let mut fail = |r: &mut Registrar| {
            let before = now;
            now = r.due_ms;
            (r.due(now), r.tried(Err("no".into()), now), now - before)
        };
        assert!(matches!(fail(&mut r), (true, None, 0)));
        assert!(matches!(fail(&mut r), (true, None, 1_000..1_200)));
        let (_, told, waited) = fail(&mut r);
        assert!(!told.unwrap().0 && (2_000..2_400).contains(&waited));
        for _ in 0..100 {
            let (due, told, waited) = fail(&mut r);
            assert!(due && told.is_none() && waited <= BACKOFF_MAX_MS / 5 * 6);
        }
        let now = r.due_ms;
        let answer = |again: &str| again_ms(&[("again".to_owned(), again.to_owned())].into());
        assert_eq!(
            [answer("60"), answer("0"), answer("9999999999999999999"), answer("x")],
            [60_000, 10_000, AGAIN_MS, AGAIN_MS]
        );
        let good = again_ms(&Message::new());
        assert_eq!(r.tried(Ok(good), now), Some((true, "registered".into())));
        assert!(r.registered() && !r.due(now + AGAIN_MS - 1) && r.due(now + AGAIN_MS / 5 * 6));
        assert_eq!(r.tried(Ok(good), now), None, "what is normal is not told");
    }
}
