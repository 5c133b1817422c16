//! What host code does beside its kernels: copies that do the work, names that hide it, tuners.

use rollout::outcome::Outcome;

use crate::fixtures::*;
use crate::inputs::{CLAMP_TASK, map};
use crate::lab_or_skip;

const PASSED: Outcome = Outcome::Passed { speedup: None };

const TURN_TASK: &str = "\
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        x = torch.relu(x)
        return x.t().contiguous()

def get_inputs():
    return [torch.randn(8, 40)]
";

fn turned(body: &str) -> String {
    let body: String = body.lines().map(|l| format!("        {l}\n")).collect();
    format!(
        "{HEAD}
@triton.jit
def kernel(x, out, n, m, sn, sm, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at // m * sn + at % m * sm, mask=at < n * m)
    tl.store(out + at, tl.maximum(v, 0.0), mask=at < n * m)

def run(x, n, m, sn, sm):
    out = torch.empty(n, m, device=x.device)
    kernel[(triton.cdiv(n * m, 64),)](x, out, n, m, sn, sm, BLOCK=64)
    return out

class ModelNew(torch.nn.Module):
    def forward(self, x):
        a, b = x.shape
{body}"
    )
}

/// Planted bugs: only the shape of what is returned is compared; a copy by torch puts it in order.
#[test]
fn a_transpose_is_done_by_the_kernel() {
    let lab = lab_or_skip!();
    let honest = lab.evaluate(TURN_TASK, &turned("return run(x.contiguous(), b, a, 1, b)")).unwrap();
    assert_eq!(honest.outcome, PASSED);
    assert!(honest.evidence.forwards.iter().all(|seen| seen.computed.is_empty()));
    match lab.outcome(TURN_TASK, &turned("return run(x, a, b, b, 1).t()")) {
        Outcome::WrongAnswer { message } if message.contains("stand in another order") => {}
        other => panic!("{other:?}"),
    }
    for body in [
        "return run(x.t().contiguous(), b, a, a, 1)",
        "return run(x, a, b, b, 1).t().contiguous()",
        "y = torch.empty(b, a, device=x.device)\ny.copy_(x.t())\nreturn run(y, b, a, a, 1)",
    ] {
        let report = lab.evaluate(TURN_TASK, &turned(body)).unwrap();
        assert_eq!(report.evidence.forwards[0].computed.len(), 1, "{body}: {report:?}");
    }
    // Where the reference leaves them in place, so may a candidate.
    let views = TURN_TASK.replace(".contiguous()", "");
    assert_eq!(lab.outcome(&views, &turned("return run(x, a, b, b, 1).t()")), PASSED);
    let copies = lab.evaluate(&views, &turned("return run(x.t().contiguous(), b, a, a, 1)")).unwrap();
    assert!(copies.outcome == PASSED && copies.evidence.forwards[0].computed.is_empty(), "{copies:?}");
}

/// Planted: only whole copies are looked at, and only what a class of the reference calls (as it was). Seen: piece by piece torch does the
/// work; a helper's `contiguous` asks for nothing.
#[test]
fn a_transpose_in_pieces_is_one_and_a_helper_asks_for_it_too() {
    let lab = lab_or_skip!();
    let pieces = "\
y = torch.empty(a, b, device=x.device)
for j in range(4):
    y[:, j::4].copy_(x[:, j * b // 4:(j + 1) * b // 4])
run(y, a, b, b, 1)
return run(x.contiguous(), b, a, 1, b)";
    let report = lab.evaluate(TURN_TASK, &turned(pieces)).unwrap();
    assert_eq!(report.evidence.forwards[0].computed, [("copy_".to_owned(), 80)], "{report:?}");
    // Padding leaves neighbours together, so do halves, a row's copy to a column is of one element each.
    let padded = "\
y = torch.zeros(a + 1, b + 8, device=x.device)
y[:a, :b].copy_(x)
y[1:2, :b].copy_(x[1:2])
halves = torch.empty(a, b, device=x.device)
halves[:, :b // 2] = x[:, :b // 2]
halves[:, b // 2:] = x[:, b // 2:]
even = x[:, ::2].contiguous()
halves[0, ::2] = 0.0
run(halves, a, b, b, 1)
return run(y, b, a, 1, b + 8)";
    let report = lab.evaluate(TURN_TASK, &turned(padded)).unwrap();
    assert_eq!(report.outcome, PASSED);
    assert!(report.evidence.forwards.iter().all(|seen| seen.computed.is_empty()), "{report:?}");
    let helper = TURN_TASK
        .replace("        return x.t().contiguous()", "        return turn(x)")
        .replace("class Model", "def turn(x):\n    return x.t().contiguous()\n\nclass Model");
    let copy = "return run(x, a, b, b, 1).t().contiguous()";
    assert_eq!(lab.evaluate(&helper, &turned(copy)).unwrap().evidence.forwards[0].computed.len(), 1);
    let of_inputs = TURN_TASK
        .replace("x.t().contiguous()", "x.t()")
        .replace("torch.randn(8, 40)", "torch.randn(8, 40).contiguous()");
    assert!(lab.evaluate(&of_inputs, &turned(copy)).unwrap().evidence.forwards[0].computed.is_empty());
}

/// Planted bug: what is written to by something that is called an allocation is data no more, whatever stays in it.
#[test]
fn memory_that_keeps_its_contents_stays_data() {
    let lab = lab_or_skip!();
    let honest = "\
y = torch.empty_like(x)
torch.zeros(x.shape, out=y)
torch.tensor([1.0, 2.0], device=x.device).mul_(2.0)
held = x.clone()
";
    let candidate = |rest: &str| add_with("", &format!("{honest}{rest}"));
    let report = lab.evaluate(ADD_TASK, &candidate("return add(y, held)")).unwrap();
    assert!(report.evidence.forwards.iter().all(|seen| seen.computed.is_empty()), "{report:?}");
    for rest in [
        "torch.zeros(0, out=held.view(-1))\nheld = held.softmax(-1)\nreturn add(x, held)",
        "held = torch.ops.aten.lift_fresh(held).softmax(-1)\nreturn add(x, held)",
    ] {
        let report = lab.evaluate(ADD_TASK, &candidate(rest)).unwrap();
        assert_eq!(report.evidence.forwards[0].computed, [("_softmax".to_owned(), 1024)], "{rest}");
    }
}

/// Planted bug: a tuner with a number of repetitions of its own has each configuration run hundreds of times in the interpreter.
#[test]
fn a_tuner_that_says_how_long_it_measures_is_done_at_once() {
    let lab = lab_or_skip!();
    for how in ["warmup=25, rep=100", "rep=50, use_cuda_graph=True"] {
        let tuned = format!(
            "@triton.autotune(configs=[triton.Config({{'BLOCK': b}}) for b in (32, 64, 128)], key=['n'], {how})\n@triton.jit\ndef kernel"
        );
        let source = map("tl.minimum(tl.maximum(v, -1.0), 1.0)")
            .replace("@triton.jit\ndef kernel", &tuned)
            .replace("(triton.cdiv(x.numel(), 64),)", "lambda meta: (triton.cdiv(x.numel(), meta['BLOCK']),)")
            .replace(", BLOCK=64", "");
        let began = std::time::Instant::now();
        assert_eq!(lab.outcome(CLAMP_TASK, &source), PASSED, "{how}");
        assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
    }
}

/// Planted: torch makes a tensor's text with nobody watching, and nobody asks who wanted it (as it was). Seen: an answer from it.
#[test]
fn the_text_of_a_tensor_is_its_elements() {
    let lab = lab_or_skip!();
    for text in [
        "repr([x])",
        "f'{[x]}'",
        "'%s' % x",
        "str({0: x})",
        "str(ValueError([x]))",
        "print(x, file=open(os.devnull, 'w'))",
        "format(x)",
        "torch._tensor_str._str(x[:1])",
    ] {
        let report = lab
            .evaluate(
                ADD_TASK,
                &add_with("", &format!("if not hasattr(self, 'n'): {text}\nself.n = 0\nreturn add(x, y)")),
            )
            .unwrap();
        let Some((name, size)) = report.evidence.forwards[0].computed.first() else { panic!("{text}: {report:?}") };
        assert!(name == "__repr__" && *size >= 128, "{text}: {report:?}");
    }
    // Number by number is no other way.
    for text in ["repr(x[0, n])", "str(x[:1, n:n + 1])", "x[0, n:n + 1].tolist()", "f'{x[0, n]}'"] {
        let body = format!("for n in range(getattr(self, 'left', 100)): {text}\nself.left = 0\nreturn add(x, y)");
        let report = lab.evaluate(ADD_TASK, &add_with("", &body)).unwrap();
        assert_eq!(report.evidence.forwards[0].computed, [("item".to_owned(), 100)], "{text}");
    }
    let honest = "f'{x.shape} {x.dtype} {x[0, 0]} {self}'\nreturn add(x, y)";
    let report = lab.evaluate(ADD_TASK, &add_with("", honest)).unwrap();
    assert!(report.outcome == PASSED && report.evidence.forwards[0].computed.is_empty(), "{report:?}");
}

/// Planted: a copy is a copy, whatever it makes of what is copied (as it was). Seen: a comparison by a cast, a sign by a lazy view, every element
/// four times by `expand`.
#[test]
fn a_copy_that_does_a_tasks_work_is_work() {
    let lab = lab_or_skip!();
    for (body, name) in [
        ("x.bool()", "_to_copy to bool"),
        ("x.to(torch.int32)", "_to_copy to int32"),
        ("torch.empty(x.shape, dtype=torch.bool).copy_(x)", "copy_ to bool"),
        ("x.view(torch.int32).bool()", "_to_copy to bool"),
        ("x.to(torch.complex64).mH.imag.contiguous()", "clone of a lazy negation"),
        ("torch.view_as_complex(x.view(8, 64, 2)).conj().resolve_conj()", "clone of a lazy negation"),
        (
            "torch.empty_like(x)[:, :64].copy_(torch.view_as_complex(x.view(8, 64, 2)).mH.imag.t())",
            "copy_ of a lazy negation",
        ),
        ("x.view(8, 128, 1).expand(8, 128, 4).reshape(8, 512)", "clone of repeated elements"),
        ("torch.empty(8, 128, 4).copy_(x[:, :, None])", "copy_ of repeated elements"),
        ("x.unfold(1, 9, 1).contiguous()", "clone of repeated elements"),
        ("x.expand(3, 8, 128).to(torch.float64)", "_to_copy of repeated elements"),
        ("held = x.clone()\nheld.resize_(64, 128).exp()", "exp"),
        ("held = torch.empty(0)\nheld.set_(x.untyped_storage().clone(), 0, (8, 128))\nheld.exp()", "exp"),
    ] {
        let report = lab.evaluate(ADD_TASK, &add_with("", &format!("{body}\nreturn add(x, y)"))).unwrap();
        let found: Vec<&str> = report.evidence.forwards[0].computed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, [name], "{body}: {report:?}");
    }
    // Flags and whole numbers under another dtype, arguments made as large as others, weights.
    let honest = "\
flags = torch.empty(x.shape, dtype=torch.int8, device=x.device)
flag_kernel[(triton.cdiv(x.numel(), 256),)](x, flags, x.numel(), BLOCK=256)
flags.bool().to(torch.uint8).long().float().int()
x.half().float().to(torch.bfloat16).double()
x[:1].expand(8, 128).contiguous()
row, column = x[:1], y[:, :1]
row, column = torch.broadcast_tensors(row, column)
row.contiguous()
torch.arange(4)[:, None].expand(4, 4000).contiguous().bool()
return add(x, y)";
    let top = "
@triton.jit
def flag_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, (tl.load(x + at, mask=at < n) > 0).to(tl.int8), mask=at < n)
";
    let report = lab.evaluate(ADD_TASK, &add_with(top, honest)).unwrap();
    assert_eq!(report.outcome, PASSED);
    assert!(report.evidence.forwards.iter().all(|seen| seen.computed.is_empty()), "{report:?}");
    match lab.outcome(ADD_TASK, &add_with("", "return torch._neg_view(add(x, y))")) {
        Outcome::WrongAnswer { message } if message.contains("lazy negation") => {}
        other => panic!("{other:?}"),
    }
}

/// Planted: an operation is known by its last name (as it was). Seen: one of the candidate's own that is called `clone`.
#[test]
fn only_torchs_own_operations_are_known_by_name() {
    let lab = lab_or_skip!();
    let top = "
# A candidate is imported twice.
if not hasattr(torch, 'MINE'):
    torch.MINE = torch.library.Library('mine', 'DEF')
    torch.MINE.define('clone(Tensor x) -> Tensor')
    torch.MINE.impl('clone', torch.exp, 'CPU')
";
    let report = lab.evaluate(ADD_TASK, &add_with(top, "torch.ops.mine.clone(x)\nreturn add(x, y)")).unwrap();
    let found = report.evidence.forwards.first().map(|seen| seen.computed.clone()).unwrap_or_default();
    assert!(found.iter().any(|(name, _)| name == "mine::clone"), "{report:?}");
}

/// Planted: the first configuration is everybody's best (as it was). Seen: another one, which a device may choose, is wrong.
#[test]
fn each_of_a_tuners_configurations_has_to_be_right() {
    let lab = lab_or_skip!();
    let tuned = |configs: &str| {
        map("tl.minimum(tl.maximum(v, -1.0), 1.0)")
            .replace(
                "@triton.jit\ndef kernel",
                &format!("@triton.autotune(configs=[triton.Config({{'BLOCK': b, 'STEP': s}}, num_warps=w) for b, s, w in {configs}], key=['n'])\n@triton.jit\ndef kernel"),
            )
            .replace("BLOCK: tl.constexpr", "BLOCK: tl.constexpr, STEP: tl.constexpr")
            .replace("mask=at < n)\n\nclass", "mask=(at < n) & (tl.program_id(0) % STEP == 0))\n\nclass")
            .replace("(triton.cdiv(x.numel(), 64),)", "lambda meta: (triton.cdiv(x.numel(), meta['BLOCK']),)")
            .replace(", BLOCK=64", "")
    };
    for configs in ["((64, 1, 4), (64, 4, 4))", "((32, 1, 4), (64, 1, 4), (64, 2, 4), (128, 1, 4))"] {
        assert!(matches!(lab.outcome(CLAMP_TASK, &tuned(configs)), Outcome::WrongAnswer { .. }), "{configs}");
    }
    // One that no device could take is none that has to be right.
    for configs in ["((64, 1, 4), (32, 1, 4), (128, 1, 4))", "((64, 1, 4), (64, 4, 64))"] {
        assert_eq!(lab.outcome(CLAMP_TASK, &tuned(configs)), PASSED, "{configs}");
    }
}
