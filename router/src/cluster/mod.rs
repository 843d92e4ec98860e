//! The control plane: the cluster document, its transitions, and the coordinator.
