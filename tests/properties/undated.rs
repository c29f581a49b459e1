//! Goal: a file whose name has no date may be rotated away at any moment, and no pack of it is lost, doubled or sent without
//! its hour's being right: whatever is sealed is in the retry spool before the journal says so.
//!
//! Which file is read and to which hour its lines belong is tested where it is decided, in `src/tail/undated/`, against a
//! model.

use super::{sim, support};
use logd::clock::{Clock, SimClock, Zone};
use logd::disk::sim::Fault;
use logd::disk::{Disk, Outcome as Loss, SimDisk};
use logd::pack::{Meta, inflate, split_frame};
use logd::roles::follower::resend::Request;
use logd::roles::follower::{Follower, Load};
use logd::sender::{Fail, Outcome};
use logd::spool::Shelf;
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
    /// The state directory has served before.
    served: bool,
    follower: Option<Follower>,
    /// By stream and hour, copy and number.
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
        let mut rig =
            Self { disk, sim, clock, time, ini, served: false, follower: None, sent: BTreeMap::new() };
        rig.write("");
        rig.sim.set_mtime_ms(rig.clock.now_ms());
        rig.start();
        rig
    }

    fn start(&mut self) {
        let zone = Zone::named("UTC").unwrap();
        self.follower = Some(sim::follower(&self.disk, &self.clock, &zone, &self.ini, self.served));
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
        self.send_some(usize::MAX);
    }

    /// Sends at most so many packs.
    fn send_some(&mut self, most: usize) {
        for _ in 0..most {
            let Some(job) = self.follower.as_mut().unwrap().next_job().unwrap() else { break };
            let (meta, raw) = match &job.load {
                Load::Raw(meta, raw) => ((**meta).clone(), raw.clone()),
                Load::Frame(frame) => opened(frame),
            };
            let key = (meta.key.to_string(), meta.generation, meta.id);
            if let Some((before, _)) = self.sent.insert(key.clone(), (meta.clone(), raw)) {
                assert_eq!(before.seal, meta.seal, "{key:?} is two packs");
            }
            self.follower.as_mut().unwrap().report(job, &[], &Outcome::Sent).unwrap();
        }
    }

    /// What was sent of a stream, in order.
    fn text_of(&self, name: &str) -> String {
        let mine = self.sent.values().filter(|(m, _)| m.key.name == name);
        String::from_utf8(mine.flat_map(|(_, raw)| raw.clone()).collect()).unwrap()
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

/// What a frame holds.
fn opened(frame: &[u8]) -> (Meta, Vec<u8>) {
    let (header, body) = split_frame(frame).unwrap();
    let (meta, mut raw) = (header.meta("none").unwrap(), Vec::new());
    inflate(body, &meta, &mut raw, 1 << 20).unwrap();
    (meta, raw)
}

/// Lines of letters that do not compress much.
fn hard(lines: usize) -> String {
    let mut state = 1u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + (state >> 33) as u8 % 90)
    };
    (0..lines).map(|_| (0..99).map(|_| letter()).chain(['\n']).collect::<String>()).collect()
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
    let text = hard(25_000);
    rig.write(&text);
    rig.turns(150);
    let held = |rig: &Rig| -> u64 {
        let mine = rig.sim.paths().into_iter().filter(|(p, _)| p.starts_with("/state/retry"));
        mine.map(|(_, len)| len).sum()
    };
    assert!(held(&rig) <= 1100 << 10, "{}", held(&rig));
    assert!(
        rig.alarms().contains("h: not read: there is no more room for it in /state/retry"),
        "{}",
        rig.alarms()
    );
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

/// The follower stops, this byte of a file is damaged, and it starts again.
fn start_with_damage(rig: &mut Rig, path: &str, at: u64) {
    rig.follower = None;
    assert!(rig.sim.flip(Path::new(path), at, 1), "{path}");
    rig.start();
}

/// What waits in `held/`, in order.
fn held(rig: &Rig) -> String {
    let shelf = Shelf::open(&rig.disk, Path::new("/state/held"), 1 << 20, 1 << 20).unwrap();
    let mut packs = Vec::new();
    for name in shelf.names() {
        for file in shelf.list(name).unwrap() {
            let (meta, raw) = opened(&shelf.get(name, &file).unwrap().unwrap());
            packs.push(((meta.key.hour, meta.id), raw));
        }
    }
    packs.sort();
    String::from_utf8(packs.into_iter().flat_map(|(_, raw)| raw).collect()).unwrap()
}

/// Wherever the journal is damaged: what the retry spool has is sent or held and named, and no hour is called whole that
/// is not.
#[test]
fn a_journal_damaged_anywhere_loses_nothing_that_is_on_disk() {
    let story = |rotated: bool, start: &str| {
        let mut rig = Rig::new(start);
        rig.write(&lines(0, 100));
        rig.turns(3);
        rig.time.advance(3_600_000);
        rig.turns(5);
        rig.write(&lines(100, 200));
        rig.turns(3);
        if rotated {
            rig.rotate_away();
        }
        rig
    };
    let log = Path::new("/state/journal/log");
    let len = story(true, "").sim.look(log, |c| c.unwrap().len() as u64);
    for at in (20..len).step_by(61) {
        for (rotated, start) in [(true, ""), (false, ""), (true, "start = beginning\n")] {
            let mut rig = story(rotated, start);
            start_with_damage(&mut rig, "/state/journal/log", at);
            let damaged = rig.alarms().contains("damaged at byte");
            rig.turns(8);
            rig.send();
            rig.time.advance(3_600_000);
            rig.turns(3);
            rig.send();
            let what = format!("byte {at}, rotated {rotated}, {start:?}: {}", rig.alarms());
            let all: String =
                rig.sent.values().map(|(_, raw)| String::from_utf8(raw.clone()).unwrap()).collect();
            let kept = all + &held(&rig);
            for line in lines(0, 200).lines() {
                assert!(kept.contains(line), "{line}: {what}");
            }
            assert!(!damaged || !rotated || rig.alarms().contains("held/"), "{what}");
            // The first two hours are known here to their last line.
            for (hour, truth) in [("h_2026112206", lines(0, 100)), ("h_2026112207", lines(100, 200))] {
                let copy = rig.sent.keys().filter(|(h, ..)| h == hour).map(|(_, g, _)| *g).max();
                let mine = rig.sent.iter().filter(|((h, g, _), _)| h == hour && Some(*g) == copy);
                let mine: Vec<&(Meta, Vec<u8>)> = mine.map(|(_, pack)| pack).collect();
                if mine.iter().any(|(m, _)| m.done) && mine.iter().all(|(m, _)| m.state.is_empty()) {
                    let text: Vec<u8> = mine.iter().flat_map(|(_, raw)| raw.clone()).collect();
                    assert_eq!(String::from_utf8(text).unwrap(), truth, "{hour}: {what}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_file_of_a_closed_hour_neither_doubles_nor_loses_a_line() {
    for unreadable in [true, false] {
        let mut rig = Rig::new("start = beginning\n");
        rig.write(&lines(0, 100));
        rig.turns(3);
        rig.time.advance(3_600_000);
        rig.turns(5);
        rig.send();
        rig.turns(3);
        let archive = "/state/journal/hours/h_2026112206";
        assert!(rig.disk.stat(Path::new(archive)).unwrap().is_some(), "{:?}", rig.sim.paths());
        if unreadable {
            rig.sim.set_unreadable(Path::new(archive), 0..1 << 20);
            rig.follower = None;
            rig.start();
        } else {
            start_with_damage(&mut rig, archive, 30);
        }
        rig.write(&lines(100, 200));
        rig.turns(8);
        rig.send();
        assert_eq!(rig.text(), lines(0, 200), "{}", rig.alarms());
    }
}

/// An original counts no copies, so that a number may stand for other bytes after the journal was lost.
#[test]
fn a_held_pack_whose_number_stands_for_other_bytes_now_stays_there() {
    let mut rig = Rig::new("start = beginning\npeer = original\nheld_after = 10s\n");
    rig.write(&lines(0, 20));
    rig.turns(3);
    for _ in 0..20 {
        let follower = rig.follower.as_mut().unwrap();
        if let Some(job) = follower.next_job().unwrap() {
            let Load::Frame(frame) = &job.load else { panic!("it is in the retry spool") };
            let frame = frame.clone();
            follower.report(job, &frame, &Outcome::PermFail("no".into())).unwrap();
        }
        if !held(&rig).is_empty() {
            break;
        }
        rig.time.advance(20_000);
    }
    assert_eq!(held(&rig), lines(0, 20));
    rig.turns(1);
    rig.follower = None;
    rig.disk.remove(Path::new("/state/journal/log")).unwrap();
    rig.disk.remove(Path::new(LOG)).unwrap();
    rig.write(&lines(20, 40));
    rig.start();
    // It is looked for in held/ while the new pack waits.
    rig.turns(30);
    rig.send();
    assert_eq!(rig.text(), lines(20, 40));
    assert_eq!(held(&rig), lines(0, 20));
}

/// The first byte of the first pack's body in the retry spool.
fn damage_first_record(rig: &Rig) {
    let mut segments: Vec<_> =
        rig.sim.paths().into_iter().filter(|(p, _)| p.starts_with("/state/retry")).collect();
    segments.retain(|(p, len)| p.extension().is_some_and(|e| e == "seg") && *len > 0);
    segments.sort();
    assert!(rig.sim.flip(&segments[0].0, 200, 1), "{segments:?}");
}

#[test]
fn a_damaged_record_is_read_again_from_a_rotated_file_or_is_told_as_lost() {
    for kept in [true, false] {
        let mut rig = Rig::new("start = beginning\n");
        rig.write(&lines(0, 200));
        rig.turns(4);
        rig.time.advance(3_600_000);
        rig.turns(5);
        if kept {
            let text = rig.sim.look(Path::new(LOG), |c| c.unwrap().to_vec());
            rig.sim.put(Path::new("/l/access.log.1.gz"), &support::gzipped(&text));
        }
        rig.rotate_away();
        rig.turns(8);
        damage_first_record(&rig);
        if kept {
            rig.send();
            assert_eq!(rig.text(), lines(0, 200), "{}", rig.alarms());
            continue;
        }
        // The first one is asked for, and found to be lost; then the hour's last pack says so, also after a restart.
        drop(rig.follower.as_mut().unwrap().next_job().unwrap());
        rig.turns(1);
        rig.restart(Loss::LoseUnsynced);
        rig.turns(2);
        rig.send();
        let first_hour = rig.sent.iter().filter(|((hour, ..), _)| hour == "h_2026112206");
        let metas: Vec<&Meta> = first_hour.map(|(_, (m, _))| m).collect();
        assert!(metas[0].loss.starts_with("0-"), "{metas:?}");
        let last = metas.last().unwrap();
        assert!(last.done && last.state == "loss", "{last:?}");
        assert!(lines(0, 200).ends_with(&rig.text()), "{}", rig.alarms());
    }
}

#[test]
fn what_rotates_while_there_is_no_room_is_read_when_there_is() {
    let mut rig = Rig::new("start = beginning\nspool_size = 1100k\nsegment_size = 64k\n");
    let text = hard(25_000);
    rig.write(&text);
    rig.turns(150);
    assert!(rig.alarms().contains("h: not read: there is no more room"), "{}", rig.alarms());
    rig.write(&lines(0, 10));
    rig.turns(2);
    rig.rotate_away();
    rig.write(&lines(10, 20));
    rig.turns(2);
    rig.rotate_away();
    rig.write(&lines(20, 30));
    for _ in 0..100 {
        rig.send();
        rig.turns(4);
    }
    rig.send();
    assert_eq!(rig.text().len(), text.len() + lines(0, 30).len());
    assert_eq!(rig.text(), text + &lines(0, 30));
    assert!(!rig.alarms().contains("not certified"), "{}", rig.alarms());
}

#[test]
fn without_room_streams_whose_files_have_a_date_go_on_and_the_others_take_turns() {
    let mut rig = Rig::new(
        "start = beginning\nspool_size = 1100k\nsegment_size = 64k\n[tail:b]\nlog_file = /l/b.log\nstart = beginning\n\
         [tail:c]\nlog_file = /l/c.log.<%Y%m%d%H>\n",
    );
    let (a, b) = (hard(25_000), hard(25_000));
    rig.write(&a);
    rig.sim.append(Path::new("/l/b.log"), b.as_bytes());
    rig.turns(150);
    rig.sim.append(Path::new("/l/c.log.2026112206"), b"dated\n");
    rig.turns(8);
    rig.send_some(400);
    assert_eq!(rig.text_of("h+c"), "dated\n");
    for _ in 0..900 {
        rig.send_some(1);
        rig.turns(1);
    }
    let both = [rig.text_of("h").len(), rig.text_of("h+b").len()];
    assert!(both[0].min(both[1]) * 3 > both[0].max(both[1]), "{both:?}");
    for _ in 0..200 {
        rig.send();
        rig.turns(4);
    }
    assert_eq!((rig.text_of("h"), rig.text_of("h+b")), (a, b));
}

#[test]
fn a_file_that_is_nowhere_is_not_searched_for_at_each_look() {
    let mut rig = Rig::new("start = beginning\n");
    rig.write(&lines(0, 10));
    rig.turns(3);
    rig.follower = None;
    rig.disk.remove(Path::new(LOG)).unwrap();
    rig.sim.append(Path::new("/l/access.log.1"), lines(500, 520).as_bytes());
    rig.start();
    // Each search ends with this.
    rig.sim.set_unreadable(Path::new("/l/access.log.1"), 0..9_999);
    let before = rig.sim.bad_reads();
    for _ in 0..100 {
        rig.time.advance(100);
        rig.follower.as_mut().unwrap().step().unwrap();
    }
    let searches = rig.sim.bad_reads() - before;
    assert!((1..4).contains(&searches), "{searches} in ten seconds");
}

#[test]
fn packs_of_a_rotated_file_are_sent_again_if_anything_still_holds_them() {
    let mut rig = Rig::new("start = beginning\n");
    rig.write(&lines(0, 100));
    rig.turns(4);
    rig.send();
    rig.turns(2);
    let ask = |rig: &mut Rig| {
        let hour = logd::clock::Hour::parse("2026112206").unwrap();
        Request::new("", hour, vec![(1, 1)]).save(&rig.disk, Path::new("/state")).unwrap();
        let before = rig.sent.clone();
        rig.sent.clear();
        rig.turns(3);
        rig.send();
        let again = std::mem::replace(&mut rig.sent, before);
        again.into_iter().map(|(_, (m, raw))| (m.id, raw)).collect::<Vec<_>>()
    };
    let first = rig.sent.values().next().unwrap().1.clone();
    rig.disk.rename(Path::new(LOG), Path::new("/l/access.log.1")).unwrap();
    rig.write("new\n");
    assert_eq!(ask(&mut rig), [(1, first)]);
    rig.disk.remove(Path::new("/l/access.log.1")).unwrap();
    assert_eq!(ask(&mut rig).iter().filter(|(id, _)| *id == 1).count(), 0);
    assert!(rig.alarms().contains("nor does a rotated one beside it"), "{}", rig.alarms());
}

#[test]
fn of_a_directory_that_appears_nothing_is_skipped() {
    let mut rig = Rig::new("[tail:web-*]\nlog_file = /l/*/access.log\n");
    let write = |rig: &Rig, path: &str, text: &str| rig.sim.append(Path::new(path), text.as_bytes());
    rig.follower = None;
    write(&rig, "/l/x/access.log.1", "old\n");
    write(&rig, "/l/x/access.log", "old\n");
    rig.start();
    rig.turns(3);
    write(&rig, "/l/x/access.log", "new\n");
    write(&rig, "/l/y/access.log.1", "one\n");
    write(&rig, "/l/y/access.log", "two\n");
    rig.turns(60);
    rig.send();
    // The first start is at the end, of rotated files too; what comes later is whole.
    assert_eq!((rig.text_of("h+web-x"), rig.text_of("h+web-y")), ("new\n".into(), "one\ntwo\n".into()));
}

/// The follower is told that the journal was lost; of what it reads once more nobody knows the hour.
#[test]
fn a_lost_journal_certifies_nothing_of_what_is_read_once_more() {
    for cut in [true, false] {
        let mut rig = Rig::new("start = beginning\n");
        rig.write(&lines(0, 100));
        rig.turns(3);
        rig.send();
        rig.time.advance(3_600_000);
        rig.turns(5);
        rig.write(&lines(100, 200));
        rig.turns(3);
        rig.follower = None;
        if cut {
            assert!(rig.sim.truncate(Path::new("/state/journal/log"), 0));
        } else {
            rig.disk.remove(Path::new("/state/journal/log")).unwrap();
        }
        rig.served = true;
        rig.start();
        rig.turns(8);
        rig.time.advance(3_600_000);
        rig.turns(5);
        rig.send();
        let last = |(m, _): &&(Meta, Vec<u8>)| m.done && m.key.hour.to_string() == "2026112207";
        let state = rig.sent.values().rfind(last).map(|(m, _)| m.state.clone());
        assert_eq!(state.as_deref(), Some("partial"), "{}", rig.alarms());
    }
}

#[test]
fn after_a_damaged_journal_one_sentence_tells_of_all_packs_of_an_hour() {
    let mut rig = Rig::new("start = beginning\n");
    rig.write(&lines(0, 3_000));
    rig.turns(10);
    start_with_damage(&mut rig, "/state/journal/log", 100);
    let said = rig.alarms();
    let told: Vec<&str> = said.lines().filter(|l| l.contains("does not know whether")).collect();
    assert!(told.len() == 1 && told[0].contains("packs of it in the retry spool"), "{said}");
}

/// Between the renaming and the first line of the new file there is only the rotated one.
#[test]
fn what_rotation_leaves_is_no_stream_of_its_own() {
    for restart in [false, true] {
        let mut rig = Rig::new("[tail:web-*]\nlog_file = /m/*.log\n");
        let log = Path::new("/m/access.log");
        rig.follower = None;
        rig.sim.append(log, b"one\n");
        rig.start();
        rig.turns(3);
        rig.sim.append(log, b"two\n");
        rig.turns(5);
        rig.disk.rename(log, Path::new("/m/access-20261122.log")).unwrap();
        if restart {
            rig.restart(Loss::KeepAll);
        }
        rig.turns(8);
        rig.sim.append(log, b"three\n");
        rig.turns(12);
        rig.send();
        assert_eq!(rig.text_of("h+web-access"), "two\nthree\n", "{restart}");
        assert_eq!(rig.text_of("h+web-access-20261122"), "", "{restart}");
    }
}

#[test]
fn one_file_is_one_stream() {
    let mut rig = Rig::new("start = beginning\n[tail:web-*]\nlog_file = /l/*.log\n");
    rig.write(&lines(0, 10));
    rig.turns(20);
    rig.send();
    assert_eq!((rig.text_of("h"), rig.text_of("h+web-access")), (lines(0, 10), String::new()));
    assert!(rig.alarms().contains("/l/access.log: not followed as \"web-access\""), "{}", rig.alarms());
}

#[test]
fn packs_on_disk_take_little_of_the_window_and_a_full_one_is_told() {
    let mut rig = Rig::new("start = beginning\nwindow_packs = 16\n");
    for i in 0..400 {
        rig.write(&lines(i, i + 1));
        rig.turns(2);
        if let Some(job) = rig.follower.as_mut().unwrap().next_job().unwrap() {
            let outcome = Outcome::TempFail { reason: "nobody answers".into(), how: Fail::NoConnection };
            rig.follower.as_mut().unwrap().report(job, &[], &outcome).unwrap();
        }
    }
    let waiting = rig.follower.as_ref().unwrap().unacknowledged();
    assert!((200..300).contains(&waiting), "{waiting}");
    let told = rig.alarms().matches("as many as window_packs allows").count();
    assert_eq!(told, 1, "{}", rig.alarms());
    for _ in 0..200 {
        rig.send();
        rig.turns(4);
    }
    assert_eq!(rig.text(), lines(0, 400));
}

/// A busy stream filled the retry spool while nobody answered, and the quiet ones were not read until it was empty again.
#[test]
fn a_busy_stream_leaves_room_in_the_retry_spool_for_the_others() {
    let mut rig = Rig::new(
        "start = beginning\nspool_size = 1100k\nsegment_size = 64k\n[tail:b]\nlog_file = /l/b.log\nstart = beginning\n",
    );
    rig.write(&hard(25_000));
    rig.sim.append(Path::new("/l/b.log"), b"begun\n");
    rig.turns(200);
    assert!(rig.alarms().contains("h: not read: there is no more room"), "{}", rig.alarms());
    rig.sim.append(Path::new("/l/b.log"), lines(0, 100).as_bytes());
    rig.turns(8);
    rig.disk.remove(Path::new("/l/b.log")).unwrap();
    rig.restart(Loss::KeepAll);
    rig.send();
    assert_eq!(rig.text_of("h+b"), "begun\n".to_owned() + &lines(0, 100));
}

#[test]
fn more_packs_than_memory_holds_are_not_read_at_once() {
    let mut rig = Rig::new("start = beginning\n");
    rig.write(&hard(12_000));
    for _ in 0..100 {
        rig.turns(1);
        rig.send();
    }
    rig.turns(2);
    let last = rig.sent.keys().map(|k| k.2).max().unwrap();
    let hour = logd::clock::Hour::parse("2026112206").unwrap();
    Request::new("", hour, vec![(1, last)]).save(&rig.disk, Path::new("/state")).unwrap();
    rig.turns(3);
    assert!(rig.alarms().contains("ask for fewer at a time"), "{}", rig.alarms());
    Request::new("", hour, vec![(1, 9)]).save(&rig.disk, Path::new("/state")).unwrap();
    rig.sent.clear();
    rig.turns(3);
    rig.send();
    assert_eq!(rig.sent.len(), 9);
}

/// One stream's trouble was an error of all of them, which then made one turn a second.
#[test]
fn a_stream_that_cannot_be_read_slows_no_other() {
    let mut rig = Rig::new("start = beginning\n[tail:b]\nlog_file = /l/b.log\nstart = beginning\n");
    rig.sim.append(Path::new("/l/b.log"), b"bad\n");
    rig.sim.set_unreadable(Path::new("/l/b.log"), 0..100);
    rig.write(&lines(0, 10));
    rig.turns(30);
    rig.send();
    assert_eq!(rig.text_of("h"), lines(0, 10));
    assert_eq!(rig.alarms().matches("b.log").count(), 1, "{}", rig.alarms());
}
