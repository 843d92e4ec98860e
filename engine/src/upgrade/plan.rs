//! [`Facts`]: decides whether the cluster version may rise. Pure: all inputs are passed in.

use std::time::Duration;

use raftkv_kv::{MAX_CLOCK_MS, MAX_REVISION};
use raftkv_proto::{ClusterVersion, STRICT_VERSION, VersionRange};

/// Standby time before the cluster version rises automatically. Until then processes can be downgraded to the previous
/// version, because no data of the new version was written.
pub(super) const STANDBY: Duration = Duration::from_secs(600);

// The data model is independent of the wire contracts and defines the strict version separately.
const _: () = assert!(raftkv_kv::STRICT_VERSION == STRICT_VERSION);

/// Facts known to the leader's engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The cluster version in the state.
    pub(super) version: ClusterVersion,
    /// Versions supported by this engine.
    pub(super) spoken: VersionRange,
    /// The highest version currently supported by every member; 0 = unknown.
    pub(super) members: ClusterVersion,
    /// Time since all members support `members`.
    pub(super) members_for: Duration,
    /// No older process can have been in the group, because the leader's process formed the group.
    pub(super) is_new: bool,
    /// The revision or the clock of the group is beyond the bounds of the strict version.
    pub(super) is_beyond_bounds: bool,
    /// An operator holds the version.
    pub(super) is_held: bool,
    /// The group is part of a sharded store, so routers count.
    pub(super) is_sharded: bool,
    /// Versions supported by the routers; `None` = not reported.
    pub(super) routers: Option<VersionRange>,
    /// Time since the routers' versions last changed.
    pub(super) routers_for: Duration,
}

/// Decision about the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Already the highest version supported by this engine.
    Newest,
    /// Can rise now.
    Raise,
    /// Rises automatically after this time.
    Wait(Duration),
    /// Does not rise, with the reason.
    Blocked(String),
}

impl Facts {
    /// The next version, if supported by this engine.
    pub(super) fn next(&self) -> Option<ClusterVersion> {
        self.version.checked_add(1).filter(|next| self.spoken.contains(*next))
    }

    /// Whether members block the next version as far as known; members may have been replaced just now.
    pub(super) fn lacks_members(&self) -> bool {
        !self.is_held && self.next().is_some_and(|next| self.members < next)
    }

    /// The decision without a request.
    pub(super) fn plan(&self) -> Plan {
        match self.finish() {
            Plan::Raise if !self.is_new => {
                let routers_for = if self.is_sharded { self.routers_for } else { STANDBY };
                match STANDBY.saturating_sub(self.members_for.min(routers_for)) {
                    Duration::ZERO => Plan::Raise,
                    left => Plan::Wait(left),
                }
            }
            plan => plan,
        }
    }

    /// The decision when an operator requests the next version.
    pub(super) fn finish(&self) -> Plan {
        let Some(next) = self.next() else { return Plan::Newest };
        if self.is_held {
            return Plan::Blocked("it is held".to_owned());
        }
        if next >= STRICT_VERSION && self.is_beyond_bounds {
            return Plan::Blocked(format!(
                "version {next} allows revisions up to {MAX_REVISION} and clocks up to {MAX_CLOCK_MS} ms, and the group is beyond"
            ));
        }
        if self.members < next {
            return Plan::Blocked(format!("not every member speaks version {next}, or says so now"));
        }
        match self.routers {
            _ if !self.is_sharded => Plan::Raise,
            None => Plan::Blocked("no router has reported the versions it supports".to_owned()),
            Some(routers) if !routers.contains(next) => {
                Plan::Blocked(format!("not every router speaks version {next}: all of them speak {routers}"))
            }
            Some(_) => Plan::Raise,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u32, max: u32) -> VersionRange {
        VersionRange { min, max }
    }

    fn facts() -> Facts {
        Facts {
            version: 1,
            spoken: range(1, 2),
            members: 2,
            members_for: Duration::ZERO,
            is_new: false,
            is_beyond_bounds: false,
            is_held: false,
            is_sharded: false,
            routers: None,
            routers_for: Duration::ZERO,
        }
    }

    #[test]
    fn it_rises_after_the_standby_or_when_asked_for() {
        let facts = facts();
        assert_eq!(facts.plan(), Plan::Wait(STANDBY));
        assert_eq!(facts.finish(), Plan::Raise);
        let second = Duration::from_secs(1);
        assert_eq!(Facts { members_for: STANDBY - second, ..facts }.plan(), Plan::Wait(second));
        assert_eq!(Facts { members_for: STANDBY, ..facts }.plan(), Plan::Raise);
        assert_eq!(Facts { is_new: true, ..facts }.plan(), Plan::Raise, "there is nothing to go back to");
        assert_eq!(Facts { version: 2, ..facts }.plan(), Plan::Newest);
    }

    #[test]
    fn whoever_does_not_speak_it_blocks_it_and_so_does_a_hold() {
        let ready = Facts { members_for: STANDBY, routers_for: STANDBY, ..facts() };
        let blocked = |facts: Facts| {
            let (plan, asked) = (facts.plan(), facts.finish());
            assert_eq!(plan, asked, "nobody can hurry it");
            matches!(plan, Plan::Blocked(_))
        };
        assert!(blocked(Facts { is_held: true, ..ready }));
        assert!(blocked(Facts { is_held: true, is_new: true, ..ready }));
        assert!(blocked(Facts { members: 1, ..ready }));
        let strict = Facts { version: 2, members: 3, spoken: range(1, 3), ..ready };
        assert_eq!(strict.plan(), Plan::Raise);
        assert!(blocked(Facts { is_beyond_bounds: true, ..strict }));
        assert_eq!(Facts { is_beyond_bounds: true, ..ready }.plan(), Plan::Raise, "an earlier version has no bounds");
        assert!(blocked(Facts { members: 0, is_new: true, ..ready }));
        assert!(blocked(Facts { is_sharded: true, ..ready }), "routers have not said anything");
        assert!(blocked(Facts { is_sharded: true, routers: Some(range(1, 1)), ..ready }));
        let routers = Some(range(1, 2));
        assert_eq!(Facts { is_sharded: true, routers, ..ready }.plan(), Plan::Raise);
        let lately = Facts { is_sharded: true, routers, routers_for: Duration::ZERO, ..ready };
        assert_eq!(lately.plan(), Plan::Wait(STANDBY));
    }
}
