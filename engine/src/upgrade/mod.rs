//! [`Upgrader`]: raises the cluster version once all members and routers support the next version; lets operators hold
//! or speed up the upgrade.
//!
//! Every engine has an upgrader, active while the node is the leader. The decision is made in [`plan`]. On apply, the
//! state machine checks again for a single step from the current version and for a hold, so two leaders at the same
//! time do no harm.

mod plan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use raftkv_backend::{BackendError, Consistency};
use raftkv_kv::{
    Answer, MAX_CLOCK_MS, MAX_REVISION, Proposal, ROUTER_VERSIONS_KEY, Refusal, RouterVersions, SystemAnswer,
    SystemCommand, UPGRADE_KEY, UpgradePolicy,
};
use raftkv_proto::consensus::{ConsensusStatus, UpgradeAction, UpgradeRequest, UpgradeStatus};
use raftkv_proto::{SPOKEN, VersionRange};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::Mutex;

use crate::backend::{EngineBackend, read_failed};
use plan::{Facts, Plan};

/// Check interval.
const LOOK: Duration = Duration::from_secs(1);
/// Check interval while the group may be new: a client may need new features immediately.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// Duration of the short check interval after the start.
const YOUNG: Duration = Duration::from_secs(30);
/// Timeout of an automatic upgrade.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Default timeout of a request.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a leader to learn the members' versions after the last member was replaced: the leader polls once per
/// second.
const SETTLES: Duration = Duration::from_millis(2_500);
/// Poll interval during [`SETTLES`].
const FACTS_AGAIN: Duration = Duration::from_millis(200);
/// Upper bound for the timeout of a request.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Raises the cluster version of a group. Cloning shares the state.
#[derive(Clone)]
pub struct Upgrader {
    shared: Arc<Shared>,
}

struct Shared {
    backend: EngineBackend,
    /// The last seen versions of the routers, with the time of the first sighting.
    routers: Mutex<Option<(RouterVersions, Instant)>>,
}

impl Upgrader {
    /// Makes an upgrader on top of an engine's parts.
    pub fn new(backend: EngineBackend) -> Self {
        Self { shared: Arc::new(Shared { backend, routers: Mutex::new(None) }) }
    }

    /// Raises the version when allowed, until `stop`.
    pub async fn run(self, stop: Shutdown) {
        let begin = Instant::now();
        loop {
            let is_young = begin.elapsed() < YOUNG && self.store_version() != SPOKEN.max;
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(if is_young { FIRST_LOOK } else { LOOK }) => {}
            }
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the cluster version could not be checked");
            }
        }
    }

    /// Executes a request and returns the resulting state.
    pub async fn handle(&self, request: UpgradeRequest) -> Result<UpgradeStatus, BackendError> {
        let timeout = match request.timeout_ms {
            0 => DEFAULT_TIMEOUT,
            asked => Duration::from_millis(asked.into()).min(LONGEST_TIMEOUT),
        };
        let deadline = Instant::now() + timeout;
        let action = UpgradeAction::try_from(request.action)
            .map_err(|_| BackendError::Rejected("the action is unknown to this version".to_owned()))?;
        let (status, facts) = self.facts(deadline).await?;
        match action {
            UpgradeAction::Show => return Ok(described(&facts, &status)),
            UpgradeAction::Hold => self.set_hold(true, deadline).await?,
            UpgradeAction::Release => self.set_hold(false, deadline).await?,
            UpgradeAction::Finish => return self.finish(status, facts, deadline).await,
        }
        let (status, facts) = self.facts(deadline).await?;
        Ok(described(&facts, &status))
    }

    /// Raises the version step by step as far as allowed, and returns the resulting state. After the first successful
    /// step a later obstacle is not an error: the result contains the version reached and the reason for stopping.
    async fn finish(
        &self,
        status: ConsensusStatus,
        facts: Facts,
        deadline: Instant,
    ) -> Result<UpgradeStatus, BackendError> {
        let (mut status, mut facts) = self.settled(status, facts, deadline).await?;
        let mut has_risen = false;
        loop {
            match facts.finish() {
                Plan::Raise => match self.raise(&facts, deadline).await {
                    Err(error) if has_risen => return Ok(stopped(&facts, &status, &error)),
                    raised => raised?,
                },
                Plan::Newest | Plan::Wait(_) => return Ok(described(&facts, &status)),
                Plan::Blocked(_) if has_risen => return Ok(described(&facts, &status)),
                Plan::Blocked(why) => {
                    return Err(BackendError::Rejected(format!("the cluster version stays {}: {why}", facts.version)));
                }
            }
            let before = facts.version;
            match self.facts(deadline).await {
                Ok(now) => (status, facts) = now,
                Err(error) => {
                    facts.version = facts.next().unwrap_or(before);
                    return Ok(stopped(&facts, &status, &error));
                }
            }
            has_risen |= facts.version > before;
        }
    }

    /// Returns the facts, refreshed for a moment if members have not been polled since their processes were replaced.
    async fn settled(
        &self,
        mut status: ConsensusStatus,
        mut facts: Facts,
        deadline: Instant,
    ) -> Result<(ConsensusStatus, Facts), BackendError> {
        let until = deadline.min(Instant::now() + SETTLES);
        while facts.lacks_members() && Instant::now() + FACTS_AGAIN < until {
            tokio::time::sleep(FACTS_AGAIN).await;
            (status, facts) = self.facts(deadline).await?;
        }
        Ok((status, facts))
    }

    fn store_version(&self) -> u32 {
        self.shared.backend.store().version()
    }

    async fn look(&self) -> Result<(), BackendError> {
        let version = self.store_version();
        metrics::gauge!("raftkv_engine_cluster_version").set(f64::from(version));
        if version >= SPOKEN.max {
            return Ok(());
        }
        let deadline = Instant::now() + TIMEOUT;
        // No barrier: outdated facts are refused when the command is applied.
        let status = self.shared.backend.consensus().status(deadline).await?;
        if status.role != "leader" {
            return Ok(());
        }
        let facts = self.facts_of(&status).await?;
        if facts.plan() == Plan::Raise {
            self.raise(&facts, deadline).await?;
        }
        Ok(())
    }

    /// Current facts, at the leader only.
    async fn facts(&self, deadline: Instant) -> Result<(ConsensusStatus, Facts), BackendError> {
        let backend = &self.shared.backend;
        let status = backend.consensus().status(deadline).await?;
        if status.role != "leader" {
            return Err(BackendError::Unavailable("this node does not lead its group".to_owned()));
        }
        backend.barriers().wait(Consistency::Linearizable, deadline).await?;
        let facts = self.facts_of(&status).await?;
        Ok((status, facts))
    }

    async fn facts_of(&self, status: &ConsensusStatus) -> Result<Facts, BackendError> {
        let store = self.shared.backend.store();
        let is_sharded = store.ownership().is_sharded();
        let policy = store.system_key(UPGRADE_KEY).map_err(read_failed)?;
        let routers = store.system_key(ROUTER_VERSIONS_KEY).map_err(read_failed)?;
        let routers = routers.and_then(|(_, document)| RouterVersions::decode(&document).ok());
        let mut seen = self.shared.routers.lock().await;
        match (routers, &*seen) {
            (Some(now), Some((before, _))) if now == *before => {}
            (now, _) => *seen = now.map(|now| (now, Instant::now())),
        }
        Ok(Facts {
            version: store.version(),
            spoken: SPOKEN,
            members: status.ready_version,
            members_for: Duration::from_millis(status.ready_for_ms),
            is_new: status.formed_here,
            is_beyond_bounds: store.revision() > MAX_REVISION || store.clock_ms() > MAX_CLOCK_MS,
            is_held: policy.is_some_and(|(_, document)| UpgradePolicy::decode(&document).hold),
            is_sharded,
            routers: routers.map(|routers| VersionRange::from_wire(routers.min, routers.max)),
            routers_for: seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed()),
        })
    }

    async fn raise(&self, facts: &Facts, deadline: Instant) -> Result<(), BackendError> {
        let Some(to) = facts.next() else { return Ok(()) };
        match self.propose(SystemCommand::RaiseVersion { from: facts.version, to }, deadline).await? {
            SystemAnswer::Done => Ok(()),
            SystemAnswer::Refused(refusal) => Err(BackendError::Rejected(refusal.to_string())),
            other => Err(unexpected(&other)),
        }
    }

    async fn set_hold(&self, hold: bool, deadline: Instant) -> Result<(), BackendError> {
        loop {
            let now = self.shared.backend.store().system_key(UPGRADE_KEY).map_err(read_failed)?;
            let (expected_version, policy) = match now {
                Some((version, document)) => (version, UpgradePolicy::decode(&document)),
                None => (0, UpgradePolicy::default()),
            };
            if policy.hold == hold {
                return Ok(());
            }
            let (key, value) = (UPGRADE_KEY.into(), UpgradePolicy { hold }.encode());
            match self.propose(SystemCommand::PutKey { key, expected_version, value }, deadline).await? {
                SystemAnswer::KeyPut { .. } => return Ok(()),
                // Changed concurrently by another process: try again.
                SystemAnswer::Refused(Refusal::Version { .. }) if Instant::now() < deadline => {}
                SystemAnswer::Refused(refusal) => return Err(BackendError::Rejected(refusal.to_string())),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Proposes a system command; each command states the expected version, and the sender may repeat the command.
    async fn propose(&self, command: SystemCommand, deadline: Instant) -> Result<SystemAnswer, BackendError> {
        let payload = Proposal::System(command).encode();
        let answer = self.shared.backend.consensus().propose(payload, deadline).await?;
        match Answer::decode(&answer) {
            Ok(Answer::System(answer)) => Ok(answer),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(BackendError::Internal(format!("an answer to a system command: {error}"))),
        }
    }
}

fn unexpected(answer: &impl std::fmt::Debug) -> BackendError {
    BackendError::Internal(format!("a system command was answered {answer:?}"))
}

/// Describes a version raised to `facts.version`, when further progress failed with `error`.
fn stopped(facts: &Facts, status: &ConsensusStatus, error: &BackendError) -> UpgradeStatus {
    let mut described = described(facts, status);
    if described.next != 0 {
        described.blocked = format!("the version was raised to {}, and no further: {error}", facts.version);
    }
    described
}

fn described(facts: &Facts, status: &ConsensusStatus) -> UpgradeStatus {
    let (blocked, due) = match facts.plan() {
        Plan::Newest | Plan::Raise => (String::new(), Duration::ZERO),
        Plan::Wait(left) => (String::new(), left),
        Plan::Blocked(why) => (why, Duration::ZERO),
    };
    UpgradeStatus {
        version: facts.version,
        next: facts.next().unwrap_or(0),
        is_held: facts.is_held,
        blocked,
        due_in_ms: u64::try_from(due.as_millis()).unwrap_or(u64::MAX),
        router_min: facts.routers.map_or(0, |routers| routers.min),
        router_max: facts.routers.map_or(0, |routers| routers.max),
        members: status.members.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_rose_and_went_no_further_is_told_with_the_reason() {
        let facts = Facts {
            version: 2,
            spoken: SPOKEN,
            members: 3,
            members_for: Duration::ZERO,
            is_new: false,
            is_beyond_bounds: false,
            is_held: false,
            is_sharded: false,
            routers: None,
            routers_for: Duration::ZERO,
        };
        let error = BackendError::Rejected("move 7 is under way".to_owned());
        let told = stopped(&facts, &ConsensusStatus::default(), &error);
        assert_eq!((told.version, told.next), (2, 3));
        assert!(told.blocked.contains("raised to 2") && told.blocked.contains("move 7"), "{}", told.blocked);
        let newest = Facts { version: SPOKEN.max, ..facts };
        assert!(stopped(&newest, &ConsensusStatus::default(), &error).blocked.is_empty(), "there is nothing further");
    }
}
