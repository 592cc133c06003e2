//! Large futures in boxes, made where they will lie.
//!
//! `Box::pin(future())` makes the future on the stack and copies all of it into its box, which costs some hundred instructions
//! for the several KiB that a request's steps take, nearly all of which hold nothing yet: were there no memory, the future would
//! have to be dropped, so it has to be somewhere. Where the box is there before the future, only what that captures is written.

use std::pin::Pin;

/// What `make` makes, in a box.
#[inline]
pub(super) fn boxed<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, make()))
}
