//! The HTTP front door of RaftKV over a [`Backend`]: the native `/v1` surface and the four compatible ones.
//!
//! An engine serves it over its own group, the shard router over many groups; a request means the same in both.

mod backend;

pub use backend::{
    Backend, BackendError, Consistency, Entry, ListRequest, Membership, Page, Read, RequestContext, ServedBy,
};
