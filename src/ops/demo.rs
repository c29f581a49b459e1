//! demo stub
/// stub
pub fn run(_: Option<&str>, _: Option<&std::path::Path>) -> u8 {
    2
}
