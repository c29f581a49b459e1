//! The ETL of a store, where this program was built with the feature `etl`. Without it everything that makes tables refuses to
//! start, before it has changed anything.

#[cfg(feature = "etl")]
mod with;
#[cfg(feature = "etl")]
pub use with::{Etl, Turn, Which, Workers, describe, wrong_rules};
#[cfg(not(feature = "etl"))]
mod without;
#[cfg(not(feature = "etl"))]
pub use without::{Etl, Workers, wrong_rules};

/// Why it refuses.
pub const NOT_BUILT: &str = "this program was built without the feature etl, and makes no tables; build with \
                             `cargo build --release --features etl` or `etc/build-static --etl`";
