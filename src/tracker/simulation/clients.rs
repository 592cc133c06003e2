//! What clients do: they read, think, and write by what they have read, however long ago that was; and they hang up.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::Method;
use tokio::time::{sleep, timeout};

use super::{Name, Target, WAY, World};
use crate::{
    core::{
        etag::EntityTag,
        precondition::{Demands, Tags},
        record::{Access, Seen},
    },
    tracker::Broken,
};

const ROUNDS: u64 = 12;
/// How many times a client that was refused reads and tries again.
const TRIES: u32 = 3;

/// What a client has after a read.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) tag: EntityTag,
    pub(super) variant: u64,
}

impl World {
    pub(super) async fn client(self: Arc<Self>, caller: u64) {
        for _ in 0..ROUNDS {
            sleep(self.up_to(150)).await;
            let patience = if self.one_in(4) { self.up_to(150) } else { Duration::MAX };
            // A task of its own is dropped without another poll, so that one can hang up in the moment in which the turn
            // is granted.
            let mut acting = tokio::spawn(Arc::clone(&self).act(caller));
            match timeout(patience, &mut acting).await {
                Ok(ended) => ended.expect("nobody panics"),
                Err(_) => acting.abort(),
            }
        }
    }

    async fn act(self: Arc<Self>, caller: u64) {
        let target = self.a_target();
        match self.below(12) {
            0..4 => drop(self.read(target, caller).await),
            4..8 => self.read_modify_write(target, caller).await,
            8 | 9 => self.write_by_a_tag_that_somebody_held(target, caller).await,
            10 => self.write_on_another_condition(target, caller).await,
            _ => self.write_whatever_is_there(target, caller).await,
        }
    }

    /// A GET. The client gets the tag, and the representation that it is of.
    async fn read(&self, target: Target, caller: u64) -> Option<Held> {
        let name = self.name(target);
        let began = self.tracker.stamp().await;
        self.way().await;
        let held = self.backend().resources[target.resource].held(self.below(2));
        let seen = match &held {
            None => Seen::Missing,
            Some(_) if self.one_in(20) => Seen::Missing,
            Some(_) if self.one_in(20) => Seen::Untagged,
            Some(held) if self.one_in(4) => Seen::Tag(held.tag.clone(), None),
            Some(held) => Seen::Tag(held.tag.clone(), Some(held.variant)),
        };
        let slow = self.one_in(8);
        sleep(if slow { self.up_to(20 * WAY) } else { self.up_to(WAY) }).await;
        self.tell(|| format!("{target:?} was {seen:?} to a read from {}", began.0));
        if name.since.includes(began) || self.broken == Some(Broken::EarlyNames) {
            self.tracker.observe(name.key, began, seen, caller).await;
        }
        self.held.lock().unwrap()[target.resource].extend(held.clone());
        held
    }

    /// What the whole is for.
    async fn read_modify_write(self: &Arc<Self>, target: Target, caller: u64) {
        for _ in 0..TRIES {
            let write = match self.read(target, caller).await {
                Some(held) => self.a_write_by(held, target, caller),
                None => self.a_creation(target, caller),
            };
            sleep(self.up_to(40)).await;
            if self.write(write).await.is_ok() {
                return;
            }
        }
    }

    async fn write_by_a_tag_that_somebody_held(self: &Arc<Self>, target: Target, caller: u64) {
        let newest = self.held.lock().unwrap()[target.resource].iter().rev().take(6).cloned().collect::<Vec<_>>();
        if !newest.is_empty() {
            let write = self.a_write_by(self.pick(&newest), target, caller);
            let _ = self.write(write).await;
        }
    }

    async fn write_on_another_condition(self: &Arc<Self>, target: Target, caller: u64) {
        let mut write = self.a_write(target, caller, self.a_method());
        match self.below(4) {
            0 => write = self.a_creation(target, caller),
            1 => write.demands.if_match = Some(Tags::Any),
            2 => {
                let known = self.held.lock().unwrap()[target.resource].last().map(|held| held.tag.clone());
                write.demands.if_none_match = known.map(|tag| Tags::OneOf(vec![tag]));
            }
            _ => {}
        }
        let _ = self.write(write).await;
    }

    async fn write_whatever_is_there(self: &Arc<Self>, target: Target, caller: u64) {
        let method = self.pick(&[Method::POST, Method::POST, Method::PUT, Method::PATCH]);
        let mut write = self.a_write(target, caller, method);
        write.demands.if_match = self.one_in(4).then_some(Tags::Any);
        if write.method != Method::PATCH {
            write.related = self.a_related_target(target);
        }
        let _ = self.write(write).await;
    }

    fn a_write(&self, target: Target, caller: u64, method: Method) -> Write {
        Write {
            number: self.writes.fetch_add(1, Ordering::Relaxed),
            name: self.name(target),
            target,
            caller,
            guarded_method: self.policy.methods.contains(&method),
            method,
            demands: Demands::default(),
            variant: 0,
            beside: self.beside[target.resource].clone(),
            names_beside: Vec::new(),
            related: None,
            related_name: None,
            reported: 0,
        }
    }

    fn a_write_by(&self, held: Held, target: Target, caller: u64) -> Write {
        let mut write = self.a_write(target, caller, self.a_method());
        write.variant = if self.one_in(8) { 1 - held.variant } else { held.variant };
        write.demands.if_match = Some(Tags::OneOf(vec![held.tag]));
        if write.method == Method::PUT {
            write.related = self.a_related_target(target);
        }
        write
    }

    fn a_creation(&self, target: Target, caller: u64) -> Write {
        let mut write = self.a_write(target, caller, Method::PUT);
        write.demands.if_none_match = Some(Tags::Any);
        write
    }

    fn a_method(&self) -> Method {
        self.pick(&[Method::PUT, Method::PUT, Method::PUT, Method::PATCH, Method::PATCH, Method::DELETE])
    }

    fn a_related_target(&self, target: Target) -> Option<Target> {
        let related = self.a_target();
        (self.one_in(8) && related.resource != target.resource).then_some(related)
    }
}

#[derive(Clone)]
pub(super) struct Write {
    pub(super) number: u64,
    pub(super) target: Target,
    /// What that was called when the write was last judged anew.
    pub(super) name: Name,
    pub(super) caller: u64,
    pub(super) method: Method,
    pub(super) guarded_method: bool,
    pub(super) demands: Demands,
    /// The representation that its probe asks for.
    pub(super) variant: u64,
    /// What it changes beside its target, as everybody knows, and what that was called then.
    pub(super) beside: Vec<Target>,
    pub(super) names_beside: Vec<Name>,
    /// What it changes beside its target, as only its answer says.
    pub(super) related: Option<Target>,
    /// What that was called then.
    pub(super) related_name: Option<Name>,
    /// How many related changes of its target had been reported when it was judged.
    pub(super) reported: u64,
}

impl Write {
    pub(super) fn access(&self) -> Access {
        let guarded = self.guarded_method || !self.demands.is_empty();
        if guarded { Access::Guarded } else { Access::Unguarded }
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write {} by {}, {} {:?}", self.number, self.caller, self.method, self.target)?;
        if let Some(tags) = &self.demands.if_match {
            write!(f, ", if {tags:?}")?;
        }
        if let Some(tags) = &self.demands.if_none_match {
            write!(f, ", if not {tags:?}")?;
        }
        if let Some(related) = &self.related {
            write!(f, ", which changes {related:?}")?;
        }
        if !self.beside.is_empty() {
            write!(f, ", and with it {:?}", self.beside)?;
        }
        Ok(())
    }
}
