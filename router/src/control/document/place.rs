//! [`Place`]: what the nodes that are configured as meta group are, by their own words.

use std::collections::{BTreeMap, BTreeSet};

use raftkv_backend::BackendError;
use raftkv_kv::Ownership;
use raftkv_proto::group::Description;

use crate::control::document::records::GroupId;
use crate::control::document::state::META_GROUP;

/// Where a group of nodes belongs. Pure: made of what its nodes said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Place {
    /// In no sharded store, as a majority of the nodes says: routers may make one of it.
    Free,
    /// In no sharded store, as fewer say. The others may know more: a node that is behind has not heard of its store.
    PerhapsFree {
        /// How many of the nodes that are named said so.
        said: usize,
        /// How many are named.
        named: usize,
    },
    /// The first group of this store.
    First(u64),
}

/// Why the nodes are not a meta group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::control) enum Misplaced {
    /// They are another group.
    #[error(
        "{addresses}: these nodes are group {group} of store {store:016x}; name nodes of its first group in RAFTKV_META"
    )]
    OtherGroup {
        /// The addresses that said so.
        addresses: String,
        /// Which group.
        group: GroupId,
        /// Of which store.
        store: u64,
    },
    /// They are not one group.
    #[error(
        "the nodes in RAFTKV_META are of {clusters} clusters, and no store is made of them; name nodes of one group:{listed}"
    )]
    Mixed {
        /// How many.
        clusters: usize,
        /// Their addresses by cluster.
        listed: String,
    },
    /// A node said something that this version does not understand.
    #[error("{address}: the ownership of its group cannot be read: {reason}")]
    Unreadable {
        /// Which node.
        address: String,
        /// Why.
        reason: String,
    },
}

impl Misplaced {
    /// The group at `addresses` has this identity.
    pub(in crate::control) fn other(addresses: &[String], store: u64, group: GroupId) -> Self {
        Self::OtherGroup { addresses: addresses.join(", "), group, store }
    }
}

/// The place of nodes, by address, of which `named` are those that are configured. A group never leaves its store, so that one
/// node which says that it is in one is right, however old what the others have applied. That it is in none is believed of a
/// majority of `named`. `Ok(None)` = no node answered that is in a cluster.
pub(in crate::control) fn place(
    named: &[String],
    described: &[(String, Result<Description, BackendError>)],
) -> Result<Option<Place>, Misplaced> {
    let mut clusters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut others: BTreeMap<(u64, GroupId), Vec<String>> = BTreeMap::new();
    let mut first = None;
    for (address, description) in described {
        let Ok(description) = description else { continue };
        if description.cluster_id.is_empty() {
            continue;
        }
        clusters.entry(&description.cluster_id).or_default().push(address);
        let unreadable = |error: raftkv_kv::CodecError| Misplaced::Unreadable {
            address: address.clone(),
            reason: error.to_string(),
        };
        let ownership = Ownership::decode(&description.ownership).map_err(unreadable)?;
        match (ownership.is_sharded(), ownership.group) {
            (false, _) => {}
            (true, META_GROUP) => first = Some(ownership.store),
            (true, group) => others.entry((ownership.store, group)).or_default().push(address.clone()),
        }
    }
    if let Some(((store, group), addresses)) = others.into_iter().next() {
        return Err(Misplaced::other(&addresses, store, group));
    }
    if clusters.len() > 1 {
        let listed = clusters.iter().map(|(cluster, at)| format!(" {} ({cluster})", at.join(", ")));
        return Err(Misplaced::Mixed { clusters: clusters.len(), listed: listed.collect::<Vec<_>>().join(";") });
    }
    // An address may be named twice, and is one node.
    let named: BTreeSet<&str> = named.iter().map(String::as_str).collect();
    let said = clusters.values().flatten().filter(|at| named.contains(**at)).count();
    Ok(match (first, clusters.is_empty()) {
        (Some(store), _) => Some(Place::First(store)),
        (None, false) if said * 2 > named.len() => Some(Place::Free),
        (None, false) => Some(Place::PerhapsFree { said, named: named.len() }),
        (None, true) => None,
    })
}

#[cfg(test)]
mod tests {
    use raftkv_kv::SlotSet;

    use super::*;

    fn node(address: &str, cluster: &str, store: u64, group: GroupId) -> (String, Result<Description, BackendError>) {
        let ownership = Ownership { store, group, owned: SlotSet::all(), ..Ownership::default() };
        let description =
            Description { cluster_id: cluster.to_owned(), ownership: ownership.encode(), ..Description::default() };
        (address.to_owned(), Ok(description))
    }

    /// Of nodes that are all named.
    fn place(described: &[(String, Result<Description, BackendError>)]) -> Result<Option<Place>, Misplaced> {
        let named: Vec<_> = described.iter().map(|(address, _)| address.clone()).collect();
        super::place(&named, described)
    }

    fn silent() -> (String, Result<Description, BackendError>) {
        ("d:1".to_owned(), Err(BackendError::Unavailable("no answer".to_owned())))
    }

    #[test]
    fn that_a_group_is_free_is_believed_of_a_majority() {
        let free = |address| node(address, "c", 0, 0);
        assert_eq!(place(&[free("a:1")]), Ok(Some(Place::Free)), "one is named, and says so");
        let perhaps = |named| Ok(Some(Place::PerhapsFree { said: 1, named }));
        assert_eq!(place(&[free("a:1"), silent()]), perhaps(2));
        assert_eq!(place(&[free("a:1"), silent(), node("e:1", "", 0, 0)]), perhaps(3));
        assert_eq!(place(&[free("a:1"), silent(), free("b:1")]), Ok(Some(Place::Free)));
        // Nodes that were learned from others are no more of a majority.
        let named = ["a:1", "b:1", "d:1"].map(str::to_owned);
        let described = [free("a:1"), silent(), free("x:1"), free("y:1")];
        assert_eq!(super::place(&named, &described), perhaps(3));
        let twice = ["a:1", "a:1"].map(str::to_owned);
        assert_eq!(super::place(&twice, &[free("a:1")]), Ok(Some(Place::Free)));
    }

    #[test]
    fn a_group_is_free_or_the_first_or_refused() {
        assert_eq!(place(&[node("a:1", "c", 7, 1), silent(), silent()]), Ok(Some(Place::First(7))), "one is enough");
        assert_eq!(place(&[node("a:1", "c", 7, 1), node("b:1", "c", 0, 0)]), Ok(Some(Place::First(7))), "b is behind");
        assert_eq!(place(&[silent(), node("a:1", "", 0, 0)]), Ok(None), "a is in no cluster yet");
        let refused = place(&[node("a:1", "c", 0, 0), node("b:1", "c", 7, 2)]).unwrap_err().to_string();
        assert_eq!(
            refused,
            "b:1: these nodes are group 2 of store 0000000000000007; name nodes of its first group in RAFTKV_META"
        );
    }

    #[test]
    fn nodes_of_two_clusters_are_no_group() {
        let refused = place(&[node("a:1", "c1", 0, 0), node("b:1", "c2", 0, 0)]).unwrap_err().to_string();
        assert!(refused.contains("2 clusters") && refused.contains("a:1 (c1); b:1 (c2)"), "{refused}");
        let damaged = Description { cluster_id: "c".to_owned(), ownership: vec![9].into(), ..Description::default() };
        let refused = place(&[("a:1".to_owned(), Ok(damaged))]).unwrap_err().to_string();
        assert!(refused.starts_with("a:1: the ownership"), "{refused}");
    }
}
