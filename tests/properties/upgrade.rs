//! Goal: what this version finds on disk was written by an older one. `vectors/v1` is three hosts, a relay and a store in
//! the middle of their work, as the first format leaves them: the hour of web1 is certified, the packs of web2 lie in the
//! relay's spool, and those of web3 only its journal knows. The present program must bring all of it to its end as if
//! nothing had happened. And a format that is not known is refused, with nothing touched.
//!
//! The vectors are never written anew for a version that reads them: a new format gets a directory of its own beside them.

use crate::support::{LATER, Node, SOON, Temp, fixed_addr, logd, store::tree, until};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const HOSTS: [&str; 3] = ["web1", "web2", "web3"];
/// A day, as what is between it and now would be declared empty hour by hour.
const HOUR: &str = "20260101";

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/v1")
}

/// The lines of a host's hour.
fn content(host: &str) -> String {
    (1..=40).fold(String::new(), |mut all, n| {
        writeln!(all, "{HOUR} line {n} of {host}, which is being upgraded").unwrap();
        all
    })
}

/// A role in `temp` that is not started yet: paths are relative to that, as in the vectors.
fn node(temp: &Temp, name: &str, role: &str, own: &[(&str, &str)]) -> Node {
    let state = format!("{name}.state");
    let mut keys = vec![("state_dir", state.as_str())];
    keys.extend(own);
    let mut node = Node::prepare(temp, name, role, &keys, &[]);
    let here = format!("cd '{}' && exec \"$@\"", temp.dir().display());
    node.run_under(&["sh", "-c", &here, "sh"].map(str::to_owned));
    node
}

fn store(temp: &Temp, listen: &str) -> Node {
    node(temp, "store", "fcollector", &[("save_dir", "save"), ("listen", listen), ("segment_size", "1M")])
}

fn relay(temp: &Temp, listen: &str, to: &str) -> Node {
    let keys = [("send_to", to), ("listen", listen), ("backoff_max", "200ms"), ("segment_size", "1M")];
    node(temp, "relay", "collector", &keys)
}

fn host(temp: &Temp, name: &str, to: &str) -> Node {
    let log_file = format!("{name}.access.<%Y%m%d>");
    let keys = [
        ("log_file", log_file.as_str()),
        ("send_to", to),
        ("name", name),
        ("timezone", "UTC"),
        ("start", HOUR),
        ("journal_days", "1"),
        ("quiet", "0"),
        ("close_wait", "0"),
        ("recv_buffer_size", "10"),
        ("backoff_max", "200ms"),
    ];
    node(temp, name, "tail", &keys)
}

fn tag(temp: &Temp, host: &str) -> Option<Value> {
    let text = fs::read(temp.path(&format!("save/received/{host}_{HOUR}_40"))).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

/// The files below `from` whose names `wanted` likes.
fn copy(from: &Path, to: &Path, wanted: impl Fn(&Path) -> bool) {
    for (path, content) in tree(from) {
        let name = path.strip_prefix(from).unwrap();
        if wanted(name) {
            let to = to.join(name);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, content).unwrap();
        }
    }
}

#[test]
fn what_the_first_format_left_is_finished() {
    let temp = Temp::new("upgrade");
    copy(&vectors(), temp.dir(), |_| true);
    assert_eq!(HOSTS.map(|h| tag(&temp, h).is_some()), [true, false, false]);
    let (at_store, at_relay) = (fixed_addr().to_string(), fixed_addr().to_string());
    let mut nodes = vec![store(&temp, &at_store), relay(&temp, &at_relay, &at_store)];
    nodes.extend(HOSTS.map(|h| host(&temp, h, &at_relay)));
    for node in &mut nodes {
        node.restart();
        node.ready();
    }
    for host in HOSTS {
        let tag = until(LATER, &format!("the tag of {host}"), || tag(&temp, host));
        assert_eq!(tag["verified"], true, "{tag}");
        // It was continued: what the follower began anew would be a later copy.
        let began = fs::read(vectors().join(format!("{host}.state/follower.json"))).unwrap();
        let began: Value = serde_json::from_slice(&began).unwrap();
        assert_eq!(tag["gen"], began["copies_generation"], "{tag}");
        assert_eq!(
            fs::read_to_string(temp.path(&format!("save/log_data/{host}_{HOUR}"))).unwrap(),
            content(host)
        );
    }
    for node in nodes.iter_mut().rev() {
        assert_eq!(node.terminate(), 0);
        let log = node.log();
        assert!(!["damaged", "quarantine"].iter().any(|w| log.contains(w)), "{log}");
    }
    let ran = logd(&["verify", temp.path("save").to_str().unwrap()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
}

#[test]
fn a_format_that_is_not_known_is_refused_and_nothing_touched() {
    // The mark of a state directory tells the format of all that is in it.
    for name in ["store", "relay", "web1"] {
        let temp = Temp::new("upgrade-unknown");
        copy(&vectors(), temp.dir(), |_| true);
        let path = temp.path(&format!("{name}.state/role.json"));
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        value.as_object_mut().unwrap().remove("check");
        value["format"] = 9.into();
        fs::write(&path, logd::record::to_json(&value)).unwrap();
        let addr = fixed_addr().to_string();
        let mut node = match name {
            "store" => store(&temp, "127.0.0.1:0"),
            "relay" => relay(&temp, "127.0.0.1:0", &addr),
            _ => host(&temp, name, &addr),
        };
        let before = tree(temp.dir());
        node.restart();
        assert_eq!(node.wait(SOON), 2, "{name}: {}", node.log());
        let log = node.log();
        assert!(
            log.contains("format 9 is not known to this version; start the version that wrote it"),
            "{log}"
        );
        assert!(log.contains(&format!("{name}.state")), "{log}");
        // But for what the role says, which the test keeps there.
        for (path, content) in before.into_iter().filter(|(p, _)| p.extension().is_none_or(|e| e != "log")) {
            assert!(fs::read(&path).is_ok_and(|now| now == content), "{} was changed", path.display());
        }
    }
}

/// Writes the vectors. It is run by hand, once for a format.
#[test]
#[ignore = "writes the vectors of a new format"]
fn write_the_vectors() {
    let temp = Temp::new("upgrade-write");
    let (at_store, at_relay) = (fixed_addr().to_string(), fixed_addr().to_string());
    let (mut store, mut relay) = (store(&temp, &at_store), relay(&temp, &at_relay, &at_store));
    let mut hosts = HOSTS.map(|h| {
        temp.file(&format!("{h}.access.{HOUR}"), content(h));
        host(&temp, h, &at_relay)
    });
    store.restart();
    relay.restart();
    relay.ready();
    hosts[0].restart();
    until(SOON, "the first host's hour", || tag(&temp, HOSTS[0]));
    // Killed, so that its spool holds what its hour files have, too.
    store.kill();
    hosts[1].restart();
    until(SOON, "the relay to have the second host's", || {
        let ran = logd(&["spool", "ls", temp.path("relay.state").to_str().unwrap()]);
        (ran.out.matches(HOSTS[1]).count() >= 5).then_some(())
    });
    relay.kill();
    hosts[2].restart();
    until(SOON, "the journal to have the third host's", || {
        let log = fs::read(temp.path("web3.state/journal/log")).ok()?;
        (String::from_utf8_lossy(&log).matches("\"t\":\"cut\"").count() >= 4).then_some(())
    });
    drop(hosts);
    copy(temp.dir(), &vectors(), |name| {
        name.components().count() > 1 || name.to_str().unwrap().contains(".access.")
    });
}
