//! Tests of tags.

use super::*;

fn certificate(key: &HourKey, day_hours: u32) -> Certificate {
    let json = serde_json::json!({
        "format": 1, "name": key.name, "hour": key.hour, "gen": 0, "revision": 1, "packs": 1, "lines": 1,
        "bytes": 1, "digest": "", "sha256": "", "verified": true, "empty": false, "day_hours": day_hours,
        "certified": 1,
    });
    serde_json::from_value(json).unwrap()
}

/// Does a day get its tag, of which these hours are missing and the last hour's sender tells so many names?
fn day_tag(missing: &[i8], day_hours: u32) -> bool {
    let (disk, _) = Disk::sim(1);
    let store = Store::new(&disk, Path::new("/store"), Path::new("/state"), 0o644, 0o755);
    store.create_dirs().unwrap();
    let mut key = HourKey { name: "web1".into(), hour: Hour::parse("20260329").unwrap() };
    for h in (0..24).filter(|h| !missing.contains(h)) {
        key.hour = Hour::new(2026, 3, 29, Some(h)).unwrap();
        store.certify(&certificate(&key, day_hours)).unwrap();
    }
    store.day_tag(&key).unwrap()
}

#[test]
fn a_day_may_lack_what_its_clock_skipped_wherever_that_lies() {
    assert!(day_tag(&[], 24) && day_tag(&[], 25));
    for skipped in [0, 2, 23] {
        assert!(day_tag(&[skipped], 23), "{skipped}");
        assert!(!day_tag(&[skipped], 24) && !day_tag(&[skipped, 12], 23), "{skipped}");
    }
    assert!(day_tag(&[22, 23], 22));
    assert!(!day_tag(&[21, 22, 23], 21), "no zone skips so many");
}

/// A tag that somebody brings back between two tags of ours is seen, although the later one hides when that was.
#[test]
fn a_tag_of_others_is_seen_whatever_is_certified_since() {
    let (disk, sim) = Disk::sim(1);
    let store = Store::new(&disk, Path::new("/store"), Path::new("/state"), 0o644, 0o755);
    store.create_dirs().unwrap();
    let key = |hour: i8| HourKey { name: "web1".into(), hour: Hour::new(2026, 3, 29, Some(hour)).unwrap() };
    sim.set_mtime_ms(1_000);
    store.certify(&certificate(&key(0), 24)).unwrap();
    for h in 1..24 {
        store.certify(&certificate(&key(h), 24)).unwrap();
    }
    let other = HourKey { name: "web2".into(), ..key(0) };
    assert!(!store.may_have_tag(&other).unwrap());
    sim.set_mtime_ms(2_000);
    disk.replace(Path::new("/store/received/web2_2026032900_1"), b"{}", 0o644).unwrap();
    sim.set_mtime_ms(3_000);
    assert!(store.day_tag(&key(0)).unwrap());
    assert!(store.may_have_tag(&other).unwrap());
}

/// They were written of `closed` alone, and came back after somebody had taken the tag of a wrong hour away.
#[test]
fn without_the_tag_of_an_hour_neither_its_day_nor_the_fleet_has_one() {
    let (disk, _) = Disk::sim(1);
    let store = Store::new(&disk, Path::new("/store"), Path::new("/state"), 0o644, 0o755);
    store.create_dirs().unwrap();
    let key = |hour| HourKey { name: "web1".into(), hour: Hour::new(2026, 3, 29, Some(hour)).unwrap() };
    for h in 0..24 {
        store.certify(&certificate(&key(h), 24)).unwrap();
    }
    let hosts = ["web1".to_owned()];
    assert!(store.day_tag(&key(5)).unwrap() && store.fleet_tag(key(5).hour, &hosts).unwrap());
    disk.remove(Path::new("/store/received/web1_2026032905_1")).unwrap();
    assert!(!store.day_tag(&key(5)).unwrap() && !store.fleet_tag(key(5).hour, &hosts).unwrap());
    assert!(store.fleet_tag(key(6).hour, &hosts).unwrap());
}
