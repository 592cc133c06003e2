//! WebDAV's `If` (RFC 4918 §10.4) as a precondition of a write, where the route says that it is one. The backend gets the
//! field in any case: only it knows its locks.

use http::HeaderValue;

use super::{Exchange, answer::Failure, route};
use crate::core::{dav, precondition::Demands};

/// What it demands of the target's tags.
pub(super) fn demand(exchange: &Exchange) -> Result<Option<dav::Demand>, Failure> {
    if !exchange.policy().service.if_header {
        return Ok(None);
    }
    let longest = exchange.gateway.config().limits.request_line;
    // Other spellings of the target count as it: to take them for another resource would be to demand nothing. So does what
    // is longer than a target may be, into which nobody looks.
    let is_target = |reference: &[u8]| {
        reference.len() > longest
            || HeaderValue::from_bytes(reference).is_ok_and(|reference| route::is_of_target(exchange, &reference))
    };
    Demands::parse_if(&exchange.head.headers, is_target).map_err(Failure::Malformed)
}
