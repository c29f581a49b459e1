//! What an operator sees of keys: a host whose packs are denied is told at both ends, in the log and by `logd status`, and so
//! are a key file that cannot be read, hosts that do not sign yet, and which key of two is still used.
//!
//! The story: a host whose key was missing sent nothing for a day, and `logd status` said everywhere that nothing was wrong.

use super::auth::{HOUR, OTHER, OWN, hour, key_file, signed, write};
use super::peer::{Answer, hex, until};
use super::store::{Scratch, Store};
use super::support::{Temp, fixed_addr, logd, past_hours, tail};
use logd::clock::{Clock, Zone};
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

fn status(config: &Path) -> String {
    let ran = logd(&["status", config.to_str().unwrap()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    ran.out
}

fn json(config: &Path) -> Value {
    let ran = logd(&["status", "--json", config.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str::<Value>(&ran.out).unwrap()["roles"][0].clone()
}

/// Waits until the status has this; all of it.
fn told(config: &Path, what: &str) -> String {
    until(&format!("the status says {what:?}"), || Some(status(config)).filter(|text| text.contains(what)))
}

fn config(store: &Store) -> PathBuf {
    store.dir().join("logd.ini")
}

#[test]
fn a_host_whose_packs_are_denied_is_told_at_both_ends_until_they_are_taken() {
    let dir = Scratch::new("seen-denied");
    let keys = key_file(&dir);
    let store = Store::new("seen-denied-store", &[("keys_file", keys.to_str().unwrap())]);
    store.wait_log("keys: require, 2 keys of 2 hosts");
    let temp = Temp::new("seen-denied");
    let [past] = past_hours(1).try_into().unwrap();
    let pattern = temp.path("a.<%Y%m%d%H>");
    temp.file(&format!("a.{past}"), "a line\n");
    let own = temp.path("key");
    let more = format!("oldest\n[tail:access]\nlog_file = {}/b.<%Y%m%d%H>", temp.dir().display());
    temp.file(&format!("b.{past}"), "another line\n");
    let quick = [("quiet", "0"), ("close_wait", "0"), ("start", more.as_str())];
    let mut follower = tail(&temp, "web1", &pattern, &store.addr().to_string(), &quick, &[]);

    // The follower's side, each stream under its own name.
    told(follower.config(), "takes no packs of web1+access since ");
    let text = told(follower.config(), "takes no packs of web1 since ");
    assert!(text.contains("of web1+access since ") && !text.contains("nothing is wrong"), "{text}");
    assert!(text.contains("key_file") && text.contains("nothing is lost"), "{text}");
    let all = json(follower.config());
    let denied = all["queue"]["denied"].as_array().unwrap();
    assert_eq!(denied.len(), 2, "{all}");
    assert!(denied.iter().all(|d| d["packs"] == 1 && d["to"] == store.addr().to_string()), "{all}");
    for name in ["web1", "web1+access"] {
        let line = follower.says(&format!(": {name}_{past} copy "));
        assert!(line.contains(" pack 1: sending to ") && line.contains("`denied`"), "{line}");
    }
    follower.says(&format!("as web1+access to {}", store.addr()));

    // The store's side.
    let text = told(&config(&store), "denied (2 senders)");
    assert!(text.contains("web1+access from 127.0.0.1  ") && !text.contains("nothing is wrong"), "{text}");
    assert!(text.contains("the pack is not signed; set key_file on that host"), "{text}");
    let denied = json(&config(&store))["keys"]["denied"].clone();
    assert!(denied[0]["count"].as_u64() >= Some(1) && denied[0]["from"] == "127.0.0.1", "{denied}");

    // The key comes, and both are content.
    write(&own, &format!("web1 w1 {}\n", hex(&OWN)), 0o600);
    assert_eq!(follower.terminate(), 0);
    let ini = std::fs::read_to_string(follower.config()).unwrap();
    let ini = ini.replacen("[tail]\n", &format!("[tail]\nkey_file = {}\n", own.display()), 1);
    std::fs::write(follower.config(), ini).unwrap();
    follower.restart();
    follower.says("packs are signed with key w1 of web1");
    let text = told(follower.config(), "nothing is wrong");
    assert!(!text.contains("denied: "), "{text}");
    follower.says("packs of web1+access are not denied any more");
    let text = told(&config(&store), "nothing is wrong");
    assert!(text.contains("keys: require, 2 keys of 2 hosts"), "{text}");
    assert_eq!(json(&config(&store))["keys"]["denied"][0]["mended"], true);

    // Another key is taken up when the follower is asked to, and until then it is told which one signs.
    write(&own, &format!("web1 w2 {}\n", hex(&OTHER)), 0o600);
    let text = status(follower.config());
    assert!(text.contains("it signs with key w1 of web1, and key_file has key w2 of web1"), "{text}");
    let ran = logd(&["reload", follower.config().to_str().unwrap()]);
    assert!(ran.code == 0 && ran.out.contains("key w2 of web1 instead of key w1 of web1"), "{ran:?}");
    follower.says("packs are signed with key w2 of web1");
    until("nothing differs", || (!status(follower.config()).contains("it signs with")).then_some(()));
}

#[test]
fn a_relay_tells_of_what_the_next_receiver_denies_and_passes_the_rest_on() {
    let dir = Scratch::new("seen-relay");
    let keys = key_file(&dir);
    let to = fixed_addr();
    let asks = [("listen", to.to_string()), ("keys_file", keys.display().to_string())];
    let store = Store::new("seen-relay-store", &asks.each_ref().map(|(k, v)| (*k, v.as_str())));
    let relay = Store::relay("seen-relay", to, &[("held_after", "1s"), ("backoff_max", "200ms")]);
    relay.wait_log("keys: none: whoever may connect may send any host's hours");
    let (bare, good) = (hour("web1"), hour("db1"));
    relay.peer().send_all(&bare.packs());
    let signed_db: Vec<_> = good.packs().into_iter().map(|p| p.signed("d1", &OTHER)).collect();
    relay.peer().send_all(&signed_db);
    store.proven(&good, 1);
    let text = told(&config(&relay), "takes no packs of web1 since ");
    assert!(!text.contains("nothing is wrong") && !text.contains("no packs of db1"), "{text}");
    // Which of its packs is denied first is chance.
    relay.wait_log("web1_2026112205 pack ");
    // They go aside, and nothing else waits for them.
    relay.wait_log("the next receiver denies packs of web1");
    told(&config(&relay), "held: ");
    let listed = logd(&["spool", "ls", relay.state("").to_str().unwrap()]);
    assert!(listed.out.contains("web1_2026112205 pack 1") && listed.out.contains(" -  "), "{listed:?}");
    // As soon as the store takes one of them all of them go.
    drop(store);
    let open = Store::new("seen-relay-open", &[("listen", &to.to_string())]);
    open.proven(&bare, 1);
    told(&config(&relay), "nothing is wrong");
}

#[test]
fn a_key_file_that_cannot_be_read_is_told_and_told_again() {
    let dir = Scratch::new("seen-broken");
    let keys = key_file(&dir);
    let good = std::fs::read_to_string(&keys).unwrap();
    let mut store = Store::new("seen-broken-store", &[("keys_file", keys.to_str().unwrap())]);
    store.peer().send_all(&signed(&hour("web1")));
    store.proven(&hour("web1"), 1);
    told(&config(&store), "nothing is wrong");
    for times in 1..=2 {
        write(&keys, "web1 w2", 0o600);
        until("it is told", || {
            (store.log().matches("the keys of before are used on").count() == times).then_some(())
        });
        let text = status(&config(&store));
        assert!(text.contains("keys:1: a key is") && text.contains("a start would be refused"), "{text}");
        assert!(!text.contains("nothing is wrong"), "{text}");
        write(&keys, &good, 0o600);
        until("it is read again", || {
            (store.log().matches("read again: 2 keys").count() == times).then_some(())
        });
        told(&config(&store), "nothing is wrong");
    }
    store.stop();
    write(&keys, &good, 0o644);
    let text = status(&config(&store));
    assert!(text.contains("so a start is refused") && text.contains("chmod"), "{text}");

    // A receiver whose start would be refused because anybody could send.
    let temp = Temp::new("seen-open");
    let ini = |more: &str| {
        let dir = temp.dir().display();
        let text = format!(
            "[{more}]\nlisten = 0.0.0.0:0\nstate_dir = {dir}/{more}\nsend_to = a:1\nsave_dir = {dir}/s\n"
        );
        let text =
            if more == "collector" { text.replace("save_dir", ";") } else { text.replace("send_to", ";") };
        temp.file("c.ini", text)
    };
    for role in ["collector", "fcollector"] {
        let text = status(&ini(role));
        assert!(
            text.contains("none of `allow`, `keys_file` and") && !text.contains("nothing is wrong"),
            "{text}"
        );
    }
    // And a follower whose key is another host's.
    let key = temp.file("key", "");
    write(&key, &format!("db1 d1 {}\n", hex(&OTHER)), 0o600);
    let text = format!(
        "[tail]\nlog_file = {0}/a.<%Y%m%d%H>\nname = web1\nsend_to = a:1\nstate_dir = {0}/t\nkey_file = {0}/key\n",
        temp.dir().display()
    );
    temp.file("a.2026112205", "");
    let text = status(&temp.file("t.ini", text));
    assert!(
        text.contains("does not open the hours of web1") && text.contains("a start is refused"),
        "{text}"
    );
}

#[test]
fn while_keys_are_rolled_out_the_hosts_that_do_not_sign_are_named() {
    let dir = Scratch::new("seen-accept");
    let keys = key_file(&dir);
    let store = Store::new("seen-accept-store", &[("keys_file", keys.to_str().unwrap()), ("keys", "accept")]);
    store.wait_log("keys: accept (unsigned packs are taken, too), 2 keys");
    let (own, other) = (hour("web1"), hour("db1+slow"));
    store.peer().send_all(&signed(&own));
    store.peer().send_all(&other.packs());
    for h in [&own, &other] {
        store.proven(h, 1);
    }
    let text = status(&config(&store));
    assert!(text.contains("in accept: 1 of 2 hosts not signed: db1\n"), "{text}");
    let table = logd(&["status", "--all", config(&store).to_str().unwrap()]).out;
    let row = |name: &str| -> Vec<String> {
        let line = table.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("HOST")[2..4], ["STATE", "AUTHENTIC"]);
    assert_eq!((row("web1")[3].as_str(), row("db1+slow")[3].as_str()), ("yes", "no"));
    let all = json(&config(&store));
    for (name, authentic) in [("web1", true), ("db1+slow", false)] {
        let hours = all["hours"].as_array().unwrap();
        assert_eq!(hours.iter().find(|h| h["name"] == name).unwrap()["authentic"], authentic, "{all}");
    }
}

/// A host that has signed goes on to sign: from the second day on nobody writes its hours without its key, although others are
/// still taken without one.
#[test]
fn in_accept_a_host_that_has_signed_must_go_on_to() {
    let dir = Scratch::new("seen-first");
    let keys = key_file(&dir);
    let mut store =
        Store::new("seen-first-store", &[("keys_file", keys.to_str().unwrap()), ("keys", "accept")]);
    let later = |name: &str, day: &str| super::peer::Hour::new(name, &format!("{day}05"), 1, 3);
    // As late as a receiver takes it.
    let day = Zone::local().unwrap().day_at(Clock::real().now_ms() + 2 * 24 * 3_600_000).to_string();
    let day = day.as_str();
    // Nobody has signed yet.
    store.peer().send_all(&later("web1", "20261101").packs());
    store.peer().send_all(&signed(&hour("web1+b")));
    for restarted in [false, true] {
        if restarted {
            store.restart();
        }
        for (name, on, answer) in [
            ("web1", day, Answer::Denied),
            ("web1+c", day, Answer::Denied),
            // It may have been on its way when the key came.
            ("web1+c", &HOUR[..8], Answer::Ok),
            ("db1", day, Answer::Ok),
            ("web2", day, Answer::Ok),
        ] {
            let pack = later(name, on).packs().remove(0);
            // It may just be certified.
            let got =
                until("it is not busy", || Some(store.peer().send(&pack)).filter(|a| *a != Answer::Busy));
            assert_eq!(got, answer, "{name} {on}, restarted: {restarted}");
        }
        store.wait_log("has signed its packs since ");
        store.peer().deliver(&later("web1", day).packs().remove(0).signed("w1", &OWN));
    }
    // Without keys it is as any other.
    write(&keys, &format!("db1 d1 {}\n", hex(&OTHER)), 0o600);
    store.wait_log("read again: 1 key\n");
    store.peer().deliver(&later("web1+d", day).packs().remove(0));
}

#[test]
fn which_of_two_keys_is_still_used_is_seen() {
    let dir = Scratch::new("seen-two");
    let keys = key_file(&dir);
    let new = *b"the secret that follows the old.";
    write(&keys, &format!("web1 w1 {}\nweb1 w2 {}\n", hex(&OWN), hex(&new)), 0o600);
    let store = Store::new("seen-two-store", &[("keys_file", keys.to_str().unwrap())]);
    let packs = hour("web1").packs();
    store.peer().deliver(&packs[0].clone().signed("w1", &OWN));
    told(&config(&store), "web1 has 2 keys: w1 last used ");
    assert!(status(&config(&store)).contains(", w2 never used"));
    store.peer().deliver(&packs[1].clone().signed("w2", &new));
    told(&config(&store), ", w2 last used ");
    let all = json(&config(&store))["keys"]["hosts"][0].clone();
    assert!(all["host"] == "web1" && all["keys"][1]["id"] == "w2", "{all}");
    assert!(all["keys"][1]["used_ms"].as_i64() >= Some(1), "{all}");
    let table = logd(&["status", "--all", config(&store).to_str().unwrap()]).out;
    assert!(table.lines().any(|l| l.starts_with("web1") && l.contains("w2 last used")), "{table}");

    // A relay's spool tells with which key what still waits was signed.
    let relay = Store::relay("seen-two-relay", fixed_addr(), &[]);
    relay.peer().deliver(&packs[2].clone().signed("w2", &new));
    let listed = logd(&["spool", "ls", relay.state("").to_str().unwrap()]).out;
    assert!(listed.lines().any(|l| l.contains("web1_2026112205 pack 3") && l.contains(" w2 ")), "{listed}");
    let listed = logd(&["spool", "ls", "--json", relay.state("").to_str().unwrap()]).out;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap()["packs"][0]["key"], "w2");
}

/// `logd status` of somebody else's store.
#[test]
fn a_store_that_this_user_may_not_read_is_told_with_the_next_step() {
    let store = Store::new("seen-user", &[("dir_mode", "0750"), ("file_mode", "0640")]);
    store.peer().send_all(&hour("web1").packs());
    store.proven(&hour("web1"), 1);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Somewhere that everybody can reach, but for the store itself.
    let save = std::env::temp_dir().join(format!("logd-seen-user-{}", std::process::id()));
    std::fs::create_dir(&save).unwrap();
    for part in ["log_data", "headers", "received"] {
        std::fs::create_dir(save.join(part)).unwrap();
    }
    for (what, mode) in [(save.join("received"), 0o700), (save.clone(), 0o700)] {
        std::fs::set_permissions(&what, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let bin = std::env::temp_dir().join(format!("logd-seen-bin-{}", std::process::id()));
        std::fs::copy(super::store::program(), &bin).unwrap();
        let ran = std::process::Command::new(&bin).arg("status").arg(&save).uid(65534).gid(65534).output();
        std::fs::remove_file(&bin).unwrap();
        let ran = ran.unwrap();
        let err = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{err}");
        assert!(err.contains("belongs to user 0") && err.contains("run it as that user"), "{err}");
    }
    std::fs::remove_dir_all(&save).unwrap();
}
