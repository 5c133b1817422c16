//! Which keys count for a command that is no run: `--set` of any other is an error. A `-c` file is shared with runs and
//! may hold every key.

use super::layers::find_key;
use super::{Key, Origin};
use crate::errors::UserError;

/// A command and what counts for it: whole sections (`python`) and single keys (`run.seed`).
pub struct Scope {
    pub command: &'static str,
    pub counts: &'static [&'static str],
}

pub const VERIFY: Scope = Scope { command: "verify", counts: &["executor", "gpu", "judge", "python"] };
pub const DOCTOR: Scope = Scope { command: "doctor", counts: &["executor", "gpu", "python", "model"] };
const COOKIE: [&str; 2] = ["cluster.cookie_file", "cluster.cookie_env"];
pub const JOIN: Scope = Scope {
    command: "join",
    counts: &[
        COOKIE[0],
        COOKIE[1],
        "cluster.reconnect_s",
        "cluster.reconnect_pause_ms",
        "cluster.object_store",
        "cluster.peer_listen",
        "cluster.tls_cert",
        "cluster.tls_key",
        "cluster.tls_ca",
        "python.interpreter",
        "gpu.devices",
    ],
};
pub const NODES: Scope =
    Scope { command: "nodes", counts: &[COOKIE[0], COOKIE[1], "cluster.listen", "cluster.tls_ca"] };
pub const DRAIN: Scope = Scope { command: "drain", counts: NODES.counts };
/// `troupe run`: all but what only `troupe launch` looks at.
pub const RUN: Scope = Scope {
    command: "run",
    counts: &[
        "run",
        "model",
        "tasks",
        "sft",
        "sampling",
        "rollout",
        "reward",
        "learner",
        "lora",
        "guard",
        "generator",
        "executor",
        "cluster",
        "gpu",
        "judge",
        "eval",
        "python",
    ],
};
pub const RELAUNCH: Scope = Scope { command: "launch .. --resume", counts: &["launch"] };

pub const SFT: Scope = Scope {
    command: "sft",
    counts: &[
        "sft",
        "model",
        "tasks",
        "run.seed",
        "sampling.max_new_tokens",
        "learner.beta1",
        "learner.beta2",
        "learner.eps",
    ],
};

impl Scope {
    /// The first of `sets` that has no effect here is the error. A slip in one is told when it is loaded.
    pub fn require(&self, sets: &[String]) -> Result<(), UserError> {
        for set in sets {
            let Some((name, _)) = set.split_once('=') else { continue };
            let origin = Origin::Set { text: set.clone() };
            let key = find_key(name.trim(), &origin)?;
            if !self.holds(key) {
                return Err(UserError::new(format!("`{}` has no effect on `troupe {}`", key.path, self.command))
                    .at(origin)
                    .found(format!("`{}`", key.path))
                    .expected(format!("a key of {}", self.in_words()))
                    .hint("remove it, or put it into a run file (`-c FILE`), which may hold keys of other commands"));
            }
        }
        Ok(())
    }

    fn holds(&self, key: &Key) -> bool {
        self.counts.iter().any(|c| *c == key.path || *c == key.section())
    }

    fn in_words(&self) -> String {
        let word = |c: &&str| if c.contains('.') { format!("`{c}`") } else { format!("[{c}]") };
        self.counts.iter().map(word).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::KEYS;
    use super::*;

    #[test]
    fn a_run_takes_every_section_but_that_of_launching() {
        let others: Vec<&str> = super::super::keys::sections().into_iter().filter(|s| *s != "launch").collect();
        assert_eq!(RUN.counts, others);
    }

    #[test]
    fn every_word_of_a_scope_is_a_section_or_a_key() {
        for scope in [VERIFY, DOCTOR, JOIN, NODES, DRAIN, SFT, RUN, RELAUNCH] {
            for count in scope.counts {
                let known = KEYS.iter().any(|k| k.path == *count || k.section() == *count);
                assert!(known, "{}: {count}", scope.command);
            }
        }
    }
}
