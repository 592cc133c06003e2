//! Reads that have no version although the route makes one, by why.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

/// Why an answer to a read has no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Untagged {
    /// Its body is longer than is looked at.
    TooLong,
    /// Its body came for longer than is waited for.
    TooSlow,
    /// It is encoded, although it was asked for as it is.
    Encoded,
    /// It does not say what the version is.
    NoVersion,
}

impl Untagged {
    pub(super) const ALL: [Self; 4] = [Self::TooLong, Self::TooSlow, Self::Encoded, Self::NoVersion];

    fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::TooSlow => "too_slow",
            Self::Encoded => "encoded",
            Self::NoVersion => "no_version",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    route: Arc<str>,
    why: &'static str,
}

/// The counters of one route.
pub(super) fn counters(family: &Family<Labels, Counter>, route: &Arc<str>) -> [Counter; Untagged::ALL.len()] {
    Untagged::ALL.map(|why| family.get_or_create_owned(&Labels { route: Arc::clone(route), why: why.as_str() }))
}
