//! The monitor's core, without threads and sockets.

use super::*;
use crate::config::Config;
use crate::disk::{Outcome, SimDisk};
use crate::overview::HostHour;
use std::time::Duration;

const T: i64 = 1_795_335_838_000; // 2026-11-22 08:23:58 UTC
const DIR: &str = "/state";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct Desk {
    disk: Disk,
    sim: SimDisk,
    conf: MonitorConfig,
    m: Monitor,
}

impl Desk {
    fn new(allow: &str) -> Self {
        let (disk, sim) = Disk::sim(1);
        let text = format!("[receiver]\nallow = {allow}\n");
        let conf = Config::parse("c", text.as_bytes()).monitor(true).unwrap().0;
        let m = Monitor::open(&disk, Path::new(DIR), &conf, &Zone::named("UTC").unwrap()).unwrap();
        Self { disk, sim, conf, m }
    }

    fn again(&mut self) {
        self.m = Monitor::open(&self.disk, Path::new(DIR), &self.conf, &Zone::named("UTC").unwrap()).unwrap();
    }

    /// The `err` of the answer; empty if there is none.
    fn say(&mut self, pairs: &[(&str, &str)], from: &str) -> String {
        let message: Message = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let answer = self.m.take(&serde_json::to_vec(&message).unwrap(), ip(from), T).unwrap();
        self.m.commit(T).unwrap();
        answer.map_or(String::new(), |a| a["err"].clone())
    }

    fn register(&mut self, told: &str, port: &str, from: &str) -> String {
        let m = [("req", "register"), ("ip", told), ("port", port), ("hostname", "web1"), ("role", "tail")];
        self.say(&m, from)
    }

    fn nodes(&self) -> Vec<String> {
        self.m.nodes.iter().map(|n| format!("{}:{}", n.ip, n.port)).collect()
    }

    fn asked(&mut self) -> Vec<String> {
        self.m.targets().iter().map(|(at, _)| at.to_string()).collect()
    }

    fn kinds(&self) -> Vec<String> {
        let mut all: Vec<String> = self.m.events.recent().map(|e| e.kind.clone()).collect();
        all.reverse();
        all
    }

    fn round(&mut self, at: &str, alive: bool, after: Duration) {
        let result = if alive { Ok(()) } else { Err("refused".to_owned()) };
        let now = T + i64::try_from(after.as_millis()).unwrap();
        self.m.checked(vec![(at.parse().unwrap(), result)], now);
        self.m.commit(now).unwrap();
    }
}

#[test]
fn registrations_are_kept_and_taken_back() {
    let mut d = Desk::new("10.0.0.0/8");
    assert_eq!(d.register("", "4000", "10.0.0.7"), "0", "the original tells no address");
    assert_eq!(d.register("10.0.0.8", "4000", "10.0.0.8"), "0");
    assert_eq!(d.register("10.0.0.8", "4000", "10.0.0.8"), "0", "again");
    for port in ["", "0", "x", "65536", "-1"] {
        assert_eq!(d.register("10.0.0.8", port, "10.0.0.8"), "1", "{port}");
    }
    assert_eq!(d.say(&[("req", "dance")], "10.0.0.8"), "-1");
    d.again();
    assert_eq!(d.nodes(), ["10.0.0.7:4000", "10.0.0.8:4000"]);
    // An answer was given only after it was durable.
    d.sim.crash();
    d.sim.restart(Outcome::LoseUnsynced);
    d.again();
    assert_eq!(d.nodes().len(), 2);
    let leave = |ip: &'static str| [("req", "unregister"), ("ip", ip), ("port", "4000")];
    assert_eq!(d.say(&leave("10.0.0.8"), "10.0.0.7"), "1", "of another host");
    assert_eq!(d.say(&leave(""), "10.0.0.7"), "0");
    assert_eq!(d.say(&leave(""), "10.0.0.7"), "0", "it is gone, as was wanted");
    d.again();
    assert_eq!(d.asked(), ["10.0.0.8:4000"]);
    for port in 1..=(NODES_PER_ADDRESS + 5) {
        let err = d.register("", &port.to_string(), "10.0.0.9");
        assert_eq!(err, if port <= NODES_PER_ADDRESS { "0" } else { "1" }, "{port}");
    }
}

/// The story: whoever was in `allow` registered a node of another, and could then take it back.
#[test]
fn a_node_that_registered_itself_is_nobody_elses() {
    let mut d = Desk::new("10.0.0.0/8");
    assert_eq!(d.register("10.0.0.8", "4000", "10.0.0.8"), "0");
    assert_eq!(d.register("10.0.0.8", "4000", "10.0.0.66"), "1");
    let leave = [("req", "unregister"), ("ip", "10.0.0.8"), ("port", "4000")];
    assert_eq!(d.say(&leave, "10.0.0.66"), "1");
    assert_eq!(d.nodes(), ["10.0.0.8:4000"]);
    // The other way round the host itself takes over.
    assert_eq!(d.register("10.0.0.9", "4000", "10.0.0.66"), "0");
    assert_eq!(d.register("10.0.0.9", "4000", "10.0.0.9"), "0");
    assert_eq!(d.register("10.0.0.9", "4000", "10.0.0.66"), "1");
}

/// The stories: one peer registered a thousand nodes for addresses that `allow` names, and four of them all there may be;
/// or all that one address may have, which was then refused itself.
#[test]
fn one_peer_does_not_take_the_places_of_others() {
    let mut d = Desk::new("10.0.0.0/8");
    let ip = |n: usize| format!("10.1.{}.{}", n / 200, n % 200 + 1);
    for n in 0..NODES_PER_ADDRESS + 3 {
        let err = d.register(&ip(n), "1", "10.0.0.66");
        assert_eq!(err, if n < NODES_PER_ADDRESS { "0" } else { "1" }, "{n}");
    }
    // But its own role it may always register, instead of one of those.
    assert_eq!(d.register("", "4000", "10.0.0.66"), "0");
    assert_eq!(d.m.nodes.len(), NODES_PER_ADDRESS);
    for n in 0..NODES_PER_ADDRESS {
        assert_eq!(d.register("10.0.0.8", &(n + 1).to_string(), "10.0.0.67"), "0");
    }
    assert_eq!(d.register("10.0.0.8", "4000", "10.0.0.68"), "1", "nobody else does");
    assert_eq!(d.register("10.0.0.8", "4000", "10.0.0.8"), "0");
    assert!(d.m.outages.iter().any(|(_, s)| s.contains("registered by 10.0.0.67: gives way")));
    // All places.
    for n in 0..overview::NODES_MAX {
        let peer = format!("10.2.0.{}", n / NODES_PER_ADDRESS + 1);
        let port = (n % NODES_PER_ADDRESS + 1).to_string();
        let m = [("req", "register"), ("ip", &ip(n)), ("port", &port)];
        let m: Message = m.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        d.m.take(&serde_json::to_vec(&m).unwrap(), super::tests::ip(&peer), T).unwrap();
    }
    assert_eq!(d.m.nodes.len(), overview::NODES_MAX);
    assert_eq!(d.register("10.3.0.1", "4000", "10.3.0.2"), "1");
    assert_eq!(d.register("", "4000", "10.3.0.1"), "0");
    assert_eq!(d.m.nodes.len(), overview::NODES_MAX);
}

/// The story: a node that registered itself over a link-local address was asked without the link, and so was down.
#[test]
fn a_link_local_node_is_asked_on_its_link() {
    let mut d = Desk::new("any");
    let m: Message =
        [("req", "register"), ("ip", "fe80::7"), ("port", "4000")].map(|(k, v)| (k.into(), v.into())).into();
    let peer: SocketAddr = "[fe80::7%3]:999".parse().unwrap();
    d.m.take(&serde_json::to_vec(&m).unwrap(), peer, T).unwrap();
    d.m.commit(T).unwrap();
    d.again();
    assert_eq!(d.asked(), ["[fe80::7%3]:4000"]);
    d.round("[fe80::7%3]:4000", false, Duration::from_secs(1));
    assert_eq!(d.kinds(), ["no heart-beat"]);
}

/// Tells what there is to be told at this second, and what came of it; the texts.
fn told(d: &mut Desk, second: u64, works: bool) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(alarm) = d.m.alarm(second * 1_000) {
        let done = if works { Ok(()) } else { Err("no".to_owned()) };
        d.m.alarmed(&alarm, done, second * 1_000);
        d.m.commit(T).unwrap();
        texts.push(alarm.text);
    }
    texts
}

#[test]
fn many_outages_at_once_are_one_alarm_and_the_same_ones_again_another() {
    let mut d = Desk::new("10.0.0.0/8");
    let all: Vec<SocketAddr> = (1..=9).map(|n| format!("10.0.0.{n}:4000").parse().unwrap()).collect();
    for at in &all {
        d.register("", "4000", &at.ip().to_string());
    }
    let results = |alive: bool, all: &[SocketAddr]| {
        all.iter().map(|at| (*at, if alive { Ok(()) } else { Err("no".into()) })).collect()
    };
    let down = "9 nodes do not answer, such as 10.0.0.1:4000";
    let up = "9 nodes answer again";
    for (n, (alive, said)) in
        [(true, ""), (false, down), (true, up), (false, down), (true, up)].into_iter().enumerate()
    {
        let second = n as u64 * 2_000;
        d.m.checked(results(alive, &all), T + i64::try_from(second).unwrap() * 1_000);
        let told = told(&mut d, second, true);
        assert!(
            told.len() == usize::from(!said.is_empty()) && told.iter().all(|t| t.starts_with(said)),
            "{told:?}"
        );
    }
    // One that was told singly, then with others, then singly again.
    for (n, (alive, of, said)) in [
        (false, 1, "node 10.0.0.1:4000"),
        (false, 9, "8 nodes do"),
        (true, 9, up),
        (false, 1, "node 10.0.0.1:4000"),
    ]
    .into_iter()
    .enumerate()
    {
        let second = (n as u64 + 5) * 2_000;
        d.m.checked(results(alive, &all[..of]), T + i64::try_from(second).unwrap() * 1_000);
        let told = told(&mut d, second, true);
        assert!(told.len() == 1 && told[0].starts_with(said), "{told:?}");
    }
}

/// The stories: a program that failed, or hung, or a stop of the monitor between two tries, and an outage that nobody was
/// ever told.
#[test]
fn an_outage_that_could_not_be_told_is_told_later_and_after_a_restart() {
    let mut d = Desk::new("any");
    let (at, minute) = ("10.0.0.7:4000", Duration::from_mins(1));
    d.register("", "4000", "10.0.0.7");
    d.round(at, false, minute);
    assert_eq!(told(&mut d, 60, false).len(), 1);
    assert!(told(&mut d, 64, true).is_empty(), "its turn has not come");
    assert_eq!(d.m.untold().len(), 1);
    d.again();
    assert!(told(&mut d, 0, true).is_empty(), "it may answer meanwhile");
    d.round(at, false, minute * 2);
    let texts = told(&mut d, 1, true);
    assert!(texts.len() == 1 && texts[0].ends_with("refused; down since 2026-11-22 08:23:58"), "{texts:?}");
    // Told is told, also after a crash.
    d.sim.crash();
    d.sim.restart(Outcome::LoseUnsynced);
    d.again();
    d.round(at, false, minute * 3);
    assert!(told(&mut d, 2, true).is_empty());
    // The end cannot be told, and a new outage begins: it is told as soon as the program works.
    d.round(at, true, minute * 4);
    for second in [10, 15, 25] {
        assert_eq!(told(&mut d, second, false).len(), 1, "{second}");
    }
    d.round(at, false, minute * 5);
    let texts = told(&mut d, 26, true);
    assert!(texts.len() == 1 && texts[0].contains("down since 2026-11-22 08:27:58"), "{texts:?}");
    // What it fails of keeps nothing else waiting, and is tried again, at last every hour.
    d.round(at, true, minute * 6);
    let mut second = 1_000;
    for _ in 0..20 {
        let alarm = d.m.alarm(second * 1_000).unwrap();
        d.m.alarmed(&alarm, Err("no".into()), second * 1_000);
        second += 3_600;
    }
    d.register("", "4000", "10.0.0.8");
    d.round("10.0.0.8:4000", false, minute * 6);
    assert!(d.m.alarm(second * 1_000).unwrap().text.contains("10.0.0.8"));
}

#[test]
fn what_changes_to_and_fro_is_told_less_and_less_often() {
    let mut d = Desk::new("any");
    d.register("", "4000", "10.0.0.7");
    let mut seconds = Vec::new();
    for second in 0..20_000_u64 {
        if second.is_multiple_of(3) {
            d.m.checked(
                vec![(
                    "10.0.0.7:4000".parse().unwrap(),
                    if second.is_multiple_of(2) { Ok(()) } else { Err("no".into()) },
                )],
                T + i64::try_from(second).unwrap() * 1_000,
            );
        }
        if let Some(alarm) = d.m.alarm(second * 1_000) {
            d.m.alarmed(&alarm, Ok(()), second * 1_000);
            seconds.push(second);
        }
    }
    let waits: Vec<u64> = seconds.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(waits[0] < 10 && waits.len() < 20 && *waits.last().unwrap() >= 3_600, "{waits:?}");
}

/// The story: a node that was down and was then stopped was down for ever, for whoever reads alarms.
#[test]
fn the_end_of_an_outage_may_be_that_somebody_stops_the_role() {
    let mut d = Desk::new("any");
    d.register("", "4000", "10.0.0.7");
    d.round("10.0.0.7:4000", false, Duration::from_secs(1));
    assert_eq!(told(&mut d, 1, true).len(), 1);
    let leave = |d: &mut Desk| assert_eq!(d.say(&[("req", "unregister"), ("port", "4000")], "10.0.0.7"), "0");
    leave(&mut d);
    assert_eq!(d.kinds(), ["no heart-beat", "unregistered"]);
    // It is not forgotten before that is told.
    d.register("", "4001", "10.0.0.7");
    let texts = told(&mut d, 60, true);
    assert!(texts.len() == 1 && texts[0].contains("was unregistered, down from"), "{texts:?}");
    // Of one that was not down there is nothing to tell.
    d.round("10.0.0.7:4001", true, Duration::from_secs(1));
    assert_eq!(d.say(&[("req", "unregister"), ("port", "4001")], "10.0.0.7"), "0");
    assert!(told(&mut d, 120, true).is_empty() && d.kinds().len() == 2);
}

#[test]
fn nobody_is_asked_whom_nobody_vouches_for() {
    for (allow, wanted) in
        [("any", vec!["10.0.0.7:1"]), ("10.0.0.7, 127.0.0.0/8", vec!["10.0.0.7:1", "127.0.0.1:5"])]
    {
        let mut d = Desk::new(allow);
        d.register("10.0.0.7", "1", "10.0.0.7");
        // Whoever says that it is another one is asked where it is.
        d.register("192.0.2.1", "1", "10.0.0.7");
        d.register("::ffff:10.0.0.7", "1", "10.0.0.7");
        // Added by hand: only `allow` can vouch for it, and who registered it is not believed.
        let file = Path::new(DIR).join("nodes.json");
        let mut json: serde_json::Value =
            serde_json::from_slice(&d.disk.read(&file, 1 << 20).unwrap()).unwrap();
        for (ip, port) in [("127.0.0.1", 5), ("192.0.2.9", 6)] {
            let node = serde_json::json!({"ip": ip, "port": port, "by": ip});
            json["nodes"].as_array_mut().unwrap().push(node);
        }
        d.disk.replace(&file, json.to_string().as_bytes(), 0o640).unwrap();
        d.m.read_again(T).unwrap();
        assert_eq!(d.nodes().len(), 3, "{allow}");
        assert_eq!(d.asked(), wanted, "{allow}");
        assert!(
            d.m.said.iter().any(|(_, s)| s.contains("192.0.2.9:6") && s.contains("not asked")),
            "{:?}",
            d.m.said
        );
    }
}

#[test]
fn an_outage_is_told_once_and_its_end_once() {
    let mut d = Desk::new("any");
    d.register("", "4000", "10.0.0.7");
    let (at, minute) = ("10.0.0.7:4000", Duration::from_mins(1));
    d.round(at, true, minute);
    for n in 2..6 {
        d.round(at, false, minute * n);
    }
    // A restart of the monitor does not tell it again.
    d.again();
    d.round(at, false, minute * 6);
    d.round(at, true, minute * 7);
    d.round(at, true, minute * 8);
    assert_eq!(d.kinds(), ["no heart-beat", "heart-beat again"]);
    let end = d.m.events.recent().next().unwrap().msg.clone();
    assert_eq!(end, "down from 2026-11-22 08:24:58 to 2026-11-22 08:30:58, 6m 0s");
    let said: Vec<&String> = d.m.outages.iter().map(|(_, text)| text).collect();
    assert!(said.len() == 1 && said[0].contains("answers again"), "of this start: {said:?}");
    d.round(at, false, minute * 9);
    assert_eq!(d.kinds().len(), 3, "the next outage is another one");
    let node = &d.m.overview(T, "mon").nodes[0];
    assert_eq!((node.alive, node.since_ms, node.host.as_str()), (Some(false), T + 8 * 60_000, "web1"));
    // One that took its leave is not asked, and not missed.
    d.say(&[("req", "unregister"), ("port", "4000")], "10.0.0.7");
    d.round(at, false, minute * 10);
    assert_eq!(d.kinds().len(), 4);
}

/// The stories: a role that was stopped vanished from the page, one that died stayed on the list for ever.
#[test]
fn who_was_stopped_is_shown_as_that_for_days_and_who_died_for_a_month() {
    let mut d = Desk::new("any");
    let leave = |port: &'static str| [("req", "unregister"), ("port", port)];
    for port in ["4000", "4001", "4002"] {
        assert_eq!(d.register("", port, &format!("10.0.0.{}", &port[3..].replace('0', "9"))), "0");
    }
    assert_eq!(d.say(&leave("4000"), "10.0.0.9"), "0");
    d.again();
    let shown = |d: &Desk, at: i64| {
        d.m.overview(at, "mon").nodes.iter().map(|n| (n.port, n.stopped, n.alive)).collect::<Vec<_>>()
    };
    let node = d.m.overview(T, "mon").nodes.into_iter().find(|n| n.port == 4000).unwrap();
    assert_eq!((node.stopped, node.alive, node.since_ms), (true, None, T));
    assert_eq!(d.asked(), ["10.0.0.1:4001", "10.0.0.2:4002"]);
    // An answer that was under way is none of one that lives, and its silence no alarm.
    for alive in [true, false] {
        d.round("10.0.0.9:4000", alive, Duration::from_secs(1));
    }
    assert!(d.kinds().is_empty() && d.m.outages.is_empty() && shown(&d, T).contains(&(4000, true, None)));
    // A last message changes nothing either.
    d.say(&[("port", "4000"), ("type", "ERROR"), ("msg", "x")], "10.0.0.9");
    assert!(shown(&d, T).contains(&(4000, true, None)));
    d.round("10.0.0.1:4001", false, Duration::from_secs(1));
    d.round("10.0.0.2:4002", true, Duration::from_secs(1));
    let day = 86_400_000;
    let ports = |d: &mut Desk, days: i64| {
        let at = T + days * day + 60_000;
        d.m.forget(at);
        d.m.commit(at).unwrap();
        d.again();
        shown(d, at).iter().map(|n| n.0).collect::<Vec<_>>()
    };
    assert_eq!(ports(&mut d, nodes::STOPPED_DAYS - 1), [4001, 4002, 4000]);
    assert_eq!(ports(&mut d, nodes::STOPPED_DAYS), [4001, 4002]);
    assert_eq!(ports(&mut d, nodes::SILENT_DAYS - 1), [4001, 4002]);
    assert_eq!(ports(&mut d, nodes::SILENT_DAYS), [4002], "it answered last");
    // One that comes back is what it was; at another port it takes the place of what it was.
    assert_eq!((d.say(&leave("4002"), "10.0.0.2").as_str(), d.asked().len()), ("0", 0));
    assert_eq!(d.register("", "4002", "10.0.0.2"), "0");
    assert_eq!((d.asked(), shown(&d, T)), (vec!["10.0.0.2:4002".to_owned()], vec![(4002, false, None)]));
    d.say(&leave("4002"), "10.0.0.2");
    d.register("", "4003", "10.0.0.2");
    assert_eq!(shown(&d, T), [(4003, false, None)]);
    // Whoever was stopped is in nobody's way.
    for n in 1..=(NODES_PER_ADDRESS + 5) {
        let port = (5_000 + n).to_string();
        let m = [("req", "register"), ("port", &port), ("hostname", &port), ("role", "tail")];
        assert_eq!(d.say(&m, "10.0.0.7"), "0", "{n}");
        assert_eq!(d.say(&[("req", "unregister"), ("port", &port)], "10.0.0.7"), "0");
    }
    assert_eq!(d.m.nodes.iter().filter(|n| n.ip == ip("10.0.0.7")).count(), NODES_PER_ADDRESS);
}

/// The story: messages that had waited for the monitor were all of the minute in which it came back.
#[test]
fn late_messages_have_the_time_of_their_sender_if_it_is_plausible() {
    let mut d = Desk::new("any");
    let said = |d: &mut Desk, pairs: &[(&str, &str)]| {
        let m: Vec<(&str, &str)> = pairs.iter().copied().chain([("type", "ERROR"), ("msg", "x")]).collect();
        d.say(&m, "10.0.0.7");
        d.m.events.sync().unwrap();
        d.again();
        let e = d.m.overview(T + 9_000, "mon").errors[0].clone();
        assert_eq!(e.arrived_ms, T);
        e.time_ms - T
    };
    assert_eq!(said(&mut d, &[("time", "2026/11/22 06:23:57")]), -7_201_000, "the original's, in our zone");
    let two_days = (T - 172_800_000).to_string();
    assert_eq!(said(&mut d, &[("time", "2026/11/22 06:23:57"), ("ms", &two_days)]), -172_800_000);
    for (wrong, ms) in
        [("2036/11/22 08:23:58", ""), ("1970/01/01 00:00:09", "x"), ("", "99999999999999999999")]
    {
        assert_eq!(said(&mut d, &[("time", wrong), ("ms", ms)]), 0, "{wrong}");
    }
    let ahead = (T + 400_000).to_string();
    assert_eq!(said(&mut d, &[("ms", &ahead)]), 0);
}

#[test]
fn messages_are_kept_as_they_were_told() {
    let mut d = Desk::new("any");
    d.register("", "4000", "10.0.0.7");
    let say = |d: &mut Desk, time: &str, text: &str| {
        let m = [("ip", ""), ("port", "4000"), ("time", time), ("type", "ERROR"), ("msg", text)];
        assert_eq!(d.say(&m, "10.0.0.7"), "", "a message is not answered");
    };
    say(&mut d, "2026/11/22 08:20:00", "one\x1b[2Jtwo");
    say(&mut d, "2026/13/22 08:20:00", &"\u{e4}".repeat(9_000));
    d.m.events.sync().unwrap();
    d.again();
    let all: Vec<Event> = d.m.events.recent().cloned().collect();
    assert_eq!((all[1].time.as_str(), all[1].msg.as_str()), ("2026-11-22 08:20:00", "one\\u{1b}[2Jtwo"));
    assert_eq!((all[1].role.as_str(), all[1].address()), ("tail", "10.0.0.7:4000".into()));
    assert_eq!((all[0].time.as_str(), all[0].msg.chars().count()), ("2026-11-22 08:23:58", MESSAGE_MAX));
    let deep = ["{", "["].map(|open| open.repeat(60_000));
    for bad in [&b""[..], b"{}x", b"[]", b"{\"req\":1}", deep[0].as_bytes(), deep[1].as_bytes()] {
        assert!(d.m.take(bad, ip("10.0.0.7"), T).is_err());
    }
}

#[test]
fn events_come_in_order_through_segments_damage_and_restarts() {
    let mut d = Desk::new("any");
    let add = |d: &mut Desk, n: usize| {
        let m = [("type", "ERROR"), ("msg", &format!("{n} {}", "\u{e4}".repeat(4_000)))];
        d.say(&m, "10.0.0.7");
    };
    add(&mut d, 0);
    assert_eq!(d.m.events.batch(0, 10).unwrap(), [], "nothing is handed on that a power cut could take");
    for n in 1..2_500 {
        add(&mut d, n);
    }
    d.m.events.sync().unwrap();
    let read = |d: &mut Desk, after: u64, most: usize| {
        let (mut last, mut all) = (after, Vec::new());
        loop {
            let batch = d.m.events.batch(last, most).unwrap();
            let Some(e) = batch.last() else { return all };
            last = e.seq;
            all.extend(
                batch.iter().map(|e| (e.seq, e.msg.split(' ').next().unwrap().parse::<usize>().unwrap())),
            );
        }
    };
    let wanted: Vec<(u64, usize)> = (0..2_500).map(|n| (n as u64 + 1, n)).collect();
    assert_eq!(read(&mut d, 0, 97), wanted);
    assert_eq!(read(&mut d, 1_234, 1_000), wanted[1_234..]);
    // A torn end, and a damaged line in the middle.
    let dir = Path::new(DIR).join("events");
    let names: Vec<String> = d.disk.list(&dir).unwrap().into_iter().map(|e| e.name).collect();
    assert!(names.len() > 2, "{names:?}");
    let last = d.disk.open_rw(&dir.join(names.last().unwrap())).unwrap();
    let len = last.stat().unwrap().len;
    last.write_at(b"{\"seq\":9", len).unwrap();
    last.write_at(b"#", 5).unwrap();
    d.again();
    assert!(d.m.said.iter().any(|(_, s)| s.contains("torn or damaged")), "{:?}", d.m.said);
    add(&mut d, 2_500);
    d.m.events.sync().unwrap();
    let all = read(&mut d, 0, 500);
    assert_eq!((all.len(), all.last()), (2_500, Some(&(2_501, 2_500))), "one of them was damaged");
    // Bounded: the oldest go.
    for n in 2_501..13_000 {
        add(&mut d, n);
    }
    d.m.events.sync().unwrap();
    let sizes = |d: &Desk| -> Vec<u64> {
        let all = d.disk.list(&dir).unwrap();
        all.iter().map(|e| d.disk.stat(&dir.join(&e.name)).unwrap().unwrap().len).collect()
    };
    let kept: u64 = sizes(&d).iter().sum();
    assert!((events::KEPT..=events::KEPT + 2 * events::SEGMENT).contains(&kept), "{kept}");
    let all = read(&mut d, 0, 500);
    assert_eq!((all[0].0, all.last()), (d.m.events.oldest(), Some(&(13_000, 12_999))));
    assert!(all[0].0 > 1);
}

/// The story: each start began a segment and eight were kept, so that eight starts deleted whatever there was before.
#[test]
fn no_number_of_starts_costs_an_event() {
    let mut d = Desk::new("any");
    for n in 0..50 {
        d.say(&[("type", "ERROR"), ("msg", &n.to_string())], "10.0.0.7");
        d.m.events.sync().unwrap();
        d.again();
    }
    let dir = Path::new(DIR).join("events");
    assert_eq!((d.m.events.oldest(), d.m.events.newest(), d.disk.list(&dir).unwrap().len()), (1, 50, 1));
    assert_eq!(d.m.events.recent().count(), 50);
    let all = d.m.events.batch(0, 100).unwrap();
    assert_eq!((all.len(), all[49].msg.as_str()), (50, "49"));
    // Small segments of before are read as far back as it takes.
    for n in 51..60_u64 {
        let line = d.disk.read(&dir.join(format!("{:020}.jsonl", 1)), 1 << 20).unwrap();
        let line = String::from_utf8(line)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .replace("\"seq\":1,", &format!("\"seq\":{n},"));
        d.disk.replace(&dir.join(format!("{n:020}.jsonl")), format!("{line}\n").as_bytes(), 0o640).unwrap();
    }
    d.again();
    assert_eq!((d.m.events.recent().count(), d.m.events.newest()), (59, 59));
}

/// The story: such a segment was deleted, without a word.
#[test]
fn a_segment_without_a_line_that_can_be_read_is_set_aside() {
    let mut d = Desk::new("any");
    for _ in 0..3 {
        d.say(&[("type", "ERROR"), ("msg", "x")], "10.0.0.7");
    }
    d.m.events.sync().unwrap();
    let path = Path::new(DIR).join("events/00000000000000000001.jsonl");
    d.disk.replace(&path, b"#\n#\n#\n", 0o640).unwrap();
    d.again();
    assert!(d.m.said.iter().any(|(level, s)| *level == 0 && s.contains("jsonl.damaged")), "{:?}", d.m.said);
    d.say(&[("type", "ERROR"), ("msg", "y")], "10.0.0.7");
    let aside = path.with_extension("jsonl.damaged");
    assert_eq!(d.disk.read(&aside, 99).unwrap(), b"#\n#\n#\n");
    assert_eq!(d.m.events.newest(), 4, "numbers only grow");
    // Nine copies, of which one is a directory, stop no start.
    let list = Path::new(DIR).join("nodes.json");
    for n in 1..12 {
        d.disk.replace(&list, b"[", 0o640).unwrap();
        d.again();
        if n == 1 {
            d.disk.create_dir_all(&list.with_extension("json.damaged-9"), 0o750).unwrap();
        }
    }
}

#[test]
fn a_list_that_cannot_be_read_is_set_aside() {
    let mut d = Desk::new("any");
    d.register("", "4000", "10.0.0.7");
    let file = Path::new(DIR).join("nodes.json");
    d.disk.replace(&file, b"{ \"format\": 1, \"nodes\": [", 0o640).unwrap();
    d.register("", "4000", "10.0.0.8");
    assert_eq!(d.nodes().len(), 2, "what is known stays known");
    assert!(
        d.m.said.iter().any(|(level, s)| *level == 0 && s.contains("nodes.json.damaged")),
        "{:?}",
        d.m.said
    );
    d.again();
    assert_eq!(d.nodes().len(), 2);
    // Added by hand, and then given a name.
    let added = |host: &str| {
        format!("{{\"format\":1,\"nodes\":[{{\"ip\":\"10.0.0.9\",\"port\":4000,\"hostname\":\"{host}\"}}]}}")
    };
    for host in ["a", "b"] {
        d.disk.replace(&file, added(host).as_bytes(), 0o640).unwrap();
        d.m.read_again(T).unwrap();
        assert_eq!(d.m.nodes.iter().map(|n| n.hostname.as_str()).collect::<Vec<_>>(), [host]);
    }
    // Removed by hand.
    d.disk.replace(&file, b"{\"format\":1,\"nodes\":[]}", 0o640).unwrap();
    d.m.read_again(T).unwrap();
    assert_eq!(d.nodes().len(), 0);
}

#[test]
fn hours_are_kept_for_days_and_not_longer() {
    let mut d = Desk::new("any");
    let hour = |name: &str, hour: &str, state: &str| HostHour {
        name: name.into(),
        hour: hour.into(),
        state: state.into(),
        ..HostHour::default()
    };
    let tell = |d: &mut Desk, hours: &[HostHour]| {
        d.say(&[("req", "hours"), ("hours", &serde_json::to_string(hours).unwrap())], "10.0.0.7")
    };
    let all = [
        hour("web2", "2026112207", "open"),
        hour("web1", "2026112207", "gaps"),
        hour("web1", "2026111900", "verified"),
        hour("../x", "2026112207", "open"),
        hour("web1", "2026x", "open"),
        hour("web1", "2036112207", "open"),
        hour("web1", "20261122", "open"),
    ];
    assert_eq!(tell(&mut d, &all), "0");
    assert_eq!(tell(&mut d, &[hour("web1", "2026112207", "verified")]), "0");
    assert_eq!(d.say(&[("req", "hours"), ("hours", "[1]")], "10.0.0.7"), "1");
    d.m.forget(T);
    d.m.hours.save().unwrap();
    d.again();
    let all = d.m.overview(T, "mon");
    assert_eq!(
        (all.columns.len(), all.columns[0].as_str(), all.columns[71].as_str()),
        (72, "2026112208", "2026111909")
    );
    let told: Vec<_> = all.hours.into_iter().map(|h| (h.name, h.hour, h.state)).collect();
    let wanted =
        [("web1", "20261122", "open"), ("web1", "2026112207", "verified"), ("web2", "2026112207", "open")];
    assert_eq!(told, wanted.map(|(n, h, s)| (n.to_owned(), h.to_owned(), s.to_owned())));
}

fn hour(name: &str, hour: &str, state: &str) -> HostHour {
    HostHour { name: name.into(), hour: hour.into(), state: state.into(), ..HostHour::default() }
}

/// Tells hours, with these members beside them; the answer.
fn tell(d: &mut Desk, hours: &[HostHour], more: &[(&str, &str)], from: &str) -> Message {
    let list = serde_json::to_string(hours).unwrap();
    let pairs = [("req", "hours"), ("hours", list.as_str())];
    let m: Message = pairs.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    d.m.take(&serde_json::to_vec(&m).unwrap(), ip(from), T).unwrap().unwrap()
}

/// The story: east of UTC all hours of the day were dropped until noon or so, and the answer was success.
#[test]
fn hours_are_named_in_their_hosts_zones_and_what_is_left_out_is_told() {
    let mut d = Desk::new("any");
    // It is 08:23 UTC, and so 22:23 where the day begins.
    let all =
        ["2026112222", "2026112223", "20261122", "2026112300", "20261124"].map(|h| hour("web1", h, "open"));
    let answer = tell(&mut d, &all, &[], "10.0.0.7");
    assert_eq!((answer["err"].as_str(), answer["left"].as_str()), ("0", "2"));
    assert_eq!(answer["msg"], "2 hours are left out: 2 that have begun in no zone");
    let told: Vec<String> = d.m.overview(T, "mon").hours.into_iter().map(|h| h.hour).collect();
    assert_eq!(told, ["20261122", "2026112222", "2026112223"]);
    let answer = tell(&mut d, &[hour("../x", "2026112207", "open")], &[], "10.0.0.7");
    assert_eq!(answer["msg"], "1 hour is left out: 1 without a name, hour or state that is one");
    assert!(!tell(&mut d, &all[..1], &[], "10.0.0.7").contains_key("left"));
}

/// The story: a store was emptied, and the monitor went on showing its hours as verified for three days.
#[test]
fn what_a_report_of_all_hours_does_not_name_any_more_goes() {
    let mut d = Desk::new("any");
    let whole = |report: &'static str, part: &'static str, parts: &'static str| {
        [("store", "a"), ("report", report), ("part", part), ("parts", parts), ("first", "2026112200")]
    };
    let names = |d: &Desk| -> Vec<String> {
        d.m.overview(T, "mon").hours.into_iter().map(|h| format!("{} {}", h.name, h.hour)).collect()
    };
    let [one, two, old] = ["2026112206", "2026112207", "2026112123"].map(|h| hour("web1", h, "verified"));
    tell(&mut d, &[old.clone(), one.clone()], &whole("1", "1", "2"), "10.0.0.7");
    tell(&mut d, std::slice::from_ref(&two), &whole("1", "2", "2"), "10.0.0.7");
    // Of another store on the same host, and of a store of before.
    tell(&mut d, &[hour("web2", "2026112207", "verified")], &[("store", "b")], "10.0.0.7");
    tell(&mut d, &[hour("web3", "2026112207", "verified")], &[], "10.0.0.7");
    let all = ["web1 2026112123", "web1 2026112206", "web1 2026112207", "web2 2026112207", "web3 2026112207"];
    assert_eq!(names(&d), all);
    // Changes take nothing away, nor does a report of which a part is lacking, or that another address tells.
    tell(&mut d, std::slice::from_ref(&one), &[("store", "a")], "10.0.0.7");
    tell(&mut d, std::slice::from_ref(&one), &whole("2", "1", "3"), "10.0.0.7");
    tell(&mut d, &[], &whole("2", "3", "3"), "10.0.0.7");
    tell(&mut d, &[], &whole("3", "1", "1"), "10.0.0.8");
    assert_eq!(names(&d), all);
    d.m.hours.save().unwrap();
    d.again();
    tell(&mut d, std::slice::from_ref(&one), &whole("4", "1", "1"), "10.0.0.7");
    assert_eq!(names(&d), ["web1 2026112123", "web1 2026112206", "web2 2026112207", "web3 2026112207"]);
    tell(&mut d, &[], &whole("5", "1", "1"), "10.0.0.7");
    assert_eq!(
        names(&d),
        ["web1 2026112123", "web2 2026112207", "web3 2026112207"],
        "older ones are not looked at"
    );
}

/// The stories: a full list was counted for each hour that was left out of it; invented names left the page one column.
#[test]
fn one_address_that_tells_very_much_leaves_room_for_others_and_costs_little() {
    let mut d = Desk::new("any");
    let begun = std::time::Instant::now();
    tell(&mut d, &[hour("good", "2026112207", "verified")], &[], "10.0.0.7");
    let hours = |n: usize| format!("202611{:02}{:02}", 1 + n / 24 % 20, n % 24);
    for frame in 0..120 {
        let all: Vec<HostHour> =
            (0..400).map(|n| hour(&format!("x{}", n + frame % 6 * 400), &hours(frame / 6), "open")).collect();
        tell(&mut d, &all, &[], "10.0.0.66");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let o = d.m.overview(T, "mon");
    let names: std::collections::BTreeSet<&str> = o.hours.iter().map(|h| h.name.as_str()).collect();
    assert_eq!((o.hours.len(), names.len()), (crate::overview::HOURS_MAX, overview::NODES_MAX / 2 + 1));
    assert!(names.contains("good"));
    // Who comes later gets room, too.
    let all: Vec<HostHour> = (0..300).map(|n| hour(&format!("late{n}"), "2026112208", "open")).collect();
    assert!(!tell(&mut d, &all, &[], "10.0.0.8").contains_key("left"));
    assert_eq!(d.m.overview(T, "mon").hours.iter().filter(|h| h.name.starts_with("late")).count(), 300);
}

#[test]
fn a_host_that_one_store_has_is_not_silent_because_another_has_it_not() {
    let mut d = Desk::new("any");
    let tell = |d: &mut Desk, state: &str, from: &str| {
        let (name, hour) = ("web1".to_owned(), "2026112207".to_owned());
        let hour = HostHour { name, hour, state: state.into(), ..HostHour::default() };
        let list = serde_json::to_string(&[hour]).unwrap();
        assert_eq!(d.say(&[("req", "hours"), ("hostname", from), ("hours", &list)], "10.0.0.7"), "0");
        d.m.overview(T, "mon").hours[0].state.clone()
    };
    assert_eq!(tell(&mut d, "no data", "b"), "no data");
    assert_eq!(tell(&mut d, "open", "a"), "open");
    assert_eq!(tell(&mut d, "no data", "b"), "open");
    // Who has told which is remembered, and the one that had it may say that it is gone.
    d.m.hours.save().unwrap();
    d.again();
    assert_eq!(tell(&mut d, "no data", "b"), "open");
    assert_eq!(tell(&mut d, "no data", "a"), "no data");
}

#[test]
fn a_command_for_people_is_one_that_sends_that_hour_again() {
    let mut d = Desk::new("any");
    let good = "logd resend --stream error --packs 4-7,9-9 /etc/logd/tail.ini 2026112207";
    for (name, repull, taken) in [
        ("web1+error", good, true),
        ("web1", "logd resend /etc/logd/tail.ini 2026112207", true),
        ("web1", good, false),
        ("web1", "logd resend --packs 4-7;id /etc/logd/tail.ini 2026112207", false),
        ("web1", "logd resend /tmp/tail.ini 2026112207", false),
        ("web1", "logd resend /etc/logd/tail.ini 2026112207; id", false),
        ("web1", "id", false),
    ] {
        let (name, hour, state) = (name.to_owned(), "2026112207".to_owned(), "gaps".to_owned());
        let hour = HostHour { name: name.clone(), hour, state, repull: repull.into(), ..HostHour::default() };
        let list = serde_json::to_string(&[hour]).unwrap();
        assert_eq!(d.say(&[("req", "hours"), ("hours", &list)], "10.0.0.7"), "0");
        let told = d.m.overview(T, "mon").hours.into_iter().find(|h| h.name == name).unwrap();
        assert_eq!(!told.repull.is_empty(), taken, "{repull}");
    }
}

#[test]
fn a_lag_is_asked_for_again_and_not_believed_for_ever() {
    let mut d = Desk::new("10.0.0.0/8");
    let mut register = |lag: &[(&str, &str)]| {
        let who = [("req", "register"), ("port", "4000"), ("hostname", "web1"), ("role", "tail")];
        let m: Message = who.iter().chain(lag).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        d.m.take(&serde_json::to_vec(&m).unwrap(), ip("10.0.0.7"), T).unwrap().unwrap()
    };
    // The original tells none, and gets the original's answer.
    assert_eq!(register(&[]).len(), 2);
    assert_eq!(register(&[("lag", "7"), ("paused", "1")]).get("again").map(String::as_str), Some("60"));
    let node = |d: &Desk, after_s: i64| d.m.overview(T + after_s * 1_000, "mon").nodes[0].clone();
    let [at_once, late, past] = [0, 200, 220].map(|s| node(&d, s)).map(|n| (n.lag_s, n.paused));
    assert_eq!((at_once, late, past), ((Some(7), true), (Some(7), true), (None, false)));
}

#[test]
fn times_and_spans() {
    assert_eq!(own_time("2026/11/22 08:23:58").as_deref(), Some("2026-11-22 08:23:58"));
    assert_eq!(own_time("2026-11-22 08:23:58").as_deref(), Some("2026-11-22 08:23:58"));
    for bad in
        ["", "2026/11/22", "2026/11/22T08:23:58", "2026/11/32 08:23:58", "2026/11/22 08:23:5\u{e4}", "now"]
    {
        assert_eq!(own_time(bad), None, "{bad}");
    }
    assert_eq!([0, 999, 61_000, 90_061_000].map(span), ["0s", "0s", "1m 1s", "1d 1h 1m 1s"]);
}
