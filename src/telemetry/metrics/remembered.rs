//! What is remembered of requests that may come again, as it is counted: looked at when somebody asks.

use std::sync::atomic::Ordering;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::signed;
use crate::memory;

/// What is remembered of requests that may come again.
#[derive(Debug, Clone, Copy)]
pub struct Remembered {
    /// By kind.
    pub usage: [memory::Usage; memory::Kind::ALL.len()],
    /// What there may be.
    pub capacity: memory::Capacity,
    /// What is under way and may not be done twice at once.
    pub under_way: usize,
}

/// How it is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Families {
    entries: Family<KindLabels, Gauge>,
    bytes: Family<KindLabels, Gauge>,
    evictions: Family<KindLabels, Counter>,
    answers: Family<KindLabels, Counter>,
    entries_capacity: Gauge,
    bytes_capacity: Gauge,
    under_way: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Answers and values that are remembered now";
        registry.register("memory_entries", help, self.entries.clone());
        let help = "Answers and values that can be remembered";
        registry.register("memory_entries_capacity", help, self.entries_capacity.clone());
        registry.register_with_unit("memory", "What they take", Unit::Bytes, self.bytes.clone());
        let help = "What they may take";
        registry.register_with_unit("memory_capacity", help, Unit::Bytes, self.bytes_capacity.clone());
        registry.register("memory_evictions", "Those dropped to make room", self.evictions.clone());
        let help = "Requests that were answered by what is remembered, refusals included";
        registry.register("memory_answers", help, self.answers.clone());
        let help = "Keys and values of requests that are under way now";
        registry.register("memory_claims", help, self.under_way.clone());
    }

    pub(super) fn set(&self, remembered: &Remembered) {
        for usage in &remembered.usage {
            let labels = KindLabels { kind: usage.kind.as_str() };
            self.entries.get_or_create(&labels).set(signed(usage.entries));
            self.bytes.get_or_create(&labels).set(signed(usage.bytes));
            self.evictions.get_or_create(&labels).inner().store(usage.evictions, Ordering::Relaxed);
            self.answers.get_or_create(&labels).inner().store(usage.answers, Ordering::Relaxed);
        }
        self.entries_capacity.set(signed(remembered.capacity.entries));
        self.bytes_capacity.set(signed(remembered.capacity.bytes));
        self.under_way.set(signed(remembered.under_way));
    }
}
