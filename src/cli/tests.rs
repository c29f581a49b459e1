//! The table holds together, and what makes no sense is refused.

use super::*;

fn call(args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut both = Out::new(&mut out, &mut err, false);
    let code = run_with(args.iter().map(OsString::from), &mut both);
    let code = both.finish(code);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn refused(args: &[&str]) -> String {
    let (code, out, err) = call(args);
    assert_eq!((code, out.as_str()), (USAGE, ""), "{args:?}: {err}");
    err
}

#[test]
fn the_table_holds_together() {
    let mut names: Vec<&str> =
        COMMANDS.iter().flat_map(|c| [c.name, c.alias]).filter(|n| !n.is_empty()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a name is used twice");
    for c in COMMANDS {
        assert!(!c.help.is_empty() && !c.help.ends_with('.'), "{}", c.name);
        assert!(parse(c, &["--help".to_owned()]).is_ok_and(|call| call.has("help")), "{}", c.name);
        let text = usage_of(c);
        for o in c.options {
            assert!(text.contains(&format!("--{}", o.long)) && text.contains(o.help), "{}", o.long);
        }
        assert!(usage().contains(c.help));
        if let Some(role) = Role::from_command(c.name) {
            assert_eq!(role.alias().unwrap_or(""), c.alias, "{}", c.name);
        }
    }
    assert!(usage().lines().chain(COMMANDS.iter().map(|c| c.help)).all(|l| l.len() < 130));
}

#[test]
fn help_and_version() {
    assert_eq!(call(&["help"]), (0, usage(), String::new()));
    assert_eq!(call(&["--help"]), call(&["help"]));
    let (_, told, _) = call(&["--version"]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], format!("logd {}", env!("CARGO_PKG_VERSION")));
    let words: Vec<&str> = lines[1..].iter().filter_map(|l| Some(l.split_once(": ")?.0)).collect();
    assert_eq!(words, ["features", "target", "commit"]);
    assert_eq!(call(&["help", "store"]).1, usage_of(find("fcollector").unwrap()));
    assert_eq!(call(&["ready", "-h"]), call(&["help", "ready"]));
    let (code, out, err) = call(&[]);
    assert_eq!((code, out.as_str()), (USAGE, ""));
    assert!(err.contains("usage: logd COMMAND"));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_hint() {
    for (args, hint) in [
        (&["statsu", "x"][..], "`status`"),
        (&["help", "chek"], "`check`"),
        (&["start", "x"], "`logd tail CONFIG`"),
        (&["restart", "x"], "systemctl"),
        (&["follower", "x"], "`tail`"),
        (&["init", "follower"], "nearest is tail"),
        (&["status"], "CONFIG|SAVE_DIR is missing"),
        (&["ready", "x"], "HOUR is missing"),
        (&["check", "a", "b"], "\"b\" is one argument too many"),
        (&["version", "a"], "too many"),
        (&["tail", "x", "--timeout", "5s"], "--once"),
        (&["tail", "x", "--once", "--timeout", "soon"], "`soon`"),
        (&["tail", "x", "--onec"], "--once"),
        (&["tail", "x", "--timeout"], "needs a value"),
        (&["tail", "x", "--once=1"], "takes no value"),
        (&["status", "x", "--host", "a", "--host", "b"], "twice"),
        (&["status", "x", "--host", "../x"], "--host"),
        (&["status", "x", "--since", "yesterday"], "yesterday"),
        (&["status", "x", "--missing", "--json"], "--missing"),
        (&["status", "x", "--watch", "--json"], "--watch"),
        (&["init", "fcolector"], "fcollector"),
        (&["prune", "x"], "--older"),
        (&["prune", "x", "--older", "1h"], "--older"),
        (&["accept", "x", "web_1", "2026112205", "why"], "HOST"),
        (&["cat", "x", "web1", "today"], "today"),
        (&["retire", "x", "web1"], "REASON is missing"),
        (&["ready", "x", "2026112299"], "2026112299"),
        (&["spool"], "check|ls|retry|salvage is missing"),
        (&["spool", "ls"], "DIR is missing"),
        (&["spool", "chek", "x"], "`spool check`"),
        (&["spool", "salvage", "x"], "--to"),
        (&["spool", "ls", "x", "--to", "y"], "--to"),
        (&["spool", "check", "x", "--json"], "--json"),
        (&["spool", "retry", "x", "--all"], "--all"),
    ] {
        let err = refused(args);
        assert!(err.contains(hint) && err.contains("logd help"), "{args:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn an_argument_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["check".into(), OsString::from_vec(vec![b'a', 0xff])];
    assert_eq!(run_with(args.into_iter(), &mut Out::new(&mut out, &mut err, false)), USAGE);
}
