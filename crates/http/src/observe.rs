//! [`Observer`]: counts requests and measures how long they take, without work per request but the counting.

use std::sync::OnceLock;
use std::time::Instant;

use axum::http::{Method, StatusCode};
use metrics::{Counter, Histogram};

use crate::surface::Surface;

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Handles of the metrics, made at their first use and kept: looking one up by its labels costs more than a request
/// should. The process installs its recorder before it serves.
#[derive(Default)]
pub(crate) struct Observer {
    requests: [[[OnceLock<Counter>; CLASSES.len()]; METHODS.len()]; Surface::COUNT],
    seconds: [[OnceLock<Histogram>; METHODS.len()]; Surface::COUNT],
}

impl Observer {
    pub(crate) fn record(&self, surface: Surface, method: &Method, status: StatusCode, since: Instant) {
        let verb = match *method {
            Method::GET | Method::HEAD => 0,
            Method::PUT => 1,
            Method::POST => 2,
            Method::DELETE => 3,
            _ => 4,
        };
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[surface as usize][verb][class]
            .get_or_init(|| {
                metrics::counter!(
                    "raftkv_http_requests_total",
                    "surface" => surface.name(), "method" => METHODS[verb], "status" => CLASSES[class]
                )
            })
            .increment(1);
        self.seconds[surface as usize][verb]
            .get_or_init(|| {
                metrics::histogram!(
                    "raftkv_http_request_seconds", "surface" => surface.name(), "method" => METHODS[verb]
                )
            })
            .record(since.elapsed().as_secs_f64());
    }
}
