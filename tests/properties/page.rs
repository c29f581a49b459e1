//! The page, the metrics and the health of real roles: the numbers are those of what was sent, states follow what happens,
//! and whatever comes to the port harms nothing. How the page looks and what it does in a browser: `tests/page`.

#![allow(
    clippy::float_cmp,
    clippy::cast_sign_loss,
    reason = "counters are whole numbers, written as they are"
)]

use super::support::proxy::{Fault, Kind, Proxy, Way};
use super::support::{
    self, LATER, Lines, Node, SOON, Temp, assert_same, bin, certified, logd, past_hours, until,
};
use logd::overview::Overview;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A role with a page, which waits until it has it; and its address.
fn with_page(temp: &Temp, name: &str, role: &str, keys: &[(&str, &str)], http: &str) -> (Node, SocketAddr) {
    let mut node = Node::prepare(temp, name, role, keys, &[]);
    let text = fs::read_to_string(node.config()).unwrap();
    fs::write(node.config(), format!("{text}[http]\nlisten = 127.0.0.1:0\n{http}")).unwrap();
    node.restart();
    let line = node.says("are at http://");
    let addr = line.split_once("http://").unwrap().1.trim_end_matches('/').parse().unwrap();
    (node, addr)
}

fn store(temp: &Temp, keys: &[(&str, &str)]) -> (Node, SocketAddr) {
    let save = temp.path("save").display().to_string();
    let mut all = vec![("save_dir", save.as_str()), ("checkpoint", "200ms")];
    all.extend(keys);
    with_page(temp, "store", "fcollector", &all, "")
}

/// What is answered to these bytes: the whole of it.
fn raw(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // It may be refused before all of it was written.
    let _ = stream.write_all(request);
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}"),
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Code and body.
fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    // Other tests and looks of this one share the address: who asked too often waits.
    until(SOON, "an answer", || {
        let answer = raw(addr, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        (code != 429).then(|| (code, body.to_owned()))
    })
}

pub fn metrics(addr: SocketAddr) -> BTreeMap<String, f64> {
    let (code, text) = get(addr, "/metrics");
    assert_eq!(code, 200);
    let lines = text.lines().filter(|l| !l.starts_with('#')).map(|l| l.rsplit_once(' ').unwrap());
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

fn number(addr: SocketAddr, name: &str) -> u64 {
    let all = metrics(addr);
    *all.get(name).unwrap_or_else(|| panic!("no {name} in {all:?}")) as u64
}

fn overview(addr: SocketAddr) -> Overview {
    let (code, json) = get(addr, "/status.json");
    assert_eq!(code, 200, "{json}");
    Overview::read(json.as_bytes()).unwrap()
}

#[test]
fn the_metrics_of_follower_relay_and_store_are_what_was_really_sent() {
    let temp = Temp::new("page-metrics");
    let (mut store, store_page) = store(&temp, &[]);
    let to = store.addr().to_string();
    let (mut relay, relay_page) =
        with_page(&temp, "relay", "collector", &[("send_to", &to), ("backoff_max", "200ms")], "");
    let hours = past_hours(3);
    let (mut lines, mut bytes) = (0u64, 0u64);
    for (i, hour) in hours.iter().enumerate() {
        let text = Lines::new("web1", i as u64).block(500);
        lines += 500;
        bytes += text.len() as u64;
        temp.file(&format!("log/access.log.{hour}"), text);
    }
    let log = temp.path("log").join("access.log.<%Y%m%d%H>").display().to_string();
    let to = relay.addr().to_string();
    let keys = [
        ("log_file", log.as_str()),
        ("send_to", &to),
        ("name", "web1"),
        ("start", "oldest"),
        ("recv_buffer_size", "50"),
        ("quiet", "0"),
        ("close_wait", "0"),
        ("flush_interval", "100ms"),
    ];
    let (_tail, tail_page) = with_page(&temp, "web1", "tail", &keys, "");
    for hour in &hours {
        certified(&temp.path("save"), "web1", hour);
        let stored = temp.path("save").join(format!("log_data/web1_{hour}"));
        assert_same(&stored, &temp.path("log").join(format!("access.log.{hour}")));
    }
    // The last acknowledgement may still be on its way back.
    let (t, r) = until(SOON, "everything to be acknowledged", || {
        let (t, r) = (metrics(tail_page), metrics(relay_page));
        (t["logd_waiting_packs"] == 0.0 && r["logd_waiting_packs"] == 0.0).then_some((t, r))
    });
    let s = metrics(store_page);
    let packs = t["logd_sealed_packs_total"];
    assert!(packs >= 30.0, "{packs}");
    for (page, names) in [(&t, &["sealed", "sent"][..]), (&r, &["received"]), (&s, &["received", "stored"])] {
        for name in names {
            let of = |what: &str| page[&format!("logd_{name}_{what}_total")] as u64;
            assert_eq!((of("lines"), of("bytes")), (lines, bytes), "{name}");
            assert_eq!(of("packs"), packs as u64, "{name}");
        }
    }
    assert_eq!(r["logd_sent_packs_total"], packs);
    // Compressed once: what the relay took is what the store took.
    assert_eq!(r["logd_received_wire_bytes_total"], s["logd_received_wire_bytes_total"]);
    assert!(t["logd_sent_wire_bytes_total"] < bytes as f64 && t["logd_sent_wire_bytes_total"] > 0.0);
    assert_eq!(s["logd_certifications_total{state=\"verified\"}"], 3.0);
    assert_eq!((t["logd_unread_bytes"], s["logd_known_packs_total"]), (0.0, 0.0));
    for page in [&t, &r, &s] {
        assert!(page["logd_fsync_seconds_count"] > 0.0 && page["logd_start_time_seconds"] > 1.7e9);
        assert_eq!(page["logd_fsync_seconds_count"], page["logd_fsync_seconds_bucket{le=\"+Inf\"}"]);
    }
    assert!(s["logd_accepted_connections_total"] >= 1.0);
    let verified = "logd_hour_states{state=\"verified\"}";
    until(LATER, "the hours to be counted", || (number(store_page, verified) == 3).then_some(()));
    // A role without a page says so.
    assert_eq!((get(tail_page, "/").0, get(relay_page, "/status.json").0), (404, 404));
    for page in [tail_page, relay_page, store_page] {
        assert_eq!(get(page, "/healthz"), (200, "ok\n".into()));
    }
    // What cannot be sent is retried, and has an age.
    store.kill();
    relay.kill();
    let hour = hours[2];
    let log = temp.path("log").join(format!("access.log.{hour}"));
    fs::OpenOptions::new().append(true).open(log).unwrap().write_all(b"late\n").unwrap();
    until(LATER, "attempts to fail", || {
        let t = metrics(tail_page);
        let tried = t["logd_send_failures_total{reason=\"no connection\"}"] > 1.0;
        (tried && t["logd_waiting_packs"] > 0.0 && t["logd_lag_seconds"] > 0.0).then_some(())
    });
}

#[test]
fn a_lost_pack_is_named_on_the_page_and_gone_when_it_was_sent_again() {
    let temp = Temp::new("page-gap");
    temp.file("hosts", "web1\nsilent\n");
    let hosts = temp.path("hosts").display().to_string();
    let (mut store, page) = store(&temp, &[("hosts_file", &hosts)]);
    let first = overview(page);
    assert!(first.hours.is_empty() && first.expected == ["silent", "web1"], "{first:?}");
    assert_eq!((first.role.as_str(), first.columns.len()), ("fcollector", 72));
    let proxy = Proxy::start(store.addr());
    let hours = past_hours(3);
    let hour = hours[0].to_string();
    proxy
        .plan(("web1".into(), hour.clone(), 3), Fault { kind: Kind::Lie, way: Way::Forward, at: usize::MAX });
    for hour in &hours {
        temp.file(&format!("log/access.log.{hour}"), Lines::new("web1", 1).block(600));
    }
    let log = temp.path("log").join("access.log.<%Y%m%d%H>");
    let keys = [("recv_buffer_size", "100")];
    let args = ["--once", "--timeout", "60s"];
    let mut tail = support::tail(&temp, "web1", &log, &proxy.addr().to_string(), &keys, &args);
    assert_eq!(tail.wait(LATER), 0);
    assert!(proxy.left().is_empty());
    let of = |o: &Overview, name: &str, hour: &str| {
        o.hours.iter().find(|h| h.name == name && h.hour == hour).cloned()
    };
    let gap = until(LATER, "the gap to be seen", || {
        of(&overview(page), "web1", &hour).filter(|h| h.state == "gaps")
    });
    assert!(gap.wrong && gap.missing == [(3, 3)] && gap.lines == 200, "{gap:?}");
    assert_eq!(gap.repull, format!("logd resend --packs 3-3 /etc/logd/tail.ini {hour}"));
    let o = overview(page);
    let silent = of(&o, "silent", &hour).unwrap();
    assert!(silent.state == "no data" && silent.wrong, "{silent:?}");
    let sender = o.nodes.iter().find(|n| n.host == "web1").unwrap();
    assert!(sender.role == "sender" && sender.last_beat_ms > 0 && sender.ip == "127.0.0.1", "{sender:?}");
    assert!(o.advice["gaps"].contains("logd resend"));

    let config = tail.config().display().to_string();
    let command = gap.repull.replace("/etc/logd/tail.ini", &config);
    let ran = logd(&command.split(' ').skip(1).collect::<Vec<_>>());
    assert_eq!(ran.code, 0, "{ran:?}");
    tail.restart();
    assert_eq!(tail.wait(LATER), 0);
    certified(&temp.path("save"), "web1", &hour);
    let whole = until(LATER, "the hour to be whole", || {
        of(&overview(page), "web1", &hour).filter(|h| h.state == "verified")
    });
    assert!(
        !whole.wrong && whole.missing.is_empty() && whole.repull.is_empty() && whole.lines == 600,
        "{whole:?}"
    );
}

#[test]
fn the_health_tells_why_nothing_is_taken_and_that_it_is_over() {
    let temp = Temp::new("page-health");
    // A disk of which all must stay free.
    let (mut full, page) = store(&temp, &[("min_free", "60T")]);
    full.ready();
    let unwell =
        until(SOON, "the pause to be told", || Some(get(page, "/healthz")).filter(|(code, _)| *code == 503));
    assert!(unwell.1.starts_with("paused: disk: ") && unwell.1.contains("min_free"), "{unwell:?}");
    assert_eq!(number(page, "logd_paused"), 1);
    // Who looks at the page is told, too.
    let seen = until(LATER, "the pause on the page", || Some(overview(page)).filter(|o| o.nodes[0].paused));
    assert!(seen.unwell[0].starts_with("paused: disk: "), "{:?}", seen.unwell);
    full.kill();

    let temp = Temp::new("page-keys");
    let made = logd(&["key", "new", "web1"]);
    assert_eq!(made.code, 0, "{made:?}");
    let keys = temp.file("keys", &made.out);
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&keys, private).unwrap();
    let (_store, page) = store(&temp, &[("keys_file", &keys.display().to_string())]);
    assert_eq!(get(page, "/healthz").0, 200);
    fs::write(&keys, "this is no key\n").unwrap();
    let unwell =
        until(SOON, "the keys to be told", || Some(get(page, "/healthz")).filter(|(code, _)| *code == 503));
    assert!(unwell.1.starts_with("keys: ") && unwell.1.contains("the keys of before are used"), "{unwell:?}");
    assert!(!unwell.1.contains("this is no key"));
    fs::write(&keys, &made.out).unwrap();
    until(SOON, "it to be well again", || (get(page, "/healthz").0 == 200).then_some(()));
}

#[test]
fn only_questions_by_a_name_of_this_host_are_answered_and_nothing_can_be_written() {
    let temp = Temp::new("page-host");
    let keys = [("save_dir", &*temp.path("save").display().to_string())];
    let (_store, page) = with_page(&temp, "store", "fcollector", &keys, "hosts = logs.example\n");
    let with = |first: &str, host: &str| {
        let answer = raw(page, format!("{first} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let port = page.port();
    for host in ["localhost", "127.0.0.1", &format!("127.0.0.1:{port}"), "logs.example:443"] {
        assert_eq!(with("GET /status.json", host), 200, "{host}");
    }
    for host in ["evil.example", &format!("evil.example:{port}"), "127.0.0.2", "0"] {
        assert_eq!(with("GET /status.json", host), 421, "{host}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"] {
        assert_eq!(with(&format!("{method} /"), "localhost"), 405, "{method}");
    }
    for path in ["/../../etc/passwd", "/log_data", "/metrics/..", "/%00", "/index.html"] {
        assert_eq!(with(&format!("GET {path}"), "localhost"), 404, "{path}");
    }
    let answer = raw(page, b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: identity\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, logd::http::HTML);
    for wanted in [
        "Content-Security-Policy: default-src 'none'; script-src 'sha256-",
        "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY",
        "Cache-Control: no-store",
        "Connection: close",
        &format!("Content-Length: {}", body.len()),
    ] {
        assert!(head.contains(wanted), "{wanted}: {head}");
    }
    assert!(!head.contains("unsafe"), "{head}");
    let head_only = raw(page, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(
        head_only.ends_with("\r\n\r\n") && head_only.contains(&format!("Content-Length: {}", body.len()))
    );
}

#[test]
fn garbage_slow_clients_and_thousands_of_connections_harm_nothing() {
    let temp = Temp::new("page-siege");
    let (mut store, page) = store(&temp, &[]);
    let to = store.addr().to_string();
    overview(page);
    let threads = store.proc_status("Threads");
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut random = support::Rng::new(support::seed());
    // So many are kept open on this side that the server must let the oldest go.
    let mut open = VecDeque::new();
    for n in 0..3_000u32 {
        let mut stream = TcpStream::connect(page).unwrap();
        match n % 5 {
            // Nothing at all; a header that never ends; noise; a question that nobody takes the answer of.
            0 => {}
            1 => drop(stream.write_all(&request[..usize::try_from(random.below(40)).unwrap()])),
            2 => {
                let noise: Vec<u8> = (0..random.below(3_000)).map(|_| random.next_u64() as u8).collect();
                let _ = stream.write_all(&noise);
            }
            3 => drop(
                stream.write_all(&[b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", &[b'x'; 9_000][..]].concat()),
            ),
            _ => drop(stream.write_all(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        }
        open.push_back(stream);
        if open.len() > 200 {
            open.pop_front();
        }
    }
    // While all that is open packs are taken and questions answered.
    let hour = past_hours(1)[0];
    temp.file(&format!("log/access.log.{hour}"), Lines::new("web1", 1).block(300));
    let log = temp.path("log").join("access.log.<%Y%m%d%H>");
    let mut tail = support::tail(&temp, "web1", &log, &to, &[], &["--once", "--timeout", "60s"]);
    assert_eq!(tail.wait(LATER), 0);
    certified(&temp.path("save"), "web1", hour);
    until(SOON, "an answer among all that", || {
        let mut stream = TcpStream::connect(page).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(request).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.ends_with("\r\n\r\nok\n").then_some(())
    });
    // Those of the follower's connections may still be there.
    let now = store.proc_status("Threads");
    assert!(now <= threads + 4, "{threads} threads have become {now}");
    drop(open);
    // Whoever does not say what he wants, or not all of it, is not waited for.
    assert!(raw(page, b"GET /healthz HTTP/1.1\r\nHost: loc").starts_with("HTTP/1.1 408 "));
    assert_eq!(raw(page, b""), "");
    until(SOON, "the threads to be as before", || {
        (store.proc_status("Threads") <= threads + 1).then_some(())
    });
    let most = store.proc_status("VmHWM");
    println!("most memory: {most} kB");
    assert!(most < 64 << 10, "{most} kB");
    assert!(metrics(page)["logd_http_requests_total{code=\"4xx\"}"] > 0.0);
}

/// The story: two addresses asked for the largest answer, took none of it, and for half a minute nobody else was heard.
#[test]
fn answers_that_nobody_takes_keep_nobody_out() {
    let temp = Temp::new("page-held");
    let (mut m, page) = with_page(&temp, "monitor", "monitor", &[], "allow = 127.0.0.0/8\n");
    // More than a connection holds by itself: some megabytes.
    let note = "x".repeat(200);
    let to = m.addr();
    let hours = past_hours(70);
    for host in 0..300 {
        let cell = |at: &_| serde_json::json!({"name": format!("host{host}"), "hour": format!("{at}"), "state": "gaps", "note": note});
        let list = serde_json::Value::from(hours.iter().map(cell).collect::<Vec<_>>()).to_string();
        let told = [("req", "hours"), ("hostname", "x"), ("hours", &list)];
        let told = told.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        logd::heartbeat::done(&logd::heartbeat::ask(to, SOON, |_| told).unwrap()).unwrap();
    }
    until(LATER, "all hours on the page", || {
        let (code, body) = get(page, "/status.json");
        (code == 200 && body.len() > 4 << 20).then_some(())
    });
    let fds = format!("/proc/{}/fd", m.pid().unwrap().as_raw_nonzero());
    let open = || fs::read_dir(&fds).unwrap().count();
    let before = open();
    let mut held = Vec::new();
    for n in 0..80 {
        let mut stream = support::connect_from(2 + n % 2, page);
        let _ = stream.write_all(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n");
        held.push(stream);
    }
    for stream in &held {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let began = stream.peek(&mut [0]);
        assert!(
            !matches!(&began, Err(e) if e.kind() == ErrorKind::WouldBlock),
            "neither answered nor closed"
        );
    }
    for _ in 0..5 {
        let answer = raw(page, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer:?}");
    }
    // Whoever stands still is closed long before the time of an answer is over.
    until(Duration::from_secs(20), "those that stand still to be closed", || {
        (open() <= before + 4).then_some(())
    });
    assert_eq!(m.terminate(), 0);
}

#[test]
fn a_port_that_is_taken_keeps_no_role_from_its_work() {
    let temp = Temp::new("page-taken");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let save = temp.path("save").display().to_string();
    let mut store = Node::prepare(&temp, "store", "fcollector", &[("save_dir", &save)], &[]);
    let text = fs::read_to_string(store.config()).unwrap();
    let addr = taken.local_addr().unwrap();
    fs::write(store.config(), format!("{text}[http]\nlisten = {addr}\n")).unwrap();
    store.restart();
    store.ready();
    let told = store.says("http: listen ");
    assert!(told.contains(&addr.to_string()) && told.contains("tried again"), "{told}");
    drop(taken);
    store.says("are at http://");
    assert_eq!(get(addr, "/healthz").0, 200);
    // One that others could see is no accident.
    fs::write(store.config(), format!("{text}[http]\nlisten = :0\n")).unwrap();
    let ran = support::run(
        std::process::Command::new(bin()).arg("fcollector").arg(store.config()),
        Duration::from_mins(1),
    );
    assert!(ran.code == 2 && ran.err.contains("allow: not set"), "{ran:?}");
    assert_eq!(store.terminate(), 0);
}

#[test]
fn a_monitor_shows_the_hours_of_its_stores_as_they_do_and_who_does_not_answer() {
    let temp = Temp::new("page-monitor");
    // One that never sends, and one that is known to the store.
    let hosts = temp.file("hosts", "web1\nghost\n").display().to_string();
    let keys = [("[heart_beat] check_interval", "1s"), ("hosts_file", hosts.as_str())];
    let (mut m, page) = with_page(&temp, "monitor", "monitor", &keys, "");
    assert_eq!(get(page, "/healthz"), (200, "ok\n".to_owned()));
    assert!(get(page, "/").1.contains("<table"), "it has the page");
    let first = overview(page);
    assert_eq!((first.role.as_str(), first.nodes.len(), first.nodes[0].alive), ("monitor", 1, Some(true)));
    let to = m.addr().to_string();
    let told = [("[monitor] hb_port", "127.0.0.1:0"), ("[monitor] mon_addr", to.as_str())];
    let (mut store, store_page) = store(&temp, &told);
    let to = store.addr().to_string();
    let (mut relay, _) =
        with_page(&temp, "relay", "collector", &[&[("send_to", to.as_str())], &told[..]].concat(), "");
    // Over for so long that a silence is told.
    let hour = past_hours(2)[0].to_string();
    temp.file(&format!("log/access.log.{hour}"), Lines::new("web1", 1).block(300));
    let log = temp.path("log").join("access.log.<%Y%m%d%H>").display().to_string();
    let tail = [
        ("log_file", log.as_str()),
        ("send_to", &to),
        ("name", "web1"),
        ("start", "oldest"),
        ("recv_buffer_size", "50"),
        ("quiet", "0"),
        ("close_wait", "0"),
        ("flush_interval", "100ms"),
    ];
    let (_tail, _) = with_page(&temp, "web1", "tail", &[&tail[..], &told].concat(), "");
    certified(&temp.path("save"), "web1", &hour);
    let hours = |at: SocketAddr, name: &str| {
        let all = overview(at).hours.into_iter().filter(|h| h.name == name);
        all.map(|h| (h.hour.clone(), h)).collect::<BTreeMap<_, _>>()
    };
    // Field by field what the store's own page says.
    until(LATER, "the hour at the monitor", || {
        let here = hours(page, "web1");
        let verified = here.get(&hour).is_some_and(|h| h.state == "verified" && h.lines == 300);
        (verified && here[&hour] == hours(store_page, "web1")[&hour]).then_some(())
    });
    let silent = hours(page, "ghost");
    assert!(silent.values().all(|h| h.state == "no data" && h.wrong && !h.repull.is_empty()), "{silent:?}");
    assert!(silent.contains_key(&hour), "{silent:?}");
    // The monitor has expected it, and so it is the one to be told.
    let mut retire = std::process::Command::new(bin());
    retire.arg("retire").arg("--since").arg(&hour).arg(m.config()).args(["ghost", "scrapped"]);
    assert_eq!(support::run(&mut retire, SOON).code, 0);
    until(LATER, "the silence to end", || hours(page, "ghost").keys().all(|h| *h < hour).then_some(()));
    let node = |role: &str| overview(page).nodes.into_iter().find(|n| n.role == role);
    for role in ["fcollector", "collector", "tail"] {
        let seen = until(LATER, role, || node(role).filter(|n| n.alive == Some(true)));
        assert!(seen.lag_s.is_some() && !seen.version.is_empty() && seen.port > 0, "{seen:?}");
    }
    // A relay that is killed is down, with its time and an error; one that stops is shown as that.
    let before = number(page, "logd_outages_total");
    relay.kill();
    let down = until(LATER, "the relay to be down", || node("collector").filter(|n| n.alive == Some(false)));
    assert!(down.since_ms > 0, "{down:?}");
    let errors = overview(page).errors;
    assert!(errors.iter().any(|e| e.kind == "no heart-beat" && e.node.contains(&down.ip)), "{errors:?}");
    let all = until(SOON, "the numbers", || {
        let all = metrics(page);
        (all["logd_nodes{state=\"down\"}"] == 1.0 && all["logd_nodes{state=\"up\"}"] == 2.0).then_some(all)
    });
    assert_eq!(all["logd_outages_total"] as u64, before + 1);
    assert!(all["logd_heart_beats_total{result=\"answered\"}"] > 2.0, "{all:?}");
    assert!(all["logd_hour_states{state=\"verified\"}"] >= 1.0, "{all:?}");
    assert!(!all.contains_key("logd_spool_bytes") && all["logd_database_queue_events"] == 0.0, "{all:?}");
    assert_eq!(store.terminate(), 0);
    until(SOON, "the store to be stopped", || node("fcollector").filter(|n| n.stopped && n.alive.is_none()));
    until(SOON, "its number", || (number(page, "logd_nodes{state=\"stopped\"}") == 1).then_some(()));
    assert_eq!(number(page, "logd_outages_total"), before + 1, "a stop is no outage");
    // What it knew is there after a restart.
    let known = hours(page, "web1")[&hour].clone();
    assert_eq!(m.terminate(), 0);
    m.restart();
    let line = m.says("are at http://");
    let page: SocketAddr = line.split_once("http://").unwrap().1.trim_end_matches('/').parse().unwrap();
    assert_eq!(hours(page, "web1").get(&hour), Some(&known));
    assert_eq!(m.terminate(), 0);
}
