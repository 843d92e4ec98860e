//! [`Lease`]: while the sidecar's lease holds, reading needs to ask nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use raftkv_link::stream_link::{LinkEvent, StreamLink};
use raftkv_proto::consensus::{LeaseAck, LeaseGrant};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_runtime::{clock, planted};
use tokio::sync::watch;

use super::service::Service;

/// What the sidecar granted this engine. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Lease {
    /// By the clock that counts the time the machine is suspended; 0 = nothing is granted.
    until_ns: Arc<AtomicU64>,
}

impl Lease {
    /// Whether what was read **before** this call is what a linearizable read may give.
    ///
    /// A process that is stopped between its read and this call finds out here how long that was.
    pub(super) fn holds(&self) -> bool {
        // The read must not be done after the clock was looked at.
        fence(Ordering::SeqCst);
        let until_ns = self.until_ns.load(Ordering::SeqCst);
        until_ns != 0 && (clock::boottime_ns() < until_ns || planted!(StaleLease))
    }

    /// Takes what the sidecar grants and revokes, until `stop`. A grant counts while the stream that brought it is open, and
    /// only in a store that has applied as far as it says: one that lost its state has to catch up first.
    pub(super) async fn keep(
        self,
        service: Service,
        mut link: StreamLink<LeaseAck, LeaseGrant>,
        applied: watch::Receiver<u64>,
        stop: Shutdown,
    ) {
        loop {
            let event = tokio::select! {
                event = link.next() => event,
                () = stop.wait() => break,
            };
            match event {
                LinkEvent::Opened => {
                    // A sidecar that has a reason begins with it.
                    service.set("");
                    // Without a name nothing will be granted.
                    let clock_id = clock::boottime_id().unwrap_or_default();
                    let _ = link.send(LeaseAck { clock_id, revocation: 0 });
                }
                LinkEvent::Answer(LeaseGrant { revocation: 0, until_ns, next_index, out_of_service }) => {
                    service.set(&out_of_service);
                    let counts = next_index <= *applied.borrow();
                    self.until_ns.store(if counts { until_ns } else { 0 }, Ordering::SeqCst);
                }
                LinkEvent::Answer(LeaseGrant { revocation, .. }) => {
                    self.until_ns.store(0, Ordering::SeqCst);
                    // A sidecar that does not hear of it waits until the grant has run out.
                    let _ = link.send(LeaseAck { revocation, ..LeaseAck::default() });
                }
                LinkEvent::NotOpened(_) | LinkEvent::Lost(_) => self.until_ns.store(0, Ordering::SeqCst),
            }
        }
        self.until_ns.store(0, Ordering::SeqCst);
    }
}
