//! What cannot be read, what is taken for something else, and clocks that jump.

use super::*;

#[test]
fn an_unreadable_file_is_tried_again_and_named() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.sim.set_unreadable(Path::new(LOG), 0..100);
    rig.write(LOG, "two\n");
    for _ in 0..100 {
        rig.pass(1000);
        let e = rig.try_step().unwrap_err();
        assert!(e.to_string().contains(LOG), "{e}");
    }
    rig.sim.set_unreadable(Path::new(LOG), 0..0);
    rig.run(6);
    assert_eq!(
        (rig.text("2026112204"), rig.log("2026112204").unwrap().state()),
        ("one\ntwo\n".into(), String::new())
    );
}

#[test]
fn a_damaged_compressed_file_is_told_as_lost_and_holds_up_nothing() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.stop(Outcome::Killed);
    rig.write(LOG, &"two two two\n".repeat(500));
    rig.mv(LOG, "/log/access.log.1");
    rig.gz("/log/access.log.1");
    let len = rig.sim.look(Path::new("/log/access.log.1.gz"), |c| c.unwrap().len());
    rig.sim.truncate(Path::new("/log/access.log.1.gz"), len as u64 - 9);
    rig.write(LOG, "three\n");
    rig.start();
    rig.run(12);
    let text = rig.text("2026112204");
    assert!(text.starts_with("one\ntwo two") && text.ends_with("two\nthree\n"), "{text}");
    assert_eq!(rig.log("2026112204").unwrap().state(), "loss");
    assert!(rig.alarms.concat().contains("access.log.1.gz: damaged behind byte"), "{:?}", rig.alarms);
}

#[test]
fn a_disk_that_is_mounted_late_is_waited_for() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.stop(Outcome::Killed);
    rig.mv("/log", "/away");
    rig.disk.create_dir_all(Path::new("/log"), 0o755).unwrap();
    rig.start();
    rig.run(30);
    rig.disk.remove_dir(Path::new("/log")).unwrap();
    rig.disk.rename(Path::new("/away"), Path::new("/log")).unwrap();
    rig.write(LOG, "two\n");
    rig.run(6);
    assert_eq!(
        (rig.text("2026112204"), rig.log("2026112204").unwrap().state()),
        ("one\ntwo\n".into(), String::new())
    );
    // A file that never comes back is told, and the hours go on.
    rig.stop(Outcome::Killed);
    rig.rm(LOG);
    rig.start();
    rig.go_to("2026112205", 300);
    rig.look();
    assert_eq!(rig.closed(), [""; 0]);
    rig.go_to("2026112205", 700);
    rig.look();
    assert_eq!(rig.closed(), ["2026112204:loss,partial"]);
    rig.write(LOG, "new\n");
    rig.run(6);
    assert_eq!(rig.text("2026112205"), "new\n");
}

impl Rig {
    /// Is everything in the hour, or is something said of it?
    fn has_or_says(&self, hour: &str, what: &str) {
        let (text, state) = (self.text(hour), self.log(hour).unwrap().state());
        let said = state.contains("partial") && self.alarms.concat().contains("not certified");
        assert!(text.contains(what) || said, "{text:?} {state:?} {:?}", self.alarms);
    }
}

#[test]
fn a_new_file_that_begins_like_an_old_one_is_not_skipped_without_a_word() {
    let banner = "# banner of this program, the same in each file\n".repeat(40);
    let mut rig = Rig::started("UTC", "2026112204", &banner);
    rig.run(6);
    rig.write(LOG, &"a line of the old file\n".repeat(300));
    rig.run(6);
    rig.mv(LOG, "/log/access.log.1");
    rig.write(LOG, &format!("{banner}one\ntwo\n"));
    rig.run(20);
    assert!(rig.text("2026112204").ends_with(&format!("the old file\n{banner}one\ntwo\n")));
    assert_eq!(rig.log("2026112204").unwrap().state(), "");
    // The same lines as before, and more of them.
    let mut rig = Rig::started("UTC", "2026112204", &"ok\n".repeat(1000));
    rig.run(6);
    rig.mv(LOG, "/log/access.log.1");
    rig.write(LOG, &"ok\n".repeat(1200));
    rig.run(20);
    rig.has_or_says("2026112204", &"ok\n".repeat(2200));
}

#[test]
fn a_short_rotated_file_with_the_usual_header_is_no_copy() {
    let header = "#Software: x\n#Fields: date time cs-uri\n".repeat(4);
    let mut rig = Rig::started("UTC", "2026112204", &header);
    rig.run(6);
    rig.write(LOG, &"a line of the old file\n".repeat(300));
    rig.run(6);
    rig.stop(Outcome::Killed);
    rig.mv(LOG, "/log/access.log.2");
    rig.pass(20_000);
    rig.write("/log/access.log.1", &format!("{header}one\ntwo\n"));
    rig.pass(20_000);
    rig.write(LOG, &format!("{header}new\n"));
    rig.start();
    rig.run(30);
    let text = rig.text("2026112204");
    assert!(text.contains("one\ntwo\n") && text.ends_with("new\n"), "{text}");
}

#[test]
fn lines_of_another_log_are_never_taken_for_this_ones() {
    for down in [false, true] {
        let mut rig = Rig::started("UTC", "2026112204", "#start\n");
        rig.run(6);
        rig.write("/log/access_ssl.log", "#start\nFOREIGN 1\nFOREIGN 2\n");
        if down {
            rig.stop(Outcome::Killed);
            rig.rm(LOG);
            rig.write(LOG, "new\nand some more lines\n");
            rig.start();
        } else {
            rig.sim.put(Path::new(LOG), b"");
            rig.run(3);
            rig.write(LOG, "new\n");
        }
        rig.run(20);
        let text = rig.text("2026112204");
        assert!(!text.contains("FOREIGN") && text.contains("new\n"), "{text}");
    }
}

#[test]
fn what_was_emptied_without_a_copy_is_not_certified_though_all_that_was_seen_is_sent() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    // What came between the last look and this moment, nobody knows.
    rig.sim.put(Path::new(LOG), b"");
    rig.run(3);
    rig.write(LOG, "two\n");
    rig.run(6);
    assert_eq!(rig.text("2026112204"), "one\ntwo\n");
    assert_eq!(rig.log("2026112204").unwrap().state(), "partial");
    assert!(rig.alarms.concat().contains("it was emptied, and no copy of it was found"), "{:?}", rig.alarms);
}

#[test]
fn a_clock_that_jumps_forth_and_back_certifies_no_hour_that_it_cut() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.step_wall(2 * 3_600_000);
    rig.run(2);
    rig.step_wall(-2 * 3_600_000);
    rig.write(LOG, "two\n");
    rig.run(1800);
    assert_eq!(rig.closed(), ["2026112204:partial", "2026112205:partial"]);
    assert_eq!(rig.log("2026112206").unwrap().state(), "partial");
    let said = rig.alarms.concat();
    assert!(
        said.contains("the clock was put forward") && said.contains("it is not yet 2026112206"),
        "{said}"
    );
}

#[test]
fn what_rotation_counts_is_newer_though_its_time_is_older() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.stop(Outcome::Killed);
    rig.mv(LOG, "/log/access.log.2");
    rig.step_wall(-300_000);
    rig.write("/log/access.log.1", "two\n");
    rig.pass(20_000);
    rig.write(LOG, "three\n");
    rig.start();
    rig.run(60);
    assert_eq!(rig.text("2026112204"), "one\ntwo\nthree\n");
}

#[test]
fn a_bad_sector_in_a_replaced_file_is_told_as_lost_and_does_not_stop_the_new_one() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.write(LOG, "bad sector\n");
    rig.sim.set_unreadable(Path::new(LOG), 4..15);
    rig.pass(1000);
    assert!(rig.try_step().is_err());
    rig.mv(LOG, "/log/access.log.1");
    rig.write(LOG, "new\n");
    for _ in 0..90 {
        rig.pass(1000);
        let _ = rig.try_step();
        rig.journal.as_mut().unwrap().commit().unwrap();
        rig.packs.append(&mut rig.pending);
    }
    let log = rig.log("2026112204").unwrap();
    assert_eq!((rig.text("2026112204"), log.loss_text()), ("one\nnew\n".into(), "4-".into()));
}

#[test]
fn a_new_file_that_may_not_be_read_stops_neither_the_old_one_nor_the_hours() {
    for restart in [false, true] {
        let mut rig = Rig::started("UTC", "2026112204", "one\n");
        rig.run(6);
        rig.mv(LOG, "/log/access.log.1");
        rig.write("/log/access.log.1", "two\n");
        rig.write(LOG, "three\n");
        rig.sim.set_forbidden(Path::new(LOG), true);
        if restart {
            rig.restart();
        }
        let look = |rig: &mut Rig, secs: u64| {
            for _ in 0..secs {
                rig.pass(1000);
                let _ = rig.try_step();
                rig.journal.as_mut().unwrap().commit().unwrap();
                rig.packs.append(&mut rig.pending);
            }
        };
        look(&mut rig, 30);
        assert_eq!(rig.text("2026112204"), "one\ntwo\n", "{restart}");
        rig.go_to("2026112205", -2);
        look(&mut rig, 70);
        rig.sim.set_forbidden(Path::new(LOG), false);
        rig.run(20);
        // It was not seen, so it may be of either hour.
        assert_eq!(rig.closed(), ["2026112204:partial"], "{restart}");
        assert_eq!(rig.text("2026112205"), "three\n", "{restart}");
        assert_eq!(rig.log("2026112205").unwrap().state(), "partial", "{restart}");
    }
}

/// What only this process knows to be uncertain was forgotten if it ended before the next look.
#[test]
fn what_is_said_not_to_be_certified_is_not_certified_by_the_next_process() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.mv(LOG, "/log/access.log.2");
    rig.write("/log/access.log.1", "not to be read\n");
    rig.sim.set_unreadable(Path::new("/log/access.log.1"), 0..100);
    rig.write(LOG, &"a line of the new file\n".repeat(9000));
    let mut looks = 0..30;
    while looks.next().is_some() && rig.look() == 0 {
        rig.pass(1000);
    }
    rig.stop(Outcome::Killed);
    rig.pass(100_000);
    rig.write(LOG, "more\n");
    rig.start();
    rig.run(20);
    rig.has_or_says("2026112204", "not to be read\n");
}

#[test]
fn compressed_bytes_are_never_lines() {
    let mut rig = Rig::started("UTC", "2026112204", "one\n");
    rig.run(6);
    rig.mv(LOG, "/log/access.log.old");
    rig.write(LOG, "new\n");
    rig.run(4);
    rig.sim.put(Path::new("/log/access-20261122.log.gz"), b"");
    rig.run(4);
    rig.sim.append(Path::new("/log/access-20261122.log.gz"), &gzipped(b"one\n"));
    rig.run(700);
    assert_eq!(rig.text("2026112204"), "one\nnew\n");
}
