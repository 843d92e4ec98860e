//! Cluster and fault tests: real processes and real containers.
