//! The generations of names: what becomes of the resources' keys when the configuration is replaced.
//!
//! A key depends on the route: the upstream's name, the host that is forwarded, and the guard's `query` and
//! `partition`. Where a new configuration changes none of these for any request, keys stay, and with them all that is
//! known. Otherwise a new generation begins, writes wait at the [gate](crate::tracker::gate) for those of the older
//! ones, and an upstream to which requests come under another name than before, or from another upstream, gets a new
//! *scope*: a part of every key. What was known under the old one is forgotten with it, since nobody told it of the
//! writes under the new, and it must not come back when the configuration is changed back. Upstreams that keep all
//! their requests, lose some, or get some that nobody had, keep their scope.
//!
//! All writes wait, not only those of the upstreams concerned: a write may change a resource of another upstream, which
//! its answer names, and somebody may be judging a write to that one under its old name.

use std::collections::HashSet;

use crate::{
    config::{Config, Route, Upstream},
    core::record::Stamp,
    tracker::gate::Since,
};

/// The names of one generation.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) generation: u64,
    /// Of each upstream, in the order of the configuration.
    scopes: Vec<Scope>,
}

#[derive(Debug, Clone)]
struct Scope {
    /// The upstream's name, and since when it has its requests.
    name: String,
    since: Since,
}

impl Names {
    /// The first names.
    pub(super) fn new(config: &Config) -> Self {
        let scopes = config.upstreams.iter().map(|u| Scope { name: u.name.clone(), since: Since::default() });
        Self { generation: 0, scopes: scopes.collect() }
    }

    /// What stands for the upstream in the keys of its resources.
    pub(super) fn scope(&self, upstream: usize) -> &str {
        &self.scopes[upstream].name
    }

    /// Whether what a read shows may be recorded that began at this moment.
    pub(super) fn may_record(&self, upstream: usize, began: Stamp) -> bool {
        self.scopes[upstream].since.includes(began)
    }

    /// Nothing is recorded until what is returned says so. Only for names that nobody has used yet.
    pub(super) fn suspend(&mut self) -> Vec<Since> {
        for scope in &mut self.scopes {
            scope.since = Since::pending();
        }
        self.scopes.iter().map(|scope| scope.since.clone()).collect()
    }

    /// The names under `new`, which replaces `old`, and the scopes that are new.
    pub(super) fn succeed(&self, old: &Config, new: &Config) -> (Self, Vec<Since>) {
        let gaining = gaining(old, new);
        let generation = if gaining.is_empty() { self.generation } else { self.generation + 1 };
        let mut fresh = Vec::new();
        let scopes = new.upstreams.iter().map(|upstream| {
            let before = old.upstreams.iter().position(|u| u.name == upstream.name);
            match before {
                Some(index) if !gaining.contains(upstream.name.as_str()) => self.scopes[index].clone(),
                Some(_) | None => {
                    let since = Since::pending();
                    fresh.push(since.clone());
                    // With a NUL, so that it is nobody's name.
                    Scope { name: format!("{}\0{generation}", upstream.name), since }
                }
            }
        });
        let scopes = scopes.collect();
        (Self { generation, scopes }, fresh)
    }
}

/// The upstreams of a new configuration that may get requests which another had before, or that went by another name.
fn gaining<'a>(old: &Config, new: &'a Config) -> HashSet<&'a str> {
    let same = |(a, b): &(&Route, &Route)| a.host == b.host && a.path == b.path && keys_alike((old, a), (new, b));
    let from_front = old.routes.iter().zip(&new.routes).take_while(same).count();
    let shorter = old.routes.len().min(new.routes.len()) - from_front;
    let from_back = old.routes.iter().rev().zip(new.routes.iter().rev()).take(shorter).take_while(same).count();
    let gone = &old.routes[from_front..old.routes.len() - from_back];
    let (come, stays) = new.routes[from_front..].split_at(new.routes.len() - from_back - from_front);
    let stayed = &old.routes[old.routes.len() - from_back..];

    // What those that have come take from others; and what falls through to those behind from those that are gone.
    let takes = |route: &Route, from: &Route| route.overlaps(from) && !keys_alike((old, from), (new, route));
    let takers = come.iter().filter(|route| gone.iter().chain(stayed).any(|from| takes(route, from)));
    let leaves = |gone: &&Route| !come.iter().any(|come| come.covers(gone));
    let heirs = stays.iter().filter(|route| gone.iter().filter(leaves).any(|from| takes(route, from)));
    let name = |route: &Route| new.upstreams[route.upstream].name.as_str();
    let mut gaining: HashSet<_> = takers.chain(heirs).map(name).collect();

    gaining.extend(new.upstreams.iter().filter(|u| shows_another_host(old, u)).map(|u| u.name.as_str()));
    let unknown = new.upstreams.iter().filter(|u| old.upstreams.iter().all(|o| o.name != u.name));
    gaining.extend(unknown.map(|u| u.name.as_str()));
    gaining
}

/// Whether two routes, each of its configuration, give a resource the same name.
fn keys_alike((old, a): (&Config, &Route), (new, b): (&Config, &Route)) -> bool {
    old.upstreams[a.upstream].name == new.upstreams[b.upstream].name
        && a.policy.query == b.policy.query
        && a.policy.partition == b.policy.partition
}

/// Whether the upstream's `Host`, a part of every key, is another for some requests: its own is the first server's,
/// which is also what a request without a host gets.
fn shows_another_host(old: &Config, upstream: &Upstream) -> bool {
    let before = old.upstreams.iter().find(|u| u.name == upstream.name);
    before.is_some_and(|before| {
        before.host != upstream.host || before.servers[0].authority != upstream.servers[0].authority
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(routes: &str) -> Config {
        Config::parse(&format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\n\
             [upstreams.a]\nservers = [\"http://a:1\"]\n[upstreams.b]\nservers = [\"http://b:1\"]\n{routes}"
        ))
        .unwrap_or_else(|errors| panic!("{errors}"))
    }

    const ALL_TO_A: &str = "[[routes]]\nupstream = \"a\"\n";

    fn notes(upstream: &str, guard: &str) -> String {
        format!("[[routes]]\npath = \"/notes/{{*rest}}\"\nupstream = \"{upstream}\"\nguard = {{ {guard} }}\n")
    }

    /// Whether a generation begins, and which upstreams get a new scope.
    fn change(old: &str, new: &str) -> (bool, Vec<String>) {
        let (old, new) = (config(old), config(new));
        let names = Names::new(&old);
        let (next, _) = names.succeed(&old, &new);
        let fresh = (0..2).filter(|&u| next.scope(u) != names.scope(u)).map(|u| new.upstreams[u].name.clone());
        (next.generation > 0, fresh.collect())
    }

    fn fresh(names: &[&str]) -> (bool, Vec<String>) {
        (true, names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn a_scope_lasts_as_long_as_the_names_in_it() {
        let before = notes("b", "") + ALL_TO_A;
        let unchanged = (false, Vec::new());
        assert_eq!(change(&before, &before), unchanged);
        assert_eq!(change(&before, &(notes("b", "missing = \"require\", wait = \"1s\"") + ALL_TO_A)), unchanged);
        assert_eq!(change(&before, &(notes("b", "query = \"ignore\"") + ALL_TO_A)), fresh(&["b"]));
        assert_eq!(change(&before, &(notes("b", "partition = [\"Host\"]") + ALL_TO_A)), fresh(&["b"]));
        // A route to what nobody had, and one that asks for less of it.
        let notes_to_a = notes("a", "");
        assert_eq!(change(&notes_to_a, &(notes_to_a.replace("/notes/", "/files/") + &notes_to_a)), unchanged);
        assert_eq!(change(&before, ALL_TO_A).1, ["a"]);
        assert_eq!(change(&notes("b", ""), &(notes("b", "") + &notes_to_a.replace("/notes/", "/files/"))), unchanged);
        assert_eq!(change(&notes_to_a, &(notes_to_a.replace("{*rest}", "7") + &notes_to_a)), unchanged);
        // Only "a" loses some, and gets them back.
        assert_eq!(change(ALL_TO_A, &before), fresh(&["b"]));
        assert_eq!(change(&before, ALL_TO_A), fresh(&["a"]));
        assert_eq!(change(&before, &(notes("a", "") + ALL_TO_A)), fresh(&["a"]));
        // In another order one takes what the other had.
        let (one, other) = (notes("b", ""), notes("a", "").replace("/notes/{*rest}", "/{any}/x"));
        assert_eq!(change(&(one.clone() + &other), &(other + &one)), fresh(&["a", "b"]));
    }

    #[test]
    fn a_scope_ends_with_the_host_that_the_backend_sees() {
        let old = config(ALL_TO_A);
        let mut new = old.clone();
        new.upstreams[0].host = crate::config::HostRule::Rewrite;
        let names = Names::new(&old);
        let (next, pending) = names.succeed(&old, &new);
        assert_eq!((next.generation, pending.len()), (1, 1));
        assert_ne!(next.scope(0), names.scope(0));
        assert_eq!(next.scope(1), names.scope(1));
        assert!(!next.may_record(0, Stamp(5)) && next.may_record(1, Stamp(5)));
    }

    #[test]
    fn a_scope_that_has_ended_does_not_come_back() {
        let (one, two) = (config(&(notes("b", "") + ALL_TO_A)), config(&(notes("b", "query = \"ignore\"") + ALL_TO_A)));
        let first = Names::new(&one);
        let (second, _) = first.succeed(&one, &two);
        let (third, _) = second.succeed(&two, &one);
        let scopes: HashSet<_> = [&first, &second, &third].map(|names| names.scope(1).to_owned()).into();
        assert_eq!((scopes.len(), third.generation), (3, 2));
    }
}
