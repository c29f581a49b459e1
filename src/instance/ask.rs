//! What an operator asks of a running role, and its answer: two files in `control/` of its state directory. So no process is
//! ever mistaken for another, as a number in a file would allow, HUP keeps its meaning of a clean stop, and who may ask is who
//! may write there.
//!
//! `request` is there until the role has read it, `answer` until its next start, but that to a reload, which may be why it begins
//! again. A role that begins takes both away: what was asked of the one before does not concern it. `effect` says what configuration the role runs with, while it runs.

use crate::config::Values;
use crate::disk::{self, Disk};
use crate::record;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Below the state directory.
pub const DIR: &str = "control";
const FILE_MAX: u64 = 1 << 20;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// End, as after TERM.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// 1.
    format: u32,
    /// Tells its answer from those to others.
    pub id: String,
    /// What is asked.
    pub what: What,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// 1.
    format: u32,
    /// The question's.
    pub id: String,
    /// All of it was or is being done.
    pub done: bool,
    /// Sentences for people.
    pub lines: Vec<String>,
    /// To a [`What::Reload`].
    #[serde(default)]
    reload: bool,
}

/// What a role that runs has in effect.
#[derive(Clone, Serialize, Deserialize)]
pub struct Effect {
    /// 1.
    format: u32,
    /// Its configuration, without secrets.
    pub values: Values,
    /// The key that a follower signs with, for people; empty = none.
    pub key: String,
}

impl Effect {
    /// Of these values and the key with this label.
    pub fn new(values: &Values, key: String) -> Self {
        Self { format: 1, values: values.clone().without_secrets(), key }
    }
}

fn effect_in(dir: &Path) -> PathBuf {
    dir.join(DIR).join("effect")
}

/// Says what is in effect now, or nothing any more.
pub fn put_effect(disk: &Disk, dir: &Path, effect: Option<&Effect>) -> disk::Result<()> {
    match effect {
        Some(effect) => disk.replace(&effect_in(dir), &record::to_json(effect), 0o640),
        None => remove(disk, &effect_in(dir)),
    }
}

/// What a role that runs there says that it has in effect. Of one that was killed it is what it had.
pub fn effect(disk: &Disk, dir: &Path) -> disk::Result<Option<Effect>> {
    let bytes = disk.read_opt(&effect_in(dir), FILE_MAX)?;
    Ok(bytes.and_then(|b| record::from_json::<Effect>(&b).ok()).filter(|e| e.format == 1))
}

fn request_in(dir: &Path) -> PathBuf {
    dir.join(DIR).join("request")
}

fn answer_in(dir: &Path) -> PathBuf {
    dir.join(DIR).join("answer")
}

/// Can a role that runs in this state directory be asked?
pub fn can_be(disk: &Disk, dir: &Path) -> disk::Result<bool> {
    Ok(disk.stat(&dir.join(DIR))?.is_some_and(|s| s.is_dir))
}

/// Makes ready to be asked: whatever was asked before is void.
pub fn begin(disk: &Disk, dir: &Path) -> disk::Result<()> {
    disk.create_dir_all(&dir.join(DIR), 0o750)?;
    withdraw(disk, dir)?;
    remove(disk, &effect_in(dir))?;
    // A follower that begins again because of it may be quicker than whoever asked looks.
    let answered =
        disk.read_opt(&answer_in(dir), FILE_MAX)?.and_then(|b| record::from_json::<Answer>(&b).ok());
    if answered.is_some_and(|a| a.reload) { Ok(()) } else { remove(disk, &answer_in(dir)) }
}

/// Asks; what the answer will bear.
pub fn ask(disk: &Disk, dir: &Path, what: What, id: String) -> disk::Result<()> {
    // Root may ask, and the role must be able to read it; there is nothing secret in it.
    disk.replace(&request_in(dir), &record::to_json(&Request { format: 1, id, what }), 0o644)
}

/// Takes the question back.
pub fn withdraw(disk: &Disk, dir: &Path) -> disk::Result<()> {
    remove(disk, &request_in(dir))
}

fn remove(disk: &Disk, path: &Path) -> disk::Result<()> {
    match disk.remove(path) {
        Err(e) if !e.not_found() => Err(e),
        _ => Ok(()),
    }
}

/// Takes up what was asked, if anything.
pub fn take(disk: &Disk, dir: &Path) -> disk::Result<Option<Request>> {
    let path = request_in(dir);
    if disk.stat(&path)?.is_none() {
        return Ok(None);
    }
    let bytes = disk.read_opt(&path, FILE_MAX)?;
    remove(disk, &path)?;
    Ok(bytes.and_then(|b| record::from_json::<Request>(&b).ok()).filter(|r| r.format == 1))
}

/// Answers.
pub fn answer(disk: &Disk, dir: &Path, to: &Request, done: bool, lines: Vec<String>) -> disk::Result<()> {
    let reload = to.what == What::Reload;
    let answer = Answer { format: 1, id: to.id.clone(), done, lines, reload };
    disk.replace(&answer_in(dir), &record::to_json(&answer), 0o640)
}

/// The answer to the question with this id, once it is there.
pub fn answered(disk: &Disk, dir: &Path, id: &str) -> disk::Result<Option<Answer>> {
    let bytes = disk.read_opt(&answer_in(dir), FILE_MAX)?;
    Ok(bytes.and_then(|b| record::from_json::<Answer>(&b).ok()).filter(|a| a.id == id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_taken_once_and_its_answer_is_its_own() {
        let (disk, sim) = Disk::sim(1);
        let dir = Path::new("/s");
        assert!(!can_be(&disk, dir).unwrap());
        begin(&disk, dir).unwrap();
        assert!(can_be(&disk, dir).unwrap() && take(&disk, dir).unwrap().is_none());
        ask(&disk, dir, What::Stop, "7".into()).unwrap();
        let asked = take(&disk, dir).unwrap().unwrap();
        assert_eq!((asked.what, asked.id.as_str()), (What::Stop, "7"));
        assert!(take(&disk, dir).unwrap().is_none());
        answer(&disk, dir, &asked, true, vec!["so".into()]).unwrap();
        assert!(answered(&disk, dir, "8").unwrap().is_none());
        assert_eq!(answered(&disk, dir, "7").unwrap().unwrap().lines, ["so"]);
        put_effect(&disk, dir, Some(&Effect::new(&Values::default(), "key k1 of web1".into()))).unwrap();
        assert_eq!(effect(&disk, dir).unwrap().unwrap().key, "key k1 of web1");
        // What stands there when a role begins was not asked of it.
        ask(&disk, dir, What::Stop, "9".into()).unwrap();
        begin(&disk, dir).unwrap();
        assert!(take(&disk, dir).unwrap().is_none() && answered(&disk, dir, "7").unwrap().is_none());
        assert!(effect(&disk, dir).unwrap().is_none());
        // A follower was quicker to begin again than `logd reload` looked for its answer.
        ask(&disk, dir, What::Reload, "10".into()).unwrap();
        let asked = take(&disk, dir).unwrap().unwrap();
        answer(&disk, dir, &asked, true, Vec::new()).unwrap();
        begin(&disk, dir).unwrap();
        assert!(answered(&disk, dir, "10").unwrap().is_some());
        // Nor is what nobody can read, and it does not stay.
        sim.put(Path::new("/s/control/request"), b"{");
        assert!(take(&disk, dir).unwrap().is_none());
        assert!(disk.stat(Path::new("/s/control/request")).unwrap().is_none());
    }
}
