//! Limits and budgets of the HTTP API, with their reasons: [`HttpLimits`] of connections and requests, and those of the backends
//! behind it. Sizes of keys, values, batches and pages are in [`raftkv_kv::Limits`], deadlines in [`ApiConfig`](crate::ApiConfig).
//!
//! `docs/reference/limits.md` has them all in a table, which a test compares with these values.

use std::time::Duration;

use metrics::Gauge;
use raftkv_runtime::guard::Hosts;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Client connections of a node. More clients than a node serves fast; each costs some kilobytes while it is idle. Needs as many file
/// descriptors.
pub const NODE_CONNECTIONS: usize = 4_096;
/// The same for a router, which has no store: half of the descriptors that containers usually get at least.
pub const ROUTER_CONNECTIONS: usize = 8_192;
/// Lists that read a node's store at once: each keeps a thread busy, and the disk serves few better than many.
pub const NODE_RUNNING_LISTS: usize = 8;
/// Lists that a router merges at once: each holds about a page and a fourth in memory.
pub const ROUTER_RUNNING_LISTS: usize = 16;
/// Lists that run or wait their turn, at a node or a router. More are answered 429.
pub const MAX_LISTS: usize = 256;
/// Requests that a router holds because their slots are moving. More than the connections that are served by default; beyond it the
/// answer is 429.
pub const HELD_REQUESTS: usize = 16 * 1024;
/// Bytes of such requests; beyond it the answer is 429.
pub const HELD_BYTES: usize = 64 * MIB;
/// Header lines of a request; more is answered 431. So many the HTTP library takes without an allocation for each request.
pub const MAX_HEADER_LINES: usize = 100;

/// About as much as a core answers in the time that a client waits without noticing.
const MAX_IN_FLIGHT: usize = 4_096;
/// A key of 4 KiB, percent-encoded, and then some.
const MAX_HEADER_BYTES: usize = 32 * KIB;
/// The largest batch of the default limits in JSON, with room for its encoding.
const MAX_BODY_BYTES: usize = 16 * MIB;
/// Nearly all puts and gets are smaller; some hundreds of this size fit the rooms of the small ones.
const SMALL_BYTES: usize = 64 * KIB;
/// Held until the log is durable: 1,024 of the largest bodies that are small, as many as version 0.1.0 took, and four of the largest.
const SMALL_BODY_ROOM: usize = 64 * MIB;
const LARGE_BODY_ROOM: usize = 64 * MIB;
/// Held until they are written, which is mostly at once: 256 of the largest answers that are small, and about 16 full pages of a list.
const SMALL_ANSWER_ROOM: usize = 16 * MIB;
const LARGE_ANSWER_ROOM: usize = 64 * MIB;
/// Some dozens of those who monitor a process at once.
const OPERATIONS_ROOM: usize = 4 * MIB;
/// What a body that is still on its way after five seconds must have brought in them: less is a client that stands still.
const MIN_BODY_SPEED: u64 = 1_024;
const BODY_SPEED_WINDOW: Duration = Duration::from_secs(5);
/// On average, from the tenth second of an answer on: 4 MiB take at most four and a half minutes. A slow mobile network has twice that.
const MIN_ANSWER_SPEED: u64 = 16 * 1_024;
const ANSWER_GRACE: Duration = Duration::from_secs(10);
/// A client this fast is no attacker's and is never cut for others; it is done with the largest body or page within a minute.
const SLOW_BELOW: u64 = 256 * 1_024;
/// No speed is known before; a connection that was used a moment ago is about to be used again.
const SPARED: Duration = Duration::from_secs(1);
/// A client's pool uses its connections at least once a minute, or would rather open new ones: load balancers close them by then.
const KEPT_IDLE: Duration = Duration::from_secs(60);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Above the usual idle time of load balancers (60 s), so that they close first and never meet a closed one.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a port's places, in percent. Beyond it connections that nobody uses are closed.
const CROWDED_PERCENT: usize = 90;
/// Beyond this, in percent, so few places are left that pools have to give some. The rest is for those who come meanwhile.
const FULL_PERCENT: usize = 99;

/// Answers of this size and below are not counted: their number is bounded by that of the connections, each of which has buffers of
/// this size anyway. Small puts and gets so cost nothing here.
pub const UNCOUNTED_ANSWER_BYTES: usize = 4 * KIB;

/// Size of the pieces of a page: those that are written are given back while the rest waits for its reader.
pub(crate) const PIECE_BYTES: usize = 64 * KIB;

/// Bounds of connections and requests. All sizes are in bytes, speeds in bytes a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Open connections. More wait in the kernel's queue until one closes.
    pub max_connections: usize,
    /// Share of `max_connections` in percent from which on connections are closed that have been idle for longer than `kept_idle`:
    /// each time the one that is idle longest, of the address that has the most idle ones.
    pub crowded_percent: usize,
    /// Share of `max_connections` in percent from which on no more than `spared` is needed.
    pub full_percent: usize,
    /// Requests being worked on. More are answered 429 with Retry-After, before any work; health checks never are.
    pub max_in_flight: usize,
    /// The head of a request; more is answered 431, and the connection is closed.
    pub max_header_bytes: usize,
    /// The body of a request; more is answered 413.
    pub max_body_bytes: usize,
    /// Up to this size bodies and answers are small, and count in the rooms of the small ones.
    pub small_bytes: usize,
    /// Small bodies in memory, together.
    pub small_body_room: usize,
    /// Larger bodies in memory, together.
    pub large_body_room: usize,
    /// Small answers that are not written to their sockets yet, together. Answers of up to 4 KiB are not counted.
    pub small_answer_room: usize,
    /// Larger answers that are not written to their sockets yet, together.
    pub large_answer_room: usize,
    /// Metrics and descriptions of the API that are not written to their sockets yet, together, whatever their size.
    pub operations_room: usize,
    /// Least speed of a body in each `body_speed_window`; a slower one is answered 408.
    pub min_body_speed: u64,
    /// The time over which the speed of a body is measured.
    pub body_speed_window: Duration,
    /// Least speed at which an answer is read, on average after `answer_grace`; the connection of a slower reader is closed.
    pub min_answer_speed: u64,
    /// How long an answer may take beyond what `min_answer_speed` grants.
    pub answer_grace: Duration,
    /// Where a room is full, the slowest client in it is cut if it is slower than this. Where none is, the newcomer is answered 429.
    pub slow_below: u64,
    /// How long a body or an answer is spared from being cut for others, and an idle connection where hardly a place is left.
    pub spared: Duration,
    /// How long an idle connection is spared from being closed for others while some places are left.
    pub kept_idle: Duration,
    /// How long the head of a request may take from its first byte, and the first request from the connection on.
    pub header_timeout: Duration,
    /// How long the body of a request may take; longer is answered 408.
    pub body_timeout: Duration,
    /// How long a connection may be without a request.
    pub keep_alive_timeout: Duration,
    /// How long a client may leave its answer unread.
    pub write_timeout: Duration,
    /// How long requests in flight get to end once shutdown has begun.
    pub drain_timeout: Duration,
    /// Host names by which browsers may send requests; other requests of browsers are answered 403.
    pub hosts: Hosts,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_connections: ROUTER_CONNECTIONS,
            crowded_percent: CROWDED_PERCENT,
            full_percent: FULL_PERCENT,
            max_in_flight: MAX_IN_FLIGHT,
            max_header_bytes: MAX_HEADER_BYTES,
            max_body_bytes: MAX_BODY_BYTES,
            small_bytes: SMALL_BYTES,
            small_body_room: SMALL_BODY_ROOM,
            large_body_room: LARGE_BODY_ROOM,
            small_answer_room: SMALL_ANSWER_ROOM,
            large_answer_room: LARGE_ANSWER_ROOM,
            operations_room: OPERATIONS_ROOM,
            min_body_speed: MIN_BODY_SPEED,
            body_speed_window: BODY_SPEED_WINDOW,
            min_answer_speed: MIN_ANSWER_SPEED,
            answer_grace: ANSWER_GRACE,
            slow_below: SLOW_BELOW,
            spared: SPARED,
            kept_idle: KEPT_IDLE,
            header_timeout: HEADER_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
            hosts: Hosts::default(),
        }
    }
}

/// The longest a connection goes without being looked at for timeouts.
const MAX_TICK: Duration = Duration::from_secs(1);

impl HttpLimits {
    /// Often enough to keep the shortest timeout of connections within a quarter of it.
    pub(crate) fn tick(&self) -> Duration {
        let shortest = self.header_timeout.min(self.keep_alive_timeout).min(self.write_timeout);
        (shortest / 4).min(self.spared).clamp(Duration::from_millis(1), MAX_TICK)
    }
}

/// A list that runs or waits its turn: counts in `raftkv_http_lists` until it is dropped.
#[derive(Debug)]
pub struct CountedList(Gauge);

impl CountedList {
    /// One more.
    pub fn begin() -> Self {
        let gauge = metrics::gauge!("raftkv_http_lists");
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for CountedList {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Counts a list that was refused because of [`MAX_LISTS`].
pub fn count_refused_list() {
    metrics::counter!("raftkv_http_lists_refused_total").increment(1);
}
