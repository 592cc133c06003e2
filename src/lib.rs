//! A gateway that gives optimistic concurrency control to an HTTP service that has none.
//!
//! In reading order: [`core`] holds the rules, [`tracker`] the records of all resources and who may write them,
//! [`gateway`] the path of one request, [`upstream`] the backends, [`server`] the listeners.

pub mod core;
pub mod tracker;
