//! The engine process of a RaftKV node.
