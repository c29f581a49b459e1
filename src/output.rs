//! Where a receiver's packs go in the end.

pub mod hours;
