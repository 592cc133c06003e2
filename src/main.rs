//! ifmatch
fn main() {}
