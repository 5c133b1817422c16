//! What programs of one launch may rely on.

use rollout::outcome::Outcome;

use crate::fixtures::*;
use crate::lab_or_skip;

const PASSED: Outcome = Outcome::Passed { speedup: None };

const SUM_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return x.sum().reshape(1)

def get_inputs():
    return [torch.randn(8, 32)]
";

/// Sums `x`, with a kernel's `body` after its part `s` of the sum is known, and `acc`, `part` and `flag` all zero before it.
fn sums(body: &str) -> String {
    let body: String = body.lines().map(|l| format!("    {l}\n")).collect();
    format!(
        "{HEAD}
@triton.jit
def kernel(x, out, acc, part, flag, n, G: tl.constexpr, BLOCK: tl.constexpr):
    p = tl.program_id(0)
    at = p * BLOCK + tl.arange(0, BLOCK)
    s = tl.sum(tl.load(x + at, mask=at < n, other=0.0), axis=0)
{body}
class ModelNew(torch.nn.Module):
    def forward(self, x):
        n = x.numel()
        grid = triton.cdiv(n, 32)
        zeros = [torch.zeros(grid, device=x.device) for _ in range(2)]
        flag = torch.zeros(grid, device=x.device, dtype=torch.int32)
        out = torch.zeros(1, device=x.device)
        kernel[(grid,)](x, out, *zeros, flag, n, G=triton.next_power_of_2(grid), BLOCK=32)
        return out
"
    )
}

const BY_NUMBER: &str = "\
tl.atomic_add(acc, s)
if p == tl.num_programs(0) - 1:
    tl.store(out, tl.load(acc))";

const BY_COUNTER: &str = "\
tl.store(part + p, s)
if tl.atomic_add(flag, 1) == tl.num_programs(0) - 1:
    each = tl.arange(0, G)
    tl.store(out, tl.sum(tl.load(part + each, mask=each < tl.num_programs(0), other=0.0), axis=0))
    tl.store(flag, 0)";

const LOOK_BACK: &str = "\
if p > 0:
    while tl.atomic_add(flag + p - 1, 0) == 0:
        pass
    s += tl.load(part + p - 1)
tl.store(part + p, s)
tl.atomic_xchg(flag + p, 1)
if p == tl.num_programs(0) - 1:
    tl.store(out, s)";

const LOCK: &str = "\
while tl.atomic_cas(flag, 0, 1) == 1:
    pass
tl.store(out, tl.load(out) + s)
tl.atomic_xchg(flag, 0)";

/// The last to come says on another address that all is there, and one that waits for it sums.
const BY_READY: &str = "\
tl.store(part + p, s)
if tl.atomic_add(flag, 1) == tl.num_programs(0) - 1:
    tl.atomic_xchg(flag + 1, 1)
if tl.load(flag + 1) == 1:
    each = tl.arange(0, G)
    tl.store(out, tl.sum(tl.load(part + each, mask=each < tl.num_programs(0), other=0.0), axis=0))";

/// Each program waits until it is its turn.
const BY_TURNS: &str = "\
while tl.atomic_cas(flag, p, p) != p:
    pass
tl.store(out, tl.load(out) + s)
tl.atomic_xchg(flag, p + 1)";

/// A flag for each program; the last one by number waits for all by plain loads.
const FLAGS: &str = "\
tl.store(part + p, s)
tl.atomic_xchg(flag + p, 1)
if p == tl.num_programs(0) - 1:
    each = tl.arange(0, G)
    while tl.sum(tl.load(flag + each, mask=each < tl.num_programs(0), other=0), axis=0) < tl.num_programs(0):
        pass
    tl.store(out, tl.sum(tl.load(part + each, mask=each < tl.num_programs(0), other=0.0), axis=0))";

/// What is added up is ordered by the counter, not by its own address.
const PARTS_AND_COUNTER: &str = "\
tl.atomic_add(part + p % 2, s)
if tl.atomic_add(flag, 1) == tl.num_programs(0) - 1:
    tl.store(out, tl.load(part) + tl.load(part + 1))
    tl.store(part, 0.0)
    tl.store(part + 1, 0.0)";

/// Many addresses at once.
const WIDE: &str = "\
each = tl.arange(0, G)
tl.atomic_add(part + each, tl.where(each == p, s, 0.0), mask=each < tl.num_programs(0))
if tl.atomic_add(flag, 1) == tl.num_programs(0) - 1:
    tl.store(out, tl.sum(tl.load(part + each, mask=each < tl.num_programs(0), other=0.0), axis=0))";

/// Planted bug: one order only, in which the program with the last number comes last.
#[test]
fn the_last_program_by_number_is_not_the_last_to_come() {
    let lab = lab_or_skip!();
    let clears = "\
if p == 0:
    tl.store(out, 0.0)
tl.atomic_add(out, s)";
    // Nothing atomic, and no program reads what another wrote.
    let last_wins = "tl.store(out, s + p)";
    let last_row = SUM_TASK.replace("x.sum()", "(x[-1].sum() + x.shape[0] - 1)") + "\nFIXED_SHAPES = True\n";
    for (task, body) in [(SUM_TASK, BY_NUMBER), (SUM_TASK, clears), (last_row.as_str(), last_wins)] {
        match lab.outcome(task, &sums(body)) {
            Outcome::WrongAnswer { message } if message.contains("order in which programs of a launch run") => {}
            other => panic!("{body}\n{other:?}"),
        }
    }
}

/// Planted bug: a counter, a lock or a sum is refused because programs come in another order, and one that waits for another hangs.
#[test]
fn counters_locks_sums_and_scans_that_look_back_pass() {
    let lab = lab_or_skip!();
    for body in
        [BY_COUNTER, LOOK_BACK, LOCK, "tl.atomic_add(out, s)", BY_READY, BY_TURNS, FLAGS, PARTS_AND_COUNTER, WIDE]
    {
        let report = lab.evaluate(SUM_TASK, &sums(body)).unwrap();
        assert_eq!(report.outcome, PASSED, "{body}");
        assert!(report.evidence.forwards.iter().all(|seen| seen.raced == 0), "{body}");
    }
}

/// Planted bug: nothing that programs write is looked at once one of them has used an atomic operation.
#[test]
fn an_atomic_operation_orders_only_what_comes_before_it() {
    let lab = lab_or_skip!();
    let everybody = "tl.atomic_add(acc, s)\ntl.store(out, tl.load(acc))";
    let decoy = "tl.atomic_add(acc, 1.0)\ntl.store(out, tl.load(out) + s)";
    // Right in both orders: operations on two addresses order nothing between them.
    let no_lock = "tl.atomic_add(flag, 1)\ntl.store(out, tl.load(out) + s)\ntl.atomic_add(flag + 1, 1)";
    for body in [everybody, decoy, no_lock] {
        let report = lab.evaluate(SUM_TASK, &sums(body)).unwrap();
        assert!(report.evidence.forwards[0].raced > 0, "{body}\n{report:?}");
    }
}

const DIFF_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.cat([x[1:], x[-1:] * 0]) - x

def get_inputs():
    return [torch.randn(200)]
";

/// Planted: who wrote what is looked at, not who read it before (as it was). Seen: in place, each program reads what the next one writes.
#[test]
fn what_one_program_writes_another_must_not_have_read() {
    let lab = lab_or_skip!();
    let diff = |body: &str| {
        format!(
            "{HEAD}
@triton.jit
def kernel(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    next = tl.load(x + at + 1, mask=at + 1 < n, other=0.0)
    tl.store(y + at, next - tl.load(x + at, mask=at < n, other=0.0), mask=at < n)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        {body}
        kernel[(triton.cdiv(x.numel(), 32),)](x, y, x.numel(), BLOCK=32)
        return y
"
        )
    };
    match lab.outcome(DIFF_TASK, &diff("x = x.clone(); y = x")) {
        Outcome::WrongAnswer { message } if message.contains("order in which programs of a launch run") => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(lab.outcome(DIFF_TASK, &diff("y = torch.empty_like(x)")), PASSED);
    // Each its own elements, in place.
    let own = format!(
        "{HEAD}{}",
        SOFTMAX
            .replace("out = torch.empty_like(x)", "x = x.clone(); out = x")
            .split_once("import triton.language as tl")
            .unwrap()
            .1
    );
    assert_eq!(lab.outcome(SOFTMAX_TASK, &own), PASSED);
}

fn raced(lab: &crate::lab::Lab, task: &str, source: &str) -> Vec<u64> {
    lab.evaluate(task, source).unwrap().evidence.forwards.iter().map(|seen| seen.raced).collect()
}

/// Planted: memory above 16 MiB is not looked after (as it was). Seen: programs add up by load and store in a large tensor.
#[test]
fn a_large_tensor_is_looked_after_where_it_is_used() {
    let lab = lab_or_skip!();
    let sum = |own: &str| {
        sums(own).replace("torch.zeros(1, device=x.device)", "torch.zeros(5000000, device=x.device)[4999000:4999001]")
    };
    assert!(raced(lab, SUM_TASK, &sum("tl.store(out, tl.load(out) + s)"))[0] > 0);
    assert_eq!(lab.outcome(SUM_TASK, &sum("tl.atomic_add(out, s)")), PASSED);
}

/// Planted: only the first draw is looked at (as it was). Seen: the kernel for larger inputs races.
#[test]
fn a_kernel_that_the_first_draw_did_not_launch_is_looked_at() {
    let lab = lab_or_skip!();
    let larger = "if n <= 256:\n    tl.atomic_add(out, s)\nelse:\n    tl.store(out, tl.load(out) + s)";
    let seen = raced(lab, SUM_TASK, &sums(larger));
    assert_eq!(seen[0], 0);
    assert!(seen.iter().any(|&n| n > 0), "{seen:?}");
}

/// Planted: every atomic operation is an order (as it was). Seen: what says of itself that it is none is one.
#[test]
fn a_relaxed_operation_orders_nothing() {
    let lab = lab_or_skip!();
    for how in ["sem='relaxed'", "scope='cta'", "sem='release'"] {
        let body = BY_COUNTER.replace("atomic_add(flag, 1)", &format!("atomic_add(flag, 1, {how})"));
        assert!(raced(lab, SUM_TASK, &sums(&body))[0] > 0, "{how}");
    }
    let sum = "tl.atomic_add(out, s, sem='relaxed')";
    let by_release = LOOK_BACK
        .replace("atomic_add(flag + p - 1, 0)", "atomic_add(flag + p - 1, 0, sem='acquire')")
        .replace("atomic_xchg(flag + p, 1)", "atomic_xchg(flag + p, 1, sem='release')");
    // What adds to a counter in between hands on what was released there.
    let through = BY_COUNTER.replace("if tl.atomic_add", "tl.atomic_add(flag, 0, sem='relaxed')\nif tl.atomic_add");
    for body in [sum, &by_release, &through] {
        let report = lab.evaluate(SUM_TASK, &sums(body)).unwrap();
        assert_eq!(report.outcome, PASSED, "{body}");
        assert!(report.evidence.forwards.iter().all(|seen| seen.raced == 0), "{body}");
    }
}

/// Planted: what a program wrote itself it may read (as it was). Seen: by other lanes, which a device may not have come so far with.
#[test]
fn lanes_of_one_program_are_not_in_step() {
    let lab = lab_or_skip!();
    let back = |between: &str, place: &str| {
        let store = format!(
            "tl.store(x + row * n + at, v, mask=mask)\n    {between}\n    v = tl.load(x + row * n + {place}, mask=mask, other=-float('inf'))\n    e = tl.exp"
        );
        SOFTMAX.replace("e = tl.exp", &store).replace("n = x.shape", "x = x.clone()\n        n = x.shape")
    };
    let turned = "n - 1 - at";
    assert!(raced(lab, SOFTMAX_TASK, &back("pass", turned))[0] > 0);
    for (between, place) in [("tl.debug_barrier()", turned), ("pass", "at")] {
        assert!(raced(lab, SOFTMAX_TASK, &back(between, place)).iter().all(|&n| n == 0), "{between} {place}");
    }
}
