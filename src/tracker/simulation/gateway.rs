//! The gateway's steps around the tracker and the verdict, without HTTP.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Event, WAY, World, backend::Fate, clients::Write};
use crate::{
    core::{
        record::{Access, Outcome, Probed, View},
        verdict::{Probe, Refusal, Verdict, judge},
    },
    tracker::{Ask, Broken, Busy, Turn},
};

/// How far a write has come. Dropped before it is over, the client has hung up there.
struct Progress {
    world: Arc<World>,
    stage: Option<Event>,
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(stage) = self.stage {
            self.world.count(stage);
        }
    }
}

/// The write was not forwarded, or the client does not know what became of it.
pub(super) struct Failed;

impl World {
    pub(super) async fn write(self: &Arc<Self>, write: Write) -> Result<(), Failed> {
        let mut progress = Progress { world: Arc::clone(self), stage: None };
        let result = self.judged_and_forwarded(write, &mut progress).await;
        progress.stage = None;
        result
    }

    async fn judged_and_forwarded(self: &Arc<Self>, mut write: Write, progress: &mut Progress) -> Result<(), Failed> {
        let guarded = write.access() == Access::Guarded;
        let mut turn = loop {
            write.name = self.name(write.target);
            write.related_name = write.related.map(|related| self.name(related));
            write.names_beside = write.beside.iter().map(|beside| self.name(*beside)).collect();
            if guarded {
                let judged = |view: View<'_>| self.judge(&write, view, None);
                if let Some(Verdict::Refuse(refusal)) =
                    self.tracker.known(write.name.key, write.caller, self.policy.max_age, judged).await
                {
                    return Err(self.refuse(&write, refusal));
                }
                sleep(self.up_to(10)).await; // The body comes.
            }
            progress.stage = Some(Event::HungUpInLine);
            let mut turn = match self.take_turn(&write).await {
                Ok(turn) => turn,
                Err(Busy::Renamed) => {
                    self.count(Event::Renamed);
                    continue;
                }
                Err(Busy::LineFull | Busy::TimedOut | Busy::Closed) => {
                    self.count(Event::Busy);
                    return Err(Failed);
                }
            };
            progress.stage = Some(Event::HungUpProbing);
            if guarded && let Err(refusal) = self.judge_in_turn(&mut turn, &write).await {
                return Err(self.refuse(&write, refusal));
            }
            if !guarded || !self.is_renamed(&write) || self.broken == Some(Broken::OldVerdict) {
                break turn;
            }
            self.count(Event::RenamedInTurn);
        };
        turn.confirm().await.expect("a turn in this process is not lost");
        progress.stage = Some(Event::HungUpInFlight);
        write.reported = self.backend().resources[write.target.resource].reported;
        self.forward(turn, write).await
    }

    async fn take_turn(&self, write: &Write) -> Result<Turn, Busy> {
        self.enter_beside(write).await?;
        let pass = self.gate.enter(&write.name.since, self.policy.wait).await?;
        if pass.generation() != write.name.generation {
            return Err(Busy::Renamed);
        }
        let mut turn = self.tracker.begin_write_beside(self.ask(write), &write.keys_beside()).await?;
        turn.keep(pass);
        Ok(turn)
    }

    /// Whether there are newer names than those that the write is judged by.
    fn is_renamed(&self, write: &Write) -> bool {
        self.gate.generation() > write.name.generation
    }

    fn ask(&self, write: &Write) -> Ask {
        Ask {
            key: write.name.key,
            access: write.access(),
            caller: write.caller,
            wait: self.policy.wait,
            line: self.policy.line,
            hold: self.policy.settle,
        }
    }

    fn judge(&self, write: &Write, view: View<'_>, probe: Option<Probe>) -> Verdict {
        // What is known under an old name decides nothing any more.
        if !self.is_renamed(write) || self.broken == Some(Broken::OldVerdict) {
            self.backend().check_knowledge(write.target, view);
        }
        judge(&self.policy, &write.demands, write.guarded_method, view, probe)
    }

    async fn judge_in_turn(&self, turn: &mut Turn, write: &Write) -> Result<(), Refusal> {
        let mut verdict = turn.known(self.policy.max_age, |view| self.judge(write, view, None)).await;
        if verdict == Verdict::Probe {
            self.count(Event::Probed);
            let probe = self.probe(turn, write).await?;
            verdict = turn.known(None, |view| self.judge(write, view, Some(probe))).await;
        } else if verdict == Verdict::Forward && !write.demands.is_empty() {
            self.count(Event::FromMemory);
        }
        match verdict {
            Verdict::Forward => Ok(()),
            Verdict::Refuse(refusal) => Err(refusal),
            Verdict::Probe => panic!("there was a probe"),
        }
    }

    async fn probe(&self, turn: &mut Turn, write: &Write) -> Result<Probe, Refusal> {
        self.way().await;
        let held = self.backend().resources[write.target.resource].held(write.variant);
        self.way().await;
        if self.one_in(20) {
            return Err(Refusal::Unverifiable);
        }
        let probe = Probe { exists: held.is_some(), last_modified: None };
        let probed = match held {
            None => Probed::Absent,
            Some(_) if self.one_in(20) => Probed::Untagged,
            Some(held) => Probed::Tag(held.tag),
        };
        self.tell(|| format!("{:?} is {probed:?} to a probe", write.target));
        if turn.learn(probed).await { Ok(probe) } else { Err(Refusal::Unverifiable) }
    }

    fn refuse(&self, write: &Write, refusal: Refusal) -> Failed {
        self.tell(|| format!("refused, {refusal:?}: {write:?}"));
        match refusal {
            Refusal::Stale if self.backend().would_hold(write) => self.count(Event::FalselyStale),
            Refusal::Stale => self.count(Event::Stale),
            Refusal::Exists => self.count(Event::Exists),
            Refusal::Unverifiable => self.count(Event::Unverifiable),
            Refusal::MissingPrecondition => {}
        }
        Failed
    }

    /// The write goes its way in a task of its own, which has the turn; the client waits for it.
    async fn forward(self: &Arc<Self>, turn: Turn, write: Write) -> Result<(), Failed> {
        let fate = if write.related.is_some() { Fate::Answered } else { self.a_fate() };
        self.tell(|| format!("forwarded, to be {fate:?}: {write:?}"));
        self.backend().arrive(&write);
        let (answer, answered) = oneshot::channel();
        tokio::spawn(Arc::clone(self).process(write.clone(), fate, answer));
        let patience = if fate == Fate::GivenUp { self.up_to(WAY) } else { Duration::MAX };
        let sending = tokio::spawn(Arc::clone(self).settle(turn, write, timeout(patience, answered)));
        let mut waiting = Waiting { sending, abandons: self.broken == Some(Broken::TurnEndsWithClient) };
        (&mut waiting.sending).await.expect("only who hangs up ends the task").then_some(()).ok_or(Failed)
    }

    /// Waits for the answer, and says whether it was a good one.
    async fn settle(self: Arc<Self>, turn: Turn, write: Write, answered: impl Future<Output = Answered>) -> bool {
        let answered = answered.await;
        self.tell_of_those_without_a_turn(&write).await;
        let Ok(Ok(Some(outcome))) = answered else {
            self.count(Event::InDoubt);
            self.tell(|| format!("in doubt, and held: {write:?}"));
            drop(turn);
            return false;
        };
        if outcome == Outcome::InDoubt {
            self.count(Event::InDoubt);
        }
        if let Some((related, name)) = write.related.zip(write.related_name.clone()) {
            self.tracker.change(name.key).await;
            self.backend().resources[related.resource].reported += 1;
            self.tell(|| format!("{related:?} is known to have changed"));
        }
        self.tell(|| format!("settled, {outcome:?}: {write:?}"));
        let good = matches!(outcome, Outcome::Committed(_) | Outcome::Deleted);
        self.end(turn, &write, outcome).await;
        good
    }
}

/// The answer's outcome; `None` where there was a reset, or a 502 or 504.
type Answered = Result<Result<Option<Outcome>, oneshot::error::RecvError>, tokio::time::error::Elapsed>;

/// A client that waits for an answer. Its write goes on without it, except where that rule is broken on purpose.
struct Waiting {
    sending: JoinHandle<bool>,
    abandons: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.abandons {
            self.sending.abort();
        }
    }
}
