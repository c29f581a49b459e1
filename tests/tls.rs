//! TLS: who is not who he says he is gets nothing and gives nothing, through relays too; the others get through.
//!
//! The certificates are made by `openssl`, and the sender by hand is `openssl s_client`: what two programs of one library
//! agree on may be wrong in both. `cargo test --features tls --test tls` runs it; `tests/all` does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failing test is meant to panic"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::peer::{Answer, Hour, Pack, hex, lines, until};
use support::store::{Running, Store};
use support::{Node, Temp, fixed_addr, logd, past_hours, peer, tail};

const HOUR: &str = "2026112205";
const SECRET: [u8; 32] = *b"the secret that web1 was given..";

// ---- certificates ---------------------------------------------------------------------------------------------

fn openssl(dir: &Path, args: &[&str]) {
    let out = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl is needed");
    assert!(out.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

fn ca(dir: &Path, name: &str) {
    let (key, pem, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN=the {name}"));
    let rest = ["-keyout", &key, "-out", &pem, "-subj", &subject, "-days", "3650"];
    openssl(dir, &[&["req", "-x509"], &NEW_KEY[..], &rest].concat());
}

/// Days of a certificate that is over.
const EXPIRED: &str = "";

fn certificate(dir: &Path, name: &str, ca: &str, alt: &str, usage: &str, days: &str) {
    let [key, csr, pem, ext] = ["key", "csr", "pem", "ext"].map(|end| format!("{name}.{end}"));
    openssl(
        dir,
        &[&["req"], &NEW_KEY[..], &["-keyout", &key, "-out", &csr, "-subj", "/CN=whoever"]].concat(),
    );
    let text = format!("subjectAltName={alt}\nbasicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n");
    fs::write(dir.join(&ext), text).unwrap();
    let (ca_pem, ca_key) = (format!("{ca}.pem"), format!("{ca}.key"));
    if days == EXPIRED {
        // `openssl x509` cannot make a certificate that began in the past.
        let conf = "[ca]\ndefault_ca = d\n[d]\ndatabase = index\nnew_certs_dir = .\nunique_subject = no\nserial = serial\npolicy = p\n\
                    [p]\ncommonName = supplied\n";
        fs::write(dir.join("conf"), conf).unwrap();
        fs::write(dir.join("index"), "").unwrap();
        let past =
            ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z", "-rand_serial", "-md", "sha256"];
        let files = ["-cert", &ca_pem, "-keyfile", &ca_key, "-in", &csr, "-out", &pem, "-extfile", &ext];
        openssl(dir, &[&["ca", "-config", "conf", "-batch", "-notext"], &past[..], &files[..]].concat());
        return;
    }
    let args =
        ["x509", "-req", "-in", &csr, "-CA", &ca_pem, "-CAkey", &ca_key, "-CAcreateserial", "-days", days];
    openssl(dir, &[&args[..], &["-extfile", &ext, "-out", &pem]].concat());
}

/// The directory with all certificates, made once.
fn pki() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls-certificates");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        ca(&dir, "ca");
        ca(&dir, "stranger");
        let (here, server, client) = ("DNS:localhost,IP:127.0.0.1", "serverAuth", "clientAuth");
        for (name, ca, alt, usage, days) in [
            ("server", "ca", here, server, "90"),
            ("server-expired", "ca", here, server, EXPIRED),
            ("server-stranger", "stranger", here, server, "90"),
            ("server-elsewhere", "ca", "DNS:elsewhere.example", server, "90"),
            ("server-soon", "ca", here, server, "5"),
            ("web1", "ca", "DNS:web1", client, "90"),
            ("web1-expired", "ca", "DNS:web1", client, EXPIRED),
            ("web1-stranger", "stranger", "DNS:web1", client, "90"),
            ("web1-server", "ca", "DNS:web1", server, "90"),
            ("address", "ca", "IP:10.0.0.7", client, "90"),
            ("db1", "ca", "DNS:db1", client, "90"),
            ("relay1", "ca", "DNS:relay1", client, "90"),
        ] {
            certificate(&dir, name, ca, alt, usage, days);
        }
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o600)).unwrap();
        }
        dir
    })
}

fn file(name: &str) -> String {
    pki().join(name).display().to_string()
}

/// Keys of a listener that asks for certificates.
fn listener(server: &str) -> Vec<(&'static str, String)> {
    vec![
        ("tls_cert", file(&format!("{server}.pem"))),
        ("tls_key", file(&format!("{server}.key"))),
        ("tls_client_ca", file("ca.pem")),
    ]
}

/// Keys of a sender that has one.
fn sender(own: &str) -> Vec<(&'static str, String)> {
    vec![
        ("tls_ca", file("ca.pem")),
        ("tls_client_cert", file(&format!("{own}.pem"))),
        ("tls_client_key", file(&format!("{own}.key"))),
    ]
}

/// As lines of a configuration.
fn ini<V: AsRef<str>>(keys: &[(&str, V)]) -> String {
    keys.iter().fold(String::new(), |all, (k, v)| all + k + " = " + v.as_ref() + "\n")
}

fn text<'a>(keys: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    keys.iter().map(|(k, v)| (*k, v.as_str())).collect()
}

// ---- a sender by hand -----------------------------------------------------------------------------------------

/// A connection through `openssl s_client`.
struct Client {
    child: Child,
    out: ChildStdout,
}

impl Client {
    /// With this certificate, if any.
    fn to(addr: SocketAddr, own: Option<&str>) -> Self {
        let (addr, ca) = (addr.to_string(), file("ca.pem"));
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-verify_return_error", "-connect", &addr, "-CAfile", &ca]);
        if let Some(own) = own {
            command.args(["-cert", &file(&format!("{own}.pem")), "-key", &file(&format!("{own}.key"))]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().unwrap();
        Self { child, out }
    }

    /// Sends a pack; the whole answer, or what came before the end.
    fn send(&mut self, pack: &Pack) -> String {
        let stdin = self.child.stdin.as_mut().unwrap();
        // Whoever refuses us may have closed already.
        let _ = stdin.write_all(&pack.frame()).and_then(|()| stdin.flush());
        let mut got = Vec::new();
        let mut byte = [0];
        while !["ok", "denied", "busy", "wrong header"].iter().any(|w| got == w.as_bytes()) {
            match self.out.read(&mut byte) {
                Ok(1) => got.push(byte[0]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&got).into_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hour(name: &str) -> Hour {
    Hour::new(name, HOUR, 3, 20)
}

fn first(name: &str) -> Pack {
    hour(name).packs().remove(0)
}

// ---- the matrix -----------------------------------------------------------------------------------------------

#[test]
fn of_the_clients_only_the_right_ones_are_heard() {
    let keys = listener("server");
    let mut store = Store::new("tls-matrix", &text(&keys));
    let addr = store.addr();
    for (what, own, name, wanted) in [
        ("no certificate", None, "web1", ""),
        ("an expired certificate", Some("web1-expired"), "web1", ""),
        ("a certificate of another CA", Some("web1-stranger"), "web1", ""),
        ("a server's certificate", Some("web1-server"), "web1", ""),
        ("another host's certificate", Some("db1"), "web1", "denied"),
        ("another host's stream", Some("db1"), "web1+access", "denied"),
        ("a longer name", Some("web1"), "web11", "denied"),
        ("a relay's that is not listed", Some("relay1"), "web1", "denied"),
        ("another address", Some("address"), "10.0.0.8", "denied"),
    ] {
        assert_eq!(Client::to(addr, own).send(&first(name)), wanted, "{what}: {}", store.log());
    }
    // Without TLS: an alert, which nobody takes for an answer.
    let Answer::Closed(said) = store.peer().send(&first("web1")) else { panic!("it was answered") };
    assert!(said.starts_with('\u{15}'), "{said:?}");
    assert!(store.names("log_data").is_empty(), "{:?}", store.names("log_data"));
    for said in [
        "the peer shows no certificate",
        "the peer's certificate has expired",
        "is not signed by the CA",
        "does not speak TLS",
        "the certificate of db1 does not name this sender",
        "tls_relays",
    ] {
        store.wait_log(said);
    }

    for (own, name) in [("web1", "web1"), ("web1", "web1+access"), ("db1", "db1"), ("address", "10.0.0.7")] {
        let h = hour(name);
        let mut client = Client::to(addr, Some(own));
        for pack in h.packs() {
            assert_eq!(client.send(&pack), "ok", "{name}: {}", store.log());
        }
        // A certificate speaks for the connection; what stands in the proof is the signature of the pack.
        assert_eq!(store.proven(&h, 1)["authentic"], false);
    }
    assert!(store.verify().0 == Some(0));
    // Who was refused stands in `status`, with the reason, until packs of his are taken.
    until("status names them", || {
        let status = store.status();
        let said = [
            "10.0.0.8 from 127.0.0.1",
            "web11 from 127.0.0.1",
            "certificate of web1 does not name this sender",
        ];
        said.iter().all(|said| status.contains(said)).then_some(())
    });
    assert!(!store.status().contains("db1+"));
    store.stop();
}

/// One host is one name, however that can be written.
#[test]
fn a_certificate_names_hosts_letter_by_letter() {
    let keys = listener("server");
    let store = Store::new("tls-names", &text(&keys));
    for (own, name) in [("web1", "WEB1"), ("web1", "web1."), ("address", "010.0.0.7")] {
        assert_ne!(Client::to(store.addr(), Some(own)).send(&first(name)), "ok", "{name}");
    }
    assert!(store.names("log_data").is_empty());
    let mut keys = listener("server");
    keys.push(("tls_relays", "*".to_owned()));
    let store = Store::new("tls-any", &text(&keys));
    assert_eq!(Client::to(store.addr(), Some("db1")).send(&first("web1")), "ok");
}

/// Thousands of hellos that never end take no memory to speak of.
#[test]
fn handshakes_are_few_and_short() {
    let mut keys = listener("server");
    keys.extend([
        ("max_unproven_per_address", "4000".to_owned()),
        ("max_connections_per_address", "4000".to_owned()),
    ]);
    let store = Store::new("tls-memory", &text(&keys));
    // A hello of 0xfff0 bytes in records of 16,000.
    let record = [&[0x16, 3, 1, 0x3e, 0x80, 1, 0, 0xff, 0xf0][..], &[0; 15_996]].concat();
    let more = [&[0x16, 3, 1, 0x3e, 0x80][..], &[0; 16_000]].concat();
    let mut open = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(store.addr()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(&record).and_then(|_| stream.write(&more));
        open.push(stream);
    }
    store.wait_log("its handshake is too long");
    assert!(store.process().status_kb("VmHWM") < 64 << 10, "{} kB", store.process().status_kb("VmHWM"));
}

#[test]
fn a_listed_relay_sends_for_every_host_and_a_key_is_asked_for_besides() {
    let dir = Temp::new("tls-keys");
    let secrets = dir.file("keys", format!("web1 w1 {}\n", hex(&SECRET)));
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let mut keys = listener("server");
    keys.extend([("tls_relays", "other, relay1".to_owned()), ("keys_file", secrets.display().to_string())]);
    let store = Store::new("tls-keys", &text(&keys));
    let (h, mut relay) = (hour("web1"), Client::to(store.addr(), Some("relay1")));
    assert_eq!(relay.send(&first("web1")), "denied", "TLS does not stand in for the signature");
    let signed: Vec<Pack> = h.packs().into_iter().map(|p| p.signed("w1", &SECRET)).collect();
    // Nor the signature for the certificate.
    assert_eq!(Client::to(store.addr(), Some("db1")).send(&signed[0]), "denied");
    let mut relay = Client::to(store.addr(), Some("relay1"));
    for pack in &signed {
        assert_eq!(relay.send(pack), "ok", "{}", store.log());
    }
    assert_eq!(store.proven(&h, 1)["authentic"], true);
}

#[test]
fn whose_lines_go_to_a_server_that_is_not_the_right_one_keeps_them() {
    let temp = Temp::new("tls-servers");
    let [at] = past_hours(1).try_into().unwrap();
    let pattern = temp.path("a.<%Y%m%d%H>");
    temp.file(&format!("a.{at}"), lines("one", 0, 500));
    let (cert, key) = (temp.path("server.pem"), temp.path("server.key"));
    let install = |name: &str| {
        for (from, to) in [(format!("{name}.key"), &key), (format!("{name}.pem"), &cert)] {
            fs::copy(pki().join(from), to).unwrap();
        }
    };
    let (cert_text, key_text, ca) = (cert.display().to_string(), key.display().to_string(), file("ca.pem"));
    let (addr, save) = (fixed_addr().to_string(), temp.path("save"));
    let store_keys = [
        ("listen", addr.as_str()),
        ("save_dir", save.to_str().unwrap()),
        ("tls_cert", &cert_text),
        ("tls_key", &key_text),
        ("checkpoint", "200ms"),
    ];
    install("server-expired");
    let mut store = Node::start(&temp, "store", "fcollector", &store_keys, &[]);
    store.says("server.pem: expired at");
    let told = logd(&["status", store.config().to_str().unwrap()]).out;
    assert!(told.contains("server.pem: expired at") && !told.contains("nothing is wrong"), "{told}");
    let usual = [("quiet", "0"), ("close_wait", "0"), ("start", "oldest"), ("backoff_max", "200ms")];
    // The address is not in the certificate, its name is.
    let tls = [("tls_ca", ca.as_str()), ("tls_name", "localhost")];
    let mut follower = tail(&temp, "web1", &pattern, &addr, &[&usual[..], &tls].concat(), &[]);
    follower.says("the peer's certificate has expired");
    for (server, said) in [
        ("server-stranger", "the peer's certificate is not signed by the CA that is configured here"),
        ("server-elsewhere", "tls_name says which name is wanted"),
    ] {
        // Under the running receiver, which takes a pair as soon as it is one.
        install(server);
        store.says("certificate and key read again");
        follower.says(said);
    }
    assert!(!save.join("log_data").join(format!("web1_{at}")).exists());
    install("server");
    let certified = support::certified(&save, "web1", at);
    assert_eq!(certified["verified"], true, "{certified}");
    assert_eq!(follower.terminate(), 0);

    // A receiver without TLS gets nothing either, nor does it take a hello for a pack.
    let plain_save = temp.path("plain");
    let plain_keys = [("save_dir", plain_save.to_str().unwrap()), ("header_timeout", "500ms")];
    let mut plain = Node::start(&temp, "plain", "fcollector", &plain_keys, &[]);
    let to = plain.addr().to_string();
    let mut follower = tail(&temp, "web2", &pattern, &to, &[&usual[..], &tls].concat(), &[]);
    follower.says("TLS: ");
    // And who sends without TLS to one with it is told.
    let mut bare = tail(&temp, "web3", &pattern, &addr, &usual, &[]);
    bare.says("the receiver speaks TLS: set tls_ca");
    assert!(fs::read_dir(plain_save.join("log_data")).map_or(0, Iterator::count) == 0);
}

#[test]
fn both_ways_through_a_relay() {
    let temp = Temp::new("tls-relay");
    let hours = past_hours(2);
    let pattern = temp.path("a.<%Y%m%d%H>");
    for at in &hours {
        // More than fits into a record or a socket's buffer, and no compression makes it less.
        let mut random = peer::Random::new();
        let noise = hex(&random.bytes(600_000));
        temp.file(&format!("a.{at}"), [lines("one", 0, 3000), noise.into_bytes(), b"\n".to_vec()].concat());
    }
    let save = temp.path("save");
    let mut keys = listener("server");
    keys.extend([
        ("tls_relays", "relay1".to_owned()),
        ("save_dir", save.display().to_string()),
        ("checkpoint", "200ms".to_owned()),
    ]);
    let mut store = Node::start(&temp, "store", "fcollector", &text(&keys), &[]);
    let mut keys = listener("server");
    keys.extend(sender("relay1"));
    keys.push(("send_to", store.addr().to_string()));
    let mut relay = Node::start(&temp, "relay", "collector", &text(&keys), &[]);
    let mut keys = sender("web1");
    keys.extend([("quiet", "0"), ("close_wait", "0"), ("start", "oldest")].map(|(k, v)| (k, v.to_owned())));
    let to = relay.addr().to_string();
    let mut follower = tail(&temp, "web1", &pattern, &to, &text(&keys), &[]);
    for at in hours {
        let certified = support::certified(&save, "web1", at);
        assert_eq!(certified["verified"], true, "{certified}");
        let source = fs::read(temp.path(&format!("a.{at}"))).unwrap();
        assert_eq!(fs::read(save.join("log_data").join(format!("web1_{at}"))).unwrap(), source);
    }
    assert_eq!((follower.terminate(), relay.terminate(), store.terminate()), (0, 0, 0));
}

#[test]
fn while_hosts_are_changed_over_both_are_taken() {
    let mut keys = listener("server");
    keys.push(("tls", "accept".to_owned()));
    let store = Store::new("tls-accept", &text(&keys));
    let (plain, tls) = (hour("web2"), hour("web1"));
    store.peer().send_all(&plain.packs());
    let mut client = Client::to(store.addr(), Some("web1"));
    for pack in tls.packs() {
        assert_eq!(client.send(&pack), "ok");
    }
    store.proven(&plain, 1);
    store.proven(&tls, 1);
    // Who is not changed over yet is told.
    store.wait_log("connection from 127.0.0.1: without TLS, which `tls = accept` takes");
    assert_eq!(Client::to(store.addr(), None).send(&first("web1")), "");
}

/// The story: whose CA was taken away could go on sending for as long as its connection stood.
#[test]
fn a_ca_that_is_taken_away_ends_connections_that_stand() {
    let temp = Temp::new("tls-ca");
    let trusted = temp.path("ca.pem");
    let trust = |name: &str| {
        let fresh = temp.path("ca.new");
        fs::copy(pki().join(name), &fresh).unwrap();
        fs::rename(&fresh, &trusted).unwrap();
    };
    trust("ca.pem");
    let mut keys = listener("server");
    keys.retain(|(key, _)| *key != "tls_client_ca");
    keys.push(("tls_client_ca", trusted.display().to_string()));
    let store = Store::new("tls-ca", &text(&keys));
    let (web1, db1) = (hour("web1"), hour("db1"));
    let mut idle = Client::to(store.addr(), Some("web1"));
    assert_eq!(idle.send(&web1.packs()[0]), "ok");
    // Another one is in the middle of a pack.
    let mut busy = Client::to(store.addr(), Some("db1"));
    assert_eq!(busy.send(&db1.packs()[0]), "ok");
    let frame = db1.packs()[1].frame();
    let stdin = busy.child.stdin.as_mut().unwrap();
    stdin.write_all(&frame[..20]).and_then(|()| stdin.flush()).unwrap();
    until("half of it is there", || {
        std::thread::sleep(Duration::from_millis(300));
        Some(())
    });
    trust("stranger.pem");
    store.wait_log("certificate and key read again");
    assert_eq!(idle.send(&web1.packs()[1]), "");
    let stdin = busy.child.stdin.as_mut().unwrap();
    let _ = stdin.write_all(&frame[20..]).and_then(|()| stdin.flush());
    let mut said = String::new();
    let _ = busy.out.read_to_string(&mut said);
    assert_eq!(said, "");
    store.wait_log("the certificate of db1: the peer's certificate is not signed by the CA");
    assert_eq!(Client::to(store.addr(), Some("web1")).send(&web1.packs()[1]), "");
    assert_eq!(Client::to(store.addr(), Some("web1-stranger")).send(&web1.packs()[1]), "ok");
    trust("ca.pem");
    for h in [&web1, &db1] {
        until("it is taken again", || {
            let mut client = Client::to(store.addr(), Some(&h.name));
            h.packs().iter().all(|p| client.send(p) == "ok").then_some(())
        });
        store.proven(h, 1);
    }
}

// ---- attacks --------------------------------------------------------------------------------------------------

/// Whoever has shown nothing gets no more than a deadline and few connections, and an honest sender does not notice.
#[test]
fn handshakes_that_never_end_keep_nobody_out() {
    let mut keys = listener("server");
    keys.extend([
        ("header_timeout", "2s".to_owned()),
        ("max_unproven_per_address", "20".to_owned()),
        ("max_connections_per_address", "1000".to_owned()),
    ]);
    let store = Store::new("tls-siege", &text(&keys));
    let hello = recorded_hello();
    let mut crowd = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    let mut random = peer::Random::new();
    while Instant::now() < end {
        let mut stream = TcpStream::connect(store.addr()).unwrap();
        let cut = 1 + random.below(hello.len() - 1);
        let _ = match crowd.len() % 3 {
            // Cut short, spoiled, or followed by what is no answer.
            0 => stream.write_all(&hello[..cut]),
            1 => {
                let mut bad = hello.clone();
                bad[cut] ^= 1 << random.below(8);
                stream.write_all(&bad)
            }
            _ => stream.write_all(&hello).and_then(|()| stream.write_all(&random.bytes(300))),
        };
        crowd.push(stream);
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("{} connections", crowd.len());
    // Their address has no place free before the first ones are over their deadline.
    until("an honest sender is heard", || {
        (Client::to(store.addr(), Some("web1")).send(&first("web1")) == "ok").then_some(())
    });
    until("the crowd is gone", || {
        let open = store.process().threads().iter().filter(|name| *name == "connection").count();
        (open <= 1).then_some(())
    });
    assert!(store.process().status_kb("VmHWM") < 128 << 10);
    let h = hour("web1");
    let mut client = Client::to(store.addr(), Some("web1"));
    for pack in h.packs() {
        assert_eq!(client.send(&pack), "ok");
    }
    store.proven(&h, 1);
}

/// A way that takes 200 ms for whatever is said.
fn far_away(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let carry = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let mut buf = [0; 16 << 10];
            while let Some(n) = from.read(&mut buf).ok().filter(|n| *n > 0) {
                std::thread::sleep(Duration::from_millis(100));
                if to.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    };
    std::thread::spawn(move || {
        for here in listener.incoming().flatten() {
            let Ok(there) = TcpStream::connect(to) else { continue };
            carry(here.try_clone().unwrap(), there.try_clone().unwrap());
            carry(there, here);
        }
    });
    addr
}

/// The story: of an address's connections the one that had waited longest made room for the next, and in a flood that was
/// always the honest one whose handshake took some round trips.
#[test]
fn a_flood_does_not_keep_out_who_is_far_away() {
    let mut keys = listener("server");
    keys.push(("max_unproven_per_address", "32".to_owned()));
    let store = Store::new("tls-far", &text(&keys));
    let (addr, stop) = (store.addr(), Arc::new(AtomicBool::new(false)));
    let hello = recorded_hello();
    let flood = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut crowd = std::collections::VecDeque::new();
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Ok(mut stream) = TcpStream::connect(addr) {
                    let _ = stream.write_all(&hello[..40]);
                    crowd.push_back(stream);
                    count += 1;
                }
                if crowd.len() > 500 {
                    crowd.pop_front();
                }
                // No faster: by luck alone it would be heard in time.
                std::thread::sleep(Duration::from_millis(6));
            }
            count
        })
    };
    let far = far_away(addr);
    std::thread::sleep(Duration::from_secs(1));
    until("an honest sender is heard", || {
        (Client::to(far, Some("web1")).send(&first("web1")) == "ok").then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    println!("{} connections", flood.join().unwrap());
}

/// The story: four addresses, with 64 handshakes each that never ended, kept everybody out.
#[test]
fn a_few_addresses_do_not_take_all_handshakes() {
    let mut keys = listener("server");
    keys.push(("header_timeout", "1m".to_owned()));
    let store = Store::new("tls-places", &text(&keys));
    let hello = recorded_hello();
    let mut crowd = Vec::new();
    for n in 0..5 {
        for _ in 0..64 {
            let ip = std::net::Ipv4Addr::new(127, 66, 1, n + 1);
            let mut stream = support::siege::connect_from(ip, store.addr()).unwrap();
            stream.write_all(&hello[..40]).unwrap();
            crowd.push(stream);
        }
    }
    store.wait_log("256 handshakes are under way");
    let mut client = Client::to(store.addr(), Some("web1"));
    assert_eq!(client.send(&first("web1")), "ok", "{}", store.log());
}

/// The first flight of a real client.
fn recorded_hello() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = Client::to(listener.local_addr().unwrap(), None);
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = [0; 4096];
    let n = stream.read(&mut bytes).unwrap();
    assert!(n > 100 && bytes[0] == 0x16);
    bytes[..n].to_vec()
}

/// Another server may send tickets after the handshake: no doubt about the connection. A byte of its own is one.
#[test]
fn what_tls_says_to_tls_is_no_answer() {
    use rustls::pki_types::pem::PemObject;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = rustls::pki_types::CertificateDer::pem_file_iter(pki().join("server.pem")).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(pki().join("server.key")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        assert!(config.send_tls13_tickets > 0);
        let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let (tcp, _) = listener.accept().unwrap();
        let mut stream = rustls::StreamOwned::new(connection, tcp);
        let mut byte = [0];
        for answer in [&b""[..], b"x"] {
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(answer).unwrap();
            stream.flush().unwrap();
        }
        let _ = stream.read(&mut byte);
    });
    let conf = logd::config::TlsSend { ca: pki().join("ca.pem"), name: None, own: None };
    let client = logd::tls::Client::open(&conf).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let tcp = TcpStream::connect(addr).unwrap();
    let mut stream = client.connect(&format!("localhost:{}", addr.port()), tcp, deadline).unwrap();
    stream.write_all(b"a").unwrap();
    // The tickets are there by now, or come while it is asked.
    for _ in 0..100 {
        assert!(stream.is_open());
        std::thread::sleep(Duration::from_millis(2));
    }
    stream.write_all(b"b").unwrap();
    until("the unasked byte is a doubt", || (!stream.is_open()).then_some(()));
    drop(stream);
    server.join().unwrap();
}

// ---- configuration --------------------------------------------------------------------------------------------

#[test]
fn what_is_half_configured_does_not_start() {
    let temp = Temp::new("tls-half");
    let open = temp.path("open.key");
    fs::copy(pki().join("server.key"), &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let open = open.display().to_string();
    let [cert, key, other, ca, none] =
        ["server.pem", "server.key", "web1.key", "ca.pem", "none.pem"].map(file);
    // A key whose line breaks were lost is not quoted.
    let joined = fs::read_to_string(pki().join("server.key")).unwrap().replace('\n', " ");
    let broken = temp.file("broken.key", &joined);
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o600)).unwrap();
    let broken = broken.display().to_string();
    let no_pem = temp.file("no.pem", "hello\n").display().to_string();
    let receivers = [
        (vec![("tls_cert", &cert)], "tls_key"),
        (vec![("tls_key", &key)], "tls_cert"),
        (vec![("tls_client_ca", &ca)], "has no effect without tls_cert"),
        (vec![("tls_cert", &cert), ("tls_key", &other)], "the key must be that of the first certificate"),
        (vec![("tls_cert", &none), ("tls_key", &key)], "none.pem"),
        (vec![("tls_cert", &no_pem), ("tls_key", &key)], "there is no certificate in it"),
        (vec![("tls_cert", &cert), ("tls_key", &no_pem)], "no.pem"),
        (vec![("tls_cert", &cert), ("tls_key", &open)], "chmod 0600"),
        (vec![("tls_cert", &cert), ("tls_key", &broken)], "no private key in it that can be read; PEM"),
        (vec![("tls_cert", &cert), ("tls_key", &key), ("tls_client_ca", &none)], "none.pem"),
    ];
    let senders = [
        (vec![("tls_client_cert", &cert)], "tls_ca"),
        (vec![("tls_ca", &none)], "none.pem"),
        (vec![("tls_ca", &ca), ("tls_client_cert", &cert)], "tls_client_key"),
        (vec![("tls_ca", &ca), ("tls_client_cert", &cert), ("tls_client_key", &other)], "the key must be"),
    ];
    let try_it = |role: &str, usual: &str, keys: &[(&str, &String)], said: &str| {
        let keys = ini(keys);
        let state = temp.path(role).display().to_string();
        let config = temp.file("c.ini", format!("[{role}]\nstate_dir = {state}\n{usual}\n{keys}"));
        for command in ["check", role] {
            let ran = logd(&[command, config.to_str().unwrap()]);
            assert!(ran.code == 2 && ran.err.contains(said), "{command} {keys}: {said}: {ran:?}");
            assert!(!ran.err.contains("[77, 73"), "{ran:?}");
        }
        let told = logd(&["status", config.to_str().unwrap()]);
        assert!(
            told.err.contains(said) || told.out.contains(said) && told.out.contains("refused"),
            "{told:?}"
        );
    };
    for (keys, said) in &receivers {
        try_it("fcollector", "listen = 127.0.0.1:0\nsave_dir = /s\n", keys, said);
    }
    for (keys, said) in &senders {
        try_it("tail", "log_file = /l.<%Y%m%d%H>\nsend_to = 127.0.0.1:1\nname = web1\n", keys, said);
        try_it("collector", "listen = 127.0.0.1:0\nsend_to = 127.0.0.1:1\n", keys, said);
    }
}

#[test]
fn check_tells_how_long_certificates_hold() {
    let temp = Temp::new("tls-check");
    let check = |server: &str| {
        let keys = ini(&listener(server));
        let config = temp.file("c.ini", format!("[fcollector]\nlisten = 127.0.0.1:0\nsave_dir = /s\n{keys}"));
        logd(&["check", config.to_str().unwrap()])
    };
    let good = check("server");
    assert!(good.code == 0 && good.err.is_empty(), "{good:?}");
    // A day less from the second on in which they were made.
    let tells = |key: &str, days: u32| {
        good.out.lines().any(|l| {
            l.starts_with(key) && [days, days - 1].iter().any(|d| l.ends_with(&format!(" {d} days")))
        })
    };
    assert!(tells("; tls_cert: ", 90) && tells("; tls_client_ca: ", 3650), "{good:?}");
    let soon = check("server-soon");
    assert!(
        soon.code == 0
            && soon.err.contains("expires at")
            && ["in 4 days", "in 5 days"].iter().any(|d| soon.err.contains(d)),
        "{soon:?}"
    );
    let over = check("server-expired");
    assert!(over.code == 2 && over.err.contains("expired at"), "{over:?}");
}

/// The story: a client's certificate was refused, and what was told was to look at `allow` and at the firewall.
#[test]
fn ping_tells_what_the_receiver_or_the_sender_refuses() {
    let temp = Temp::new("tls-ping");
    let store = Store::new("tls-ping-store", &text(&listener("server")));
    let ca = |name: &str| vec![("tls_ca", file(name))];
    for (keys, said) in [
        (sender("web1"), "accepted after"),
        (sender("web1-stranger"), "it does not know the CA that signed this host's certificate"),
        (sender("web1-expired"), "this host's certificate has expired"),
        (ca("ca.pem"), "set tls_client_cert"),
        (ca("stranger.pem"), "is not signed by the CA"),
        (vec![], "the receiver speaks TLS: set tls_ca"),
    ] {
        let (state, to) = (temp.path("s").display().to_string(), store.addr());
        let usual = format!("log_file = /l.<%Y%m%d%H>\nname = web1\nsend_to = {to}\nstate_dir = {state}\n");
        let config = temp.file("c.ini", format!("[tail]\n{usual}{}", ini(&keys)));
        let told = logd(&["ping", config.to_str().unwrap()]).out;
        assert!(
            told.contains(said) && !told.contains("firewall") && !told.contains("`allow`"),
            "{said}: {told}"
        );
    }
}

/// An open port that asks for certificates is no open door: it may be new.
#[test]
fn a_new_receiver_that_asks_for_certificates_may_serve() {
    let temp = Temp::new("tls-open");
    let keys = ini(&listener("server"));
    let (save, state) = (temp.path("save"), temp.path("state"));
    let text = format!(
        "[fcollector]\nlisten = 0.0.0.0:0\nmin_free = 1M\nsave_dir = {}\nstate_dir = {}\n{keys}",
        save.display(),
        state.display()
    );
    let running = Running::start("", &["fcollector", temp.file("c.ini", text).to_str().unwrap()]);
    until("it listens", || running.log().contains("listening on").then_some(()));
    assert!(!running.log().contains("allow"), "{}", running.log());
}
