//! Candidates that are wrong without being hostile: each gets the verdict that says why.

use rollout::outcome::{Outcome, Phase};

use crate::fixtures::*;
use crate::lab_or_skip;

#[track_caller]
fn assert_wrong(outcome: Outcome, part: &str) {
    match &outcome {
        Outcome::WrongAnswer { message } if message.contains(part) => {}
        other => panic!("expected a wrong answer with {part:?}, got {other:?}"),
    }
}

#[test]
fn wrong_numbers() {
    let lab = lab_or_skip!();
    let report = lab.evaluate(ADD_TASK, &add_with("", "return add(x, y * 1.01)")).unwrap();
    assert_wrong(report.outcome, "elements differ");
    assert!(report.max_abs_error.unwrap() > 1e-3);
    assert_eq!(report.kernelbench_1e4, Some(false));
    // Where it is wrong, with what was found and what was expected.
    let one = "out = add(x, y)\nout[3, 5] = 77.5\nreturn out";
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", one)), "1 of 1024 elements differ");
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", one)), "at [3, 5]: 77.5, expected ");
    let nan = "out = add(x, y)\nout[7, 127] = float('nan')\nreturn out";
    assert_wrong(
        lab.outcome(ADD_TASK, &add_with("", nan)),
        "1 of 1024 elements are not finite, at [7, 127]: nan, expected ",
    );
}

#[test]
fn constants_inputs_and_stale_memory() {
    let lab = lab_or_skip!();
    for body in [
        "add(x, y)\nreturn torch.zeros_like(x)",
        "add(x, y)\nreturn x",
        "out = add(x, y)\nout[3:] = 0\nreturn out",
        "out = add(x, y)\nreturn out[:1].expand(8, 128)",
    ] {
        assert_wrong(lab.outcome(ADD_TASK, &add_with("", body)), "elements differ");
    }
    // What `torch.empty` leaves is never right.
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", "add(x, y)\nreturn torch.empty_like(x)")), "not finite");
    // ReLU of inputs that are never negative is the identity; the negated draw tells.
    assert_wrong(
        lab.outcome(
            RELU_TASK,
            &format!(
                "{HEAD}{ADD_KERNEL}
class ModelNew(torch.nn.Module):
    def forward(self, x):
        return add(x, torch.zeros_like(x))
"
            ),
        ),
        "negated",
    );
}

#[test]
fn zeros_are_not_within_tolerance_of_small_outputs() {
    let task = "import torch
class Model(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(x.reshape(1, -1), dim=-1)
def get_inputs():
    return [torch.rand(64, 256)]
";
    let candidate = format!(
        "{HEAD}{ADD_KERNEL}
class ModelNew(torch.nn.Module):
    def forward(self, x):
        add(x, x)
        return torch.zeros(1, x.numel(), device=x.device)
"
    );
    let report = lab_or_skip!().evaluate(task, &candidate).unwrap();
    assert_eq!(report.kernelbench_1e2, Some(true), "the loophole of KernelBench's tolerance");
    assert_wrong(report.outcome, "elements differ");
}

#[test]
fn an_omitted_scale_or_shift_shows() {
    let lab = lab_or_skip!();
    assert_wrong(lab.outcome(NORM_TASK, &norm("v")), "elements differ");
    assert_wrong(lab.outcome(NORM_TASK, &norm("v * tl.load(w + at)")), "elements differ");
}

#[test]
fn shape_dtype_count_and_non_finite_values() {
    let lab = lab_or_skip!();
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", "return add(x, y)[:, :64]")), "shape [8, 64], expected [8, 128]");
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", "return add(x, y).reshape(-1)")), "shape");
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", "return add(x, y).double()")), "dtype torch.float64");
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", "return add(x, y) * float('nan')")), "not finite");
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", "return add(x, y), x")), "2 output tensors");
    assert_wrong(lab.outcome(ADD_TASK, &add_with("", "add(x, y)\nreturn 'right'")), "returned a str");
}

#[test]
fn remembering_the_first_answer_is_wrong() {
    let body = "\
if not hasattr(self, 'kept'):
    self.kept = add(x, y)
else:
    add(x, y)
return self.kept";
    assert_wrong(lab_or_skip!().outcome(ADD_TASK, &add_with("", body)), "draw 1");
}

#[test]
fn an_answer_must_not_change_when_the_next_call_comes() {
    let body = "\
if not hasattr(self, 'out'): self.out = torch.empty_like(x)
add_kernel[(4,)](x, y, self.out, x.numel(), BLOCK=256)
return self.out";
    assert_wrong(lab_or_skip!().outcome(ADD_TASK, &add_with("", body)), "draw 1");
    // Every draw its own copy, but the one that was asked before is overwritten in passing.
    let body = "\
out = add(x, y)
if hasattr(self, 'last'): self.last.mul_(0.5)
self.last = out
return out";
    assert_wrong(lab_or_skip!().outcome(ADD_TASK, &add_with("", body)), "draw 0");
}

#[test]
fn changing_the_inputs_does_not_help() {
    let body = "add(x, y)\nx.zero_()\ny.zero_()\nreturn torch.zeros_like(x)";
    assert_wrong(lab_or_skip!().outcome(ADD_TASK, &add_with("", body)), "elements differ");
}

/// Planted: only arguments compared (as it was). Seen: every answer is right, and the last weights are noise.
#[test]
fn changing_the_weights_shows() {
    let lab = lab_or_skip!();
    let changed = LINEAR.replace("        return out\n", "        self.fc.weight.data.mul_(2.0)\n        return out\n");
    assert_ne!(changed, LINEAR);
    assert_wrong(lab.outcome(LINEAR_TASK, &changed), "draw 0 (nominal): forward changed 1 of the weights");
}

#[test]
fn compile_errors_carry_the_compilers_message() {
    let lab = lab_or_skip!();
    let source = add().replace("tl.program_id(0)", "tl.no_such_function(0)");
    match lab.outcome(ADD_TASK, &source) {
        Outcome::CompileError { message } => assert!(message.contains("no_such_function"), "{message}"),
        other => panic!("{other:?}"),
    }
    let source = add().replace("BLOCK=256", "BLOCK=250");
    match lab.outcome(ADD_TASK, &source) {
        Outcome::CompileError { message } => assert!(message.contains("power of 2"), "{message}"),
        other => panic!("{other:?}"),
    }
    match lab.outcome(ADD_TASK, "def broken(:\n") {
        Outcome::CompileError { message } => assert!(message.contains("SyntaxError"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_shared_memory_than_an_h100_has_is_a_compile_error() {
    let source = LINEAR.replace("BM=16, BN=16, BK=32", "BM=128, BN=128, BK=128, num_stages=4").replace("ieee", "tf32");
    match lab_or_skip!().outcome(LINEAR_TASK, &source) {
        Outcome::CompileError { message } => assert!(message.contains("shared memory"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn exceptions_say_in_which_phase() {
    let lab = lab_or_skip!();
    let phase = |outcome: Outcome| match outcome {
        Outcome::Crashed { phase, message } => (phase, message),
        other => panic!("{other:?}"),
    };
    let (at, message) = phase(lab.outcome(ADD_TASK, &add_with("import no_such_module", "return add(x, y)")));
    assert_eq!(at, Phase::Import);
    assert!(message.contains("ModuleNotFoundError"), "{message}");
    let (at, message) = phase(lab.outcome(ADD_TASK, &add_with("", "return undefined_name")));
    assert_eq!(at, Phase::Compile);
    assert!(message.contains("NameError"), "{message}");
    let only_in_run = "if triton.knobs.runtime.interpret: raise ValueError('late')\nreturn add(x, y)";
    let (at, message) = phase(lab.outcome(ADD_TASK, &add_with("", only_in_run)));
    assert_eq!(at, Phase::Run);
    assert!(message.contains("late"), "{message}");
    let none = lab.outcome(ADD_TASK, HEAD);
    assert!(matches!(&none, Outcome::Crashed { message, .. } if message.contains("ModelNew")), "{none:?}");
}

#[test]
fn a_candidate_that_launches_nothing_is_rejected() {
    let lab = lab_or_skip!();
    for body in [
        "return x + 2 * y",
        "if x.numel() < 0: add(x, y)\nreturn x + 2 * y",
        "add_kernel[(0,)](x, y, x, 0, BLOCK=256)\nreturn x + 2 * y",
        // Only where it is compiled.
        "if not triton.knobs.runtime.interpret: add(x, y)\nreturn x + 2 * y",
        // Only in the first checked forward.
        "if getattr(self, 'done', False): return x + 2 * y\nself.done = triton.knobs.runtime.interpret\nreturn add(x, y)",
    ] {
        let outcome = lab.outcome(ADD_TASK, &add_with("", body));
        assert!(matches!(outcome, Outcome::Rejected { .. }), "{body}: {outcome:?}");
    }
}

/// Planted: reductions and scans go from left to right (as they did). Seen: a function that is right in that order alone.
#[test]
fn a_function_that_is_not_associative_shows() {
    let lab = lab_or_skip!();
    let task = SOFTMAX_TASK.replace("torch.softmax(x, dim=-1)", "torch.cumsum(x, dim=-1)");
    let scan = |function: &str, result: &str| {
        SOFTMAX
            .replace(
                "@triton.jit\ndef softmax",
                &format!("@triton.jit\ndef step(a, b):\n    return {function}\n\n@triton.jit\ndef softmax"),
            )
            .replace("other=-float('inf')", "other=0.0")
            .replace(
                "    e = tl.exp(v - tl.max(v, axis=0))\n",
                "    first = tl.sum(tl.where(at == 0, v, 0.0), axis=0)\n",
            )
            .replace("e / tl.sum(e, axis=0)", result)
    };
    let twice = "tl.associative_scan(v, 0, step)";
    assert_wrong(lab.outcome(&task, &scan("a + 2.0 * b", &format!("({twice} + first) * 0.5"))), "elements differ");
    assert_eq!(lab.outcome(&task, &scan("a + b * 1.0", twice)), Outcome::Passed { speedup: None });
    let task = task.replace("torch.cumsum(x, dim=-1)", "x.sum(-1, keepdim=True).expand_as(x).contiguous()");
    let once = "v * 0.0 + tl.reduce(v, 0, step)";
    assert_wrong(lab.outcome(&task, &scan("a + 2.0 * b", &format!("({once} + first) * 0.5"))), "elements differ");
    assert_eq!(lab.outcome(&task, &scan("a + b * 1.0", once)), Outcome::Passed { speedup: None });
}
