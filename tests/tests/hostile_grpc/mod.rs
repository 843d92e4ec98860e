//! Strangers at every gRPC service of a live group: malformed, hostile and broken-off messages, while a client puts and gets. No process
//! ends, no client is stopped, memory is bounded, and the members stay equal.
//!
//! About a quarter of a minute of it in every test run, and as long as one likes with `RAFTKV_HOSTILE_SECONDS=600`. With
//! `RAFTKV_TEST_SEED` each stranger does the same in the same order as in the run that printed the seed.

mod contract;
mod deeds;
mod fair;
mod forge;
mod guest;
mod wire;
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use raftkv_tests::{Cluster, Node, Process, Seed, eventually, figure, human_bytes};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;

use contract::{Contract, Method};
use deeds::{Deed, EXCLUDED};
use forge::Forge;
use wire::{Address, Left, Line, Way};
use world::World;

/// Set to how many seconds it lasts.
const SECONDS: &str = "RAFTKV_HOSTILE_SECONDS";
const DEFAULT_TIME: Duration = Duration::from_secs(15);
/// On a busy machine, until everything has been done to each method once: so long in all, and so long without anything new.
const COMPLETE_WITHIN: Duration = Duration::from_secs(300);
const NEW_WITHIN: Duration = Duration::from_secs(60);
/// For the client: puts and gets at most so long apart, by the fair clock. No stranger may depose a leader; a busy machine may hold up a
/// heartbeat, and then an election takes a second.
const PROGRESS: Duration = Duration::from_secs(5);
/// What a process may have resident: a store that is nearly empty, and what strangers have it hold. Two messages of the largest size for
/// each of them fit into it.
const MEMORY: u64 = 768 << 20;
/// Strangers at a time.
const STRANGERS: u64 = 4;
/// Between two deeds of one: some room for the client, on two cores.
const PAUSE: Duration = Duration::from_millis(2);
/// Streams that a stranger leaves open.
const LEFT: usize = 40;
/// Deeds on one connection.
const DEEDS: u32 = 200;
/// For one deed, whatever becomes of it.
const DEED_TIME: Duration = Duration::from_secs(3);
/// Deeds that are told where something is wrong.
const TOLD: usize = 40;

/// Which process serves it, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// The sidecar's, for other members.
    Raft,
    /// The engine's, for routers.
    Group,
    /// The sidecar's socket, for its engine.
    Sidecar,
    /// The engine's socket, for its sidecar.
    Engine,
}

/// Every method, and the port at which it is attacked. Compared with the `.proto` files: a new method needs its line here.
const ATTACKS: &[(&str, Port)] = &[
    ("Consensus.Propose", Port::Sidecar),
    ("Consensus.ReadBarrier", Port::Sidecar),
    ("Consensus.Lease", Port::Sidecar),
    ("Consensus.GetStatus", Port::Sidecar),
    ("Consensus.Join", Port::Sidecar),
    ("Consensus.Remove", Port::Sidecar),
    ("Group.Propose", Port::Group),
    ("Group.Read", Port::Group),
    ("Group.List", Port::Group),
    ("Group.GetSystemKey", Port::Group),
    ("Group.Export", Port::Group),
    ("Group.Describe", Port::Group),
    ("Group.Upgrade", Port::Group),
    ("Raft.Append", Port::Raft),
    ("Raft.Vote", Port::Raft),
    ("Raft.Snapshot", Port::Raft),
    ("Raft.TransferLeader", Port::Raft),
    ("Raft.ForwardPropose", Port::Raft),
    ("Raft.ForwardReadBarrier", Port::Raft),
    ("Raft.Identify", Port::Raft),
    ("Raft.Adopt", Port::Raft),
    ("StateMachine.GetPosition", Port::Engine),
    ("StateMachine.Apply", Port::Engine),
    ("StateMachine.Persist", Port::Engine),
    ("StateMachine.SnapshotOut", Port::Engine),
    ("StateMachine.SnapshotIn", Port::Engine),
    ("StateMachine.ActivateSnapshot", Port::Engine),
    ("StateMachine.GetStatus", Port::Engine),
    ("StateMachine.Upgrade", Port::Engine),
];

impl Port {
    fn of(method: &str) -> anyhow::Result<Self> {
        let found = ATTACKS.iter().find(|(name, _)| *name == method);
        Ok(found.with_context(|| format!("{method} is attacked by nobody: name its port in ATTACKS"))?.1)
    }

    fn address(self, node: &Node) -> Address {
        match self {
            Self::Raft => Address::Tcp(node.raft_address()),
            Self::Group => Address::Tcp(node.group_address()),
            Self::Sidecar => Address::Unix(node.dir().join("sidecar.sock")),
            Self::Engine => Address::Unix(node.dir().join("engine.sock")),
        }
    }
}

/// What all strangers have done.
#[derive(Debug, Default)]
struct Done {
    deeds: AtomicU64,
    failed: AtomicU64,
    left_out: AtomicU64,
    /// What was done to which method.
    ways: Mutex<BTreeSet<(String, Way)>>,
    last: Mutex<VecDeque<String>>,
}

impl Done {
    fn note(&self, method: &str, way: Way, node: &Node, messages: &[Bytes]) {
        self.deeds.fetch_add(1, Ordering::Relaxed);
        lock(&self.ways).insert((method.to_owned(), way));
        let first = messages.first().map(|message| message[..message.len().min(80)].escape_ascii().to_string());
        let mut last = lock(&self.last);
        if last.len() == TOLD {
            last.pop_front();
        }
        last.push_back(format!("{method} {way:?} at {}: {}", node.name(), first.unwrap_or_default()));
    }

    /// How many methods in how many ways.
    fn count(&self) -> usize {
        lock(&self.ways).len()
    }

    fn is_complete(&self) -> bool {
        self.count() == ATTACKS.len() * Way::ALL.len()
    }

    fn tell(&self) {
        println!("the last deeds:");
        lock(&self.last).iter().for_each(|deed| println!("  {deed}"));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One who means no good.
struct Stranger {
    rng: StdRng,
    number: u64,
    nodes: Vec<Arc<Node>>,
    contract: Arc<Contract>,
    world: watch::Receiver<World>,
    done: Arc<Done>,
    lines: BTreeMap<(usize, u8), (Line, u32)>,
    left: VecDeque<Left>,
}

impl Stranger {
    /// Goes through all methods again and again, until it is over.
    async fn be(mut self, over: Arc<AtomicBool>) {
        let methods = Arc::clone(&self.contract);
        let mut ways = Way::ALL.iter().cycle().skip(self.number as usize);
        while !over.load(Ordering::Relaxed) {
            for method in &methods.methods {
                let Some(way) = ways.next() else { return };
                match tokio::time::timeout(DEED_TIME, self.deed(method, *way)).await {
                    Ok(Ok(())) => {}
                    // Refused, cut off, or taking its time.
                    _ => drop(self.done.failed.fetch_add(1, Ordering::Relaxed)),
                }
                tokio::time::sleep(PAUSE).await;
                if over.load(Ordering::Relaxed) {
                    return;
                }
            }
            // Otherwise the same method would always come with the same way.
            ways.next();
        }
    }

    async fn deed(&mut self, method: &Method, way: Way) -> anyhow::Result<()> {
        let node = Arc::clone(&self.nodes[self.rng.random_range(0..self.nodes.len())]);
        let port = Port::of(&method.name)?;
        let world = self.world.borrow().clone();
        let messages = self.messages(method, way, &world);
        self.done.note(&method.name, way, &node, &messages);
        if way == Way::Frames {
            return wire::frames(&port.address(&node), &mut self.rng).await;
        }
        let target = world.nodes.get(node.index() - 1).map_or(0, |known| known.raft_id);
        let call = wire::head(&method.path, target, &world, &mut self.rng)?;
        let place = (node.index(), port as u8);
        let (mut line, used) = match self.lines.remove(&place) {
            Some((line, used)) if used < DEEDS => (line, used),
            _ => (Line::open(&port.address(&node)).await?, 0),
        };
        if let Some(left) = line.send(call, way, &messages, &mut self.rng).await? {
            if self.left.len() == LEFT {
                self.left.pop_front();
            }
            self.left.push_back(left);
        }
        // One that failed, or is behind, is not used again.
        self.lines.insert(place, (line, used + 1));
        Ok(())
    }

    /// Without the deeds that are excluded.
    fn messages(&mut self, method: &Method, way: Way, world: &World) -> Vec<Bytes> {
        let count = if way == Way::Whole { self.rng.random_range(1..4) } else { 1 };
        let mut forge = Forge { rng: &mut self.rng, contract: &self.contract, world };
        let mut messages: Vec<Vec<u8>> = (0..count)
            .map(|_| match way {
                Way::Noise | Way::Unframed => forge.noise(3_000),
                _ => forge.request(&method.request),
            })
            .collect();
        messages.retain(|message| {
            let deed = Deed::of(&method.name, message, world);
            self.done.left_out.fetch_add(u64::from(deed.is_some()), Ordering::Relaxed);
            deed.is_none()
        });
        messages.into_iter().map(Bytes::from).collect()
    }
}

/// The most that each process had resident; an error when one has ended or has too much.
#[derive(Debug, Default)]
struct Watched {
    most: BTreeMap<String, u64>,
}

impl Watched {
    fn look(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        for process in processes(cluster) {
            let has_ended = || anyhow!("{} has ended: {:?}", process.name(), process.exits());
            ensure!(process.starts() == 1, has_ended());
            // Of one that is ending there is no memory to be told of.
            let resident = process.memory().map_err(|_| has_ended())?.resident;
            let most = self.most.entry(process.name().to_owned()).or_default();
            *most = (*most).max(resident);
            ensure!(resident < MEMORY, "{} has {} resident", process.name(), human_bytes(resident));
        }
        Ok(())
    }
}

fn processes(cluster: &Cluster) -> impl Iterator<Item = &Process> {
    cluster.nodes().iter().flat_map(|node| [node.engine(), node.sidecar()])
}

fn time() -> anyhow::Result<Duration> {
    match std::env::var(SECONDS) {
        Ok(text) => Ok(Duration::from_secs(text.parse().with_context(|| format!("{SECONDS}={text:?}"))?)),
        Err(_) => Ok(DEFAULT_TIME),
    }
}

/// All members have applied the same entries, and their states have one hash.
async fn same_hashes(cluster: &Cluster) -> anyhow::Result<u64> {
    eventually("the hashes are equal", || async {
        let mut states = BTreeSet::new();
        for node in cluster.nodes() {
            let (described, _) = node.group_peer()?.describe().await?;
            states.insert((described.applied_next_index, described.state_hash));
        }
        ensure!(states.len() == 1, "{states:?}");
        states.pop_first().map(|(_, hash)| hash).context("there are nodes")
    })
    .await
}

#[test]
fn every_method_is_attacked_and_no_other() -> anyhow::Result<()> {
    let contract = Contract::read()?;
    let methods: BTreeSet<&str> = contract.methods.iter().map(|method| method.name.as_str()).collect();
    let attacked: BTreeSet<&str> = ATTACKS.iter().map(|(name, _)| *name).collect();
    ensure!(methods == attacked, "{:?}", methods.symmetric_difference(&attacked).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_nothing_that_is_sent_to_a_port_ends_a_process_or_stops_a_group() -> anyhow::Result<()> {
    let (time, seed) = (time()?, Seed::from_env());
    let contract = Arc::new(Contract::read()?);
    for method in &contract.methods {
        Port::of(&method.name)?;
    }
    EXCLUDED.iter().for_each(|deed| println!("left out: {}", deed.reason));
    let cluster = Cluster::builder().start().await?;
    let term = World::see(&cluster).await?.term;
    let (tell, world) = watch::channel(World::see(&cluster).await?);
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Done::default()));
    let strangers: Vec<_> = (0..STRANGERS)
        .map(|number| Stranger {
            rng: seed.rng(number),
            number,
            nodes: cluster.nodes().to_vec(),
            contract: Arc::clone(&contract),
            world: world.clone(),
            done: Arc::clone(&done),
            lines: BTreeMap::new(),
            left: VecDeque::new(),
        })
        .map(|stranger| tokio::spawn(stranger.be(Arc::clone(&over))))
        .collect();
    let guest = guest::Guest::start(cluster.nodes(), PROGRESS);

    let (begin, mut watched) = (Instant::now(), Watched::default());
    let (mut count, mut counted) = (0, begin);
    let watching = async {
        while begin.elapsed() < time
            || !done.is_complete() && begin.elapsed() < COMPLETE_WITHIN && counted.elapsed() < NEW_WITHIN
        {
            if done.count() > count {
                (count, counted) = (done.count(), Instant::now());
            }
            watched.look(&cluster)?;
            guest.check()?;
            // One that is busy may answer late.
            if let Ok(Ok(world)) = tokio::time::timeout(Duration::from_secs(2), World::see(&cluster)).await {
                tell.send_replace(world);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        anyhow::Ok(())
    };
    let result = watching.await;
    over.store(true, Ordering::Relaxed);
    if let Err(error) = result {
        done.tell();
        bail!("after {:.1?}: {error:#}", begin.elapsed());
    }
    for stranger in strangers {
        stranger.await?;
    }
    let seen = guest.end().await?;
    figure("deeds of strangers", done.deeds.load(Ordering::Relaxed));
    figure("deeds of strangers that came to nothing", done.failed.load(Ordering::Relaxed));
    figure("requests of strangers left out", done.left_out.load(Ordering::Relaxed));
    figure("puts and gets beside strangers", seen.succeeded);
    figure("longest time without one", format!("{:.2?}", seen.longest));
    let after = World::see(&cluster).await?;
    figure("terms beside strangers", after.term - term);
    for process in processes(&cluster) {
        let peak = process.memory()?.peak;
        figure(&format!("peak of {}", process.name()), human_bytes(peak));
        ensure!(peak < MEMORY, "{} had {} resident", process.name(), human_bytes(peak));
    }
    ensure!(done.is_complete(), "{} pairs of a method and a way, and not all", done.count());
    watched.look(&cluster)?;
    cluster.whole(3).await?;
    cluster.converged().await?;
    same_hashes(&cluster).await?;
    cluster.finish().await
}
