//! The table in effect with what belongs to it: the connection pool and the count of each instance it names.
//!
//! Swapped whole; a request holds the one it began with. Pools of instances that are not named any more close with the last
//! table that names them, so that an old instance does not wait for idle connections.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sdp_core::id::{InstanceId, RouteVersion};
use sdp_core::routing::RouteTable;

use super::drain::{Drain, InFlight};
use super::upstream::{Clients, InstancePool};
use sdp_core::routing::select::Index;

#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) index: Index,
    pub(crate) instances: HashMap<InstanceId, Arc<InstancePool>>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    live: ArcSwap<Live>,
    pub(crate) drain: Arc<Drain>,
}

impl Table {
    pub(crate) fn version(&self) -> RouteVersion {
        self.live.load().index.version()
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Puts a table into effect unless a newer one is; returns the version that is in effect.
    pub(crate) fn apply(&self, table: RouteTable, clients: &Clients) -> RouteVersion {
        let index = Index::new(table);
        let mut book = self.drain.lock();
        let old = self.live();
        if index.version() <= old.index.version() {
            return old.index.version();
        }
        let mut instances = HashMap::with_capacity(index.instances().len());
        for (instance, address) in index.instances() {
            let known = old.instances.get(instance);
            let pool = match known.filter(|pool| pool.address() == *address) {
                Some(pool) => pool.clone(),
                None => {
                    let in_flight = known
                        .map(|pool| pool.in_flight().clone())
                        .or_else(|| book.revive(*instance))
                        .unwrap_or_else(|| InFlight::new(*instance));
                    Arc::new(clients.instance(*address, in_flight))
                }
            };
            instances.insert(*instance, pool);
        }
        let version = index.version();
        let new = Arc::new(Live { index, instances });
        // The new table is there before the old instances take no more, so a request that is refused there finds it.
        self.live.store(new.clone());
        let gone = old.instances.iter().filter(|(instance, _)| !new.instances.contains_key(instance));
        self.drain.retire(&mut book, gone.map(|(_, pool)| pool.in_flight().clone()));
        version
    }
}
