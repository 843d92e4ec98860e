//! The Rust client of RaftKV: [`Client`] for keys and values, over HTTP.
//!
//! Below [`Client`] are the parts used directly by the `raftkv` command: [`Transport`] sends a request to the first of
//! several addresses able to serve the request, [`Retry`] repeats a request until a deadline, and [`Interface`]
//! distinguishes answers of RaftKV from answers of other programs.

mod answer;
mod client;
mod endpoints;
mod error;
mod interface;
mod retry;
mod transport;

pub use answer::Answer;
pub use client::{Client, Condition, Entry, Written};
pub use endpoints::{Endpoints, encode};
pub use error::{Error, Kind};
pub use interface::Interface;
pub use retry::{ATTEMPT, Request, Retry, fresh_key};
pub use transport::Transport;
