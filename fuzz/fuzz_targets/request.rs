//! Bytes on a connection -> the requests that are handled, compared with what hyper's server makes of the same.
//!
//! The first byte says how many of those behind it are places where the bytes are cut; all else comes on the connection,
//! and then its end.

#![no_main]

use ifmatch::{core::message, http1};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

#[path = "../../src/http1/tests/compared.rs"]
#[allow(dead_code)]
mod compared;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else { return };
    let Some((cuts, bytes)) = rest.split_at_checked(usize::from(first % 4)) else { return };
    RUNTIME.with(|runtime| runtime.block_on(compared::compare(bytes, cuts)));
});
