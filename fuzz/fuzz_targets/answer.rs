//! Bytes that a backend sends -> an answer, read by hyper's client and by ours.
//!
//! The first byte chooses the method and how the bytes are cut in ours; the rest is what comes. What ours accepts hyper
//! accepts, and for the same: informational answers, status, fields, body, trailers, the end, and whether the connection
//! may be used again. Where hyper errs ours errs.

#![no_main]

use std::cell::RefCell;

use http::Method;
use ifmatch::upstream::http1::{framing, head};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

#[path = "../../src/upstream/http1/compare.rs"]
mod compare;

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().build().expect("a runtime without drivers"));
}

fuzz_target!(|input: &[u8]| {
    // More than this hyper's end of the pipe would not hold.
    let Some((&choice, bytes)) = input.split_first().filter(|(_, bytes)| bytes.len() < 1 << 19) else { return };
    let method = if choice & 0x80 == 0 { Method::GET } else { Method::HEAD };
    let size = match choice & 0x7F {
        0 => 1 << 20,
        size => usize::from(size),
    };
    RUNTIME.with_borrow(|runtime| runtime.block_on(compare::assert_alike(&method, bytes, size)));
});
