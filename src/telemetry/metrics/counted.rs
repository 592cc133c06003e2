//! What is counted by client ([`Report`]), as its sums are told: looked at when somebody asks.

use std::sync::{Arc, atomic::Ordering};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::telemetry::report::{Count, Report};

/// How it is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Families {
    writes: Family<WriteLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    overwrites: Family<OverwriteLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    route: Arc<str>,
    precondition: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    route: Arc<str>,
    why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OverwriteLabels {
    route: Arc<str>,
    seen: &'static str,
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Guarded writes where they are counted by client, with a precondition or without";
        registry.register("report_writes", help, self.writes.clone());
        let help = "Those of them that were refused, or would be by a route that enforces";
        registry.register("report_refusals", help, self.refusals.clone());
        let help = "Those without a precondition that were applied, by what their client had seen";
        registry.register("report_overwrites", help, self.overwrites.clone());
    }

    pub(super) fn set(&self, report: &Report) {
        for (route, counts) in report.sums() {
            let set = |counter: Counter, what| counter.inner().store(counts.of(what), Ordering::Relaxed);
            for (precondition, what) in
                [("given", Count::Conditional), ("missing", Count::Unconditional), ("exempt", Count::Exempt)]
            {
                let labels = WriteLabels { route: Arc::clone(&route), precondition };
                set(self.writes.get_or_create_owned(&labels), what);
            }
            for what in Count::REFUSALS.into_iter().chain([Count::Unsure, Count::Overlapping]) {
                let labels = RefusalLabels { route: Arc::clone(&route), why: what.as_str() };
                set(self.refusals.get_or_create_owned(&labels), what);
            }
            for (seen, what) in [("older", Count::Blind), ("nothing", Count::Unread)] {
                let labels = OverwriteLabels { route: Arc::clone(&route), seen };
                set(self.overwrites.get_or_create_owned(&labels), what);
            }
        }
    }
}
