//! [`Hold`]: for tests. Holds a move before a named action, so that processes can be killed exactly there.

use std::str::FromStr;
use std::time::Duration;

/// Where moves are held and for how long: `<action>:<milliseconds>`, several with commas. The default holds nowhere.
///
/// The actions are those that the log of a move names, such as `fence` or `commit`; `copy-fenced` is a page that is copied
/// while the slots are not served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hold(Vec<(String, Duration)>);

/// All places where a move can be held, in the order in which they are met.
pub const PLACES: [&str; 16] = [
    "begin-import",
    "begin-export",
    "copy-page",
    "record-fencing",
    "fence",
    "copy-fenced",
    "commit",
    "record-committed",
    "release",
    "record-released",
    "purge-source",
    "record-finished",
    "record-aborted",
    "abort-import",
    "abort-export",
    "purge-target",
];

impl Hold {
    /// How long a move is held before this action, the first time that it is met.
    pub fn before(&self, place: &str) -> Option<Duration> {
        self.0.iter().find(|(held, _)| held == place).map(|(_, time)| *time)
    }
}

impl FromStr for Hold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let places = text.split(',').map(str::trim).filter(|place| !place.is_empty());
        let place = |text: &str| {
            let (place, millis) = text.split_once(':').unwrap_or((text, ""));
            let millis = millis.parse().map_err(|_| format!("{text:?} is not like fence:5000"))?;
            if !PLACES.contains(&place) {
                return Err(format!("{place:?} is none of {}", PLACES.join(", ")));
            }
            Ok((place.to_owned(), Duration::from_millis(millis)))
        };
        places.map(place).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_names_and_times() {
        let hold: Hold = "fence:5000, commit:10".parse().unwrap();
        assert_eq!(hold.before("fence"), Some(Duration::from_secs(5)));
        assert_eq!(hold.before("commit"), Some(Duration::from_millis(10)));
        assert_eq!(hold.before("release"), None);
        assert_eq!("".parse::<Hold>(), Ok(Hold::default()));
        for bad in ["fence", "fence:", "fence:x", "nowhere:5"] {
            assert!(bad.parse::<Hold>().is_err(), "{bad}");
        }
    }
}
