//! From lines to tables (`logd etl`, `logd etlcollector`): the lines of a complete hour are taken apart, filtered, and become
//! rows in the folders that Hive and its kin read.
//!
//! * [`mod@format`]: `log_format`; where each value of a line is  * [`fields`]: the values by name, decoded
//! * [`text`]: escapes, of servers and of rows                * [`stamp`]: times; [`number`]: digits and addresses
//! * [`memo`]: what was found out about a value, which comes again
//! * [`lists`]: spiders, hosts, addresses
//! * [`columns`]: kinds of lines, their columns and folders   * [`rules`]: all that together, read again when it changes
//! * [`rows`]: the files of one hour, aside                   * [`tables`]: put in place, all or nothing; which files mean what
//! * [`marks`]: which hours have rows
//!
//! A line is never dropped in silence: it becomes a row, or is counted as filtered, or goes to `etl_reject` with a reason.

#[cfg(feature = "etl")]
pub mod columns;
#[cfg(feature = "etl")]
pub mod fields;
#[cfg(feature = "etl")]
pub mod format;
#[cfg(feature = "etl")]
pub mod lists;
pub mod marks;
#[cfg(feature = "etl")]
pub mod memo;
#[cfg(feature = "etl")]
pub mod number;
#[cfg(feature = "etl")]
pub mod rows;
#[cfg(feature = "etl")]
pub mod rules;
#[cfg(feature = "etl")]
pub mod stamp;
#[cfg(feature = "etl")]
pub mod tables;
pub mod text;
