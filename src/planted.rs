//! Planted bugs: places at which this program can be made wrong on purpose, so that the proof can show that it would
//! notice (`tests/proof/planted.rs`).
//!
//! A test plants one bug in its own thread; nothing else can. Without debug assertions, so in every release build,
//! [`is`] is a constant `false` and the places are gone. Each place is one condition, beside the line it breaks.

use std::cell::Cell;

macro_rules! bugs {
    ($($name:ident: $text:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $(#[doc = $text] $name,)*
        }

        impl Bug {
            /// All of them, each with what is wrong then.
            pub const ALL: &[(Bug, &str)] = &[$((Bug::$name, $text),)*];
        }
    };
}

bugs! {
    NoDirectorySync: "no directory is ever synced",
    NoSegmentSync: "the name of a new spool segment is not synced",
    AckBeforeSync: "`ok` before the pack is durable",
    AckAfterFailedSync: "a failed sync counts as a good one",
    AckWhileSyncing: "what was appended while a sync ran counts as covered by it",
    DuplicateAckedEarly: "a pack that comes again is acknowledged before the first one is durable",
    DedupeByBody: "a pack with the same lines as one before is taken for the same",
    IdAboveIgnored: "a pack beyond a gap is acknowledged and dropped",
    EarlyCountsAsStored: "a pack beyond a gap raises the high-water number",
    SentCountsAsAcked: "a pack without an answer counts as delivered",
    StaleConnection: "a connection is used again after an answer did not come in time",
    CutBeforeJournal: "a cut is sent before its journal record is durable",
    JournalDamageIgnored: "a journal that ends in a damaged record is believed to be whole",
    DamageForgotten: "a damaged journal is replaced before its hours are marked as to be sent again",
    SameNumberForNewCopy: "an hour that is sent again keeps the copy number 0",
    PositionOfOtherHour: "an hour is read from the position of the one before",
    HourIs3600Seconds: "the next hour is the one 3600 seconds later",
    LateBytesForgotten: "a closed hour is archived while its late bytes are being read",
    UnreadableStopsOthers: "a file that cannot be read stops those after it",
    AbsentHoursTakePlaces: "hours without a file, before there ever was one, wait for ever",
    DoneCountedTwice: "a pack that was done before a restart counts twice towards its segment",
    SegmentDeletedEarly: "a segment is deleted when one of its packs is still waiting",
    ZerosAreRecords: "a tail of zero bytes counts as records",
    FullDiskIgnored: "a write that a full disk cut short counts as whole",
    HeadersBeforeData: "the proof is written before the data are durable",
    CertifyBeforeSync: "an hour is certified before it is durable",
    NewNamesNotSynced: "names that a killed process made are believed to be durable",
    UnsyncedBelieved: "content that a killed process wrote is believed to be durable",
    TornProofNotCut: "a torn last line of a proof stays, and others follow it",
    BytesBeyondProofCut: "bytes beyond the proof are cut although nobody else has them",
    BytesBeyondProofKept: "bytes beyond the proof stay, and others follow them",
    CheckpointErrorIgnored: "packs are done although their checkpoint failed",
    FootprintBelieved: "footprint.json is believed",
    TagKept: "a tag stays while later bytes are acknowledged",
    TagRemovalNotSynced: "the removal of a tag is not durable when later bytes are acknowledged",
    TagOfUnclosedKept: "a tag without its closed file is not taken away by later bytes",
    CertifiedMeanwhile: "a tag is written although a pack came while the hour was read again",
    VerificationForgotten: "an hour that is idle is forgotten with its verification",
    CopyUnverified: "a copy is installed although its bytes are not what was sent",
    CopyIntoOld: "packs of a later copy are stored into the one in place",
    ReplacedDeleted: "the copy that gives way is deleted",
    OldCopyInstalled: "an older copy is installed over a later one",
    NameWithUnderscore: "a sender's name may hold `_`",
    MismatchAccepted: "lines that are not what the header says are taken",
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in this thread, or with `None` removes it.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Is this bug planted here?
pub fn is(bug: Bug) -> bool {
    cfg!(debug_assertions) && PLANTED.get() == Some(bug)
}
