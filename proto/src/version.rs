//! [`VersionRange`]: which cluster versions a program speaks, and how it says so.
//!
//! The **cluster version** is a number in the replicated state of a group. It decides what an entry does and which formats are
//! written, so that a group of old and new programs keeps equal state: never the version of the program. It rises once all members,
//! and all routers in front of them, speak the next one.

use std::fmt;

/// A version of the replicated state and of what is written.
pub type ClusterVersion = u32;

/// What version 0.1.0 speaks, which names no range.
pub const FIRST_VERSION: ClusterVersion = 1;
/// The group clock, and the cluster version itself, are in the state.
pub const GROUP_CLOCK_VERSION: ClusterVersion = 2;

/// What cannot be applied is refused by all members alike; revisions and clocks have bounds; no outcome is forgotten early; and the votes
/// for the successor of a leader need its word.
pub const STRICT_VERSION: ClusterVersion = 3;

/// What this program speaks.
pub const SPOKEN: VersionRange = VersionRange { min: FIRST_VERSION, max: STRICT_VERSION };

/// What joins a program's version and its range: build metadata, as Semantic Versioning calls it.
const LABEL: &str = "+cluster.";

/// The lowest and the highest cluster version that a program speaks, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest.
    pub min: ClusterVersion,
    /// The highest.
    pub max: ClusterVersion,
}

impl VersionRange {
    /// What a program of version 0.1.0 speaks.
    pub const FIRST: Self = Self { min: FIRST_VERSION, max: FIRST_VERSION };

    /// As it came in a message. Version 0.1.0 sends neither number.
    pub fn from_wire(min: u32, max: u32) -> Self {
        if min == 0 || max < min { Self::FIRST } else { Self { min, max } }
    }

    /// Whether the version is spoken.
    pub fn contains(self, version: ClusterVersion) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// What both speak; `None` = nothing.
    pub fn and(self, other: Self) -> Option<Self> {
        let both = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        (both.min <= both.max).then_some(both)
    }

    /// The version of a program with its range behind it: `0.2.0+cluster.1-2`.
    pub fn label(self, program: &str) -> String {
        format!("{program}{LABEL}{}-{}", self.min, self.max)
    }

    /// The version in what [`label`](Self::label) made.
    pub fn program_of(version: &str) -> &str {
        version.split_once(LABEL).map_or(version, |(program, _)| program)
    }

    /// The range in a version that [`label`](Self::label) made. Any other text is version 0.1.0's.
    pub fn of_label(version: &str) -> Self {
        let range = version.split_once(LABEL).and_then(|(_, range)| range.split_once('-'));
        let parsed = range.and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
        parsed.map_or(Self::FIRST, |(min, max)| Self::from_wire(min, max))
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_no_range_is_of_version_0_1_0() {
        for (min, max) in [(0, 0), (0, 7), (3, 2)] {
            assert_eq!(VersionRange::from_wire(min, max), VersionRange::FIRST, "{min} to {max}");
        }
        for text in ["", "0.1.0", "0.1.0+cluster.", "0.1.0+cluster.2", "0.1.0+cluster.x-2", "0.1.0+cluster.0-2"] {
            assert_eq!(VersionRange::of_label(text), VersionRange::FIRST, "{text}");
        }
    }

    #[test]
    fn a_range_comes_back_from_its_label() {
        let range = VersionRange { min: 2, max: 13 };
        assert_eq!(range.label("0.9.1"), "0.9.1+cluster.2-13");
        assert_eq!(VersionRange::of_label("0.9.1+cluster.2-13"), range);
        assert_eq!(["0.9.1+cluster.2-13", "0.1.0"].map(VersionRange::program_of), ["0.9.1", "0.1.0"]);
        assert_eq!(range.to_string(), "2 to 13");
    }

    #[test]
    fn what_both_speak() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 2).and(range(2, 3)), Some(range(2, 2)));
        assert_eq!(range(1, 2).and(range(3, 4)), None);
        assert!(range(1, 2).contains(2) && !range(1, 2).contains(3));
    }
}
