//! The rules: tags, preconditions, targets, records and verdicts.
//!
//! Plain data and functions. There is no I/O here, no clock, no lock and nothing asynchronous: time and randomness come
//! in as arguments, so that every rule can be tested in a table and the whole can be simulated. Of the outside world only
//! the types of `http` and `bytes` come in; a test holds this folder to it.

pub mod browsers;
pub mod dav;
pub mod destination;
pub mod etag;
pub mod fields;
pub mod fingerprint;
pub mod idempotency;
pub mod message;
pub mod pointer;
pub mod policy;
pub mod precondition;
pub mod profile;
pub mod record;
pub mod repeats;
pub mod resource;
pub mod rollout;
pub mod value;
pub mod verdict;
pub mod version;

#[cfg(test)]
mod tests;
