//! The Rust client of RaftKV: [`Client`] for keys and values, over HTTP.
//!
//! Below it are the parts that the `raftkv` command uses directly: [`Transport`] sends a request to the first of several addresses
//! that serves it, [`Retry`] repeats a request until a deadline, and [`Interface`] tells RaftKV's answers from another program's.

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
