//! A core beside the one that serves, and in its first minutes: what is looked at before and after a promotion.

use super::slot::State;
use super::{LOOK, Options, Swapper, departure};
use crate::cell::{Counts, Generation};
use anyhow::bail;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a trial may last.
const TRIAL_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Swapper {
    /// Shadow, canary and promotion.
    pub(super) async fn try_out(self: Arc<Self>, core: Generation, before: Generation, options: Options) {
        let tried = async {
            if let Some(percent) = options.shadow {
                self.look_on(&core, &before, percent, &options).await?;
            }
            if let Some(percent) = options.canary {
                self.serve_a_share(&core, &before, percent, &options).await?;
            }
            match self.promote(&core, &before, options.mode) {
                true => Ok(()),
                false => Err("another core has come into service".to_owned()),
            }
        };
        if let Err(reason) = tried.await {
            self.withdraw(&core, reason);
        }
    }

    async fn look_on(
        &self,
        core: &Generation,
        before: &Generation,
        percent: u8,
        options: &Options,
    ) -> Result<(), String> {
        let time = Duration::from_secs(options.seconds);
        self.progress(format!("{} looks on at {percent} % of the sessions for {time:?}", core.short_digest()));
        let trial = self.slot.try_out(core, State::Shadow, percent);
        let end = Instant::now() + time;
        while Instant::now() < end && trial.fault().is_none() {
            sleep(LOOK.min(time)).await;
            self.expect_serving(before)?;
            let different: u64 = trial.differences().iter().map(|(_, times)| times).sum();
            self.state().progress = format!(
                "{} looks on at {percent} % of the sessions for {time:?}: {} seen, {different} differences",
                core.short_digest(),
                trial.sessions()
            );
        }
        let differences = trial.differences();
        let shown: Vec<_> = differences.iter().map(|(what, times)| format!("{what} ({times} times)")).collect();
        match trial.fault() {
            Some(fault) => Err(format!("while it looked on, {fault}")),
            None if differences.is_empty() || options.accepted.sessions.iter().any(|name| name == "shadow") => Ok(()),
            None => Err(format!("while it looked on at {} sessions: {}", trial.sessions(), shown.join("; "))),
        }
    }

    async fn serve_a_share(
        &self,
        core: &Generation,
        before: &Generation,
        percent: u8,
        options: &Options,
    ) -> Result<(), String> {
        let time = Duration::from_secs(options.seconds);
        self.progress(format!("{} serves {percent} % of the connections for {time:?}", core.short_digest()));
        self.slot.try_out(core, State::Canary, percent);
        let start = (core.stats().counts(), before.stats().counts());
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(LOOK.min(time)).await;
            self.expect_serving(before)?;
            // The other sessions of the same time are what it is compared with.
            let core_counts = since(&core.stats().counts(), &start.0);
            if let Some(reason) = departure::departure(&core_counts, &since(&before.stats().counts(), &start.1)) {
                return Err(reason);
            }
        }
        Ok(())
    }

    /// A core is tried beside the one that it was proved against, and no other.
    fn expect_serving(&self, before: &Generation) -> Result<(), String> {
        match self.slot.plan().current.is(before) {
            true => Ok(()),
            false => Err("another core has come into service".to_owned()),
        }
    }

    /// Looks at the first minutes of a core, and withdraws it if it departs from the one before.
    pub(super) async fn watch_promoted(&self, core: &Generation, before: &Generation) {
        let (start, baseline) = (core.stats().counts(), before.stats().counts());
        let end = Instant::now() + self.watch;
        while Instant::now() < end {
            sleep(LOOK).await;
            if !self.slot.plan().current.is(core) {
                return;
            }
            if let Some(reason) = departure::departure(&since(&core.stats().counts(), &start), &baseline) {
                return self.withdraw(core, reason);
            }
        }
    }
}

/// Whether a core is to be tried out first; how, must make sense.
pub(super) fn check_trial(options: &Options) -> anyhow::Result<bool> {
    let shares = [options.shadow, options.canary];
    if !shares.into_iter().flatten().all(|percent| (1..=100).contains(&percent)) {
        bail!("a share is a number from 1 to 100");
    }
    let is_trial = shares.iter().any(Option::is_some);
    if is_trial && !(1..=TRIAL_MAX.as_secs()).contains(&options.seconds) {
        bail!("a trial lasts from 1 second to {} days", TRIAL_MAX.as_secs() / (24 * 60 * 60));
    }
    Ok(is_trial)
}

fn since(counts: &Counts, start: &Counts) -> Counts {
    let mut responses = counts.responses;
    responses.iter_mut().zip(start.responses).for_each(|(count, start)| *count -= start);
    Counts {
        sessions: counts.sessions,
        opened: counts.opened - start.opened,
        moved_in: counts.moved_in - start.moved_in,
        stayed: counts.stayed - start.stayed,
        traps: counts.traps - start.traps,
        refusals: counts.refusals - start.refusals,
        calls: counts.calls - start.calls,
        call_nanos: counts.call_nanos - start.call_nanos,
        responses,
    }
}
