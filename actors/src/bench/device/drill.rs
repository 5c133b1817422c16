//! What the fault drill evaluates: honest candidates, and among them such as break the device or their process.

use std::sync::Arc;

use rollout::outcome::Candidate;
use rollout::task::TaskSpec;

use super::Item;
use super::lanes::numbered;

/// What goes wrong inside a candidate, by kind: code before the honest forward's return.
const KINDS: [(&str, &str); 5] = [
    ("illegal address", "_far[(1,)](x, 1 << 40)"),
    ("device assert", "_assert[(1,)](x)"),
    ("endless kernel", "_spin[(1,)](x)"),
    ("out of memory", "held = [torch.empty(1 << 31, device=x.device, dtype=torch.uint8) for _ in range(100)]"),
    ("exit", "os._exit(1)"),
];

const KERNELS: &str = "
import os

@triton.jit
def _far(x, far):
    tl.store(x + far, 1.0)

@triton.jit(debug=True)
def _assert(x):
    tl.device_assert(tl.load(x) != tl.load(x), 'drill')

@triton.jit
def _spin(x):
    n = 0
    while tl.load(x, volatile=True) == tl.load(x, volatile=True):
        n += 1
    tl.store(x, n)
";

const EVERY: usize = 8;

/// What it does wrong, if anything, and what is evaluated.
pub(super) type Made = (Option<&'static str>, (Arc<TaskSpec>, Candidate));

/// `count` candidates made of `honest`, every `EVERY`-th of which does one of `KINDS` on the device only.
pub(super) fn candidates(honest: &Item, count: usize) -> Vec<Made> {
    (0..count)
        .map(|n| {
            let kind = (n % EVERY == EVERY - 1).then(|| KINDS[n / EVERY % KINDS.len()]);
            let source = match kind {
                None => honest.candidate.source.clone(),
                Some((_, code)) => broken(&honest.candidate.source, code),
            };
            let candidate = Candidate { source, digest: honest.candidate.digest.clone() };
            (kind.map(|(name, _)| name), (honest.task.clone(), numbered(&candidate, n)))
        })
        .collect()
}

/// The same with `code` run in forward where the inputs are as large as on the device.
fn broken(source: &str, code: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in source.lines() {
        if line.starts_with("class ModelNew") {
            out.push_str(KERNELS);
            out.push('\n');
        }
        out.push_str(line);
        out.push('\n');
        inside |= line.trim_start().starts_with("def forward(self, x");
        if inside && line.trim_end().ends_with(':') {
            out.push_str(&format!("        if x.numel() > 1000000:\n            {code}\n"));
            inside = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_candidate_breaks_inside_forward_and_only_where_inputs_are_large() {
        let source = "class ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return x\n";
        let made = broken(source, "os._exit(1)");
        let forward = made.split("def forward(self, x):\n").nth(1).unwrap();
        assert!(
            forward.starts_with("        if x.numel() > 1000000:\n            os._exit(1)\n        return x"),
            "{made}"
        );
        assert!(made.find("def _far").unwrap() < made.find("class ModelNew").unwrap());
    }
}
