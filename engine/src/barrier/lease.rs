//! [`Lease`]: the leader lease, for linearizable reads without a round trip.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use raftkv_link::stream_link::{LinkEvent, StreamLink};
use raftkv_proto::consensus::{LeaseAck, LeaseGrant};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_runtime::{clock, planted};
use tokio::sync::watch;

use super::service::Service;

/// The lease granted by the sidecar to this engine. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Lease {
    /// Expiry by the boot-time clock, which includes suspended time; 0 = no lease.
    until_ns: Arc<AtomicU64>,
}

impl Lease {
    /// Whether a read finished **before** this call is linearizable.
    ///
    /// A process suspended between the read and this call detects the expiry here.
    pub(super) fn holds(&self) -> bool {
        // The read must not be reordered after the clock.
        fence(Ordering::SeqCst);
        let until_ns = self.until_ns.load(Ordering::SeqCst);
        until_ns != 0 && (clock::boottime_ns() < until_ns || planted!(StaleLease))
    }

    /// Applies grants and revocations of the sidecar until `stop`. A grant is valid while the stream is open, and only
    /// if the store has applied up to the index in the grant: a store with lost state has to catch up first.
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
                    // A sidecar out of service sends the reason first.
                    service.set("");
                    // Without a clock id the sidecar grants no lease.
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
                    // Without this acknowledgement the sidecar waits until the grant expires.
                    let _ = link.send(LeaseAck { revocation, ..LeaseAck::default() });
                }
                LinkEvent::NotOpened(_) | LinkEvent::Lost(_) => self.until_ns.store(0, Ordering::SeqCst),
            }
        }
        self.until_ns.store(0, Ordering::SeqCst);
    }
}
