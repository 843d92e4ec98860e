//! [`Lan`]: a private network with a namespace per node, to drop and delay real packets.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use rand::RngExt;

/// Set to 1 to fail on a machine without support for network namespaces.
const REQUIRED: &str = "RAFTKV_REQUIRE_NETNS";
/// Search path for the programs.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Networks tried: the range reserved for tests (198.18.0.0/15) has 512.
const ATTEMPTS: usize = 20;
/// Last byte of the test process's address.
const HOST: u8 = 254;

/// Nodes on a bridge, each in a namespace, like hosts on a switch. Dropping removes everything.
#[derive(Debug)]
pub struct Lan {
    prefix: String,
    network: [u8; 3],
    nodes: usize,
    ip: PathBuf,
    iptables: PathBuf,
}

impl Lan {
    /// Creates a network for `nodes` nodes. Without support for namespaces, prints a notice and returns `None`, or an error if required.
    pub fn create(nodes: usize) -> anyhow::Result<Option<Self>> {
        let created = (|| {
            let (ip, iptables) = (program("ip")?, program("iptables")?);
            let mut last = None;
            for _ in 0..ATTEMPTS {
                let mut rng = rand::rng();
                let network = [198, rng.random_range(18..=19), rng.random_range(0..=255)];
                let prefix = format!("rkv{:02x}{:02x}", network[1], network[2]);
                let lan = Self { prefix, network, nodes: 0, ip: ip.clone(), iptables: iptables.clone() };
                match lan.build(nodes) {
                    Ok(lan) => return Ok(lan),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.context("no attempt was made")?)
        })();
        match created {
            Ok(lan) => Ok(Some(lan)),
            Err(error) if std::env::var(REQUIRED).is_ok_and(|required| required == "1") => Err(error),
            Err(error) => {
                println!("SKIPPED: no network namespaces here: {error:#}. Set {REQUIRED}=1 to make this a failure.");
                Ok(None)
            }
        }
    }

    fn build(mut self, nodes: usize) -> anyhow::Result<Self> {
        let hub = self.namespace(0);
        // An existing network belongs to another test; `drop` must not remove it.
        if let Err(error) = self.ip(&["netns", "add", &hub]) {
            std::mem::forget(self);
            return Err(error);
        }
        let (port, host) = (format!("{}r", self.prefix), format!("{}/24", self.address(HOST)));
        self.ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        self.ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        self.ip(&["link", "add", &port, "type", "veth", "peer", "name", "host", "netns", &hub])?;
        self.ip(&["addr", "add", &host, "dev", &port])?;
        self.ip(&["link", "set", &port, "up"])?;
        self.ip(&["-n", &hub, "link", "set", "host", "master", "br0", "up"])?;
        for index in 1..=nodes {
            let (name, port) = (self.namespace(index), format!("n{index}"));
            self.ip(&["netns", "add", &name])?;
            self.nodes = index;
            let address = format!("{}/24", self.node(index));
            self.ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            self.ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            self.ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
            self.ip(&["-n", &name, "link", "set", "lo", "up"])?;
            self.ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(self)
    }

    /// Address of node number `index`, counted from 1.
    pub fn node(&self, index: usize) -> Ipv4Addr {
        self.address(index as u8)
    }

    /// Drops packets larger than `bytes` between node `index` and `other`, in both directions.
    pub fn drop_larger(&self, index: usize, other: usize, bytes: u32) -> anyhow::Result<()> {
        let (other, length) = (self.node(other).to_string(), format!("{}:65535", bytes + 1));
        for (chain, end) in [("INPUT", "-s"), ("OUTPUT", "-d")] {
            let rule = ["-A", chain, end, &other, "-m", "length", "--length", &length, "-j", "DROP"];
            self.iptables(index, &rule)?;
        }
        Ok(())
    }

    /// Removes all rules of [`drop_larger`](Self::drop_larger) from node `index`.
    pub fn heal(&self, index: usize) -> anyhow::Result<()> {
        self.iptables(index, &["-F"])
    }

    /// Command prefix to start a program in the namespace of node `index`.
    pub(crate) fn wrapper(&self, index: usize) -> Vec<String> {
        vec![self.ip.display().to_string(), "netns".to_owned(), "exec".to_owned(), self.namespace(index)]
    }

    fn iptables(&self, index: usize, rule: &[&str]) -> anyhow::Result<()> {
        let (name, iptables) = (self.namespace(index), self.iptables.display().to_string());
        let mut all = vec!["netns", "exec", &name, &iptables, "-w"];
        all.extend(rule);
        self.ip(&all)
    }

    fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let done = Command::new(&self.ip).args(arguments).output().context("run ip")?;
        ensure!(done.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    fn namespace(&self, index: usize) -> String {
        format!("{}n{index}", self.prefix)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, last)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Deleting a namespace removes its interfaces; the host's port is removed with its peer.
        for index in 0..=self.nodes {
            if let Err(error) = self.ip(&["netns", "del", &self.namespace(index)]) {
                println!("a network namespace is left over: {error:#}");
            }
        }
    }
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    match DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!("there is no {name} in {}", DIRECTORIES.join(", ")),
    }
}
