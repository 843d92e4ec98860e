//! [`Room`]: a byte budget shared by all clients of the port, at most half per client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::budget::{Budget, Share};

/// A budget of bytes in flight. One address (IPv6: one /64) may take half of the budget. Clones share the budget.
#[derive(Debug, Clone)]
pub(super) struct Room {
    all: Budget,
    bytes: usize,
    clients: Arc<Mutex<Clients>>,
}

/// `None` = a socket without addresses.
type Clients = HashMap<Option<IpAddr>, Weak<Budget>>;

/// The share of a room available to one client.
#[derive(Debug, Clone)]
pub(super) struct ClientRoom {
    all: Budget,
    own: Arc<Budget>,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self { all: Budget::new(bytes), bytes, clients: Arc::default() }
    }

    /// Returns the budget of `client`, shared by all streams of the client.
    pub(super) fn of(&self, client: Option<IpAddr>) -> ClientRoom {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let known = clients.get(&client).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            clients.retain(|_, own| own.strong_count() > 0);
            let own = Arc::new(Budget::new(self.bytes / 2));
            clients.insert(client, Arc::downgrade(&own));
            own
        });
        ClientRoom { all: self.all.clone(), own }
    }
}

impl ClientRoom {
    /// Takes `bytes`, or `None` if not available.
    pub(super) fn take(&self, bytes: usize) -> Option<[Share; 2]> {
        Some([self.own.take(bytes)?, self.all.take(bytes)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_takes_the_room_of_the_others() {
        let room = Room::new(100);
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        let (first, again, second) = (room.of(address(1)), room.of(address(1)), room.of(address(2)));
        let held = first.take(40).expect("40 of 50");
        assert!(again.take(20).is_none(), "60 of 50, with another stream of the same client");
        assert!(second.take(50).is_some());
        drop(held);
        assert!(again.take(50).is_some());
        drop((first, again));
        let _third = room.of(address(3));
        assert_eq!(room.clients.lock().expect("no panic").len(), 2, "who is gone is forgotten");
    }
}
