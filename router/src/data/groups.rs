//! [`Groups`]: a client for each group of the shard map.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use raftkv_runtime::shutdown::Shutdown;
use tokio::task::{JoinHandle, JoinSet};

use crate::data::group::{GroupClient, Identity};
use crate::data::map::{GroupId, MapWatch, ShardMap};

/// The clients of all groups, each made when its group enters the map and stopped when its group leaves the map. Cloning shares
/// them.
#[derive(Debug, Clone)]
pub struct Groups {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clients: RwLock<Clients>,
    stop: Shutdown,
}

#[derive(Debug, Default)]
struct Clients {
    /// Of the store that the clients name in their calls.
    store: u64,
    by_id: HashMap<GroupId, GroupClient>,
    tasks: JoinSet<()>,
}

impl Groups {
    /// Starts the task that follows the map. After `stop` it ends when all clients have.
    pub fn start(maps: &MapWatch, stop: &Shutdown) -> (Self, JoinHandle<()>) {
        let shared = Shared { clients: RwLock::default(), stop: stop.clone() };
        let groups = Self { shared: Arc::new(shared) };
        let task = tokio::spawn(groups.clone().follow(maps.clone()));
        (groups, task)
    }

    /// The client of a group of this map; `None` = the map has no such group.
    pub fn client(&self, map: &ShardMap, id: GroupId) -> Option<GroupClient> {
        {
            let clients = self.shared.clients.read().unwrap_or_else(PoisonError::into_inner);
            if clients.store == map.store
                && let Some(client) = clients.by_id.get(&id)
            {
                return Some(client.clone());
            }
        }
        let entry = map.groups.get(&id)?;
        let mut clients = self.shared.clients.write().unwrap_or_else(PoisonError::into_inner);
        clients.of_store(map.store);
        if let Some(client) = clients.by_id.get(&id) {
            return Some(client.clone());
        }
        let identity = Identity { store: map.store, group: id };
        let name = format!("group {id}");
        let (client, tasks) = GroupClient::start(&name, entry.addresses.clone(), Some(identity), &self.shared.stop);
        clients.tasks.spawn(tasks.ended());
        clients.by_id.insert(id, client.clone());
        Some(client)
    }

    async fn follow(self, maps: MapWatch) {
        let mut watch = maps.subscribe();
        loop {
            let map = watch.borrow_and_update().clone();
            if let Some(map) = map {
                self.apply(&map);
                // Made before they are needed: their first request finds them connected.
                map.groups.keys().for_each(|id| drop(self.client(&map, *id)));
            }
            tokio::select! {
                () = self.shared.stop.wait() => break,
                changed = watch.changed() => if changed.is_err() { break },
            }
        }
        let mut tasks = {
            let mut clients = self.shared.clients.write().unwrap_or_else(PoisonError::into_inner);
            clients.by_id.values().for_each(GroupClient::stop);
            clients.by_id.clear();
            std::mem::take(&mut clients.tasks)
        };
        while tasks.join_next().await.is_some() {}
    }

    fn apply(&self, map: &ShardMap) {
        let mut clients = self.shared.clients.write().unwrap_or_else(PoisonError::into_inner);
        clients.of_store(map.store);
        clients.by_id.retain(|id, client| match map.groups.get(id) {
            Some(entry) => {
                client.set_addresses(entry.addresses.clone());
                true
            }
            None => {
                tracing::info!(group = id, "the group is in the map no more");
                client.stop();
                false
            }
        });
        // Those that have ended need no place any more.
        while clients.tasks.try_join_next().is_some() {}
    }
}

impl Clients {
    /// Another store has other groups under the same ids.
    fn of_store(&mut self, store: u64) {
        if self.store != store {
            self.store = store;
            self.by_id.drain().for_each(|(_, client)| client.stop());
        }
    }
}
