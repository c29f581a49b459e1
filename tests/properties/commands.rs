//! What an operator asks of roles that run: `stop`, `reload`, `check --host`, `ping`. A wrong question changes nothing.

use super::support::{self, Lines, Node, SOON, Temp, assert_same, fixed_addr, logd, past_hours, until};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// The config file with one text in the place of another.
fn edit(node: &Node, from: &str, to: &str) {
    let text = fs::read_to_string(node.config()).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(node.config(), text.replace(from, to)).unwrap();
}

fn ask(word: &str, node: &Node) -> support::Ran {
    logd(&[Path::new(word), node.config()])
}

/// Does a receiver keep a connection?
fn is_let_in(addr: SocketAddr) -> bool {
    use std::io::Read;
    let mut c = TcpStream::connect(addr).unwrap();
    c.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    c.read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn a_role_is_stopped_and_that_is_waited_for() {
    let temp = Temp::new("stop");
    let mut store = support::store(&temp, &[]);
    let mut tail =
        support::tail(&temp, "web1", &temp.path("a.<%Y%m%d%H>"), &store.addr().to_string(), &[], &[]);
    tail.ready();
    for node in [&mut tail, &mut store] {
        let ran =
            until(SOON, "it hears", || Some(ask("stop", node)).filter(|r| !r.err.contains("no answer")));
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
        assert!(ran.out.contains(": stopped"), "{}", ran.out);
        // It ended by itself, cleanly, before the command did.
        assert_eq!(node.wait(SOON), 0);
        assert!(node.log().contains("stopped: "), "{}", node.log());
        let ran = ask("stop", node);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("no role of it runs"), "{}", ran.out);
        assert_eq!(ask("reload", node).code, 1);
    }
}

/// A start right behind a stop finds all that it needs, although the old process may still be there.
#[test]
fn a_store_can_be_started_as_soon_as_it_was_stopped() {
    let temp = Temp::new("stop-start");
    let addr = fixed_addr();
    let store = Node::prepare(
        &temp,
        "store",
        "fcollector",
        &[
            ("listen", addr.to_string().as_str()),
            ("save_dir", temp.path("save").to_str().unwrap()),
            ("state_dir", temp.path("state").to_str().unwrap()),
        ],
        &[],
    );
    let start = || {
        let mut command = std::process::Command::new(support::bin());
        let log = fs::File::options().create(true).append(true).open(temp.path("log")).unwrap();
        support::Reaped(command.arg("fcollector").arg(store.config()).stderr(log).spawn().unwrap())
    };
    let mut old = start();
    for _ in 0..8 {
        until(SOON, "it serves", || {
            TcpStream::connect(addr).ok().filter(|_| old.0.try_wait().unwrap().is_none())
        });
        // It serves before it can be asked.
        until(SOON, "it is stopped", || Some(ask("stop", &store)).filter(|r| r.code == 0));
        let new = start();
        assert!(old.0.wait().unwrap().success());
        old = new;
    }
    until(SOON, "it serves", || TcpStream::connect(addr).ok());
    let log = fs::read_to_string(temp.path("log")).unwrap();
    assert!(!log.contains("another logd stores there"), "{log}");
}

#[test]
fn a_receiver_takes_over_what_can_change_and_says_what_cannot() {
    let temp = Temp::new("reload");
    let mut store = support::store(&temp, &[("hosts_file", "")]);
    let addr = store.addr();
    let pid = store.pid();
    assert!(is_let_in(addr));
    let idle = TcpStream::connect(addr).unwrap();
    until(SOON, "the connection is there", || is_let_in(addr).then_some(()));

    edit(&store, "allow = 127.0.0.0/8", "allow = 10.0.0.0/33");
    let ran = ask("reload", &store);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("store.ini:") && ran.out.contains("10.0.0.0/33"), "{}", ran.out);
    assert!(ran.out.contains("nothing was changed") && is_let_in(addr), "{}", ran.out);

    edit(&store, "10.0.0.0/33", "10.0.0.0/8");
    let text = fs::read_to_string(store.config()).unwrap();
    fs::write(store.config(), text + "[logAgent]\nlevel = debug\n").unwrap();
    let ran = ask("reload", &store);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("[fcollector] allow: 127.0.0.0/8 -> 10.0.0.0/8: in effect"), "{}", ran.out);
    assert!(ran.out.contains("[logAgent] local_level: info (default) -> debug: in effect"), "{}", ran.out);
    until(SOON, "nobody is let in from here", || (!is_let_in(addr)).then_some(()));
    idle.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(std::io::Read::read(&mut &idle, &mut [0]).unwrap(), 0, "who was connected is shut out, too");

    edit(&store, "allow = 10.0.0.0/8", "allow = 127.0.0.0/8\ngap_wait = 1h");
    let ran = ask("reload", &store);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("gap_wait: 24h (default) -> 1h: needs a restart"), "{}", ran.out);
    until(SOON, "the rest is in effect", || is_let_in(addr).then_some(()));
    // What needs a restart is named until there was one.
    assert!(ask("reload", &store).out.contains("gap_wait: 24h"));
    // So it is by those who only look; the story: "keys: require" was told of a role that asked for none.
    for args in [&["status"][..], &["check", "--host"]] {
        let ran = logd(&[args, &[store.config().to_str().unwrap()]].concat());
        assert!(ran.out.contains("not all of the file is in effect"), "{ran:?}");
        assert!(ran.out.contains("gap_wait: 24h (default) -> 1h; `logd reload CONFIG`"), "{ran:?}");
    }
    assert_eq!(store.pid(), pid);
    store.terminate();
    store.restart();
    store.ready();
    let ran =
        until(SOON, "it hears", || Some(ask("reload", &store)).filter(|r| !r.err.contains("no answer")));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("no setting has changed"), "{}", ran.out);
    let ran = logd(&["status", store.config().to_str().unwrap()]);
    assert!(!ran.out.contains("not all of the file is in effect"), "{ran:?}");
}

/// The story: of four at once, two were told that the role hangs, and one took the question of another back.
#[test]
fn several_who_ask_at_once_are_all_answered() {
    let temp = Temp::new("reload-many");
    let mut store = support::store(&temp, &[]);
    store.ready();
    let store = &store;
    std::thread::scope(|s| {
        for ran in (0..6).map(|_| s.spawn(|| ask("reload", store))).collect::<Vec<_>>() {
            let ran = ran.join().unwrap();
            assert!(ran.code == 0 && ran.out.contains("no setting has changed"), "{ran:?}");
        }
    });
}

#[test]
fn a_follower_takes_up_streams_and_leaves_them_without_a_restart() {
    let temp = Temp::new("reload-tail");
    let mut store = support::store(&temp, &[]);
    let hour = past_hours(1)[0];
    let (a, b) = (temp.path("a"), temp.path("b"));
    let mut files = Vec::new();
    for dir in [&a, &b] {
        let mut lines = Lines::new("web1", 1);
        let text: String = (0..500).map(|_| lines.line()).collect();
        files.push(temp.file(&format!("{}/x.{hour}", dir.file_name().unwrap().to_str().unwrap()), text));
    }
    let keys = [("start", "oldest"), ("close_wait", "1s"), ("quiet", "1s")];
    let mut tail =
        support::tail(&temp, "web1", &a.join("x.<%Y%m%d%H>"), &store.addr().to_string(), &keys, &[]);
    tail.ready();
    let pid = tail.pid();
    support::certified(&temp.path("save"), "web1", hour);
    // The name is fixed; and with one such change nothing of the file is taken over.
    edit(&tail, "name = web1", "name = web2");
    let more = format!("\n[tail:b]\nlog_file = {}/x.<%Y%m%d%H>\nstart = oldest\n", b.display());
    let text = fs::read_to_string(tail.config()).unwrap();
    fs::write(tail.config(), text.clone() + &more).unwrap();
    let ran = ask("reload", &tail);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("name: web1 -> web2: not with this state_dir"), "{}", ran.out);
    edit(&tail, "name = web2", "name = web1");
    let ran = ask("reload", &tail);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("[tail:b] log_file"), "{}", ran.out);
    support::certified(&temp.path("save"), "web1+b", hour);
    assert_same(&temp.path(&format!("save/log_data/web1+b_{hour}")), &files[1]);
    assert_eq!(tail.pid(), pid);
    assert!(tail.runs());
    // A signal is heard after that, too.
    assert_eq!(tail.terminate(), 0);
    assert!(store.runs());
}

/// The whole store, names and contents, but for what it remembers of connections.
fn all_files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all_files(&path));
        } else {
            let content = fs::read(&path).unwrap();
            found.push((path, content));
        }
    }
    found.sort();
    found
}

#[test]
fn a_test_pack_is_judged_as_a_pack_and_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let temp = Temp::new("ping");
    let key = |name: &str| logd::auth::Key::new(name).unwrap().line();
    let (good, other) = (key("web1"), key("web1"));
    let private = |name: &str, text: &str| {
        let path = temp.file(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let mut store = support::store(&temp, &[("keys_file", &private("keys", &good))]);
    let relay = support::relay(&temp, &store.addr().to_string(), &[]);
    let before = all_files(&temp.path("save"));
    let tail = |name: &str, key: &str, to: &SocketAddr| {
        let log_file = temp.path("a.<%Y%m%d%H>").display().to_string();
        let keys = [
            ("log_file", log_file.as_str()),
            ("send_to", &to.to_string()),
            ("key_file", key),
            ("name", "web1"),
        ];
        let node = Node::prepare(&temp, name, "tail", &keys, &[]);
        ask("ping", &node)
    };
    let ran = tail("good", &private("good.key", &good), &store.addr());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("as web1: connected in") && ran.out.contains("accepted after"), "{}", ran.out);
    let ran = tail("bad", &private("bad.key", &other), &store.addr());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("denied"), "{}", ran.out);
    assert!(store.says("test pack").contains("web1"));
    // A relay has no key, and says how far it has asked.
    let ran = ask("ping", &relay);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("accepted after") && ran.out.contains("the next receiver"), "{}", ran.out);
    let ran = ask("ping", &store);
    assert_eq!(ran.code, 2);
    store.terminate();
    assert_eq!(all_files(&temp.path("save")), before);
    let ran = ask("ping", &relay);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("does the receiver run there"), "{}", ran.out);
}

#[test]
fn check_knows_a_port_of_its_own() {
    let temp = Temp::new("check-host");
    let addr = fixed_addr().to_string();
    let mut store = support::store(&temp, &[("listen", &addr), ("min_free", "1M"), ("spool_size", "64M")]);
    let check = || logd(&[Path::new("check"), Path::new("--host"), store.config()]);
    let ran = check();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains(&format!("listen {addr}: in use, by the role itself")), "{}", ran.out);
    until(SOON, "it to tell what it runs with", || {
        check().out.contains("it runs, with this file").then_some(())
    });
    let text = fs::read_to_string(store.config()).unwrap();
    fs::write(store.config(), text.replace("min_free = 1M", "min_free = 2M")).unwrap();
    assert!(check().out.contains("warn  fcollector: not all of the file is in effect"));
    store.terminate();
    let other = std::net::TcpListener::bind(&addr).unwrap();
    let ran = logd(&[Path::new("check"), Path::new("--host"), store.config()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("another program uses it"), "{}", ran.out);
    drop(other);
}

#[test]
fn watching_shows_what_moves_until_its_reader_goes() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let temp = Temp::new("watch");
    let store = support::store(&temp, &[]);
    let mut command = Command::new(support::bin());
    command.args(["status", "--watch"]).arg(store.config()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = support::Reaped(command.spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let looks = lines.by_ref().map(Result::unwrap).inspect(|l| assert!(!l.contains('\x1b'), "{l}"));
    assert!(looks.into_iter().any(|l| l.ends_with("stored: 0 B/s")), "a rate at the second look");
    drop(lines);
    let status = until(SOON, "it ends with its reader", || child.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// It was taken for none, and the hours before the present one stayed unsent without a word.
#[test]
fn a_position_file_that_says_nothing_is_told() {
    let temp = Temp::new("position");
    let pattern = temp.path("access.log.<%Y%m%d%H>").display().to_string();
    let record = temp.path("line.rec").display().to_string();
    let keys = [
        ("log_file", pattern.as_str()),
        ("send_to", "127.0.0.1:1"),
        ("name", "web1"),
        ("record_file", &record),
    ];
    let start = |state: &str| Node::spawn(&temp, state, "tail", &keys, &[]);
    for wrong in ["garbage", "/elsewhere/access.log.2026112205 3", "access.log.2026112205\t3"] {
        temp.file("line.rec", wrong);
        let mut node = start("wrong");
        assert_eq!(node.wait(Duration::from_secs(20)), 2, "{wrong}: {}", node.log());
        let log = node.log();
        assert!(log.contains("record_file: ") && log.contains("nothing was sent; correct it"), "{log}");
    }
    std::fs::remove_file(&record).unwrap();
    let node = start("none");
    until(Duration::from_mins(1), "a warning", || {
        node.log().contains("line.rec: no such file: this start").then_some(())
    });
}

/// The story: what it had said last was "stored 12 packs", and cron had thrown the reason away.
#[test]
fn why_a_role_did_not_start_is_in_its_log() {
    let temp = Temp::new("why");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let (save, logs) = (temp.path("save").display().to_string(), temp.path("logs").display().to_string());
    let keys = [("listen", listen.as_str()), ("save_dir", &save), ("[logAgent] local_dir", &logs)];
    for args in [&[][..], &["-d"]] {
        let mut store = Node::spawn(&temp, "store", "fcollector", &keys, args);
        assert_eq!(store.wait(SOON), 2, "{}", store.log());
        let files: Vec<_> = fs::read_dir(&logs).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let text = fs::read_to_string(&files[0]).unwrap();
        let last = text.lines().last().unwrap();
        let why = format!("error logd: fcollector: listen {listen}: ");
        assert!(last.contains(&why) && text.matches(&why).count() == 1, "{text}");
        let told = format!("its log, {}, says why", files[0].display());
        assert_eq!(store.log().contains(&told), !args.is_empty(), "{}", store.log());
        fs::remove_dir_all(&logs).unwrap();
    }
}
