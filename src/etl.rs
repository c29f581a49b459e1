//! From lines to tables (`logd etl`, `logd etlcollector`).
pub mod columns;
pub mod fields;
pub mod format;
pub mod lists;
pub mod stamp;
