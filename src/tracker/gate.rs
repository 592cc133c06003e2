//! The gate before all turns: closed while a write may be under way that its resource's turn does not show.
//!
//! A turn excludes other writes to a resource only as long as everybody calls the resource by one name. There are two
//! times at which that is not so. When a configuration is replaced by one under which resources have other names
//! (another rule for the query, another upstream), the writes under way hold turns under the old ones. And when a
//! process takes over from another, the other's turns are not in this one's tracker. So from that moment on nobody
//! begins a write until those have been settled, the hold after a write in doubt included; reads go on, and nothing
//! that they show is recorded under a new name if they began before the gate opened ([`Since`]).
//!
//! Every turn keeps a [`Pass`] until it is over. What a name is, and who gives it, is not known here: a generation of
//! names is a number.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{Broken, Busy, Tracker};
use crate::core::record::Stamp;

/// Lets writes through, or has them wait.
#[derive(Debug)]
pub struct Gate {
    tracker: Arc<Tracker>,
    state: Mutex<State>,
    opened: Notify,
}

#[derive(Debug)]
struct State {
    /// Of the names that writes are let through with.
    generation: u64,
    /// Passes that were given out and not given back.
    under_way: usize,
    /// Whether those are of older generations, and waited for.
    older: bool,
    /// Whether another process may let writes through.
    elsewhere: bool,
    /// The names that are new, to be told when the gate opens.
    fresh: Vec<Since>,
}

/// From when on what reads show is recorded under a name.
#[derive(Debug, Clone, Default)]
pub struct Since(Arc<AtomicU64>);

/// A turn's leave to be. Dropped, the turn is over.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    generation: u64,
}

impl Since {
    /// Not from any moment yet.
    #[must_use]
    pub fn pending() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// Whether what a read shows may be recorded that began at this moment.
    #[must_use]
    pub fn includes(&self, began: Stamp) -> bool {
        began.0 > self.0.load(Ordering::SeqCst)
    }
}

impl Gate {
    /// An open gate for the first generation, which is 0.
    #[must_use]
    pub fn new(tracker: Arc<Tracker>) -> Arc<Self> {
        let state = State { generation: 0, under_way: 0, older: false, elsewhere: false, fresh: Vec::new() };
        Arc::new(Self { tracker, state: Mutex::new(state), opened: Notify::new() })
    }

    /// Closes until [`Gate::has_alone`]: another process may let writes through.
    pub fn share(&self, fresh: impl IntoIterator<Item = Since>) {
        let mut state = self.state();
        state.elsewhere = true;
        state.fresh.extend(fresh);
    }

    /// No other process lets writes through any more, and what it let through has ended.
    pub fn has_alone(&self) {
        let mut state = self.state();
        state.elsewhere = false;
        self.open_if_over(&mut state);
    }

    /// From here on writes are let through with new names, once all that were let through before are over. Returns the
    /// new generation.
    pub fn rename(&self, fresh: impl IntoIterator<Item = Since>) -> u64 {
        let mut state = self.state();
        state.generation += 1;
        state.older = true;
        state.fresh.extend(fresh);
        if self.tracker.is_broken(Broken::EarlyNames) {
            self.tell(&mut state);
        }
        self.open_if_over(&mut state);
        state.generation
    }

    /// The generation of names that writes are let through with.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// How many turns are taken or held, waited for ones included.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.state().under_way
    }

    /// Waits until writes are let through, for `wait` at most.
    ///
    /// # Errors
    ///
    /// [`Busy::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is kept of a future that is dropped.
    pub async fn enter(self: &Arc<Self>, wait: Duration) -> Result<Pass, Busy> {
        if let Some(pass) = self.try_enter() {
            return Ok(pass);
        }
        let entered = async {
            loop {
                // Before the look at the state: an opening in between is not missed.
                let opened = self.opened.notified();
                if let Some(pass) = self.try_enter() {
                    return pass;
                }
                opened.await;
            }
        };
        timeout(wait, entered).await.map_err(|_| Busy::Closed)
    }

    fn try_enter(self: &Arc<Self>) -> Option<Pass> {
        let mut state = self.state();
        if (state.older || state.elsewhere) && !self.tracker.is_broken(Broken::OpenGate) {
            return None;
        }
        state.under_way += 1;
        Some(Pass { gate: Arc::clone(self), generation: state.generation })
    }

    fn open_if_over(&self, state: &mut State) {
        if state.elsewhere || state.under_way > 0 {
            return;
        }
        state.older = false;
        self.tell(state);
        self.opened.notify_waiters();
    }

    /// From here on what reads show is recorded. Under the lock, so that no write is let through before: the first change
    /// that it makes has a later stamp.
    fn tell(&self, state: &mut State) {
        let now = self.tracker.tick();
        for since in state.fresh.drain(..) {
            since.0.store(now.0, Ordering::SeqCst);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// The generation of names that its turn must be taken under.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.under_way -= 1;
        if state.older {
            self.gate.open_if_over(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;
    use crate::{
        core::{
            record::{Access, Outcome},
            resource::Key,
        },
        tracker::Ask,
    };

    const WAIT: Duration = Duration::from_secs(10);
    const HOLD: Duration = Duration::from_secs(5);

    struct Scene {
        tracker: Arc<Tracker>,
        gate: Arc<Gate>,
    }

    impl Scene {
        fn new() -> Self {
            let tracker = Arc::new(Tracker::new(100, 100));
            Self { gate: Gate::new(Arc::clone(&tracker)), tracker }
        }

        async fn turn(&self, cell: u64) -> super::super::Turn {
            let pass = self.gate.enter(WAIT).await.expect("an open gate");
            let key = Key { cell: [cell, cell], spelling: cell };
            let ask = Ask { key, access: Access::Guarded, caller: 0, wait: WAIT, line: 10, hold: HOLD };
            let mut turn = self.tracker.begin_write(ask).await.expect("a turn");
            turn.keep(pass);
            turn
        }

        fn is_open(&self) -> bool {
            self.gate.try_enter().is_some()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_names_wait_for_all_turns_under_old_ones() {
        let scene = Scene::new();
        let (mut settled, given_up) = (scene.turn(1).await, scene.turn(2).await);
        let since = Since::pending();
        let before = scene.tracker.stamp().await;
        assert_eq!(scene.gate.rename([since.clone()]), 1);
        assert!(!scene.is_open());
        assert!(!since.includes(before));

        settled.confirm().await.expect("a turn");
        settled.settle(Outcome::NotApplied).await;
        assert!(!scene.is_open());
        let during = scene.tracker.stamp().await;
        assert!(!since.includes(during));

        drop(given_up);
        assert!(scene.is_open());
        assert_eq!(scene.gate.enter(WAIT).await.expect("a pass").generation(), 1);
        assert!(!since.includes(before) && !since.includes(during));
        assert!(since.includes(scene.tracker.stamp().await));
    }

    #[tokio::test(start_paused = true)]
    async fn the_hold_after_a_write_in_doubt_is_waited_for() {
        let scene = Scene::new();
        let mut turn = scene.turn(1).await;
        turn.confirm().await.expect("a turn");
        scene.gate.rename([]);
        drop(turn);
        tokio::time::sleep(HOLD - Duration::from_millis(1)).await;
        assert!(!scene.is_open());
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(scene.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_through_at_the_opening_or_told_that_it_is_closed() {
        let scene = Scene::new();
        let turn = scene.turn(1).await;
        scene.gate.rename([]);
        assert_eq!(scene.gate.enter(WAIT).await.err(), Some(Busy::Closed));
        let (entered, ()) = tokio::join!(scene.gate.enter(WAIT), async {
            ready(()).await;
            drop(turn);
        });
        assert_eq!(entered.expect("a pass").generation(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_renaming_before_the_first_is_over_waits_for_the_same_turns() {
        let scene = Scene::new();
        let turn = scene.turn(1).await;
        let (first, second) = (Since::pending(), Since::pending());
        scene.gate.rename([first.clone()]);
        scene.gate.rename([second.clone()]);
        drop(turn);
        assert_eq!(scene.gate.enter(WAIT).await.expect("a pass").generation(), 2);
        let now = scene.tracker.stamp().await;
        assert!(first.includes(now) && second.includes(now));
    }

    #[tokio::test(start_paused = true)]
    async fn another_process_is_waited_for_whatever_is_renamed_meanwhile() {
        let scene = Scene::new();
        let since = Since::pending();
        scene.gate.share([since.clone()]);
        scene.gate.rename([]);
        assert!(!scene.is_open());
        assert!(!since.includes(scene.tracker.stamp().await));
        scene.gate.has_alone();
        assert!(scene.is_open());
        assert!(since.includes(scene.tracker.stamp().await));
    }

    #[tokio::test]
    async fn a_turn_that_the_end_of_its_runtime_cuts_short_opens_nothing() {
        let scene = Scene::new();
        let (gate, tracker) = (Arc::clone(&scene.gate), Arc::clone(&scene.tracker));
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut turn = Scene { gate, tracker }.turn(1).await;
                turn.confirm().await.expect("a turn");
                drop(turn);
            });
        });
        worker.join().expect("no panic");
        scene.gate.rename([]);
        assert!(!scene.is_open());
    }

    /// A worker's runtime ends with a write under way, as at a stop that is cut short, while other workers go on.
    #[tokio::test]
    async fn a_write_that_the_end_of_its_runtime_cuts_short_opens_nothing_and_lets_nobody_in() {
        let scene = Scene::new();
        let (gate, tracker) = (Arc::clone(&scene.gate), Arc::clone(&scene.tracker));
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut turn = Scene { gate, tracker }.turn(1).await;
                turn.confirm().await.expect("a turn");
                tokio::spawn(async move {
                    let _turn = turn;
                    std::future::pending::<()>().await;
                });
                tokio::task::yield_now().await;
            });
        });
        worker.join().expect("no panic");
        let key = Key { cell: [1, 1], spelling: 1 };
        let wait = Duration::from_millis(10);
        let ask = Ask { key, access: Access::Guarded, caller: 0, wait, line: 10, hold: HOLD };
        assert!(scene.tracker.begin_write(ask).await.is_err());
        scene.gate.rename([]);
        assert!(!scene.is_open());
    }
}
