//! Tests of the public API of the data model.
#![allow(clippy::unwrap_used)] // A test that unwraps says where it failed.

mod codec;
mod ownership;
mod value;
