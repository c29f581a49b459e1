//! Tags that people bring back: later bytes take them away like any other (P3).

use super::peer::{Answer, Hour, lines, until};
use super::store::Store;

const HOUR: &str = "2026112205";

/// Somebody restores a certified hour from a backup while the store runs; then its host has late lines.
fn restored(listed_before: bool) {
    let mut old = Store::new("backup", &[("checkpoint", "100ms")]);
    let hour = Hour::new("web1", HOUR, 3, 20);
    old.peer().send_all(&hour.packs());
    old.proven(&hour, 1);
    old.stop();
    let store = Store::new("restored", &[("checkpoint", "100ms")]);
    if listed_before {
        let other = Hour::new("web2", HOUR, 1, 20);
        store.peer().send_all(&other.packs());
        store.proven(&other, 1);
        // Not at the very moment at which the store adds a name itself: that it could not tell from its own doing.
        until("the store is done with it", || {
            store.log().contains("web2_2026112205: verified").then_some(())
        });
    }
    let tag = format!("web1_{HOUR}_{}", hour.raws.len() * 20);
    for file in [format!("log_data/web1_{HOUR}"), format!("headers/web1_{HOUR}"), format!("received/{tag}")] {
        std::fs::copy(old.save(&file), store.save(&file)).unwrap();
    }
    let mut more = Hour::new("web1", HOUR, 3, 20);
    more.raws.push(lines("late", 0, 5));
    more.raws.push(lines("later", 0, 5));
    let packs = more.packs();
    assert_eq!(store.peer().send(&packs[3]), Answer::Ok);
    // A line that the tag does not count is acknowledged.
    let stood = store.tag("web1", HOUR).map(|(name, _)| name);
    assert_eq!(store.peer().send(&packs[4]), Answer::Ok);
    let new = format!("web1_{HOUR}_70");
    until("the hour is certified again", || store.names("received").contains(&new).then_some(()));
    let tags: Vec<String> =
        store.names("received").into_iter().filter(|n| n.starts_with(&format!("web1_{HOUR}_"))).collect();
    assert_eq!((stood, tags), (None, vec![new]));
}

#[test]
fn a_tag_that_was_restored_before_anybody_asked_is_revoked_by_later_bytes() {
    restored(false);
}

#[test]
fn a_tag_that_was_restored_while_the_store_runs_is_revoked_by_later_bytes() {
    restored(true);
}
