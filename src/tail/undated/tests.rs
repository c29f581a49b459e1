mod trouble;

use super::*;
use crate::disk::SimDisk;
use crate::disk::sim::Outcome;
use crate::journal::HourLog;
use crate::packer::PackerConfig;
use crate::tail::meta_of;
use std::io::Write as _;
use std::path::Path;

pub(super) const LOG: &str = "/log/access.log";
pub(super) const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

/// A machine with a web server and a follower.
pub(super) struct Rig {
    pub(super) disk: Disk,
    pub(super) sim: SimDisk,
    pub(super) clock: Clock,
    time: crate::clock::SimClock,
    pub(super) zone: Zone,
    pub(super) conf: FollowConfig,
    pub(super) identity: Identity,
    pub(super) journal: Option<Journal>,
    pub(super) undated: Option<Undated>,
    /// What the caller may send.
    pub(super) packs: Vec<Sealed>,
    /// Sealed by the last look, and not committed.
    pub(super) pending: Vec<Sealed>,
    pub(super) alarms: Vec<String>,
    pub(super) room: (usize, usize),
}

impl Rig {
    /// Nothing runs yet. It is ten minutes past the hour.
    pub(super) fn new(zone: &str, hour: &str) -> Self {
        let (disk, sim) = Disk::sim(1);
        let zone = Zone::named(zone).unwrap();
        let now = zone.starts_ms(Hour::parse(hour).unwrap()).unwrap() + 600_000;
        let (clock, time) = Clock::sim(now);
        sim.set_mtime_ms(now);
        disk.create_dir_all(Path::new("/log"), 0o755).unwrap();
        let identity = Identity {
            format: 1,
            name: "web1".into(),
            zone: zone.name(),
            first_hour: Hour::parse(hour).unwrap(),
            copies_until: None,
            copies_generation: 1,
            from_end: false,
            files: String::new(),
        };
        let packer =
            PackerConfig { pack_bytes: 1 << 16, max_line: 1 << 16, lines_per_pack: None, flush_ms: 5000 };
        let conf = FollowConfig {
            packer,
            close_wait_ms: 600_000,
            quiet_ms: 60_000,
            late_watch_ms: 0,
            journal_ms: 7 * 86_400_000,
            once: false,
            unpacked: PathBuf::new(),
            with_rotated: false,
        };
        let (packs, pending, alarms) = (Vec::new(), Vec::new(), Vec::new());
        let (journal, undated, room) = (None, None, (1 << 20, 100));
        Self { disk, sim, clock, time, zone, conf, identity, journal, undated, packs, pending, alarms, room }
    }

    /// It runs, and has looked once.
    fn started(zone: &str, hour: &str, text: &str) -> Self {
        let mut rig = Self::new(zone, hour);
        rig.write(LOG, text);
        rig.start();
        rig.look();
        rig
    }

    pub(super) fn start(&mut self) {
        let mut journal = Journal::open(&self.disk, Path::new("/state"), true, &mut |t| {
            assert!(!t.contains("damaged"), "{t}");
        })
        .unwrap()
        .0;
        // What was sealed and durable before a crash is in the retry spool.
        for s in std::mem::take(&mut self.pending) {
            let log = journal.hour(&s.key).cloned().or_else(|| journal.archived(&s.key).unwrap());
            if log.is_some_and(|l| l.cut(s.id).is_some_and(|c| c.crc == crc32fast::hash(&s.raw))) {
                self.packs.push(s);
            }
        }
        journal.commit().unwrap();
        let (conf, identity) = (self.conf.clone(), self.identity.clone());
        let path = PathBuf::from(LOG);
        let (disk, clock, zone) = (&self.disk, &self.clock, &self.zone);
        let archived = journal.archive_list().unwrap();
        let opened = Undated::open(disk, clock, zone, conf, path, identity, &mut journal, &archived);
        let mut undated = opened.unwrap();
        undated.outdated(&archived).iter().for_each(|key| journal.forget(key).unwrap());
        self.undated = Some(undated);
        self.journal = Some(journal);
    }

    pub(super) fn stop(&mut self, outcome: Outcome) {
        (self.undated, self.journal) = (None, None);
        self.sim.restart(outcome);
    }

    fn restart(&mut self) {
        self.stop(Outcome::Killed);
        self.start();
    }

    /// One look, without the commit.
    pub(super) fn try_step(&mut self) -> disk::Result<()> {
        let (undated, journal) = (self.undated.as_mut().unwrap(), self.journal.as_mut().unwrap());
        let before = self.pending.len();
        let result = undated.step(journal, self.room.0, self.room.1, &mut self.pending);
        let new = &self.pending[before..];
        let bytes: usize = new.iter().map(|s| s.raw.len()).sum();
        assert!(
            bytes <= self.room.0.max(1 << 16) && new.len() <= self.room.1,
            "{bytes} bytes, {} packs",
            new.len()
        );
        self.alarms.append(&mut undated.alarms);
        result
    }

    /// One look with its commit; how many packs it brought.
    pub(super) fn look(&mut self) -> usize {
        self.try_step().unwrap();
        self.journal.as_mut().unwrap().commit().unwrap();
        let n = self.pending.len();
        self.packs.append(&mut self.pending);
        n
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.time.advance(ms);
        self.sim.set_mtime_ms(self.clock.now_ms());
    }

    pub(super) fn step_wall(&mut self, ms: i64) {
        self.time.step_wall(ms);
        self.sim.set_mtime_ms(self.clock.now_ms());
    }

    /// Time passes, with a look every second, and sealing at the end.
    fn run(&mut self, secs: u64) {
        for _ in 0..secs {
            self.pass(1000);
            self.look();
        }
    }

    /// To so many seconds before (or after) this hour begins, without a look.
    fn go_to(&mut self, hour: &str, secs: i64) {
        let to = self.zone.starts_ms(Hour::parse(hour).unwrap()).unwrap() + secs * 1000;
        self.pass((to - self.clock.now_ms()).try_into().unwrap());
    }

    pub(super) fn write(&mut self, path: &str, text: &str) {
        self.sim.append(Path::new(path), text.as_bytes());
    }

    pub(super) fn mv(&mut self, from: &str, to: &str) {
        self.disk.rename(Path::new(from), Path::new(to)).unwrap();
        self.disk.sync_dir(Path::new(to).parent().unwrap()).unwrap();
    }

    pub(super) fn rm(&mut self, path: &str) {
        self.sim.remove_tree(Path::new(path));
    }

    /// As gzip does it: the file time stays.
    pub(super) fn gz(&mut self, path: &str) {
        let stat = self.disk.stat(Path::new(path)).unwrap().unwrap();
        let text = self.sim.look(Path::new(path), |c| c.unwrap().to_vec());
        self.sim.set_mtime_ms(stat.mtime_ms);
        self.sim.put(Path::new(&format!("{path}.gz")), &gzipped(&text));
        self.sim.set_mtime_ms(self.clock.now_ms());
        self.rm(path);
    }

    pub(super) fn log(&self, hour: &str) -> Option<HourLog> {
        let key = HourKey { name: "web1".into(), hour: Hour::parse(hour).unwrap() };
        let journal = self.journal.as_ref().unwrap();
        journal.hour(&key).cloned().or_else(|| journal.archived(&key).unwrap())
    }

    fn texts(&self, hour: &str) -> Vec<String> {
        let hour = Hour::parse(hour).unwrap();
        let mine = self.packs.iter().filter(|s| s.key.hour == hour);
        mine.map(|s| String::from_utf8(s.raw.clone()).unwrap()).collect()
    }

    fn text(&self, hour: &str) -> String {
        self.texts(hour).concat()
    }

    /// Hours that are closed, each with its notes.
    fn closed(&self) -> Vec<String> {
        let mut hours: Vec<String> = self.packs.iter().map(|s| s.key.hour.to_string()).collect();
        hours.sort();
        hours.dedup();
        hours.retain(|h| self.log(h).unwrap().is_done());
        hours.iter().map(|h| format!("{h}:{}", self.log(h).unwrap().state())).collect()
    }
}

fn gzipped(text: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text).unwrap();
    gz.finish().unwrap()
}

#[test]
fn a_line_belongs_to_the_hour_in_which_it_was_read() {
    let mut rig = Rig::started("UTC", "2026112204", "one\ntwo\nth");
    rig.run(5);
    assert_eq!(rig.texts("2026112204"), ["one\ntwo\n"]);
    rig.go_to("2026112205", -1);
    rig.write(LOG, "ree\nfour\nfi");
    rig.look();
    assert_eq!(rig.closed(), [""; 0]);
    rig.write(LOG, "ve\n");
    rig.pass(1000);
    // The next hour begins where this one ended, and what is read from now on is its.
    assert_eq!(rig.look(), 1);
    assert_eq!(rig.closed(), ["2026112204:"]);
    assert_eq!(rig.texts("2026112204"), ["one\ntwo\n", "three\nfour\n"]);
    assert_eq!(rig.log("2026112205").unwrap().begin, 19);
    rig.run(6);
    assert_eq!(rig.text("2026112205"), "five\n");
    let log = rig.log("2026112204").unwrap();
    let key = HourKey { name: "web1".into(), hour: Hour::parse("2026112204").unwrap() };
    let told = |id| meta_of(&key, &log, id, &rig.zone).unwrap().entry().get("cut").cloned();
    assert_eq!((told(1), told(2)), (None, Some("clock".to_owned())));
}

#[test]
fn an_hour_without_a_line_closes_as_an_empty_one() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    for _ in 0..140 {
        rig.pass(50_000);
        rig.look();
    }
    assert_eq!(rig.closed(), ["2026112204:", "2026112205:"]);
    assert_eq!(rig.texts("2026112205"), [""]);
}

#[test]
fn the_first_start_is_at_the_end_and_its_hour_is_partial() {
    let mut rig = Rig::new("UTC", "2026112204");
    rig.identity.from_end = true;
    rig.write(LOG, "old\nhal");
    rig.start();
    rig.look();
    rig.write(LOG, "f\n");
    rig.run(6);
    assert_eq!(rig.text("2026112204"), "half\n");
    assert_eq!(rig.log("2026112204").unwrap().state(), "partial");
    rig.go_to("2026112205", 1);
    rig.looked_lately();
    assert_eq!(rig.closed(), ["2026112204:partial"]);
    assert_eq!(rig.log("2026112205").unwrap().state(), "");
}

impl Rig {
    /// As if there had been looks all the time.
    fn looked_lately(&mut self) {
        self.undated.as_mut().unwrap().looked_ms = Some((self.clock.now_ms() - 2000, self.clock.mono_ms()));
        self.look();
    }
}

#[test]
fn of_a_new_match_what_was_rotated_before_the_first_look_is_read_too() {
    for with_rotated in [true, false] {
        let mut rig = Rig::new("UTC", "2026112204");
        rig.conf.with_rotated = with_rotated;
        rig.write("/log/access.log.2", "one\n");
        rig.pass(10_000);
        rig.write("/log/access.log.1", "two\n");
        rig.gz("/log/access.log.2");
        rig.pass(3_600_000);
        rig.write(LOG, "three\n");
        rig.start();
        rig.run(30);
        let (text, state) = if with_rotated { ("one\ntwo\nthree\n", "partial") } else { ("three\n", "") };
        assert_eq!(rig.text("2026112205"), text);
        assert_eq!(rig.log("2026112205").unwrap().state(), state);
    }
}

#[test]
fn a_file_that_is_not_there_yet_is_waited_for_and_read_from_its_first_byte() {
    let mut rig = Rig::new("UTC", "2026112204");
    rig.identity.from_end = true;
    rig.start();
    rig.go_to("2026112206", 10);
    rig.look();
    assert!(rig.journal.as_ref().unwrap().hours().is_empty());
    rig.write(LOG, "one\n");
    rig.run(6);
    assert_eq!(
        (rig.text("2026112206"), rig.log("2026112206").unwrap().state()),
        ("one\n".into(), String::new())
    );
}

#[test]
fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.mv(LOG, "/log/access.log.1");
    rig.run(20);
    rig.write("/log/access.log.1", "two\n");
    rig.write(LOG, "four\n");
    rig.run(3);
    rig.write("/log/access.log.1", "three");
    rig.run(4);
    assert_eq!(rig.text("2026112204"), "one\ntwo\n", "the old one grew lately");
    rig.run(10);
    assert_eq!(rig.texts("2026112204"), ["one\n", "two\n", "three", "four\n"]);
    assert_eq!(
        (rig.log("2026112204").unwrap().pos, rig.log("2026112204").unwrap().state()),
        (5, String::new())
    );
}

#[test]
fn what_still_comes_to_the_old_file_is_sent_aside_and_moves_no_position() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.mv(LOG, "/log/access.log.1");
    rig.write(LOG, "new\n");
    rig.run(12);
    rig.write("/log/access.log.1", "late\nand h");
    rig.run(7);
    rig.write(LOG, "newer\n");
    rig.run(7);
    assert_eq!(rig.texts("2026112204"), ["one\n", "new\n", "late\n", "newer\n"]);
    let log = rig.log("2026112204").unwrap();
    assert_eq!(
        (log.pos, log.cuts.iter().map(|c| c.aside).collect::<Vec<_>>()),
        (10, vec![false, false, true, false])
    );
    // A restart knows what was sent of it, too.
    rig.restart();
    rig.write("/log/access.log.1", "alf\n");
    rig.run(7);
    assert_eq!(rig.texts("2026112204").last().unwrap(), "and half\n");
    assert_eq!(rig.log("2026112204").unwrap().state(), "");
    // In the end, its last line goes as it is.
    rig.write("/log/access.log.1", "never finished");
    rig.run(620);
    assert_eq!(rig.texts("2026112204").last().unwrap(), "never finished");
    assert!(rig.undated.as_ref().unwrap().old.is_empty());
}

#[test]
fn a_deleted_file_is_read_on_until_there_is_a_new_one() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.write(LOG, "two\n");
    rig.rm(LOG);
    rig.run(100);
    assert_eq!(rig.text("2026112204"), "one\ntwo\n");
    rig.write(LOG, "three\n");
    rig.run(12);
    assert_eq!(rig.texts("2026112204"), ["one\n", "two\n", "three\n"]);
    assert_eq!(rig.log("2026112204").unwrap().state(), "");
}

#[test]
fn files_that_were_at_the_path_for_a_moment_are_read_in_order() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    for text in ["two\n", "three\n", "four\n"] {
        rig.rm(LOG);
        rig.write(LOG, text);
        rig.look();
    }
    rig.run(30);
    assert_eq!(rig.text("2026112204"), "one\ntwo\nthree\nfour\n");
    // A link that is switched to and fro.
    rig.mv(LOG, "/log/access-20261122.log");
    rig.write(LOG, "five\n");
    rig.run(12);
    rig.mv(LOG, "/log/access-20261123.log");
    rig.mv("/log/access-20261122.log", LOG);
    rig.write(LOG, "six\n");
    rig.run(20);
    assert_eq!(rig.text("2026112204"), "one\ntwo\nthree\nfour\nfive\nsix\n");
}

#[test]
fn a_file_that_came_and_went_between_two_looks_is_found_beside_the_path() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.write("/log/access-8080.log", "another log\n");
    rig.write("/log/access.log.bak", "somebody's copy\n");
    rig.mv(LOG, "/log/access.log.2");
    rig.write("/log/access.log.1", "two\nthree");
    rig.write(LOG, "four\n");
    rig.run(20);
    assert_eq!(rig.texts("2026112204"), ["one\n", "two\nthree", "four\n"]);
}

#[test]
fn copytruncate_loses_nothing_that_the_copy_has() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.write(LOG, "two\nthr");
    rig.look();
    rig.write(LOG, "ee\nfour\n");
    let text = rig.sim.look(Path::new(LOG), |c| c.unwrap().to_vec());
    rig.sim.put(Path::new("/log/access.log.1"), &text);
    rig.sim.put(Path::new(LOG), b"");
    rig.run(3);
    rig.write(LOG, "five\n");
    rig.run(12);
    assert_eq!(rig.text("2026112204"), "one\ntwo\nthree\nfour\nfive\n");
    assert_eq!(rig.log("2026112204").unwrap().state(), "");
}

#[test]
fn copytruncate_without_a_copy_tells_what_is_lost() {
    let mut rig = Rig::started("UTC", "2026112204", "one\ntwo\nthr");
    rig.run(6);
    rig.sim.put(Path::new(LOG), b"four\n");
    rig.run(12);
    assert_eq!(rig.text("2026112204"), "one\ntwo\nfour\n");
    assert_eq!(rig.log("2026112204").unwrap().loss_text(), "8-11");
    assert!(rig.alarms.concat().contains("access.log"));
}

#[test]
fn a_file_that_grew_beyond_its_old_length_after_it_was_emptied_is_known_by_its_content() {
    for new in ["THREE\nFOUR\nFIVE\n", "ONE\nTWO\n"] {
        let mut rig = Rig::started("UTC", "2026112204", "one\ntwo\n");
        rig.run(6);
        rig.pass(1000);
        rig.sim.put(Path::new(LOG), new.as_bytes());
        rig.run(12);
        assert_eq!(rig.text("2026112204"), format!("one\ntwo\n{new}"));
        assert_eq!(rig.log("2026112204").unwrap().state(), "partial");
    }
}

#[test]
fn after_a_restart_the_file_is_found_by_its_content_and_newer_ones_are_read_before_the_path() {
    for gz in [false, true] {
        let mut rig = Rig::new("UTC", "2026112204");
        // What is older than the file that is known was there before the follower.
        rig.write("/log/access.log.4", "another story\n");
        rig.pass(80_000);
        rig.write(LOG, "one\n");
        rig.start();
        rig.run(6);
        rig.write(LOG, "two\n");
        rig.stop(Outcome::Killed);
        for (text, name) in
            [("three\n", "/log/access.log.3"), ("four", "/log/access.log.2"), ("five\n", "/log/access.log.1")]
        {
            rig.mv(LOG, name);
            if gz && name != "/log/access.log.1" {
                rig.gz(name);
            }
            rig.pass(20_000);
            rig.write(LOG, text);
        }
        rig.start();
        rig.run(30);
        assert_eq!(rig.text("2026112204"), "one\ntwo\nthree\nfourfive\n", "{gz}");
        // Others may have come and gone like them.
        assert_eq!(rig.log("2026112204").unwrap().state(), "partial");
    }
}

#[test]
fn a_file_that_nobody_has_is_told_as_lost_and_named() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.stop(Outcome::Killed);
    rig.rm(LOG);
    // The inode is given to the new file, which is longer than the old one was.
    rig.write(LOG, "another file\n");
    rig.start();
    rig.run(12);
    assert_eq!(rig.text("2026112204"), "one\nanother file\n");
    let log = rig.log("2026112204").unwrap();
    assert_eq!((log.loss_text(), log.state()), ("4-".into(), "loss,partial".into()));
    assert!(rig.alarms.concat().contains("/log/access.log: the file that was read to byte 4 is gone"));
}

#[test]
fn copies_of_what_was_sent_are_not_sent_again() {
    let mut rig = Rig::started("UTC", "2026112204", "one\ntwo\n");
    rig.run(6);
    let copy = |rig: &mut Rig, to: &str| {
        let text = rig.sim.look(Path::new(LOG), |c| c.unwrap().to_vec());
        rig.sim.put(Path::new(to), &text);
    };
    copy(&mut rig, "/log/access.log-20261122");
    copy(&mut rig, "/log/access.log-20261121");
    rig.gz("/log/access.log-20261121");
    rig.write(LOG, "three\n");
    rig.run(6);
    rig.mv(LOG, "/log/access.log.1");
    rig.write(LOG, "four\n");
    rig.run(12);
    rig.gz("/log/access.log.1");
    rig.restart();
    rig.run(12);
    rig.mv(LOG, "/log/access.log.1");
    rig.write(LOG, "five\n");
    rig.run(20);
    assert_eq!(rig.text("2026112204"), "one\ntwo\nthree\nfour\nfive\n");
    assert_eq!(rig.log("2026112204").unwrap().state(), "");
}

#[test]
fn an_hour_whose_end_nobody_saw_is_whole_if_nothing_is_unread() {
    // Nothing at all was written.
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.stop(Outcome::Killed);
    rig.go_to("2026112207", 5);
    rig.start();
    rig.look();
    assert_eq!(rig.closed(), ["2026112204:", "2026112205:", "2026112206:"]);
}

#[test]
fn hours_whose_edges_nobody_saw_are_partial_if_unread_bytes_may_be_theirs() {
    for down in [true, false] {
        let mut rig = Rig::started("UTC", "2026112204", "one\n");
        rig.run(6);
        if down {
            rig.stop(Outcome::Killed);
        }
        rig.write(LOG, "two\n");
        rig.go_to("2026112207", 5);
        rig.write(LOG, "three\n");
        if down {
            rig.start();
        }
        rig.run(6);
        assert_eq!(
            rig.closed(),
            ["2026112204:partial", "2026112205:partial", "2026112206:partial"],
            "{down}"
        );
        assert_eq!((rig.text("2026112205"), rig.text("2026112206")), (String::new(), String::new()));
        assert_eq!(rig.text("2026112207"), "two\nthree\n");
        assert_eq!(rig.log("2026112207").unwrap().state(), "partial");
        rig.go_to("2026112208", 0);
        rig.looked_lately();
        assert_eq!(rig.log("2026112208").unwrap().state(), "");
    }
}

#[test]
fn hours_beyond_the_journals_days_are_not_declared() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.stop(Outcome::Killed);
    rig.conf.journal_ms = 3 * 3_600_000;
    rig.go_to("2026112304", 5);
    rig.start();
    rig.look();
    assert_eq!(rig.closed(), ["2026112204:", "2026112301:", "2026112302:", "2026112303:"]);
    assert!(
        rig.alarms.concat().contains("hours 2026112205 to 2026112301: nobody looked"),
        "{:?}",
        rig.alarms
    );
}

#[test]
fn a_clock_that_is_put_back_opens_no_hour_again() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.go_to("2026112205", 10);
    rig.looked_lately();
    rig.step_wall(-20_000);
    rig.write(LOG, "two\n");
    rig.run(6);
    assert_eq!(rig.text("2026112205"), "two\n");
    rig.step_wall(-7_200_000);
    rig.restart();
    rig.write(LOG, "three\n");
    rig.run(6);
    assert_eq!((rig.text("2026112204"), rig.text("2026112205")), ("one\n".into(), "two\nthree\n".into()));
}

#[test]
fn a_repeated_hour_is_one_and_one_that_is_left_out_is_none() {
    for (first, second, third) in
        [("2026102501", "2026102502", "2026102503"), ("2026032901", "2026032903", "2026032904")]
    {
        let mut rig = Rig::started(BERLIN, first, "one\n");
        for _ in 0..150 {
            rig.write(LOG, "x\n");
            rig.pass(50_000);
            rig.look();
        }
        let mut closed = rig.closed();
        closed.truncate(2);
        let wanted = [format!("{first}:"), format!("{second}:")];
        assert!(wanted.starts_with(&closed) && !closed.is_empty(), "{closed:?}");
        let hours: std::collections::BTreeSet<String> =
            rig.packs.iter().map(|p| p.key.hour.to_string()).collect();
        assert!(hours.iter().all(|h| [first, second, third].contains(&h.as_str())), "{hours:?}");
    }
}

#[test]
fn a_power_cut_that_took_the_files_end_is_told_as_a_change() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.write(LOG, "two\n");
    rig.run(6);
    rig.stop(Outcome::Killed);
    rig.sim.truncate(Path::new(LOG), 6);
    rig.write(LOG, "three\n");
    rig.sim.truncate(Path::new(LOG), 7);
    rig.start();
    rig.run(1);
    rig.write(LOG, "hree\n");
    rig.run(6);
    assert_eq!(
        (rig.text("2026112204"), rig.log("2026112204").unwrap().state()),
        ("one\ntwo\ntwthree\n".into(), "changed,partial".into())
    );
}

#[test]
fn a_step_stays_within_its_room() {
    let mut rig = Rig::new("UTC", "2026112204");
    let text = "0123456789abcde\n".repeat(60_000);
    rig.write(LOG, &text);
    rig.start();
    rig.room = (3 << 16, 2);
    for _ in 0..4 {
        assert_eq!(rig.look(), 2);
    }
    rig.room = ((3 << 16) - 1, 100);
    assert_eq!(rig.look(), 2, "a pack is begun only if a whole one fits");
    rig.room = (1, 100);
    assert_eq!(rig.look(), 0);
    rig.room = (1 << 20, 100);
    rig.run(10);
    assert_eq!(rig.text("2026112204"), text);
}

#[test]
fn once_sends_what_is_there_and_leaves_the_hour_open() {
    let mut rig = Rig::new("UTC", "2026112204");
    rig.conf.once = true;
    rig.start();
    rig.look();
    assert!(rig.undated.as_ref().unwrap().at_end(), "there is no file");
    rig.write(LOG, "one\ntwo\nthr");
    rig.look();
    assert!(rig.undated.as_ref().unwrap().at_end());
    assert_eq!(rig.texts("2026112204"), ["one\ntwo\n"]);
    assert_eq!(rig.closed(), [""; 0]);
    rig.restart();
    rig.mv(LOG, "/log/access.log.1");
    rig.write("/log/access.log.1", "ee\n");
    rig.write(LOG, "four\n");
    rig.look();
    assert!(rig.undated.as_ref().unwrap().at_end());
    assert_eq!(rig.text("2026112204"), "one\ntwo\nthree\nfour\n");
}

#[test]
fn the_journals_snapshot_tells_the_same_of_rotation() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.mv(LOG, "/log/access.log.1");
    rig.write(LOG, "two\n");
    rig.run(12);
    rig.write("/log/access.log.1", "late\n");
    rig.run(6);
    let before = rig.log("2026112204").unwrap();
    assert_eq!((before.rotated.clone(), before.pos), (vec![(2, 0)], 4));
    // Each start writes a snapshot, and the second one reads it.
    rig.restart();
    rig.restart();
    let after = rig.log("2026112204").unwrap();
    assert_eq!((after.cuts, after.rotated, after.pos, after.clock), (before.cuts, before.rotated, 4, true));
}

#[test]
fn the_wire_says_cut_by_the_clock_on_the_last_pack_only() {
    use crate::pack::{Header, Refusal};
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.go_to("2026112205", 1);
    rig.looked_lately();
    let log = rig.log("2026112204").unwrap();
    let key = HourKey { name: "web1".into(), hour: Hour::parse("2026112204").unwrap() };
    let parse = |id: u64, cut: Option<&str>| {
        let mut entry = meta_of(&key, &log, id, &rig.zone).unwrap().entry();
        if let Some(cut) = cut {
            entry.insert("cut".into(), cut.into());
        }
        Header { route: vec![entry], pack_len: 9 }.meta("none").map(|m| m.clock)
    };
    assert_eq!((parse(1, None), parse(2, None)), (Ok(false), Ok(true)));
    assert!(matches!(parse(1, Some("clock")), Err(Refusal::Wrong(_))));
    assert!(matches!(parse(2, Some("name")), Err(Refusal::Wrong(_))));
}

#[test]
fn a_link_that_leads_nowhere_beside_the_file_stops_nothing() {
    let dir = std::env::temp_dir().join(format!("logd-loop-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("access.log.1"), "x\n").unwrap();
    std::os::unix::fs::symlink("access.log.2", dir.join("access.log.2")).unwrap();
    let found = rotated::candidates(&Disk::real(), &dir.join("access.log"));
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(found.unwrap().len(), 1);
}
