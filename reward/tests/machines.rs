//! What forward may not know: the numbers in a tensor's text, which machine or process it runs in. And views that compute when
//! somebody reads them.

use std::collections::BTreeSet;

use reward::extract::from_python;
use reward::lint::lint;
use rollout::outcome::Severity;

/// The rejecting codes of a candidate that doubles x, with these lines before the class and in forward.
fn rejected(module: &str, forward: &str) -> BTreeSet<String> {
    let lines: String = forward.lines().map(|line| format!("        {line}\n")).collect();
    let text = format!(
        "import collections\nimport copy\nimport dataclasses\nimport functools\nimport types\nimport torch\nimport torch.nn as nn\n\
         import triton\nimport triton.language as tl\n\n\n\
         @triton.jit\ndef double(x_ptr, out_ptr, n, BLOCK: tl.constexpr):\n    \
         i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    \
         tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n) * 2.0, mask=i < n)\n\n\n{module}\n\n\n\
         class ModelNew(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.text = '%s'\n        \
         self.align = 16\n        self.props = torch.cuda.get_device_properties(0)\n\n    \
         def forward(self, x):\n        n = x.numel()\n        rows = x.shape[0]\n        out = torch.empty_like(x)\n{lines}        \
         double[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)\n        return out\n"
    );
    let candidate = from_python(&text).expect("a candidate");
    let report = lint(&candidate.source, None);
    report.findings.into_iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code).collect()
}

const RECORDS: &str = "NT = collections.namedtuple('NT', 'a')\n\n\n@dataclasses.dataclass\nclass DC:\n    a: object\n\n    \
                       def go(self):\n        pass\n\n\nclass Bad(Exception):\n    pass\n\n\n\
                       class Sink:\n    def write(self, text):\n        self.text = text";

/// Planted: a tensor inside of what a text is made of. Seen: its numbers are on the host.
#[test]
fn a_text_has_the_numbers_of_every_tensor_in_it() {
    for text in [
        "repr([x])",
        "str((x,))",
        "repr({'a': x})",
        "format([x])",
        "f'{x}'",
        "f'{[x]}'",
        "f'{ {1: x} !r}'",
        "'%s' % [x]",
        "'%r' % (x,)",
        "'%(a)s' % {'a': x}",
        "self.text % [x]",
        "'{}'.format([x])",
        "str.format('{}', [x])",
        "str.__mod__('%s', [x])",
        "list.__repr__([x])",
        "[x].__repr__()",
        "(x,).__str__()",
        "repr(DC(x))",
        "DC(x).__repr__()",
        "repr(DC(x).go)",
        "repr(NT(x))",
        "f'{types.SimpleNamespace(a=x)}'",
        "str(dataclasses.asdict(DC(x)))",
        "repr(dataclasses.replace(DC(1), a=x))",
        "repr(copy.copy(DC(x)))",
        "str(NT(x)._asdict())",
        "str(ValueError([x]))",
        "str(KeyError(x))",
        "str(Bad(x))",
        "repr(functools.partial(print, a=x))",
        "repr(slice(x))",
        "repr(list[x])",
        "repr(list(zip(x.unbind(0), x.unbind(0))))",
        "''.join(map(repr, [[x]]))",
        "bytes(x.view(torch.uint8).unbind(0))",
        "print(x, file=Sink())",
        "print('a', file=Sink())",
        "print(x, **{'file': Sink()})",
        "functools.partial(print, file=Sink())(x)",
    ] {
        let codes = rejected(RECORDS, &format!("text = {text}"));
        assert!(codes.contains("K027"), "{text}: {codes:?}");
    }
    assert!(rejected(RECORDS, "text = self.text\ntext %= [x]").contains("K027"));
}

/// Planted: every text is suspect. Seen: messages, keys of caches and notes for debugging are refused.
#[test]
fn honest_texts_pass() {
    let debug = "DEBUG = False\n\n\ndef note(text):\n    print(f'[note] {text}')";
    for forward in [
        "key = f'{x.shape}-{x.dtype}-{rows}'",
        "name = '%s-%d' % (x.dtype, rows)\nother = '%s' % (tuple(x.shape),)",
        "more = '{} {}'.format(x.dtype, x.device) + str(x.shape) + repr(self)",
        "assert x.is_cuda, f'got {x}'",
        "if rows < 0:\n    raise ValueError(f'odd: {x}')",
        "print(f'{x.shape}', rows)",
        "if DEBUG:\n    note('here')",
        "block = [rows % 3, 1][(rows + 1) % 2]",
    ] {
        assert_eq!(rejected(debug, forward), BTreeSet::new(), "{forward}");
    }
}

/// Planted: an address, an identity, a name of a device decides. Seen: another machine gets other work.
#[test]
fn no_machine_decides() {
    let tools = "ident = id\n\n\ndef helper():\n    pass\n\n\nclass Plain:\n    def text(self):\n        return super().__repr__()";
    for test in [
        "'H100' in torch.cuda.get_device_name()",
        "'H100' in self.props.name",
        "self.props.uuid == 1",
        "hasattr(self.props, 'uuid')",
        "getattr(self.props, 'uuid', None)",
        "self.props.L2_cache_size > 5",
        "'H100' in str(self.props)",
        "'H100' in f'{self.props}'",
        "x.data_ptr()",
        "not x.data_ptr()",
        "x.data_ptr() > 1 << 62",
        "x.data_ptr() % 4096 == 0",
        "x.data_ptr() // 16 % 2",
        "(x.data_ptr() >> 4) % 2",
        "x.data_ptr() & 4096",
        "x.data_ptr() - out.data_ptr() > 5",
        "x.data_ptr() < out.data_ptr()",
        "int(x.data_ptr()) > 5",
        "[x.data_ptr()][0] > 5",
        "max(x.data_ptr(), out.data_ptr()) == x.data_ptr()",
        "x.data_ptr() in {5: 1}",
        "{5: 1}.get(x.data_ptr())",
        "x.data_ptr().bit_length() > 5",
        "'7' in f'{x.data_ptr()}'",
        "torch.Tensor.data_ptr(x) > 5",
        "id(x) % 4093 == 7",
        "ident(x) % 4093 == 7",
        "list(map(id, [x]))[0] % 3",
        "hash('troupe') % 97 == 7",
        "'troupe'.__hash__() % 97 == 7",
        "'7' in repr(object())",
        "'7' in str(Plain())",
        "'7' in object.__repr__(self)",
        "'7' in Plain().text()",
        "'7' in f'{helper}'",
        "x.is_leaf",
        "x.grad_fn is None",
        "x.requires_grad",
        "x.is_pinned()",
        "torch.get_num_threads() > 3",
    ] {
        let codes = rejected(tools, &format!("rows = 1 if {test} else rows\nn = rows * 4"));
        assert!(codes.contains("K015") || codes.contains("K010"), "{test}: {codes:?}");
    }
    for forward in [
        "double[(x.data_ptr() + 1,)](x, out, n, BLOCK=256)",
        "double[lambda meta: (x.data_ptr(),)](x, out, n, BLOCK=256)",
        "double[(1,)](x, out, n, BLOCK=x.data_ptr())",
        "x = x[:x.data_ptr()]",
        "for i in range(x.data_ptr()):\n    n = 1",
        "match x.data_ptr():\n    case 5:\n        n = 1",
    ] {
        assert!(rejected(tools, forward).contains("K015"), "{forward}");
    }
    assert!(rejected("BIG = 'H100' in torch.cuda.get_device_name(0)", "n = 1 if BIG else n").contains("K015"));
}

/// Planted: every address and every device is suspect. Seen: tests of alignment and sizes of grids are refused.
#[test]
fn honest_questions_about_the_machine_pass() {
    let tools = "ALIGN = 16\n_MISSING = object()\n\n\ndef aligned(t, to=32):\n    return t if t.data_ptr() % to == 0 else t.clone()\n\n\n\
                 def pick(t, y=_MISSING):\n    return t if y is _MISSING else y\n\n\n\
                 P = torch.cuda.get_device_properties(0)\nINFO = {'sms': P.multi_processor_count, 'major': P.major}";
    for forward in [
        "fast = all(t.data_ptr() % 16 == 0 for t in (x, out))\nwarps = 8 if fast else 4",
        "if (x.data_ptr() | out.data_ptr()) & 15:\n    x = x.clone()",
        "if x.data_ptr() % ALIGN != 0:\n    x = x.clone()",
        "if x.data_ptr() % self.align != 0:\n    x = x.clone()",
        "x = aligned(x)",
        "if x.data_ptr() == out.data_ptr():\n    raise RuntimeError('alias')",
        "if x.data_ptr() == 0:\n    raise ValueError('no memory')",
        "table = torch.tensor([x.data_ptr(), out.data_ptr()], dtype=torch.int64, device=x.device)",
        "sms = min(rows, self.props.multi_processor_count * 2)",
        "sms = INFO['sms'] * 2",
        "warps = 8 if torch.cuda.get_device_capability()[0] >= 9 else 4",
        "x = pick(x)",
    ] {
        assert_eq!(rejected(tools, forward), BTreeSet::new(), "{forward}");
    }
    let gradients = "class Double(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x):\n        \
                     out = torch.empty_like(x)\n        double[(1,)](x, out, x.numel(), BLOCK=256)\n        return out";
    assert_eq!(rejected(gradients, "if x.requires_grad:\n    return Double.apply(x)"), BTreeSet::new());
}

/// Planted: the conjugate of a complex tensor. Seen: who reads it negates. Of real tensors it is a transpose.
#[test]
fn conjugates_are_computed_by_whoever_reads_them() {
    for view in [
        "torch.view_as_complex(out).mH.imag",
        "torch.view_as_complex(out).H.imag",
        "torch.view_as_complex(out).adjoint().imag",
        "torch.adjoint(torch.view_as_complex(out)).imag",
        "getattr(torch.view_as_complex(out), 'mH').imag",
        "torch.view_as_real(out.view(torch.complex64).mH)",
        "out.view(torch.tensor(1j).dtype).mH",
    ] {
        let codes = rejected("", &format!("y = {view}"));
        assert!(codes.contains("K007"), "{view}: {codes:?}");
    }
    for view in ["x.mH.contiguous()", "x.H.contiguous()", "x.adjoint().contiguous()", "x.mT.contiguous()"] {
        assert_eq!(rejected("", &format!("x = {view}")), BTreeSet::new(), "{view}");
    }
}
