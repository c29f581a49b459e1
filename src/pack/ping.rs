//! The test pack of `logd ping`: all that a pack goes through but being stored.
//!
//! ```text
//! frame = 4 bytes: length of what follows up to the body | `ping ` | a header as any | PackLen bytes of body
//! Route[0] = {"v":"1", "ip": name, "id":"0", "ping":"1", "crc32": of the body, and "relay":"1" of one that signs nothing;
//!             "key", "mac"}
//! ```
//! The word before the JSON makes it no JSON. An original receiver then says `wrong header` and closes, as it does to every
//! header that it cannot parse; an earlier version of this program closes. None of them stores anything: with the word cut off it
//! still has the number 0, which no pack has, and its signature is for nothing else.

use super::{Entry, Header, Refusal, hex, unhex, varint4, wrong};

/// What stands before the header.
pub const WORD: &[u8] = b"ping ";
/// Longest body in bytes.
pub const BODY_MAX: u64 = 1 << 20;

/// What a test pack says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The sender's name.
    pub name: String,
    /// It comes from a relay, which has no key.
    pub relay: bool,
    /// CRC-32 of the body.
    pub crc32: u32,
    /// Length of the body in bytes.
    pub len: u64,
}

impl Ping {
    /// Its entry, to be signed.
    pub fn entry(name: &str, relay: bool, body: &[u8]) -> Entry {
        let crc = hex(&crc32fast::hash(body).to_be_bytes());
        let mut entry = Entry::new();
        for (k, v) in [("v", "1"), ("ip", name), ("id", "0"), ("ping", "1"), ("crc32", &crc)] {
            entry.insert(k.into(), v.into());
        }
        if relay {
            entry.insert("relay".into(), "1".into());
        }
        entry
    }

    /// The whole frame.
    pub fn frame(entry: Entry, body: &[u8]) -> Vec<u8> {
        let json = Header { route: vec![entry], pack_len: body.len() as u64 }.json();
        let mut frame = varint4(json.len().saturating_add(WORD.len())).to_vec();
        for part in [WORD, &json, body] {
            frame.extend_from_slice(part);
        }
        frame
    }

    /// Reads its header.
    pub fn of(header: &Header) -> Result<Self, Refusal> {
        let text = |k: &str| header.route.first().and_then(|e| e.get(k)).map_or("", String::as_str);
        if (text("v"), text("id"), text("ping")) != ("1", "0", "1") || header.route.len() != 1 {
            return wrong("a test pack of a form that is not known here");
        }
        if let Some(problem) = crate::name::problem(text("ip")) {
            return wrong(format!("ip {:?}: {problem}", text("ip")));
        }
        if header.pack_len > BODY_MAX {
            return wrong(format!("a test pack of {} bytes; the limit is {BODY_MAX}", header.pack_len));
        }
        let Some(crc32) = unhex(text("crc32")).map(u32::from_be_bytes) else {
            return wrong("a test pack without a CRC-32");
        };
        Ok(Self { name: text("ip").to_owned(), relay: text("relay") == "1", crc32, len: header.pack_len })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decoder, Event};
    use super::*;

    #[test]
    fn a_test_pack_is_read_as_one_and_never_as_a_pack() {
        let frame = Ping::frame(Ping::entry("web1", false, b"body"), b"body");
        let mut decoder = Decoder::new(1 << 16, 1 << 20);
        let (used, event) = decoder.feed(&frame).unwrap();
        let Some(Event::Ping(header)) = event else { panic!("{event:?}") };
        let want = Ping { name: "web1".into(), relay: false, crc32: crc32fast::hash(b"body"), len: 4 };
        assert_eq!(Ping::of(&header), Ok(want));
        assert_eq!(&frame[used..], b"body");
        // Whoever does not know the word finds no JSON, and whoever cuts it off no pack.
        let json = &frame[4..used];
        assert!(serde_json::from_slice::<serde_json::Value>(json).is_err());
        let bare = Header::parse(&json[WORD.len()..]).unwrap();
        assert!(
            bare.meta("x").is_err_and(|r| r.reason().contains("numbered from 1")) || bare.meta("x").is_err()
        );
        for (key, value) in [("id", "1"), ("v", "2"), ("ping", ""), ("ip", "../x"), ("crc32", "7")] {
            let mut header = header.clone();
            header.route[0].insert(key.into(), value.into());
            assert!(Ping::of(&header).is_err(), "{key}");
        }
    }
}
