//! [`LogWriter`]: log lines on their way to standard error, which may be full, closed or read by nobody.
//!
//! A service must not end, and must not stand still, because its log cannot be written. A line is written at once where that
//! cannot block. Where it could, it waits in a bounded queue for a thread. A line for which there is no room, or whose write
//! fails, is lost and counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use tracing_subscriber::fmt::MakeWriter;

use super::escape::escaped;

/// Bytes that may wait: thousands of lines, and no matter to a process that needs hundreds of megabytes.
pub(crate) const QUEUE_BYTES: usize = 1024 * 1024;
/// A pipe that is ready takes so many bytes whole or none of them (POSIX's `PIPE_BUF` on Linux).
const PIPE_BYTES: usize = 4_096;
/// How often the thread asks again whether a file that takes nothing now takes something.
const RETRY: Duration = Duration::from_millis(20);

/// Lines of this process that were lost.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Where log lines go. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// A line waits, or there is none any more.
    changed: Condvar,
    /// A file that never waits: a regular one, or a pipe that was opened for this. Lines are written to it at once.
    direct: Option<File>,
    /// Lines are coloured for a terminal.
    has_colours: bool,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread has one in its hands.
    writing: bool,
}

impl LogWriter {
    /// Writes to `to` from now on, with a thread of its own.
    pub(crate) fn start(to: OwnedFd, has_colours: bool) -> io::Result<Self> {
        let file = File::from(to);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            direct: never_waits(&file).ok().flatten(),
            has_colours,
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || of_thread.run(&file))?;
        Ok(Self { shared })
    }

    /// Waits until all lines are written or lost, for so long at most.
    pub(crate) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut queue = self.shared.lock();
        while queue.writing || !queue.lines.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            queue = self.shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, line: &[u8]) {
        let mut queue = self.lock();
        // In order: not past lines that wait.
        if !queue.writing
            && queue.lines.is_empty()
            && let Some(direct) = &self.direct
        {
            match write_at_once(direct, line) {
                Written::Whole => return,
                Written::Lost => return count_lost(),
                Written::Later => {}
            }
        }
        if queue.bytes + line.len() > QUEUE_BYTES {
            return count_lost();
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        drop(queue);
        self.changed.notify_all();
    }

    /// For ever: a process that ends does not wait for it, but for [`LogWriter::flush`].
    fn run(&self, file: &File) {
        loop {
            let mut queue = self.lock();
            let line = loop {
                if let Some(line) = queue.lines.pop_front() {
                    break line;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            queue.bytes -= line.len();
            queue.writing = true;
            drop(queue);
            if write_all(file, &line).is_err() {
                count_lost();
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

fn count_lost() {
    LOST.fetch_add(1, Ordering::Relaxed);
    publish_lost();
}

/// Tells the metrics how many lines were lost; also once they are set up, for lines may be lost before.
pub(crate) fn publish_lost() {
    metrics::counter!("raftkv_log_lines_lost_total").absolute(LOST.load(Ordering::Relaxed));
}

/// What became of a line that was to be written at once.
enum Written {
    Whole,
    Lost,
    Later,
}

/// `None` where only the thread may write, as to a socket or a terminal.
fn never_waits(file: &File) -> io::Result<Option<File>> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return file.try_clone().map(Some);
    }
    if !kind.is_fifo() {
        return Ok(None);
    }
    // Opened again, so that writing does not wait for this process only: others may share the pipe.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(Some(File::from(rustix::fs::open(path, flags, Mode::empty())?)))
}

fn write_at_once(mut file: &File, line: &[u8]) -> Written {
    if line.len() > PIPE_BYTES && !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Written::Later;
    }
    match file.write_all(line) {
        Ok(()) => Written::Whole,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Written::Later,
        Err(_) => Written::Lost,
    }
}

/// Waits as long as the file takes nothing, also where somebody has made it one that does not wait by itself.
fn write_all(mut file: &File, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match file.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Lines(&self.shared)
    }
}

/// Takes whole lines, and never fails: a logger that hears of an error tells it on standard error, too.
#[derive(Debug)]
pub(crate) struct Lines<'a>(&'a Shared);

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.submit(&escaped(line, self.0.has_colours));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn lines(writer: &LogWriter, count: usize, len: usize) {
        for number in 0..count {
            let line = format!("{number:06} {}\n", "x".repeat(len));
            writer.make_writer().write_all(line.as_bytes()).expect("never fails");
        }
    }

    /// The numbers of the lines, which must be whole.
    fn numbers(text: &str) -> Vec<usize> {
        text.lines().map(|line| line.split_once(' ').expect("whole").0.parse().expect("a number")).collect()
    }

    #[test]
    fn lines_come_in_order_into_a_file_and_through_a_pipe_that_is_read() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let writer = LogWriter::start(OwnedFd::from(file.reopen().expect("open")), false).expect("started");
        lines(&writer, 100, 20_000);
        let text = std::fs::read_to_string(file.path()).expect("text");
        assert_eq!(numbers(&text), (0..100).collect::<Vec<_>>(), "each is there at once");

        let (mut reader, end) = io::pipe().expect("pipe");
        let writer = LogWriter::start(OwnedFd::from(end), false).expect("started");
        let reading = std::thread::spawn(move || {
            let mut text = vec![0; 100 * (7 + 5_000 + 1)];
            reader.read_exact(&mut text).expect("all lines");
            text
        });
        // Half of what may wait, in lines that a pipe does not take at once.
        lines(&writer, 100, 5_000);
        writer.flush(PATIENCE);
        let text = String::from_utf8(reading.join().expect("read")).expect("text");
        assert_eq!(numbers(&text), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_waits_for_a_pipe_that_is_not_read_and_the_first_lines_are_kept() {
        let (mut reader, end) = io::pipe().expect("pipe");
        let writer = LogWriter::start(OwnedFd::from(end), false).expect("started");
        let begin = Instant::now();
        lines(&writer, 4_000, 1_000);
        assert!(begin.elapsed() < PATIENCE, "four megabytes took {:?}", begin.elapsed());
        writer.flush(Duration::from_millis(50));
        // The pipe and the queue hold the beginning.
        let mut text = vec![0; 1_000 * 1_008];
        reader.read_exact(&mut text).expect("what waited");
        assert_eq!(numbers(&String::from_utf8(text).expect("text")), (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_nothing_else() {
        let full = File::options().write(true).open("/dev/full").expect("a device that is always full");
        let (reader, closed) = io::pipe().expect("pipe");
        drop(reader);
        for to in [OwnedFd::from(full), OwnedFd::from(closed)] {
            let writer = LogWriter::start(to, false).expect("started");
            lines(&writer, 100, 100);
            writer.flush(PATIENCE);
            assert!(writer.shared.lock().lines.is_empty());
        }
    }
}
