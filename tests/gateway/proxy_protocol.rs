//! PROXY.
