//! What `verify` must notice, and what it must let pass.

use super::super::testing::{Build, Temp, printed};
use super::*;
use crate::integrity::Store;
use crate::record;
use std::fs;

const HOUR: &str = "web1_2026112205";
const PACKS: &[&str] = &["a\nb\n", "c\n", "d\ne\n"];

fn verify(temp: &Temp) -> (u8, String) {
    let (code, out, err) = printed(|out| run(&temp.path("save"), &Filter::default(), out));
    assert_eq!(err, "");
    (code, out)
}

fn wrong(temp: &Temp, hints: &[&str]) {
    let (code, out) = verify(temp);
    assert_eq!(code, NO, "{out}");
    for hint in hints {
        assert!(out.contains(hint), "{hint}: {out}");
    }
    assert!(
        out.contains("`logd resend CONFIG 2026112205` on web1")
            && out.contains("1 WRONG")
            && out.lines().count() == 2,
        "{out}"
    );
}

fn certified() -> Temp {
    let temp = Temp::new();
    Build::new(HOUR, PACKS).certify(&temp.path("save"));
    temp
}

#[test]
fn what_is_right_is_silent_but_for_the_summary() {
    let temp = certified();
    let save = temp.path("save");
    Build { state: "partial", ..Build::new("web2_2026112205", PACKS) }.certify(&save);
    Build::new("web3_2026112205", PACKS).store(&save);
    Build { done: false, ..Build::new("web4_2026112205", PACKS) }.store(&save);
    Build { ours: false, ..Build::new("web5_2026112205", PACKS) }.certify(&save);
    Build::new("web6_2026112205", &[""]).certify(&save);
    fs::remove_file(save.join("log_data/web6_2026112205")).unwrap();
    assert_eq!(verify(&temp), (YES, "6 hours: 5 right (50 B read), 1 open and right so far\n".into()));
    let filter = Filter { host: Some("web1".into()), since: None };
    let (code, out, _) = printed(|out| run(&save, &filter, out));
    assert_eq!((code, out.as_str()), (YES, "1 hour: 1 right (10 B read)\n"));
}

#[test]
fn what_a_later_format_says_is_not_known() {
    let temp = certified();
    let save = temp.path("save");
    let mut c = Build::new("web2_2026112205", PACKS).certify(&save);
    c.format = 2;
    Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755).certify(&c).unwrap();
    let (code, out) = verify(&temp);
    assert!(
        code == YES && out.contains("web2_2026112205: not verifiable: its certificate is of a later"),
        "{out}"
    );
    assert!(out.contains("1 right (20 B read), 1 not verifiable"), "{out}");
    // The proof still tells whether the bytes are those that came.
    fs::write(save.join("log_data/web2_2026112205"), "a\nB\nc\nd\ne\n").unwrap();
    let (code, out) = verify(&temp);
    assert!(code == NO && out.contains("web2_2026112205: WRONG"), "{out}");
}

/// What is wrong keeps its tags, since nothing is changed here: the reader must know which ones to take away.
#[test]
fn the_tags_that_still_stand_are_named() {
    let temp = certified();
    fs::write(temp.path("save/log_data").join(HOUR), "a\n").unwrap();
    wrong(&temp, &["; remove received/web1_2026112205_5, which still calls it whole, and no other file"]);
    temp.file("save/received/web1_20261122", "{}");
    temp.file("save/received/all_2026112205", "[]");
    wrong(
        &temp,
        &["received/web1_2026112205_5, received/web1_20261122 and received/all_2026112205, which still call"],
    );
    for tag in ["web1_2026112205_5", "web1_20261122", "all_2026112205"] {
        fs::remove_file(temp.path("save/received").join(tag)).unwrap();
    }
    wrong(&temp, &["; remove no file; then"]);
}

#[test]
fn every_changed_byte_of_the_data_is_named_with_its_pack() {
    for at in 0..10 {
        let temp = certified();
        let path = temp.path("save/log_data").join(HOUR);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 4;
        fs::write(&path, bytes).unwrap();
        let (pack, range) = match at {
            0..4 => ("pack 1", "bytes 0 to 4"),
            4..6 => ("pack 2", "bytes 4 to 6"),
            _ => ("pack 3", "bytes 6 to 10"),
        };
        wrong(&temp, &[pack, range, "log_data/web1_2026112205", "SHA-256"]);
    }
}

#[test]
fn data_that_is_too_short_or_too_long() {
    let temp = certified();
    let path = temp.path("save/log_data").join(HOUR);
    fs::write(&path, "a\nb\nc\nd").unwrap();
    wrong(&temp, &["pack 3", "ends at byte 7"]);
    fs::write(&path, "a\nb\nc\nd\ne\nf\n").unwrap();
    wrong(&temp, &["2 bytes follow"]);
    // The same while the hour is open: a collector writes the bytes before their line.
    let temp = Temp::new();
    Build { done: false, ..Build::new(HOUR, PACKS) }.store(&temp.path("save"));
    fs::write(temp.path("save/log_data").join(HOUR), "a\nb\nc\nd\ne\nf\n").unwrap();
    assert_eq!(verify(&temp).0, YES);
}

#[test]
fn every_changed_byte_of_the_proof_is_noticed() {
    let temp = certified();
    let path = temp.path("save/headers").join(HOUR);
    let bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        wrong(&temp, &["headers/web1_2026112205: the proof has a damaged line"]);
    }
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    wrong(&temp, &["damaged line"]);
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    fs::write(&path, [lines[0], lines[2]].concat()).unwrap();
    wrong(&temp, &["pack 3 follows pack 1"]);
}

#[test]
fn a_certificate_that_says_something_else() {
    type Change = fn(&mut Certificate);
    let cases: [(Change, &str); 8] = [
        (|c| c.packs = 4, "packs 4, stored is 3"),
        (|c| c.lines = 6, "lines 6"),
        (|c| c.bytes = 11, "bytes 11"),
        (|c| c.generation = 9, "copy 9"),
        (|c| c.empty = true, "empty true"),
        (|c| c.sha256 = "00".into(), "SHA-256 00"),
        (|c| c.digest = "00".into(), "digest 00"),
        (|c| c.hour = c.hour.day_of(), "not a certificate"),
    ];
    for (change, hint) in cases {
        let temp = certified();
        let tag = temp.path("save/received/web1_2026112205_5");
        let mut c: Certificate = record::from_json(&fs::read(&tag).unwrap()).unwrap();
        change(&mut c);
        fs::write(&tag, record::to_json(&c)).unwrap();
        wrong(&temp, &["certificate", hint]);
    }
}

#[test]
fn tags_under_a_wrong_name_or_twice() {
    let temp = certified();
    let tag = temp.path("save/received/web1_2026112205_5");
    fs::copy(&tag, temp.path("save/received/web1_2026112205_6")).unwrap();
    wrong(&temp, &["two tags"]);
    fs::remove_file(&tag).unwrap();
    wrong(&temp, &["received/web1_2026112205_6", "web1_2026112205_5"]);
    fs::write(temp.path("save/received/web1_2026112205_6"), "").unwrap();
    wrong(&temp, &["not a certificate"]);
}

#[test]
fn data_that_a_batch_job_took() {
    let temp = certified();
    let data = temp.path("save/log_data").join(HOUR);
    fs::remove_file(&data).unwrap();
    let (code, out) = verify(&temp);
    assert_eq!(code, YES);
    assert!(out.contains("moved away") && out.ends_with("1 moved away\n"), "{out}");
    // Without its certificate nothing says that it had been whole.
    fs::remove_file(temp.path("save/received/web1_2026112205_5")).unwrap();
    wrong(&temp, &["not here, 10 bytes are proven"]);
    temp.file("save/aside/web1_2026112205.late", "z");
    wrong(&temp, &["later bytes wait"]);
    let temp = certified();
    fs::remove_file(temp.path("save/log_data").join(HOUR)).unwrap();
    fs::remove_file(temp.path("save/headers").join(HOUR)).unwrap();
    assert!(verify(&temp).1.contains("moved away"));
}

#[test]
fn a_certificate_alone_still_decides() {
    let temp = certified();
    fs::remove_file(temp.path("save/headers").join(HOUR)).unwrap();
    assert_eq!(verify(&temp), (YES, "1 hour: 1 right (10 B read)\n".into()));
    fs::write(temp.path("save/log_data").join(HOUR), "a\nb\nc\nd\nf\n").unwrap();
    wrong(&temp, &["SHA-256", "its proof in headers is missing"]);
}

#[test]
fn what_nothing_proves_is_not_verifiable() {
    let temp = Temp::new();
    let save = temp.path("save");
    let theirs = |hour| Build { ours: false, ..Build::new(hour, PACKS) };
    theirs(HOUR).store_foreign(&save);
    temp.file("save/received/web1_2026112205_5", "");
    theirs("web2_2026112205").store_foreign(&save);
    fs::remove_file(save.join("log_data/web2_2026112205")).unwrap();
    temp.file("save/log_data/web3_2026112205", "a\n");
    theirs("web4_2026112205").store(&save);
    let (code, out) = verify(&temp);
    assert_eq!(code, YES);
    assert_eq!(out.matches(": not verifiable: ").count(), 4, "{out}");
    assert!(out.ends_with("4 hours: 0 right (10 B read), 4 not verifiable\n"), "{out}");
}

#[test]
fn lines_of_the_original_after_ours() {
    let temp = certified();
    let path = temp.path("save/headers").join(HOUR);
    let ours = fs::read(&path).unwrap();
    Build { ours: false, ..Build::new(HOUR, &["x\n"]) }.store_foreign(&temp.path("save"));
    let theirs = fs::read(&path).unwrap();
    fs::write(&path, [ours, theirs].concat()).unwrap();
    fs::write(temp.path("save/log_data").join(HOUR), [PACKS.concat(), "x\n".into()].concat()).unwrap();
    wrong(&temp, &["headers/web1_2026112205", "the original"]);
}

#[test]
fn totals_decide_an_hour_without_a_certificate() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build::new(HOUR, PACKS).store(&save);
    let mut meta = Build::new(HOUR, &["a\n"]).metas().remove(0);
    meta.totals.as_mut().unwrap().lines = 7;
    let header = crate::pack::Header { route: vec![meta.entry()], pack_len: 9 };
    let checked = crate::pack::Checked { bytes: 2, crc32: crc32fast::hash(b"a\n") };
    fs::write(save.join("headers").join(HOUR), integrity::lines::encode(&header, 0, &checked)).unwrap();
    fs::write(save.join("log_data").join(HOUR), "a\n").unwrap();
    wrong(&temp, &["7 lines"]);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let temp = Temp::new();
    let (code, _, err) = printed(|out| run(&temp.path("none"), &Filter::default(), out));
    assert_eq!(code, ERROR);
    assert!(err.contains("no such directory"), "{err}");
    Build::new(HOUR, PACKS).store(&temp.path("save"));
    fs::remove_file(temp.path("save/log_data").join(HOUR)).unwrap();
    fs::create_dir(temp.path("save/log_data").join(HOUR)).unwrap();
    let (code, out, err) = printed(|out| run(&temp.path("save"), &Filter::default(), out));
    assert_eq!(code, ERROR);
    assert!(err.contains("cannot read") && out.contains("1 not readable"), "{out}{err}");
}

#[test]
fn files_of_another_hour_under_this_name() {
    let temp = certified();
    let save = temp.path("save");
    Build::new("web2_2026112205", &["x\ny\n", "z\n", "d\ne\n"]).certify(&save);
    // Somebody restored a backup and took the wrong name: data and proof agree with each other.
    for dir in ["log_data", "headers"] {
        fs::copy(save.join(dir).join("web2_2026112205"), save.join(dir).join(HOUR)).unwrap();
    }
    wrong(&temp, &["web1_2026112205: WRONG", "pack 1 is of web2_2026112205"]);
    fs::remove_file(save.join("received/web1_2026112205_5")).unwrap();
    wrong(&temp, &["pack 1 is of web2_2026112205"]);
}

#[test]
fn a_damaged_tag_still_says_that_the_hour_is_over() {
    let temp = certified();
    fs::write(temp.path("save/received/web1_2026112205_5"), "{").unwrap();
    fs::write(temp.path("save/log_data").join(HOUR), "a\nb\nc\nd\ne\nf\n").unwrap();
    wrong(&temp, &["2 bytes follow"]);
}

/// It was called moved away, whatever its bytes were.
#[test]
fn a_compressed_hour_without_its_proof_is_read() {
    let temp = Temp::new();
    let save = temp.path("save");
    let certificate = Build::new(HOUR, PACKS).certify(&save);
    let store = Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755);
    let hour = HourKey::parse(HOUR).unwrap();
    packed::pack(&store, &hour, &certificate, &mut || false).unwrap().unwrap();
    assert!(packed::finish(&store, &hour, &certificate).unwrap());
    fs::remove_file(save.join("headers").join(HOUR)).unwrap();
    assert_eq!(verify(&temp), (YES, "1 hour: 1 right (10 B read)\n".into()));
    let path = packed::path(&store, &hour);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    wrong(&temp, &["log_data/web1_2026112205.gz: "]);
}

#[test]
fn late_bytes_alone_are_wrong_with_and_without_the_proof() {
    let temp = Temp::new();
    Build::new(HOUR, PACKS).store(&temp.path("save"));
    temp.file("save/aside/web1_2026112205.late", "z");
    for part in ["log_data", "headers"] {
        fs::remove_file(temp.path("save").join(part).join(HOUR)).unwrap();
        wrong(&temp, &["not here; later bytes wait in aside/web1_2026112205.late"]);
    }
}

#[test]
fn a_configuration_names_its_store() {
    let temp = certified();
    let text =
        format!("[fcollector]\nlisten = :1\nallow = any\nsave_dir = {}\n", temp.path("save").display());
    let config = temp.file("c.ini", &text);
    let (code, out, err) = printed(|out| run(&config, &Filter::default(), out));
    assert!(code == YES && out.contains("1 right"), "{out}{err}");
    let (code, _, err) = printed(|out| run(&temp.file("t.ini", "x"), &Filter::default(), out));
    assert!(code == ERROR && err.contains("t.ini"), "{err}");
}
