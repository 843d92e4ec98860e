//! The clock that two processes of one machine share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine was booted. Never steps, and counts the time that the machine is suspended.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // The kernel never gives a negative one.
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}

/// Names the clock that [`boottime_ns`] reads: processes that get the same name may compare what they read. `None` where
/// the system does not tell.
pub fn boottime_id() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // A time namespace has an offset of its own. A kernel without them has one clock.
    let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_and_has_one_name() {
        let (before, pause) = (boottime_ns(), std::time::Duration::from_millis(20));
        std::thread::sleep(pause);
        assert!(boottime_ns() - before >= pause.as_nanos() as u64);
        let id = boottime_id().expect("Linux tells");
        assert_eq!(boottime_id(), Some(id));
    }
}
