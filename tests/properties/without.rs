//! Goal: a program that was built without the feature `etl` refuses to make tables, one without `mongodb` to write documents;
//! it says how to get one that does, and changes nothing before that.

use super::support::*;
use std::time::Duration;

#[test]
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
