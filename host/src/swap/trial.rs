//! A core beside the one that serves, and in its first minutes: what is looked at before and after a promotion.

use super::shadow::Trial;
use super::slot::State;
use super::{LOOK, Options, Swapper, Swapping, departure};
use crate::cell::{Counts, Generation};
use anyhow::bail;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a trial may last.
const TRIAL_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A core is tried beside the one that it was proved against, and no other.
const ANOTHER_SERVES: &str = "another core has come into service";

/// A core beside the one that it was proved against. Its trial goes on for as long as the plan has it: whatever takes it from
/// there ends it, and what its task would have done next is not done any more.
struct Tried {
    core: Generation,
    before: Generation,
    options: Options,
    trial: Arc<Trial>,
}

impl Swapper {
    /// Has a core tried out. It is in the plan at once, and a task goes on with it.
    pub(super) fn begin_trial(
        self: &Arc<Self>,
        state: &mut Swapping,
        core: Generation,
        before: Generation,
        options: Options,
    ) {
        let tried = Tried { core, before, options, trial: Arc::default() };
        match tried.options.shadow {
            Some(_) => self.begin_to_look_on(state, &tried),
            None => self.begin_to_serve_a_share(state, &tried),
        }
        let swapper = self.clone();
        tokio::spawn(async move { swapper.try_out(&tried).await });
    }

    /// Shadow, canary and promotion.
    async fn try_out(self: Arc<Self>, tried: &Tried) {
        let Tried { core, before, options, trial } = tried;
        let outcome = async {
            if options.shadow.is_some() {
                self.look_on(tried).await?;
                if options.canary.is_some() {
                    self.begin_to_serve_a_share(&mut *self.state_in(tried)?, tried);
                }
            }
            if options.canary.is_some() {
                self.serve_a_share(tried).await?;
            }
            match self.promote(&mut *self.state_in(tried)?, core, before, options.mode) {
                true => Ok(()),
                false => Err(ANOTHER_SERVES.to_owned()),
            }
        };
        if let Err(reason) = outcome.await {
            self.withdraw(core, reason, |plan| plan.is_trying(trial));
        }
    }

    /// The state, to change the plan of a trial that is going on.
    ///
    /// # Errors
    /// When it is over, or the other core does not serve any more.
    fn state_in(&self, tried: &Tried) -> Result<MutexGuard<'_, Swapping>, String> {
        let state = self.state();
        let plan = self.slot.plan();
        match plan.current.is(&tried.before) {
            _ if !plan.is_trying(&tried.trial) => Err("it is over".to_owned()),
            true => Ok(state),
            false => Err(ANOTHER_SERVES.to_owned()),
        }
    }

    fn begin_to_look_on(&self, state: &mut Swapping, tried: &Tried) {
        let percent = tried.options.shadow.unwrap_or_default();
        self.progress(state, tried.looks_on());
        self.slot.try_out(&tried.core, State::Shadow, percent, &tried.trial);
    }

    async fn look_on(&self, tried: &Tried) -> Result<(), String> {
        let Tried { options, trial, .. } = tried;
        let end = Instant::now() + tried.time();
        while Instant::now() < end && trial.fault().is_none() {
            sleep(LOOK.min(tried.time())).await;
            let mut state = self.state_in(tried)?;
            let different: u64 = trial.differences().iter().map(|(_, times)| times).sum();
            state.progress = format!("{}: {} seen, {different} differences", tried.looks_on(), trial.sessions());
        }
        let differences = trial.differences();
        let shown: Vec<_> = differences.iter().map(|(what, times)| format!("{what} ({times} times)")).collect();
        match trial.fault() {
            Some(fault) => Err(format!("while it looked on, {fault}")),
            None if differences.is_empty() || options.accepted.sessions.iter().any(|name| name == "shadow") => Ok(()),
            None => Err(format!("while it looked on at {} sessions: {}", trial.sessions(), shown.join("; "))),
        }
    }

    fn begin_to_serve_a_share(&self, state: &mut Swapping, tried: &Tried) {
        let (core, percent) = (&tried.core, tried.options.canary.unwrap_or_default());
        let time = tried.time();
        self.progress(state, format!("{} serves {percent} % of the connections for {time:?}", core.short_digest()));
        self.slot.try_out(core, State::Canary, percent, &tried.trial);
    }

    async fn serve_a_share(&self, tried: &Tried) -> Result<(), String> {
        let (core, before) = (tried.core.stats(), tried.before.stats());
        let start = (core.counts(), before.counts());
        let end = Instant::now() + tried.time();
        while Instant::now() < end {
            sleep(LOOK.min(tried.time())).await;
            drop(self.state_in(tried)?);
            // The other sessions of the same time are what it is compared with.
            let counts = since(&core.counts(), &start.0);
            if let Some(reason) = departure::departure(&counts, &since(&before.counts(), &start.1)) {
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Looks at the first minutes of a core, and withdraws it if it departs from the one before. Both had these counts when it was
    /// promoted.
    pub(super) async fn watch_promoted(&self, core: &Generation, (start, baseline): (Counts, Counts)) {
        let end = Instant::now() + self.watch;
        while Instant::now() < end {
            sleep(LOOK).await;
            if !self.slot.plan().current.is(core) {
                return;
            }
            if let Some(reason) = departure::departure(&since(&core.stats().counts(), &start), &baseline) {
                return self.withdraw(core, reason, |plan| plan.current.is(core));
            }
        }
    }
}

impl Tried {
    fn time(&self) -> Duration {
        Duration::from_secs(self.options.seconds)
    }

    fn looks_on(&self) -> String {
        let (percent, time) = (self.options.shadow.unwrap_or_default(), self.time());
        format!("{} looks on at {percent} % of the sessions for {time:?}", self.core.short_digest())
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
