//! `logd ping CONFIG`: a test pack from this host to every receiver of `send_to`, with times: is there a way, are we let in, is
//! our signature good, would a pack be taken now. It is verified there like a pack and stored nowhere ([`Ping`]).

use super::out::{self, Out};
use super::{ERROR, NO, YES};
use crate::auth::Key;
use crate::config::{Config, Role, SenderConfig};
use crate::disk::Disk;
use crate::pack::ping::Ping;
use crate::roles::admission;
use crate::sender::{Fail, Link, Outcome};
use crate::tail::Identity;
use crate::{roles, state, tls};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Larger than what one datagram of any network holds: a way that lets small ones through only is no way.
const BODY: usize = 64 << 10;
/// A receiver that turns a connection away has done so by then.
const TURNED_AWAY: Duration = Duration::from_millis(300);

/// Sends a test pack to every address of every sending role; 1 = one of them would not take a pack.
pub fn run(path: &Path, out: &mut Out) -> u8 {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            out.complain(errors);
            return ERROR;
        }
    };
    let (mut asked, mut code) = (false, YES);
    for role in config.roles() {
        let (conf, from) = match role {
            Role::Tail => match config.tail(false) {
                Ok((c, _)) => match sender_of(&c) {
                    Ok((name, key)) => (c.sender, (name, key, false)),
                    Err(why) => {
                        out.complain(format_args!("logd: ping: {why}"));
                        return ERROR;
                    }
                },
                Err(errors) => {
                    out.complain(errors);
                    return ERROR;
                }
            },
            Role::Collector => match config.relay(false) {
                Ok((c, _)) => (c.sender, (roles::host_name(), None, true)),
                Err(errors) => {
                    out.complain(errors);
                    return ERROR;
                }
            },
            _ => continue,
        };
        asked = true;
        match all(&conf, &from, out) {
            Ok(done) => code = code.max(done),
            Err(why) => {
                out.complain(format_args!("logd: ping: {}: {why}", role.command()));
                return ERROR;
            }
        }
    }
    if !asked {
        out.complain(format_args!(
            "logd: ping: {}: it has neither [tail] nor [collector], so that nothing is sent from here; ask on a host that sends",
            path.display()
        ));
        return ERROR;
    }
    code
}

/// Name and key of a follower.
fn sender_of(c: &crate::config::TailConfig) -> Result<(String, Option<Key>), String> {
    let key = admission::key_of(c)?;
    let dir = state::resolve(&Role::Tail, c.state_dir.as_deref());
    let begun = Identity::load(&Disk::real(), &Identity::path(&dir, "")).map_err(|e| super::rights(&e))?;
    let begun = begun.and_then(Result::ok).map(|id| id.name);
    let first = c.sender.send_to.first().map_or("", String::as_str);
    let name = c.name.clone().or(begun).unwrap_or_else(|| roles::own_name(first));
    if let Some(key) = &key {
        admission::fits(key, &name)?;
    }
    Ok((name, key))
}

fn all(
    conf: &SenderConfig,
    (name, key, relay): &(String, Option<Key>, bool),
    out: &mut Out,
) -> Result<u8, String> {
    let client = conf.tls.as_ref().map(tls::Client::open).transpose()?.map(Arc::new);
    // No two bytes in a row are alike, so that nothing on the way makes them fewer.
    let body: Vec<u8> =
        (0..BODY as u64).map(|n| n.wrapping_mul(0x9E37_79B9).wrapping_shr(16) as u8).collect();
    let mut entry = Ping::entry(name, *relay, &body);
    if let Some(key) = key {
        key.sign(&mut entry);
    }
    let frame = Ping::frame(entry, &body);
    let mut code = YES;
    for addr in &conf.send_to {
        out.progress(&|| format!("ping: {addr}"));
        let link = Link::new(addr, conf, client.as_ref());
        let (connected, answer) = link.ping(&frame, TURNED_AWAY);
        let (done, what) = judge(&answer);
        let way = if client.is_some() { "connected with TLS" } else { "connected" };
        let connected = connected.map_or(String::new(), |ms| format!("{way} in {}, ", out::duration(ms)));
        out.line(format_args!("{addr} as {name}: {connected}{what}"));
        code = code.max(if done { YES } else { NO });
    }
    if *relay && code == YES {
        out.line(
            "asked was the next receiver; what lies behind it can be asked from there only; a relay's test pack is not signed, and \
             taken where keys are required, too: the packs that it passes on must be",
        );
    }
    Ok(code)
}

/// Would a pack be taken? And in words.
fn judge(answer: &Result<(u64, Outcome), String>) -> (bool, String) {
    match answer {
        Ok((ms, Outcome::Sent)) => (
            true,
            format!("test pack of 64 KiB accepted after {}; nothing of it is stored", out::duration(*ms)),
        ),
        Ok((ms, Outcome::PermFail(_))) => (
            true,
            format!(
                "answered after {}, as the original does; an original stores whatever it takes, so that more cannot be tried \
                 without leaving a trace there",
                out::duration(*ms)
            ),
        ),
        Ok((_, Outcome::TempFail { how: Fail::Denied, reason })) => (
            false,
            format!(
                "{reason}; its log says which it is, and logd-security(7) what to do; packs wait here, nothing is lost"
            ),
        ),
        Ok((_, Outcome::TempFail { reason, .. })) => {
            (false, format!("{reason}; packs wait here, nothing is lost"))
        }
        Err(why) => (false, why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Temp, printed};
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn ping(answer: &'static [u8]) -> (u8, String, String) {
        let temp = Temp::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!(
            "[tail]\nlog_file = /a.<%Y%m%d%H>\nname = web1\nsend_to = {}\nstate_dir = {}\n",
            listener.local_addr().unwrap(),
            temp.path("state").display()
        );
        let config = temp.file("c.ini", &text);
        let receiver = std::thread::spawn(move || {
            let (mut c, _) = listener.accept().unwrap();
            let mut buf = [0; 100];
            let n = c.read(&mut buf).unwrap();
            assert_eq!(&buf[4..9], b"ping ", "{:?}", &buf[..n]);
            c.write_all(answer).unwrap();
            c.shutdown(std::net::Shutdown::Write).unwrap();
            while c.read(&mut buf).is_ok_and(|n| n > 0) {}
        });
        let done = printed(|out| run(&config, out));
        receiver.join().unwrap();
        done
    }

    #[test]
    fn every_answer_has_its_meaning() {
        for (answer, code, word) in [
            (&b"ok"[..], YES, "accepted after"),
            (b"wrong header", YES, "as the original does"),
            (b"denied", NO, "logd-security(7)"),
            (b"busy", NO, "logd status"),
            (b"", NO, "earlier version"),
        ] {
            let (got, out, err) = ping(answer);
            assert_eq!(got, code, "{out}{err}");
            assert!(out.contains(word) && out.contains(" as web1: connected in "), "{out}{err}");
        }
    }

    #[test]
    fn who_sends_nothing_cannot_ask() {
        let temp = Temp::new();
        let config = temp.file("c.ini", "[fcollector]\nlisten = :1\nallow = any\nsave_dir = /s\n");
        let (code, _, err) = printed(|out| run(&config, out));
        assert_eq!(code, ERROR);
        assert!(err.contains("neither [tail] nor [collector]"), "{err}");
    }
}
