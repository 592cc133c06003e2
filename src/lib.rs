//! A gateway that gives optimistic concurrency control to an HTTP service that has none.
//!
//! In reading order: [`core`] holds the rules, [`tracker`] the records of all resources and who may write them, [`memory`] what requests that come again are known by,
//! [`gateway`] the path of one request, [`upstream`] the backends, [`server`] the listeners, [`admin`] what an operator asks, [`tls`] certificates, [`config`] what an operator
//! chose, [`cli`] the commands.

mod clock;
pub mod core;
pub mod memory;
pub mod tracker;

pub mod gateway;
pub mod upstream;

pub mod http1;

pub mod admin;
pub mod server;
pub mod tls;

pub mod cli;
pub mod config;
pub mod demo;
pub mod telemetry;
