//! [`PoweredCluster`]: a cluster with a simulated disk per node and a common power supply.

use std::ops::Deref;

use anyhow::Context;
use rustix::process::Signal;

use super::{Counts, Fault, FaultFs, Fired, Loss, NamePromise};
use crate::cluster::{Cluster, ClusterBuilder};
use crate::node::Node;

/// A cluster on disks that lose unsynced data at a power loss.
#[derive(Debug)]
pub struct PoweredCluster {
    // `None` only during the shutdown.
    cluster: Option<Cluster>,
    disks: Vec<FaultFs>,
}

impl PoweredCluster {
    /// Starts the cluster. Without mount support, prints a notice and returns `None`.
    pub async fn start(builder: ClusterBuilder, promise: NamePromise) -> anyhow::Result<Option<Self>> {
        let mut cluster = Self { cluster: Some(builder.create().await?), disks: Vec::new() };
        for index in 0..cluster.nodes().len() {
            let Some(disk) = FaultFs::mount(cluster.nodes()[index].dir(), promise)? else {
                cluster.finish().await?;
                return Ok(None);
            };
            cluster.disks.push(disk);
        }
        for node in cluster.nodes() {
            node.start()?;
        }
        cluster.whole(cluster.nodes().len()).await?;
        Ok(Some(cluster))
    }

    /// The disk of a node.
    pub fn disk(&self, node: &Node) -> &FaultFs {
        &self.disks[node.index() - 1]
    }

    /// All disks, in the order of the nodes.
    pub fn disks(&self) -> &[FaultFs] {
        &self.disks
    }

    /// Injects the same fault into every disk.
    pub fn inject_everywhere(&self, fault: &Fault) -> Vec<Fired> {
        self.disks.iter().map(|disk| disk.inject(fault.clone())).collect()
    }

    /// Sum of the counts of all disks.
    pub fn counts(&self) -> Counts {
        self.disks.iter().map(FaultFs::counts).fold(Counts::default(), |sum, one| sum + one)
    }

    /// Cuts the power of all nodes: kills all processes and discards data not durable. The nodes stay down.
    pub fn power_off(&mut self, loss: Loss, seed: u64) -> anyhow::Result<()> {
        // Signals first: otherwise the last processes would run longer than the first.
        for process in self.nodes().iter().flat_map(|node| [node.sidecar(), node.engine()]) {
            // Fails only if the process has already exited.
            let _ = process.signal(Signal::KILL);
        }
        for node in self.nodes() {
            node.kill();
        }
        for (disk, number) in self.disks.iter_mut().zip(1..) {
            disk.power_loss(loss, seed.wrapping_mul(31).wrapping_add(number))?;
        }
        Ok(())
    }

    /// Cuts the power of a node. The node stays down.
    pub fn power_off_node(&mut self, node: &Node, loss: Loss, seed: u64) -> anyhow::Result<()> {
        node.kill();
        self.disks[node.index() - 1].power_loss(loss, seed)
    }

    /// Starts the processes not running.
    pub fn power_on(&self) -> anyhow::Result<()> {
        self.nodes().iter().try_for_each(|node| node.start())
    }

    /// Allows intended exits of processes.
    pub fn expect_fatal(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            cluster.expect_fatal();
        }
    }

    /// Ends the cluster after a successful test, like [`Cluster::finish`].
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let cluster = self.cluster.take().context("it has ended")?;
        cluster.nodes().iter().for_each(|node| node.kill());
        self.disks.clear();
        cluster.finish().await
    }
}

impl Deref for PoweredCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        match &self.cluster {
            Some(cluster) => cluster,
            None => unreachable!("it is there until `finish` takes it, with all of `self`"),
        }
    }
}

impl Drop for PoweredCluster {
    fn drop(&mut self) {
        let Some(cluster) = self.cluster.take() else { return };
        for node in cluster.nodes() {
            node.kill();
            // Keeps the data of a failed test beside the logs.
            let kept = cluster.dir().join(format!("{}-disk", node.name()));
            if let Some(disk) = self.disks.get(node.index() - 1)
                && let Err(error) = disk.copy_to(&kept)
            {
                println!("the disk of {} cannot be kept: {error:#}", node.name());
            }
        }
        self.disks.clear();
    }
}
