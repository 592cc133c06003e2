//! The keys of a guard that are about the kind of service: `profile`, what only a profile would set otherwise, and how the
//! gateway words its own answers.

use http::Method;
use toml::de::DeValue;

use super::{
    form::{choice, flag, method, quoted, text},
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
        safe_methods: s.list("safe_methods", safe).ok().flatten().unwrap_or_else(|| defaults.safe_methods.clone()),
        if_header: s.value("if_header", defaults.if_header, flag),
        trust_write_tags: s.value("trust_write_tags", defaults.trust_write_tags, flag),
        conflict_body: s.value("conflict_body", defaults.conflict_body, choice(&CONFLICT_BODIES)),
    }
}

/// What guards a method can't take it for a read.
pub(super) fn check(s: &Section, policy: &Policy) {
    let service = &policy.service;
    let Some(method) = service.safe_methods.iter().find(|method| policy.methods.contains(method)) else { return };
    let of_profile = |profile: Profile| Profile::apply(Some(profile), Policy::default()).service.safe_methods;
    match service.profile.filter(|profile| of_profile(*profile) == service.safe_methods) {
        // Nobody need have written the other key.
        Some(profile) => {
            let name = profile.as_str();
            s.error_at(
                "methods",
                &format!("has {method}, which profile = {name:?} takes for a read: see safe_methods"),
            );
        }
        None => s.error_at("safe_methods", &format!("has {method}, and so has methods")),
    }
}

const CONFLICT_BODIES: [(&str, ConflictBody); 2] =
    [("problem", ConflictBody::Problem), ("simple", ConflictBody::Simple)];

/// The methods that are known to write, whatever the service: to take one for a read would be to look away.
const WRITES: [&str; 11] =
    ["PUT", "POST", "PATCH", "DELETE", "MERGE", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK"];

fn safe(value: &DeValue) -> Result<Method, String> {
    let name = text(value)?;
    if Method::from_bytes(name.as_bytes()).is_ok_and(|method| method.is_safe()) {
        return Err(format!("{name} only reads on every route; it need not be named here"));
    }
    let method = method(value)?;
    if WRITES.iter().any(|write| method.as_str().eq_ignore_ascii_case(write)) {
        return Err(format!("{method} writes"));
    }
    Ok(method)
}

fn profile(value: &DeValue) -> Result<Option<Profile>, String> {
    let text = text(value)?;
    if text == "none" {
        return Ok(None);
    }
    let found = Profile::ALL.iter().find(|(name, _)| *name == text);
    let known = || quoted(Profile::ALL.iter().map(|(name, _)| *name).chain(["none"]), " or ");
    found.map(|(_, profile)| Some(*profile)).ok_or_else(|| format!("{text:?} is not known; write {}", known()))
}
