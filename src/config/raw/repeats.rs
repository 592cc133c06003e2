//! The keys of a guard that are about requests that come again.

use std::{ops::RangeInclusive, time::Duration};

use toml::de::DeValue;

use super::{
    form::{AGE, DAY, MIB, PAUSE, choice, duration, expected, size, text},
    section::Section,
};
use crate::core::{
    pointer::{Pointer, Template},
    repeats::{Found, Repeats},
};

/// A client may come again after a weekend, and after a month.
const LASTING: RangeInclusive<Duration> = Duration::ZERO..=DAY.saturating_mul(366);

pub(super) fn repeats(s: &mut Section, defaults: Repeats) -> Repeats {
    let or_none = |time: Duration| Some(time).filter(|time| !time.is_zero());
    let repeats = Repeats {
        replay: s.given("replay", duration(PAUSE)).map_or(defaults.replay, or_none),
        idempotency: s.given("idempotency", duration(LASTING)).map_or(defaults.idempotency, or_none),
        answer_bytes: s.value("answer_bytes", defaults.answer_bytes, size(0..=MIB)),
        unique: s.list("unique", pointer).ok().flatten().unwrap_or(defaults.unique),
        unique_lookup: s.value("unique_lookup", defaults.unique_lookup, templates),
        unique_found: s.value("unique_found", defaults.unique_found, found),
        unique_memory: s.given("unique_memory", duration(AGE)).or(defaults.unique_memory),
    };
    if let Some(stray) = repeats.stray() {
        s.error_at("unique_lookup", &format!("asks for {stray}, which is not in unique"));
    }
    repeats
}

pub(super) fn pointer(value: &DeValue) -> Result<Pointer, String> {
    let text = text(value)?;
    Pointer::parse(text).map_err(|error| format!("{text:?} is no place in a document: {error}"))
}

fn templates(value: &DeValue) -> Result<Vec<Template>, String> {
    match (value.as_str(), value.as_array()) {
        (Some(only), _) => Ok(vec![Template::parse(only)?]),
        (None, Some(several)) => several.iter().map(|one| Template::parse(text(one.get_ref())?)).collect(),
        (None, None) => Err(expected("a path such as \"/users?email={/email}\", or an array of them", value)),
    }
}

fn found(value: &DeValue) -> Result<Found, String> {
    match value.as_str() {
        Some(place) if place.starts_with('/') => pointer(value).map(Found::At),
        _ => {
            let known = choice(&[("json", false), ("status", true)]);
            let by_status = known(value).map_err(|error| format!("{error}, or a place such as \"/items\""))?;
            Ok(if by_status { Found::Status } else { Found::Json })
        }
    }
}
