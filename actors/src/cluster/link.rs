//! How the head's gateway, the pool and the fleet find each other: each of them may die and be replaced.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::ActorRef;

use super::head::HeadMsg;
use crate::generator::GeneratorMsg;
use crate::pool::PoolMsg;

/// Shared by all three.
#[derive(Clone, Default)]
pub struct Link {
    ends: Arc<Mutex<Ends>>,
    places_here: Option<usize>,
}

#[derive(Default)]
struct Ends {
    pool: Option<ActorRef<PoolMsg>>,
    fleet: Option<ActorRef<GeneratorMsg>>,
    gateway: Option<ActorRef<HeadMsg>>,
}

impl Link {
    /// For a run that generators may join; `here`: answers that the one of this process takes at once, 0 where there is none.
    pub fn with_generators(here: usize) -> Link {
        Link { places_here: Some(here), ..Link::default() }
    }

    /// `None`: generators cannot join.
    pub fn places_here(&self) -> Option<usize> {
        self.places_here
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pool has started.
    pub fn pool_is(&self, pool: &ActorRef<PoolMsg>) {
        let mut ends = self.ends();
        ends.pool = Some(pool.clone());
        if let Some(gateway) = &ends.gateway {
            let _ = gateway.cast(HeadMsg::Pool(pool.clone()));
        }
    }

    /// A fleet has started; the present gateway.
    pub fn fleet_is(&self, fleet: &ActorRef<GeneratorMsg>) -> Option<ActorRef<HeadMsg>> {
        let mut ends = self.ends();
        ends.fleet = Some(fleet.clone());
        if let Some(gateway) = &ends.gateway {
            let _ = gateway.cast(HeadMsg::Fleet(fleet.clone()));
        }
        ends.gateway.clone()
    }

    /// A gateway has started; the present pool and fleet.
    pub(super) fn gateway_is(
        &self,
        gateway: &ActorRef<HeadMsg>,
    ) -> (Option<ActorRef<PoolMsg>>, Option<ActorRef<GeneratorMsg>>) {
        let mut ends = self.ends();
        ends.gateway = Some(gateway.clone());
        (ends.pool.clone(), ends.fleet.clone())
    }

    /// The present gateway.
    pub fn gateway(&self) -> Option<ActorRef<HeadMsg>> {
        self.ends().gateway.clone()
    }
}
