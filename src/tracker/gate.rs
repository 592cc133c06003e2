//! The gate before all turns: closed while a write may be under way that its resource's turn does not show.
//!
//! A turn excludes other writes to a resource only as long as everybody calls the resource by one name. There are two
//! times at which that is not so. When a configuration is replaced by one under which resources have other names
//! (another rule for the query, another upstream), the writes under way hold turns under the old ones. And when a
//! process takes over from another, the other's turns are not in this one's tracker. So from that moment on nobody
//! begins a write under a new name until those have been settled, the hold after a write in doubt included; reads go
//! on, and nothing that they show is recorded under a new name if they began before the gate opened ([`Since`]). What
//! keeps its name does not wait: there the turn says enough.
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
    /// A copy of the state's, for those who only look. Whoever has a pass and finds it unchanged was counted by whoever
    /// changes it after that.
    generation: AtomicU64,
    opened: Notify,
}

#[derive(Debug)]
struct State {
    /// Of the names that writes are let through with.
    generation: u64,
    /// Passes of this generation that were given out and not given back.
    current: usize,
    /// The same of older generations.
    older: usize,
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

    fn is_pending(&self) -> bool {
        self.0.load(Ordering::SeqCst) == u64::MAX
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
        let state = State { generation: 0, current: 0, older: 0, elsewhere: false, fresh: Vec::new() };
        Arc::new(Self { tracker, state: Mutex::new(state), generation: AtomicU64::new(0), opened: Notify::new() })
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

    /// From here on writes are let through with new names: with those that are `fresh` once all that were let through
    /// before are over, with the others at once. Returns the new generation.
    pub fn rename(&self, fresh: impl IntoIterator<Item = Since>) -> u64 {
        let mut state = self.state();
        state.generation += 1;
        self.generation.store(state.generation, Ordering::SeqCst);
        state.older += std::mem::take(&mut state.current);
        state.fresh.extend(fresh);
        self.open_if_over(&mut state);
        state.generation
    }

    /// The generation of names that writes are let through with.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// How many turns are taken or held, waited for ones included.
    #[must_use]
    pub fn under_way(&self) -> usize {
        let state = self.state();
        state.current + state.older
    }

    /// Whether nobody has to wait.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let state = self.state();
        !state.elsewhere && state.fresh.is_empty()
    }

    /// Waits until writes to what is named since then are let through, for `wait` at most.
    ///
    /// # Errors
    ///
    /// [`Busy::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is kept of a future that is dropped.
    pub async fn enter(self: &Arc<Self>, named: &Since, wait: Duration) -> Result<Pass, Busy> {
        if let Some(pass) = self.try_enter(named) {
            return Ok(pass);
        }
        let entered = async {
            loop {
                // Before the look at the state: an opening in between is not missed.
                let opened = self.opened.notified();
                if let Some(pass) = self.try_enter(named) {
                    return pass;
                }
                opened.await;
            }
        };
        timeout(wait, entered).await.map_err(|_| Busy::Closed)
    }

    /// A pass for a write that waits for nobody, whether or not the gate is open: those under the names to come after these
    /// wait for it.
    pub fn enter_at_once(self: &Arc<Self>) -> Pass {
        let mut state = self.state();
        state.current += 1;
        Pass { gate: Arc::clone(self), generation: state.generation }
    }

    fn try_enter(self: &Arc<Self>, named: &Since) -> Option<Pass> {
        let mut state = self.state();
        // Under the lock, under which the gate opens.
        if named.is_pending() && !self.tracker.is_broken(Broken::OpenGate) {
            return None;
        }
        state.current += 1;
        Some(Pass { gate: Arc::clone(self), generation: state.generation })
    }

    fn open_if_over(&self, state: &mut State) {
        if state.elsewhere || state.older > 0 || state.fresh.is_empty() {
            return;
        }
        // Under the lock, so that no write is let through before: the first change that it makes has a later stamp.
        let now = self.tracker.tick();
        for since in state.fresh.drain(..) {
            since.0.store(now.0, Ordering::SeqCst);
        }
        self.opened.notify_waiters();
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
        if self.generation == state.generation {
            state.current -= 1;
        } else {
            state.older -= 1;
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
        /// Since when what its turns are for has its name.
        named: Since,
    }

    impl Scene {
        fn new() -> Self {
            let tracker = Arc::new(Tracker::new(100, 100));
            Self { gate: Gate::new(Arc::clone(&tracker)), tracker, named: Since::default() }
        }

        async fn turn(&self, cell: u64) -> super::super::Turn {
            let pass = self.gate.enter(&self.named, WAIT).await.expect("an open gate");
            let key = Key { cell: [cell, cell], spelling: cell };
            let ask = Ask { key, access: Access::Guarded, caller: 0, wait: WAIT, line: 10, hold: HOLD };
            let mut turn = self.tracker.begin_write(ask).await.expect("a turn");
            turn.keep(pass);
            turn
        }

        /// Whether what has this name is let through.
        fn lets_in(&self, named: &Since) -> bool {
            self.gate.try_enter(named).is_some()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_names_wait_for_all_turns_under_old_ones() {
        let scene = Scene::new();
        let (mut settled, given_up) = (scene.turn(1).await, scene.turn(2).await);
        let since = Since::pending();
        let before = scene.tracker.stamp().await;
        assert_eq!(scene.gate.rename([since.clone()]), 1);
        assert!(!scene.lets_in(&since) && scene.lets_in(&scene.named));
        assert!(!since.includes(before));

        settled.confirm().await.expect("a turn");
        settled.settle(Outcome::NotApplied).await;
        assert!(!scene.lets_in(&since));
        let during = scene.tracker.stamp().await;
        assert!(!since.includes(during));

        drop(given_up);
        assert!(scene.lets_in(&since));
        assert_eq!(scene.gate.enter(&since, WAIT).await.expect("a pass").generation(), 1);
        assert!(!since.includes(before) && !since.includes(during));
        assert!(since.includes(scene.tracker.stamp().await));
    }

    #[tokio::test(start_paused = true)]
    async fn the_hold_after_a_write_in_doubt_is_waited_for() {
        let scene = Scene::new();
        let mut turn = scene.turn(1).await;
        turn.confirm().await.expect("a turn");
        let since = Since::pending();
        scene.gate.rename([since.clone()]);
        drop(turn);
        tokio::time::sleep(HOLD - Duration::from_millis(1)).await;
        assert!(!scene.lets_in(&since));
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(scene.lets_in(&since));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_through_at_the_opening_or_told_that_it_is_closed() {
        let scene = Scene::new();
        let turn = scene.turn(1).await;
        let since = Since::pending();
        scene.gate.rename([since.clone()]);
        assert_eq!(scene.gate.enter(&since, WAIT).await.err(), Some(Busy::Closed));
        let (entered, ()) = tokio::join!(scene.gate.enter(&since, WAIT), async {
            ready(()).await;
            drop(turn);
        });
        assert_eq!(entered.expect("a pass").generation(), 1);
    }

    /// A long upload to what keeps its name, and those that began after the change, are nothing to wait for.
    #[tokio::test(start_paused = true)]
    async fn what_began_after_the_change_is_not_waited_for() {
        let scene = Scene::new();
        let before = scene.turn(1).await;
        let since = Since::pending();
        scene.gate.rename([since.clone()]);
        let after = scene.turn(2).await;
        drop(before);
        assert!(scene.lets_in(&since));
        assert_eq!(scene.gate.under_way(), 1);
        drop(after);
        assert_eq!(scene.gate.under_way(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_renaming_before_the_first_is_over_waits_for_the_same_turns() {
        let scene = Scene::new();
        let turn = scene.turn(1).await;
        let (first, second) = (Since::pending(), Since::pending());
        scene.gate.rename([first.clone()]);
        scene.gate.rename([second.clone()]);
        drop(turn);
        assert_eq!(scene.gate.enter(&first, WAIT).await.expect("a pass").generation(), 2);
        let now = scene.tracker.stamp().await;
        assert!(first.includes(now) && second.includes(now));
    }

    #[tokio::test(start_paused = true)]
    async fn another_process_is_waited_for_whatever_is_renamed_meanwhile() {
        let scene = Scene::new();
        let since = Since::pending();
        scene.gate.share([since.clone()]);
        scene.gate.rename([]);
        assert!(!scene.lets_in(&since));
        assert!(!since.includes(scene.tracker.stamp().await));
        scene.gate.has_alone();
        assert!(scene.lets_in(&since));
        assert!(since.includes(scene.tracker.stamp().await));
    }

    #[tokio::test]
    async fn a_turn_that_the_end_of_its_runtime_cuts_short_opens_nothing() {
        let scene = Scene::new();
        let (gate, tracker) = (Arc::clone(&scene.gate), Arc::clone(&scene.tracker));
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut turn = Scene { gate, tracker, named: Since::default() }.turn(1).await;
                turn.confirm().await.expect("a turn");
                drop(turn);
            });
        });
        worker.join().expect("no panic");
        let since = Since::pending();
        scene.gate.rename([since.clone()]);
        assert!(!scene.lets_in(&since));
    }

    /// A worker's runtime ends with a write under way, as at a stop that is cut short, while other workers go on.
    #[tokio::test]
    async fn a_write_that_the_end_of_its_runtime_cuts_short_opens_nothing_and_lets_nobody_in() {
        let scene = Scene::new();
        let (gate, tracker, named) = (Arc::clone(&scene.gate), Arc::clone(&scene.tracker), scene.named.clone());
        let worker = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut turn = Scene { gate, tracker, named }.turn(1).await;
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
        let since = Since::pending();
        scene.gate.rename([since.clone()]);
        assert!(!scene.lets_in(&since));
    }
}
