//! A write on its way, driven by whoever waits for its answer, or by itself.
//!
//! Nothing is decided here. What holds at each of its steps is in [`carry_out`](super::carry_out).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use super::super::{answer::Failure, body::Answer, boxed::boxed};
use crate::core::message::Response;

pub(super) type Answered = Result<Response<Answer>, Failure>;

/// A write that is being carried out. Whoever waits for its answer drives it, without another task's cost; dropped before
/// that, it goes on in a task of its own.
pub(super) struct Carried<F: Future<Output = Answered> + Send + 'static> {
    /// `None` once it is over. In a box, so that it can be handed on in the midst of it.
    write: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = Answered> + Send + 'static> Carried<F> {
    pub(super) fn begin(write: impl FnOnce() -> F) -> Self {
        Self { write: Some(boxed(write)) }
    }
}

impl<F: Future<Output = Answered> + Send + 'static> Future for Carried<F> {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        // It is put back only if it goes on: one that has panicked must not be polled again, by a task neither.
        let Some(mut write) = self.write.take() else { return Poll::Ready(Err(Failure::Lost)) };
        // As in a task of its own: a panic ends the write, as in doubt, and not what carries other requests.
        match catch_unwind(AssertUnwindSafe(|| write.as_mut().poll(cx))) {
            Ok(Poll::Ready(answered)) => Poll::Ready(answered),
            Ok(Poll::Pending) => {
                self.write = Some(write);
                Poll::Pending
            }
            Err(_) => Poll::Ready(Err(Failure::Lost)),
        }
    }
}

impl<F: Future<Output = Answered> + Send + 'static> Drop for Carried<F> {
    /// Without a runtime it can't go on, and its turn is given up as in doubt.
    fn drop(&mut self) {
        if let Some(write) = self.write.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(write);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::{
        sync::{
            Notify,
            oneshot::{self, error::TryRecvError},
        },
        time::timeout,
    };

    use super::*;

    /// A write that waits for word in its midst, and tells of its end. Dropped before that, it says so.
    struct Scene {
        go_on: Arc<Notify>,
        ended: oneshot::Receiver<()>,
    }

    impl Scene {
        fn begin(panics: bool) -> (Self, Carried<impl Future<Output = Answered> + Send + 'static>) {
            let go_on = Arc::new(Notify::new());
            let (end, ended) = oneshot::channel();
            let word = Arc::clone(&go_on);
            let write = async move {
                word.notified().await;
                assert!(!panics, "as it should");
                // Whoever listens is told by the drop of it otherwise.
                let _ = end.send(());
                Err(Failure::NoRoute)
            };
            (Self { go_on, ended }, Carried::begin(|| write))
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_write_has_its_answer() {
        let (mut scene, write) = Scene::begin(false);
        scene.go_on.notify_one();
        assert!(matches!(write.await, Err(Failure::NoRoute)));
        assert_eq!(scene.ended.try_recv(), Ok(()));
    }

    #[tokio::test]
    async fn a_write_goes_on_that_nobody_waits_for() {
        for is_begun in [false, true] {
            let (scene, mut write) = Scene::begin(false);
            if is_begun {
                assert!(timeout(Duration::ZERO, &mut write).await.is_err(), "it waits for word");
            }
            drop(write);
            tokio::task::yield_now().await;
            scene.go_on.notify_one();
            assert_eq!(scene.ended.await, Ok(()), "{is_begun}");
        }
    }

    /// By whoever polled it, and once.
    #[tokio::test]
    async fn a_write_that_panics_is_lost_and_not_carried_on() {
        let (scene, mut write) = Scene::begin(true);
        scene.go_on.notify_one();
        assert!(matches!((&mut write).await, Err(Failure::Lost)));
        assert!(scene.ended.await.is_err(), "what it held is dropped");
        assert!(matches!((&mut write).await, Err(Failure::Lost)));
    }

    #[test]
    fn without_a_runtime_a_write_ends_with_who_waits_for_it() {
        let (mut scene, write) = Scene::begin(false);
        drop(write);
        assert_eq!(scene.ended.try_recv(), Err(TryRecvError::Closed));
    }
}
