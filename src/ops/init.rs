//! `logd init ROLE`: the smallest configuration of a role, to be changed and checked. It is the example in `etc/`.

use super::YES;
use super::out::Out;
use crate::config::{Role, nearest};

const ALL: [(Role, &str); 6] = [
    (Role::Tail, include_str!("../../etc/tail.ini")),
    (Role::Collector, include_str!("../../etc/collector.ini")),
    (Role::Fcollector, include_str!("../../etc/fcollector.ini")),
    (Role::Etlcollector, include_str!("../../etc/etlcollector.ini")),
    (Role::Mgocollector, include_str!("../../etc/mgocollector.ini")),
    (Role::Monitor, include_str!("../../etc/monitor.ini")),
];

/// What the role `tail` is called wherever it is talked of.
const FOLLOWER: &str = "follower";

/// Prints it; the error is for a role that there is not.
pub fn run(word: &str, out: &mut Out) -> Result<u8, String> {
    let found = ALL.iter().find(|(role, _)| role.command() == word || role.alias() == Some(word));
    let Some((role, text)) = found else {
        let names = ALL.iter().flat_map(|(role, _)| [Some(role.command()), role.alias()]).flatten();
        let near = nearest(word, names.chain([FOLLOWER])).0;
        let near = if near == FOLLOWER { Role::Tail.command() } else { near };
        return Err(format!("no role {word:?}; the nearest is {near}"));
    };
    let name = role.command();
    out.line(format_args!(
        "; logd init {name} > /etc/logd/{name}.ini; change what is yours; logd check /etc/logd/{name}.ini"
    ));
    out.text(text);
    Ok(YES)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::testing::{Temp, printed};
    use super::*;

    #[test]
    fn what_it_prints_is_right() {
        for (role, _) in ALL {
            let (code, text, err) = printed(|out| run(role.command(), out).unwrap());
            assert_eq!((code, err.as_str()), (YES, ""));
            if role == Role::Etlcollector {
                // Its columns file is the user's.
                assert!(text.contains("columns_file"), "{text}");
                continue;
            }
            if role == Role::Mgocollector && !cfg!(feature = "mongodb") {
                continue;
            }
            let temp = Temp::new();
            let path = temp.file("c.ini", &text);
            let (code, _, err) = printed(|out| check::run(&path, false, out));
            assert_eq!((code, err.as_str()), (YES, ""), "{}", role.command());
        }
        let (_, relay, _) = printed(|out| run("relay", out).unwrap());
        assert!(relay.contains("[collector]"), "{relay}");
        let no = |word| run(word, &mut Out::new(&mut Vec::new(), &mut Vec::new(), false)).unwrap_err();
        for (word, near) in [
            ("tial", "tail"),
            ("follower", "tail"),
            ("folower", "tail"),
            ("stor", "store"),
            ("rellay", "relay"),
        ] {
            assert!(no(word).ends_with(&format!("nearest is {near}")), "{word}: {}", no(word));
        }
    }
}
