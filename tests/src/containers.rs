//! [`ContainerCluster`]: nodes in containers, started as in the compose file.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bollard::Docker;
use bollard::exec::StartExecOptions;
use bollard::models::{
    ContainerCreateBody, EndpointSettings, ExecConfig, HostConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures::StreamExt;

use crate::client::Client;
use crate::status::Status;
use crate::wait::eventually_within;

/// The image of a node. Without an image, the tests are skipped.
const IMAGE: &str = "RAFTKV_TEST_IMAGE";
/// Set to 1 to fail without a Docker engine or image.
const REQUIRED: &str = "RAFTKV_REQUIRE_DOCKER";

const HTTP: &str = "8080/tcp";
const MANAGEMENT: &str = "6000/tcp";
/// Containers start slower than processes.
const PATIENCE: Duration = Duration::from_secs(120);
const LINES_SHOWN: &str = "25";

/// Containers on a private network. Dropping removes containers, volumes and network.
#[derive(Debug)]
pub struct ContainerCluster {
    docker: Docker,
    image: String,
    /// Prefix of all container names.
    name: String,
    nodes: Vec<ContainerNode>,
}

/// A container with a node.
#[derive(Debug, Clone)]
pub struct ContainerNode {
    /// NODE_ID, and the host name on the private network.
    pub name: String,
    container: String,
}

impl ContainerCluster {
    /// Starts three nodes. Without a Docker engine or image, prints a notice and returns `None`, or an error if required.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        match Self::connect().await {
            Ok((docker, image)) => {
                let name = format!("raftkv-test-{:08x}", rand::random::<u32>());
                let mut cluster = Self { docker, image, name, nodes: Vec::new() };
                let network = NetworkCreateRequest { name: cluster.name.clone(), ..Default::default() };
                cluster.docker.create_network(network).await.context("create a network")?;
                for index in 1..=3 {
                    cluster.add(index).await?;
                }
                cluster.whole(3).await?;
                Ok(Some(cluster))
            }
            Err(error) if std::env::var(REQUIRED).is_ok_and(|required| required == "1") => Err(error),
            Err(error) => {
                println!("NOT TESTED: containers: {error:#}. Set {REQUIRED}=1 to make this a failure.");
                Ok(None)
            }
        }
    }

    async fn connect() -> anyhow::Result<(Docker, String)> {
        let image = std::env::var(IMAGE).with_context(|| format!("{IMAGE} does not name an image"))?;
        let docker = Docker::connect_with_defaults().context("connect to the Docker engine")?;
        let docker = docker.negotiate_version().await.context("the Docker engine does not answer")?;
        docker.inspect_image(&image).await.with_context(|| format!("there is no image {image}"))?;
        Ok((docker, image))
    }

    /// Creates and starts node number `index`.
    pub async fn add(&mut self, index: usize) -> anyhow::Result<ContainerNode> {
        let node = ContainerNode { name: format!("node{index}"), container: format!("{}-node{index}", self.name) };
        let any_port = || Some(vec![PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None }]);
        let restart = RestartPolicy { name: Some(RestartPolicyNameEnum::UNLESS_STOPPED), maximum_retry_count: None };
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            hostname: Some(node.name.clone()),
            env: Some(vec![
                format!("NODE_ID={}", node.name),
                format!("BOOTSTRAP={}", index == 1),
                "JOIN_ADDR=node1:6000,node2:6000,node3:6000".to_owned(),
            ]),
            exposed_ports: Some(vec![HTTP.to_owned(), MANAGEMENT.to_owned()]),
            host_config: Some(HostConfig {
                // Clients connect over the default network, which has no DNS; nodes use the private network.
                network_mode: Some("bridge".to_owned()),
                port_bindings: Some(HashMap::from([
                    (HTTP.to_owned(), any_port()),
                    (MANAGEMENT.to_owned(), any_port()),
                ])),
                restart_policy: Some(restart),
                ..Default::default()
            }),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&node.container).build();
        self.docker.create_container(Some(options), body).await.context("create a container")?;
        self.nodes.push(node.clone());
        self.connect_node(&node).await?;
        self.docker.start_container(&node.container, None).await.context("start a container")?;
        Ok(node)
    }

    /// The nodes.
    pub fn nodes(&self) -> &[ContainerNode] {
        &self.nodes
    }

    /// Connects a node to the private network.
    pub async fn connect_node(&self, node: &ContainerNode) -> anyhow::Result<()> {
        let endpoint = EndpointSettings { aliases: Some(vec![node.name.clone()]), ..Default::default() };
        let request = NetworkConnectRequest { container: node.container.clone(), endpoint_config: Some(endpoint) };
        self.docker.connect_network(&self.name, request).await.context("connect a container")
    }

    /// Disconnects a node from the private network. Clients still reach the node.
    pub async fn disconnect_node(&self, node: &ContainerNode) -> anyhow::Result<()> {
        let request = NetworkDisconnectRequest { container: node.container.clone(), force: Some(true) };
        self.docker.disconnect_network(&self.name, request).await.context("disconnect a container")
    }

    /// Kills the processes of a node with SIGKILL. The Docker engine does not restart a container after a manual kill.
    pub async fn kill(&self, node: &ContainerNode) -> anyhow::Result<()> {
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        self.docker.kill_container(&node.container, Some(options)).await.context("kill a container")
    }

    /// Starts a killed node.
    pub async fn restart(&self, node: &ContainerNode) -> anyhow::Result<()> {
        self.docker.start_container(&node.container, None).await.context("start a container")
    }

    /// Whether a node's container is running.
    pub async fn runs(&self, node: &ContainerNode) -> anyhow::Result<bool> {
        let found = self.docker.inspect_container(&node.container, None).await?;
        Ok(found.state.and_then(|state| state.running).unwrap_or(false))
    }

    /// Number of container restarts by the Docker engine.
    pub async fn restarts(&self, node: &ContainerNode) -> anyhow::Result<i64> {
        let found = self.docker.inspect_container(&node.container, None).await?;
        found.restart_count.context("a count of restarts")
    }

    /// Kills the process called `program` in a node's container with SIGKILL.
    pub async fn kill_process(&self, node: &ContainerNode, program: &str) -> anyhow::Result<()> {
        // The image has no tool except a shell. `comm` holds up to 15 characters; our program names are shorter.
        let script = format!(
            "for dir in /proc/[0-9]*; do if [ \"$(cat $dir/comm)\" = {program} ]; then kill -9 ${{dir#/proc/}}; fi; done"
        );
        let exec = ExecConfig { cmd: Some(vec!["sh".to_owned(), "-c".to_owned(), script]), ..Default::default() };
        let exec = self.docker.create_exec(&node.container, exec).await.context("prepare a kill")?;
        let options = StartExecOptions { detach: true, ..Default::default() };
        self.docker.start_exec(&exec.id, Some(options)).await.context("kill a process")?;
        Ok(())
    }

    async fn published(&self, node: &ContainerNode, port: &str) -> anyhow::Result<String> {
        let found = self.docker.inspect_container(&node.container, None).await?;
        let bindings = found.network_settings.and_then(|settings| settings.ports?.remove(port)?);
        let host_port = bindings.and_then(|bindings| bindings.into_iter().next()?.host_port);
        Ok(format!("127.0.0.1:{}", host_port.with_context(|| format!("{} does not publish {port}", node.name))?))
    }

    /// A client of a node's HTTP API. Ask again after a restart, because the port changes.
    pub async fn client(&self, node: &ContainerNode) -> anyhow::Result<Client> {
        Ok(Client::unshared(self.published(node, HTTP).await?))
    }

    /// A client of a node's management API.
    pub async fn management(&self, node: &ContainerNode) -> anyhow::Result<Client> {
        Ok(Client::unshared(self.published(node, MANAGEMENT).await?))
    }

    /// Reads a node's status.
    pub async fn status(&self, node: &ContainerNode) -> anyhow::Result<Status> {
        let answer = self.management(node).await?.get_path("/status").await?.success()?;
        serde_json::from_slice(&answer.body).context("read a status")
    }

    /// Waits until every running node is ready and lists `voters` voters.
    pub async fn whole(&self, voters: usize) -> anyhow::Result<()> {
        for node in &self.nodes {
            if !self.runs(node).await? {
                continue;
            }
            eventually_within(PATIENCE, &format!("{} is ready and knows {voters} voters", node.name), || async {
                let status = self.status(node).await?;
                ensure!(status.voters().len() == voters, "it knows the voters {:?}", status.voters());
                self.client(node).await?.get_path("/readyz").await?.success()?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits for a leader not named `but`, and returns the node.
    pub async fn leader_but(&self, but: &str) -> anyhow::Result<ContainerNode> {
        eventually_within(PATIENCE, "there is a leader", || async {
            for node in self.nodes.iter().filter(|node| node.name != but) {
                if self.status(node).await.is_ok_and(|status| status.node.leads()) {
                    return Ok(node.clone());
                }
            }
            Err(anyhow!("no node leads"))
        })
        .await
    }

    /// The last log lines of a node.
    pub async fn logs(&self, node: &ContainerNode) -> String {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(LINES_SHOWN).build();
        let lines = self.docker.logs(&node.container, Some(options));
        lines.filter_map(|line| async { Some(line.ok()?.to_string()) }).collect::<String>().await
    }

    /// Prints the logs and removes everything, on a thread without a runtime.
    fn clean_up(mut self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            // Connections are bound to the runtime on which they were created.
            self.docker = Docker::connect_with_defaults()?.negotiate_version().await?;
            for node in &self.nodes {
                println!("--- {}, end of its log:\n{}", node.name, self.logs(node).await);
            }
            self.remove().await;
            Ok(())
        })
    }

    /// Removes everything.
    pub async fn remove(&mut self) {
        let options = || RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        for node in std::mem::take(&mut self.nodes) {
            if let Err(error) = self.docker.remove_container(&node.container, Some(options())).await {
                println!("cannot remove the container {}: {error}", node.container);
            }
        }
        if let Err(error) = self.docker.remove_network(&self.name).await {
            println!("cannot remove the network {}: {error}", self.name);
        }
    }
}

impl Drop for ContainerCluster {
    fn drop(&mut self) {
        if self.nodes.is_empty() {
            return;
        }
        let left = Self {
            docker: self.docker.clone(),
            image: self.image.clone(),
            name: self.name.clone(),
            nodes: std::mem::take(&mut self.nodes),
        };
        // `drop` cannot block on the test's runtime; a separate thread can run a separate runtime.
        let cleaned = std::thread::spawn(move || left.clean_up()).join();
        if !matches!(cleaned, Ok(Ok(()))) {
            println!("containers called {}-… may be left behind: {cleaned:?}", self.name);
        }
    }
}
