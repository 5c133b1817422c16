//! K018: streams, graphs, threads, processes, signals and exit hooks do work where nobody looks.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;
use crate::lint::engine::trace::Fact;

/// K018
pub const RULE: Rule = Rule {
    code: "K018",
    title: "work escapes the measured call",
    page: include_str!("../../../../docs/rules/K018.md"),
    check,
};

const LIST: &[&str] = &[
    "torch.cuda.Stream",
    "torch.cuda.stream",
    "torch.cuda.ExternalStream",
    "torch.cuda.set_stream",
    "torch.cuda.default_stream",
    "torch.cuda.current_stream",
    "torch.cuda.StreamContext",
    "torch.cuda.graph",
    "torch.cuda.graphs",
    "torch.cuda.CUDAGraph",
    "torch.cuda.make_graphed_callables",
    "torch.cuda.Event",
    "torch.Stream",
    "torch.Event",
    "torch.multiprocessing",
    "torch.distributed",
    "torch.futures",
    "threading",
    "_thread",
    "multiprocessing",
    "concurrent",
    "asyncio",
    "subprocess",
    "signal",
    "atexit",
    "weakref.finalize",
    "os.fork",
    "os.system",
    "os._exit",
    "os.kill",
    "os.exec",
    "os.spawn",
    "os.dup2",
    "os.popen",
    "sys.exit",
    "sys.settrace",
    "sys.setprofile",
    "builtins.exit",
    "builtins.quit",
    "pty",
    "torch.cuda._sleep",
    "triton.launch_pdl",
];

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        // Programmatic dependent launch: the next kernel starts before this one has ended.
        let dependent = path.starts_with("triton.") && path.rsplit('.').next().is_some_and(|n| n.starts_with("gdc_"));
        let clock = path.starts_with("triton.")
            && matches!(path.rsplit('.').next(), Some("globaltimer" | "smid" | "clock" | "clock64"));
        if dependent
            || clock
            || LIST.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.')))
        {
            reject(
                findings,
                RULE.code,
                mention.line,
                format!("{path} lets work escape the call that is checked and timed"),
            );
        }
    }
    for line in &known.whole.protocols.made_up {
        reject(findings, RULE.code, *line, "a text nobody can read here may name an option that ** hands to a launch");
    }
    for seen in &known.ran.engine.seen {
        if let Fact::Escapes { what } = &seen.fact {
            reject(
                findings,
                RULE.code,
                seen.line,
                format!("{what}: the call that is timed does the work and waits for nothing"),
            );
        }
    }
}
