//! Goal: a program that was built without the feature `etl` refuses to make tables, one without `mongodb` to write documents,
//! one without `tls` to do without it what was meant to be hidden; it says how to get one that does, and changes nothing before
//! that. `tests/all` runs these with the static program, which has no features.

use super::support::*;
use std::time::Duration;

#[test]
#[cfg_attr(feature = "etl", ignore = "the program has the feature")]
fn without_tables_what_makes_them_refuses_to_start() {
    let temp = Temp::new("without");
    let (save, columns) = (temp.path("save"), temp.file("columns.json", "{}"));
    let keys = [("save_dir", save.to_str().unwrap()), ("columns_file", columns.to_str().unwrap())];
    let mut store = Node::prepare(&temp, "etl", "etlcollector", &keys, &[]);
    store.restart();
    assert_eq!(store.wait(Duration::from_secs(20)), 2);
    assert!(store.log().contains("--features etl"), "{}", store.log());
    let ran = logd(&["etl".as_ref(), store.config().as_os_str()]);
    assert!(ran.code == 2 && ran.err.contains("--features etl"), "{ran:?}");
    let check = logd(&["check".as_ref(), store.config().as_os_str()]);
    assert!(check.code == 0 && check.err.contains("--features etl"), "{check:?}");
    assert!(!save.exists() && !temp.path("etl.state").join("closed").exists());
}

#[test]
#[cfg_attr(feature = "mongodb", ignore = "the program has the feature")]
fn without_documents_what_writes_them_refuses_to_start() {
    let temp = Temp::new("without-mongo");
    let save = temp.path("save");
    let keys = [("save_dir", save.to_str().unwrap()), ("db", "d"), ("collection", "c")];
    let mut store = Node::prepare(&temp, "mongo", "mgocollector", &keys, &[]);
    store.restart();
    assert_eq!(store.wait(Duration::from_secs(20)), 2);
    assert!(store.log().contains("--features mongodb"), "{}", store.log());
    let check = logd(&["check".as_ref(), store.config().as_os_str()]);
    assert!(check.code == 0 && check.err.contains("--features mongodb"), "{check:?}");
    let ran =
        logd(&["verify".as_ref(), "--mongodb".as_ref(), store.config().as_os_str(), "2026112205".as_ref()]);
    assert!(ran.code == 2 && ran.err.contains("--features mongodb"), "{ran:?}");
    assert!(!save.exists() && !temp.path("mongo.state").join("closed").exists());
}

#[test]
#[cfg_attr(feature = "tls", ignore = "the program has the feature")]
fn without_tls_a_config_that_asks_for_it_is_refused() {
    let temp = Temp::new("without-tls");
    let check = |name: &str, text: &str| {
        let config = temp.file(name, text);
        logd(&["check".as_ref(), config.as_os_str()])
    };
    let tail = "[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = c:1\n";
    let empty = check("empty.ini", &format!("{tail}tls_ca =\n"));
    assert_eq!(empty.code, 0, "{empty:?}");
    let relay = "[collector]\nlisten = :1\nallow = any\nsend_to = c:1\ntls_key = /k\ntls_cert = /c\n";
    for (name, text, place) in [
        ("tail.ini", format!("{tail}tls_ca = /etc/logd/ca.pem\n"), "tail.ini:4: tls_ca: "),
        ("relay.ini", relay.to_owned(), "relay.ini:6: tls_cert: "),
    ] {
        let refused = check(name, &text);
        assert!(refused.code == 2 && refused.err.contains(place), "{refused:?}");
        assert!(refused.err.contains("--features tls"), "{refused:?}");
    }
}
