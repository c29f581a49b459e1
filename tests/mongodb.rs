//! `mgocollector` with a real server that speaks `MongoDB`'s protocol: whoever is killed when, each line is once in the
//! database, field by field what an independent parser makes of it. `tests/all` runs it; it needs the feature `mongodb`,
//! and `PyPI` in reach once.
//!
//! Planted by hand, one at a time, for `inserted_exactly_once_under_50_kills`:
//!
//! - *`_id`s that are others each time*: noticed. The role finds more documents than it wrote, no such hour gets whole, and
//!   the test ends at its limit of time.
//! - *progress saved before the flush*: not noticed in one run of 50 kills; the moment is too short. A test for it is missing.
//! - *`j: false`*: not noticed. A process that is killed loses nothing that it has written; that takes a power cut.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test stops at the first surprise

#[path = "mongodb/hours.rs"]
mod hours;
mod support;

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::mongo::{Mongos, Server, make};
use support::peer::{Hour, Peer};
use support::{
    LATER, Node, Ran, Rng, SOON, Temp, fixed_addr, logd, past_hours, run, seed, shared, soak, tail, until,
};

/// Below `save_dir`: what is said of an hour when all of it is in the database, and lines that can be no document.
const DONE: &str = "documents_done";
const REJECT: &str = "documents_reject";
/// An hour of hand-made senders, and its day.
const HOUR: &str = "2026112205";
const DAY: &str = "20261122";
const COLLECTION: &str = "lines";

/// A collector called `name`, which is its database, too. Small bulks, so that whatever strikes falls between them.
fn role(temp: &Temp, name: &str, mongos: &str, keys: &[(&str, &str)]) -> Node {
    let (save, listen) = (temp.path(&format!("{name}.save")).display().to_string(), fixed_addr().to_string());
    let mut all = vec![
        ("save_dir", save.as_str()),
        ("listen", &listen),
        ("checkpoint", "200ms"),
        ("mongos", mongos),
        ("db", name),
        ("collection", COLLECTION),
        // The server has no second one.
        ("write_concern", "1"),
        ("bulk_size", "70"),
        ("savers", "3"),
    ];
    all.extend(keys);
    Node::prepare(temp, name, "mgocollector", &all, &[])
}

/// As [`role`], before this server, and serving.
fn serving(temp: &Temp, server: &Server, keys: &[(&str, &str)]) -> Node {
    let mut node = role(temp, "docs", &server.addr().to_string(), keys);
    node.restart();
    node.ready();
    node
}

/// What the role says of an hour (`NAME_HOUR`) that is in the database.
fn marker(temp: &Temp, role: &str, key: &str) -> Option<Value> {
    let path = temp.path(&format!("{role}.save/{DONE}/{key}"));
    Some(serde_json::from_slice(&fs::read(path).ok()?).unwrap())
}

fn wait_for(temp: &Temp, key: &str, good: impl Fn(&Value) -> bool) -> Value {
    until(SOON, &format!("{key} in the database"), || marker(temp, "docs", key).filter(&good))
}

/// `lines inserted updated skipped rejected` of a marker.
fn counts(marker: &Value) -> [u64; 5] {
    ["lines", "inserted", "updated", "skipped", "rejected"]
        .map(|k| marker[k].as_u64().unwrap_or_else(|| panic!("{k}: {marker}")))
}

/// A line in the original's layout.
fn line(host: &str, query: &str) -> String {
    format!("{host} 10.1.2.3 - - [22/Nov/2026:05:10:03 +0000] \"GET /p?{query} HTTP/1.1\" 200 5 \"-\"\n")
}

/// Lines with running numbers, each with an id of its own.
fn numbered(numbers: std::ops::Range<u64>) -> String {
    numbers
        .fold(String::new(), |all, n| all + &line("www.example.com", &format!("transaction_id=t{n}&n={n}")))
}

/// An hour of hand-made packs, `per_pack` lines in each.
fn hour(name: &str, text: &str, per_pack: usize) -> Hour {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let raws = lines.chunks(per_pack).map(|c| c.concat().into_bytes()).collect();
    Hour { name: name.into(), hour: HOUR.into(), generation: 0, raws }
}

fn send(to: &mut Node, hour: &Hour) {
    Peer::to(to.addr()).send_all(&hour.packs());
}

/// A log whose lines are compared with the documents in `db`.
fn log(temp: &Temp, name: &str, text: &str) -> Value {
    let path = temp.file(&format!("texts/{name}"), text);
    json!({"path": path, "name": name, "layout": "original", "db": format!("docs{DAY}")})
}

/// Exactly the documents of these logs are there; what was compared.
#[track_caller]
fn same(server: &Server, upsert: bool, files: &[Value], refused: &[String]) -> Value {
    let spec = json!({"upsert": upsert, "files": files, "collection": COLLECTION, "refused": refused});
    let found = server.ask("compare", &spec);
    assert!(found["missing"] == 0 && found["extra"] == 0, "{found:#}");
    found
}

fn stored(server: &Server) -> u64 {
    server.ask("count", &json!({"db": format!("docs{DAY}"), "collection": COLLECTION})).as_u64().unwrap()
}

fn status(node: &Node) -> Ran {
    logd(&["status".as_ref(), node.config().as_os_str()])
}

fn verify(node: &Node) -> Ran {
    logd(&["verify".as_ref(), "--mongodb".as_ref(), node.config().as_os_str(), HOUR.as_ref()])
}

// ---- whoever is killed when ----

/// A log on its way through a follower of its own.
struct Load {
    role: usize,
    host: String,
    file: Value,
    lines: u64,
    tail: Node,
}

const ROLES: [&str; 2] = ["made", "real"];

/// Two collectors, one for lines in the original's layout, one for a real log, each with several followers; while their
/// lines are written the server and the collectors are killed, 25 times each.
fn killed(upsert: bool) {
    let what = if upsert { "mongo-kill-upsert" } else { "mongo-kill-insert" };
    let real = shared(what).map(|d| d.join("data/apache_combined.log"));
    let temp = Temp::new(what);
    let seed = seed();
    let mut rng = Rng::new(seed);
    let mut server = Server::new(&temp);
    let mongos = server.addr().to_string();
    let yes = [("upsert", if upsert { "yes" } else { "no" })];
    let mut roles = vec![role(&temp, ROLES[0], &mongos, &yes)];
    if real.is_some() {
        // Lines without an id are stored, too.
        let keys = [("log_format", "combined"), ("filter", "none")];
        roles.push(role(&temp, ROLES[1], &mongos, &[&yes[..], &keys].concat()));
    }
    let addrs: Vec<String> = roles
        .iter_mut()
        .map(|r| {
            r.restart();
            r.ready();
            r.addr().to_string()
        })
        .collect();
    let past = past_hours(1)[0].to_string();
    let key = |l: &Load| format!("{}_{past}", l.host);
    let is_done = |l: &Load| marker(&temp, ROLES[l.role], &key(l)).is_some();
    let part = if soak() { 2_500 } else { 1_000 };
    // What is sent next: of the real log first with ids, then as it is; of what is made up as much as is needed.
    let mut parts: Vec<(usize, &str, u64)> = Vec::new();
    if real.is_some() {
        parts.extend((0..10_000 / part).flat_map(|n| [(1, "ids", n * part), (1, "plain", n * part)]));
    }
    parts.reverse();
    let (mut loads, mut made): (Vec<Load>, u64) = (Vec::new(), 0);
    let mut send_next = |loads: &mut Vec<Load>| {
        let turn = loads.len().is_multiple_of(3);
        let (role, kind, first) = parts.pop_if(|_| !turn).unwrap_or_else(|| {
            made += part;
            (0, "original", made - part)
        });
        let host = format!("{kind}{}", loads.len());
        let path = temp.file(&format!("logs/{host}/access.log.{past}"), "");
        let source = real.clone().unwrap_or_default();
        let (source, out) = (source.to_str().unwrap(), path.to_str().unwrap());
        let lines =
            make("lines", &[kind, &(seed + first).to_string(), &format!("{first}+{part}"), source, out]);
        let layout = if kind == "original" { "original" } else { "combined" };
        let db = format!("{}{}", ROLES[role], &past[..8]);
        let file =
            json!({"path": path, "name": host, "layout": layout, "db": db, "filter": kind == "original"});
        let pattern = path.with_file_name("access.log.<%Y%m%d%H>");
        let keys = [("recv_buffer_size", "130"), ("senders", "2")];
        let tail = tail(&temp, &host, &pattern, &addrs[role], &keys, &["--once", "--timeout", "300s"]);
        loads.push(Load { role, host, file, lines: lines["lines"].as_u64().unwrap(), tail });
        parts.len()
    };
    let (mut left, mut rest, mut loading) = ([25, 25], usize::MAX, 0);
    let (start, limit) = (Instant::now(), Duration::from_mins(if soak() { 40 } else { 12 }));
    while left != [0, 0] || rest > 0 {
        let open: Vec<&str> = loads.iter().filter(|l| !is_done(l)).map(|l| l.host.as_str()).collect();
        assert!(
            start.elapsed() < limit,
            "after {limit:?} {left:?} kills of server and collectors and {rest} parts of the log are still to come; \
             these are not whole in the database: {open:?}"
        );
        for _ in open.len()..3 {
            rest = send_next(&mut loads);
        }
        if left == [0, 0] {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        thread::sleep(Duration::from_millis(rng.below(500)));
        // Some of its packs are in the database, and not all.
        let begun = |l: &Load| temp.path(&format!("{}.state/documents/{}", ROLES[l.role], key(l))).exists();
        loading += usize::from(loads.iter().any(|l| begun(l) && !is_done(l)));
        let pause = Duration::from_millis(rng.below(300));
        if rng.below(left[0] + left[1]) < left[0] {
            left[0] -= 1;
            server.kill();
            thread::sleep(pause);
            server.spawn();
            // Sometimes it is not waited for.
            if rng.chance(70) {
                server.ready();
            }
        } else {
            left[1] -= 1;
            let whom = rng.below(roles.len() as u64) as usize;
            roles[whom].kill();
            thread::sleep(pause);
            roles[whom].restart();
            if rng.chance(70) {
                roles[whom].ready();
            }
        }
    }
    server.ready();
    for load in &mut loads {
        assert_eq!(load.tail.wait(LATER), 0, "{}", load.tail.log());
    }
    let mut sums = [0; 5];
    for load in &loads {
        let done = until(LATER, &format!("{} in the database", load.host), || {
            marker(&temp, ROLES[load.role], &key(load))
        });
        let [lines, inserted, updated, skipped, rejected] = counts(&done);
        assert_eq!(lines, load.lines, "{done}");
        assert_eq!(lines, inserted + updated + skipped + rejected, "{done}");
        sums = std::array::from_fn(|i| sums[i] + counts(&done)[i]);
    }
    let files: Vec<Value> = loads.iter().map(|l| l.file.clone()).collect();
    let found = same(&server, upsert, &files, &[]);
    let [lines, inserted, _, skipped, rejected] = sums;
    assert_eq!(
        (found["documents"].as_u64(), found["lines"].as_u64()),
        (Some(inserted), Some(lines)),
        "{found:#}"
    );
    assert_eq!((found["skipped"].as_u64(), found["rejected"].as_u64()), (Some(skipped), Some(rejected)));
    println!(
        "50 kills, {loading} while documents were written: {} hours, {lines} lines, {inserted} documents, each once",
        loads.len()
    );
    // Otherwise this has shown little.
    assert!(loading >= 25, "{loading}");
    for mut r in roles {
        assert_eq!(r.terminate(), 0);
    }
}

#[test]
fn inserted_exactly_once_under_50_kills() {
    killed(false);
}

#[test]
fn upserted_as_if_exactly_once_under_50_kills() {
    killed(true);
}

/// The transaction ids are few, the packs come over four connections in any order, and many savers work: what stands there
/// at last is what the last line said.
#[test]
fn with_upsert_the_last_write_is_the_last_line() {
    let temp = Temp::new("mongo-order");
    let mut rng = Rng::new(seed());
    let server = Server::new(&temp);
    let mut node = serving(&temp, &server, &[("upsert", "yes"), ("savers", "8"), ("bulk_size", "3")]);
    let mut text = String::new();
    for n in 0..600 {
        let (id, field) = (rng.below(7), rng.below(4));
        text += &line("www.example.com", &format!("transaction_id=t{id}&n={n}&f{field}={n}"));
    }
    let hour = hour("web1", &text, 10);
    let mut packs = hour.packs();
    for i in (1..packs.len()).rev() {
        packs.swap(i, rng.below(i as u64 + 1) as usize);
    }
    let to = node.addr();
    thread::scope(|s| {
        for part in packs.chunks(packs.len() / 4) {
            s.spawn(move || Peer::to(to).send_all(part));
        }
    });
    let done = wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
    assert_eq!(counts(&done), [600, 7, 593, 0, 0], "{done}");
    same(&server, true, &[log(&temp, "web1", &text)], &[]);
    // Without an index each update would read the whole collection.
    let indexes = server.ask("indexes", &json!({"db": format!("docs{DAY}"), "collection": COLLECTION}));
    assert_eq!(indexes, json!([["_id"], ["transaction_id"]]));
    assert_eq!(node.terminate(), 0);
}

// ---- names, values, fields ----

#[test]
fn names_and_values_that_a_database_cannot_hold_are_escaped_and_keys_of_the_role_hold() {
    let temp = Temp::new("mongo-names");
    let server = Server::new(&temp);
    let mut node = serving(&temp, &server, &[("prefix", "none"), ("transaction_id_key", "tid")]);
    let text = [
        line("www.example.com", "tid=1&a.b=1&$set=2&=3&a%00b=4&_id=5&%25=6&time=7&hour=8&a[]=9&a=10&a=11"),
        line("www.example.com", "x=%E4%FF&y=a+b%2B&z=%zz&tid=%C3%A9&tid=second&v"),
        line("www.example.com", "q=\\x22\\\\&tid=3;x=1"),
        line("www.example.com", "transaction_id=4"),
        line("www.example.com", "tid="),
        "www.example.com ::1 - - [29/Feb/2024:23:59:59 -0330] \"GET /?tid=5 HTTP/1.1\" 200 5\n".into(),
        "no line\n".into(),
    ];
    send(&mut node, &hour("web1", &text.concat(), 2));
    let done = wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
    assert_eq!(counts(&done), [7, 4, 0, 2, 1], "{done}");
    let mut log = log(&temp, "web1", &text.concat());
    log["prefix"] = "none".into();
    log["transaction_id_key"] = "tid".into();
    same(&server, false, &[log], &[]);
    // And as it stands in the manual, not only as the parser has it.
    let first = server
        .ask("find", &json!({"db": format!("docs{DAY}"), "collection": COLLECTION, "filter": {"tid": "1"}}));
    let mut first = first[0].clone();
    first.as_object_mut().unwrap().remove("_id");
    let want = json!({"tid": "1", "a%2Eb": "1", "%24set": "2", "a%00b": "4", "%5Fid": "5", "%25": "6", "a[]": "9",
        "a": "10", "ipinlong": 0x0A01_0203, "time": 1_795_324_203, "day": 20_261_122, "hour": 5});
    assert_eq!(first, want);
    assert_eq!(node.terminate(), 0);
}

/// Kept as they are, and no two are taken for one: they have no id that a document could be found by.
#[test]
fn with_filter_none_lines_with_an_empty_id_are_documents_of_their_own() {
    for upsert in [false, true] {
        let temp = Temp::new("mongo-empty");
        let server = Server::new(&temp);
        let keys = [("filter", "none"), ("upsert", if upsert { "yes" } else { "no" })];
        let mut node = serving(&temp, &server, &keys);
        let queries = [
            "transaction_id=&n=1",
            "transaction_id=&n=2",
            "transaction_id&n=3",
            "n=4",
            "transaction_id=t&n=5",
        ];
        let text: String = queries.iter().map(|q| line("www.example.com", q)).collect();
        send(&mut node, &hour("web1", &text, 2));
        let done = wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
        assert_eq!(counts(&done), [5, 5, 0, 0, 0], "{done}");
        let mut log = log(&temp, "web1", &text);
        log["filter"] = false.into();
        same(&server, upsert, &[log], &[]);
        let empty =
            json!({"db": format!("docs{DAY}"), "collection": COLLECTION, "filter": {"transaction_id": ""}});
        assert_eq!(server.ask("count", &empty), 3);
        assert_eq!(node.terminate(), 0);
    }
}

// ---- documents that are refused ----

#[test]
fn refused_documents_are_set_aside_with_the_reason_and_hold_up_nothing() {
    for upsert in [false, true] {
        let temp = Temp::new("mongo-reject");
        let server = Server::new(&temp);
        let place = json!({"db": format!("docs{DAY}"), "collection": COLLECTION});
        let mut rule = place.clone();
        rule["validator"] = json!({"www_refuse": {"$exists": false}});
        server.ask("validate", &rule);
        if !upsert {
            // A rule of the operator's own, which says "duplicate key" as a repeated pack does.
            let mut unique = place;
            unique["field"] = "transaction_id".into();
            server.ask("unique", &unique);
        }
        let keys = [("upsert", if upsert { "yes" } else { "no" }), ("max_reject", "20")];
        let mut node = serving(&temp, &server, &keys);
        let (mut text, mut refused) = (String::new(), Vec::new());
        for n in 0..400 {
            text += &match n {
                50 | 51 | 119 | 260 | 399 => {
                    refused.push(format!("bad{n}"));
                    line("www.example.com", &format!("transaction_id=bad{n}&refuse={n}"))
                }
                200 => {
                    refused.push("large".into());
                    let params = (0..990).fold(String::new(), |mut all, i| {
                        write!(all, "&p{i}={}", "v".repeat(17_000)).unwrap();
                        all
                    });
                    line("www.example.com", &format!("transaction_id=large{params}"))
                }
                130 => "no line of a request\n".into(),
                131 => line("www.example.com", "n=1"),
                _ => line("www.example.com", &format!("transaction_id=t{n}&n={n}")),
            };
        }
        send(&mut node, &hour("web1", &text, 100));
        let done = wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
        assert_eq!(counts(&done), [400, 392, 0, 1, 7], "upsert {upsert}: {done}");
        same(&server, upsert, &[log(&temp, "web1", &text)], &refused);
        let rejected = fs::read_to_string(temp.path(&format!("docs.save/{REJECT}/web1_{HOUR}"))).unwrap();
        let rejected: Vec<&str> = rejected.lines().collect();
        assert_eq!(rejected.len(), 7, "{}", rejected.len());
        for id in refused.iter().map(String::as_str).chain(["no line of a request"]) {
            let of_it: Vec<&&str> = rejected.iter().filter(|l| l.contains(id)).collect();
            assert_eq!(of_it.len(), 1, "{id}");
            let reason = of_it[0].split('\t').nth(1).unwrap();
            assert!(
                match id {
                    "large" => reason.contains("16 MiB"),
                    "no line of a request" => reason.contains("log_format"),
                    _ => reason.contains("validation"),
                },
                "{id}: {reason}"
            );
        }
        if !upsert {
            // The second line with an id cannot be, and is not taken for a repetition of the first.
            let twice = line("www.example.com", "transaction_id=a_id_+b");
            let text = numbered(1000..1010) + &numbered(1005..1006) + &twice + &twice;
            send(&mut node, &hour("web2", &text, 100));
            let done = wait_for(&temp, &format!("web2_{HOUR}"), |_| true);
            assert_eq!(counts(&done), [13, 11, 0, 0, 2], "{done}");
            let rejected = fs::read_to_string(temp.path(&format!("docs.save/{REJECT}/web2_{HOUR}"))).unwrap();
            assert!(
                rejected.contains("transaction_id=t1005")
                    && rejected.contains("transaction_id=a_id_+b")
                    && rejected.contains("duplicate"),
                "{rejected}"
            );
        }
        assert_eq!(verify(&node).code, 0, "{:?}", verify(&node));
        // The same hour, for somebody who thinks this too many: everything had said that all was well.
        let conf = fs::read_to_string(node.config()).unwrap();
        fs::write(node.config(), conf.replace("max_reject = 20", "max_reject = 1")).unwrap();
        for ran in [verify(&node), status(&node)] {
            assert!(
                ran.out.contains("7 of its 400 lines are no documents, the first one because: "),
                "{ran:?}"
            );
        }
        assert_eq!(verify(&node).code, 1);
        assert_eq!(node.terminate(), 0);
    }
}

/// The story: of a message that was refused because of one document each was sent alone then, and the one behind one that was
/// refused for itself counted as written without having been sent.
#[test]
fn of_a_message_that_is_refused_as_a_whole_all_others_are_written() {
    for upsert in ["no", "yes"] {
        let temp = Temp::new("mongo-message");
        let server = Server::new(&temp);
        server.ask(
            "validate",
            &json!({
                "db": format!("docs{DAY}"), "collection": COLLECTION,
                "validator": {"www_refuse": {"$exists": false}}
            }),
        );
        let mongos = Mongos::new(&server);
        let mut node = role(&temp, "docs", &mongos.addr().to_string(), &[("upsert", upsert)]);
        node.restart();
        node.ready();
        let mut text = String::new();
        for n in 0..60 {
            text += &match n {
                7 | 30 | 59 => line("www.example.com", &format!("transaction_id=m{n}&a=refuse_message")),
                8 | 20 | 31 => line("www.example.com", &format!("transaction_id=r{n}&refuse=1")),
                _ => line("www.example.com", &format!("transaction_id=t{n}")),
            };
        }
        send(&mut node, &hour("web1", &text, 60));
        let done = wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
        assert_eq!((counts(&done), stored(&server)), ([60, 54, 0, 0, 6], 54), "upsert {upsert}: {done}");
        assert!(!node.log().contains("were acknowledged"), "{}", node.log());
        assert_eq!(node.terminate(), 0);
    }
}

// ---- the database is away ----

#[test]
fn a_database_that_is_away_at_the_start_or_in_the_middle_costs_nothing() {
    let temp = Temp::new("mongo-away");
    let mut server = Server::prepare(&temp, &[]);
    let mut node = serving(&temp, &server, &[]);
    let mut logs = Vec::new();
    for (round, host) in ["web1", "web2", "web3"].into_iter().enumerate() {
        let n = round as u64 * 1_000;
        let text = numbered(n..n + 500);
        send(&mut node, &hour(host, &text, 50));
        let told = until(SOON, "the status to say so", || {
            let status = status(&node);
            status.out.contains("nothing is lost").then_some(status.out)
        });
        assert!(told.contains("database"), "{told}");
        if round == 2 {
            // The role that starts again does not wait for it either.
            node.kill();
            node.restart();
            node.ready();
        }
        assert!(marker(&temp, "docs", &format!("{host}_{HOUR}")).is_none());
        server.start();
        wait_for(&temp, &format!("{host}_{HOUR}"), |m| counts(m) == [500, 500, 0, 0, 0]);
        logs.push(log(&temp, host, &text));
        same(&server, false, &logs, &[]);
        until(SOON, "a good status", || (!status(&node).out.contains("wrong:")).then_some(()));
        // In the next round in the middle of the lines.
        if round == 0 {
            server.stop();
        } else {
            server.kill();
        }
    }
    // Not for each attempt: the same text is repeated only after a while.
    let away = node.log_of_all_starts().lines().filter(|l| l.contains("nothing is lost")).count();
    assert!((1..=8).contains(&away), "{away} messages:\n{}", node.log_of_all_starts());
    assert_eq!(node.terminate(), 0);
}

#[test]
fn of_several_mongos_one_that_answers_is_used() {
    let temp = Temp::new("mongo-mongos");
    let server = Server::new(&temp);
    let [mut a, mut b] = [Mongos::new(&server), Mongos::new(&server)];
    a.kill();
    let mut node = role(&temp, "docs", &format!("{}, {}", a.addr(), b.addr()), &[]);
    node.restart();
    node.ready();
    let mut logs = Vec::new();
    let mut one_more = |node: &mut Node, host: &str| {
        let n = logs.len() as u64 * 1_000;
        let text = numbered(n..n + 500);
        send(node, &hour(host, &text, 50));
        wait_for(&temp, &format!("{host}_{HOUR}"), |m| counts(m) == [500, 500, 0, 0, 0]);
        logs.push(log(&temp, host, &text));
        same(&server, false, &logs, &[]);
    };
    one_more(&mut node, "web1");
    a.start();
    b.kill();
    one_more(&mut node, "web2");
    // One that takes connections and answers nothing.
    b.start();
    a.freeze(true);
    one_more(&mut node, "web3");
    a.freeze(false);
    one_more(&mut node, "web4");
    assert_eq!(node.terminate(), 0);
}

#[test]
fn a_server_that_answers_nothing_holds_up_neither_the_senders_nor_the_end() {
    let temp = Temp::new("mongo-frozen");
    let server = Server::new(&temp);
    let mut node = serving(&temp, &server, &[("quit_timeout", "10s")]);
    let text = numbered(0..500);
    send(&mut node, &hour("web1", &text, 50));
    wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
    server.freeze(true);
    let more = numbered(1_000..1_500);
    send(&mut node, &hour("web2", &more, 50));
    until(SOON * 2, "the status to say so", || status(&node).out.contains("nothing is lost").then_some(()));
    assert_eq!(node.terminate(), 0);
    node.restart();
    node.ready();
    server.freeze(false);
    wait_for(&temp, &format!("web2_{HOUR}"), |m| counts(m) == [500, 500, 0, 0, 0]);
    same(&server, false, &[log(&temp, "web1", &text), log(&temp, "web2", &more)], &[]);
    assert_eq!(node.terminate(), 0);
}

#[test]
fn two_servers_for_each_write_cannot_be_had_of_one_which_is_explained_and_may_be_given_up() {
    for kind in [&["--standalone"][..], &[]] {
        let temp = Temp::new("mongo-concern");
        let mut server = Server::prepare(&temp, kind);
        server.start();
        let text = numbered(0..300);
        // As the original: two.
        let mut node = serving(&temp, &server, &[("write_concern", "2")]);
        send(&mut node, &hour("web1", &text, 50));
        let why = node.says("write_concern");
        assert!(why.contains("single server") && why.contains("write_concern_fallback = yes"), "{why}");
        until(SOON, "the status", || status(&node).out.contains("write_concern").then_some(()));
        // Whatever of it was stored, it does not count.
        assert!(marker(&temp, "docs", &format!("web1_{HOUR}")).is_none());
        assert_eq!(node.terminate(), 0);
        // The same store, with a config that permits it.
        let mut node = serving(&temp, &server, &[("write_concern", "2"), ("write_concern_fallback", "yes")]);
        node.says("one will do");
        let done = wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
        assert_eq!(counts(&done), [300, 300, 0, 0, 0], "{done}");
        same(&server, false, &[log(&temp, "web1", &text)], &[]);
        assert_eq!(node.terminate(), 0);
    }
}

/// The driver brings its own TLS, whatever the feature `tls` says.
#[test]
fn with_tls_in_its_uri_the_database_is_reached_by_whoever_knows_its_ca() {
    let temp = Temp::new("mongo-tls");
    let dir = temp.path("tls");
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|f| dir.join(f).display().to_string());
    let mut server = Server::prepare(&temp, &["--tls-cert-file", &cert, "--tls-key-file", &key]);
    let of_server = format!("subjectAltName=IP:{}\nbasicConstraints=CA:FALSE\n", server.addr().ip());
    temp.file("tls/ext", &of_server);
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout";
    for command in [
        format!("req -x509 {key} ca.key -out ca.pem -subj /CN=ca -days 9"),
        format!("req {key} key.pem -out csr -subj /CN=server"),
        "x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -extfile ext -out cert.pem"
            .into(),
    ] {
        let ran = run(Command::new("openssl").args(command.split(' ')).current_dir(&dir), SOON);
        assert_eq!(ran.code, 0, "openssl {command}: {}", ran.err);
    }
    server.start();
    let uri = format!("mongodb://{}/?directConnection=true&tls=true", server.addr());
    let mut node = serving(&temp, &server, &[("uri", &uri)]);
    let text = numbered(0..300);
    send(&mut node, &hour("web1", &text, 50));
    let why = node.says("database: ");
    assert!(why.contains("certificate") && why.contains("nothing is lost"), "{why}");
    assert_eq!(node.terminate(), 0);
    let mut node = serving(&temp, &server, &[("uri", &format!("{uri}&tlsCAFile={ca}"))]);
    let done = wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
    assert_eq!(counts(&done), [300, 300, 0, 0, 0], "{done}");
    assert_eq!(node.terminate(), 0);
    server.stop();
    // What is there, asked without.
    let mut server = Server::prepare(&temp, &[]);
    server.start();
    same(&server, false, &[log(&temp, "web1", &text)], &[]);
}
