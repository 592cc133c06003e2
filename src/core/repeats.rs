//! A route's rules for requests that come again, and for things that must not exist twice.

use std::time::Duration;

use super::pointer::{Pointer, Template};

/// So long an index of the backend's may lag behind what it has stored.
const LAG: Duration = Duration::from_secs(60);

/// What becomes of requests that come again. All of it is off by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeats {
    /// For how long the answer to a resource's last conditional PUT or DELETE is given again; `None`: never.
    pub replay: Option<Duration>,
    /// For how long the answer to a POST or PATCH with an `Idempotency-Key` is given again; `None`: the field means
    /// nothing here.
    pub idempotency: Option<Duration>,
    /// So many bytes of an answer's body are remembered for that.
    pub answer_bytes: usize,
    /// The places in a POST's body whose values must be new in the collection.
    pub unique: Vec<Pointer>,
    /// What the backend is asked before each creation.
    pub unique_lookup: Vec<Template>,
    /// Which of its answers means that the value is there.
    pub unique_found: Found,
    /// For how long the values of what was created are remembered; `None`: see [`Repeats::memory_of_values`].
    pub unique_memory: Option<Duration>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            replay: None,
            idempotency: None,
            answer_bytes: 64 * 1024,
            unique: Vec::new(),
            unique_lookup: Vec::new(),
            unique_found: Found::Json,
            unique_memory: None,
        }
    }
}

impl Repeats {
    /// Whether nothing is remembered by this route.
    #[must_use]
    pub fn are_off(&self) -> bool {
        self.replay.is_none() && self.idempotency.is_none() && self.unique.is_empty()
    }

    /// For how long a value is remembered; `None`: until there is no more room. Where the backend is asked for it anyhow, only
    /// for as long as what answers there may lag behind.
    #[must_use]
    pub fn memory_of_values(&self, are_asked_for: bool) -> Option<Duration> {
        self.unique_memory.or(are_asked_for.then_some(LAG))
    }

    /// The first lookup that names a place which need not be unique.
    #[must_use]
    pub fn stray(&self) -> Option<&Pointer> {
        self.unique_lookup.iter().flat_map(Template::pointers).find(|pointer| !self.unique.contains(pointer))
    }
}

/// Which answer to a lookup means that the value is there. 404 and 410 always mean that it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A 200 whose body is a JSON array or object that is not empty.
    Json,
    /// A 200 in whose body something is at this place: not `null`, `false`, zero or empty.
    At(Pointer),
    /// Any 200 or 204.
    Status,
}
