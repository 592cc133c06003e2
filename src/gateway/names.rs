//! The generations of names: what becomes of the resources' keys when the configuration is replaced.
//!
//! A key depends on the route: the upstream's name, the host that is forwarded, and the guard's `query` and
//! `partition`. What a write also changes depends on it, too, and goes by the same rules: a write that did not know of it
//! has no turn there. Where a new configuration changes none of these for any request, keys stay, and with them all that is
//! known. Otherwise a new generation begins, and an upstream to which requests come under another name than before, or
//! from another upstream, gets a new *scope*: a part of every key. Writes to it wait at the [gate](crate::tracker::gate)
//! for those of the older generations. What was known under the old scope is forgotten with it, since nobody told it of
//! the writes under the new, and it must not come back when the configuration is changed back. Upstreams that keep all
//! their requests, lose some, or get some that nobody ever had under another name, keep their scope, and their writes
//! do not wait. Whoever has had some is remembered for that, since between two configurations that give them to
//! somebody there may have been one that gave them to nobody.

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
    /// The routes of all configurations so far that are gone, each with its upstream's name.
    former: Vec<(String, Route)>,
}

/// So many are remembered. From there on whatever comes may have had another name.
const MOST_FORMER: usize = 1024;

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
        Self { generation: 0, scopes: scopes.collect(), former: Vec::new() }
    }

    /// What stands for the upstream in the keys of its resources.
    pub(super) fn scope(&self, upstream: usize) -> &str {
        &self.scopes[upstream].name
    }

    /// Since when the resources of this upstream have their names.
    pub(super) fn since(&self, upstream: usize) -> &Since {
        &self.scopes[upstream].since
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
        let change = Change::between(old, new);
        let gaining = change.gaining(&self.former);
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
        (Self { generation, scopes, former: change.former(&self.former) }, fresh)
    }
}

/// How the routes of a configuration differ from those of the one before.
struct Change<'a> {
    old: &'a Config,
    new: &'a Config,
    gone: &'a [Route],
    come: &'a [Route],
    /// Those behind them, of each configuration.
    stayed: &'a [Route],
    stays: &'a [Route],
}

impl<'a> Change<'a> {
    fn between(old: &'a Config, new: &'a Config) -> Self {
        let same = |(a, b): &(&Route, &Route)| {
            a.host == b.host && a.path == b.path && keys_alike((upstream(old, a), a), (upstream(new, b), b))
        };
        let from_front = old.routes.iter().zip(&new.routes).take_while(same).count();
        let shorter = old.routes.len().min(new.routes.len()) - from_front;
        let from_back = old.routes.iter().rev().zip(new.routes.iter().rev()).take(shorter).take_while(same).count();
        let (gone, stayed) = old.routes[from_front..].split_at(old.routes.len() - from_back - from_front);
        let (come, stays) = new.routes[from_front..].split_at(new.routes.len() - from_back - from_front);
        Self { old, new, gone, come, stayed, stays }
    }

    /// The upstreams that may get requests which another had before, or that went by another name.
    fn gaining(&self, former: &[(String, Route)]) -> HashSet<&'a str> {
        let &Self { old, new, gone, come, stayed, stays } = self;
        let takes = |route: &Route, name: &str, from: &Route| {
            route.overlaps(from) && !keys_alike((name, from), (upstream(new, route), route))
        };
        // What those that have come take from others; and what falls through to those behind from those that are gone.
        let takers = come.iter().filter(|route| {
            former.len() >= MOST_FORMER
                || gone.iter().chain(stayed).any(|from| takes(route, upstream(old, from), from))
                || former.iter().any(|(name, from)| takes(route, name, from))
        });
        let leaves = |gone: &&Route| !come.iter().any(|come| come.covers(gone));
        let heirs =
            stays.iter().filter(|route| gone.iter().filter(leaves).any(|from| takes(route, upstream(old, from), from)));
        let all: Vec<_> = takers.chain(heirs).collect();
        let mut gaining: HashSet<_> = all.iter().map(|route| upstream(new, route)).collect();

        if gone.iter().chain(come).any(|route| !route.also_changes.is_empty())
            || all.iter().any(|route| !route.also_changes.is_empty())
        {
            // What they change may be anybody's; and by which spelling or host it is written is not asked.
            gaining.extend(new.upstreams.iter().map(|upstream| upstream.name.as_str()));
        }
        gaining.extend(new.upstreams.iter().filter(|u| shows_another_host(old, u)).map(|u| u.name.as_str()));
        let unknown = new.upstreams.iter().filter(|u| old.upstreams.iter().all(|o| o.name != u.name));
        gaining.extend(unknown.map(|u| u.name.as_str()));
        gaining
    }

    /// Those that were gone before, and those that are now.
    fn former(&self, before: &[(String, Route)]) -> Vec<(String, Route)> {
        let mut all = before.to_vec();
        for gone in self.gone {
            let name = upstream(self.old, gone);
            let is_known = |(other, route): &(String, Route)| {
                route.host == gone.host && route.path == gone.path && keys_alike((other, route), (name, gone))
            };
            if all.len() < MOST_FORMER && !all.iter().any(is_known) {
                all.push((name.to_owned(), gone.clone()));
            }
        }
        all
    }
}

/// The name of the upstream that a route of this configuration leads to.
fn upstream<'a>(config: &'a Config, route: &Route) -> &'a str {
    &config.upstreams[route.upstream].name
}

/// Whether two routes, each with its upstream's name, give a resource the same name, and have writes to it change the same.
fn keys_alike((a_upstream, a): (&str, &Route), (b_upstream, b): (&str, &Route)) -> bool {
    let named_alike = a.policy.query == b.policy.query && a.policy.partition == b.policy.partition;
    a_upstream == b_upstream && named_alike && a.also_changes == b.also_changes
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
    fn a_scope_ends_with_what_its_writes_change() {
        let lines = |also: &str| {
            let route = "[[routes]]\npath = \"/orders/{id}/lines/{line}\"\nupstream = \"b\"\n";
            format!("{route}also_changes = [{also}]\n{ALL_TO_A}")
        };
        let unchanged = (false, Vec::new());
        assert_eq!(change(&lines("\"/orders/{id}\""), &lines("\"/orders/{id}\"")), unchanged);
        // The order may be the other's.
        assert_eq!(change(&lines(""), &lines("\"/orders/{id}\"")), fresh(&["a", "b"]));
        assert_eq!(change(&lines("\"/orders/{id}\""), &lines("\"/orders\"")), fresh(&["a", "b"]));
        assert_eq!(change(&lines("\"/orders/{id}\""), &lines("")), fresh(&["a", "b"]));
        // With what stays as it is beside them.
        assert_eq!(change(&lines("\"/orders/{id}\""), &(notes("b", "") + &lines("\"/orders/{id}\""))).1, ["b"]);
    }

    /// A lenient backend took what somebody wrote there for what the new route is for.
    #[test]
    fn a_scope_ends_with_what_writes_by_another_spelling_or_host_change() {
        let lines = |path: &str, rest: &str| {
            format!("[[routes]]\npath = \"{path}/{{id}}/lines/{{line}}\"\nupstream = \"b\"\n{rest}")
        };
        let also = "also_changes = [\"/orders/{id}\"]\n";
        let order = "[[routes]]\npath = \"/orders/{id}\"\nupstream = \"a\"\n";
        for before in [lines("/Orders", ""), lines("/orders", "host = \"other.example\"\n")] {
            let before = before + order;
            let come = lines("/orders", &format!("host = \"a.example\"\n{also}"));
            assert_eq!(change(&before, &(before.clone() + &come)), fresh(&["a", "b"]), "{before}");
            assert_eq!(change(&(before.clone() + &come), &before), fresh(&["a", "b"]), "{before}");
        }
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

    /// What nobody had for a while is remembered as whose it was.
    #[test]
    fn a_scope_ends_with_what_another_had_before_nobody_did() {
        let (to_a, to_b, to_nobody) = (notes("a", ""), notes("b", ""), notes("a", "").replace("/notes/", "/files/"));
        let by_steps = |steps: &[&str]| {
            let configs: Vec<_> = steps.iter().map(|step| config(step)).collect();
            let mut names = vec![Names::new(&configs[0])];
            for pair in configs.windows(2) {
                let (next, _) = names.last().expect("the first").succeed(&pair[0], &pair[1]);
                names.push(next);
            }
            names[0].scope(0) == names.last().expect("the first").scope(0)
        };
        assert!(by_steps(&[&to_a, &to_nobody, &to_a]));
        assert!(!by_steps(&[&to_a, &to_b, &to_nobody, &to_a]));
        assert!(!by_steps(&[&to_a, &to_nobody, &notes("a", "query = \"ignore\"")]));
        let elsewhere = to_nobody.replace("/files/", "/elsewhere/");
        assert!(!by_steps(&[&to_a, &to_b, &to_nobody, &elsewhere, &to_nobody, &to_a]));
    }

    #[test]
    fn so_many_former_routes_are_remembered_and_then_all_may_have_been_another() {
        let at = |n: usize| config(&notes("a", "").replace("/notes/", &format!("/{n}/")));
        let mut names = Names::new(&at(0));
        for n in 0..MOST_FORMER {
            names = names.succeed(&at(n), &at(n + 1)).0;
        }
        assert_eq!((names.generation, names.former.len()), (0, MOST_FORMER));
        let next = names.succeed(&at(MOST_FORMER), &at(MOST_FORMER + 1)).0;
        assert_eq!((next.generation, next.former.len()), (1, MOST_FORMER));
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
