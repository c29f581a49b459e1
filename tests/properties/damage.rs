//! Damage to a proof (a file in `headers/`): one byte changed or cut off loses nothing; more of it loses nothing
//! silently.
//!
//! A proof says which bytes of the data file belong to which pack. The original truncates what it cannot read; here
//! the stored lines stay whatever has become of the proof, and the hour is whole again by itself or by a new copy.

use super::peer::{Answer, Hour, Random, hex};
use super::store::{Store, tree};
use std::path::PathBuf;

const HOUR: &str = "2026112205";

fn proof(store: &Store, name: &str) -> PathBuf {
    store.save("headers").join(format!("{name}_{HOUR}"))
}

/// Places of a line at which a byte is changed: each kind of byte that a line is made of.
fn places(line: &str) -> Vec<(usize, &'static str)> {
    let find = |text: &str, plus: usize| line.rfind(text).unwrap() + plus;
    vec![
        (0, "its first byte"),
        (1, "a quote"),
        (find("\"id\":\"", 6), "the pack's number"),
        (find("\"sha256\":\"", 20), "the digest"),
        (find("\"PackLen\":", 10), "a digit of PackLen"),
        (find("\"offset\":", 3), "the word offset"),
        (find("\"offset\":", 9), "a digit of the offset"),
        (find("\"bytes\":", 8), "a digit of the length"),
        (find(",\"crc\":\"", 0), "the comma before the CRC"),
        (find(",\"crc\":\"", 10), "the line's CRC"),
        (line.len() - 2, "the last quote"),
        (line.len() - 1, "the last brace"),
        (line.len(), "the newline"),
    ]
}

#[test]
fn one_changed_byte_of_a_proof_loses_nothing() {
    let mut random = Random::new();
    let mut store = Store::new("flip", &[("checkpoint", "100ms")]);
    // One hour for each damage; they are all damaged at once.
    let mut cases = Vec::new();
    for line in [0, 2, 3] {
        for place in 0..13 {
            let name = format!("10.0.{line}.{place}");
            cases.push((Hour::new(&name, HOUR, 6, 20), line, place));
        }
    }
    let mut peer = store.peer();
    for (hour, ..) in &cases {
        peer.send_all(&hour.packs()[..4]);
    }
    for (hour, ..) in &cases {
        store.wait_headers(&hour.name, HOUR, 4);
    }
    store.stop();
    let mut before = Vec::new();
    for (hour, line, place) in &cases {
        let path = proof(&store, &hour.name);
        let whole = std::fs::read(&path).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        let start: usize = text.lines().take(*line).map(|l| l.len() + 1).sum();
        let (at, what) = places(text.lines().nth(*line).unwrap())[*place];
        let mut damaged = whole.clone();
        let old = damaged[start + at];
        // A bit, any other byte, or what would tear the line apart.
        damaged[start + at] = match random.below(3) {
            0 => old ^ (1 << random.below(8)),
            1 => old.wrapping_add(1 + u8::try_from(random.below(255)).unwrap()),
            _ if old != b'\n' => b'\n',
            _ => b'"',
        };
        println!("{}: line {line}, {what}: {old} -> {}", hour.name, damaged[start + at]);
        std::fs::write(&path, &damaged).unwrap();
        before.push((what, whole));
    }
    store.start();
    for ((hour, line, _), (what, whole)) in cases.iter().zip(&before) {
        // What was stored comes again, too, and is recognised.
        store.peer().send_all(&hour.packs());
        store.proven(hour, 1);
        let now = store.headers(&hour.name, HOUR);
        assert!(now.starts_with(whole), "{}: line {line}, {what}: mended to what it was", hour.name);
    }
    assert_eq!(store.names("headers").len(), cases.len());
    assert_eq!(store.verify().0, Some(0));
}

#[test]
fn a_proof_without_its_last_newline_is_whole() {
    let mut store = Store::new("newline", &[("checkpoint", "100ms")]);
    let hour = Hour::new("web1", HOUR, 4, 20);
    store.peer().send_all(&hour.packs()[..3]);
    store.wait_headers("web1", HOUR, 3);
    store.stop();
    let whole = store.headers("web1", HOUR);
    std::fs::write(proof(&store, "web1"), &whole[..whole.len() - 1]).unwrap();
    store.start();
    store.peer().send_all(&hour.packs());
    store.proven(&hour, 1);
    assert!(store.headers("web1", HOUR).starts_with(&whole));
}

#[test]
fn a_line_beyond_mending_is_made_again_from_its_neighbours() {
    let mut store = Store::new("rebuilt", &[("checkpoint", "100ms")]);
    // Names with dots: what is set aside for one host must not take the place of another's.
    let hours = [Hour::new("10.0.0.7", HOUR, 4, 20), Hour::new("10.0.0.8", HOUR, 4, 20)];
    for hour in &hours {
        store.peer().send_all(&hour.packs()[..3]);
        store.wait_headers(&hour.name, HOUR, 3);
    }
    store.stop();
    let mut lost = Vec::new();
    for hour in &hours {
        let mut text = store.headers(&hour.name, HOUR);
        let start = text.iter().position(|b| *b == b'\n').unwrap() + 1;
        let end = start + text[start..].iter().position(|b| *b == b'\n').unwrap();
        text[start + 30..start + 40].fill(b'#');
        lost.push(text[start..end].to_vec());
        std::fs::write(proof(&store, &hour.name), &text).unwrap();
    }
    store.start();
    for hour in &hours {
        store.peer().send_all(&hour.packs());
        store.proven(hour, 1);
    }
    assert_eq!(store.names("headers").len(), 2, "{:?}", store.names("headers"));
    let all = tree(&store.save(""));
    for line in lost {
        assert!(all.values().any(|v| v.starts_with(&line)), "the damaged line is kept");
    }
}

#[test]
fn a_proof_beyond_repair_cuts_nothing_and_a_new_copy_mends_the_hour() {
    let mut store = Store::new("beyond", &[("checkpoint", "100ms")]);
    let hour = Hour::new("web1", HOUR, 6, 20);
    let packs = hour.packs();
    store.peer().send_all(&packs[..4]);
    store.wait_headers("web1", HOUR, 4);
    store.stop();
    let mut text = store.headers("web1", HOUR);
    let middle = text.len() / 2;
    text[middle - 400..middle + 400].fill(b'#');
    std::fs::write(proof(&store, "web1"), &text).unwrap();
    let data = store.data("web1", HOUR);
    store.start();
    store.wait_log("web1_2026112205: damaged");
    // What comes now is kept, not stored; nothing is cut; no tag.
    store.peer().send_all(&packs[4..]);
    store.settle();
    store.restart();
    store.settle();
    assert_eq!((store.data("web1", HOUR), store.headers("web1", HOUR)), (data.clone(), text.clone()));
    assert_eq!(store.tag("web1", HOUR), None);
    let kept = tree(&store.save("aside/early/web1"));
    for pack in &packs[4..] {
        assert!(kept.values().any(|v| v.windows(pack.body.len()).any(|w| w == pack.body)));
    }
    let copy = hour.copy(1_795_327_200);
    store.peer().send_all(&copy.packs());
    store.proven(&copy, 2);
    let replaced = store.save("aside").join(format!("web1_{HOUR}.0.replaced"));
    assert_eq!(std::fs::read(replaced.join("data")).unwrap(), data);
    assert_eq!(std::fs::read(replaced.join("headers")).unwrap(), text);
    assert!(store.stop().contains("0 wait in the spool"));
}

#[test]
fn a_pack_of_a_damaged_hour_that_finds_no_room_aside_is_not_lost() {
    let mut random = Random::new();
    let mut store = Store::new("noroom", &[("checkpoint", "100ms"), ("early_per_name", "8k")]);
    let mut hour = Hour::new("web1", HOUR, 7, 20);
    for raw in &mut hour.raws[4..] {
        *raw = (hex(&random.bytes(6000)) + "\n").into_bytes();
    }
    let packs = hour.packs();
    store.peer().send_all(&packs[..4]);
    store.wait_headers("web1", HOUR, 4);
    store.stop();
    // Stored bytes are missing: what follows is the next pack all the same, and no limit of the early ones holds.
    let data = store.data("web1", HOUR);
    std::fs::write(store.save("log_data").join(format!("web1_{HOUR}")), &data[..data.len() - 1]).unwrap();
    store.start();
    store.wait_log("web1_2026112205: damaged");
    // Either it is refused for now, or it is on this disk until somebody says otherwise.
    let mut acknowledged = Vec::new();
    for pack in &packs[4..] {
        if store.peer().send(pack) == Answer::Ok {
            acknowledged.push(pack);
        }
    }
    store.settle();
    store.restart();
    store.settle();
    let all = tree(&store.dir());
    assert!(acknowledged.len() > 1);
    for pack in acknowledged {
        assert!(
            all.values().any(|v| v.windows(pack.body.len()).any(|w| w == pack.body)),
            "{} was acknowledged and is gone",
            pack.json()
        );
    }
    // When a whole copy has taken its place nothing waits any more.
    let copy = hour.copy(7);
    store.peer().send_all(&copy.packs());
    store.proven(&copy, 2);
    assert!(store.stop().contains("0 wait in the spool"));
}

#[test]
fn a_lost_end_of_a_proof_is_never_passed_over_in_silence() {
    // The last line says that the hour is over and has no bytes: data and proof agree without it.
    let mut store = Store::new("end", &[("checkpoint", "100ms")]);
    let mut hour = Hour::new("web1", HOUR, 4, 20);
    hour.raws[3].clear();
    store.peer().send_all(&hour.packs());
    store.proven(&hour, 1);
    store.stop();
    let whole = store.headers("web1", HOUR);
    // `closed/` is only a short cut and can be deleted; the tag goes with it, so that the proof must be read.
    for gone in [store.state("closed"), store.save("received")] {
        std::fs::remove_dir_all(gone).unwrap();
    }
    store.start();
    store.proven(&hour, 1);
    store.stop();
    for gone in [store.state("closed"), store.save("received")] {
        std::fs::remove_dir_all(gone).unwrap();
    }
    std::fs::write(proof(&store, "web1"), &whole[..whole.len() - 60]).unwrap();
    store.start();
    store.settle();
    assert_eq!(store.tag("web1", HOUR), None);
    assert!(store.log().contains("web1_2026112205: damaged"), "{}", store.log());
    let copy = hour.copy(7);
    store.peer().send_all(&copy.packs());
    store.proven(&copy, 2);
}
