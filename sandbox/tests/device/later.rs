//! What torch does at full size, and in calls after those that were checked.

use super::*;

/// Planted: nobody looks once the checks are over (as it was). Seen: torch does the timed calls, and the answer is right.
#[test]
fn torch_in_the_timed_calls_is_seen() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let later = only_there(
            "global calls\n    calls += 1\n    if calls > 14: add(x, y)\n    if calls > 14: return x + 2 * y",
        );
        let later = later.replace("import stat", "import stat\ncalls = 0");
        for (code, found) in [(later.as_str(), true), (&add(), false)] {
            let report = lab.evaluate(0, ADD_TASK, code).await.expect("no fault");
            assert!(report.outcome.is_correct(), "{:?}", report.outcome);
            let seen: Vec<_> = report.evidence.forwards.iter().filter(|s| !s.computed.is_empty()).collect();
            assert_eq!(!seen.is_empty(), found, "{seen:?}");
            assert!(seen.iter().all(|s| s.draw.contains("after timed calls")), "{seen:?}");
        }
        lab.end().await;
    });
}

/// Planted: on the device the order of elements is not told to the watch (as it was). Seen: what torch puts in order there only.
#[test]
fn a_transpose_at_full_size_is_seen() {
    runtime().block_on(async {
        let Some(lab) = lab(1, false).await else { return };
        let task = "\
import torch

N = 300

INTERPRETER_SHAPES = {'N': 8}

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x).t().contiguous()

def get_inputs():
    return [torch.randn(N, 96)]
";
        let candidate = |first: &str| {
            format!(
                "{}
import stat

def there():
    # As `only_there`.
    fifos = [n for n in range(3, 20) if os.path.exists(f'/proc/self/fd/{{n}}') and stat.S_ISFIFO(os.fstat(n).st_mode)]
    return len(fifos) > 1

@triton.jit
def kernel(x, out, n, m, sn, sm, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at // m * sn + at % m * sm, mask=at < n * m)
    tl.store(out + at, tl.maximum(v, 0.0), mask=at < n * m)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.t()
        {first}
        out = torch.empty(x.shape, device=x.device)
        kernel[(triton.cdiv(x.numel(), 1024),)](x, out, x.shape[0], x.shape[1], x.stride(0), x.stride(1), BLOCK=1024)
        return out
",
                fixtures::HEAD
            )
        };
        for (first, found) in [("if there(): x = x.contiguous()", true), ("x = x.t().contiguous().t()", false)] {
            let report = lab.evaluate(0, task, &candidate(first)).await.expect("no fault");
            assert!(report.outcome.is_correct(), "{:?}", report.outcome);
            let seen: Vec<_> = report.evidence.forwards.iter().filter(|s| !s.computed.is_empty()).collect();
            assert_eq!(!seen.is_empty(), found, "{seen:?}");
            assert!(seen.iter().all(|s| s.draw.starts_with("on the device")), "{seen:?}");
        }
        lab.end().await;
    });
}

/// Planted: the modes are set once for a burst and before each checked call (as it was). Seen: what a call leaves behind tells a timed one from
/// a checked one.
#[test]
fn a_timed_call_finds_what_a_checked_one_finds() {
    runtime().block_on(async {
        let Some(lab) = lab(1, true).await else { return };
        let body = "\
if self.training == 7: return torch.zeros_like(x)
self.training = 7
torch.set_grad_enabled(True)
return add(x, y)";
        let outcome = lab.evaluate(0, ADD_TASK, &add_with("", body)).await.expect("no fault").outcome;
        assert!(outcome.is_correct(), "{outcome:?}");
        lab.end().await;
    });
}

/// Planted: nobody looks at a weight on the device (as it was). Seen: calls are counted in a buffer of the reference's.
#[test]
fn a_buffer_stays_as_it_is_on_the_device_too() {
    runtime().block_on(async {
        let Some(lab) = lab(1, false).await else { return };
        let made = "    def __init__(self):
        super().__init__()
        self.register_buffer('still', torch.zeros((), dtype=torch.int64))
        self.register_buffer('moving', torch.zeros((), dtype=torch.int64))

    def forward(self, x, y):
";
        let with = |text: &str| text.replace("    def forward(self, x, y):\n", made);
        let task = with(ADD_TASK).replace("        return x", "        self.moving.add_(1)\n        return x");
        let outcome =
            lab.evaluate(0, &task, &with(&only_there("self.moving.add_(1)"))).await.expect("no fault").outcome;
        assert!(outcome.is_correct(), "{outcome:?}");
        let outcome = lab.evaluate(0, &task, &with(&only_there("self.still.add_(1)"))).await.expect("no fault").outcome;
        let Outcome::WrongAnswer { message } = &outcome else { panic!("{outcome:?}") };
        assert!(message.contains("at full size") && message.contains("changed 1 of the weights"), "{message}");
        lab.end().await;
    });
}
