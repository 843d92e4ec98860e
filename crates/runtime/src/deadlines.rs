//! How long administration takes at most, named once for the side that answers and for the side that waits.
//!
//! A client that gives up before the server does never sees the server's reason and has to call the outcome unknown.

use std::time::Duration;

/// A change of membership, or the end of a node: after this the management API answers 202 and continues.
pub const CHANGE: Duration = Duration::from_secs(10);
/// Handing leadership over.
pub const TRANSFER: Duration = Duration::from_secs(5);
/// Making the engine's state durable.
pub const SNAPSHOT: Duration = Duration::from_secs(30);
/// A node that forwards a change waits this much longer than the node that makes it, so that this one answers first.
pub const FORWARD_MARGIN: Duration = Duration::from_secs(2);
/// A router's reading, or one change, of the cluster document.
pub const ROUTER_DOCUMENT: Duration = Duration::from_secs(5);
/// A router's asking of nodes that are to become a group.
pub const ROUTER_LOOK: Duration = Duration::from_secs(3);
