//! Where a role keeps its state (design §10). Every role has a directory of its own: two processes in one directory
//! would each believe the other's files to be theirs.

use crate::config::Role;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The state directory of a role: `configured` (key `state_dir`); else `$STATE_DIRECTORY`, which systemd sets; else
/// `var/<role>` beside the binary if `var` is there, as with the original; else `/var/lib/logd/<role>`.
pub fn resolve(role: &Role, configured: Option<&Path>) -> PathBuf {
    let exe = std::env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent);
    resolve_from(*role, configured, std::env::var_os("STATE_DIRECTORY").as_deref(), beside)
}

fn resolve_from(
    role: Role,
    configured: Option<&Path>,
    env: Option<&OsStr>,
    beside: Option<&Path>,
) -> PathBuf {
    if let Some(dir) = configured {
        return dir.to_owned();
    }
    // With several directories in its unit systemd joins them by colons; ours is the first.
    let first = env.and_then(|dirs| std::env::split_paths(dirs).next());
    if let Some(dir) = first.filter(|d| d.is_absolute()) {
        return dir;
    }
    match beside.map(|dir| dir.join("var")) {
        Some(var) if var.is_dir() => var.join(role.command()),
        _ => Path::new("/var/lib/logd").join(role.command()),
    }
}

/// Directories inside ours that hold directories.
const NESTED: [&str; 2] = ["aside", "journal"];

/// A symbolic link that stands where one of our own directories should be, if there is one. Files are never written through
/// links; a directory that is one would lead all of its files elsewhere, and whoever planted it has a reason.
pub fn linked_directory(dir: &Path) -> Option<PathBuf> {
    let nested = NESTED.map(|name| dir.join(name));
    [dir].into_iter().chain(nested.iter().map(PathBuf::as_path)).find_map(|dir| {
        let entries = std::fs::read_dir(dir).ok()?.flatten();
        let mut links = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_symlink())).map(|e| e.path());
        links.find(|path| path.is_dir())
    })
}

/// The sentence for [`linked_directory`].
pub fn refuse_links(dir: &Path) -> Result<(), String> {
    match linked_directory(dir) {
        None => Ok(()),
        Some(link) => Err(format!(
            "{}: a symbolic link in the place of a directory; it is not followed, because whoever can make one could lead \
             files elsewhere; put a directory there, or mount one (mount --bind)",
            link.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_applies_wins() {
        let beside = std::env::temp_dir().join(format!("logd-state-{}", std::process::id()));
        std::fs::create_dir_all(&beside).unwrap();
        let env = Some(OsStr::new("/run/state:/run/other"));
        let of = |configured: Option<&str>, env: Option<&OsStr>| {
            resolve_from(Role::Fcollector, configured.map(Path::new), env, Some(&beside))
        };
        assert_eq!(of(Some("mine"), env), Path::new("mine"));
        assert_eq!(of(None, env), Path::new("/run/state"));
        assert_eq!(of(None, Some(OsStr::new(""))), Path::new("/var/lib/logd/fcollector"));
        assert_eq!(of(None, None), Path::new("/var/lib/logd/fcollector"));
        std::fs::create_dir(beside.join("var")).unwrap();
        assert_eq!(of(None, None), beside.join("var/fcollector"));
        assert_eq!(of(None, env), Path::new("/run/state"));
        assert_eq!(resolve_from(Role::Tail, None, None, None), Path::new("/var/lib/logd/tail"));
        std::fs::remove_dir_all(&beside).unwrap();
    }

    #[test]
    fn what_the_config_says_wins_over_the_environment() {
        assert_eq!(resolve(&Role::Tail, Some(Path::new("/x"))), Path::new("/x"));
    }
}
