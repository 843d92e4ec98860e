//! The sidecar process of a RaftKV node.
