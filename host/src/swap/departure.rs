//! Whether a core behaves so much worse than the one before it that it must go, and how long it stays away.

use crate::cell::Counts;
use std::time::Duration;

/// Cells lost before anything is concluded from them.
const LOST_MIN: u64 = 3;

/// The share of its sessions that a core may lose, in percent.
const LOST_PERCENT_MAX: u64 = 1;

/// Responses of each core before their mix is compared.
const RESPONSES_MIN: u64 = 200;

/// How far the share of temporary or of permanent refusals may be from the other core's, in percent of all responses.
const MIX_PERCENT_MAX: u64 = 25;

/// Calls of each core before their times are compared.
const CALLS_MIN: u64 = 1_000;

/// How much longer the mean call may take: so many times, and so much.
const LATENCY_MAX: (u32, Duration) = (4, Duration::from_micros(200));

/// How long a core that was withdrawn stays away, the first time; twice as long each further time.
const BACK_OFF: Duration = Duration::from_secs(60);

/// How long it stays away at the most.
const BACK_OFF_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Says what is wrong with a core, compared with another one. Both are counts of the time that is looked at.
pub(super) fn departure(core: &Counts, other: &Counts) -> Option<String> {
    let lost = core.traps + core.refusals;
    let sessions = core.opened + core.moved_in;
    let is_worse = lost * (other.opened + other.moved_in).max(1) > 2 * (other.traps + other.refusals) * sessions;
    if lost >= LOST_MIN && lost * 100 > sessions * LOST_PERCENT_MAX && is_worse {
        return Some(format!("{} traps and {} refused steps in {sessions} sessions", core.traps, core.refusals));
    }
    let [all, others] = [core, other].map(|counts| counts.responses.iter().sum::<u64>());
    if all.min(others) >= RESPONSES_MIN {
        for (class, name) in [(2, "4yz"), (3, "5yz")] {
            let [share, before] =
                [(core.responses[class], all), (other.responses[class], others)].map(|(count, all)| count * 100 / all);
            if share.abs_diff(before) > MIX_PERCENT_MAX {
                return Some(format!("{share} % of its responses are {name}, {before} % were"));
            }
        }
    }
    if core.calls.min(other.calls) >= CALLS_MIN {
        let [mean, before] = [core, other].map(|counts| Duration::from_nanos(counts.call_nanos / counts.calls));
        if mean > before * LATENCY_MAX.0 && mean > before + LATENCY_MAX.1 {
            return Some(format!("an event takes {mean:?}, it took {before:?}"));
        }
    }
    None
}

/// How long a core stays away that was withdrawn so many times.
pub(super) fn back_off(times: u32) -> Duration {
    BACK_OFF.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1))).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Counts {
        Counts {
            opened: 1_000,
            calls: 10_000,
            call_nanos: 10_000 * 2_000,
            responses: [9_000, 0, 500, 500],
            ..Counts::default()
        }
    }

    #[test]
    fn a_core_like_the_other_one_stays() {
        assert_eq!(departure(&good(), &good()), None);
        assert_eq!(departure(&Counts::default(), &good()), None);
        assert_eq!(departure(&good(), &Counts::default()), None);
        // As bad as before is no reason to go back.
        let bad = Counts { traps: 50, ..good() };
        assert_eq!(departure(&bad, &bad), None);
    }

    #[test]
    fn each_kind_of_departure_is_a_reason() {
        let traps = Counts { traps: 10, refusals: 1, ..good() };
        assert_eq!(departure(&traps, &good()).as_deref(), Some("10 traps and 1 refused steps in 1000 sessions"));
        assert_eq!(departure(&Counts { traps: 2, opened: 2, ..Counts::default() }, &good()), None, "too few to tell");
        let mix = Counts { responses: [5_000, 0, 500, 4_500], ..good() };
        assert_eq!(departure(&mix, &good()).as_deref(), Some("45 % of its responses are 5yz, 5 % were"));
        let slow = Counts { call_nanos: 10_000 * 1_000_000, ..good() };
        assert_eq!(departure(&slow, &good()).as_deref(), Some("an event takes 1ms, it took 2µs"));
    }

    #[test]
    fn it_stays_away_longer_each_time() {
        assert_eq!([1, 2, 3].map(back_off).map(|time| time.as_secs()), [60, 120, 240]);
        assert_eq!(back_off(1_000), BACK_OFF_MAX);
    }
}
