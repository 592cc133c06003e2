//! The keys of a guard that are about the kind of service: `profile`, what only a profile would set otherwise, and how the
//! gateway words its own answers.

use toml::de::DeValue;

use super::{
    form::{choice, flag, quoted, text},
    section::Section,
};
use crate::core::{
    policy::Policy,
    profile::{ConflictBody, Profile, Service},
};

/// The profile turns the defaults of the guard into others. To be called before its other keys are read, which go before it.
pub(super) fn defaults(s: &mut Section, defaults: &Policy) -> Policy {
    match s.given("profile", profile) {
        Some(profile) => Profile::apply(profile, defaults.clone()),
        None => defaults.clone(),
    }
}

pub(super) fn service(s: &mut Section, defaults: &Service) -> Service {
    Service {
        profile: defaults.profile,
        if_header: s.value("if_header", defaults.if_header, flag),
        trust_write_tags: s.value("trust_write_tags", defaults.trust_write_tags, flag),
        conflict_body: s.value("conflict_body", defaults.conflict_body, choice(&CONFLICT_BODIES)),
    }
}

const CONFLICT_BODIES: [(&str, ConflictBody); 2] =
    [("problem", ConflictBody::Problem), ("simple", ConflictBody::Simple)];

fn profile(value: &DeValue) -> Result<Option<Profile>, String> {
    let text = text(value)?;
    if text == "none" {
        return Ok(None);
    }
    let found = Profile::ALL.iter().find(|(name, _)| *name == text);
    let known = || quoted(Profile::ALL.iter().map(|(name, _)| *name).chain(["none"]), " or ");
    found.map(|(_, profile)| Some(*profile)).ok_or_else(|| format!("{text:?} is not known; write {}", known()))
}
