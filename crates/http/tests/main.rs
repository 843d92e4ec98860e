//! The HTTP surfaces, as clients see them.
#![allow(clippy::unwrap_used)] // A test that unwraps says where it failed.

mod bad_input;
mod browsers;
mod budgets;
mod compat;
mod connections;
mod elsewhere;
mod native;
mod support;
