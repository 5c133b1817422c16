//! For tests: a line to a head that is not there.

use super::*;
use crate::cluster::wire::{Beat, BlobRef};
use crate::config::Config;
use crate::observe::Silent;

pub(super) struct Scene {
    pub(super) args: NodeArgs,
    pub(super) peer: Peer,
    pub(super) welcome: Welcome,
}

impl Scene {
    pub(super) async fn new(role: Role) -> Scene {
        let cookie = Cookie::new("a cookie for the tests of a node").unwrap();
        let peer = Peer::new(&cookie).await.unwrap();
        let config = Config::load(&[], &[]).unwrap();
        let args = NodeArgs {
            head: "127.0.0.1:1".into(),
            cookie,
            name: "one".into(),
            role,
            executors: Some(1),
            local: Local { config, gpus: None },
            observer: Arc::new(Silent),
            stop: StopToken::default(),
        };
        let beat = Beat { period_ms: 100, suspect_ms: 500, dead_ms: 1000, lease_ms: 1000 };
        let kit = BlobRef { digest: "0".repeat(64), bytes: 10 };
        let welcome = Welcome { name: "one".into(), epoch: 1, beat, limit: LIMIT as u32, bulk_port: 1, kit };
        Scene { args, peer, welcome }
    }

    pub(super) fn line(&self) -> Line<'_> {
        Line { args: &self.args, peer: &self.peer, welcome: &self.welcome }
    }
}
