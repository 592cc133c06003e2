//! A route's way from watching to refusing: who is left out, and what is found out by watching.
//!
//! Nothing here makes a write safe or unsafe: an exempt client is only not *asked* for a precondition. One that it sends
//! is judged, and its writes take turns as everybody's.

use http::HeaderName;

use super::{
    fields::Fields,
    policy::{Missing, Mode, Policy},
    precondition::Demands,
    record::View,
    verdict::{Refusal, Verdict},
};

/// Who is not asked for a precondition, and whether clients are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollout {
    /// The clients whose writes need no precondition; one entry that fits is enough.
    pub exempt: Vec<Exempt>,
    /// Whether writes are counted by client, blind overwrites among them; `None`: see [`Policy::counts`].
    pub report: Option<bool>,
}

/// A kind of client. All that is said of it must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exempt {
    /// Where it is.
    pub network: Option<Network>,
    /// What it says of itself, which anybody can say.
    pub header: Option<(HeaderName, Pattern)>,
}

/// A range of addresses. An IPv4 address is one of IPv6 here, as RFC 4291 §2.5.5.2 maps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The first of them.
    pub first: u128,
    /// How many of its bits are the same in all; 128 at most.
    pub prefix: u8,
}

/// What a field's value must be; with `*` at the end, how it must begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub String);

/// What would have become of a write that is only observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreseen {
    /// It would have been forwarded.
    Forward,
    /// It would have been refused.
    Refuse(Refusal),
    /// The backend would have been asked, and nobody knows what it would have said.
    Unsure,
}

impl Network {
    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(self, address: u128) -> bool {
        let differ = self.first ^ address;
        differ.checked_shr(128 - u32::from(self.prefix.min(128))).unwrap_or(0) == 0
    }
}

impl Pattern {
    fn matches(&self, value: &[u8]) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => value.starts_with(beginning.as_bytes()),
            None => value == self.0.as_bytes(),
        }
    }
}

impl Exempt {
    fn fits(&self, address: u128, fields: &Fields) -> bool {
        self.network.is_none_or(|network| network.contains(address))
            && self
                .header
                .as_ref()
                .is_none_or(|(name, pattern)| fields.get_all(name).any(|value| pattern.matches(value.as_bytes())))
    }
}

impl Rollout {
    /// Whether a client at this address whose request has these fields is not asked for a precondition.
    #[must_use]
    pub fn exempts(&self, address: u128, fields: &Fields) -> bool {
        self.exempt.iter().any(|exempt| exempt.fits(address, fields))
    }
}

impl Mode {
    /// Whether a write is forwarded as it is, whatever is thought of it.
    #[must_use]
    pub fn only_observes(self) -> bool {
        match self {
            Self::Observe | Self::Warn => true,
            Self::Enforce | Self::Off => false,
        }
    }
}

impl Policy {
    /// Whether writes are counted by client: unless the file says otherwise, where somebody is on the way to refusing
    /// more than is refused now.
    #[must_use]
    pub fn counts(&self) -> bool {
        let is_underway = self.mode.only_observes() || self.missing == Missing::Warn;
        self.mode != Mode::Off && self.rollout.report.unwrap_or(is_underway)
    }
}

/// What would have become of a write by what is known on its arrival, and nothing else: nobody is asked. `judged` is the
/// verdict by that. A tag that is known to be superseded would have been found to be so, unless it came back.
#[must_use]
pub fn foresee(judged: Verdict, demands: &Demands, view: View<'_>) -> Foreseen {
    match judged {
        Verdict::Forward => Foreseen::Forward,
        Verdict::Refuse(why) => Foreseen::Refuse(why),
        Verdict::Probe if demands.if_match.as_ref().is_some_and(|tags| view.supersedes(tags)) => {
            Foreseen::Refuse(Refusal::Stale)
        }
        Verdict::Probe => Foreseen::Unsure,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            etag::EntityTag,
            policy::Verify,
            record::{Access, Outcome, Record, Source, Stamp},
            value::FieldValue,
            verdict::judge,
        },
        *,
    };

    const SOURCE: Source = Source { spelling: 0, caller: 0, now: 0 };

    const fn v4(bytes: [u8; 4]) -> u128 {
        0xffff_0000_0000 | u32::from_be_bytes(bytes) as u128
    }

    #[test]
    fn what_would_have_become_of_a_write() {
        let mut record = Record::default();
        for name in ["\"old\"", "\"new\""] {
            record.begin(Access::Guarded);
            let tag = EntityTag::parse(name.as_bytes()).expect("a tag");
            record.settle(Outcome::Committed(Some(tag)), Stamp(1), SOURCE);
            record.end();
        }
        let known = record.clone();
        record.change(Stamp(2));
        let stale = Foreseen::Refuse(Refusal::Stale);
        for (record, if_match, verify, expected) in [
            (&known, "\"new\"", Verify::Unknown, Foreseen::Forward),
            (&known, "\"old\"", Verify::Unknown, stale),
            (&known, "\"old\"", Verify::Always, stale),
            (&known, "\"x\"", Verify::Unknown, stale),
            (&known, "\"x\"", Verify::Mismatch, Foreseen::Unsure),
            (&known, "\"new\"", Verify::Always, Foreseen::Unsure),
            // Nothing is known to be current, but these are known not to be.
            (&record, "\"old\"", Verify::Unknown, stale),
            (&record, "\"old\", \"new\"", Verify::Unknown, stale),
            (&record, "\"old\", \"x\"", Verify::Unknown, Foreseen::Unsure),
            (&record, "*", Verify::Unknown, Foreseen::Unsure),
            (&record, "\"x\"", Verify::Never, Foreseen::Refuse(Refusal::Unverifiable)),
        ] {
            let mut fields = Fields::new();
            fields.insert(http::header::IF_MATCH, FieldValue::from_static(if_match));
            let demands = Demands::parse(&fields).expect("well-formed");
            let (policy, view) = (Policy { verify, ..Policy::default() }, record.view(SOURCE, None));
            let judged = judge(&policy, &demands, true, view, None);
            assert_eq!(foresee(judged, &demands, view), expected, "{if_match} {verify:?}");
        }
    }

    #[test]
    fn networks() {
        let ten = Network { first: v4([10, 0, 0, 0]), prefix: 96 + 8 };
        assert!(ten.contains(v4([10, 255, 0, 1])) && !ten.contains(v4([11, 0, 0, 1])) && !ten.contains(10 << 120));
        let one = Network { first: v4([10, 0, 0, 1]), prefix: 128 };
        assert!(one.contains(v4([10, 0, 0, 1])) && !one.contains(v4([10, 0, 0, 2])));
        let all = Network { first: 0, prefix: 0 };
        assert!(all.contains(u128::MAX) && all.contains(0));
        // All of IPv4, and nothing of IPv6.
        let old = Network { first: v4([0, 0, 0, 0]), prefix: 96 };
        assert!(old.contains(v4([255, 255, 255, 255])) && !old.contains(1));
    }

    #[test]
    fn clients() {
        let exempt = |network: Option<u8>, pattern: Option<&str>| Exempt {
            network: network.map(|last| Network { first: v4([10, 0, 0, last]), prefix: 128 }),
            header: pattern.map(|pattern| (http::header::USER_AGENT, Pattern(pattern.to_owned()))),
        };
        let mut fields = Fields::new();
        fields.append(http::header::USER_AGENT, FieldValue::from_static("curl/8"));
        fields.append(http::header::USER_AGENT, FieldValue::from_static("nightly-job/2"));
        for (network, pattern, expected) in [
            (Some(1), None, true),
            (Some(2), None, false),
            (None, Some("nightly-job*"), true),
            (None, Some("nightly-job"), false),
            (None, Some("nightly-job/2"), true),
            (None, Some("*"), true),
            (None, Some(""), false),
            (None, Some("night"), false),
            (Some(1), Some("curl*"), true),
            (Some(2), Some("curl*"), false),
            (Some(1), Some("wget*"), false),
        ] {
            let rollout = Rollout { exempt: vec![exempt(network, pattern)], report: None };
            assert_eq!(rollout.exempts(v4([10, 0, 0, 1]), &fields), expected, "{network:?} {pattern:?}");
        }
        let either = Rollout { exempt: vec![exempt(Some(2), None), exempt(None, Some("curl*"))], report: None };
        assert!(either.exempts(v4([10, 0, 0, 1]), &fields));
        assert!(!Rollout::default().exempts(v4([10, 0, 0, 1]), &fields));
        assert!(!either.exempts(v4([10, 0, 0, 1]), &Fields::new()));
    }

    #[test]
    fn who_is_counted() {
        for (mode, missing, report, expected) in [
            (Mode::Enforce, Missing::Allow, None, false),
            (Mode::Enforce, Missing::Require, None, false),
            (Mode::Enforce, Missing::Warn, None, true),
            (Mode::Enforce, Missing::Warn, Some(false), false),
            (Mode::Enforce, Missing::Allow, Some(true), true),
            (Mode::Observe, Missing::Allow, None, true),
            (Mode::Warn, Missing::Allow, None, true),
            (Mode::Warn, Missing::Require, Some(false), false),
            (Mode::Off, Missing::Warn, None, false),
            (Mode::Off, Missing::Allow, Some(true), false),
        ] {
            let rollout = Rollout { report, ..Rollout::default() };
            let policy = Policy { mode, missing, rollout, ..Policy::default() };
            assert_eq!(policy.counts(), expected, "{mode:?} {missing:?} {report:?}");
        }
    }
}
