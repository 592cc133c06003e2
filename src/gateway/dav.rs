//! WebDAV's `If` (RFC 4918 §10.4) as a precondition of a write, where the route says that it is one. The backend gets the
//! field in any case, at least what it says of locks, which only the backend knows.

use super::{Exchange, answer::Failure, route};
use crate::core::{
    dav,
    fields::Fields,
    precondition::{self, Demands},
    value::{FieldValue, Value},
};

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
            || Value::new(reference).is_ok_and(|reference| route::is_of_target(exchange, reference))
    };
    Demands::parse_if(&exchange.head.headers, is_target).map_err(Failure::Malformed)
}

/// Takes from a write's `If` the entity tags, where it has been judged by them. Where it has not, since another resource's
/// state or a lock's may be enough for it, it stays as it is.
pub(super) fn leave_tags_behind(exchange: &Exchange, fields: &mut Fields) {
    let Some(value) = fields.get(precondition::IF) else { return };
    let Ok(field) = dav::If::parse(value.as_bytes()) else { return };
    if exchange.is_read() || !matches!(demand(exchange), Ok(Some(_))) {
        return;
    }
    match field.without_tags().map(FieldValue::try_from) {
        Some(Ok(left)) => fields.insert(precondition::IF, left),
        Some(Err(_)) => {}
        None => fields.remove(precondition::IF),
    }
}
