//! Which resource an operator asks for, and what there is to say of it.
//!
//! `target` is what a client would ask: `http://host/path?query`, or a path beside a `host`. The key is found as a
//! request's is, so a route that keeps resources apart by header fields needs these, too: `header=Name:value`, once for
//! each. All values are percent-encoded; a `+` is a `+`.

use crate::core::{fields::Fields, value::FieldValue};
use http::{HeaderName, StatusCode, Uri, header::HOST, uri::Authority};
use serde_json::{Value, json};

use crate::{
    core::{
        record::{State, Writes},
        resource::{Key, Target},
    },
    gateway::Gateway,
    tracker::Inspection,
};

/// A resource that an operator has named.
#[derive(Debug)]
pub(super) struct Named {
    /// Its key.
    pub(super) key: Key,
    host: String,
    target: Target,
    route: String,
    upstream: String,
}

/// Why there is no such resource.
pub(super) type Unnamed = (StatusCode, String);

/// The resource that this query names.
pub(super) fn named(gateway: &Gateway, query: Option<&str>) -> Result<Named, Unnamed> {
    let Question { target, host, fields } = Question::read(query.unwrap_or_default()).map_err(bad)?;
    let (host, target) = located(&target, host).map_err(bad)?;
    let target = Target::from_path_and_query(&target).map_err(|error| bad(format!("target: {error}")))?;
    let asked = FieldValue::try_from(host.as_str()).map_err(|_| bad("the host is not one".to_owned()))?;
    let Some((route, key)) = gateway.resource(&asked, &target, &fields) else {
        return Err((StatusCode::NOT_FOUND, "no route leads there".to_owned()));
    };
    let route = &gateway.config().routes[route];
    Ok(Named {
        key,
        host,
        target,
        route: format!("{}{}", route.host.as_deref().unwrap_or_default(), route.path),
        upstream: gateway.config().upstreams[route.upstream].name.clone(),
    })
}

fn bad(why: String) -> Unnamed {
    (StatusCode::BAD_REQUEST, why)
}

/// The parameters of a query.
#[derive(Default)]
struct Question {
    target: String,
    host: Option<String>,
    fields: Fields,
}

impl Question {
    fn read(query: &str) -> Result<Self, String> {
        let mut question = Self::default();
        let mut target = None;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = decoded(value).ok_or_else(|| format!("{name} is not percent-encoded UTF-8"))?;
            let given_twice = match name {
                "target" => target.replace(value).is_some(),
                "host" => question.host.replace(value).is_some(),
                "header" => {
                    let (name, value) = field(&value).ok_or("header is written Name:value")?;
                    question.fields.append(name, value);
                    false
                }
                other => return Err(format!("{other:?} is not known; there are target, host and header")),
            };
            if given_twice {
                return Err(format!("{name} is given twice"));
            }
        }
        question.target = target.ok_or("target is missing: an absolute URL, or a path beside a host")?;
        if let Some(host) = question.fields.get(HOST).and_then(|host| host.to_str().ok()) {
            question.host.get_or_insert(host.to_owned());
        }
        Ok(question)
    }
}

fn field(written: &str) -> Option<(HeaderName, FieldValue)> {
    let (name, value) = written.split_once(':')?;
    Some((name.trim().parse().ok()?, FieldValue::try_from(value.trim()).ok()?))
}

/// The host and the path that a target names.
fn located(target: &str, host: Option<String>) -> Result<(String, http::uri::PathAndQuery), String> {
    let not_one = || format!("target {target:?} is neither an absolute URL nor a path");
    let uri: Uri = target.parse().map_err(|_| not_one())?;
    let path = uri.path_and_query().cloned().ok_or_else(not_one)?;
    let host = match (uri.authority(), host) {
        (Some(_), Some(_)) => return Err("host stands beside a path only: target names one already".to_owned()),
        (Some(authority), None) => authority.as_str().to_owned(),
        (None, Some(host)) => host,
        (None, None) => return Err("host is missing: target is a path only".to_owned()),
    };
    let is_host = |authority: &Authority| !authority.as_str().contains('@') && !authority.host().is_empty();
    if !host.parse::<Authority>().as_ref().is_ok_and(is_host) {
        return Err(format!("{host:?} is not a host"));
    }
    Ok((host, path))
}

fn decoded(value: &str) -> Option<String> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        out.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    String::from_utf8(out).ok()
}

/// What is known of a resource.
pub(super) fn describe(named: &Named, known: Option<Inspection>) -> Value {
    let is_tracked = known.is_some();
    let mut about = json!({
        "target": format!("http://{}{}", named.host, named.target.as_path_and_query()),
        "route": named.route,
        "upstream": named.upstream,
        "tracked": is_tracked,
        "state": "unknown",
    });
    let Some(known) = known else { return about };
    match &known.state {
        State::Unknown => {}
        State::Absent => {
            about["state"] = "absent".into();
            about["absent_for"] = if known.absent_for_one { "one caller" } else { "everyone" }.into();
        }
        State::Current(set) => {
            about["state"] = "current".into();
            let tag = |known_tag: &crate::core::record::Known| {
                json!({
                    "tag": String::from_utf8_lossy(&known_tag.tag.to_bytes()),
                    "age": known.now.saturating_sub(known_tag.seen),
                })
            };
            about["tags"] = set.iter().map(tag).collect();
        }
    }
    about["superseded"] = known.superseded.into();
    about["known_through_another_spelling"] = known.other_spelling.into();
    let (turn, writes) = match known.writes {
        Writes::Nothing => ("free", 0),
        Writes::Guarded => ("taken", 1),
        Writes::Unguarded(writes) => ("shared", writes),
    };
    about["turn"] = turn.into();
    about["writes"] = writes.into();
    about["observed"] = known.observed.into();
    about["waiting"] = known.waiting.into();
    about
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located_in(query: &str) -> Result<(String, String), String> {
        let question = Question::read(query)?;
        located(&question.target, question.host).map(|(host, path)| (host, path.to_string()))
    }

    #[test]
    fn targets() {
        for (query, host, path) in [
            ("target=http://h:81/a?b=c", "h:81", "/a?b=c"),
            ("target=https%3A%2F%2Fh%2Fa%253F%3Fb%26c", "h", "/a%3F?b&c"),
            ("target=/a+b&host=h", "h", "/a+b"),
            ("header=Host:h&target=/a", "h", "/a"),
            ("target=http://h", "h", "/"),
        ] {
            assert_eq!(located_in(query), Ok((host.to_owned(), path.to_owned())), "{query}");
        }
    }

    #[test]
    fn questions_that_name_nothing() {
        for (query, why) in [
            ("", "target is missing"),
            ("host=h", "target is missing"),
            ("target=/a", "host is missing"),
            ("target=/a&host=", "not a host"),
            ("target=/a&host=u@h", "not a host"),
            ("target=http://u@h/a", "not a host"),
            ("target=http://h/a&host=h", "names one already"),
            ("target=/a&target=/b&host=h", "given twice"),
            ("target=/a&host=h&host=h", "given twice"),
            ("target=%2&host=h", "percent-encoded"),
            ("target=%zz&host=h", "percent-encoded"),
            ("target=%ff&host=h", "percent-encoded"),
            ("target=%0a&host=h", "neither"),
            ("target=a/b&host=h", "neither"),
            ("target=/a&host=h&header=nocolon", "Name:value"),
            ("target=/a&host=h&header=a%20b:c", "Name:value"),
            ("target=/a&host=h&header=a:b%0ac", "Name:value"),
            ("target=/a&host=h&what=ever", "is not known"),
        ] {
            let told = located_in(query).expect_err(query);
            assert!(told.contains(why), "{query}: {told}");
        }
    }
}
