//! Failpoints: places in the code at which a test can end the process, hold it up or make a step fail.
//!
//! A crate with the feature `failpoints` stops by at each place that [`failpoint!`](crate::failpoint!) names; without it, as
//! in everything that is released, nothing of this is compiled. What happens at a place is said in the language of the
//! `fail` crate, as far as it goes, with one more word, `die`:
//!
//! ```text
//! sidecar::wal::before_fsync=3*off->die; engine::store::before_commit=1*sleep(300)
//! ```
//!
//! Steps are taken one after the other, each as often as the number before it says, the last one for ever when there is
//! none; after the last step nothing happens. The steps are
//!
//! | step | what happens |
//! |---|---|
//! | `off` | nothing |
//! | `die` | the process is gone as by SIGKILL: no destructor, nothing flushed |
//! | `sleep(MS)` | the thread stands still for so many milliseconds |
//! | `return(WHY)` | the step fails with an error that says why; at a place where nothing can fail, the process ends |
//!
//! They come from the variable `FAILPOINTS` at the start, and from a Unix socket while the process runs: each line that is
//! written to it is such a text, and is answered with `ok` or with what is wrong with it. Why not the crate itself: what it
//! calls a panic runs hooks and destructors, which a killed process does not.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::exit;

/// What happens where, from the start on.
const VARIABLE: &str = "FAILPOINTS";

/// What a process that dies writes to its standard error, before the name of the place.
pub const DYING: &str = "dying at the failpoint ";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Off,
    Die,
    Sleep(Duration),
    Return(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    /// How often; `None` = for ever.
    left: Option<u64>,
    action: Action,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Places(BTreeMap<String, VecDeque<Step>>);

static PLACES: LazyLock<Mutex<Places>> = LazyLock::new(|| {
    let mut places = Places::default();
    if let Ok(text) = std::env::var(VARIABLE)
        && let Err(why) = places.set(&text)
    {
        exit::fatal(exit::USAGE, format!("{VARIABLE}: {why}"));
    }
    Mutex::new(places)
});

fn places() -> MutexGuard<'static, Places> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process passes the place `name` where a step can fail. `Some`: it is to fail, and why.
pub fn pass(name: &str) -> Option<String> {
    let action = places().next(name);
    match action {
        Action::Off => None,
        Action::Die => die(name),
        Action::Sleep(time) => {
            std::thread::sleep(time);
            None
        }
        Action::Return(why) => Some(why),
    }
}

/// A process passes the place `name` where nothing can fail.
pub fn pass_by(name: &str) {
    if pass(name).is_some() {
        exit::fatal(exit::USAGE, format!("nothing can fail at the failpoint {name}"));
    }
}

fn die(name: &str) -> ! {
    // Straight to the file: no logger is waited for.
    let _ = std::io::stderr().write_all(format!("{DYING}{name}\n").as_bytes());
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

/// Takes orders on a Unix socket at `path`, from now on, in a thread of its own. Replaces a socket that is there.
///
/// # Errors
///
/// When the socket cannot be made, or the thread not be started.
pub fn listen(path: &Path) -> std::io::Result<()> {
    // Of a process that was killed.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    // Says at the start what is wrong with the variable.
    drop(places());
    std::thread::Builder::new().name("failpoints".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            // A test that has gone away needs no answer.
            let _ = stream.and_then(take_orders);
        }
    })?;
    tracing::warn!(path = %path.display(), "THIS PROCESS HAS FAILPOINTS: for tests only");
    Ok(())
}

fn take_orders(mut stream: UnixStream) -> std::io::Result<()> {
    let reader = BufReader::new(stream.try_clone()?);
    for line in reader.lines() {
        let line = line?;
        // Answered before anybody passes a place: the order may be the end of this process.
        let mut places = places();
        let answer = places.set(&line).map_or_else(|why| format!("{why}\n"), |()| "ok\n".to_owned());
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

impl Places {
    /// Takes over what a text says of places, or nothing of it. What was said of the same places before is forgotten.
    fn set(&mut self, text: &str) -> Result<(), String> {
        let places = text.split(';').map(str::trim).filter(|place| !place.is_empty());
        let place = |text: &str| {
            let (name, steps) = text.split_once('=').ok_or_else(|| format!("{text:?} is not like name=die"))?;
            let steps = steps.split("->").map(Step::parse).collect::<Result<VecDeque<_>, _>>()?;
            Ok((name.trim().to_owned(), steps))
        };
        let places = places.map(place).collect::<Result<Vec<_>, String>>()?;
        self.0.extend(places);
        Ok(())
    }

    /// What happens at this passing.
    fn next(&mut self, name: &str) -> Action {
        let Some(steps) = self.0.get_mut(name) else { return Action::Off };
        while let Some(step) = steps.front_mut() {
            match &mut step.left {
                None => return step.action.clone(),
                Some(0) => {
                    steps.pop_front();
                }
                Some(left) => {
                    *left -= 1;
                    return step.action.clone();
                }
            }
        }
        Action::Off
    }
}

impl Step {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no step: off, die, sleep(MS) or return(WHY), with 3* before it for three times");
        let text = text.trim();
        let (left, action) = match text.split_once('*') {
            Some((count, action)) => (Some(count.trim().parse().map_err(|_| wrong())?), action.trim()),
            None => (None, text),
        };
        let (word, argument) = match action.split_once('(') {
            Some((word, rest)) => (word, Some(rest.strip_suffix(')').ok_or_else(wrong)?)),
            None => (action, None),
        };
        let action = match (word, argument) {
            ("off", None) => Action::Off,
            ("die", None) => Action::Die,
            ("sleep", Some(millis)) => Action::Sleep(Duration::from_millis(millis.parse().map_err(|_| wrong())?)),
            ("return", Some(why)) => Action::Return(why.to_owned()),
            _ => return Err(wrong()),
        };
        Ok(Self { left, action })
    }
}

/// A place that a test can make the process die or stand still at: `failpoint!("engine::store::before_commit")`.
///
/// With a function that makes an error of a text, the function around it can be made to fail there:
/// `failpoint!("sidecar::wal::before_fsync", |why| io::Error::other(why))`. Compiles to nothing in a crate without the
/// feature `failpoints`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        {
            $crate::failpoints::pass_by($name);
        }
    };
    ($name:literal, $error:expr) => {
        #[cfg(feature = "failpoints")]
        {
            if let Some(why) = $crate::failpoints::pass($name) {
                return Err(($error)(why).into());
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Places {
        let mut places = Places::default();
        places.set(text).unwrap();
        places
    }

    #[test]
    fn steps_are_taken_in_order_and_as_often_as_told() {
        let mut places = places("a=2*off->1*return(full disk)->die; b = 1*sleep(5)");
        assert_eq!(places.next("a"), Action::Off);
        assert_eq!(places.next("a"), Action::Off);
        assert_eq!(places.next("b"), Action::Sleep(Duration::from_millis(5)));
        assert_eq!(places.next("b"), Action::Off);
        assert_eq!(places.next("a"), Action::Return("full disk".to_owned()));
        assert_eq!(places.next("a"), Action::Die);
        assert_eq!(places.next("a"), Action::Die);
        assert_eq!(places.next("elsewhere"), Action::Off);
        places.set("a=off").unwrap();
        assert_eq!(places.next("a"), Action::Off);
    }

    #[test]
    fn what_is_not_understood_changes_nothing() {
        let mut places = places("a=die");
        for bad in ["a", "a=", "a=dye", "a=x*off", "a=sleep", "a=sleep(5", "a=sleep(x)", "a=off->", "a=off;b=what"] {
            assert!(places.set(bad).is_err(), "{bad}");
        }
        assert_eq!(places.next("a"), Action::Die);
        assert_eq!(places.next("b"), Action::Off);
    }

    #[test]
    fn orders_come_over_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("points");
        listen(&path).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let mut ask = |line: &str| {
            stream.write_all(line.as_bytes()).unwrap();
            let mut answer = String::new();
            answers.read_line(&mut answer).unwrap();
            answer
        };
        assert!(ask("runtime::test=nonsense\n").contains("no step"));
        assert_eq!(ask("runtime::test=1*off->1*return(told)\n"), "ok\n");
        assert_eq!(pass("runtime::test"), None);
        assert_eq!(pass("runtime::test"), Some("told".to_owned()));
        assert_eq!(pass("runtime::test"), None);
    }
}
