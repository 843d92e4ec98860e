//! The data plane: carries the requests of clients. A [`map`] says which group owns which slot, [`group`] speaks to the nodes of one group,
//! [`groups`] keeps a client for each group of the map, and [`backend`] serves the HTTP surfaces with them.

pub mod backend;
pub mod group;
pub mod groups;
pub mod map;
