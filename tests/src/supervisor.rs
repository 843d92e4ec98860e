//! [`Supervisor`]: restarts processes after an exit, like a container's restart policy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process::Process;

/// Check interval.
const PERIOD: Duration = Duration::from_millis(50);

/// A thread that supervises processes until dropped.
#[derive(Debug)]
pub(crate) struct Supervisor {
    processes: Arc<Mutex<Vec<Arc<Process>>>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts a supervisor without processes.
    pub(crate) fn start() -> Self {
        let processes: Arc<Mutex<Vec<Arc<Process>>>> = Arc::default();
        let ending = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (processes, ending) = (Arc::clone(&processes), Arc::clone(&ending));
            move || {
                while !ending.load(Ordering::Relaxed) {
                    for process in processes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                        if let Err(error) = process.supervise() {
                            println!("the supervisor cannot restart {}: {error:#}", process.name());
                        }
                    }
                    std::thread::sleep(PERIOD);
                }
            }
        });
        Self { processes, ending, thread: Some(thread) }
    }

    /// Adds a process.
    pub(crate) fn add(&self, process: Arc<Process>) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).push(process);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread does not panic, and a panic could not be reported here.
            let _ = thread.join();
        }
    }
}
