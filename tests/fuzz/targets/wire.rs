//! What comes over the wire: frames, headers, bodies.

use super::Script;
use logd::clock::Hour;
use logd::config::{Config, ReceiverConfig};
use logd::pack::{
    BodyCheck, Checked, Encoder, HEADER_OUT_MAX, Header, HourKey, Meta, Refusal, Seal, Sink, Totals, hex,
    inflate, peek, split_frame,
};
use logd::receiver::{Budget, Session};
use std::mem::Discriminant;
use std::sync::{Arc, OnceLock};

const PEER: &str = "192.0.2.7";
const RAW_MAX: usize = 64 << 10;

fn receiver() -> &'static Arc<ReceiverConfig> {
    static CONF: OnceLock<Arc<ReceiverConfig>> = OnceLock::new();
    CONF.get_or_init(|| {
        let text =
            b"[collector]\nlisten = :1\nallow = any\nsend_to = a:1\nmax_raw = 64k\nmax_body = 64k\nmax_header = 64k\n";
        Arc::new(Config::parse("fuzz", text).relay(true).unwrap().0.receiver)
    })
}

/// What came out of a session.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    header: Header,
    meta: Meta,
    checked: Checked,
    body: Vec<u8>,
}

/// Feeds a stream in pieces; everything that came out, why it ended, and whether it ended between two frames.
fn receive(
    stream: &[u8],
    piece: &mut dyn FnMut() -> usize,
) -> (Vec<Got>, Option<Discriminant<Refusal>>, bool) {
    let budget = Budget::new(RAW_MAX);
    let mut session = Session::new(receiver(), &budget, [192, 0, 2, 7].into(), true);
    let (mut got, mut rest) = (Vec::new(), stream);
    let mut size = 0;
    while !rest.is_empty() {
        if size == 0 {
            size = piece().clamp(1, rest.len());
        }
        match session.feed(&rest[..size]) {
            // The words may differ: a bad stream shows its first fault, and which that is depends on the pieces.
            Err(why) => return (got, Some(std::mem::discriminant(&why)), session.idle()),
            Ok((n, arrived)) => {
                assert!(n > 0 || arrived.is_some(), "the session takes nothing of {size} bytes");
                rest = &rest[n..];
                size -= n;
                let Some(a) = arrived else { continue };
                let mut raw = Vec::new();
                let again = inflate(&a.body, &a.meta, &mut raw, RAW_MAX as u64);
                assert_eq!(again, Some(a.checked), "what arrived does not inflate again");
                let seal = Seal::of(&raw);
                assert_eq!((seal.bytes, seal.crc32), (a.checked.bytes, a.checked.crc32));
                if let Some(told) = a.meta.seal {
                    assert_eq!((told.bytes, told.crc32), (seal.bytes, seal.crc32));
                }
                if let Some(kept) = &a.raw {
                    assert!(kept.as_ref() == raw && kept.capacity() <= RAW_MAX);
                }
                assert_eq!(a.body.len() as u64, a.header.pack_len);
                assert!(a.body.capacity() <= 2 * stream.len() + 64, "memory for bytes that did not come");
                got.push(Got { header: a.header, meta: a.meta, checked: a.checked, body: a.body });
            }
        }
    }
    (got, None, session.idle())
}

fn meta(s: &mut Script, raw: &[u8]) -> Meta {
    let what = s.byte();
    let name = ["web1", "10.0.0.7", "fe80::1", "web-1.example.com+access"][usize::from(what & 3)];
    let hour = ["2026112205", "2026112223", "20261122", "2024022900"][usize::from(what >> 2 & 3)];
    let done = what & 16 != 0;
    let seal = (what & 32 == 0).then(|| Seal::of(raw));
    let lines = raw.iter().filter(|b| **b == b'\n').count() as u64;
    let loose = done && raw.last().is_some_and(|b| *b != b'\n') && what & 64 != 0;
    Meta {
        key: HourKey { name: name.into(), hour: Hour::parse(hour).unwrap() },
        generation: if what & 128 != 0 { s.number() % (u64::MAX / 4) } else { 0 },
        id: s.number() % 1_000_000_000 + 1,
        lines: lines + u64::from(loose),
        done,
        repull: what & 0x81 == 0x81,
        seal,
        totals: (done && seal.is_some()).then(|| Totals {
            lines,
            bytes: raw.len() as u64,
            sha256: Seal::of(raw).sha256,
        }),
        state: String::new(),
        loss: String::new(),
        day_hours: u32::from(what & 7),
        clock: false,
    }
}

/// A receiver's [`Session`]: the same packs and the same refusal however the bytes are split, every pack is what its
/// header says, and what a relay makes of it is the same pack for the next receiver.
pub fn frame(bytes: &[u8]) {
    let mut s = Script(bytes);
    let mode = s.byte();
    let mut stream = Vec::new();
    if mode & 1 == 0 {
        stream.extend_from_slice(s.0);
    } else {
        let mut encoder = Encoder::new(1);
        while !s.ended() && stream.len() < 1 << 17 {
            let n = usize::from(s.byte()) * if mode & 2 == 0 { 1 } else { 41 };
            let seen = s.take(n.min(64));
            let raw: Vec<u8> =
                seen.iter().copied().cycle().take(if seen.is_empty() { 0 } else { n }).collect();
            let m = meta(&mut s, &raw);
            let mut body = Vec::new();
            encoder.body(&raw, if m.seal.is_some() { m.tag() } else { String::new() }.as_str(), &mut body);
            let mut header = Header { route: vec![m.entry()], pack_len: body.len() as u64 };
            let hops = s.byte();
            for _ in 0..hops & 31 {
                header.route.push([("ip", "relay1"), ("v", "1")].map(|(k, v)| (k.into(), v.into())).into());
            }
            let mut whole = [header.encode(), body].concat();
            assert!(split_frame(&whole).is_some() && peek(&whole).as_ref() == Some(&m), "{m:?}");
            if hops & 128 != 0 {
                s.damage(&mut whole);
            } else if mode & 4 == 0 && m.lines <= 1 << 16 && raw.len() <= RAW_MAX && hops & 31 < 31 {
                let (got, refused, idle) = receive(&whole, &mut || usize::MAX);
                assert!(got.len() == 1 && got[0].meta == m && idle, "a true frame is refused: {refused:?}");
            }
            stream.extend_from_slice(&whole);
        }
    }
    let all = receive(&stream, &mut || usize::MAX);
    let mut next = u64::from(mode) << 8 | 1;
    let pieces = receive(&stream, &mut || {
        next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (next >> 33) as usize % if next >> 63 == 0 { 7 } else { 2_000 }
    });
    assert_eq!(all, pieces, "the way in which a stream is split changes what it is");
    assert_eq!(all, receive(&stream, &mut || 1));
    for got in &all.0 {
        let head = got.header.encode();
        if head.len() > RAW_MAX {
            continue;
        }
        let (again, refused, idle) = receive(&[head, got.body.clone()].concat(), &mut || usize::MAX);
        assert!(refused.is_none() && idle && again.len() == 1, "a relay makes it {refused:?}");
        assert_eq!((&again[0].meta, &again[0].body), (&got.meta, &got.body));
    }
}

/// [`Header`] and [`Meta`]: what is read, written and read again is the same, and a name is safe as a file's name.
pub fn header(bytes: &[u8]) {
    let Ok(h) = Header::parse(bytes) else { return };
    assert_eq!(Header::parse(&h.json()).as_ref(), Ok(&h));
    assert!(!h.route.is_empty() && h.route.len() <= 32 && h.pack_len > 0);
    let out = h.encode();
    let short = Header::parse(&out[4..]).unwrap();
    assert!(out.len() <= HEADER_OUT_MAX || short.route.len() <= 2, "{} bytes", out.len());
    assert_eq!((short.route.first(), short.route.last()), (h.route.first(), h.route.last()));
    assert_eq!((short.pack_len, short.encode()), (h.pack_len, out));
    let Ok(m) = h.meta(PEER) else { return };
    assert!(logd::name::problem(&m.key.name).is_none() && m.id > 0);
    assert_eq!(HourKey::parse(&m.key.to_string()).as_ref(), Some(&m.key));
    let path = m.key.to_string();
    assert!(!path.contains('/') && !path.contains("..") && path.len() <= 75, "{path}");
    let again = Header { route: vec![m.entry()], pack_len: 1 };
    assert_eq!(again.meta("another"), Ok(m.clone()), "{}", String::from_utf8_lossy(&again.json()));
    // Two readers must not believe two different things: what is read is what is written there.
    let told = |k: &str| h.route[0].get(k).map_or("", String::as_str);
    if let Some(s) = &m.seal {
        assert!(told("crc32").eq_ignore_ascii_case(&format!("{:08x}", s.crc32)), "crc32 {}", told("crc32"));
        assert!(told("sha256").eq_ignore_ascii_case(&hex(&s.sha256)));
        assert_eq!(told("bytes").parse(), Ok(s.bytes));
    }
    if let Some(t) = &m.totals {
        assert!(m.done && told("total_sha256").eq_ignore_ascii_case(&hex(&t.sha256)));
    }
    assert_eq!(
        (told("hour"), told("id").trim_start_matches('0')),
        (m.key.hour.to_string().as_str(), m.id.to_string().as_str())
    );
}

/// Keeps no more than it must: what is beyond the limit has no place here.
struct Tight<'a>(&'a mut Vec<u8>, u64);

impl Sink for Tight<'_> {
    fn room(&mut self) -> Option<&mut Vec<u8>> {
        let left = usize::try_from(self.1).unwrap().saturating_sub(self.0.len());
        if self.0.len() == self.0.capacity() {
            self.0.reserve_exact(left.min(64 << 10));
        }
        Some(self.0)
    }
}

/// [`BodyCheck`]: never a byte beyond the limit, the same however it is split, and what was deflated comes back.
pub fn body(bytes: &[u8]) {
    let mut s = Script(bytes);
    let (mode, limit) = (s.byte(), s.short() as u64);
    let stream = if mode & 1 == 0 {
        s.0.to_vec()
    } else {
        // One part is repeated, so that a short input can become a long body.
        let times = usize::from(s.byte()) + 1;
        let raw = s.0.repeat(times.min((1 << 17) / s.0.len().max(1)).max(1));
        let m = meta(&mut Script(&[mode & 0xdf]), &raw);
        let mut out = Vec::new();
        Encoder::new(u32::from(mode >> 4).clamp(1, 9)).body(&raw, &m.tag(), &mut out);
        let mut back = Vec::new();
        let whole = inflate(&out, &m, &mut back, raw.len() as u64);
        assert!(whole.is_some() && back == raw, "what was deflated does not come back");
        if !raw.is_empty() {
            assert!(
                inflate(&out, &m, &mut back, raw.len() as u64 - 1).is_none(),
                "one byte more than it may"
            );
            let less = Meta { lines: m.lines + 2, ..m.clone() };
            assert!(inflate(&out, &less, &mut back, raw.len() as u64).is_none());
        }
        let other = Meta { id: m.id + 1, ..m };
        assert!(inflate(&out, &other, &mut back, raw.len() as u64).is_none(), "the tag names another pack");
        if mode & 2 != 0 {
            let at = usize::from(mode >> 2).min(out.len());
            out.drain(..at);
        }
        out
    };
    let run = |piece: usize| {
        let mut check = BodyCheck::new();
        check.start(limit);
        let (mut raw, mut error) = (Vec::new(), None);
        for part in stream.chunks(piece) {
            let fed = check.feed(part, &mut Tight(&mut raw, limit));
            assert!(raw.len() as u64 <= limit, "{} bytes, the limit is {limit}", raw.len());
            if let Err(e) = fed {
                error = Some(e);
                break;
            }
        }
        let seal = Seal::of(&raw);
        let mut m = meta(&mut Script(&[32 | mode & 16]), &raw);
        m.lines = raw.iter().filter(|b| **b == b'\n').count() as u64;
        let end = if error.is_some() { None } else { check.finish(&m).ok() };
        if let Some(c) = end {
            assert_eq!((c.bytes, c.crc32), (seal.bytes, seal.crc32));
        }
        (raw, error, end)
    };
    let whole = run(usize::MAX);
    for piece in [1, 7, 1000] {
        let parts = run(piece);
        // Of a bad stream the good beginning may come out or not, according to where it was split.
        assert_eq!((parts.1.is_some(), parts.2), (whole.1.is_some(), whole.2), "split every {piece} bytes");
        assert!(whole.1.is_some() || parts.0 == whole.0);
    }
}
