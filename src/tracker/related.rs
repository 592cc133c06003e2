//! A write that changes other resources, too: the turns of all of them, taken in one order.
//!
//! The write's own turn is the one that it asks for. Those of the others are shared ([`Access::Unguarded`]): nobody may be
//! judged there while the write can change the resource underneath, but it demands nothing of them, so two writes that
//! change one resource beside their own need not wait for each other.
//!
//! The order is that of the cells, whoever's turn it is. So whoever waits for a turn holds none behind it: of all that are
//! waited for, the last in that order is held by somebody who waits for nothing, and no two writers wait for each other.
//! A line in order of arrival changes nothing about that, since who stands in front waits for the same turn.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Ask, Broken, Busy, Tracker, Turn};
use crate::{
    clock,
    core::{
        record::{Access, Outcome},
        resource::Key,
    },
};

impl Tracker {
    /// As [`Tracker::begin_write`], with a share in the turns of these other resources, which the write changes, too. They
    /// go with the turn: each ends as it does. `wait` is for all of them together, `line` for each.
    ///
    /// # Errors
    ///
    /// [`Busy`], after which the caller has no turn and is in no line.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped leaves the line that it stands in, and gives back the turns that it has.
    pub async fn begin_write_beside(self: &Arc<Self>, ask: Ask, related: &[Key]) -> Result<Turn, Busy> {
        let since = clock::now();
        let (mut own, mut shared) = (None, Vec::new());
        for asked in self.in_order(ask, related) {
            let wait = ask.wait.saturating_sub(clock::since(since));
            let turn = self.begin_write(Ask { wait, ..asked }).await?;
            if asked.key == ask.key {
                own = Some(turn);
            } else {
                shared.push(turn);
            }
        }
        let mut own = own.expect("it is among them");
        own.0.shared = shared;
        Ok(own)
    }

    /// What to ask for, and in which order. Where several have one cell there is one turn, and it is the write's own if that
    /// is among them.
    fn in_order(&self, ask: Ask, related: &[Key]) -> Vec<Ask> {
        if self.is_broken(Broken::NoSharedTurns) {
            return vec![ask];
        }
        let access = match ask.access {
            Access::Guarded | Access::Unguarded => Access::Unguarded,
            // It waits for nobody, there neither.
            Access::Observed => Access::Observed,
        };
        let shared = |key: &Key| Ask { key: *key, access, ..ask };
        let others = related.iter().filter(|key| key.cell != ask.key.cell).map(shared);
        let mut asks: Vec<Ask> = [ask].into_iter().chain(others).collect();
        if !self.is_broken(Broken::NoOrder) {
            asks.sort_by_key(|ask| ask.key.cell);
        }
        asks.dedup_by_key(|ask| ask.key.cell);
        asks
    }

    /// Ends a share in the turn of a resource that a write changed beside its own, which ended so.
    pub(super) fn release_shared(&self, ask: &Ask, outcome: &Outcome, since: Instant) {
        self.change_if_there(ask.key, |slot| {
            if !self.is_broken(Broken::RelatedUnchanged) {
                slot.record.settle_beside(outcome, self.tick());
            }
            slot.pass_on_from(ask.access);
        });
        if ask.access != Access::Observed {
            self.watcher.ended(clock::since(since));
        }
    }
}
