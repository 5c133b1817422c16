//! What the gateway knows, for a state dump: nodes with their last word, errands with their age.

use serde_json::{Value, json};

use super::HeadState;

impl HeadState {
    pub(super) fn state(&self) -> Value {
        let now = self.now_ms();
        let keys = self.roster.keys();
        let nodes: Vec<Value> = keys
            .zip(self.roster.rows(now))
            .map(|(key, row)| {
                let mut node = json!(row);
                node["policy"] = json!(self.versions.of(key));
                node["connected"] = self.sessions.contains_key(&key).into();
                node
            })
            .collect();
        json!({
            "epoch": self.args.epoch, "up_ms": now, "pool": self.pool.is_some(), "fleet": self.fleet.is_some(),
            "nodes": nodes, "errands": self.roster.errands(now), "not_sent_yet": self.ready.values().map(Vec::len).sum::<usize>(),
            "policy_on_offer": self.versions.on_offer(), "refused": self.refused(),
        })
    }
}
