//! The keys of a guard that are about the way from watching to refusing, and what is remembered for it.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::de::DeValue;

use super::{
    form::{count, expected, flag, header_name, network, text},
    section::Section,
};
use crate::{
    config::Report,
    core::rollout::{Exempt, Network, Pattern, Rollout},
};

pub(super) fn rollout(s: &mut Section, defaults: Rollout) -> Rollout {
    Rollout { exempt: exempt(s).unwrap_or(defaults.exempt), report: s.given("report", flag).or(defaults.report) }
}

pub(super) fn report(mut section: Section) -> Report {
    let report = Report {
        clients: section.value("clients", 256, count(1..=1000)),
        reads: section.value("reads", 100_000, count(2..=100_000_000)),
    };
    section.finish();
    report
}

/// `None` where the key is absent: an empty list exempts nobody.
fn exempt(s: &mut Section) -> Option<Vec<Exempt>> {
    let (place, value) = s.take("exempt")?;
    let DeValue::Array(elements) = value else {
        s.record(&place, expected("an array of tables: [{ address = \"10.0.0.0/8\" }]", &value));
        return None;
    };
    let mut all = Vec::new();
    for (index, element) in elements.into_iter().enumerate() {
        let place = s.findings.place(format!("{}[{index}]", place.key), &element);
        all.extend(s.table(place, element.into_inner()).ok().and_then(one_exempt));
    }
    Some(all)
}

fn one_exempt(mut section: Section) -> Option<Exempt> {
    let address = section.optional("address", |value| network(value).map(bits));
    let header = section.optional("header", header_name);
    let value = section.optional("value", pattern);
    match (&address, &header, &value) {
        (Ok(None), Ok(None), Ok(None)) => section.error("needs an address, or a header, or both"),
        (_, Ok(None), Ok(Some(_))) => section.error_at("header", "is missing; it goes with value"),
        _ => {}
    }
    section.finish();
    let (network, header, value) = (address.ok()?, header.ok()?, value.ok()?);
    let any = || Pattern("*".to_owned());
    Some(Exempt { network, header: header.map(|name| (name, value.unwrap_or_else(any))) })
}

fn bits(net: IpNet) -> Network {
    let (first, offset) = match net.network() {
        IpAddr::V4(first) => (first.to_ipv6_mapped(), 96),
        IpAddr::V6(first) => (first, 0),
    };
    Network { first: first.to_bits(), prefix: net.prefix_len() + offset }
}

fn pattern(value: &DeValue) -> Result<Pattern, String> {
    let text = text(value)?;
    if text.is_empty() {
        return Err("is empty; without it any value will do".to_owned());
    }
    if text.strip_suffix('*').unwrap_or(text).contains('*') {
        return Err(format!("{text:?} has a * that is not its end; only there it stands for whatever follows"));
    }
    Ok(Pattern(text.to_owned()))
}
