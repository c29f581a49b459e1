//! The wire format: frames of the original and frames made by other hands decode to what they say, however they are
//! split on their way; what we write is what is described.
//!
//! The story: the original reads a header with one `read`, so a header split over two segments was `wrong header`;
//! and it threw away what a read had brought beyond the first frame, so the second of two packs was swallowed.

use super::peer::{Answer, Hour, Pack, Random, hex, lines, newlines, sha256};
use super::store::Store;
use flate2::read::ZlibDecoder;
use logd::clock::Hour as Time;
use logd::config::{Config, ReceiverConfig};
use logd::pack::{
    BodyCheck, Decoder, Encoder, Event, Header, HourKey, Meta, Refusal, Seal, Totals, total_digest,
};
use logd::receiver::{Arrived, Budget, Session};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PEER: &str = "192.0.2.7";

/// What a frame must say.
struct Expect {
    file: &'static str,
    name: &'static str,
    hour: &'static str,
    generation: u64,
    id: u64,
    lines: u64,
    done: bool,
    repull: bool,
    entries: usize,
    raw: Vec<u8>,
}

/// Directory with captures of the original, if it is known.
fn captures() -> Option<PathBuf> {
    let found = std::env::var_os("LOGD_SHARED").map(|d| Path::new(&d).join("wire")).filter(|d| d.is_dir());
    if found.is_none() {
        println!("skipped: LOGD_SHARED does not name a directory with wire/");
    }
    found
}

fn captured() -> Vec<Expect> {
    let text = |hour: &str, from: usize, to: usize, more: &str| {
        (from..=to).flat_map(|i| format!("line {i} of {hour}{more}\n").into_bytes()).collect::<Vec<u8>>()
    };
    let five = |from, to| text("2026112205", from, to, " café 日志");
    let one = |file, hour, id, raw: Vec<u8>| Expect {
        file,
        name: PEER,
        hour,
        generation: 0,
        id,
        lines: newlines(&raw) as u64,
        done: id == 3,
        repull: id == 3 && raw.is_empty(),
        entries: if file.starts_with("relayed") { 2 } else { 1 },
        raw,
    };
    vec![
        one("pack-1.bin", "2026112205", 2, five(11, 20)),
        one("pack-2.bin", "2026112205", 1, five(1, 10)),
        one("pack-3.bin", "2026112205", 3, five(21, 25)),
        one("pack-4.bin", "2026112206", 2, text("2026112206", 11, 20, "")),
        one("pack-5.bin", "2026112206", 1, text("2026112206", 1, 10, "")),
        one("pack-6.bin", "2026112207", 1, text("2026112207", 1, 10, "")),
        one("pack-7.bin", "2026112206", 3, Vec::new()),
        one("relayed-1.bin", "2026112205", 2, five(11, 20)),
        one("relayed-2.bin", "2026112205", 3, five(21, 25)),
    ]
}

fn vectors() -> Vec<Expect> {
    let one = |file, name, hour, id, lines, raw: &str| Expect {
        file,
        name,
        hour,
        generation: 0,
        id,
        lines,
        done: false,
        repull: false,
        entries: 1,
        raw: raw.into(),
    };
    let w64 = "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww";
    vec![
        one("first.bin", "web1", "2026112205", 1, 3, "GET /café 200\nGET /日志 404\n\n"),
        Expect { done: true, ..one("last.bin", "web1", "2026112205", 2, 2, "GET / 200\nGET /cut") },
        Expect { done: true, repull: true, ..one("empty.bin", "10.0.0.7", "2026112206", 1, 0, "") },
        Expect {
            done: true,
            generation: 1_795_327_200,
            ..one("copy.bin", "web1+access", "20261122", 1, 2, "a\nb\n")
        },
        Expect { entries: 2, ..one("relayed.bin", "10.0.0.8", "2026112207", 9, 2, "line 1\nline 2\n") },
        one("odd.bin", "web1", "2026112208", 1_000_000_000, 5000, &"x\n".repeat(5000)),
        Expect {
            generation: 1_795_327_200,
            entries: 15,
            ..one("longest.bin", w64, "2026112209", 123_456_789, 1, "z\n")
        },
    ]
}

fn vector(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file)).unwrap()
}

/// One frame, read to its end.
fn decode(frame: &[u8]) -> Result<(Header, Vec<u8>), Refusal> {
    let mut decoder = Decoder::new(64 << 10, 16 << 20);
    let (mut at, mut header, mut body) = (0, None, Vec::new());
    loop {
        let (used, event) = decoder.feed(&frame[at..])?;
        at += used;
        match event {
            Some(Event::Header(h)) => header = Some(h),
            Some(Event::Ping(h)) => panic!("a test pack: {h:?}"),
            Some(Event::Body(b)) => body.extend_from_slice(b),
            Some(Event::End) => break,
            None => assert!(used > 0, "a whole frame and no end"),
        }
    }
    assert_eq!(at, frame.len());
    assert!(decoder.at_boundary());
    Ok((header.unwrap(), body))
}

/// The pack's own entry; an original relay hides who an unnamed sender is, so its entry is taken away.
fn meta(header: &Header) -> Meta {
    let named = header.route[0].get("ip").is_some_and(|ip| !ip.is_empty());
    let mut own = header.clone();
    if !named {
        if own.route.len() > 1 {
            assert!(matches!(own.meta(PEER), Err(Refusal::Close(_))), "{own:?}");
        }
        own.route.truncate(1);
    }
    own.meta(PEER).unwrap()
}

fn check(frame: &[u8], e: &Expect) {
    let (header, body) = decode(frame).unwrap();
    let m = meta(&header);
    let mut raw = Vec::new();
    let mut checker = BodyCheck::new();
    checker.start(64 << 20);
    checker.feed(&body, &mut raw).unwrap();
    let sums = checker.finish(&m).unwrap();
    let label = e.file;
    assert_eq!(raw, e.raw, "{label}");
    assert_eq!((sums.bytes, sums.crc32), (raw.len() as u64, crc32fast::hash(&raw)), "{label}");
    assert_eq!((m.key.name.as_str(), m.key.hour.to_string().as_str()), (e.name, e.hour), "{label}");
    assert_eq!((m.generation, m.id, m.lines), (e.generation, e.id, e.lines), "{label}");
    assert_eq!((m.done, m.repull), (e.done, e.repull), "{label}");
    assert_eq!(header.route.len(), e.entries, "{label}");
    assert_eq!(header.pack_len, body.len() as u64, "{label}");

    // The same header and body again, and a body that our own encoder made of the same lines.
    let again = [header.encode(), body].concat();
    let (header2, body2) = decode(&again).unwrap();
    assert_eq!((&header2, meta(&header2)), (&header, m.clone()), "{label}");
    assert_eq!(again.len() - body2.len() - 4, header.json().len(), "{label}");
    let tag = if m.seal.is_some() { m.tag() } else { String::new() };
    let mut ours = Vec::new();
    Encoder::new(6).body(&raw, &tag, &mut ours);
    let fresh = Header { route: vec![m.entry()], pack_len: ours.len() as u64 };
    let (header3, body3) = decode(&[fresh.encode(), ours].concat()).unwrap();
    assert_eq!(meta(&header3), m, "{label}");
    let mut raw3 = Vec::new();
    checker.start(64 << 20);
    checker.feed(&body3, &mut raw3).unwrap();
    assert_eq!(checker.finish(&m).unwrap(), sums, "{label}");
    assert_eq!(raw3, raw, "{label}");
}

#[test]
fn frames_of_the_original_decode_to_what_it_sent() {
    let Some(dir) = captures() else { return };
    let expected = captured();
    let mut seen = 0;
    for e in std::fs::read_dir(&dir).unwrap().flatten() {
        let file = e.file_name().to_string_lossy().into_owned();
        let bytes = std::fs::read(e.path()).unwrap();
        if let Some(x) = expected.iter().find(|x| x.file == file) {
            check(&bytes, x);
            seen += 1;
        } else if e.path().extension().is_some_and(|x| x == "bin") {
            // Registrations and error logs go to the monitor; a receiver of packs refuses them.
            assert!(!file.contains("pack") && !file.contains("relayed"), "{file}: not expected here");
            assert!(matches!(decode(&bytes), Err(Refusal::Wrong(_))), "{file}");
        }
    }
    assert_eq!(seen, expected.len());
}

#[test]
fn frames_made_by_another_hand_decode_to_what_they_say() {
    for e in vectors() {
        check(&vector(e.file), &e);
    }
    let m = meta(&decode(&vector("last.bin")).unwrap().0);
    let digests = [sha256("GET /café 200\nGET /日志 404\n\n".as_bytes()), sha256(b"GET / 200\nGET /cut")];
    assert_eq!(
        m.totals,
        Some(Totals { lines: 5, bytes: 50, sha256: total_digest(digests.iter()) }),
        "totals of the hour"
    );
    assert_eq!(m.totals.unwrap().sha256, sha256(&digests.concat()));
    assert_eq!(m.day_hours, 24);
    let m = meta(&decode(&vector("copy.bin")).unwrap().0);
    assert_eq!((m.state.as_str(), m.loss.as_str()), ("partial,loss", "4-17,30-31"));
    let (h, _) = decode(&vector("relayed.bin")).unwrap();
    assert!(h.peer_is_ours() && meta(&h).seal.is_none());
    assert!(!decode(&vector("first.bin")).unwrap().0.route[0].contains_key("repull"));
}

#[test]
fn what_we_write_is_what_is_described() {
    let raw = lines("ours", 0, 40);
    let m = Meta {
        key: HourKey { name: "web1+access".into(), hour: Time::parse("2026112205").unwrap() },
        generation: 1_795_327_200,
        id: 7,
        lines: 40,
        done: true,
        repull: false,
        seal: Some(Seal::of(&raw)),
        totals: Some(Totals { lines: 40, bytes: raw.len() as u64, sha256: sha256(b"x") }),
        state: "changed".into(),
        loss: String::new(),
        day_hours: 25,
        clock: false,
    };
    let mut body = Vec::new();
    Encoder::new(6).body(&raw, &m.tag(), &mut body);
    let head = Header { route: vec![m.entry()], pack_len: body.len() as u64 }.encode();
    // Read with nothing of ours: length, JSON, zlib stream, tag.
    let mut n = 0;
    for (i, b) in head[..4].iter().enumerate() {
        n += usize::from(b % 128) << (7 * i);
        if *b < 128 {
            assert!(head[i + 1..4].iter().all(|b| *b == 0));
            break;
        }
    }
    assert_eq!(n, head.len() - 4);
    let json: serde_json::Value = serde_json::from_slice(&head[4..]).unwrap();
    assert_eq!(json["PackLen"].as_u64(), Some(body.len() as u64));
    let e = &json["Route"][0];
    for (key, value) in [
        ("ip", "web1+access"),
        ("hour", "2026112205"),
        ("gen", "1795327200"),
        ("id", "7"),
        ("lines", "40"),
        ("done", "1"),
        ("v", "1"),
        ("bytes", &raw.len().to_string()),
        ("crc32", &format!("{:08x}", crc32fast::hash(&raw))),
        ("sha256", &hex(&sha256(&raw))),
        ("total_lines", "40"),
        ("total_bytes", &raw.len().to_string()),
        ("total_sha256", &hex(&sha256(b"x"))),
        ("state", "changed"),
        ("day_hours", "25"),
    ] {
        assert_eq!(e[key].as_str(), Some(value), "{key}");
    }
    let mut z = ZlibDecoder::new(body.as_slice());
    let mut out = Vec::new();
    z.read_to_end(&mut out).unwrap();
    assert_eq!(out, raw);
    let stream = usize::try_from(z.total_in()).unwrap();
    assert_eq!(&body[stream..], b"web1+access|2026112205|1795327200|7");
}

#[test]
fn a_header_that_we_write_fits_into_one_read_of_the_original() {
    let mut pack = Pack::ours("web1", "2026112205", 0, 1, b"a\n");
    for i in 0..40 {
        pack = pack.hop(&[("ip", &format!("relay{i}")), ("stage", "tcp recv"), ("v", "1")]);
    }
    // Of what comes in more is read than we write: 32 entries, and up to 64 KiB.
    assert!(decode(&pack.frame()).is_err());
    pack.hops.truncate(31);
    let (header, _) = decode(&pack.frame()).unwrap();
    let out = header.encode();
    assert!(out.len() <= 1200, "{}", out.len());
    let (short, _) = decode(&[out, pack.body.clone()].concat()).unwrap();
    assert_eq!(meta(&short), meta(&header));
    assert_eq!(short.route.last(), header.route.last());
}

// ---- splits, without a socket ----

fn receiver() -> Arc<ReceiverConfig> {
    let text = b"[fcollector]\nlisten = 127.0.0.1:0\nsave_dir = /nowhere\n";
    Arc::new(Config::parse("test", text).store(true).unwrap().0.receiver)
}

fn session(conf: &Arc<ReceiverConfig>) -> Session {
    Session::new(conf, &Budget::new(conf.inflight_bytes), PEER.parse().unwrap(), true)
}

fn feed(session: &mut Session, mut part: &[u8], out: &mut Vec<Arrived>) {
    while !part.is_empty() {
        let (used, arrived) = session.feed(part).unwrap();
        part = &part[used..];
        let none = arrived.is_none();
        out.extend(arrived);
        if used == 0 && none {
            break;
        }
    }
}

fn all_frames() -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = vectors().iter().map(|e| vector(e.file)).collect();
    if let Some(dir) = captures() {
        let unnamed_and_relayed = |e: &&Expect| e.entries == 1;
        frames.extend(
            captured().iter().filter(unnamed_and_relayed).map(|e| std::fs::read(dir.join(e.file)).unwrap()),
        );
    }
    frames.push(Pack::ours("web1", "2026112205", 0, 1, &lines("long", 0, 3000)).frame());
    frames
}

type Seen = (Header, Meta, u64, u32, Vec<u8>, Option<Vec<u8>>);

fn seen(a: Arrived) -> Seen {
    (a.header, a.meta, a.checked.bytes, a.checked.crc32, a.body, a.raw.map(|raw| raw.as_ref().to_vec()))
}

#[test]
fn a_frame_split_at_any_byte_is_the_same_pack() {
    let conf = receiver();
    for frame in all_frames() {
        let mut whole = Vec::new();
        feed(&mut session(&conf), &frame, &mut whole);
        let whole = seen(whole.pop().unwrap());
        for at in 0..=frame.len() {
            let (mut s, mut out) = (session(&conf), Vec::new());
            feed(&mut s, &frame[..at], &mut out);
            assert_eq!(out.len(), usize::from(at == frame.len()), "nothing comes before its last byte");
            assert_eq!(s.idle(), at == 0 || at == frame.len());
            feed(&mut s, &frame[at..], &mut out);
            assert!(s.idle());
            assert_eq!(out.len(), 1, "split at {at}");
            assert_eq!(seen(out.remove(0)), whole, "split at {at}");
        }
        let (mut s, mut out) = (session(&conf), Vec::new());
        for byte in &frame {
            feed(&mut s, std::slice::from_ref(byte), &mut out);
        }
        assert_eq!(out.len(), 1);
        assert_eq!(seen(out.remove(0)), whole, "byte by byte");
    }
}

#[test]
fn frames_in_a_row_are_split_at_random_places() {
    let mut random = Random::new();
    let conf = receiver();
    for _ in 0..200 {
        let mut frames = all_frames();
        random.shuffle(&mut frames);
        let stream = frames.concat();
        let (mut s, mut out, mut at) = (session(&conf), Vec::new(), 0);
        while at < stream.len() {
            let n = (1 + random.below(2000)).min(stream.len() - at);
            feed(&mut s, &stream[at..at + n], &mut out);
            at += n;
        }
        let bodies: Vec<u8> = out.iter().flat_map(|a| a.body.clone()).collect();
        let expected: Vec<u8> = frames.iter().flat_map(|f| decode(f).unwrap().1).collect();
        assert_eq!(out.len(), frames.len());
        assert!(bodies == expected && s.idle());
    }
}

// ---- over a socket ----

#[test]
fn two_reads_for_one_frame_whatever_byte_is_between_them() {
    let store = Store::new("split", &[]);
    let mut peer = store.peer();
    // Pack 1 of one hour after another, so that each is new: ours, and one of an original sender.
    let mut total = 0;
    for kind in ["ours", "original"] {
        let pack = |i: usize| {
            let (name, raw) = (format!("{kind}{i:04}"), lines("split", i, 3));
            match kind {
                "ours" => Pack::ours(&name, "2026112205", 0, 1, &raw),
                _ => Pack::original(&name, "2026112205", 1, &raw),
            }
        };
        for at in 1..pack(0).frame().len() {
            let frame = pack(at).frame();
            let at = at.min(frame.len() - 1);
            peer.write_apart(&frame[..at]);
            assert!(peer.write(&frame[at..]));
            assert_eq!(peer.answer(), Answer::Ok, "{kind}: split at {at}");
            total += 1;
        }
    }
    assert!(total > 500, "{total} splits");
    store.wait_data("ours0100", "2026112205", lines("split", 100, 3).len());
    assert_eq!(store.data("original0100", "2026112205"), lines("split", 100, 3));
}

#[test]
fn several_packs_in_one_segment_are_all_taken() {
    let store = Store::new("segment", &[]);
    for n in [2, 3, 10] {
        for kind in ["ours", "original"] {
            let hour = Hour::new(&format!("{kind}{n}"), "2026112205", n, 5);
            let packs = if kind == "ours" { hour.packs() } else { hour.original_packs() };
            let mut peer = store.peer();
            let all: Vec<u8> = packs.iter().flat_map(Pack::frame).collect();
            assert!(peer.write(&all));
            for _ in 0..n {
                assert_eq!(peer.answer(), Answer::Ok);
            }
            if kind == "ours" {
                store.proven(&hour, 1);
            } else {
                store.unverified(&hour);
            }
        }
    }
    // A read that ends inside the third frame.
    let hour = Hour::new("cut", "2026112205", 3, 5);
    let all: Vec<u8> = hour.packs().iter().flat_map(Pack::frame).collect();
    let mut peer = store.peer();
    peer.write_apart(&all[..all.len() - 40]);
    assert_eq!((peer.answer(), peer.answer()), (Answer::Ok, Answer::Ok));
    assert!(peer.write(&all[all.len() - 40..]));
    assert_eq!(peer.answer(), Answer::Ok);
    store.proven(&hour, 1);
}

#[test]
fn a_sender_that_dribbles_byte_by_byte_is_understood() {
    let store = Store::new("dribble", &[("header_timeout", "5m"), ("body_timeout", "5m")]);
    let hour = Hour::new("slow", "2026112205", 2, 3);
    let mut peer = store.peer();
    for pack in hour.packs() {
        for byte in pack.frame() {
            peer.write_apart(&[byte]);
        }
        assert_eq!(peer.answer(), Answer::Ok);
    }
    store.proven(&hour, 1);
}

#[test]
fn captured_frames_make_the_hours_that_the_original_sent() {
    let Some(dir) = captures() else { return };
    let store = Store::new("captured", &[]);
    let mut peer = store.peer();
    for e in captured().iter().filter(|e| e.entries == 1) {
        assert!(peer.write(&std::fs::read(dir.join(e.file)).unwrap()));
        assert_eq!(peer.answer(), Answer::Ok, "{}", e.file);
    }
    for (hour, n) in [("2026112205", 25), ("2026112206", 20)] {
        let (file, c) = store.wait_tag("127.0.0.1", hour, |_| true);
        assert_eq!(file, format!("127.0.0.1_{hour}_{n}"));
        assert_eq!((&c["verified"], c["packs"].as_u64()), (&false.into(), Some(3)));
        let mut packs: Vec<Expect> =
            captured().into_iter().filter(|e| e.hour == hour && e.entries == 1).collect();
        packs.sort_by_key(|e| e.id);
        assert_eq!(
            store.data("127.0.0.1", hour),
            packs.iter().flat_map(|e| e.raw.clone()).collect::<Vec<_>>()
        );
    }
    store.wait_data("127.0.0.1", "2026112207", 211);
    assert_eq!(store.tag("127.0.0.1", "2026112207"), None);
    for relayed in ["relayed-1.bin", "relayed-2.bin"] {
        let mut peer = store.peer();
        peer.write(&std::fs::read(dir.join(relayed)).unwrap());
        assert_eq!(peer.answer(), Answer::Closed(String::new()));
    }
    super::support::until(super::support::SOON, "the reason in the log", || {
        store.log().contains("move relays before followers").then_some(())
    });
}
