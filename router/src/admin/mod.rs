//! The HTTP interface of the control plane: `/v1/cluster`.
