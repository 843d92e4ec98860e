//! [`Flusher`]: flushes memtables beside the work of the apply thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Fatal;
use super::generation::Generation;
use super::shared::Shared;

/// How often somebody who waits for room looks again.
const POLL: Duration = Duration::from_millis(1);
/// How often it is told that nothing is applied because a flush takes so long.
const COMPLAINT: Duration = Duration::from_secs(10);

/// The apply thread's side of the thread that flushes. Dropping it ends that thread after the flush that it is at.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    memtable_bytes: usize,
    /// One at a time: a flush takes all there is when it begins.
    requests: Option<SyncSender<Arc<Generation>>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread. Memtables are flushed from `memtable_bytes` on.
    pub(super) fn start(shared: Arc<Shared>, memtable_bytes: usize) -> io::Result<Self> {
        let (requests, queue) = sync_channel(1);
        let of_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("store-flush".to_owned()).spawn(move || flush_all(&of_thread, &queue))?;
        Ok(Self { shared, memtable_bytes, requests: Some(requests), thread: Some(thread) })
    }

    /// Asks for a flush if it is time for one. Where the disk does not keep up it waits, so that memory stays bounded: at a
    /// quarter more than a memtable may have.
    pub(super) fn make_room(&self, generation: &Arc<Generation>) {
        let mut told = Instant::now();
        loop {
            let (bytes, written) = generation.unflushed();
            if bytes < self.memtable_bytes && written < self.memtable_bytes.saturating_mul(2) {
                return;
            }
            if let Some(requests) = &self.requests {
                // One that waits already will do.
                let _ = requests.try_send(Arc::clone(generation));
            }
            if bytes < self.memtable_bytes.saturating_add(self.memtable_bytes / 4) || self.shared.is_stopped() {
                return;
            }
            if told.elapsed() >= COMPLAINT {
                told = Instant::now();
                tracing::warn!(bytes, "nothing is applied until a flush has ended: the disk does not keep up");
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.requests = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that flushes had panicked");
        }
    }
}

fn flush_all(shared: &Shared, queue: &Receiver<Arc<Generation>>) {
    while let Ok(generation) = queue.recv() {
        if shared.is_stopped() {
            return;
        }
        if let Err(error) = generation.flush() {
            shared.stop(Fatal::io(format!("a table could not be written: {error}")));
            return;
        }
    }
}
