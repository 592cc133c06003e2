//! What systemd is told (`sd_notify`): ready, reloading, stopping, and that the workers are awake. Without
//! `NOTIFY_SOCKET` nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use super::{Control, Phase};

/// Tells systemd as soon as all workers accept connections.
pub(super) async fn tell_when_ready(control: Control) {
    let mut phase = control.phase();
    // The sender lives as long as the control.
    let is_serving = phase.wait_for(|phase| *phase != Phase::Starting).await.is_ok_and(|p| *p == Phase::Serving);
    if is_serving {
        tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
    }
}

/// The process stops.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what is under way")]);
}

/// A reload begins.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "there is no clock to tell systemd of a reload"),
    }
}

/// A reload has ended, so or so.
pub(super) fn reloaded(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says again and again that the workers are awake, for as long as they are, where systemd asks for it
/// (`WatchdogSec=`).
pub(super) async fn watchdog(control: Control) {
    let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero()) else { return };
    let mut every = interval((patience / 2).max(Duration::from_millis(1)));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if control.workers_are_awake(patience) {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("a worker does not respond");
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd can't be told");
    }
}
