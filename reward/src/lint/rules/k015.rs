//! K015: forward does the same work whoever calls it.

use rollout::outcome::Finding;

use super::{Rule, forward, reject, warn};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;
use crate::lint::walk::ClassSeen;

/// K015
pub const RULE: Rule = Rule {
    code: "K015",
    title: "a branch on mode or environment",
    page: include_str!("../../../../docs/rules/K015.md"),
    check,
};

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    let modes = known.reference.is_some_and(|r| r.modes);
    let function = |c: &ClassSeen| c.bases.iter().any(|b| b == "torch.autograd.Function");
    let differentiates = known.whole.classes.iter().any(function);
    for seen in forward(&known.ran.engine) {
        if let Fact::Mode { what } = &seen.fact {
            if differentiates && what.contains(".requires_grad ") {
                // Without gradients there is nothing to remember for them.
                continue;
            }
            if modes && what.contains("training") {
                warn(findings, RULE.code, seen.line, format!("forward looks at {what}, as the task's reference does"));
                continue;
            }
            reject(findings, RULE.code, seen.line, format!("forward looks at {what}: it must not depend on the mode"));
        }
    }
    for seen in &known.ran.engine.seen {
        if let Fact::Machine { what } = &seen.fact {
            let message = format!("{what} tells which machine or process measures");
            reject(findings, RULE.code, seen.line, message);
        }
    }
    for attribute in known.whole.attributes.iter().filter(|a| a.path == "total_memory") {
        let message = "the size of the device's memory tells which machine measures";
        reject(findings, RULE.code, attribute.line, message);
    }
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        let root = path.split('.').next().unwrap_or_default();
        if matches!(path, "builtins.__name__" | "builtins.__file__") {
            reject(findings, RULE.code, mention.line, format!("{path} tells who imported the candidate"));
        }
        let environment = path.starts_with("os.environ") || path.starts_with("os.getenv");
        if environment || matches!(root, "platform" | "inspect" | "getpass" | "uuid" | "sysconfig") {
            reject(findings, RULE.code, mention.line, format!("{path} asks about the surroundings"));
        }
    }
}
