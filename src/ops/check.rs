//! `logd check CONFIG`: everything that is wrong with a config, before a role finds it out at night.

use super::out::Out;
use super::{ERROR, YES};
use crate::auth::{Key, Keyring, Mode};
use crate::config::{Config, Role};
use crate::integrity;
use crate::tail::streams;
use std::path::Path;

/// Prints the config in effect, or all that is wrong with it.
pub fn run(path: &Path, out: &mut Out) -> u8 {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            out.complain(errors);
            return ERROR;
        }
    };
    let warnings = match config.check_all() {
        Ok(warnings) => warnings,
        Err(errors) => {
            out.complain(errors);
            return ERROR;
        }
    };
    let file = path.display();
    // What the follower itself would refuse.
    if let Ok((tail, _)) = config.tail(true)
        && let Err(why) = streams::sources(&tail)
    {
        out.complain(format_args!("{file}: {why}"));
        return ERROR;
    }
    // A typing error in this file would otherwise show as an hour that never gets its fleet tag.
    if let Ok((store, _)) = config.store(true)
        && let Some(hosts) = &store.hosts_file
    {
        match integrity::read_hosts(hosts) {
            Err(why) => {
                out.complain(format_args!(
                    "{file}: {why}; make the file, one name a line, or leave the key empty"
                ));
                return ERROR;
            }
            Ok(names) if names.is_empty() => {
                out.complain(format_args!("{file}: hosts_file: {}: names no host", hosts.display()));
                return ERROR;
            }
            Ok(_) => {}
        }
    }
    if let Err(why) = keys(&config) {
        out.complain(format_args!("{file}: {why}"));
        return ERROR;
    }
    for warning in warnings {
        out.complain(format_args!("{warning} (warning)"));
    }
    for role in config.roles() {
        if matches!(role, Role::Etlcollector | Role::Mgocollector) {
            out.complain(format_args!(
                "{file}: [{}]: this version does not have the role {} yet; the section is not checked (warning)",
                role.section(),
                role.command()
            ));
        }
    }
    out.text(&config.effective());
    YES
}

/// Keys that a role would refuse at its start.
fn keys(config: &Config) -> Result<(), String> {
    if let Ok((tail, _)) = config.tail(true)
        && let Some(path) = &tail.key_file
    {
        let key = Key::load(path).map_err(|why| format!("key_file: {why}"))?;
        if let Some(name) = tail.name.filter(|name| !key.opens(name)) {
            return Err(format!("key_file: {} does not open the hours of {name}", key.label()));
        }
    }
    let relay = config.relay(true).ok().map(|(c, _)| c.receiver);
    let store = config.store(true).ok().map(|(c, _)| c.receiver);
    for path in [relay, store].into_iter().flatten().filter_map(|r| r.keys_file) {
        Keyring::open(&path, Mode::Require).map_err(|why| format!("keys_file: {why}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Temp, printed};
    use super::*;

    fn check(temp: &Temp, text: &str) -> (u8, String, String) {
        let path = temp.file("c.ini", text);
        printed(|out| run(&path, out))
    }

    const TAIL: &str = "[tail]\nlog_file = /var/log/a.<%Y%m%d%H>\nsend_to = c:1302\n";

    #[test]
    fn a_good_config_is_printed_so_that_it_can_be_loaded_again() {
        let temp = Temp::new();
        let (code, out, err) = check(&temp, TAIL);
        assert_eq!((code, err.as_str()), (YES, ""));
        assert!(
            out.contains("log_file = /var/log/a.<%Y%m%d%H>") && out.contains("flush_interval = 5s"),
            "{out}"
        );
        assert_eq!(check(&temp, &out), (YES, out.clone(), String::new()));
    }

    #[test]
    fn all_errors_come_at_once_with_their_lines() {
        let temp = Temp::new();
        let (code, out, err) = check(&temp, "[tail]\nlog_file = /a\nsend_tu = c:1302\nsenders = 0\n");
        assert_eq!((code, out.as_str()), (ERROR, ""));
        let lines: Vec<&str> = err.lines().collect();
        assert!(lines.len() >= 3, "{err}");
        assert!(lines.iter().all(|l| l.contains("c.ini:")), "{err}");
        assert!(err.contains("c.ini:4: senders:"), "{err}");
        let (code, _, err) = printed(|out| run(&temp.path("none.ini"), out));
        assert_eq!(code, ERROR);
        assert!(err.contains("none.ini"), "{err}");
    }

    #[test]
    fn a_pattern_that_the_follower_refuses_is_an_error() {
        let temp = Temp::new();
        for (pattern, why) in
            [("<%Y%m%d%h>", "%h is not one of"), ("<%Y%m%d%H", "without"), ("<%m%d%H>", "must hold %Y")]
        {
            let (code, out, err) = check(&temp, &TAIL.replace("<%Y%m%d%H>", pattern));
            assert_eq!((code, out.as_str()), (ERROR, ""));
            assert!(
                err.contains("c.ini") && err.contains("log_file") && err.contains(why),
                "{pattern}: {err}"
            );
        }
    }

    #[test]
    fn warnings_do_not_stop() {
        let temp = Temp::new();
        let (code, out, err) =
            check(&temp, "[collector]\nlisten = :1302\nsend_to = c:1302\n[mgocollector]\n");
        assert_eq!(code, YES, "{err}");
        assert!(err.contains("allow") && err.contains("mgocollector yet"), "{err}");
        assert!(out.contains("[collector]"), "{out}");
    }

    #[test]
    fn the_hosts_file_is_part_of_it() {
        let temp = Temp::new();
        let hosts = temp.path("hosts");
        let text = format!(
            "[fcollector]\nlisten = :1\nallow = any\nsave_dir = /s\nhosts_file = {}\n",
            hosts.display()
        );
        let (code, _, err) = check(&temp, &text);
        assert_eq!(code, ERROR);
        assert!(err.contains("c.ini: hosts_file"), "{err}");
        temp.file("hosts", "web1\nweb_2\n");
        assert!(check(&temp, &text).2.contains("web_2"));
        temp.file("hosts", "# none\n");
        assert!(check(&temp, &text).2.contains("names no host"));
        temp.file("hosts", "web1\n");
        assert_eq!(check(&temp, &text).0, YES);
    }
}
