//! Frames that are wrong on purpose: nothing of them is stored, nothing is certified, memory stays small, and honest
//! senders are served as before.
//!
//! The original certified a truncated body by what its header said, took `total_packs` for a pack's number, wrote
//! `../../x` outside its store, span for ever on `PackLen` -1, took 2.6 GB of address space for ten times four bytes,
//! and put 210 MB on disk for 204 kB on the wire.

use super::peer::{Answer, Hour, Pack, Random, hex, lines, sha256, until, zlib, zlib_of_one_byte};
use super::store::{Store, tree};
use logd::config::Config;
use logd::receiver::{Budget, Session};
use std::sync::Arc;

const HOUR: &str = "2026112205";

fn closed() -> Answer {
    Answer::Closed(String::new())
}

/// Our packs get a word, those of an original (which knows only `ok`) none.
fn refused(store: &Store, pack: &Pack, why: &str) {
    let ours = pack.fields.iter().any(|(k, _)| k == "v");
    let expected = if ours { Answer::WrongHeader } else { closed() };
    assert_eq!(store.peer().send(pack), expected, "{why}: {}", pack.json());
}

/// Nothing is stored but what honest senders sent.
fn nothing_stored(store: &Store) {
    for dir in ["log_data", "headers", "received", "doubtful", "aside"] {
        let names = store.names(dir);
        let strange: Vec<_> = names.iter().filter(|n| !n.starts_with("honest")).collect();
        assert!(strange.is_empty(), "{dir}: {strange:?}");
    }
}

#[test]
fn a_truncated_body_is_refused_whatever_its_header_says() {
    let store = Store::new("truncated", &[]);
    let raw = lines("cut", 0, 5000);
    let whole = zlib(&raw);
    for keep in [0, 1, 2, 6, whole.len() / 2, whole.len() - 5, whole.len() - 1] {
        // With `lines=5000` and `done` the original certified this.
        let original = Pack::original("web1", HOUR, 1, &raw).done().with_body(whole[..keep].to_vec());
        let mut ours =
            Hour { name: "web1".into(), hour: HOUR.into(), generation: 0, raws: vec![raw.clone()] }
                .packs()
                .remove(0);
        let tag = ours.body[whole.len()..].to_vec();
        ours.body = [&whole[..keep], &tag].concat();
        for pack in [original, ours] {
            if pack.body.is_empty() {
                assert_eq!(store.peer().send(&pack), closed());
            } else {
                refused(&store, &pack, "truncated body");
            }
        }
    }
    // Damage in the middle, at the end (the stream's own checksum), and bytes that belong to nobody after it.
    for (at, what) in [(whole.len() / 2, "middle"), (whole.len() - 1, "checksum"), (0, "first byte")] {
        let mut body = whole.clone();
        body[at] ^= 0x10;
        refused(&store, &Pack::original("web1", HOUR, 1, &raw).with_body(body), what);
    }
    let more = [&whole[..], b"and more"].concat();
    refused(&store, &Pack::original("web1", HOUR, 1, &raw).with_body(more), "bytes after the stream");
    let two = [&whole[..], &whole].concat();
    refused(&store, &Pack::original("web1", HOUR, 1, &raw).with_body(two), "two streams");
    store.settle();
    nothing_stored(&store);
}

#[test]
fn lies_about_the_lines_are_refused() {
    let store = Store::new("lies", &[]);
    let raw = lines("lie", 0, 100);
    for told in
        ["99", "101", "0", "5000", "-1", "1e2", "100.0", "", " 100", "+100", "0x64", "99999999999999999999"]
    {
        for pack in [Pack::ours("web1", HOUR, 0, 1, &raw), Pack::original("web1", HOUR, 1, &raw)] {
            refused(&store, &pack.set("lines", told), "lines");
        }
    }
    // With `done` the last line may lack its newline, but these lines do not.
    for told in ["99", "101", "102"] {
        refused(&store, &Pack::original("web1", HOUR, 1, &raw).done().set("lines", told), "lines");
        refused(&store, &Pack::ours("web1", HOUR, 0, 1, &raw).done().set("lines", told), "lines");
    }
    refused(&store, &Pack::original("web1", HOUR, 1, b"").done().set("lines", "1"), "lines");
    let ours = Pack::ours("web1", HOUR, 0, 1, &raw);
    for (key, value) in [
        ("bytes", "1"),
        ("bytes", "100000"),
        ("crc32", "00000000"),
        ("crc32", "xyz"),
        ("sha256", "00"),
        ("v", "2"),
        ("v", ""),
        ("done", "yes"),
        ("repull", "0"),
        ("gen", "-1"),
        ("gen", "new"),
        ("state", "<b>"),
        ("loss", "1-2\n"),
        ("hour", "2026112206"),
        ("id", "2"),
        ("ip", "web2"),
        ("gen", "5"),
    ] {
        refused(&store, &ours.clone().set(key, value), key);
    }
    // The right value, but not in eight digits: another reader would refuse or read it otherwise.
    let raw = (0..1000).map(|n| lines("zero", n, 5)).find(|raw| crc32fast::hash(raw) < 1 << 28).unwrap();
    let signed = format!("+{:07x}", crc32fast::hash(&raw));
    refused(&store, &Pack::ours("web1", HOUR, 0, 1, &raw).set("crc32", &signed), "crc32");
    store.settle();
    nothing_stored(&store);
}

#[test]
fn a_number_that_is_none_is_refused() {
    let store = Store::new("numbers", &[]);
    let raw = lines("n", 0, 5);
    for id in [
        "total_packs",
        "0",
        "-1",
        "",
        "1.0",
        "1e3",
        " 1",
        "+1",
        "1 ",
        "1000000001",
        "18446744073709551617",
        "１",
    ] {
        refused(&store, &Pack::original("web1", HOUR, 1, &raw).set("id", id), "id");
        refused(&store, &Pack::ours("web1", HOUR, 0, 1, &raw).set("id", id), "id");
    }
    for hour in [
        "",
        "2026112224",
        "2026113105",
        "20261301",
        "2026022905",
        "202611220",
        "20261122055",
        "2026-11-22",
        "../../x",
        "2026112２05",
        "00000000",
        "2026112205\0",
    ] {
        refused(&store, &Pack::original("web1", HOUR, 1, &raw).set("hour", hour), "hour");
    }
    // The largest number is one: it waits for those before it.
    assert_eq!(store.peer().send(&Pack::ours("honest-max", HOUR, 0, 1_000_000_000, &raw)), Answer::Ok);
    store.settle();
    assert_eq!(store.data("honest-max", HOUR), b"");
    assert!(store.log().contains("is not a number"));
}

#[test]
fn no_name_leads_out_of_the_store() {
    let store = Store::new("names", &[]);
    let raw = lines("evil", 0, 5);
    let outside = |s: &Store| {
        let mut all = tree(&s.dir());
        all.retain(|p, _| !p.starts_with(s.save("")) && !p.starts_with(s.state("")));
        all
    };
    let before = outside(&store);
    let long = "a".repeat(65);
    for name in [
        "../../x",
        "..",
        ".",
        "/etc/x",
        "a/b",
        "a\\b",
        "a_b",
        "_",
        "all",
        "-rf",
        "::1",
        "a..b",
        " ",
        "a b",
        "é",
        "a\nb",
        "a\0b",
        "~",
        "$(x)",
        "*",
        "%2e%2e%2f",
        &long,
    ] {
        refused(&store, &Pack::original(name, HOUR, 1, &raw), "name");
        refused(&store, &Pack::ours(name, HOUR, 0, 1, &raw), "name");
    }
    store.settle();
    nothing_stored(&store);
    let needle = &raw[..20];
    for (path, content) in tree(&store.dir()) {
        assert!(!content.windows(needle.len()).any(|w| w == needle), "{} holds its bytes", path.display());
    }
    let names =
        |t: std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>| t.into_keys().collect::<Vec<_>>();
    assert_eq!(names(outside(&store)), names(before));
    assert!(!store.dir().join("../x").exists() && !store.dir().join("../../x").exists());
}

#[test]
fn a_body_length_that_cannot_be_closes_the_connection() {
    let store = Store::new("packlen", &[]);
    let raw = lines("len", 0, 5);
    for len in [
        "-1",
        "0",
        "-9223372036854775808",
        "9223372036854775807",
        "18446744073709551615",
        "99999999999999999999999",
        "1e9",
        "1.5",
        "\"80\"",
        "null",
        "16777217",
        "4294967296",
    ] {
        let original = Pack::original("web1", HOUR, 1, &raw).with_pack_len(len);
        assert_eq!(store.peer().send(&original), closed(), "PackLen {len}");
        let ours = Pack::ours("web1", HOUR, 0, 1, &raw).with_pack_len(len);
        let answer = store.peer().send(&ours);
        assert!(matches!(answer, Answer::WrongHeader) || answer == closed(), "PackLen {len}: {answer:?}");
    }
    // Nobody spins: every thread of these connections has ended.
    let connections = || store.process().threads().iter().filter(|name| *name == "connection").count();
    until("the connections' threads have ended", || (connections() == 0).then_some(()));
    store.settle();
    nothing_stored(&store);
}

#[test]
fn a_pack_that_is_too_large_for_this_receiver_gets_a_word() {
    // Without one its sender would try for ever: only `wrong header` makes it set the pack aside.
    let store = Store::new("toolarge", &[("max_body", "64k"), ("max_raw", "1M")]);
    let body = Random::new().bytes(100_000);
    let pack = Pack::ours("web1", HOUR, 0, 1, &body).set("lines", "1").done();
    assert_eq!(store.peer().send(&pack), Answer::WrongHeader);
    let raw = vec![b'\n'; 2 << 20];
    assert_eq!(store.peer().send(&Pack::ours("web1", HOUR, 0, 1, &raw)), Answer::WrongHeader);
    store.settle();
    nothing_stored(&store);
}

/// The story: a header that a relay could read and the next receiver could not, with the relay's entry, stayed in the relay's
/// spool for ever.
#[test]
fn a_relay_refuses_a_header_that_its_own_entry_makes_too_long() {
    let store = Store::new("longheader", &[]);
    let relay = Store::relay("longheader-relay", store.addr(), &[]);
    let raw = lines("long", 0, 3);
    let long = |last: usize| {
        let pack = Pack::ours("web1", HOUR, 0, 1, &raw);
        let pack = (0..40).fold(pack, |p, n| p.set(&format!("{n:0>700}"), &"x".repeat(850)));
        let missing = last - pack.json().len();
        let half = "y".repeat(missing / 4);
        let pack = (1..=3).fold(pack, |p, n| p.set(&format!("y{n}"), &half));
        let rest = last - pack.json().len() - 7;
        pack.set("z", &"z".repeat(rest))
    };
    assert_eq!(long(64_800).json().len(), 64_800);
    for len in [65_530, 65_420] {
        assert_eq!(relay.peer().send(&long(len)), Answer::WrongHeader, "{len}");
    }
    assert_eq!(relay.peer().send(&long(64_800)), Answer::Ok);
    store.wait_data("web1", HOUR, raw.len());
}

/// The story: 900 connections, each with a header of two thousand tiny keys, took 300 MB.
#[test]
fn a_route_of_many_keys_is_refused() {
    let store = Store::new("manykeys", &[]);
    let keys: Vec<String> = (0..40).map(|n| format!("{n:x}")).collect();
    let entry: Vec<(&str, &str)> = keys.iter().map(|k| (k.as_str(), "")).collect();
    let mut pack = Pack::ours("web1", HOUR, 0, 1, &lines("many", 0, 3));
    for _ in 0..8 {
        pack = pack.hop(&entry);
    }
    assert_eq!(store.peer().send(&pack), closed());
    store.wait_log("keys; the limit is 256");
    store.settle();
    nothing_stored(&store);
}

#[test]
fn headers_that_are_none_close_the_connection() {
    let store = Store::new("headers", &[]);
    let json = Pack::original("web1", HOUR, 1, b"a\n").json();
    let with = |length: [u8; 4], json: &[u8]| [&length[..], json, &zlib(b"a\n")].concat();
    let frame = |json: &str| with(super::peer::length(json.len()), json.as_bytes());
    let (twice, deep) = (json.replace("\"ip\"", "\"id\""), "[".repeat(20_000));
    let frames: Vec<(&str, Vec<u8>)> = vec![
        ("2^28 - 1", with([0xff, 0xff, 0xff, 0x7f], json.as_bytes())),
        ("all bits", with([0xff; 4], json.as_bytes())),
        ("no end", with([0x80; 4], json.as_bytes())),
        ("length 0", with([0; 4], json.as_bytes())),
        ("one above the limit", with([0x81, 0x80, 0x04, 0], json.as_bytes())),
        ("no JSON", frame("GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("half a JSON", frame(&json[..json.len() / 2])),
        ("more after the JSON", frame(&format!("{json}{json}"))),
        ("no Route", frame("{\"PackLen\":5}")),
        ("empty Route", frame("{\"Route\":[],\"PackLen\":5}")),
        ("Route of numbers", frame("{\"Route\":[1],\"PackLen\":5}")),
        ("a number in the entry", frame(&json.replace("\"1\"", "1"))),
        ("a key twice", frame(&twice)),
        ("deep", frame(&deep)),
        ("not UTF-8", with([4, 0, 0, 0], b"\xff\xfe{}")),
    ];
    for (what, bytes) in frames {
        let mut peer = store.peer();
        peer.write(&bytes);
        assert_eq!(peer.answer(), closed(), "{what}");
    }
    // A padded length is one: the original's four bytes mean nothing else.
    let odd = with(
        [u8::try_from(json.len() & 127).unwrap() | 128, u8::try_from(json.len() >> 7).unwrap() | 128, 0, 7],
        json.as_bytes(),
    );
    let mut peer = store.peer();
    peer.write(&odd);
    assert!(matches!(peer.answer(), Answer::Ok | Answer::Closed(_)));
    store.settle();
}

#[test]
fn ten_connections_of_four_bytes_cost_nothing() {
    let store = Store::new("fourbytes", &[]);
    store.settle();
    let (rss, data) = (store.process().status_kb("VmHWM"), store.process().status_kb("VmData"));
    let mut peers = Vec::new();
    for _ in 0..10 {
        let mut peer = store.peer();
        peer.write(&[0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(peer.answer(), closed());
        peers.push(peer);
    }
    for _ in 0..10 {
        // The longest header that is allowed, and nothing of it.
        let mut peer = store.peer();
        peer.write_apart(&[0x80, 0x80, 0x04, 0]);
        peers.push(peer);
    }
    for _ in 0..10 {
        // The largest body that is allowed, and one byte of it.
        let raw = lines("promise", 0, 3);
        let pack = Pack::ours("web1", HOUR, 0, 1, &raw).set("bytes", "67108864").with_pack_len("16777216");
        let frame = pack.frame();
        let mut peer = store.peer();
        peer.write_apart(&frame[..=frame.len() - pack.body.len()]);
        peers.push(peer);
    }
    let (rss2, data2) = (store.process().status_kb("VmHWM"), store.process().status_kb("VmData"));
    println!("resident {rss} -> {rss2} kB, writable {data} -> {data2} kB");
    assert!(rss2 < rss + 10_000, "resident {rss} -> {rss2} kB");
    assert!(data2 < data + 40_000, "writable {data} -> {data2} kB");
    drop(peers);
    store.settle();
}

#[test]
fn two_hundred_kilobytes_do_not_become_two_hundred_megabytes() {
    // The limit holds for everything that can become resident: heap and stacks; files that are mapped do not count.
    let mut store = Store::prepare("bomb", &[]);
    store.shell = "ulimit -d 131072;".into();
    store.start();
    let (bomb, big) = (zlib_of_one_byte(b'a', 200 << 20), 200usize << 20);
    assert!(bomb.len() < 300_000);
    let original = Pack::original("web1", HOUR, 1, b"").set("lines", "1").done().with_body(bomb.clone());
    let ours = |bytes: usize| {
        let mut p =
            Pack::ours("web1", HOUR, 0, 1, b"").set("bytes", &bytes.to_string()).set("lines", "1").done();
        p.body = [&bomb[..], format!("web1|{HOUR}|0|1").as_bytes()].concat();
        p
    };
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                refused(&store, &original, "bomb");
                refused(&store, &ours(big), "bomb that tells its size");
                refused(&store, &ours(64 << 20), "bomb that lies about its size");
                refused(&store, &ours(1000), "bomb that lies about its size");
            });
        }
    });
    nothing_stored(&store);
    // What is just allowed is stored, several at once too.
    let sizes: [usize; 6] = [64 << 20, 64 << 20, 33 << 20, 31 << 20, 20 << 20, 17 << 20];
    std::thread::scope(|s| {
        for (i, size) in sizes.into_iter().enumerate() {
            let store = &store;
            s.spawn(move || {
                let (name, raw) = (format!("honest-big{i}"), vec![b'\n'; size]);
                let mut p = Pack::ours(&name, HOUR, 0, 1, b"")
                    .set("crc32", &format!("{:08x}", crc32fast::hash(&raw)))
                    .set("sha256", &hex(&sha256(&raw)));
                for key in ["bytes", "lines"] {
                    p = p.set(key, &size.to_string());
                }
                let body = zlib_of_one_byte(b'\n', size);
                p.body = [&body[..], format!("{name}|{HOUR}|0|1").as_bytes()].concat();
                store.peer().deliver(&p);
            });
        }
    });
    for (i, size) in sizes.into_iter().enumerate() {
        let path = store.save("log_data").join(format!("honest-big{i}_{HOUR}"));
        until("it is stored", || (std::fs::metadata(&path).ok()?.len() == size as u64).then_some(()));
    }
    store.settle();
    let peak = store.process().status_kb("VmHWM");
    println!("peak: {peak} kB");
    assert!(peak < 131_072, "{peak} kB");
}

#[test]
fn noise_is_refused_and_the_receiver_goes_on() {
    let store = Store::new("noise", &[]);
    let mut random = Random::new();
    for i in 0..150 {
        let mut peer = store.peer();
        let n = random.below(3000);
        let mut bytes = random.bytes(n);
        if i % 2 == 0 {
            // A length that is believed, so that the noise gets as far as the JSON.
            bytes.splice(..bytes.len().min(4), [u8::try_from(random.below(128)).unwrap(), 0, 0, 0]);
        }
        peer.write(&bytes);
        if i % 3 == 0 {
            drop(peer);
        }
    }
    store.settle();
    nothing_stored(&store);
}

#[test]
fn one_flipped_bit_of_a_frame_never_changes_what_is_stored() {
    let conf = b"[fcollector]\nlisten = 127.0.0.1:0\nsave_dir = /nowhere\n";
    let conf = Arc::new(Config::parse("test", conf).store(true).unwrap().0.receiver);
    let budget = Budget::new(conf.inflight_bytes);
    let raw = lines("flip", 0, 20);
    let hour = Hour { name: "web1".into(), hour: HOUR.into(), generation: 7, raws: vec![raw.clone()] };
    let frame = hour.packs()[0].frame();
    let read = |frame: &[u8]| {
        let mut session = Session::new(&conf, &budget, "192.0.2.7".parse().unwrap(), true);
        let mut at = 0;
        while at < frame.len() {
            let (used, arrived) = session.feed(&frame[at..]).ok()?;
            if let Some(a) = arrived {
                return Some(a);
            }
            at += used;
            if used == 0 {
                return None;
            }
        }
        None
    };
    let good = read(&frame).unwrap();
    let mut taken = 0;
    for bit in 0..frame.len() * 8 {
        let mut bad = frame.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let Some(a) = read(&bad) else { continue };
        taken += 1;
        let what = |m: &logd::pack::Meta| (m.key.clone(), m.generation, m.id, m.lines);
        assert_eq!(what(&a.meta), what(&good.meta), "bit {bit}");
        assert_eq!(a.raw.unwrap().as_ref(), raw, "bit {bit}");
    }
    // Times for people, unknown keys, the totals: what is left is settled by the hour's digest.
    println!("{taken} of {} flipped frames are still a pack", frame.len() * 8);
}

#[test]
fn no_symbolic_link_is_followed_in_the_store_or_the_state() {
    let mut store = Store::new("links", &[]);
    let (first, second) = (Hour::new("web1", HOUR, 2, 5), Hour::new("web2", HOUR, 2, 5));
    let outside = store.state("../outside");
    std::fs::create_dir_all(&outside).unwrap();
    let link = |to: &std::path::Path, at: std::path::PathBuf| std::os::unix::fs::symlink(to, at).unwrap();
    // In the place of an hour's file: that hour waits, another one is stored.
    let precious = outside.join("precious");
    std::fs::write(&precious, "").unwrap();
    link(&precious, store.save(&format!("log_data/web1_{HOUR}")));
    store.peer().send_all(&first.packs());
    store.peer().send_all(&second.packs());
    store.proven(&second, 1);
    store.wait_log("a symbolic link is not accepted here");
    assert_eq!(std::fs::read(&precious).unwrap(), b"");
    store.stop();
    // In the place of a directory: it does not start.
    for at in [store.save("received"), store.save("aside"), store.state("closed")] {
        let away = outside.join("away");
        std::fs::rename(&at, &away).unwrap();
        link(&away, at.clone());
        let config = store.state("../logd.ini");
        let ran = super::support::logd(&["fcollector", config.to_str().unwrap()]);
        assert!(
            ran.code == 2 && ran.err.contains(at.to_str().unwrap()) && ran.err.contains("not followed"),
            "{ran:?}"
        );
        std::fs::remove_file(&at).unwrap();
        std::fs::rename(&away, &at).unwrap();
    }
    std::fs::remove_file(store.save(&format!("log_data/web1_{HOUR}"))).unwrap();
    store.start();
    store.proven(&first, 1);
}
