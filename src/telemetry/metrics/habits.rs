//! What the services behind routes do that speaks against the routes' rules, as it is counted, and whether an operator has
//! been told.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::RouteLabels;

/// So many weak tags, and no strong one, are worth a warning. Some servers show a weak one for a moment after a change.
const WEAK: u32 = 8;
/// So many tags that came back are worth one. A single one may come from a server that lags behind.
const FLIPS: u64 = 3;

#[derive(Debug, Clone, Default)]
pub(super) struct Families {
    only_weak: Family<RouteLabels, Gauge>,
    flips: Family<RouteLabels, Counter>,
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Whether only weak tags are shown where they are compared strongly";
        registry.register("only_weak_tags", help, self.only_weak.clone());
        let help = "Superseded tags that came back with another caller's read";
        registry.register("tag_flips", help, self.flips.clone());
    }
}

/// What one route's service does. The same for all workers.
#[derive(Debug)]
pub struct Habits {
    /// Whether a strong tag was ever shown.
    strong: AtomicBool,
    /// How many weak ones were, as far as it matters.
    weak: AtomicU32,
    told_of_weak: AtomicBool,
    told_of_flips: AtomicBool,
    only_weak: Gauge,
    flips: Counter,
}

impl Habits {
    pub(super) fn new(families: &Families, route: &Arc<str>) -> Self {
        let labels = RouteLabels { route: Arc::clone(route) };
        Self {
            strong: AtomicBool::new(false),
            weak: AtomicU32::new(0),
            told_of_weak: AtomicBool::new(false),
            told_of_flips: AtomicBool::new(false),
            only_weak: families.only_weak.get_or_create_owned(&labels),
            flips: families.flips.get_or_create_owned(&labels),
        }
    }

    /// A strong tag was shown.
    pub fn shows_strong(&self) {
        if !self.strong.load(Relaxed) {
            self.strong.store(true, Relaxed);
            self.only_weak.set(0);
        }
    }

    /// A weak tag was shown. Returns whether it is time to tell of it, which it is once.
    pub fn shows_weak(&self, compares_strongly: bool) -> bool {
        if !compares_strongly {
            if self.told_of_weak.load(Relaxed) {
                self.only_weak.set(0);
            }
            return false;
        }
        if self.strong.load(Relaxed) || self.told_of_weak.load(Relaxed) {
            return false;
        }
        self.weak.fetch_add(1, Relaxed) + 1 >= WEAK && self.tell_of_weak()
    }

    /// Whether there were tags, and only weak ones.
    #[must_use]
    pub fn shows_only_weak(&self) -> bool {
        self.weak.load(Relaxed) > 0 && !self.strong.load(Relaxed)
    }

    /// Whether nobody has been told yet that there are only weak ones. From here on somebody has.
    pub fn tell_of_weak(&self) -> bool {
        self.only_weak.set(1);
        !self.told_of_weak.swap(true, Relaxed)
    }

    /// A superseded tag came back with another caller's read. Returns whether it is time to tell of it, which it is once.
    pub fn flips(&self) -> bool {
        self.flips.inc();
        self.differ_by_caller() && !self.told_of_flips.swap(true, Relaxed)
    }

    /// Whether that has come often enough to mean something.
    #[must_use]
    pub fn differ_by_caller(&self) -> bool {
        self.flips.get() >= FLIPS
    }
}
