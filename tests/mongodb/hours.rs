//! An hour's counts, its late lines and its copies, and who may say that it is whole.

use super::*;

#[test]
fn an_hours_counts_are_the_databases_and_verify_asks_it_again() {
    for upsert in [false, true] {
        let temp = Temp::new("mongo-verify");
        let mut server = Server::new(&temp);
        let mut node = serving(&temp, &server, &[("upsert", if upsert { "yes" } else { "no" })]);
        let key = format!("web1_{HOUR}");
        let text = numbered(0..120) + &numbered(100..130) + &line("www.example.com", "n=0") + "bad\n";
        let mut whole = hour("web1", &text, 40);
        send(&mut node, &whole);
        let (one, two) = if upsert { (130, 20) } else { (150, 0) };
        let done = wait_for(&temp, &key, |_| true);
        assert_eq!(counts(&done), [152, one, two, 1, 1], "{done}");
        assert_eq!(
            (done["database"].as_str(), done["collection"].as_str()),
            (Some("docs20261122"), Some("lines"))
        );
        same(&server, upsert, &[log(&temp, "web1", &text)], &[]);
        let good = verify(&node);
        assert!(good.code == 0 && good.out.contains("1 hour as written, 0 wrong"), "{good:?}");

        // Late lines: the hour's packs go on, and a new last one closes it.
        let late = numbered(500..505);
        whole.raws.push(late.clone().into_bytes());
        send(&mut node, &whole);
        let done = wait_for(&temp, &key, |m| counts(m)[0] == 157);
        assert_eq!(counts(&done), [157, one + 5, two, 1, 1], "{done}");
        same(&server, upsert, &[log(&temp, "web1", &(text.clone() + &late))], &[]);
        assert_eq!(verify(&node).code, 0, "{:?}", verify(&node));

        // Somebody removes a document; with the role running or not.
        let gone = json!({"db": format!("docs{DAY}"), "collection": COLLECTION, "filter": {"transaction_id": "t17"}});
        assert_eq!(server.ask("delete", &gone), 1);
        for _ in 0..2 {
            let bad = verify(&node);
            assert!(bad.code == 1 && bad.out.contains(&key), "{bad:?}");
            assert!(
                bad.out.contains(&(one + 5).to_string()) && bad.out.contains(&(one + 4).to_string()),
                "{bad:?}"
            );
            if node.runs() {
                assert_eq!(node.terminate(), 0);
            }
        }
        // An hour that is not there, and a database that is not.
        let none = logd(&[
            "verify".as_ref(),
            "--mongodb".as_ref(),
            node.config().as_os_str(),
            "2026112206".as_ref(),
        ]);
        assert_ne!(none.code, 0, "{none:?}");
        server.stop();
        let away = verify(&node);
        assert!(away.code == 2 && !away.err.is_empty(), "{away:?}");
    }
}

/// The story: an update whose `_id` was taken ended its message, and what was behind it counted as written.
#[test]
fn an_update_whose_id_is_taken_is_set_aside_and_those_behind_it_are_written() {
    let temp = Temp::new("mongo-taken");
    let server = Server::new(&temp);
    for n in [3, 17] {
        let theirs = json!({"_id": format!("web1_{HOUR}.0.1.{n}"), "transaction_id": format!("theirs{n}")});
        server.ask(
            "insert",
            &json!({"db": format!("docs{DAY}"), "collection": COLLECTION, "document": theirs}),
        );
    }
    let mut node = serving(&temp, &server, &[("upsert", "yes")]);
    send(&mut node, &hour("web1", &numbered(0..30), 30));
    let done = wait_for(&temp, &format!("web1_{HOUR}"), |_| true);
    assert_eq!(done["rejected"], 2, "{done}");
    assert_eq!(stored(&server), 30);
    let rejected = fs::read_to_string(temp.path(&format!("docs.save/{REJECT}/web1_{HOUR}"))).unwrap();
    assert!(
        rejected.contains("1:3\t") && rejected.contains("1:17\t") && rejected.lines().count() == 2,
        "{rejected}"
    );
}

/// The stories: documents that updates had made and somebody removed were never missed; late lines that were not in the
/// database stood behind a marker that said that all was.
#[test]
fn what_is_not_in_the_database_is_not_said_to_be() {
    for upsert in ["no", "yes"] {
        let temp = Temp::new("mongo-not-there");
        let mut server = Server::new(&temp);
        let mut node = serving(&temp, &server, &[("upsert", upsert)]);
        let mut whole = hour("web1", &numbered(0..90), 30);
        let packs = whole.packs();
        let (last, begin) = packs.split_last().unwrap();
        Peer::to(node.addr()).send_all(begin);
        until(SOON, "most documents", || (stored(&server) == 60).then_some(()));
        // Their progress is known a moment later.
        thread::sleep(Duration::from_secs(2));
        server.ask("drop", &json!({"db": format!("docs{DAY}"), "collection": COLLECTION}));
        Peer::to(node.addr()).send_all([last]);
        let key = format!("web1_{HOUR}");
        let done = wait_for(&temp, &key, |_| true);
        assert_eq!((counts(&done), stored(&server)), ([90, 90, 0, 0, 0], 90), "upsert {upsert}: {done}");
        assert_eq!(verify(&node).code, 0);

        server.stop();
        whole.raws.push(numbered(90..95).into_bytes());
        send(&mut node, &whole);
        until(SOON, "no marker of what is not there", || marker(&temp, "docs", &key).is_none().then_some(()));
        assert_ne!(verify(&node).code, 0);
        server.start();
        wait_for(&temp, &key, |m| counts(m)[0] == 95);
        assert_eq!((stored(&server), verify(&node).code), (95, 0));

        // A copy without the bad line of the one before.
        let mut bad = hour("web2", &(numbered(200..220) + "bad\n"), 30);
        send(&mut node, &bad);
        let reject = temp.path(&format!("docs.save/{REJECT}/web2_{HOUR}"));
        wait_for(&temp, &format!("web2_{HOUR}"), |_| true);
        assert_eq!(fs::read_to_string(&reject).unwrap().lines().count(), 1);
        bad = hour("web2", &numbered(200..230), 30);
        bad.generation = 1_790_000_000;
        send(&mut node, &bad);
        wait_for(&temp, &format!("web2_{HOUR}"), |m| counts(m)[0] == 30);
        assert!(!reject.exists());
    }
}

#[test]
fn a_newer_copy_takes_the_place_of_the_older_ones_documents_whoever_is_killed() {
    let temp = Temp::new("mongo-copies");
    let mut rng = Rng::new(seed());
    let mut server = Server::new(&temp);
    let mut node = serving(&temp, &server, &[]);
    // Their names are beginnings of each other's, and must not be taken for one.
    let others: Vec<Value> = ["web", "web1.0", "web10", "web1+access"]
        .into_iter()
        .zip(1..)
        .map(|(name, n)| {
            let text = numbered(n * 10_000..n * 10_000 + 60);
            send(&mut node, &hour(name, &text, 20));
            wait_for(&temp, &format!("{name}_{HOUR}"), |_| true);
            log(&temp, name, &text)
        })
        .collect();
    let key = format!("web1_{HOUR}");
    let (rounds, mut killed) = (if soak() { 30 } else { 8 }, 0);
    for round in 0..rounds {
        // Never fewer: a store does not put a shorter copy in the place of a certified one.
        let lines = 300 + 40 * round;
        let text = numbered(100_000 * (round + 1)..100_000 * (round + 1) + lines);
        let mut copy = hour("web1", &text, 25);
        copy.generation = 1_790_000_000 * round.min(1) + round;
        // A copy whose end is missing replaces nothing.
        let packs = copy.packs();
        let before = stored(&server);
        let (last, begin) = packs.split_last().unwrap();
        Peer::to(node.addr()).send_all(begin);
        if round == 1 {
            thread::sleep(Duration::from_secs(1));
            assert_eq!(stored(&server), before);
        }
        Peer::to(node.addr()).send_all([last]);
        for _ in 0..3 {
            if round == 0 || marker(&temp, "docs", &key).is_some_and(|m| m["gen"] == copy.generation) {
                break;
            }
            thread::sleep(Duration::from_millis(rng.below(400)));
            killed += 1;
            if rng.chance(50) {
                server.kill();
                server.start();
            } else {
                node.kill();
                node.restart();
                node.ready();
            }
        }
        let done = until(LATER, "the copy in the database", || {
            marker(&temp, "docs", &key).filter(|m| m["gen"] == copy.generation)
        });
        assert_eq!(counts(&done), [lines, lines, 0, 0, 0], "{done}");
        let mut files = others.clone();
        files.push(log(&temp, "web1", &text));
        same(&server, false, &files, &[]);
    }
    println!("{rounds} copies, {killed} kills");
    assert_eq!(verify(&node).code, 0, "{:?}", verify(&node));
    assert_eq!(node.terminate(), 0);
}

/// Two senders write to the same day, and an hour of the next day to another database.
#[test]
fn each_day_has_a_database_of_its_own() {
    let temp = Temp::new("mongo-days");
    let server = Server::new(&temp);
    let mut node = serving(&temp, &server, &[]);
    let mut files = Vec::new();
    for (n, (name, when)) in
        [("web1", "2026112205"), ("web2", "2026112223"), ("web1", "2026112300")].into_iter().enumerate()
    {
        let text = numbered(n as u64 * 100..n as u64 * 100 + 50);
        let mut hour = hour(name, &text, 20);
        hour.hour = when.into();
        send(&mut node, &hour);
        wait_for(&temp, &format!("{name}_{when}"), |_| true);
        let path: PathBuf = temp.file(&format!("texts/{name}-{when}"), &text);
        files.push(
            json!({"path": path, "name": name, "layout": "original", "db": format!("docs{}", &when[..8])}),
        );
    }
    same(&server, false, &files, &[]);
    assert_eq!(server.ask("databases", &Value::Null), json!(["docs20261122", "docs20261123"]));
    assert_eq!(node.terminate(), 0);
}
