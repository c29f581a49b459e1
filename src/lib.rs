//! logd moves hours of logs from many hosts to a collector and proves that each hour arrived whole and identical.
//!
//! This is the map. It names the modules in the order in which a log line meets them.
//!
//! **On the web server** (`logd tail`, joined in [`roles::follower`]). Each section of the config, and each match of a `*`,
//! is a stream ([`tail::streams`]); one thread reads them in turn (`roles::follower::streams`). Complete lines come from
//! `access.log.2026112205` through [`tail`], or from what its `.gz` was unpacked to ([`tail::unpack`]); from `access.log`,
//! which is rotated away, through [`tail::undated`], which finds out which file is which. [`packer`] says where one pack
//! ends. A pack is then *sealed*: its number, its byte range and its digests stand in the [`journal`], durably, before
//! anybody sends it. [`sender`] decides which pack goes next, to which address ([`sender::route`]), and what an answer
//! means; [`pack`] is the wire format. What cannot be sent waits in a [`spool`] (`roles::follower::retry`), where packs of a
//! rotated file are before they are sealed, or as a mere cut in the journal, from which the source is read again.
//! [`roles::follower::resend`] takes up what an operator wants once more; `roles::follower::bound` keeps an hour with the
//! collector that has begun to acknowledge it.
//!
//! **On a receiver** a connection is let in and gets its thread (`roles::serve`, where senders must sign after its first good
//! header: `roles::serve::lobby`). [`receiver`] cuts a connection's bytes into packs and verifies each, its signature before its body
//! ([`auth`]); [`receiver::gate`] decides under one lock whether it is new, known, early, of an old copy or in conflict, and makes
//! it durable in the [`spool`] before `ok` is sent. A relay (`logd collector`, [`roles::relay`]) sends it on from there.
//!
//! **On the collector** (`logd fcollector`, [`roles::collector`]) [`output::hours`] applies packs in id order to the
//! hour's file, with a proof beside it ([`integrity::lines`]). When the last pack is stored the file is read again
//! (`roles::verifying` says when), pack by pack, against the digests that the sender computed, and only then is the hour's tag
//! written ([`integrity`]).
//! [`footprint`] is what the gate remembers of each hour.
//!
//! **For queries** (`logd etlcollector`, [`roles::tables`]) [`etl`] takes the lines of each certified hour apart and puts rows
//! into the folders of tables, all or nothing. **For a database** (`logd mgocollector`, [`roles::documents`]) [`documents`] makes each
//! line a document, as soon as the hour's proof has it. [`roles::beyond`] knows whether they have done an hour, for whoever takes
//! lines away.
//!
//! **Beside the way of the lines**, so that none of it can hold them up: every role tells the [`monitor`] that it lives
//! ([`heartbeat`]) and what it complains of, counts what it does ([`metrics`]), knows whether it is well ([`health`]), and
//! answers questions ([`http`]). [`overview`] is what a page shows of a fleet, [`inventory`] what it and the operator's commands
//! see in a store.
//!
//! **Everything** touches files only through [`disk`] and time only through [`clock`]; both have a simulated form, so
//! that `tests/proof/crash.rs` can stop any machine at any disk call of a whole follower → relay → collector.
//! Stages are plain structs that take bytes, packs and a clock and return decisions; only [`roles`] joins them and owns
//! threads: its `serve` and `ship` those of the lines. Connections are [`tls`]'s, with TLS or without. [`record`] is how spool and
//! journal frame what they append. [`config`] reads the INI file, [`cli`] and [`ops`] are the command line and the operator's
//! commands, [`instance`] and [`state`] the state directory, [`mod@log`] our own log, [`name`] the rule for senders' names,
//! [`shutdown`] the way to stop. [`planted`] holds bugs that the proof switches on to see whether it would notice; in a release
//! build they are gone.
//!
//! A module uses only modules of lower layers; `tests/layers.rs` holds the table.

// A length or number that wraps would put bytes in the wrong place, and one that panics stops a host that others
// rely on: each sum says what happens at the limit. (Tests may: there a panic is a failure that is seen.)
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod documents;
pub mod etl;
pub mod footprint;
pub mod health;
pub mod heartbeat;
pub mod http;
pub mod instance;
pub mod integrity;
pub mod inventory;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod monitor;
pub mod name;
pub mod ops;
pub mod output;
pub mod overview;
pub mod pack;
pub mod packer;
pub mod planted;
pub mod receiver;
pub mod record;
pub mod roles;
pub mod sender;
pub mod shutdown;
pub mod spool;
pub mod state;
pub mod tail;
pub mod tls;
