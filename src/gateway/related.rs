//! The resources that a write changes beside its own, as far as that is known before it is sent: those that its route names
//! (`also_changes`), and a WebDAV `Destination`.
//!
//! A write takes their turns with its own, each shared with other writes that nobody judges there
//! ([`Tracker::begin_write_beside`](crate::tracker::Tracker::begin_write_beside)), so no guarded write to one of them is judged
//! or sent while it is under way, and what it did to them is known before the next is judged. What an answer names
//! (`Location`, `Content-Location`) is only known with the answer, and stays with `write`.

use http::HeaderName;

use super::{Exchange, answer::Failure, route};
use crate::{
    clock,
    config::Route,
    core::{
        destination::readings,
        resource::{Key, Target, TargetError, lenient_segments},
    },
    tracker::{Ask, Busy, Turn},
};

const DESTINATION: HeaderName = HeaderName::from_static("destination");

/// A resource that a write changes beside its own.
struct Related {
    route: usize,
    key: Key,
}

/// Without those that share the write's own turn, which says enough.
fn related(exchange: &Exchange) -> Vec<Related> {
    let gateway = &exchange.gateway;
    let names_none = gateway.config.routes.iter().all(|route| route.also_changes.is_empty());
    if names_none && !exchange.head.headers.contains_key(DESTINATION) {
        return Vec::new();
    }
    let targets = declared(exchange).into_iter().chain(destinations(exchange));
    let found = targets.filter_map(|target| gateway.resource(&exchange.asked, &target, &exchange.head.headers));
    let related = found.map(|(route, key)| Related { route, key });
    related.filter(|related| related.key.cell != exchange.key.cell).collect()
}

/// What the write's route names. A lenient backend may also take its path for one of another route's, as it does where two
/// spellings share a turn; then it changes what that route names. So it does where its path is one of each.
fn declared(exchange: &Exchange) -> Vec<Target> {
    let routes = &exchange.gateway.config.routes;
    let declaring = routes.iter().enumerate().filter(|(_, route)| !route.also_changes.is_empty());
    let written = exchange.target.path();
    let segments = lenient_segments(written);
    let mut targets = Vec::new();
    for (index, route) in declaring {
        let plain = route.path.matches(written).then(|| written.to_owned());
        let resembled = route.path.resembled(&segments).filter(|path| plain.as_ref() != Some(path));
        let meant = plain.into_iter().chain(resembled).filter(|path| takes(exchange, index, path));
        // What can't be a target can't be asked for, either.
        let beside = meant.flat_map(|path| route.also_changes.iter().map(move |related| related.beside(&path)));
        targets.extend(beside.filter_map(|path| Target::parse(&path, None).ok()));
    }
    targets
}

/// A write has one `Destination` at most (RFC 4918 §10.3), and it must be clear what it may be: what is not known to be
/// written has no turn, and each of many would have one.
pub(super) fn check_destination(exchange: &Exchange) -> Result<(), Failure> {
    let mut lines = exchange.head.headers.get_all(DESTINATION);
    let is_read = match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(only), None) => readings(only.as_bytes(), exchange.target.path()).is_ok(),
        (Some(_), Some(_)) => false,
    };
    if is_read { Ok(()) } else { Err(Failure::Target(TargetError::Destination)) }
}

/// What a WebDAV request writes to beside its target. Where nothing is enforced there may be several fields, of which
/// services take the first or the last.
fn destinations(exchange: &Exchange) -> impl Iterator<Item = Target> {
    let mut lines = exchange.head.headers.get_all(DESTINATION);
    let lines = [lines.next(), lines.last()].into_iter().flatten();
    lines.flat_map(|line| readings(line.as_bytes(), exchange.target.path()).unwrap_or_default())
}

/// Whether a request for this path would take this route. By whichever host, where the write goes to the same upstream:
/// what a service changes need not depend on the host that it is asked by, and their resources share their turns.
fn takes(exchange: &Exchange, route: usize, path: &str) -> bool {
    let routes = &exchange.gateway.config.routes;
    let Ok(target) = Target::parse(path, None) else { return false };
    if routes[route].upstream != routes[exchange.route].upstream {
        return route::find(routes, &exchange.asked, &target) == Some(route);
    }
    let is_before = |earlier: &Route| earlier.host.is_none() || earlier.host == routes[route].host;
    !routes[..route].iter().any(|earlier| is_before(earlier) && earlier.path.matches(target.path()))
}

/// Their keys.
pub(super) fn keys(exchange: &Exchange) -> Vec<Key> {
    related(exchange).into_iter().map(|related| related.key).collect()
}

/// Takes all the turns that a write needs, under names that are in use for each. The write waits for `ask.wait` at most.
pub(super) async fn begin_write(exchange: &Exchange, ask: Ask) -> Result<Turn, Busy> {
    let related = related(exchange);
    if related.is_empty() {
        return begin_one(exchange, ask).await;
    }
    // In a box: the other writes would have room for it.
    Box::pin(begin_several(exchange, ask, related)).await
}

async fn begin_one(exchange: &Exchange, ask: Ask) -> Result<Turn, Busy> {
    let since = clock::now();
    let pass = exchange.gateway.enter(exchange.route, ask.wait).await?;
    let wait = ask.wait.saturating_sub(clock::since(since));
    let mut turn = exchange.gateway.tracker.begin_write(Ask { wait, ..ask }).await?;
    turn.keep(pass);
    Ok(turn)
}

async fn begin_several(exchange: &Exchange, ask: Ask, related: Vec<Related>) -> Result<Turn, Busy> {
    let since = clock::now();
    let gateway = &exchange.gateway;
    let left = || ask.wait.saturating_sub(clock::since(since));
    for other in &related {
        // Where a name is new, nobody may write to what has it until those are over that use the old one. Once that is so it
        // stays so, and the pass that counts for all is the last.
        drop(gateway.enter(other.route, left()).await?);
    }
    let pass = gateway.enter(exchange.route, left()).await?;
    let keys: Vec<Key> = related.iter().map(|related| related.key).collect();
    let mut turn = gateway.tracker.begin_write_beside(Ask { wait: left(), ..ask }, &keys).await?;
    turn.keep(pass);
    Ok(turn)
}
