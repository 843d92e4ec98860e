//! [`Expiry`]: until when a change of a group may begin, by the clock of the process that is to make it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// HTTP header of a change on the management port: an [`Expiry`] as text. Optional.
pub const EXPIRY_HEADER: &str = "raftkv-expires";

/// A deadline that the receiver of a request can judge by its own clock.
///
/// A request may lie in front of a process that stands still long after its sender has given up, and clocks of two machines
/// differ. So the sender asks for the age of the process first, and names the age beyond which the process must not begin.
/// The wire's form is `INCARNATION:AGE_MS`, both decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The process whose age counts: a random number that it made when it started, never 0.
    pub incarnation: u64,
    /// Its age in milliseconds at which the change must have begun.
    pub age_ms: u64,
}

/// A text that is no [`Expiry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoExpiry;

impl Expiry {
    /// In `left`, for a process that has just said how old it is. Never later than the sender's own deadline: the answer was
    /// under way for a moment.
    pub fn after(incarnation: u64, age_ms: u64, left: Duration) -> Self {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        Self { incarnation, age_ms: age_ms.saturating_add(left) }
    }

    /// What is left of it for the process `incarnation` at the age of `age_ms`; `None` = it is over, or was meant for an
    /// earlier process.
    pub fn left(&self, incarnation: u64, age_ms: u64) -> Option<Duration> {
        let left = self.age_ms.saturating_sub(age_ms);
        (self.incarnation == incarnation && left > 0).then(|| Duration::from_millis(left))
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.incarnation, self.age_ms)
    }
}

impl FromStr for Expiry {
    type Err = NoExpiry;

    fn from_str(text: &str) -> Result<Self, NoExpiry> {
        let (incarnation, age_ms) = text.split_once(':').ok_or(NoExpiry)?;
        Ok(Self {
            incarnation: incarnation.parse().map_err(|_| NoExpiry)?,
            age_ms: age_ms.parse().map_err(|_| NoExpiry)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_at_its_age_and_for_every_other_process() {
        let expiry = Expiry::after(7, 1_000, Duration::from_millis(250));
        assert_eq!(expiry.to_string(), "7:1250");
        assert_eq!("7:1250".parse(), Ok(expiry));
        assert_eq!(expiry.left(7, 1_249), Some(Duration::from_millis(1)));
        assert_eq!(expiry.left(7, 1_250), None, "over");
        assert_eq!(expiry.left(8, 0), None, "started since");
        assert!(Expiry::after(7, 5, Duration::MAX).left(7, 0).is_some());
        for text in ["", "7", "7:", ":7", "7:x", "7:-1"] {
            assert_eq!(text.parse::<Expiry>(), Err(NoExpiry), "{text:?}");
        }
    }
}
