//! Keys: what is not signed with a key that opens the sender's hours is refused, through relays too, and stores nothing.
//!
//! In the original anyone with a route to the port could write any host's files.

use super::peer::{Answer, Hour, Pack, hex, lines, newlines, until, zlib};
use super::store::{Scratch, Store};
use super::support::{self, Temp, fixed_addr, logd, past_hours, tag, tail};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub const HOUR: &str = "2026112205";
pub const OWN: [u8; 32] = *b"the secret that web1 was given..";
pub const OTHER: [u8; 32] = *b"another one which belongs to db1";

pub fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A file with the keys of web1 and db1.
pub fn key_file(dir: &Scratch) -> PathBuf {
    let path = dir.path("keys");
    write(&path, &format!("# two hosts\nweb1 w1 {}\ndb1 d1 {}\n", hex(&OWN), hex(&OTHER)), 0o600);
    path
}

pub fn hour(name: &str) -> Hour {
    Hour::new(name, HOUR, 3, 20)
}

pub fn signed(hour: &Hour) -> Vec<Pack> {
    hour.packs().into_iter().map(|p| p.signed("w1", &OWN)).collect()
}

/// Everything that is wrong, each with a name.
fn wrong() -> Vec<(String, Pack)> {
    let pack = hour("web1").packs().remove(0);
    let good = pack.clone().signed("w1", &OWN);
    let mut all = vec![
        ("no key".to_owned(), pack.clone()),
        ("unknown key".to_owned(), pack.clone().signed("w9", &OWN)),
        ("wrong secret".to_owned(), pack.clone().signed("w1", &OTHER)),
        ("another host's key".to_owned(), pack.clone().signed("d1", &OTHER)),
        ("another host's stream".to_owned(), hour("db1+slow").packs().remove(0).signed("w1", &OWN)),
        ("another host's name".to_owned(), hour("db1").packs().remove(0).signed("w1", &OWN)),
        ("a longer name".to_owned(), hour("web11").packs().remove(0).signed("w1", &OWN)),
        ("half a signature".to_owned(), pack.clone().set("key", "w1")),
        ("the other half".to_owned(), pack.set("mac", &"0".repeat(64))),
        ("not hex".to_owned(), good.clone().set("mac", "x")),
        ("an added field".to_owned(), good.clone().set("state", "loss")),
    ];
    // Each signed field, changed to something that would be taken if it were signed.
    for (field, value) in [
        ("ip", "web1+other"),
        ("hour", "2026112206"),
        ("id", "2"),
        ("lines", "21"),
        ("bytes", "1"),
        ("crc32", "00000000"),
        ("sha256", &"0".repeat(64)),
        ("gen", "5"),
        ("done", "1"),
        ("repull", "1"),
    ] {
        all.push((format!("{field} changed"), good.clone().set(field, value)));
    }
    all
}

#[test]
fn of_the_matrix_only_what_is_right_is_taken() {
    let dir = Scratch::new("keys");
    let keys = key_file(&dir);
    let mut store = Store::new("matrix", &[("keys_file", keys.to_str().unwrap())]);
    for (what, pack) in wrong() {
        assert_eq!(store.peer().send(&pack), Answer::Denied, "{what}: {}", pack.json());
    }
    // An original knows only `ok`, and has no key.
    let original = Pack::original("web1", HOUR, 1, b"a line\n");
    assert_eq!(store.peer().send(&original), Answer::Closed(String::new()));
    assert!(store.names("log_data").is_empty(), "{:?}", store.names("log_data"));

    let (own, stream) = (hour("web1"), hour("web1+access"));
    for h in [&own, &stream] {
        store.peer().send_all(&signed(h));
        assert_eq!(store.proven(h, 1)["authentic"], true);
    }
    // A replay is acknowledged and changes nothing, and its lines cannot be exchanged.
    let before = std::fs::read(store.save(&format!("headers/web1_{HOUR}"))).unwrap();
    store.peer().send_all(&signed(&own));
    let mut forged = signed(&own).remove(0);
    forged.body = hour("web1+x").packs().remove(0).with_body(forged.body.clone()).body;
    let swapped = Pack::ours("web1", HOUR, 0, 1, &lines("forged", 0, 20)).body;
    assert_eq!(store.peer().send(&forged.with_body(swapped)), Answer::WrongHeader);
    assert_eq!(std::fs::read(store.save(&format!("headers/web1_{HOUR}"))).unwrap(), before);
    store.proven(&own, 1);
    let said = store.stop();
    assert!(!said.contains(&hex(&OWN)) && !said.contains(&hex(&OTHER)), "no secret in a message");
    assert!(
        said.contains("set key_file on that host") && said.contains("did not make this signature"),
        "{said}"
    );
}

/// Other lines of the same length and CRC-32: five bytes are changed by the polynomial of the CRC itself.
fn alike(raw: &[u8]) -> Vec<u8> {
    let mut other = raw.to_vec();
    for (byte, bits) in other[4..].iter_mut().zip([0x41, 0x06, 0x71, 0xdb, 0x01]) {
        *byte ^= bits;
    }
    assert_eq!(crc32fast::hash(&other), crc32fast::hash(raw));
    assert_eq!(newlines(&other), newlines(raw));
    other
}

/// The story: whoever was on the path sent lines of his own under the header that web1 had signed, and web1's own pack was
/// acknowledged and not stored.
#[test]
fn lines_that_were_not_signed_are_refused_although_their_checksum_is_right() {
    let dir = Scratch::new("forged-keys");
    let keys = key_file(&dir);
    let with_keys = [("keys_file", keys.to_str().unwrap())];
    let store = Store::new("forged", &with_keys);
    let relay = Store::relay("forged-open", store.addr(), &[]);
    let guarded = Store::relay("forged-guarded", store.addr(), &with_keys);
    for (name, door) in [("web1", &store), ("web1+open", &relay), ("web1+guarded", &guarded)] {
        let h = hour(name);
        let mut forged = signed(&h).remove(0);
        let tag = forged.body.split_off(zlib(&h.raws[0]).len());
        forged.body = [zlib(&alike(&h.raws[0])), tag].concat();
        assert_eq!(door.peer().send(&forged), Answer::WrongHeader, "{name}");
        door.peer().send_all(&signed(&h));
        assert_eq!(store.proven(&h, 1)["authentic"], true, "{name}");
    }
    // What nobody has signed, and its own digest is right: it takes nothing from what is signed.
    let open = Store::new("forged-accept", &[("keys_file", keys.to_str().unwrap()), ("keys", "accept")]);
    let h = hour("web1");
    let unsigned = Pack::ours("web1", HOUR, 0, 1, &alike(&h.raws[0]));
    for _ in 0..2 {
        assert_eq!(open.peer().send(&unsigned), Answer::Ok);
    }
    assert_eq!(open.peer().send(&signed(&h)[0]), Answer::Ok);
    open.wait_log("other bytes under this number are stored already; kept in ");
}

/// The story: a key that had been taken away was good for as long as a body may take.
#[test]
fn a_key_is_asked_for_again_when_its_pack_is_whole() {
    let dir = Scratch::new("removed-key");
    let keys = key_file(&dir);
    let store = Store::new("removed", &[("keys_file", keys.to_str().unwrap())]);
    let frame = signed(&hour("web1"))[0].frame();
    let mut peer = store.peer();
    peer.write(&frame[..frame.len() - 1]);
    write(&keys, &format!("db1 d1 {}\n", hex(&OTHER)), 0o600);
    store.wait_log("read again: 1 key");
    peer.write(&frame[frame.len() - 1..]);
    assert_eq!(peer.answer(), Answer::Denied);
    assert!(store.names("log_data").is_empty());
}

/// The story: whoever had recorded a header could set the day from which its host must sign.
#[test]
fn a_header_alone_shows_nothing() {
    let dir = Scratch::new("header-keys");
    let keys = key_file(&dir);
    let mut store = Store::new("header", &[("keys_file", keys.to_str().unwrap()), ("keys", "accept")]);
    let signs = |store: &mut Store| {
        store.stop();
        let text = std::fs::read_to_string(store.state("senders.json")).unwrap();
        store.start();
        text.contains("since")
    };
    let mut pack = signed(&hour("web1")).remove(0);
    pack.body[5] ^= 1;
    assert_eq!(store.peer().send(&pack), Answer::WrongHeader);
    assert!(!signs(&mut store));
    store.peer().send_all(&signed(&hour("web1")));
    assert!(signs(&mut store));
}

#[test]
fn through_a_relay_the_same_is_refused_and_the_same_is_taken() {
    let dir = Scratch::new("relay-keys");
    let keys = key_file(&dir);
    let with_keys = [("keys_file", keys.to_str().unwrap())];
    let store = Store::new("behind", &with_keys);
    // A relay without keys passes on what it gets; one with keys refuses by itself.
    let relay = Store::relay("open", store.addr(), &[("backoff_max", "200ms")]);
    let guarded = Store::relay("guarded", store.addr(), &with_keys);
    for (what, pack) in wrong() {
        assert_eq!(guarded.peer().send(&pack), Answer::Denied, "{what}");
    }
    let pack = hour("web1").packs().remove(0);
    for (n, pack) in [pack.clone(), pack.signed("d1", &OTHER)].iter().enumerate() {
        assert_eq!(relay.peer().send(pack), Answer::Ok, "{n}: the relay has no keys");
    }
    store.wait_log("set key_file on that host");
    store.wait_log("does not open the hours of this sender");
    assert!(store.names("log_data").is_empty());
    for (name, via) in [("web1+open", &relay), ("web1+guarded", &guarded)] {
        let h = hour(name);
        via.peer().send_all(&signed(&h));
        assert_eq!(store.proven(&h, 1)["authentic"], true, "{name}");
    }
}

#[test]
fn while_keys_are_rolled_out_unsigned_hours_are_taken_and_not_called_authentic() {
    let dir = Scratch::new("accept");
    let keys = key_file(&dir);
    let store = Store::new("accept", &[("keys_file", keys.to_str().unwrap()), ("keys", "accept")]);
    let (plain, half, whole) = (hour("web1+plain"), hour("web1+half"), hour("web1+whole"));
    store.peer().send_all(&plain.packs());
    let mut mixed = signed(&half);
    mixed[1] = half.packs().remove(1);
    store.peer().send_all(&mixed);
    store.peer().send_all(&signed(&whole));
    for (h, authentic) in [(&plain, false), (&half, false), (&whole, true)] {
        assert_eq!(store.proven(h, 1)["authentic"], authentic, "{}", h.name);
    }
    // A wrong signature is no missing one.
    let bad = hour("web1").packs().remove(0).signed("w1", &OTHER);
    assert_eq!(store.peer().send(&bad), Answer::Denied);
}

#[test]
fn a_signature_that_nobody_checked_makes_no_hour_authentic() {
    let store = Store::new("unchecked", &[]);
    let h = hour("web1");
    store.peer().send_all(&signed(&h));
    assert_eq!(store.proven(&h, 1)["authentic"], false);
    let proof = std::fs::read_to_string(store.save(&format!("headers/web1_{HOUR}"))).unwrap();
    assert!(!proof.contains("\"mac\"") && !proof.contains("\"key\""), "{proof}");
}

#[test]
fn keys_change_under_a_running_receiver() {
    let dir = Scratch::new("rotation");
    let keys = key_file(&dir);
    let store = Store::new("rotation", &[("keys_file", keys.to_str().unwrap())]);
    let new = *b"the secret that follows the old.";
    let packs = hour("web1").packs();
    let old = |n: usize| packs[n].clone().signed("w1", &OWN);
    assert_eq!(store.peer().send(&packs[0].clone().signed("w2", &new)), Answer::Denied);
    assert_eq!(store.peer().send(&old(0)), Answer::Ok);
    write(&keys, &format!("web1 w1 {}\nweb1 w2 {}\n", hex(&OWN), hex(&new)), 0o600);
    store.wait_log("read again: 2 keys");
    assert_eq!(store.peer().send(&packs[1].clone().signed("w2", &new)), Answer::Ok);
    // A mistake changes nothing, and is told.
    write(&keys, "web1 w2", 0o600);
    store.wait_log("the keys of before are used on");
    assert_eq!(store.peer().send(&old(0)), Answer::Ok);
    write(&keys, &format!("web1 w2 {}\n", hex(&new)), 0o600);
    store.wait_log("read again: 1 key\n");
    assert_eq!(store.peer().send(&old(0)), Answer::Denied);
    assert_eq!(store.peer().send(&packs[2].clone().signed("w2", &new)), Answer::Ok);
    store.proven(&hour("web1"), 1);
}

#[test]
fn who_has_shown_no_key_has_few_connections() {
    let dir = Scratch::new("unproven");
    let keys = key_file(&dir);
    let store =
        Store::new("unproven", &[("keys_file", keys.to_str().unwrap()), ("max_unproven_per_address", "3")]);
    let packs = signed(&hour("web1"));
    let mut proven: Vec<_> = (0..6)
        .map(|_| {
            let mut peer = store.peer();
            peer.deliver(&packs[0]);
            peer
        })
        .collect();
    let mut strangers: Vec<_> = (0..3).map(|_| store.peer()).collect();
    // They are in the middle of a header.
    for stranger in &mut strangers {
        stranger.write_apart(&packs[1].frame()[..9]);
    }
    // They were here first and have shown nothing: whoever comes now is heard, and they go one by one.
    for stranger in &mut strangers {
        assert_eq!(store.peer().send(&packs[1]), Answer::Ok);
        let _silent = store.peer();
        assert_eq!(stranger.answer(), Answer::Closed(String::new()));
    }
    for peer in &mut proven {
        peer.deliver(&packs[1]);
    }
}

/// Many hosts may share an address, and one of them must not lock out the others by saying nothing.
#[test]
fn who_has_shown_no_key_and_says_nothing_makes_room() {
    let dir = Scratch::new("silent");
    let keys = key_file(&dir);
    let store =
        Store::new("silent", &[("keys_file", keys.to_str().unwrap()), ("max_unproven_per_address", "3")]);
    let packs = signed(&hour("web1"));
    let mut silent: Vec<_> = (0..9).map(|_| store.peer()).collect();
    let mut honest = store.peer();
    assert_eq!(honest.send(&packs[0]), Answer::Ok);
    // The oldest have gone.
    assert_eq!(silent[0].answer(), Answer::Closed(String::new()));
    assert_eq!(honest.send(&packs[1]), Answer::Ok);
}

#[test]
fn a_follower_signs_and_what_waited_on_disk_goes_with_the_key_of_the_day() {
    let temp = Temp::new("signing");
    let save = temp.path("save");
    let [first, second] = past_hours(2).try_into().unwrap();
    let pattern = temp.path("a.<%Y%m%d%H>");
    temp.file(&format!("a.{first}"), lines("one", 0, 500));
    temp.file(&format!("a.{second}"), lines("two", 0, 500));
    let made = logd(&["key", "new", "web1", "web1", "db1"]);
    assert_eq!(made.code, 0, "{made:?}");
    let made: Vec<&str> = made.out.lines().collect();
    assert_eq!(made.len(), 3);
    let (own, all) = (temp.path("key"), temp.path("keys"));
    let (own_text, all_text) = (own.display().to_string(), all.display().to_string());
    let addr = fixed_addr();
    let to = addr.to_string();
    let keys = [("key_file", own_text.as_str()), ("quiet", "0"), ("close_wait", "0"), ("start", "oldest")];

    // The other host's key: it does not start.
    write(&own, made[2], 0o600);
    let mut follower = tail(&temp, "web1", &pattern, &to, &keys, &[]);
    assert_eq!(follower.wait(support::SOON), 2);
    assert!(follower.log().contains("does not open the hours of web1"), "{}", follower.log());

    // Nobody answers: packs wait in the retry spool, signed with the first key.
    write(&own, made[0], 0o600);
    follower.restart();
    until("a pack waits on disk", || {
        let dir = std::fs::read_dir(temp.path("web1.state/retry")).ok()?;
        dir.flatten().any(|e| e.metadata().is_ok_and(|m| m.len() > 0)).then_some(())
    });
    assert_eq!(follower.terminate(), 0);
    std::fs::remove_file(temp.path(&format!("a.{first}"))).unwrap();

    // The receiver knows only the second key.
    write(&all, &format!("{}\n{}\n", made[1], made[2]), 0o640);
    let save_text = save.display().to_string();
    let store_keys = [
        ("listen", to.as_str()),
        ("save_dir", &save_text),
        ("keys_file", &all_text),
        ("checkpoint", "200ms"),
    ];
    let store = support::Node::start(&temp, "store", "fcollector", &store_keys, &[]);
    write(&own, made[1], 0o600);
    follower.restart();
    for hour in [first, second] {
        let cert = support::certified(&save, "web1", hour);
        assert_eq!((&cert["verified"], &cert["authentic"]), (&true.into(), &true.into()), "{cert}");
    }
    assert!(tag(&save, "db1", first).is_none());
    drop(store);
}

#[test]
fn what_is_half_configured_does_not_start() {
    let temp = Temp::new("half");
    let file = temp.path("keys");
    let run = |role: &str, text: &str| {
        let config = temp.file("c.ini", text);
        let state = temp.path("state");
        let _ = std::fs::remove_dir_all(&state);
        let checked = logd(&["check", config.to_str().unwrap()]);
        let ran = logd(&[role, config.to_str().unwrap()]);
        assert_eq!((checked.code, ran.code), (2, 2), "{checked:?} {ran:?}");
        (checked.err, ran.err)
    };
    let state = temp.path("state").display().to_string();
    let receiver = |role: &str| {
        let more = if role == "collector" { "send_to = 127.0.0.1:1" } else { "save_dir = save" };
        format!(
            "[{role}]\nlisten = 127.0.0.1:0\n{more}\nstate_dir = {state}\nkeys_file = {}\n",
            file.display()
        )
    };
    let sender = format!(
        "[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = 127.0.0.1:1\nname = web1\nstate_dir = {state}\nkey_file = {}\n",
        file.display()
    );
    let good = logd(&["key", "new", "web1"]).out;
    for (what, text, mode) in [
        ("missing", None, 0),
        ("empty", Some(String::new()), 0o600),
        ("not a key", Some("web1 k1 secret\n".into()), 0o600),
        ("readable for all", Some(good.clone()), 0o644),
    ] {
        let _ = std::fs::remove_file(&file);
        if let Some(text) = text {
            write(&file, &text, mode);
        }
        for (role, config) in [
            ("fcollector", receiver("fcollector")),
            ("collector", receiver("collector")),
            ("tail", sender.clone()),
        ] {
            let (checked, ran) = run(role, &config);
            let name = file.display().to_string();
            assert!(checked.contains(&name) && ran.contains(&name), "{what}, {role}: {checked}{ran}");
        }
    }
    let wrong = logd(&["key", "new", "web_1"]);
    assert!(wrong.code == 64 && wrong.out.is_empty() && wrong.err.contains("web_1"), "{wrong:?}");
}

#[test]
fn a_new_receiver_that_anybody_may_send_to_is_a_decision() {
    let temp = Temp::new("open");
    let (state, save) = (temp.path("state"), temp.path("save"));
    let with = |more: &str| {
        let text = format!(
            "[fcollector]\nlisten = 0.0.0.0:0\nmin_free = 1M\nsave_dir = {}\nstate_dir = {}\n{more}\n",
            save.display(),
            state.display()
        );
        temp.file("c.ini", text)
    };
    let refused_with = |more: &str, why: &str| {
        let ran = logd(&["fcollector", with(more).to_str().unwrap()]);
        assert!(ran.code == 2 && ran.err.contains(why), "{ran:?}");
    };
    let refused = || refused_with("", "none of `allow`, `keys_file` and `tls_client_ca` is set");
    // A second try is no past, and neither is a start that failed for something else.
    refused();
    refused_with("keys_file = /nowhere", "keys_file: /nowhere");
    assert!(!state.exists());
    refused();
    let serves = |more: &str| {
        let running = super::store::Running::start("", &["fcollector", with(more).to_str().unwrap()]);
        until("it listens", || running.log().contains("listening on").then_some(()));
        running
    };
    // Who has been told whom to let in is not opened by a line that is missing, while it runs neither.
    let running = serves("allow = any");
    let ran = until("it hears", || {
        Some(logd(&["reload", with("").to_str().unwrap()])).filter(|ran| !ran.err.contains("earlier version"))
    });
    assert!(ran.code == 1 && ran.out.contains("write `allow = any`"), "{ran:?}");
    assert!(ran.out.contains("nothing was changed"), "{ran:?}");
    drop(running);
    refused();
    let keys = temp.file("keys", "");
    write(&keys, &logd(&["key", "new", "web1"]).out, 0o600);
    let keys = format!("keys_file = {}", keys.display());
    serves(&keys);
    refused();
    refused_with(&format!("{keys}\nkeys = accept"), "`keys = accept` lets unsigned packs in");
    // An earlier version served so: after an update it goes on, with a warning, until somebody closes it.
    let mark = state.join("role.json");
    let mut old: serde_json::Value = serde_json::from_slice(&std::fs::read(&mark).unwrap()).unwrap();
    for field in ["check", "open"] {
        assert!(old.as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    std::fs::write(&mark, logd::record::to_json(&old)).unwrap();
    for _ in 0..2 {
        assert!(serves("").log().contains("whoever reaches the port may send"));
        let told = logd(&["status", with("").to_str().unwrap()]).out;
        assert!(told.contains("only because it has served so before"), "{told}");
    }
    serves(&keys);
    refused();
}
