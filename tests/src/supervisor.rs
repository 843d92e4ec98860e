//! [`Supervisor`]: starts again what ended, as a container's restart policy would.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process::Process;

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(50);

/// A thread that looks after processes until it is dropped.
#[derive(Debug)]
pub(crate) struct Supervisor {
    processes: Arc<Mutex<Vec<Arc<Process>>>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts with nothing to look after.
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

    /// Looks after this one, too.
    pub(crate) fn add(&self, process: Arc<Process>) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).push(process);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and there is nobody to tell if it did.
            let _ = thread.join();
        }
    }
}
