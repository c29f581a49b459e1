use super::*;

#[test]
fn an_hour_knows_who_acknowledged_it() {
    let (disk, _) = Disk::sim(1);
    let open = || Journal::open(&disk, Path::new("/s"), false, &mut |text| panic!("{text}")).unwrap().0;
    let key = HourKey::parse("web1_2026112205").unwrap();
    let hour = || key.to_string();
    let opened = |generation| Event::Opened {
        hour: hour(),
        generation,
        path: "/log".into(),
        first_id: 1,
        pos: 0,
        clock: false,
    };
    let acked = |generation, ids: &[u64], to: Option<&str>| Event::Acked {
        hour: hour(),
        generation,
        ids: ids.to_vec(),
        to: to.map(str::to_owned),
    };
    let mut journal = open();
    journal.append(&opened(0));
    let cut = Cut::new(1, 0, 1, &Seal::of(b"line\n"), true);
    journal.append(&Event::Cut { hour: hour(), cut });
    assert!(!journal.hour(&key).unwrap().is_begun());
    // Of another copy.
    journal.append(&acked(7, &[], Some("c:1")));
    journal.append(&acked(0, &[], Some("b:1")));
    journal.append(&acked(0, &[1], None));
    journal.commit().unwrap();
    drop(journal);
    // By the events, by the snapshot that a start writes, and by the hour's own file.
    drop(open());
    let mut journal = open();
    let log = journal.hour(&key).unwrap();
    assert_eq!((log.bound.as_deref(), log.is_begun()), (Some("b:1"), true));
    journal.archive(&key).unwrap();
    assert!(journal.hour(&key).is_none() && journal.reopen(&key).unwrap());
    assert_eq!(journal.hour(&key).unwrap().bound.as_deref(), Some("b:1"));
    // A new copy is free.
    journal.append(&opened(8));
    assert_eq!(journal.hour(&key).unwrap().bound, None);
    // As it was written before there were several addresses.
    let old = br#"{"t":"acked","hour":"web1_2026112205","generation":0,"ids":[1]}"#;
    let read: Event = serde_json::from_slice(old).unwrap();
    assert_eq!(read, acked(0, &[1], None));
    assert_eq!(serde_json::to_vec(&read).unwrap(), old);
}

#[test]
fn on_a_full_disk_the_log_goes_on_as_it_is() {
    let (disk, sim) = Disk::sim(1);
    let dir = Path::new("/s");
    let open = || {
        let mut said = Vec::new();
        let (journal, damaged) = Journal::open(&disk, dir, true, &mut |text| said.push(text)).unwrap();
        (journal, damaged, said)
    };
    // More than fits behind the last record.
    let opened = |hour: &str| Event::Opened {
        hour: hour.into(),
        generation: 0,
        path: "/long".repeat(1_000).into(),
        first_id: 1,
        pos: 0,
        clock: false,
    };
    drop(open());
    let mut journal = open().0;
    journal.append(&opened("web1_2026112205"));
    journal.commit().unwrap();
    drop(journal);

    sim.set_capacity(Some(0));
    let (mut journal, damaged, said) = open();
    assert!(!damaged && said.len() == 1 && said[0].starts_with("paused: disk: "), "{said:?}");
    assert_eq!(journal.hours().len(), 1);
    journal.append(&opened("web1_2026112206"));
    assert!(journal.commit().unwrap_err().no_space());
    // Half of what could not be written is not left behind: a kill now is no damage.
    let (_, damaged, _) = open();
    assert!(!damaged);
    sim.set_capacity(None);
    journal.commit().unwrap();
    drop(journal);

    let (journal, damaged, said) = open();
    assert!(!damaged && said.is_empty(), "{said:?}");
    assert_eq!(journal.hours().len(), 2);
}

#[test]
fn a_log_that_ends_early_is_damaged_wherever_it_was_cut() {
    let (disk, sim) = Disk::sim(1);
    let dir = Path::new("/s");
    let open = |served| {
        let (journal, damaged) = Journal::open(&disk, dir, served, &mut |_| {}).unwrap();
        (journal, damaged)
    };
    let mut journal = open(false).0;
    for n in 0..24 {
        let hour = format!("web1_20261122{n:02}");
        let path = "/log".into();
        journal.append(&Event::Opened { hour, generation: 0, path, first_id: 1, pos: 0, clock: false });
        journal.commit().unwrap();
    }
    drop(journal);
    let log = dir.join("journal/log");
    let whole = disk.read(&log, 1 << 20).unwrap();
    assert!(whole.len() as u64 == GRAIN && whole.last() == Some(&0));
    let (journal, damaged) = open(true);
    assert!(!damaged && journal.hours().len() == 24);
    drop(journal);
    let whole = disk.read(&log, 1 << 20).unwrap();
    for len in 0..whole.len() {
        sim.put(&log, &whole[..len]);
        assert!(open(true).1, "cut to {len} bytes");
    }
}

/// The story: there was no room for a new event, so older ones stayed unsynced; their packs were sent all the same, and a
/// power cut took the cuts.
#[test]
fn what_is_written_is_made_durable_even_if_there_is_no_room_for_more() {
    let (disk, sim) = Disk::sim(1);
    let dir = Path::new("/s");
    let mut journal = Journal::open(&disk, dir, false, &mut |_| {}).unwrap().0;
    let opened = |n: u32, path: &str| Event::Opened {
        hour: format!("web1_202611220{n}"),
        generation: 0,
        path: path.into(),
        first_id: 1,
        pos: 0,
        clock: false,
    };
    journal.append(&opened(1, "/log"));
    journal.flush().unwrap();
    sim.set_capacity(Some(0));
    journal.append(&opened(2, &"/long".repeat(1_000)));
    assert!(journal.commit().unwrap_err().no_space());
    sim.crash();
    sim.set_capacity(None);
    sim.restart(crate::disk::Outcome::LoseUnsynced);
    let (journal, damaged) = Journal::open(&disk, dir, true, &mut |_| {}).unwrap();
    assert_eq!((damaged, journal.hours().len()), (false, 1));
}
