//! The monitor, and what every role tells it: frames of the original, outages told once, messages that come through a
//! restart, garbage that harms nothing, and a thousand nodes that cost no thread.

use super::peer::{Hour, Peer, Random};
use super::support::{self, Node, SOON, Temp, until};
use logd::heartbeat::{self, Frames, Message};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// The captures of the original, so that they are at hand where its files are not.
const REGISTER: &[u8] =
    b"F\0\0\0{\"hostname\":\"vm\",\"ip\":\"\",\"port\":\"4000\",\"req\":\"register\",\"role\":\"tail\"}";
const UNREGISTER: &[u8] =
    b"H\0\0\0{\"hostname\":\"vm\",\"ip\":\"\",\"port\":\"4000\",\"req\":\"unregister\",\"role\":\"tail\"}";
const ERROR_LOG: &[u8] = b"\xb1\x01\0\0{\"ip\":\"\",\"msg\":\"get connection from 127.0.0.1:1399 failed! Error:dial tcp \
    127.0.0.1:1399: connect: connection refused\",\"port\":\"4000\",\"time\":\"2026/11/22 08:23:58\",\"type\":\"ERROR\"}";

fn monitor(temp: &Temp, keys: &[(&str, &str)]) -> Node {
    let mut all = vec![("[heart_beat] check_interval", "1s")];
    all.extend(keys);
    Node::start(temp, "monitor", "monitor", &all, &[])
}

/// A store that registers with `monitor`, and answers on `port`.
fn store(temp: &Temp, monitor: SocketAddr, hb: &str) -> Node {
    // A name with two addresses, on many systems; the monitor has the second.
    let monitor = monitor.to_string().replace("127.0.0.1:", "localhost:");
    let save = temp.path("save").display().to_string();
    let keys = [
        ("save_dir", save.as_str()),
        ("[monitor] hb_port", hb),
        ("[monitor] mon_addr", &monitor),
        ("[logAgent] tcp_addr", &monitor),
        ("[logAgent] tcp_level", "warning"),
    ];
    Node::start(temp, "store", "fcollector", &keys, &[])
}

fn events(temp: &Temp) -> Vec<Value> {
    let dir = temp.path("monitor.state/events");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).map_or(Vec::new(), |d| d.map(|e| e.unwrap().path()).collect());
    files.retain(|f| f.is_file() && f.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let text: String = files.iter().map(|f| std::fs::read_to_string(f).unwrap()).collect();
    // The last line may be being written.
    text.split_inclusive('\n').filter_map(|l| serde_json::from_str(l).ok()).collect()
}

fn kinds(temp: &Temp) -> Vec<String> {
    let told = |e: &Value| e["kind"].as_str().unwrap().to_owned();
    events(temp).iter().filter(|e| e["what"] == "error").map(told).collect()
}

fn nodes(temp: &Temp) -> Vec<Value> {
    let text = std::fs::read(temp.path("monitor.state/nodes.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).map_or(Vec::new(), |v| v["nodes"].as_array().unwrap().clone())
}

fn answer(stream: &mut TcpStream) -> Message {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut frames = Frames::default();
    loop {
        if let Some(json) = frames.take().unwrap() {
            return heartbeat::parse(&json).unwrap();
        }
        let mut buf = [0; 512];
        let n = stream.read(&mut buf).unwrap();
        assert!(n > 0, "closed without an answer");
        frames.feed(&buf[..n]);
    }
}

fn ask(to: SocketAddr, frame: &[u8]) -> Message {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(frame).unwrap();
    answer(&mut stream)
}

/// A port that answers heart-beats as long as it is let.
struct Beats {
    port: u16,
    on: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Beats {
    fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let beats = Self {
            port: listener.local_addr().unwrap().port(),
            on: Arc::new(AtomicBool::new(true)),
            count: Arc::default(),
        };
        let (on, count) = (Arc::clone(&beats.on), Arc::clone(&beats.count));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                if on.load(Ordering::SeqCst) {
                    let _ = { stream }.write_all(b"!");
                }
            }
        });
        beats
    }
}

#[test]
fn the_captures_of_the_original_are_answered_as_it_answers() {
    if let Some(dir) = support::shared("the_captures_of_the_original_are_answered_as_it_answers") {
        for (file, bytes) in
            [("register-1.bin", REGISTER), ("unregister-1.bin", UNREGISTER), ("errorlog-1.bin", ERROR_LOG)]
        {
            assert_eq!(std::fs::read(dir.join("wire").join(file)).unwrap(), bytes, "{file}");
        }
    }
    let temp = Temp::new("captures");
    // Nobody is there who could be asked for a heart-beat.
    let mut m = monitor(&temp, &[("[heart_beat] check_interval", "1h")]);
    let to = m.addr();
    let success: Message = [("err", "0"), ("msg", "success")].map(|(k, v)| (k.into(), v.into())).into();
    // Byte by byte, as a slow network would.
    let mut slow = TcpStream::connect(to).unwrap();
    slow.set_nodelay(true).unwrap();
    for byte in REGISTER {
        slow.write_all(&[*byte]).unwrap();
    }
    assert_eq!(answer(&mut slow), success);
    let told = nodes(&temp);
    assert_eq!((told.len(), &told[0]["ip"], &told[0]["port"]), (1, &"127.0.0.1".into(), &4000.into()));
    assert_eq!((&told[0]["role"], &told[0]["hostname"]), (&"tail".into(), &"vm".into()));
    // A role of the original keeps one connection for its messages, and gets no answer to any.
    slow.write_all(&[ERROR_LOG, ERROR_LOG].concat()).unwrap();
    // The first round may have found nobody there before it was told so.
    let messages = || events(&temp).into_iter().filter(|e| e["kind"] == "ERROR").collect::<Vec<_>>();
    let told = &until(SOON, "both messages", || Some(messages()).filter(|m| m.len() == 2))[1];
    assert_eq!((&told["time"], &told["role"]), (&"2026-11-22 08:23:58".into(), &"tail".into()));
    assert_eq!(ask(to, UNREGISTER), success);
    assert_eq!(nodes(&temp)[0]["stopped"], true);
    let dance = heartbeat::frame(&[("req".to_owned(), "dance".to_owned())].into());
    assert_eq!(ask(to, &dance)["err"], "-1");
    assert_eq!(m.terminate(), 0);
}

#[test]
fn a_role_starts_without_its_monitor_registers_when_it_comes_and_takes_its_leave() {
    let temp = Temp::new("register");
    let at = support::fixed_addr();
    let mut store = store(&temp, at, "127.0.0.1:0");
    let port = store.says("heart-beats are answered on ").rsplit_once(':').unwrap().1.to_owned();
    let beat = |port: &str| {
        let mut all = Vec::new();
        let stream = TcpStream::connect(format!("127.0.0.1:{port}"));
        stream.unwrap().read_to_end(&mut all).unwrap();
        all
    };
    assert_eq!((beat(&port), beat(&port)), (b"!".to_vec(), b"!".to_vec()));
    store.says("tries to register again and again");
    // An original, which refuses at first.
    let listener = TcpListener::bind(at).unwrap();
    let (tx, asked) = mpsc::channel();
    thread::spawn(move || {
        let mut refused = false;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let m = answer(&mut stream);
            let hours = m.get("req").is_some_and(|req| req == "hours");
            let err = match hours {
                true => "-1",
                false if std::mem::replace(&mut refused, true) => "0",
                false => "1",
            };
            let said: Message = [("err", err), ("msg", "x")].map(|(k, v)| (k.into(), v.into())).into();
            // Messages are on connections of their own.
            if m.contains_key("req") {
                stream.write_all(&heartbeat::frame(&said)).unwrap();
                if !hours {
                    tx.send(m).unwrap();
                }
            }
        }
    });
    let next = || asked.recv_timeout(SOON).unwrap();
    for _ in 0..2 {
        let m = next();
        let told = ["req", "ip", "port", "role"].map(|k| m[k].as_str());
        assert_eq!(told, ["register", "127.0.0.1", port.as_str(), "fcollector"]);
        assert!(!m["hostname"].is_empty());
    }
    store.says("registered");
    assert_eq!(store.terminate(), 0);
    let m = next();
    assert_eq!(["req", "ip", "port"].map(|k| m[k].as_str()), ["unregister", "127.0.0.1", port.as_str()]);
}

#[test]
fn a_node_that_dies_is_told_once_and_its_return_once() {
    let temp = Temp::new("outage");
    let told = temp.path("alarms");
    let script = temp.file("alarm", format!("#!/bin/sh\necho \"$1\" >> {}\n", told.display()));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let alarm = format!("{} %s", script.display());
    let mut m = monitor(&temp, &[("alarm_command", &alarm)]);
    let hb = support::fixed_addr().to_string();
    let mut node = store(&temp, m.addr(), &hb);
    let alive = |is: bool| until(SOON, "the state", || (nodes(&temp).first()?["alive"] == is).then_some(()));
    alive(true);
    node.kill();
    alive(false);
    // Some rounds more, and a restart of the monitor between them, tell nothing new.
    let rounds = Beats::start();
    let more = |rounds: &Beats, n: usize| {
        let before = rounds.count.load(Ordering::SeqCst);
        until(SOON, "more rounds", || (rounds.count.load(Ordering::SeqCst) >= before + n).then_some(()));
    };
    let me = |port: u16| heartbeat::Me {
        role: "tail".into(),
        hostname: "x".into(),
        version: String::new(),
        port,
        ip: None,
    };
    ask(m.addr(), &heartbeat::frame(&me(rounds.port).request("register", None)));
    more(&rounds, 3);
    assert_eq!(m.terminate(), 0);
    m.restart();
    m.ready();
    more(&rounds, 3);
    assert_eq!(kinds(&temp).iter().filter(|k| *k == "no heart-beat").count(), 1);
    // The monitor has another port now; where this one registers does not matter, it is known.
    node.restart();
    node.ready();
    alive(true);
    until(SOON, "the return", || kinds(&temp).contains(&"heart-beat again".to_owned()).then_some(()));
    more(&rounds, 2);
    let all: Vec<String> = kinds(&temp).into_iter().filter(|k| k.contains("heart-beat")).collect();
    assert_eq!(all, ["no heart-beat", "heart-beat again"]);
    let alarms = || std::fs::read_to_string(&told).unwrap_or_default();
    until(SOON, "the alarms", || (alarms().lines().count() >= 2).then_some(()));
    let alarms = alarms();
    let lines: Vec<&str> = alarms.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].contains("does not answer") && lines[1].contains("answers again"),
        "{alarms}"
    );
    assert!(lines[0].starts_with("logd monitor on ") && lines[0].contains(&hb), "{alarms}");
    // `status` reads the same.
    let status = support::logd(&["status".as_ref(), m.config().as_os_str()]);
    assert!(status.out.contains("2 nodes: 2 alive"), "{}", status.out);
}

#[test]
fn messages_come_through_a_restart_of_the_monitor() {
    let temp = Temp::new("messages");
    let at = support::fixed_addr().to_string();
    let mut m = monitor(&temp, &[("recv_port", &at)]);
    let mut node = store(&temp, m.addr(), "127.0.0.1:0");
    node.says("registered");
    // Something to complain of, different each time.
    let mut trouble = |n: usize| {
        let header = format!("{{\"Route\":[{{\"ip\":\"bad_{n}\"}}],\"PackLen\":1}}");
        let mut frame = vec![u8::try_from(header.len()).unwrap(), 0, 0, 0];
        frame.extend(header.as_bytes());
        let mut stream = TcpStream::connect(node.addr()).unwrap();
        stream.write_all(&frame).unwrap();
        node.says(&format!("bad_{n}"));
    };
    let has = |n: usize| {
        events(&temp).iter().filter(|e| e["msg"].as_str().unwrap().contains(&format!("bad_{n}"))).count()
    };
    let arrives = |n: usize| until(SOON, "the message", || (has(n) > 0).then_some(()));
    trouble(1);
    arrives(1);
    assert_eq!(m.terminate(), 0);
    for n in 2..6 {
        trouble(n);
    }
    m.restart();
    m.ready();
    (2..6).for_each(arrives);
    trouble(6);
    arrives(6);
    assert_eq!((1..7).map(has).collect::<Vec<_>>(), [1; 6]);
    let last = events(&temp).pop().unwrap();
    assert_eq!((&last["kind"], &last["role"]), (&"ERROR".into(), &"fcollector".into()));
}

#[test]
fn garbage_on_every_port_harms_nothing() {
    let temp = Temp::new("garbage");
    let mut m = monitor(&temp, &[]);
    let to = m.addr();
    let mut node = store(&temp, to, "127.0.0.1:0");
    let hb = node.says("heart-beats are answered on ");
    let hb: SocketAddr = hb.rsplit_once(' ').unwrap().1.parse().unwrap();
    let mut random = Random::new();
    let mut open = Vec::new();
    for n in 0..300 {
        let at = if n % 3 == 0 { hb } else { to };
        let mut stream = TcpStream::connect(at).unwrap();
        let len = random.below(3_000);
        let mut bytes = random.bytes(len);
        match n % 5 {
            // A frame that never ends, one that promises a lot, JSON that is something else, and deep JSON.
            0 => bytes = REGISTER[..random.below(REGISTER.len())].to_vec(),
            1 => bytes = [&b"\xff\xff\xff\x7f{"[..], &bytes].concat(),
            2 => bytes = b"\x0d\0\0\0{\"req\":[{}]} ".to_vec(),
            3 => bytes = [&b"\xff\x7f\0\0"[..], "{\"a\":".repeat(3_276).as_bytes(), b"1"].concat(),
            _ => {}
        }
        let _ = stream.write_all(&bytes);
        if n % 2 == 0 && open.len() < 100 {
            open.push(stream);
        }
    }
    assert_eq!(ask(to, REGISTER)["err"], "0");
    let mut all = Vec::new();
    TcpStream::connect(hb).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all, b"!");
    until(SOON, "the store to be known", || {
        nodes(&temp).iter().any(|n| n["role"] == "fcollector").then_some(())
    });
    // A frame that stands still is given up; the threads are what they were.
    let mut slow = TcpStream::connect(to).unwrap();
    slow.write_all(&REGISTER[..20]).unwrap();
    slow.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(slow.read(&mut [0]).unwrap_or(0), 0);
    assert!(m.proc_status("Threads") <= 6, "{}", m.proc_status("Threads"));
    assert!(m.proc_status("VmHWM") < 64 << 10, "{}", m.proc_status("VmHWM"));
    assert_eq!((m.terminate(), node.terminate()), (0, 0));
}

/// The story: sixteen addresses, each with as many connections as one may have and a frame begun on each, kept everybody
/// else from telling anything.
#[test]
fn those_who_hold_all_connections_keep_nobody_out() {
    let temp = Temp::new("held");
    let keys = [("allow", "127.0.0.0/8"), ("[heart_beat] check_interval", "1h")];
    let mut m = Node::prepare(&temp, "monitor", "monitor", &keys, &[]);
    // So few descriptors that there is room for 22 connections.
    m.limit_files(200);
    m.restart();
    let to = m.addr();
    // Nothing is to be said on it for long.
    let mut silent = TcpStream::connect(to).unwrap();
    let mut held = Vec::new();
    for round in 0..6 {
        for n in 0..24 {
            let mut stream = support::connect_from(2 + n % 3, to);
            let _ = stream.write_all(&REGISTER[..20]);
            held.push(stream);
        }
        assert_eq!(ask(to, REGISTER)["err"], "0", "round {round}");
    }
    silent.write_all(REGISTER).unwrap();
    assert_eq!(answer(&mut silent)["err"], "0", "it did not have to make room");
    assert!(m.log().contains("closed to make room"), "{}", m.log());
    assert_eq!(m.terminate(), 0);
}

/// The story: one node that took the connection and said nothing held up the checks of all others for ten seconds.
#[test]
fn a_node_that_hangs_holds_up_no_check_but_its_own() {
    let temp = Temp::new("hung");
    let m = &mut monitor(&temp, &[]);
    let beats = Beats::start();
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let me = |port: u16| heartbeat::Me {
        role: "tail".into(),
        hostname: "x".into(),
        version: String::new(),
        port,
        ip: None,
    };
    for port in [beats.port, hung.local_addr().unwrap().port()] {
        ask(m.addr(), &heartbeat::frame(&me(port).request("register", None)));
    }
    let (mut stream, _) = hung.accept().unwrap();
    let before = beats.count.load(Ordering::SeqCst);
    // Until it is given up.
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let checked = beats.count.load(Ordering::SeqCst) - before;
    assert!(checked >= 3, "{checked} checks while one node hung");
    let state = |port: u16| nodes(&temp).into_iter().find(|n| n["port"] == port).unwrap()["alive"].clone();
    until(SOON, "it to be down", || (state(hung.local_addr().unwrap().port()) == false).then_some(()));
    assert_eq!(state(beats.port), true);
}

/// P5: what is in the way of a file of the monitor's is set aside, told, and no reason not to start.
#[test]
fn whatever_stands_in_the_state_directory_it_starts() {
    let temp = Temp::new("state");
    let mut m = monitor(&temp, &[]);
    assert_eq!(ask(m.addr(), REGISTER)["err"], "0");
    TcpStream::connect(m.addr()).unwrap().write_all(ERROR_LOG).unwrap();
    until(SOON, "the message", || kinds(&temp).contains(&"ERROR".to_owned()).then_some(()));
    assert_eq!(m.terminate(), 0);
    let dir = temp.path("monitor.state");
    let events = dir.join("events");
    let gone = |name: &str| {
        let _ = std::fs::remove_file(dir.join(name));
    };
    let grown = |name: &str| {
        gone(name);
        std::fs::File::create(dir.join(name)).unwrap().set_len(300 << 20).unwrap();
    };
    let is_dir = |name: &str| {
        gone(name);
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("x"), "").unwrap();
    };
    let harms: &[(&str, &dyn Fn())] = &[
        ("nodes.json.damaged", &|| grown("nodes.json")),
        ("nodes.json.damaged", &|| is_dir("nodes.json")),
        ("nodes.json.damaged", &|| std::fs::write(dir.join("nodes.json"), [0xff; 99]).unwrap()),
        ("hours.json.damaged", &|| grown("hours.json")),
        ("hours.json.damaged", &|| is_dir("hours.json")),
        ("hours.json.damaged", &|| std::fs::write(dir.join("hours.json"), "[").unwrap()),
        ("00000000000000000099.jsonl.damaged", &|| {
            std::fs::create_dir(events.join("00000000000000000099.jsonl")).unwrap();
        }),
        ("2 names are not ours", &|| std::fs::write(events.join("7.jsonl"), "x").unwrap()),
        ("3 names are not ours", &|| std::fs::write(events.join("notes.txt"), "x").unwrap()),
        ("events.damaged", &|| {
            std::fs::remove_dir_all(&events).unwrap();
            std::fs::write(&events, "x").unwrap();
        }),
    ];
    for (n, (told, harm)) in harms.iter().enumerate() {
        harm();
        m.restart();
        assert_eq!(ask(m.addr(), REGISTER)["err"], "0", "{n}");
        assert!(m.log().contains(told), "{n}: {}", m.log());
        TcpStream::connect(m.addr()).unwrap().write_all(ERROR_LOG).unwrap();
        until(SOON, "the message", || kinds(&temp).contains(&"ERROR".to_owned()).then_some(()));
        assert_eq!(m.terminate(), 0, "{n}: {told}");
        assert_eq!(nodes(&temp).len(), 1, "{n}: {told}");
    }
    // Nothing of it was thrown away.
    let names: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().filter(|n| n.starts_with("nodes.json.damaged")).count() == 3, "{names:?}");
    // While it runs, too.
    let m = &mut m;
    m.restart();
    let to = m.addr();
    is_dir("nodes.json");
    assert_eq!(ask(to, UNREGISTER)["err"], "0");
    m.says("nodes.json.damaged");
    assert_eq!(m.terminate(), 0);
}

#[test]
fn a_thousand_nodes_and_their_connections_cost_no_thread() {
    let temp = Temp::new("thousand");
    let beats = Beats::start();
    let (mut dead, nodes_n) = (Vec::new(), 1_000_u32);
    let m = &mut monitor(&temp, &[]);
    let to = m.addr();
    let ip = |n: u32| Ipv4Addr::from(0x7f01_0001 + n);
    let mut idle = Vec::new();
    for n in 0..nodes_n {
        // One in fifty is not there: a port that nobody has.
        let port = if n % 50 == 49 { 1 } else { beats.port };
        if port == 1 {
            dead.push(ip(n).to_string());
        }
        let who = heartbeat::Me {
            role: "tail".into(),
            hostname: format!("h{n}"),
            version: String::new(),
            port,
            ip: Some(ip(n).into()),
        };
        // No more of them from one address than that may register.
        let mut stream = support::connect_from(2 + u8::try_from(n / 60).unwrap(), to);
        stream.write_all(&heartbeat::frame(&who.request("register", None))).unwrap();
        assert_eq!(answer(&mut stream)["err"], "0");
        if idle.len() < 200 {
            idle.push(stream);
        }
    }
    let begun = Instant::now();
    let all = until(SOON * 2, "every node to be asked", || {
        let all = nodes(&temp);
        (all.len() == 1_000 && all.iter().all(|n| n["alive"].is_boolean())).then_some(all)
    });
    println!("1,000 nodes asked after {} ms", begun.elapsed().as_millis());
    let down: Vec<&str> =
        all.iter().filter(|n| n["alive"] == false).map(|n| n["ip"].as_str().unwrap()).collect();
    assert_eq!(down.len(), dead.len());
    assert!(dead.iter().all(|d| down.contains(&d.as_str())));
    assert!(m.proc_status("Threads") <= 6, "{}", m.proc_status("Threads"));
    // A node that accepts and says nothing holds up nobody: the others are asked in the same round.
    beats.on.store(false, Ordering::SeqCst);
    until(SOON * 2, "all of them to be down", || {
        nodes(&temp).iter().all(|n| n["alive"] == false).then_some(())
    });
    assert!(m.proc_status("Threads") <= 6, "{}", m.proc_status("Threads"));
    assert_eq!(kinds(&temp).len(), 1_000);
}

#[test]
fn nodes_are_added_by_hand_and_nobody_is_called_whom_nobody_vouches_for() {
    let temp = Temp::new("hand");
    let (named, other) = (Beats::start(), Beats::start());
    let m = &mut monitor(&temp, &[("allow", "127.0.0.1")]);
    let to = m.addr();
    // It says that it is another one, which `allow` does not name.
    let lie = heartbeat::Me {
        role: "tail".into(),
        hostname: "x".into(),
        version: String::new(),
        port: other.port,
        ip: Some("127.0.0.2".parse().unwrap()),
    };
    assert_eq!(ask(to, &heartbeat::frame(&lie.request("register", None)))["err"], "0");
    assert_eq!(nodes(&temp)[0]["ip"], "127.0.0.1", "it is known as what it is");
    // Then the file is written for nobody but us: two who write in the same moment are one too many.
    until(SOON, "it to be asked", || nodes(&temp)[0]["alive"].is_boolean().then_some(()));
    let file = temp.path("monitor.state/nodes.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let add = |json: &mut Value, ip: &str, port: u16| {
        json["nodes"].as_array_mut().unwrap().push(serde_json::json!({"ip": ip, "port": port}));
    };
    json["nodes"].as_array_mut().unwrap().clear();
    add(&mut json, "127.0.0.1", named.port);
    add(&mut json, "127.0.0.3", other.port);
    replace(&file, &json);
    m.says("127.0.0.3:");
    until(SOON, "the named one to be asked", || (named.count.load(Ordering::SeqCst) > 2).then_some(()));
    m.says("not asked for their heart-beat");
    // The one that lied was asked where it is, until it was removed by hand; nobody else on that port ever.
    let asked = other.count.load(Ordering::SeqCst);
    let before = named.count.load(Ordering::SeqCst);
    until(SOON, "more rounds", || (named.count.load(Ordering::SeqCst) > before + 3).then_some(()));
    assert_eq!(other.count.load(Ordering::SeqCst), asked);
    assert_eq!(nodes(&temp).len(), 2);
}

fn replace(file: &Path, json: &Value) {
    let new = file.with_extension("new");
    std::fs::write(&new, json.to_string()).unwrap();
    std::fs::rename(&new, file).unwrap();
}

#[test]
fn a_monitor_that_anybody_may_reach_is_a_decision() {
    let temp = Temp::new("decision");
    let mut m = Node::prepare(&temp, "monitor", "monitor", &[("recv_port", "0"), ("allow", "")], &[]);
    m.restart();
    assert_eq!(m.wait(SOON), 2);
    assert!(m.log().contains("`allow` is not set"), "{}", m.log());
    // With a database that this program was not built for, only the monitor does not start.
    let keys = [("db_host", "localhost"), ("db_db", "logd")];
    let mut m = Node::prepare(&temp, "monitor", "monitor", &keys, &[]);
    if !cfg!(feature = "mysql") {
        m.restart();
        assert_eq!(m.wait(Duration::from_secs(20)), 2);
        assert!(m.log().contains("--features mysql"), "{}", m.log());
        let check = support::logd(&["check".as_ref(), m.config().as_os_str()]);
        assert!(check.code == 0 && check.err.contains("--features mysql"), "{}", check.err);
    }
}

fn hours(temp: &Temp) -> Vec<Value> {
    let text = std::fs::read(temp.path("monitor.state/hours.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).map_or(Vec::new(), |v| v["hours"].as_array().unwrap().clone())
}

#[test]
fn hours_are_told_with_what_is_missing_and_then_as_whole() {
    let temp = Temp::new("hours");
    let told = temp.path("alarms");
    let script = temp.file("alarm", format!("#!/bin/sh\necho \"$1\" >> {}\n", told.display()));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let alarm = format!("{} %s", script.display());
    let mut m = monitor(&temp, &[("recv_port", &support::fixed_addr().to_string())]);
    // In the second half of an hour the hour before counts, too: with more hosts there would be so many alarms that they
    // were told as one.
    let hosts = temp.file("hosts", "web2\n").display().to_string();
    let (to, save) = (m.addr().to_string(), temp.path("save").display().to_string());
    let keys = [
        ("save_dir", save.as_str()),
        ("hosts_file", &hosts),
        ("alarm_command", &alarm),
        ("alarm_after", "1m"),
        ("[monitor] hb_port", "127.0.0.1:0"),
        ("[monitor] mon_addr", &to),
    ];
    // Two hours ago, so that its end is longer ago than a minute.
    let hour = support::past_hours(2)[0].to_string();
    let mut store = Node::start(&temp, "store", "fcollector", &keys, &[]);
    let web1 = Hour::new("web1", &hour, 6, 5);
    let mut peer = Peer::to(store.addr());
    for pack in [0, 3, 5] {
        peer.deliver(&web1.packs()[pack]);
    }
    let alarms = || std::fs::read_to_string(&told).unwrap_or_default();
    let gap =
        format!("hour {hour} of web1 is not whole 1 minute after its end: gaps, packs 2-3,5 are missing");
    until(SOON, "the alarm", || alarms().contains(&gap).then_some(()));
    let silent = format!("hour {hour} of web2 is not whole 1 minute after its end: no data");
    until(SOON, "the alarm of the silent host", || alarms().contains(&silent).then_some(()));
    let state = |name: &str, state: &str| {
        until(SOON * 2, "the state of the hour", || {
            let all = hours(&temp);
            all.into_iter().find(|h| h["name"] == name && h["state"] == state)
        })
    };
    let told = state("web1", "gaps");
    assert_eq!(
        (&told["missing"], &told["hour"]),
        (&serde_json::json!([[2, 3], [5, 5]]), &Value::from(hour.as_str()))
    );
    state("web2", "no data");
    for pack in [1, 2, 4] {
        peer.deliver(&web1.packs()[pack]);
    }
    let told = state("web1", "verified");
    assert_eq!(told["lines"], 30);
    let well = format!("hour {hour} of web1 is whole");
    until(SOON, "the all-clear", || alarms().contains(&well).then_some(()));
    assert_eq!(alarms().matches(&gap).count(), 1);
    // What a start puts into quarantine is told, what goes on is not told again, and its end is.
    assert_eq!(store.terminate(), 0);
    temp.file("store.state/quarantine/spool/1-2-3.bin", "x");
    store.restart();
    until(SOON, "the alarm of the start", || {
        alarms().contains("1 file put into quarantine, such as spool/1-2-3.bin").then_some(())
    });
    let mut retire = std::process::Command::new(support::bin());
    retire.arg("retire").arg("--since").arg(&hour).arg(store.config()).args(["web2", "scrapped"]);
    assert_eq!(support::run(&mut retire, SOON).code, 0);
    let gone = format!("hour {hour} of web2 is not waited for any more");
    until(SOON * 2, "the end of the silence", || alarms().contains(&gone).then_some(()));
    assert_eq!((alarms().matches(&silent).count(), alarms().matches(&gap).count()), (1, 1), "{}", alarms());
    m.kill();
    m.restart();
    m.ready();
    let kept = hours(&temp);
    assert_eq!(kept.iter().filter(|h| h["hour"] == hour.as_str()).count(), 2, "{kept:?}");
    assert_eq!((store.terminate(), m.terminate()), (0, 0));
}

#[test]
fn an_original_monitor_is_not_bothered_with_hours() {
    let temp = Temp::new("nohours");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let m = answer(&mut stream);
            let known = ["register", "unregister"].contains(&m["req"].as_str());
            count.fetch_add(usize::from(!known), Ordering::SeqCst);
            let said = if known {
                [("err", "0"), ("msg", "success")]
            } else {
                [("err", "-1"), ("msg", "unkown request <hours>")]
            };
            let said: Message = said.map(|(k, v)| (k.into(), v.into())).into();
            stream.write_all(&heartbeat::frame(&said)).unwrap();
        }
    });
    let save = temp.path("save").display().to_string();
    let keys =
        [("save_dir", save.as_str()), ("[monitor] hb_port", "127.0.0.1:0"), ("[monitor] mon_addr", &at)];
    let mut store = Node::start(&temp, "store", "fcollector", &keys, &[]);
    let hour = support::past_hours(1)[0].to_string();
    Peer::to(store.addr()).deliver(&Hour::new("web1", &hour, 2, 5).packs()[0]);
    store.says("it does not take the states of hours");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(store.terminate(), 0);
}

/// The stories: one refusal, as of a full disk, and the store said nothing for an hour; and a store that was emptied was
/// shown for three days as if it had everything.
#[test]
fn a_refusal_is_asked_again_soon_and_an_empty_store_is_told() {
    let temp = Temp::new("refusal");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let (tx, asked) = mpsc::channel();
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let m = answer(&mut stream);
            let said = if n == 0 {
                [("err", "1"), ("msg", "try again")]
            } else {
                [("err", "0"), ("msg", "success")]
            };
            stream.write_all(&heartbeat::frame(&said.map(|(k, v)| (k.into(), v.into())).into())).unwrap();
            tx.send(m).unwrap();
        }
    });
    let save = temp.path("save").display().to_string();
    let keys = [("save_dir", save.as_str()), ("[monitor] mon_addr", &at)];
    let mut store = Node::start(&temp, "store", "fcollector", &keys, &[]);
    let all: Vec<Message> = (0..2).map(|_| asked.recv_timeout(SOON).unwrap()).collect();
    for m in &all {
        let told = ["req", "hours", "part", "parts"].map(|k| m[k].as_str());
        assert_eq!(told, ["hours", "[]", "1", "1"]);
        assert_eq!((m["store"].len(), m["first"].len()), (16, 10));
    }
    assert_eq!(all[0]["store"], all[1]["store"]);
    store.says("states of hours are told again");
    assert_eq!(store.terminate(), 0);
}

/// The story: whom `allow` keeps out could use up the lines that the log has in a minute, and then nobody read of an outage.
#[test]
fn strangers_do_not_use_up_the_lines_of_an_outage() {
    let temp = Temp::new("lines");
    let keys = [("allow", "127.0.0.1"), ("[heart_beat] check_interval", "1s")];
    let mut m = Node::start(&temp, "monitor", "monitor", &keys, &[]);
    let to = m.addr();
    for _ in 0..200 {
        drop(support::connect_from(9, to));
    }
    for port in 1..=3 {
        let me = heartbeat::Me {
            role: "tail".into(),
            hostname: "x".into(),
            version: String::new(),
            port,
            ip: None,
        };
        assert_eq!(ask(to, &heartbeat::frame(&me.request("register", None)))["err"], "0");
    }
    m.says("127.0.0.1:3 (tail, x): no heart-beat");
    assert_eq!(m.terminate(), 0);
}

#[test]
fn an_alarm_program_that_hangs_holds_up_nothing() {
    let temp = Temp::new("hangs");
    let pids = temp.path("pids");
    let script = temp.file("alarm", format!("#!/bin/sh\necho $$ >> {}\nsleep 1000\n", pids.display()));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut m = monitor(&temp, &[("alarm_command", &format!("{} %s", script.display()))]);
    let beats = Beats::start();
    let who = |port: u16| heartbeat::Me {
        role: "tail".into(),
        hostname: "x".into(),
        version: String::new(),
        port,
        ip: None,
    };
    for port in [1, 2, beats.port] {
        ask(m.addr(), &heartbeat::frame(&who(port).request("register", None)));
    }
    let running = || std::fs::read_to_string(&pids).unwrap_or_default();
    until(SOON, "the alarm", || running().ends_with('\n').then_some(()));
    // Rounds go on, messages are taken, and only one program runs.
    let before = beats.count.load(Ordering::SeqCst);
    until(SOON, "more rounds", || (beats.count.load(Ordering::SeqCst) > before + 3).then_some(()));
    TcpStream::connect(m.addr()).unwrap().write_all(ERROR_LOG).unwrap();
    until(SOON, "the message", || kinds(&temp).contains(&"ERROR".to_owned()).then_some(()));
    assert_eq!(running().lines().count(), 1);
    // A stop does not wait for it, and leaves nothing of it behind.
    assert_eq!(m.terminate(), 0);
    for pid in running().lines() {
        assert!(!Path::new("/proc").join(pid).exists(), "{pid} runs on");
    }
}
