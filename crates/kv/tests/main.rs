//! The data model from outside.
#![allow(clippy::unwrap_used)] // A test that unwraps says where it failed.

mod codec;
mod ownership;
mod value;
