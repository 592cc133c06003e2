//! Writes that are only observed: nobody judges them, they wait for nobody, and what is known stays true all the same.
//!
//! Such a write can't be kept from meeting another. What can be done is to let no guarded write begin beside it, to tell
//! the one that has the turn already ([`Record::disturb`]), and to record nothing that a read showed meanwhile.

use super::{Outcome, Record, Source, Stamp, UnderWay};

/// The writes under way that have no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Turnless {
    count: u32,
    /// There is only one, and no other write was under way at any moment since it began: its tag will be the newest.
    alone: bool,
}

impl Turnless {
    pub(super) fn is_nothing(self) -> bool {
        self.count == 0
    }

    /// A write begins beside them, or was found to have changed the resource.
    pub(super) fn meets_another(&mut self) {
        self.alone = false;
    }
}

impl Record {
    pub(super) fn begin_observed(&mut self) {
        let alone = self.is_idle();
        if !alone {
            self.disturb();
        }
        self.turnless = Turnless { count: self.turnless.count + 1, alone };
    }

    /// What was known to whoever has a turn is known no longer: another write comes between.
    pub(super) fn disturb(&mut self) {
        if let UnderWay::Guarded { disturbed } = &mut self.under_way {
            *disturbed = true;
        }
        self.turnless.meets_another();
    }

    /// As [`Record::settle`], for a write that is only observed.
    pub fn settle_observed(&mut self, outcome: Outcome, at: Stamp, source: Source) {
        self.settle_as(self.turnless.alone, outcome, at, source);
    }

    /// As [`Record::end`], for a write that is only observed.
    pub fn end_observed(&mut self) {
        self.turnless.count = self.turnless.count.saturating_sub(1);
    }

    /// How many writes are under way that are only observed.
    #[must_use]
    pub fn observed_writes(&self) -> u32 {
        self.turnless.count
    }
}
