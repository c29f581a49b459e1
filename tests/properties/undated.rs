//! Goal: a file whose name has no date may be rotated away at any moment, and no pack of it is lost, doubled or sent without
//! its hour's being right: whatever is sealed is in the retry spool before the journal says so.
//!
//! Which file is read and to which hour its lines belong is tested where it is decided, in `src/tail/undated/`, against a
//! model.

use super::sim;
use logd::clock::{Clock, SimClock, Zone};
use logd::disk::sim::Fault;
use logd::disk::{Disk, Outcome as Loss, SimDisk};
use logd::pack::{Meta, inflate, split_frame};
use logd::roles::follower::{Follower, Load};
use logd::sender::Outcome;
use std::collections::BTreeMap;
use std::path::Path;

const LOG: &str = "/l/access.log";

/// A follower of one file, and what it has sent so far.
struct Rig {
    disk: Disk,
    sim: SimDisk,
    clock: Clock,
    time: SimClock,
    ini: String,
    follower: Option<Follower>,
    /// By hour, copy and number.
    sent: BTreeMap<(String, u64, u64), (Meta, Vec<u8>)>,
}

impl Rig {
    fn new(more: &str) -> Self {
        let (disk, sim) = Disk::sim(1);
        let (clock, time) = Clock::sim(1_795_327_200_000);
        let ini = format!(
            "[tail]\nlog_file = {LOG}\nsend_to = c:1\nname = h\npack_bytes = 4k\nmax_line = 4k\ntail_memory = 1M\n\
             flush_interval = 1s\n{more}"
        );
        let mut rig = Self { disk, sim, clock, time, ini, follower: None, sent: BTreeMap::new() };
        rig.write("");
        rig.sim.set_mtime_ms(rig.clock.now_ms());
        rig.start();
        rig
    }

    fn start(&mut self) {
        let zone = Zone::named("UTC").unwrap();
        self.follower = Some(sim::follower(&self.disk, &self.clock, &zone, &self.ini));
    }

    /// The machine stops, and begins again.
    fn restart(&mut self, loss: Loss) {
        self.follower = None;
        self.sim.restart(loss);
        self.start();
    }

    fn write(&self, text: &str) {
        self.sim.append(Path::new(LOG), text.as_bytes());
    }

    /// Rotates, keeping nothing.
    fn rotate_away(&self) {
        self.disk.remove(Path::new(LOG)).unwrap();
        self.write("");
    }

    fn turn(&mut self) -> Result<(), logd::disk::Error> {
        self.time.advance(1_100);
        self.sim.set_mtime_ms(self.clock.now_ms());
        self.follower.as_mut().unwrap().step()
    }

    fn turns(&mut self, n: usize) {
        (0..n).for_each(|_| self.turn().unwrap());
    }

    /// Sends what is ready, and acknowledges it.
    fn send(&mut self) {
        while let Some(job) = self.follower.as_mut().unwrap().next_job().unwrap() {
            let (meta, raw) = match &job.load {
                Load::Raw(meta, raw) => ((**meta).clone(), raw.clone()),
                Load::Frame(frame) => {
                    let (header, body) = split_frame(frame).unwrap();
                    let (meta, mut raw) = (header.meta("none").unwrap(), Vec::new());
                    inflate(body, &meta, &mut raw, 1 << 20).unwrap();
                    (meta, raw)
                }
            };
            let key = (meta.key.hour.to_string(), meta.generation, meta.id);
            if let Some((before, _)) = self.sent.insert(key.clone(), (meta.clone(), raw)) {
                assert_eq!(before.seal, meta.seal, "{key:?} is two packs");
            }
            self.follower.as_mut().unwrap().report(job, &[], &Outcome::Sent).unwrap();
        }
    }

    /// All that was sent of the newest copy of each hour, in order.
    fn text(&self) -> String {
        let newest = |hour: &str| {
            self.sent.keys().filter(|(h, ..)| h == hour).map(|(_, generation, _)| *generation).max()
        };
        let mine = self.sent.iter().filter(|((h, g, _), _)| newest(h) == Some(*g));
        String::from_utf8(mine.flat_map(|(_, (_, raw))| raw.clone()).collect()).unwrap()
    }

    fn alarms(&self) -> String {
        self.follower.as_ref().unwrap().alarms.join("\n")
    }
}

fn lines(from: usize, to: usize) -> String {
    (from..to).map(|n| ["line ", &format!("{n:05} "), &"x".repeat(n % 90), "\n"].concat()).collect()
}

#[test]
fn a_file_that_is_rotated_away_before_anybody_answers_is_sent_from_the_retry_spool() {
    let mut rig = Rig::new("");
    let text = lines(0, 400);
    rig.write(&text);
    rig.turns(4);
    rig.rotate_away();
    // Nobody but the retry spool has it any more.
    rig.restart(Loss::LoseUnsynced);
    rig.write("new\n");
    rig.turns(12);
    rig.send();
    assert_eq!(rig.text(), text + "new\n");
    rig.turns(2);
    rig.restart(Loss::LoseUnsynced);
    let before = rig.sent.len();
    rig.turns(2);
    rig.send();
    assert_eq!(rig.sent.len(), before, "what was acknowledged is not sent again");
}

/// The pack is in the spool first, and then in the journal: in between it is in one of them only.
#[test]
fn a_crash_at_any_disk_call_neither_loses_nor_doubles_a_line() {
    let mut crashes = 0;
    for loss in [Loss::LoseUnsynced, Loss::KeepAll] {
        for at in 1.. {
            let mut rig = Rig::new("start = beginning\n");
            rig.write(&lines(0, 30));
            rig.turns(2);
            rig.write(&lines(30, 150));
            rig.sim.plan(rig.sim.calls() + at, Fault::Crash);
            let mut stopped = false;
            for _ in 0..3 {
                stopped = stopped || rig.turn().is_err();
                if !stopped {
                    rig.send();
                }
            }
            rig.sim.forget_plan();
            if !stopped && !rig.sim.crashed() {
                break;
            }
            crashes += 1;
            rig.restart(loss);
            // Lines that were read and not sealed may have other neighbours now.
            rig.write(&lines(150, 160));
            rig.turns(3);
            rig.send();
            rig.restart(loss);
            rig.turns(2);
            rig.send();
            assert_eq!(rig.text(), lines(0, 160), "crash at call {at}");
            assert!(!rig.alarms().contains("held/"), "crash at call {at}: {}", rig.alarms());
        }
    }
    assert!(crashes > 20, "{crashes}");
}

#[test]
fn without_room_in_the_retry_spool_nothing_is_read_and_all_of_it_later() {
    let mut rig = Rig::new("start = beginning\nspool_size = 1100k\nsegment_size = 64k\n");
    // Letters that do not compress much.
    let mut state = 1u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + (state >> 33) as u8 % 90)
    };
    let text: String =
        (0..25_000).map(|_| (0..99).map(|_| letter()).chain(['\n']).collect::<String>()).collect();
    rig.write(&text);
    rig.turns(150);
    let held = |rig: &Rig| -> u64 {
        let mine = rig.sim.paths().into_iter().filter(|(p, _)| p.starts_with("/state/retry"));
        mine.map(|(_, len)| len).sum()
    };
    assert!(held(&rig) <= 1100 << 10, "{}", held(&rig));
    assert!(rig.alarms().contains("h: not read: there is no room in /state/retry"), "{}", rig.alarms());
    for _ in 0..100 {
        rig.send();
        rig.turns(4);
        assert!(held(&rig) <= 1100 << 10, "{}", held(&rig));
    }
    assert_eq!(rig.text().len(), text.len());
    assert_eq!(rig.text(), text);
}

#[test]
fn a_damaged_journal_sends_the_open_hour_once_more_from_where_it_began() {
    let mut rig = Rig::new("start = beginning\n");
    rig.write(&lines(0, 100));
    rig.turns(3);
    // The hour before is over, and acknowledged.
    rig.time.advance(3_600_000);
    rig.turns(2);
    rig.send();
    rig.turns(1);
    rig.write(&lines(100, 200));
    rig.turns(3);
    rig.send();
    rig.turns(1);
    rig.follower = None;
    assert!(rig.sim.flip(Path::new("/state/journal/log"), 100, 1));
    rig.start();
    assert!(rig.alarms().contains("damaged at byte"), "{}", rig.alarms());
    rig.turns(3);
    rig.send();
    assert_eq!(rig.text(), lines(0, 200));
    let copies: Vec<u64> = rig.sent.keys().map(|(_, generation, _)| *generation).collect();
    assert!(copies.contains(&0) && copies.iter().any(|g| *g > 0), "{copies:?}");
}
