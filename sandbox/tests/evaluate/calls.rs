//! Many calls, of which most are timed and few are checked.

use rollout::outcome::Outcome;

use crate::fixtures::*;
use crate::lab_or_skip;

const PASSED: Outcome = Outcome::Passed { speedup: None };

/// Another launch from the call after `after` on, which is counted where it says; `read` is what it does before.
fn counting(after: u32, read: &str, kept: &str) -> String {
    let (top, count) = match kept {
        "module" => ("N = [0]", "N[0] += 1\nn = N[0]"),
        _ => ("", "self.n = getattr(self, 'n', 0) + 1\nn = self.n"),
    };
    let body = format!(
        "{count}\n{read}\nif n > {after}:\n    out = torch.empty_like(x)\n    \
         add_kernel[(2,)](x, y, out, x.numel(), BLOCK=512)\n    return out\nreturn add(x, y)"
    );
    add_with(top, &body)
}

/// Planted: nothing compared once a number was read (as it was). Seen: one read number hides every counter.
#[test]
fn a_number_that_is_read_hides_no_counter() {
    let lab = lab_or_skip!();
    // Also right behind the checked calls, of which there are about fourteen.
    for (after, read, kept) in [
        (25, "if n < 5: x[0, 0].item()", "model"),
        (25, "x[0, 0].item()", "module"),
        (14, "x[0, 0].item()", "model"),
        (15, "x[0, 0].item()", "module"),
        (16, "x[0, 0].item()", "model"),
        (60, "int(torch.empty(1, device=x.device, dtype=torch.int32))", "module"),
        (25, "", "model"),
    ] {
        let report = lab.evaluate(ADD_TASK, &counting(after, read, kept)).unwrap();
        assert_eq!(report.outcome, PASSED);
        assert!(report.evidence.drift.is_some(), "{after} {read} {kept}: {report:?}");
    }
}

/// Planted: of many calls only launches are compared (as it was). Seen: the same launches, and torch's answer beside them.
#[test]
fn torch_in_a_later_call_is_seen() {
    let lab = lab_or_skip!();
    for body in [
        "self.n = getattr(self, 'n', 0) + 1\nout = add(x, y)\nreturn out if self.n < 25 else x + 2 * y",
        "self.n = getattr(self, 'n', 0) + 1\nif self.n < 4: x[0, 0].item()\nout = add(x, y)\nreturn out if self.n < 25 else x + 2 * y",
        "self.n = getattr(self, 'n', 0) + 1\nout = add(x, y)\nif self.n > 25: x.reshape(-1).tolist()\nreturn out",
    ] {
        let report = lab.evaluate(ADD_TASK, &add_with("", body)).unwrap();
        assert_eq!(report.outcome, PASSED);
        let last = report.evidence.forwards.last().unwrap();
        assert!(last.draw == "one of many calls" && !last.computed.is_empty(), "{body}: {report:?}");
    }
}

/// Planted: numbers that a kernel would have made are another every time without it. Seen: who looks at a device's numbers counts calls.
#[test]
fn who_reads_numbers_of_a_kernel_counts_nothing() {
    let lab = lab_or_skip!();
    let counted = "
@triton.jit
def count_kernel(x, found, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(found, tl.sum((tl.load(x + at, mask=at < n, other=0.0) > 0).to(tl.int32), axis=0))

";
    let by_count = "found = torch.empty(1, device=x.device, dtype=torch.int32)
count_kernel[(1,)](x, found, x.numel(), BLOCK=2048)
out = torch.empty_like(x)
BLOCK = 512 if found.item() > 500 else 256
add_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, y, out, x.numel(), BLOCK=BLOCK)
return out";
    let kept = by_count.replace(
        "found = torch.empty(1, device=x.device, dtype=torch.int32)",
        "if not hasattr(self, 'found'):\n    self.found = torch.empty(1, device=x.device, dtype=torch.int32)\nfound = self.found",
    );
    let packed = "if not hasattr(self, 'zero'):
    self.zero = torch.empty_like(x)
    add_kernel[(4,)](torch.zeros_like(x), torch.zeros_like(x), self.zero, x.numel(), BLOCK=256)
s = x[0, 0].item()
return add(x, y)";
    let grown = "if getattr(self, 'room', x[:0]).numel() < x.numel():
    self.room = torch.empty(2 * x.numel(), device=x.device)
y[0, 0].item()
return add(x, y)";
    let many = "for row in range(3):\n    x[row, 0].item() > 0\nreturn add(x, y)";
    // Work on a table of the candidate's own, which kernels are given, too.
    let table = "if not hasattr(self, 'table'):
    self.table = torch.zeros_like(x)
zeros = self.table * 2.0
add(self.table, zeros)
return add(x, y)";
    for body in [by_count, &kept, packed, grown, many, table, "self.zeros = torch.zeros(3)\nreturn add(x, y)"] {
        let report = lab.evaluate(ADD_TASK, &add_with(counted, body)).unwrap();
        assert_eq!(report.outcome, PASSED, "{body}");
        assert!(report.evidence.drift.is_none() && report.evidence.calls >= 100, "{body}: {report:?}");
        assert!(report.evidence.forwards.iter().all(|s| s.computed.is_empty()), "{body}: {report:?}");
    }
}
