//! The engine's tests from outside, in one program.
#![allow(clippy::unwrap_used)] // A test that unwraps says where it failed.

mod barriers;
mod engine;
mod group;
mod leases;
mod proposer;
mod service;
mod support;
