//! Several addresses: when one does not answer, the others go on, and every hour is whole at exactly one collector.
//!
//! An hour that a collector has begun to acknowledge is certified there or nowhere: a half on each of two is certified by
//! neither. So its packs wait for that collector, through restarts of whoever sends, and stop no others.

use super::sim::World;
use super::support::*;
use logd::clock::{Clock, Hour, Zone};
use logd::disk::{Fault, Outcome};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LONG: Duration = Duration::from_mins(2);

/// One host with files of the last hours, and what it sends to.
struct Place {
    temp: Temp,
    /// The last hours that are over, then the current one. An hour is closed when the next one's file appears.
    hours: Vec<Hour>,
    lines: Lines,
}

impl Place {
    fn new(test: &str) -> Self {
        let mut hours = past_hours(3);
        hours.push(Zone::local().unwrap().hour_at(Clock::real().now_ms()));
        Self { temp: Temp::new(test), hours, lines: Lines::new("web1", 1) }
    }

    fn collector(&self, name: &str, listen: SocketAddr) -> Node {
        let (save, listen) = (self.save(name).display().to_string(), listen.to_string());
        let keys = [("save_dir", save.as_str()), ("checkpoint", "200ms"), ("listen", &listen)];
        Node::start(&self.temp, name, "fcollector", &keys, &[])
    }

    fn relay(&self, name: &str, listen: SocketAddr, send_to: &str) -> Node {
        let listen = listen.to_string();
        let keys =
            [("send_to", send_to), ("listen", &listen), ("backoff_max", "300ms"), ("failover_after", "3")];
        Node::start(&self.temp, name, "collector", &keys, &[])
    }

    fn follower(&self, send_to: &str, more: &[(&str, &str)]) -> Node {
        let mut keys = vec![
            ("start", "oldest"),
            ("close_wait", "1d"),
            ("quiet", "200ms"),
            ("flush_interval", "50ms"),
            ("pack_bytes", "4k"),
            ("backoff_max", "300ms"),
            ("failover_after", "3"),
        ];
        keys.extend(more);
        tail(&self.temp, "web1", &self.temp.path("logs/access.log.<%Y%m%d%H>"), send_to, &keys, &[])
    }

    fn save(&self, collector: &str) -> PathBuf {
        self.temp.path(&format!("{collector}.save"))
    }

    fn source(&self, hour: usize) -> PathBuf {
        self.temp.path(&format!("logs/access.log.{}", self.hours[hour]))
    }

    /// Appends lines to an hour's file.
    fn write(&mut self, hour: usize, lines: u64) {
        let path = self.source(hour);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(self.lines.block(lines).as_bytes()).unwrap();
    }

    /// Waits until all that the hour's file holds is stored.
    fn stored(&self, collector: &str, hour: usize) {
        let data = self.save(collector).join("log_data").join(format!("web1_{}", self.hours[hour]));
        let wanted = fs::read(self.source(hour)).unwrap();
        until(LONG, &format!("all of hour {hour} at {collector}"), || {
            (fs::read(&data).ok()? == wanted).then_some(())
        });
    }

    /// Waits for the certificate and compares; no other collector may have one.
    fn certified(&self, collector: &str, hour: usize, others: &[&str]) -> Value {
        let save = self.save(collector);
        let what = format!("{collector}'s tag of hour {hour}");
        let found = until(LONG, &what, || tag(&save, "web1", self.hours[hour]));
        assert_eq!(found["verified"], true, "{found}");
        assert_same(&save.join("log_data").join(format!("web1_{}", self.hours[hour])), &self.source(hour));
        for other in others {
            assert_eq!(tag(&self.save(other), "web1", self.hours[hour]), None, "{other}, hour {hour}");
        }
        found
    }
}

/// What `logd status` of a follower says of an hour.
fn row(follower: &Node, hour: Hour) -> Option<Value> {
    let ran = logd(&[Path::new("status"), Path::new("--json"), follower.config()]);
    let all: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let rows = all["roles"][0]["hours"].as_array().unwrap();
    rows.iter().find(|r| r["hour"] == hour.to_string()).cloned()
}

/// Waits until the hour is bound to this address and nothing of it waits.
fn bound(follower: &Node, hour: Hour, to: &str) {
    until(LONG, &format!("{hour} bound to {to}"), || {
        let row = row(follower, hour)?;
        (row["bound"] == to && row["unacknowledged"] == 0 && row["behind"] == 0).then_some(())
    });
}

/// The first hour is bound to `a`, which is killed while more of it is under way; two others are certified by `b`. Returns
/// while `a` is dead.
fn one_dies(p: &mut Place, follower: &mut Node, a: &mut Node, addrs: &[String; 2]) {
    p.write(0, 200);
    follower.ready();
    bound(follower, p.hours[0], &addrs[0]);
    // More than `tail_memory` and the retry spool hold.
    p.write(0, 15_000);
    a.kill();
    p.write(0, 200);
    // The first hour is closed by this, as far as its own host is concerned.
    p.write(1, 500);
    follower.says(&format!("sending to {} now: {} does not answer since 3 attempts", addrs[1], addrs[0]));
    for hour in [2, 3] {
        p.write(hour, 500);
        p.certified("b", hour - 1, &["a"]);
    }
    let first = until(LONG, "the first hour to be closed", || {
        row(follower, p.hours[0]).filter(|r| r["closed"] == true && r["behind"] == 0)
    });
    assert!(first["bound"] == addrs[0].as_str() && first["unacknowledged"].as_u64() > Some(1), "{first}");
}

#[test]
fn each_hour_is_certified_by_one_of_two_collectors() {
    let mut p = Place::new("failover");
    let at = [fixed_addr(), fixed_addr()];
    let addrs = at.map(|a| a.to_string());
    let (mut a, _b) = (p.collector("a", at[0]), p.collector("b", at[1]));
    // A retry spool that a few packs fill, and less memory than the first hour has bytes.
    let small = [("spool_size", "128k"), ("segment_size", "64k"), ("tail_memory", "1M")];
    let mut follower = p.follower(&addrs.join(", "), &small);
    one_dies(&mut p, &mut follower, &mut a, &addrs);

    let status = logd(&[Path::new("status"), follower.config()]);
    for part in [
        format!("{} does not answer since", addrs[0]),
        format!("all else goes to {}", addrs[1]),
        format!("bound to {}", addrs[1]),
    ] {
        assert!(status.out.contains(&part), "{part}: {status:?}");
    }

    a.restart();
    p.certified("a", 0, &["b"]);
    // All is told once, however often it was tried.
    let log = follower.log();
    assert_eq!(log.matches("does not answer since 3 attempts").count(), 1, "{log}");
    until(LONG, "status without the address that answers again", || {
        let status = logd(&[Path::new("status"), follower.config()]);
        (!status.out.contains("does not answer")).then_some(())
    });
    for hour in [1, 2] {
        p.certified("b", hour, &["a"]);
    }
}

/// The journal knows; a follower that forgot would send the rest to the other collector.
#[test]
fn a_follower_that_was_killed_still_waits_for_the_one_that_has_begun_the_hour() {
    let mut p = Place::new("failover-kill");
    let at = [fixed_addr(), fixed_addr()];
    let addrs = at.map(|a| a.to_string());
    let (mut a, _b) = (p.collector("a", at[0]), p.collector("b", at[1]));
    let mut follower = p.follower(&addrs.join(", "), &[]);
    one_dies(&mut p, &mut follower, &mut a, &addrs);
    let waiting = row(&follower, p.hours[0]).unwrap()["unacknowledged"].clone();

    for _ in 0..2 {
        follower.restart();
        // It begins with the first address again, finds out, and goes on. The current hour is bound to the second one.
        follower.ready();
        p.write(3, 100);
        p.stored("b", 3);
        let first = row(&follower, p.hours[0]).unwrap();
        assert!(first["bound"] == addrs[0].as_str() && first["unacknowledged"] == waiting, "{first}");
        follower.kill();
    }
    // Nor does the order of the list matter.
    let mut follower = p.follower(&[&addrs[1], &addrs[0]].map(String::as_str).join(", "), &[]);
    follower.ready();
    p.write(3, 100);
    p.stored("b", 3);
    a.restart();
    p.certified("a", 0, &["b"]);
    for hour in [1, 2] {
        p.certified("b", hour, &["a"]);
    }
}

#[test]
fn any_of_two_relays_takes_any_pack() {
    let mut p = Place::new("failover-any");
    let at = [fixed_addr(), fixed_addr()];
    let addrs = at.map(|a| a.to_string());
    let mut store = p.collector("a", fixed_addr());
    let to = store.addr().to_string();
    let (mut one, _other) = (p.relay("one", at[0], &to), p.relay("other", at[1], &to));
    let mut follower = p.follower(&addrs.join(","), &[("failover", "any")]);
    p.write(0, 200);
    follower.ready();
    p.stored("a", 0);
    p.write(0, 3_000);
    one.kill();
    p.write(0, 200);
    p.write(1, 500);
    // Other hours do not wait for the dead relay.
    for hour in [2, 3] {
        p.write(hour, 500);
        p.certified("a", hour - 1, &[]);
    }
    // Nor does this one, but for what that relay has acknowledged and not passed on.
    until(LONG, "all to be acknowledged", || {
        let row = row(&follower, p.hours[0]);
        row.is_none_or(|r| r["unacknowledged"] == 0 && r["closed"] == true).then_some(())
    });
    one.restart();
    p.certified("a", 0, &[]);
}

/// A relay has no journal; what it knows of hours outlives it all the same.
#[test]
fn a_relay_keeps_an_hour_together() {
    let mut p = Place::new("failover-relay");
    let at = [fixed_addr(), fixed_addr()];
    let addrs = at.map(|a| a.to_string());
    let (mut a, _b) = (p.collector("a", at[0]), p.collector("b", at[1]));
    let mut relay = p.relay("relay", fixed_addr(), &addrs.join(","));
    let mut follower = p.follower(&relay.addr().to_string(), &[]);
    p.write(0, 200);
    follower.ready();
    p.stored("a", 0);
    p.write(0, 3_000);
    a.kill();
    p.write(0, 200);
    p.write(1, 500);
    relay.says(&format!("sending to {} now: {} does not answer since 3 attempts", addrs[1], addrs[0]));
    p.write(2, 500);
    p.certified("b", 1, &["a"]);
    relay.restart();
    p.write(3, 500);
    p.certified("b", 2, &["a"]);
    // It came to nothing but the collector that has the beginning.
    let strays = |p: &Place| p.save("b").join("log_data").join(format!("web1_{}", p.hours[0])).exists();
    assert!(!strays(&p));
    a.restart();
    p.certified("a", 0, &["b"]);
    assert!(!strays(&p));
}

#[test]
fn an_hour_can_be_sent_again_to_a_chosen_address() {
    let mut p = Place::new("failover-resend");
    let at = [fixed_addr(), fixed_addr()];
    let addrs = at.map(|a| a.to_string());
    let (mut a, _b) = (p.collector("a", at[0]), p.collector("b", at[1]));
    let mut follower = p.follower(&addrs.join(","), &[]);
    one_dies(&mut p, &mut follower, &mut a, &addrs);
    // The first one is gone for good, and had certified nothing.
    let hour = p.hours[0].to_string();
    let config = follower.config().display().to_string();
    let resend = |args: &[&str]| {
        let mut all = vec!["resend".to_owned(), config.clone()];
        all.extend(args.iter().map(|a| (*a).to_owned()));
        logd(&all)
    };
    let ran = resend(&[&hour, "--to", "c:1"]);
    assert!(ran.code == 2 && ran.err.contains("--to c:1: send_to names "), "{ran:?}");
    let ran = resend(&[&hour, "--packs", "1", "--to", &addrs[1]]);
    assert!(ran.code == 64 && ran.err.contains("whole hours"), "{ran:?}");
    let ran = resend(&[&hour, "--to", &addrs[1]]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let tag = p.certified("b", 0, &["a"]);
    assert!(tag["gen"].as_u64() > Some(0), "{tag}");
    follower.says(&format!(", to {}", addrs[1]));

    // And to one that does not answer: there it waits, whatever is in use.
    let ran = resend(&[&p.hours[1].to_string(), "--to", &addrs[0]]);
    assert_eq!(ran.code, 0, "{ran:?}");
    until(LONG, "the copy to be bound", || {
        let row = row(&follower, p.hours[1])?;
        (row["bound"] == addrs[0].as_str() && row["closed"] == true).then_some(())
    });
    a.restart();
    p.certified("a", 1, &[]);
}

// ---- every crash ----

/// Some address has taken all packs of each hour; a collector behind it would certify it.
fn whole_somewhere(w: &World, hours: &[&str], what: &str) {
    let tags = w.tags();
    for hour in hours {
        let (packs, generation) = (tags[*hour].packs, tags[*hour].generation);
        let taken = &w.wire.taken[&(format!("web1_{hour}"), generation)];
        let whole = taken.values().any(|ids| (1..=packs).all(|id| ids.contains(&id)));
        assert!(whole, "{what}: {hour} has {packs} packs, taken: {taken:?}");
    }
}

/// Hours are begun at one address, which is then shut. Whatever call of the follower's machine is its last.
#[test]
fn a_crash_at_any_call_scatters_no_hour() {
    const HOURS: [&str; 3] = ["2026112205", "2026112206", "2026112207"];
    fn run(at: Option<u64>, loss: fn(u32) -> Outcome) -> u64 {
        let mut w = World::new(1);
        w.second_address();
        w.loss = loss;
        w.round(1_000);
        let calls = w.machines[0].sim.calls();
        if let Some(at) = at {
            w.machines[0].sim.plan(calls + at, Fault::Crash);
        }
        for (n, hour) in (0..).zip(HOURS) {
            for line in 0..8 {
                w.write(hour, &format!("{hour} line {line} {:040x}\n", line * 7_919));
                // Answers are lost just before an address is shut: packs are there, and nobody knows.
                w.wire.lost_answers = if line == 3 { 100 } else { 0 };
                match line {
                    4 => w.wire.shut = vec![n % 2],
                    7 if n == 1 => w.wire.shut.clear(),
                    _ => {}
                }
                (0..4).for_each(|_| w.round(1_500));
            }
            w.clock.advance(3_600_000 - 48_000);
        }
        w.heal();
        w.settle(&HOURS);
        whole_somewhere(&w, &HOURS, &format!("call {at:?}, {:?}", loss(0)));
        w.machines[0].sim.calls() - calls
    }
    let fates: [fn(u32) -> Outcome; 2] = [|_| Outcome::LoseUnsynced, |_| Outcome::KeepAll];
    let calls = run(None, fates[0]);
    println!("{calls} calls");
    for at in 1..=calls {
        run(Some(at), fates[(at % 2) as usize]);
    }
}

/// The same without a plan: addresses come and go, frames and answers are lost, and the follower is killed.
#[test]
fn no_outage_scatters_an_hour() {
    let seed = seed();
    for round in 0..if soak() { 400 } else { 12 } {
        let mut rng = Rng::new(seed + round);
        let mut w = World::new(seed + round);
        w.second_address();
        let hours = ["2026112205", "2026112206", "2026112207", "2026112208"];
        w.round(1_000);
        for hour in hours {
            let begun = w.now_ms();
            for line in 0..20 {
                w.write(hour, &format!("{hour} line {line} {:040x}\n", line * 7_919));
                match rng.below(6) {
                    0 => w.wire.shut = vec![rng.below(2) as usize],
                    1 => w.wire.shut = vec![0, 1],
                    2 => w.heal(),
                    3 => (w.wire.lost_answers, w.wire.lost_packs) = (rng.below(60), rng.below(60)),
                    4 => (w.wire.doubled, w.wire.adrift) = (rng.below(20), rng.below(20)),
                    _ if rng.below(4) == 0 => w.crash(0),
                    _ => {}
                }
                (0..=rng.below(6)).for_each(|_| w.round(500 + rng.below(4_000)));
            }
            let over = u64::try_from(w.now_ms() - begun).unwrap();
            w.clock.advance(3_600_000_u64.saturating_sub(over));
        }
        w.heal();
        (0..600).for_each(|_| w.round(1_000));
        w.settle(&hours);
        whole_somewhere(&w, &hours, &format!("seed {}", seed + round));
    }
}
