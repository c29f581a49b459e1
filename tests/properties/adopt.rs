//! A store as it is found: begun by the original, damaged, or followed by a copy, a late line, a contradiction.
//!
//! Whatever is there, not one stored byte is changed or cut; what can be mended is mended, what cannot is set aside
//! and said; and no tag says more than the bytes do. What damage does to a proof is in `proof`.

use super::peer::{Hour, Pack, lines, until};
use super::store::{Running, Store, tree};
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const HOUR: &str = "2026112205";

/// Puts an hour into a store as the original would: packs `ids` in this order, headers without offsets.
fn by_the_original(store: &Store, hour: &Hour, ip: &str, ids: &[usize]) -> (Vec<u8>, Vec<u8>) {
    let (mut data, mut headers) = (Vec::new(), Vec::new());
    for id in ids {
        let named = Hour { name: ip.into(), ..hour.clone() };
        let hop = [("ed", "2026-11-22 08:24:19.416"), ("elapse", "7.4ms"), ("ip", ""), ("stage", "tcp recv")];
        headers.extend(named.original_packs()[id - 1].clone().hop(&hop).json().into_bytes());
        headers.push(b'\n');
        data.extend(&hour.raws[id - 1]);
    }
    put(store, hour, &data, &headers);
    (data, headers)
}

fn put(store: &Store, hour: &Hour, data: &[u8], headers: &[u8]) {
    for (dir, content) in [("log_data", data), ("headers", headers)] {
        std::fs::create_dir_all(store.save(dir)).unwrap();
        std::fs::write(store.save(dir).join(format!("{}_{}", hour.name, hour.hour)), content).unwrap();
    }
}

#[test]
fn an_hour_begun_by_the_original_is_continued_without_changing_a_byte() {
    let mut store = Store::prepare("begun", &[("checkpoint", "100ms")]);
    // The original stored packs as they came; current systems leave `ip` empty, older ones fill it in.
    let unnamed = Hour::new("10.0.0.1", HOUR, 6, 20);
    let named = Hour::new("10.0.0.2", HOUR, 6, 20);
    let begun = [
        (&unnamed, by_the_original(&store, &unnamed, "", &[2, 1, 3])),
        (&named, by_the_original(&store, &named, "10.0.0.2", &[2, 1, 3])),
    ];
    store.start();
    for round in 0..2 {
        for (hour, (data, headers)) in &begun {
            // Those it has are recognised by their number.
            store.peer().send_all(&hour.original_packs()[..3]);
            store.settle();
            assert_eq!(&store.data(&hour.name, HOUR), data, "round {round}");
            assert_eq!(&store.headers(&hour.name, HOUR), headers, "round {round}");
        }
        store.restart();
    }
    for (hour, (data, headers)) in &begun {
        let packs = hour.original_packs();
        store.peer().send_all([&packs[4], &packs[3]]);
        store.wait_headers(&hour.name, HOUR, 5);
        store.restart();
        store.peer().send_all(packs[3..].iter().chain(&packs[..2]));
        let (file, c) = store.wait_tag(&hour.name, HOUR, |_| true);
        assert_eq!(file, format!("{}_{HOUR}_120", hour.name));
        assert_eq!((&c["verified"], &c["lines"], &c["packs"]), (&false.into(), &120.into(), &6.into()));
        let rest = [&hour.raws[4][..], &hour.raws[3], &hour.raws[5]].concat();
        assert_eq!(store.data(&hour.name, HOUR), [&data[..], &rest].concat());
        let now = store.headers(&hour.name, HOUR);
        assert!(now.starts_with(headers));
        let new: Vec<Value> = now[headers.len()..]
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        let ids: Vec<_> = new.iter().map(|l| l["Route"][0]["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids, ["5", "4", "6"]);
        assert!(new.iter().all(|l| l.get("offset").is_none()), "an original reads this file too");
    }
    let (code, text) = store.verify();
    assert_eq!(code, Some(0), "{text}");
    for (hour, _) in &begun {
        assert!(text.contains(&format!("{}_{HOUR}: not verifiable", hour.name)), "{text}");
    }
}

#[test]
fn a_gap_that_the_original_left_before_its_last_pack_can_be_filled() {
    // Several senders at once: pack 4 was still on its way when the last one had arrived.
    let mut store = Store::prepare("gap", &[("checkpoint", "100ms")]);
    let hour = Hour::new("10.0.0.1", HOUR, 4, 20);
    let (data, _) = by_the_original(&store, &hour, "", &[1, 4, 2]);
    store.start();
    store.peer().deliver(&hour.original_packs()[2]);
    let (file, c) = store.wait_tag("10.0.0.1", HOUR, |_| true);
    assert_eq!((file, &c["verified"]), (format!("10.0.0.1_{HOUR}_80"), &false.into()));
    assert_eq!(store.data("10.0.0.1", HOUR), [data, hour.raws[2].clone()].concat());
    // A pack above the last one, or another last one, takes the tag away for good.
    store.peer().deliver(&Pack::original("10.0.0.1", HOUR, 5, &lines("above", 0, 3)));
    store.settle();
    assert_eq!(store.tag("10.0.0.1", HOUR), None);
    store.restart();
    store.settle();
    assert_eq!(store.tag("10.0.0.1", HOUR), None);
}

#[test]
fn a_line_that_a_killed_original_tore_costs_only_the_tag() {
    let mut store = Store::prepare("torn", &[("checkpoint", "100ms")]);
    let hour = Hour::new("10.0.0.1", HOUR, 4, 20);
    let (mut data, mut headers) = by_the_original(&store, &hour, "", &[1, 2]);
    // Pack 3 was being written: half of its line and of its bytes are there.
    let line = hour.original_packs()[2].json();
    headers.extend(&line.as_bytes()[..line.len() / 2]);
    data.extend(&hour.raws[2][..100]);
    put(&store, &hour, &data, &headers);
    store.start();
    let packs = hour.original_packs();
    for round in 1..=2 {
        store.peer().send_all(&packs);
        store.settle();
        until("the packs are in the proof", || {
            let now = store.headers("10.0.0.1", HOUR);
            now.windows(8).any(|w| w == b"\"id\":\"4\"").then_some(())
        });
        let (d, h) = (store.data("10.0.0.1", HOUR), store.headers("10.0.0.1", HOUR));
        assert!(d.starts_with(&data) && h.starts_with(&headers), "round {round}");
        assert_eq!(d.len(), data.len() + hour.raws[2].len() + hour.raws[3].len(), "each once, round {round}");
        assert_eq!(store.tag("10.0.0.1", HOUR), None);
        store.restart();
    }
}

#[test]
fn a_moved_follower_replaces_what_the_original_began() {
    // In the middle of the hour the sender's host was given our follower, which sends the hour whole, as a copy.
    let mut store = Store::prepare("moved", &[]);
    let hour = Hour::new("10.0.0.1", HOUR, 5, 20);
    let (data, headers) = by_the_original(&store, &hour, "", &[3, 1]);
    store.start();
    let copy = hour.copy(1_795_327_200);
    store.peer().send_all(&copy.packs());
    store.proven(&copy, 2);
    let aside = store.save("aside").join(format!("10.0.0.1_{HOUR}.0.replaced"));
    assert_eq!(std::fs::read(aside.join("data")).unwrap(), data);
    assert_eq!(std::fs::read(aside.join("headers")).unwrap(), headers);
    assert_eq!(store.verify().0, Some(0));
}

// ---- a follower that lost its state ----

/// The hour before the current one in UTC, as the name of a file.
fn last_hour() -> String {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 3600;
    let (days, hour) = (i64::try_from(secs / 86_400).unwrap(), secs % 86_400 / 3600);
    // Days to a date: the year is taken to begin in March.
    let z = days + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}{hour:02}")
}

fn follower(dir: &Path, store: &Store) -> PathBuf {
    let conf = dir.join("tail.ini");
    let text = format!(
        "[tail]\nlog_file = {0}/access.log.<%Y%m%d%H>\nsend_to = {1}\nname = web1\nstate_dir = {0}/tail-state\n\
         timezone = UTC\nstart = oldest\nmin_free = 1M\npack_bytes = 4k\nflush_interval = 20ms\nscan_interval = 20ms\n\
         close_wait = 1d\nquiet = 1d\nbackoff_max = 500ms\n",
        dir.display(),
        store.addr()
    );
    std::fs::write(&conf, text).unwrap();
    conf
}

#[test]
fn a_follower_without_its_state_sends_the_hour_anew() {
    let store = Store::new("anew", &[("checkpoint", "100ms")]);
    let dir = store.dir();
    let hour = last_hour();
    let source = dir.join(format!("access.log.{hour}"));
    let conf = follower(&dir, &store);
    let (first, second) = (lines("first", 0, 400), lines("second", 0, 400));
    std::fs::write(&source, &first).unwrap();
    // An hour that is over, but nobody says that it is closed: its end is awaited for a day.
    let mut daemon = Running::start("", &["tail", conf.to_str().unwrap()]);
    store.wait_data("web1", &hour, first.len());
    daemon.terminate();
    assert!(daemon.wait().success(), "{}", daemon.log());
    until("its packs are proven", || (!store.headers("web1", &hour).is_empty()).then_some(()));
    let proof = store.headers("web1", &hour);
    let line: Value = serde_json::from_slice(proof.split(|b| *b == b'\n').next().unwrap()).unwrap();
    let generation: u64 = line["Route"][0]["gen"].as_str().unwrap().parse().unwrap();

    std::fs::remove_dir_all(dir.join("tail-state")).unwrap();
    std::fs::OpenOptions::new().append(true).open(&source).unwrap().write_all(&second).unwrap();
    let mut once = Running::start("", &["tail", conf.to_str().unwrap(), "--once", "--timeout", "30s"]);
    assert!(once.wait().success(), "{}", once.log());
    let (_, c) = store.wait_tag("web1", &hour, |c| c["verified"] == true);
    assert!(c["gen"].as_u64().unwrap() > generation, "{c}");
    assert_eq!(c["revision"], 2, "{c}");
    let whole = [first.clone(), second].concat();
    assert!(store.data("web1", &hour) == whole && std::fs::read(&source).unwrap() == whole);
    let replaced = store.save("aside").join(format!("web1_{hour}.{generation}.replaced"));
    assert!(std::fs::read(replaced.join("data")).unwrap() == first);
    assert_eq!(store.verify().0, Some(0));
}

// ---- later bytes ----

#[test]
fn later_bytes_take_the_tags_away_before_they_are_acknowledged() {
    let mut store = Store::prepare("later", &[]);
    let hosts = store.dir().join("hosts");
    std::fs::write(&hosts, "web1\n").unwrap();
    store.set("hosts_file", hosts.to_str().unwrap());
    store.start();
    let short = Hour::new("web1", HOUR, 3, 20);
    store.peer().send_all(&short.packs());
    store.proven(&short, 1);
    let fleet = store.save("received").join(format!("all_{HOUR}"));
    until("the fleet's tag is there", || fleet.exists().then_some(()));

    // The pack before its end: certified as three packs, now they are five.
    let mut long = Hour::new("web1", HOUR, 5, 20);
    long.raws[..3].clone_from_slice(&short.raws);
    let packs = long.packs();
    store.peer().deliver(&packs[3]);
    assert_eq!(store.tag("web1", HOUR), None);
    assert!(!fleet.exists());
    store.kill();
    assert_eq!(store.tag("web1", HOUR), None);
    store.start();
    store.settle();
    assert_eq!(store.tag("web1", HOUR), None);
    store.peer().deliver(&packs[4]);
    store.proven(&long, 2);
    until("the fleet's tag is there", || fleet.exists().then_some(()));

    // A last pack that comes with all the rest already known, and one that comes before its neighbour.
    let mut longest = Hour::new("web1", HOUR, 8, 20);
    longest.raws[..5].clone_from_slice(&long.raws);
    let packs = longest.packs();
    store.peer().deliver(&packs[7]);
    assert_eq!(store.tag("web1", HOUR), None);
    store.peer().send_all([&packs[6], &packs[5]]);
    store.proven(&longest, 3);
    assert_eq!(store.verify().0, Some(0));
}

// ---- contradictions ----

#[test]
fn a_contradiction_is_kept_and_bars_the_tag_until_a_new_copy_ends_it() {
    let mut store = Store::new("conflict", &[]);
    let hour = Hour::new("web1", HOUR, 4, 20);
    let packs = hour.packs();
    let other = Pack::ours("web1", HOUR, 0, 2, &lines("other", 0, 20));
    let other_last = Pack::ours("web1", HOUR, 0, 4, &lines("other", 80, 20)).done();
    store.peer().send_all(&packs[..2]);
    store.peer().send_all([&other, &other, &packs[1]]);
    store.restart();
    // The same for one that waits behind a gap.
    store.peer().send_all([&packs[3], &other_last, &other, &packs[2]]);
    store.settle();
    store.restart();
    store.settle();
    assert_eq!(store.tag("web1", HOUR), None);
    assert_eq!(store.data("web1", HOUR), hour.bytes(), "the first to come is the one that is stored");
    let kept = tree(&store.save("aside/conflict/web1"));
    assert_eq!(kept.len(), 2, "{:?}", kept.keys());
    for (pack, what) in [(&other, "2"), (&other_last, "4")] {
        assert!(
            kept.values().any(|v| v.windows(pack.body.len()).any(|w| w == pack.body)),
            "the other pack {what} is kept"
        );
    }
    let copy = hour.copy(1_795_327_200);
    store.peer().send_all(&copy.packs());
    store.proven(&copy, 2);
}

#[test]
fn packs_beyond_a_gap_wait_for_it_to_be_filled() {
    let mut store = Store::new("early", &[("checkpoint", "100ms")]);
    let hour = Hour::new("web1", HOUR, 9, 20);
    let packs = hour.packs();
    store.peer().send_all([&packs[0], &packs[4], &packs[3], &packs[4], &packs[8]]);
    store.settle();
    assert_eq!(store.data("web1", HOUR), hour.raws[0], "nothing goes before its turn");
    // After some seconds they leave the spool, which must not be held up by one sender's gap.
    let shelf = store.save("aside/early/web1");
    until("they are on the shelf", || (tree(&shelf).len() >= 3).then_some(()));
    store.kill();
    store.start();
    store.peer().send_all([&packs[4], &packs[6], &packs[3], &packs[1]]);
    store.wait_data("web1", HOUR, hour.raws[..2].concat().len());
    store.peer().deliver(&packs[2]);
    store.wait_data("web1", HOUR, hour.raws[..5].concat().len());
    store.kill();
    store.start();
    store.peer().send_all([&packs[7], &packs[5]]);
    store.proven(&hour, 1);
    // Not even what the kill left half written stays: it would count against its sender for ever.
    until("the shelf is empty", || tree(&shelf).is_empty().then_some(()));
    assert!(store.stop().contains("0 wait in the spool"));
}

// ---- copies ----

#[test]
fn a_lower_copy_that_comes_after_a_certified_higher_one_is_dropped() {
    let mut store = Store::new("lower", &[]);
    let newer = Hour::new("web1", HOUR, 3, 20).copy(50);
    store.peer().send_all(&newer.packs());
    let before = store.proven(&newer, 1);
    for generation in [0, 7, 49] {
        let old = Hour { raws: vec![lines("old", 0, 10); 2], ..newer.copy(generation) };
        store.peer().send_all(&old.packs());
        store.restart();
        store.peer().send_all(&old.packs());
    }
    store.settle();
    assert_eq!(store.proven(&newer, 1), before);
    assert!(store.log().contains("older than the certified one (50)"), "{}", store.log());
    assert!(store.names("aside").iter().all(|n| !n.starts_with("web1")), "{:?}", store.names("aside"));
    assert!(store.stop().contains("0 wait in the spool"));
}

#[test]
fn a_copy_is_installed_only_whole_and_only_if_it_proves_no_less() {
    let mut store = Store::new("copies", &[("checkpoint", "100ms")]);
    let first = Hour::new("web1", HOUR, 3, 20);
    store.peer().send_all(&first.packs());
    let tag = store.proven(&first, 1);
    // Half of a copy, a copy that is not what its sender says of it, and a complete one that is known to be partial.
    let raws = |what: &str| (0..3).map(|i| lines(what, i * 20, 20)).collect();
    let second = Hour { raws: raws("second, with longer lines"), ..first.copy(10) };
    store.peer().send_all(&second.packs()[..2]);
    let lying = Hour { raws: vec![lines("lying", 0, 20)], ..first.copy(20) };
    store.peer().deliver(&lying.packs()[0].clone().set("total_lines", "21"));
    let partial = Hour { raws: vec![lines("partial", 0, 20)], ..first.copy(30) };
    store.peer().deliver(&partial.packs()[0].clone().set("state", "partial"));
    // Whole, but with fewer bytes than are certified: read when less of the file was there.
    let shorter = Hour { raws: raws("short"), ..first.copy(5) };
    store.peer().send_all(&shorter.packs());
    store.restart();
    store.settle();
    assert_eq!(store.proven(&first, 1), tag);
    // The rest of the first copy: now it is whole.
    store.peer().deliver(&second.packs()[2]);
    store.proven(&second, 2);
    let replaced = store.save("aside").join(format!("web1_{HOUR}.0.replaced/data"));
    assert_eq!(std::fs::read(replaced).unwrap(), first.bytes());
    assert_eq!(store.verify().0, Some(0));
}

#[test]
fn a_replaced_copy_with_a_gap_leaves_nothing_in_the_spool() {
    let mut store = Store::new("pinned", &[]);
    // The pack beyond the gap is still in the spool when a whole copy makes it worthless.
    let first = Hour::new("web1", HOUR, 4, 20);
    let packs = first.packs();
    store.peer().send_all([&packs[0], &packs[2]]);
    let copy = first.copy(9);
    store.peer().send_all(&copy.packs());
    store.proven(&copy, 2);
    let log = store.stop();
    assert!(log.contains("0 wait in the spool"), "{log}");
}

#[test]
fn a_copy_under_construction_survives_the_installation_of_another() {
    let store = Store::new("two-copies", &[]);
    let first = Hour::new("web1", HOUR, 3, 20);
    store.peer().send_all(&first.packs());
    store.proven(&first, 1);
    // The newest copy has a gap while an older one becomes whole and is installed.
    let (second, third) = (first.copy(10), first.copy(30));
    let packs = third.packs();
    store.peer().send_all([&packs[0], &packs[2]]);
    store.peer().send_all(&second.packs());
    store.proven(&second, 2);
    store.peer().deliver(&packs[1]);
    store.proven(&third, 3);
}
