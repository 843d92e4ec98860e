//! Everything that takes whole clusters, in one program: twenty of them took minutes of every build to link.

mod apply_purge;
mod command_line;
mod compaction;
mod consistency;
mod containers;
mod contract;
mod damage;
mod disk_full;
mod failover;
mod failpoints;
mod faultfs;
mod lease;
mod local;
mod membership;
mod paths;
mod planted;
mod power_loss;
mod shards;
mod shards_faults;
mod shards_grow;
mod snapshot;
mod soak;
mod standing;
mod startup;
mod suite;
mod wrong_cluster;
