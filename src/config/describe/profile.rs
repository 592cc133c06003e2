//! What a profile means, key by key, and what is otherwise here.

use http::Method;

use super::listed;
use crate::{
    config::raw::form::quoted,
    core::{
        policy::{Comparison, Policy, QueryRule},
        profile::{ConflictBody, Profile},
    },
};

/// A line for the profile and one for each key that it sets, as the file would write it.
pub(super) fn profile(policy: &Policy) -> Vec<String> {
    let Some(profile) = policy.service.profile else { return Vec::new() };
    let meant = keys(&Profile::apply(Some(profile), policy.clone()));
    let here = keys(policy).into_iter().map(|(_, value)| value);
    let line = |((key, meant), here): ((&str, String), String)| {
        let otherwise = if here == meant { String::new() } else { format!(", but {here} here") };
        format!("  {key} = {meant}{otherwise}")
    };
    let head = format!("Profile {:?}, which means:", profile.as_str());
    std::iter::once(head).chain(meant.into_iter().zip(here).map(line)).collect()
}

/// What only a profile sets as a rule, where it is set by hand.
pub(super) fn departures(policy: &Policy) -> Vec<String> {
    let mut rules = Vec::new();
    let service = &policy.service;
    if !service.safe_methods.is_empty() {
        rules.push(format!("Taken for reads: {}.", listed(&service.safe_methods, "and")));
    }
    if service.if_header {
        rules.push("The tags in WebDAV's If are a precondition.".to_owned());
    }
    if !service.trust_write_tags {
        rules.push("The tag of a write's answer is not taken for the new one.".to_owned());
    }
    if service.conflict_body == ConflictBody::Simple {
        rules.push("A refusal's body has nothing but the sentence \"error\".".to_owned());
    }
    rules
}

/// The keys that every profile sets.
fn keys(policy: &Policy) -> [(&'static str, String); 7] {
    let array = |names: &mut dyn Iterator<Item = &str>| format!("[{}]", quoted(names, ", "));
    let comparison = match policy.comparison {
        Comparison::Strong => "\"strong\"",
        Comparison::Weak => "\"weak\"",
    };
    let query = match &policy.query {
        QueryRule::Include => "\"include\"".to_owned(),
        QueryRule::Ignore => "\"ignore\"".to_owned(),
        QueryRule::Only(names) => array(&mut names.iter().map(String::as_str)),
    };
    [
        ("methods", array(&mut policy.methods.iter().map(Method::as_str))),
        ("safe_methods", array(&mut policy.service.safe_methods.iter().map(Method::as_str))),
        ("conflict_status", policy.conflict_status.as_u16().to_string()),
        ("comparison", comparison.to_owned()),
        ("query", query),
        ("if_header", policy.service.if_header.to_string()),
        ("trust_write_tags", policy.service.trust_write_tags.to_string()),
    ]
}
