//! A backend that answers by itself: an in-memory store that overwrites blindly, as the services do that need a gateway.
//!
//! It ignores every precondition, records every request that reached it, and can be told to fail ([`Fate`]). Each write
//! that it applies gives its resource a new version; tags are `"v1"`, `"v2"` and so on, over all resources.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::HeaderMap;
use tokio::task::AbortHandle;

use super::{Arrival, Script, outside};

/// The backend.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    serving: AbortHandle,
}

/// How it treats its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    pub(crate) tags: Tags,
    /// Whether the answer to a write carries the new tag.
    pub(crate) tag_in_answers: bool,
    pub(crate) head: HeadHabit,
    /// Which paths it takes for the same.
    pub(crate) folds: fn(&str) -> String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tags {
    Strong,
    Weak,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadHabit {
    AsGet,
    Status(u16),
    Untagged,
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is not applied, and answered so.
    Refused(u16),
    /// It is applied, and answered so all the same.
    AppliedBut(u16),
    AppliedThenReset,
    ResetUnapplied,
}

/// A request that reached the backend.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: HeaderMap,
    /// `None`: it broke off.
    pub(crate) body: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Inner {
    habits: Habits,
    resources: HashMap<String, Resource>,
    versions: u64,
    fates: VecDeque<Fate>,
    reached: Vec<Reached>,
}

#[derive(Debug)]
struct Resource {
    version: u64,
    body: Vec<u8>,
}

enum Reply {
    Answer { status: u16, tag: Option<String>, body: String },
    Reset,
}

impl Default for Habits {
    fn default() -> Self {
        Self { tags: Tags::Strong, tag_in_answers: true, head: HeadHabit::AsGet, folds: str::to_owned }
    }
}

impl Store {
    pub(crate) async fn start() -> Self {
        Self::with(Habits::default()).await
    }

    pub(crate) async fn with(habits: Habits) -> Self {
        let mut script = Script::start().await;
        let address = script.address;
        let inner = Arc::new(Mutex::new(Inner {
            habits,
            resources: HashMap::new(),
            versions: 0,
            fates: VecDeque::new(),
            reached: Vec::new(),
        }));
        let shared = Arc::clone(&inner);
        let serving = outside().spawn(async move {
            while let Some(arrival) = script.next_or_end().await {
                tokio::spawn(serve(arrival, Arc::clone(&shared)));
            }
        });
        Self { address, inner, serving: serving.abort_handle() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Writes behind the gateway's back. Returns the new tag.
    pub(crate) fn set(&self, path: &str, body: &str) -> String {
        let mut inner = self.inner();
        inner.apply(path, body.as_bytes().to_vec());
        inner.tag(path).unwrap_or_default()
    }

    /// Removes a resource behind the gateway's back.
    pub(crate) fn remove(&self, path: &str) {
        let mut inner = self.inner();
        let path = (inner.habits.folds)(path);
        inner.resources.remove(&path);
    }

    /// What becomes of the next write that has no fate yet.
    pub(crate) fn next_write(&self, fate: Fate) {
        self.inner().fates.push_back(fate);
    }

    /// The tag of what is stored now.
    pub(crate) fn tag(&self, path: &str) -> String {
        self.inner().tag(path).expect("a stored resource, and tags")
    }

    /// What is stored now.
    pub(crate) fn body(&self, path: &str) -> Option<String> {
        let inner = self.inner();
        let path = (inner.habits.folds)(path);
        inner.resources.get(&path).map(|resource| String::from_utf8_lossy(&resource.body).into_owned())
    }

    /// All requests that reached it, in order.
    pub(crate) fn reached(&self) -> Vec<Reached> {
        self.inner().reached.clone()
    }

    /// How many of them had this method.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.inner().reached.iter().filter(|reached| reached.method == method).count()
    }

    /// How many of them were the gateway's or a client's HEAD or GET.
    pub(crate) fn reads(&self) -> usize {
        self.count("GET") + self.count("HEAD")
    }

    /// How many of them were neither.
    pub(crate) fn writes(&self) -> usize {
        self.inner().reached.iter().filter(|reached| !["GET", "HEAD"].contains(&reached.method.as_str())).count()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut arrival: Arrival, inner: Arc<Mutex<Inner>>) {
    let body = arrival.read().await.ok();
    let reply = lock(&inner).handle(&arrival, body);
    match reply {
        Reply::Answer { status, tag, body } => {
            let tag = tag.as_deref().map(|tag| ("ETag", tag));
            let fields: Vec<_> = tag.into_iter().chain([("Content-Type", "text/plain")]).collect();
            arrival.answer(status, &fields, &body).await;
        }
        Reply::Reset => arrival.reset(),
    }
}

impl Inner {
    fn handle(&mut self, arrival: &Arrival, body: Option<Vec<u8>>) -> Reply {
        self.reached.push(Reached {
            method: arrival.method.clone(),
            target: arrival.target.clone(),
            fields: arrival.fields.clone(),
            body: body.clone(),
        });
        // What is not whole is not applied.
        let Some(body) = body else { return Reply::Reset };
        let overrides = ["x-http-method-override", "x-http-method", "x-method-override"];
        let meant = overrides.iter().find_map(|name| arrival.field(name)).unwrap_or(&arrival.method);
        match meant {
            "GET" | "HEAD" => self.read(&arrival.method, &arrival.target),
            _ => self.write(meant, &arrival.target, body),
        }
    }

    fn read(&self, method: &str, target: &str) -> Reply {
        let folded = (self.habits.folds)(target);
        let (mut status, mut tag, mut body) = (404, None, "nothing here".to_owned());
        if let Some(resource) = self.resources.get(&folded) {
            (status, tag, body) = (200, self.tag(target), String::from_utf8_lossy(&resource.body).into_owned());
        }
        if method == "HEAD" {
            match self.habits.head {
                HeadHabit::AsGet => {}
                HeadHabit::Untagged => tag = None,
                HeadHabit::Status(instead) => (status, tag) = (instead, None),
            }
        }
        Reply::Answer { status, tag, body }
    }

    fn write(&mut self, method: &str, target: &str, body: Vec<u8>) -> Reply {
        let instead = match self.fates.pop_front() {
            Some(Fate::Refused(status)) => {
                return Reply::Answer { status, tag: None, body: "as told".to_owned() };
            }
            Some(Fate::ResetUnapplied) => return Reply::Reset,
            Some(Fate::AppliedThenReset) => None,
            Some(Fate::AppliedBut(status)) => Some(status),
            None => Some(0),
        };
        let existed = self.resources.contains_key(&(self.habits.folds)(target));
        let status = match (method, existed) {
            ("DELETE", false) => 404,
            ("DELETE", true) => {
                self.resources.remove(&(self.habits.folds)(target));
                204
            }
            (_, existed) => {
                self.apply(target, body);
                if existed { 200 } else { 201 }
            }
        };
        match instead {
            None => Reply::Reset,
            Some(instead) => {
                let status = if instead == 0 { status } else { instead };
                let tag = self.tag(target).filter(|_| self.habits.tag_in_answers && status < 300);
                Reply::Answer { status, tag, body: String::new() }
            }
        }
    }

    fn apply(&mut self, target: &str, body: Vec<u8>) {
        self.versions += 1;
        let resource = Resource { version: self.versions, body };
        self.resources.insert((self.habits.folds)(target), resource);
    }

    fn tag(&self, target: &str) -> Option<String> {
        let version = self.resources.get(&(self.habits.folds)(target))?.version;
        match self.habits.tags {
            Tags::Strong => Some(format!("\"v{version}\"")),
            Tags::Weak => Some(format!("W/\"v{version}\"")),
            Tags::None => None,
        }
    }
}
