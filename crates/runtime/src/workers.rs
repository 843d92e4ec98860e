//! How many threads a process of a node runs its tasks on, and what they do when they have none.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::busy_poll::{self, BusyPoll};
use crate::config::ConfigError;
use crate::{exit, settings};

/// Environment variable that overrides the number of threads, for every process.
pub const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The environment says something that makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The system gave no thread or no event queue.
    #[error("start the runtime: {0}")]
    Io(#[from] io::Error),
}

impl RuntimeError {
    /// What a process ends with that cannot start for it.
    pub fn exit_code(&self) -> exit::ExitCode {
        match self {
            Self::Config(_) => exit::USAGE,
            Self::Io(_) => exit::IO,
        }
    }
}

/// A runtime on `share` of the machine's cores (at least one thread), unless [`WORKER_THREADS`] says how many. Where that is
/// one thread it is the caller's own, without a scheduler for several: 6 % less processor time a put. That one thread
/// polls for a moment before it sleeps, see [`busy_poll`].
///
/// A node is two processes with threads of their own for storage, and several nodes may share a small machine. Threads
/// beyond the cores that are left cost more in wake-ups than they give: one thread instead of two for each process of
/// three nodes on two cores made puts 1.4 times and gets 1.7 times as fast.
///
/// # Errors
/// When the environment asks for something that cannot be, or the system refuses.
pub fn runtime(share: f64) -> Result<Runtime, RuntimeError> {
    let poll = busy_poll::from_environment()?;
    let threads = match asked(std::env::var(WORKER_THREADS).ok())? {
        Some(threads) => threads.get(),
        None => threads(std::thread::available_parallelism().map_or(1, NonZero::get), share),
    };
    if threads == 1 {
        return Ok(single(poll)?.0);
    }
    Ok(Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}

fn asked(value: Option<String>) -> Result<Option<NonZero<usize>>, ConfigError> {
    settings::parsed(WORKER_THREADS, value, None)
}

/// A runtime of one thread that polls for `longest` before it sleeps.
fn single(longest: Duration) -> io::Result<(Runtime, Arc<BusyPoll>)> {
    let poll = BusyPoll::new(longest);
    let mut builder = Builder::new_current_thread();
    builder.enable_all();
    if longest.is_zero() {
        return Ok((builder.build()?, poll));
    }
    let (before, after) = (Arc::clone(&poll), Arc::clone(&poll));
    builder.on_thread_park(move || before.before_sleep()).on_thread_unpark(move || after.after_sleep());
    let runtime = builder.build()?;
    runtime.spawn(Arc::clone(&poll).run());
    Ok((runtime, poll))
}

fn threads(cores: usize, share: f64) -> usize {
    ((cores as f64 * share) as usize).max(1)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use rustix::time::{ClockId, clock_gettime};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_share_of_the_cores_is_at_least_one_thread() {
        assert_eq!(threads(1, 0.25), 1);
        assert_eq!(threads(2, 0.5), 1);
        assert_eq!(threads(8, 0.5), 4);
        assert_eq!(threads(16, 0.25), 4);
    }

    #[test]
    fn the_environment_has_the_last_word() {
        let asked = |text: &str| asked(Some(text.to_owned())).map(|threads| threads.map(NonZero::get));
        assert_eq!(asked("1").unwrap(), Some(1));
        assert_eq!(asked("").unwrap(), None, "an empty variable is not set");
        for wrong in ["0", "two", "-1"] {
            let refused = asked(wrong).unwrap_err().to_string();
            assert!(refused.contains(WORKER_THREADS), "{refused}");
        }
    }

    /// Asks a thread that answers at once, a hundred times; returns whether an answer came while the runtime polled.
    fn ask_and_be_answered() -> bool {
        let (mut there, here) = UnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || {
            let mut byte = [0];
            while there.read(&mut byte).unwrap() > 0 {
                there.write_all(&byte).unwrap();
            }
        });
        let (runtime, poll) = single(Duration::from_millis(1)).unwrap();
        let polled = runtime.block_on(async {
            here.set_nonblocking(true).unwrap();
            let mut stream = tokio::net::UnixStream::from_std(here).unwrap();
            let mut polled = false;
            for number in 0..100 {
                stream.write_all(&[number]).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), number);
                polled |= poll.is_polling();
            }
            polled
        });
        answering.join().unwrap();
        polled
    }

    #[test]
    fn events_come_while_it_polls() {
        // On a busy machine somebody else may want the core each time, for a while.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !ask_and_be_answered() {
            assert!(Instant::now() < deadline, "it never polled");
        }
    }

    #[test]
    fn sleeps_when_there_is_nothing_to_do() {
        let used = || {
            let used = clock_gettime(ClockId::ThreadCPUTime);
            Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
        };
        let (runtime, _) = single(Duration::from_millis(1)).unwrap();
        runtime.block_on(async {
            // Timers that are frequent enough to be followed by polling, then nothing.
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let before = used();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let used = used() - before;
            assert!(used < Duration::from_millis(20), "{used:?} of processor time while idle");
        });
    }
}
