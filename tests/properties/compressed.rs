//! `compress_closed = gzip`: an hour that was certified long ago is compressed, and nothing is lost by that, whatever comes later
//! (P1, P2, P3).

use super::peer::{Answer, Hour, until};
use super::store::Store;
use super::support::logd;
use logd::disk::Disk;
use logd::pack::HourKey;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

const HOUR: &str = "2026112205";

/// A store with a certified hour that is made three days older, started again.
fn aged(what: &str, age: bool) -> (Store, Hour) {
    let mut store = Store::new(what, &[("checkpoint", "100ms"), ("compress_closed", "gzip")]);
    let hour = Hour::new("web1", HOUR, 3, 20);
    store.peer().send_all(&hour.packs());
    store.proven(&hour, 1);
    assert!(store.save(&format!("log_data/web1_{HOUR}")).exists(), "what is young stays as it is");
    store.stop();
    if age {
        let inner =
            logd::integrity::Store::new(&Disk::real(), &store.save(""), &store.state(""), 0o644, 0o755);
        let key = HourKey::parse(&format!("web1_{HOUR}")).unwrap();
        let mut certificate = inner.closed(&key).unwrap().unwrap();
        certificate.certified -= 3 * 86_400;
        inner.certify(&certificate).unwrap();
        let old = SystemTime::now() - Duration::from_hours(72);
        fs::File::options().write(true).open(inner.place(&key).data).unwrap().set_modified(old).unwrap();
    }
    store.start();
    (store, hour)
}

fn gz(store: &Store) -> std::path::PathBuf {
    store.save(&format!("log_data/web1_{HOUR}.gz"))
}

fn packed(what: &str) -> (Store, Hour) {
    let (store, hour) = aged(what, true);
    let data = store.save(&format!("log_data/web1_{HOUR}"));
    until("it is compressed", || (gz(&store).exists() && !data.exists()).then_some(()));
    (store, hour)
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn old_hours_are_compressed_and_read_as_before() {
    let (store, hour) = packed("compressed");
    assert_eq!(unpacked(&gz(&store)), hour.bytes());
    let save = store.save("");
    let ran = logd(&[Path::new("cat"), &save, Path::new("web1"), Path::new(HOUR)]);
    assert_eq!((ran.code, ran.out.into_bytes()), (0, hour.bytes()), "{}", ran.err);
    let ran = logd(&[Path::new("verify"), &save]);
    assert!(ran.code == 0 && ran.out.contains("1 right"), "{ran:?}");
    // A pack that comes once more is known; the tag stands.
    assert_eq!(store.peer().send(&hour.packs()[1]), Answer::Ok);
    assert!(store.tag("web1", HOUR).is_some());
    let (young, _) = aged("young", false);
    young.wait_log("listening on");
    assert!(!gz(&young).exists());
}

#[test]
fn lines_that_come_later_are_kept_beside_it() {
    let (store, hour) = packed("compressed-late");
    let mut more = hour.clone();
    more.raws.push(super::peer::lines("late", 0, 5));
    let packs = more.packs();
    assert_eq!(store.peer().send(&packs[3]), Answer::Ok);
    assert!(store.tag("web1", HOUR).is_none(), "the hour is not whole any more");
    let late = store.save(&format!("aside/web1_{HOUR}.late"));
    until("they are beside it", || fs::read(&late).ok().filter(|b| *b == more.raws[3]));
    assert_eq!(unpacked(&gz(&store)), hour.bytes());
}

/// As logd-operate(7) restores a backup: `save_dir` alone. Each start called the hour damaged, and later lines made it so.
#[test]
fn it_is_restored_with_an_empty_state_directory() {
    let (mut store, hour) = packed("compressed-restored");
    store.stop();
    fs::remove_dir_all(store.state("")).unwrap();
    store.start();
    let closed = store.state(&format!("closed/web1_{HOUR}"));
    until("it is known", || closed.exists().then_some(()));
    assert!(!store.log().contains("damaged"), "{}", store.log());
    let mut more = hour.clone();
    more.raws.push(super::peer::lines("late", 0, 5));
    assert_eq!(store.peer().send(&more.packs()[3]), Answer::Ok);
    let late = store.save(&format!("aside/web1_{HOUR}.late"));
    until("they are beside it", || fs::read(&late).ok().filter(|b| *b == more.raws[3]));
    assert_eq!(unpacked(&gz(&store)), hour.bytes());
}

#[test]
fn a_new_copy_takes_its_place() {
    let (store, hour) = packed("compressed-copy");
    let mut copy = hour.copy(1_795_000_000);
    copy.raws.push(super::peer::lines("more", 0, 5));
    store.peer().send_all(&copy.packs());
    until("the copy is certified", || store.tag("web1", HOUR).filter(|(name, _)| name.ends_with("_65")));
    assert_eq!(store.data("web1", HOUR), copy.bytes());
    assert!(!gz(&store).exists());
    let kept = store.save(&format!("aside/web1_{HOUR}.0.replaced/data.gz"));
    assert_eq!(unpacked(&kept), hour.bytes());
    let ran = logd(&[Path::new("verify"), &store.save("")]);
    assert!(ran.code == 0 && ran.out.contains("1 right"), "{ran:?}");
}

/// Neither compressed nor here: a batch job took it. Each start without the state directory called such an hour damaged.
#[test]
fn what_a_batch_job_took_stays_closed_without_the_state_directory() {
    let (mut store, hour) = aged("taken-restored", false);
    let restart = |store: &mut Store, tag: bool| {
        store.stop();
        let _ = fs::remove_file(store.save(&format!("log_data/web1_{HOUR}")));
        fs::remove_dir_all(store.state("")).unwrap();
        if !tag {
            fs::remove_file(store.save(&format!("received/web1_{HOUR}_60"))).unwrap();
        }
        store.start();
    };
    let closed = store.state(&format!("closed/web1_{HOUR}"));
    restart(&mut store, true);
    until("it is known", || closed.exists().then_some(()));
    assert!(!store.log().contains("damaged") && store.tag("web1", HOUR).is_some(), "{}", store.log());
    assert_eq!(store.peer().send(&hour.packs()[1]), Answer::Ok);
    let mut more = hour.clone();
    more.raws.push(super::peer::lines("late", 0, 5));
    assert_eq!(store.peer().send(&more.packs()[3]), Answer::Ok);
    let late = store.save(&format!("aside/web1_{HOUR}.late"));
    until("they are beside it", || fs::read(&late).ok().filter(|b| *b == more.raws[3]));
    // Without a tag nothing says that it had been whole.
    let (mut store, _) = aged("taken-untagged", false);
    restart(&mut store, false);
    store.wait_log("damaged: ");
    assert!(!store.state(&format!("closed/web1_{HOUR}")).exists());
}
