//! The text of a file -> a configuration, or all that is wrong with it.
//!
//! There is no second reader of the format here. What is checked is what the types promise to those who hold one, that
//! errors can be shown and point into the text, and what must follow from small changes to the text: a blank line in
//! front moves every error down by one line, and a comment behind changes nothing.

#![no_main]

use std::time::Duration;

use http::uri::Authority;
use ifmatch::{
    config::{Config, ConfigErrors, PathPattern, Route, Upstream},
    core::{policy::Policy, resource::Target, version::Source},
};
use libfuzzer_sys::fuzz_target;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Config::parse(text) {
        Ok(config) => {
            assert_config(&config);
            let commented = Config::parse(&format!("{text}\n# The end."));
            assert_eq!(commented.map(|config| config.describe()).ok(), Some(config.describe()));
        }
        Err(errors) => {
            assert_errors(text, &errors);
            assert_errors_move(text, &errors);
        }
    }
});

// Errors. -------------------------------------------------------------------------------------------------------------

fn assert_errors(text: &str, errors: &ConfigErrors) {
    assert!(!errors.errors.is_empty(), "refused without a reason");
    assert!(errors.errors.is_sorted_by_key(|error| error.line), "{errors}");
    let lines = 1 + text.matches('\n').count();
    for error in &errors.errors {
        assert!(!error.message.trim().is_empty(), "an error without a message: {error:?}");
        assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "beyond {lines} lines: {error:?}");
        assert!(error.to_string().ends_with(&error.message) && error.to_string().contains(&error.key));
    }
    // What is shown goes to a terminal and to the log: a line for each error, and nothing that steers either.
    let shown = errors.to_string();
    assert_eq!(shown.split('\n').count(), errors.errors.len(), "{shown:?}");
    for error in &errors.errors {
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
}

fn assert_errors_move(text: &str, errors: &ConfigErrors) {
    // A byte order mark may only be the first thing in a file.
    if text.starts_with('\u{FEFF}') {
        return;
    }
    let moved = Config::parse(&format!("\n{text}")).expect_err("a blank line makes nothing right");
    let mut expected = errors.errors.clone();
    expected.iter_mut().for_each(|error| error.line = error.line.map(|line| line + 1));
    assert_eq!(moved.errors, expected);
}

// What a configuration promises. --------------------------------------------------------------------------------------

fn assert_config(config: &Config) {
    assert!(!config.listeners.is_empty() && !config.upstreams.is_empty() && !config.routes.is_empty());
    config.upstreams.iter().for_each(assert_upstream);
    for route in &config.routes {
        assert!(route.upstream < config.upstreams.len(), "{route:?} has no upstream");
        assert_route(route);
    }
    assert!((1..=1024).contains(&config.workers));
    assert!((1..=100_000_000).contains(&config.tracker.capacity));
    assert!((1..=64 * 1024).contains(&config.tracker.tag_bytes));
    assert_timeout(config.drain_timeout);
    assert_timeout(config.limits.header_read_timeout);
    assert!(!config.log.level.is_empty());

    let description = config.describe();
    assert!(description.ends_with(".\n"), "{description}");
    assert_eq!(description.matches("\nUpstream ").count(), config.upstreams.len(), "{description}");
    assert!(!description.contains(|letter: char| letter.is_control() && letter != '\n'), "{description:?}");
}

fn assert_upstream(upstream: &Upstream) {
    assert!(!upstream.name.is_empty() && !upstream.servers.is_empty(), "{upstream:?}");
    for server in upstream.servers.iter().map(|server| &server.authority) {
        let port = server.port_u16();
        assert!(port.is_some_and(|port| port != 0) && !server.host().is_empty(), "{server} can't be connected to");
        assert!(!server.as_str().contains('@'), "{server} has user information");
        assert_eq!(server.as_str().parse::<Authority>().ok().as_ref(), Some(server));
    }
    for timeout in [upstream.connect_timeout, upstream.response_timeout, upstream.idle_timeout] {
        assert_timeout(timeout);
    }
}

fn assert_route(route: &Route) {
    if let Some(host) = &route.host {
        assert!(!host.is_empty() && !host.bytes().any(|byte| byte.is_ascii_uppercase()), "{host}");
        // In brackets, colons are no port's.
        assert!(host.starts_with('[') || !host.contains(':'), "{host} has a port");
    }
    assert_pattern(&route.path);
    for related in &route.also_changes {
        // Whatever is written, what it also changes is a path that requests can have.
        let written = example(&route.path);
        let target = Target::parse(&related.beside(&written), None).ok();
        assert!(target.is_some_and(|target| target.path().starts_with('/')), "{related} beside {written}");
    }
    assert_policy(&route.policy);
}

/// A pattern is shown as it is read, and matches a path that requests can have: its own, with something in the place of
/// each name.
fn assert_pattern(pattern: &PathPattern) {
    let shown = pattern.to_string();
    assert_eq!(PathPattern::parse(&shown).as_ref(), Ok(pattern), "{shown}");
    let example = example(pattern);
    let target = Target::parse(&example, None).unwrap_or_else(|error| panic!("{shown}: no request asks it: {error}"));
    assert_eq!(target.path(), example, "{shown} is not canonical");
    assert!(pattern.matches(&example), "{shown} does not match {example}");
    assert!(!pattern.matches(&format!("/y{example}/y")) || shown.contains('{'), "{shown} matches another path");
}

fn example(pattern: &PathPattern) -> String {
    let shown = pattern.to_string();
    shown.split('/').skip(1).flat_map(|segment| ["/", if segment.starts_with('{') { "x" } else { segment }]).collect()
}

fn assert_policy(policy: &Policy) {
    assert!(policy.methods.iter().all(|method| !method.is_safe()), "{policy:?} guards reads");
    assert!([409, 412].contains(&policy.conflict_status.as_u16()));
    assert!(policy.max_age.is_none_or(|age| !age.is_zero() && age <= 3650 * DAY));
    assert!([policy.wait, policy.settle, policy.drain_time].iter().all(|pause| *pause <= DAY));
    assert_timeout(policy.body_idle_timeout);
    assert!((1..=100_000).contains(&policy.line));
    let safe = &policy.service.safe_methods;
    assert!(safe.iter().all(|method| !policy.methods.contains(method)), "{policy:?} guards what it takes for a read");
    let versions = &policy.versions;
    assert!((1..=256 << 20).contains(&versions.body_limit));
    assert!(versions.ignore.is_empty() || versions.source == Source::Body, "{versions:?}");
    assert!(policy.buffer <= 16 << 20 && policy.drain_bytes <= 1 << 30);
}

fn assert_timeout(timeout: Duration) {
    assert!((Duration::from_millis(1)..=DAY).contains(&timeout), "{timeout:?}");
}
