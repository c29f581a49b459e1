//! What the look at a host finds, and what it must not call wrong.

use super::super::super::testing::{Temp, printed};
use super::super::super::{ERROR, NO, YES};
use std::net::TcpListener;
use std::path::Path;

fn check(path: &Path) -> (u8, String, String) {
    printed(|out| super::super::run(path, true, out))
}

fn line<'a>(text: &'a str, what: &str) -> &'a str {
    text.lines().find(|l| l.contains(what)).unwrap_or_else(|| panic!("no line with {what}: {text}"))
}

#[cfg(feature = "mongodb")]
#[test]
fn a_database_that_is_not_there_is_told_by_address_and_without_its_password() {
    let temp = Temp::new();
    // Nobody listens there any more.
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "[mgocollector]\nlisten = 127.0.0.1:0\nsave_dir = {}\nstate_dir = {}\nmin_free = 1M\n\
         uri = mongodb://u:geheim@{addr}/\ndb = d\ncollection = c\n",
        temp.path("save").display(),
        temp.path("state").display()
    );
    let (code, out, err) = check(&temp.file("c.ini", &text));
    assert!(code == NO && err.contains("1 thing would not work"), "{out}{err}");
    let told = line(&out, "database");
    assert!(told.starts_with(&format!("fail  mgocollector: database {addr}: ")), "{told}");
    assert!(!out.contains("geheim") && !err.contains("geheim"), "{out}{err}");
}

#[test]
fn a_follower_is_told_what_would_not_work() {
    let temp = Temp::new();
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = receiver.local_addr().unwrap();
    let text = |addr: &str| {
        format!(
            "[tail]\nlog_file = {}\nsend_to = {addr}\nstate_dir = {}\nmin_free = 1M\nspool_size = 64M\n",
            temp.path("logs/a.<%Y%m%d%H>").display(),
            temp.path("state").display()
        )
    };
    let config = temp.file("c.ini", &text(&addr.to_string()));
    let (code, out, err) = check(&config);
    assert_eq!(code, NO, "{out}{err}");
    let told = line(&out, "log_file");
    assert!(
        told.starts_with("fail  tail: [tail] log_file") && told.ends_with("; is the path right?"),
        "{out}"
    );
    temp.file("logs/a.2026112205", "x\n");
    let (code, out, err) = check(&config);
    assert_eq!((code, err.as_str()), (YES, ""), "{out}");
    assert!(out.lines().all(|l| l.starts_with("ok  ")), "{out}");
    assert!(line(&out, "log_file").contains("1 file readable"), "{out}");
    assert!(line(&out, "send_to").contains("reached"), "{out}");
    assert!(!temp.path("state").exists(), "nothing is made");
    // Nobody listens there any more.
    drop(receiver);
    let (code, out, err) = check(&config);
    assert_eq!(code, NO, "{out}");
    assert!(
        line(&out, "send_to").starts_with("fail") && err.contains("1 thing would not work"),
        "{out}{err}"
    );
    // A wrong config comes first, and nothing else is looked at.
    temp.file("c.ini", &text("nowhere"));
    assert_eq!(check(&config).0, ERROR);
}

#[test]
fn a_receiver_that_turns_everybody_away_is_no_way_to_send() {
    let temp = Temp::new();
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    temp.file("logs/a.2026112205", "x\n");
    let config = temp.file(
        "c.ini",
        &format!(
            "[tail]\nlog_file = {}\nsend_to = {}\nstate_dir = {}\nmin_free = 1M\nspool_size = 64M\n",
            temp.path("logs/a.<%Y%m%d%H>").display(),
            receiver.local_addr().unwrap(),
            temp.path("state").display()
        ),
    );
    let closes = std::thread::spawn(move || drop(receiver.accept()));
    let (code, out, _) = check(&config);
    assert_eq!(code, NO, "{out}");
    assert!(line(&out, "send_to").contains("`allow`"), "{out}");
    closes.join().unwrap();
}

#[test]
fn a_store_is_told_of_ports_room_and_strange_files() {
    use std::os::unix::fs::PermissionsExt;
    let temp = Temp::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let text = |min_free: &str| {
        format!(
            "[fcollector]\nlisten = {}\nallow = any\nsave_dir = {}\nstate_dir = {}\nmin_free = {min_free}\n\
             spool_size = 64M\nmax_connections = 16\n",
            listen,
            temp.path("save").display(),
            temp.path("state").display()
        )
    };
    let config = temp.file("c.ini", &text("1M"));
    let (code, out, err) = check(&config);
    assert_eq!(code, NO, "{err}");
    assert!(line(&out, "listen").contains("another program uses it"), "{out}");
    assert!(line(&out, "save_dir").contains("will be made"), "{out}");
    drop(taken);
    let (code, out, _) = check(&config);
    assert_eq!(code, YES, "{out}");
    assert!(line(&out, "listen").starts_with("ok") && line(&out, "open files").starts_with("ok"), "{out}");
    // A directory that anybody may write would be refused.
    std::fs::create_dir_all(temp.path("state")).unwrap();
    std::fs::set_permissions(temp.path("state"), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(line(&check(&config).1, "anybody may write").starts_with("fail"));
    std::fs::set_permissions(temp.path("state"), std::fs::Permissions::from_mode(0o750)).unwrap();
    temp.file("c.ini", &text("60T"));
    let (code, out, _) = check(&config);
    assert_eq!(code, NO);
    let told = line(&out, "min_free");
    assert!(
        told.starts_with("fail") && told.contains("iB free below") && told.contains("min_free is 60.0 TiB"),
        "{out}"
    );
    assert!(told.ends_with("that are free"), "{out}");
    // Where a directory should be a file is, or one that somebody else made.
    temp.file("c.ini", &text("1M"));
    for file in ["save/received", "state/closed"] {
        temp.file(file, "");
        let (code, out, _) = check(&config);
        assert_eq!(code, NO, "{out}");
        assert!(
            line(&out, &format!("{file}: a file in the place of a directory")).starts_with("fail"),
            "{out}"
        );
        std::fs::remove_file(temp.path(file)).unwrap();
    }
    let headers = temp.path("save/headers");
    std::fs::create_dir_all(&headers).unwrap();
    assert_eq!(check(&config).0, YES);
    std::fs::set_permissions(&headers, std::fs::Permissions::from_mode(0o500)).unwrap();
    // Root may write everywhere.
    if !rustix::process::geteuid().is_root() {
        let told = check(&config).1;
        assert!(line(&told, "save/headers: this user may not write it").starts_with("fail"), "{told}");
    }
}

/// The story: the file was edited after the start, and the check said that it was in effect.
#[test]
fn values_that_the_running_role_has_not_are_told() {
    use crate::config::{Config, Role};
    use crate::disk::Disk;
    use crate::instance::{Instance, ask};
    let temp = Temp::new();
    let text = format!(
        "[receiver]\nrecv_port = 127.0.0.1:0\nallow = any\nstate_dir = {}\n",
        temp.path("m").display()
    );
    let file = std::fs::canonicalize(temp.file("m.ini", &text)).unwrap();
    let (disk, dir) = (Disk::real(), temp.path("m"));
    let _running = Instance::open(&disk, &dir, "monitor", &file).unwrap();
    ask::begin(&disk, &dir).unwrap();
    assert!(line(&check(&file).1, "it runs").starts_with("ok"));
    let values = Config::load(&file).unwrap().values(Role::Monitor);
    ask::put_effect(&disk, &dir, Some(&ask::Effect::new(&values, String::new()))).unwrap();
    assert!(!check(&file).1.contains("in effect"));
    temp.file("m.ini", &format!("; a comment\n{text}keep_hours = 7\n"));
    let out = check(&file).1;
    let told = line(&out, "not all of the file");
    assert!(told.starts_with("warn") && out.contains("logd reload"), "{out}");
    // A port that another program has is not the role's own because the role runs.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("recv_port = {}", other.local_addr().unwrap());
    temp.file("m.ini", &text.replace("recv_port = 127.0.0.1:0", &port));
    let (code, out, _) = check(&file);
    assert!(code == NO && line(&out, "recv_port").contains("another program uses it"), "{out}");
    // Each is judged by its own key.
    let values = Config::load(&file).unwrap().values(Role::Monitor);
    ask::put_effect(&disk, &dir, Some(&ask::Effect::new(&values, String::new()))).unwrap();
    let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = text.replace("recv_port = 127.0.0.1:0", &port);
    temp.file("m.ini", &format!("{more}[http]\nlisten = {page}\n"));
    let out = check(&file).1;
    assert!(line(&out, "recv_port").contains("in use, by the role itself"), "{out}");
}

#[test]
fn a_monitor_and_a_database_that_are_not_reached_are_told() {
    let temp = Temp::new();
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = temp.file(
        "c.ini",
        &format!(
            "[fcollector]\nlisten = 127.0.0.1:0\nallow = any\nsave_dir = {}\nstate_dir = {}\nmin_free = 1M\nspool_size = \
             64M\nmax_connections = 16\n[monitor]\nhb_port = 127.0.0.1:0\nmon_addr = {}\n[logAgent]\ntcp_addr = {gone}\n",
            temp.path("save").display(),
            temp.path("state").display(),
            there.local_addr().unwrap()
        ),
    );
    let (code, out, err) = check(&config);
    assert_eq!(code, YES, "{out}{err}");
    assert!(line(&out, "mon_addr").starts_with("ok"), "{out}");
    assert!(line(&out, "tcp_addr").starts_with("warn") && out.contains("nobody watches"), "{out}");
    let text = format!(
        "[receiver]\nrecv_port = 127.0.0.1:0\nallow = any\nstate_dir = {}\ndb_host = 127.0.0.1\ndb_port = {}\ndb_uname = u\n\
         db_passwd = secret\ndb_db = d\n",
        temp.path("m").display(),
        gone.port()
    );
    let (code, out, _) = check(&temp.file("m.ini", &text));
    assert!(code == NO && line(&out, "database").starts_with("fail") && !out.contains("secret"), "{out}");
}
