//! Process information from the kernel.

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, SocketAddrV4};

use anyhow::{Context, anyhow};

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Current resident memory.
    pub resident: u64,
    /// Peak resident memory.
    pub peak: u64,
}

/// The memory of process `pid`.
pub fn memory_of(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map(|kilobytes| kilobytes * 1024)
            .ok_or_else(|| anyhow!("{path} has no {name}"))
    };
    Ok(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
}

/// Inodes of the open sockets of process `pid`. Empty after the end of the process.
pub fn socket_inodes(pid: u32) -> HashSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return HashSet::new() };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Inode of the socket at the `local` end of a TCP connection on this machine.
pub(crate) fn socket_inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else { return None };
    let ends = format!("{} {}", as_in_proc(local), as_in_proc(remote));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let line = table.lines().find(|line| line.contains(&ends))?;
    // sl local remote st queues timer retransmits uid timeout inode
    line.split_whitespace().nth(9)?.parse().ok()
}

fn as_in_proc(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_leads_to_its_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let to = listener.local_addr().expect("bound");
        let connection = std::net::TcpStream::connect(to).expect("connect");
        let from = connection.local_addr().expect("connected");
        let inode = socket_inode(from, to).expect("in the table");
        assert!(socket_inodes(std::process::id()).contains(&inode));
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory_of(std::process::id()).expect("readable");
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
    }
}
