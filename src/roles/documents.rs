//! The database of a store, where this program was built with the feature `mongodb`. Without it the role refuses to start, before
//! it has changed anything.

#[cfg(feature = "mongodb")]
mod queue;
#[cfg(feature = "mongodb")]
mod with;
#[cfg(feature = "mongodb")]
pub use with::{Savers, check, open};
#[cfg(not(feature = "mongodb"))]
mod without;
#[cfg(not(feature = "mongodb"))]
pub use without::{Documents, Savers, check, open};

#[cfg(feature = "mongodb")]
pub use crate::documents::hour::Documents;

/// Why it refuses.
pub const NOT_BUILT: &str = "this program was built without the feature mongodb; build with `cargo build --release --features \
                             mongodb`";
