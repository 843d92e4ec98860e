//! [`Timing`]: how long members wait for a leader, and for each other.

use std::time::Duration;

use raftkv_runtime::config::ConfigError;

/// Five of them in a promise: four may be lost before a read needs more than the lease.
const HEARTBEAT: Duration = Duration::from_millis(40);
/// How soon a leader whose process has ended can be replaced. A pause of the leader that is longer costs a lease, not the office.
const PROMISE: Duration = Duration::from_millis(200);
/// A leader that is silent for so long is paused or cut off: long enough for a busy machine.
const SILENCE: Duration = Duration::from_millis(800);
/// So that members do not stand at the same moment.
const SPREAD: Duration = Duration::from_millis(250);
/// For an answer that needs a majority on a busy machine.
const PATIENCE: Duration = Duration::from_millis(600);
/// The heartbeat that goes with an election timeout that is set, and the election timeout that goes with a heartbeat that is set:
/// those of version 0.1.0.
const SET_HEARTBEAT: Duration = Duration::from_millis(100);
const SET_ELECTION: Duration = Duration::from_millis(900);
/// A heartbeat must have time to be missed.
const HEARTBEATS_PER_PROMISE: u32 = 4;

/// How long members wait for a leader, and for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// For so long after it has heard from a leader a member helps nobody else to lead. The read lease is a part of it.
    pub promise: Duration,
    /// The least time without a sign of a leader after which a member stands for election, if nothing says that the leader is gone.
    pub silence: Duration,
    /// The random time beyond that is less than this.
    pub spread: Duration,
    /// For a majority to confirm something: a leader that has heard nobody for longer has lost contact.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat: HEARTBEAT, promise: PROMISE, silence: SILENCE, spread: SPREAD, patience: PATIENCE }
    }
}

impl Timing {
    /// With `RAFTKV_HEARTBEAT` and `RAFTKV_ELECTION_TIMEOUT` where they are set: then all times follow from the election timeout, as in
    /// version 0.1.0.
    pub fn of(heartbeat: Option<Duration>, election: Option<Duration>) -> Result<Self, ConfigError> {
        if heartbeat.is_none() && election.is_none() {
            return Ok(Self::default());
        }
        let election = election.unwrap_or(SET_ELECTION);
        // The promise (two thirds) and a random part of one to two thirds.
        let spread = election / 3;
        let promise = spread * 2;
        let longest = promise / HEARTBEATS_PER_PROMISE;
        if let Some(heartbeat) = heartbeat {
            if heartbeat.is_zero() || !heartbeat.subsec_micros().is_multiple_of(1_000) {
                return Err(ConfigError::invalid("RAFTKV_HEARTBEAT", "must be whole milliseconds, at least one"));
            }
            if heartbeat > longest {
                return Err(ConfigError::invalid(
                    "RAFTKV_HEARTBEAT",
                    format!(
                        "must be a sixth of RAFTKV_ELECTION_TIMEOUT ({election:?}) at most, so that some may be lost"
                    ),
                ));
            }
        }
        if longest < Duration::from_millis(1) {
            return Err(ConfigError::invalid("RAFTKV_ELECTION_TIMEOUT", "must be at least 6ms"));
        }
        // A whole number of milliseconds: openraft's unit.
        let millis =
            |duration: Duration| Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let heartbeat = heartbeat.unwrap_or_else(|| millis(SET_HEARTBEAT.min(longest)));
        Ok(Self { heartbeat, promise: millis(promise), silence: election, spread, patience: millis(promise) })
    }

    /// For so long after its start a member helps nobody to lead: before, it may have made a promise that it does not remember. Its
    /// longest is `promised`, as far as is known.
    pub fn restart_wait(&self, promised: Option<Duration>) -> Duration {
        // Version 0.1.0 kept no record of its promise, which was this by default.
        self.promise.max(promised.unwrap_or_default()).max(PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn what_is_set_scales_everything_as_it_did() {
        let default = Timing::of(None, None).expect("sound");
        assert_eq!((default.heartbeat, default.promise, default.silence), (ms(40), ms(200), ms(800)));
        // What version 0.1.0 had by default, for those who wrote it down.
        let old = Timing { heartbeat: ms(100), promise: ms(600), silence: ms(900), spread: ms(300), patience: ms(600) };
        assert_eq!(Timing::of(Some(ms(100)), Some(ms(900))).expect("sound"), old);
        assert_eq!(Timing::of(Some(ms(100)), None).expect("sound"), old);
        assert_eq!(Timing::of(None, Some(ms(900))).expect("sound"), old);
        let slow = Timing::of(None, Some(ms(3_000))).expect("sound");
        assert_eq!((slow.heartbeat, slow.promise, slow.silence), (ms(100), ms(2_000), ms(3_000)));
        let quick = Timing::of(None, Some(ms(300))).expect("sound");
        assert_eq!((quick.heartbeat, quick.promise), (ms(50), ms(200)));
    }

    #[test]
    fn a_heartbeat_that_leaves_no_time_to_be_missed_is_refused() {
        assert!(Timing::of(Some(ms(150)), Some(ms(900))).is_ok());
        for (heartbeat, election) in [(Some(151), Some(900)), (Some(151), None), (Some(0), None), (None, Some(5))] {
            assert!(Timing::of(heartbeat.map(ms), election.map(ms)).is_err(), "{heartbeat:?} {election:?}");
        }
        assert!(Timing::of(Some(Duration::from_micros(10_500)), None).is_err());
    }

    #[test]
    fn a_restart_waits_for_the_longest_promise() {
        let timing = Timing::default();
        assert_eq!(timing.restart_wait(None), ms(600), "version 0.1.0 left no record");
        assert_eq!(timing.restart_wait(Some(ms(200))), ms(600));
        assert_eq!(timing.restart_wait(Some(ms(2_000))), ms(2_000));
        let slow = Timing::of(None, Some(ms(3_000))).expect("sound");
        assert_eq!(slow.restart_wait(Some(ms(200))), ms(2_000));
    }
}
