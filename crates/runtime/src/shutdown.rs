//! [`Shutdown`]: the one place where a process learns that it should stop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that ended by SIGINT, as shells report it.
const EXIT_SIGINT: i32 = 128 + 2;
/// Exit code of a process that ended by SIGTERM, as shells report it.
const EXIT_SIGTERM: i32 = 128 + 15;

/// A request to stop, shared by everything in a process. Once triggered it stays so.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Not triggered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Triggers on the first SIGTERM or SIGINT; the second one ends the process at once (143 or 130), for whoever does
    /// not want to wait for the drain.
    ///
    /// Call within a tokio runtime. The handlers are installed when this returns.
    pub fn signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let (name, code) = tokio::select! {
                    Some(()) = terminate.recv() => ("SIGTERM", EXIT_SIGTERM),
                    Some(()) = interrupt.recv() => ("SIGINT", EXIT_SIGINT),
                    else => return,
                };
                if shutdown.is_triggered() {
                    tracing::warn!("{name} while stopping: ending at once");
                    std::process::exit(code);
                }
                tracing::info!("{name}: stopping");
                shutdown.trigger();
            }
        });
        Ok(())
    }

    /// Asks everything to stop. More than once is as good as once.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether it was triggered.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once it was triggered. Cancel safe.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// A shutdown of a part: triggered with this one, but can be triggered alone.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }

    /// The token behind it, for code that wants one.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn triggering_reaches_clones_and_children_but_never_the_parent() {
        let parent = Shutdown::new();
        let child = parent.child();
        let other_child = parent.child();

        child.trigger();
        assert!(child.is_triggered() && !parent.is_triggered() && !other_child.is_triggered());

        parent.clone().trigger();
        parent.wait().await;
        other_child.wait().await;
    }

    #[tokio::test]
    async fn the_first_signal_triggers() {
        let shutdown = Shutdown::new();
        shutdown.signals().expect("install handlers");
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).expect("raise");
        tokio::time::timeout(std::time::Duration::from_secs(10), shutdown.wait()).await.expect("triggered in time");
    }
}
