//! What a loop or an alias may change decides no branch: code that only looks dead is judged, and honest code around loops and
//! lists stays accepted.

use std::collections::BTreeSet;

use reward::extract::from_python;
use reward::lint::lint;
use rollout::outcome::Severity;

/// The rejecting codes of a candidate that doubles x, with these lines before the class and in forward.
fn rejected(module: &str, forward: &str) -> BTreeSet<String> {
    let lines: String = forward.lines().map(|line| format!("        {line}\n")).collect();
    let text = format!(
        "import dataclasses\nimport functools\nimport operator\nimport torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n\n\n\
         @triton.jit\ndef double(x_ptr, out_ptr, n, BLOCK: tl.constexpr):\n    \
         i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    \
         tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n) * 2.0, mask=i < n)\n\n\n{module}\n\n\n\
         class Box:\n    pass\n\n\n\
         class ModelNew(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.calls = 0\n        \
         self.blocks = (64, 256)\n\n    def forward(self, x):\n        M, N = x.shape\n        n = x.numel()\n        \
         out = torch.empty_like(x)\n        box = Box()\n        box.k = 0\n{lines}"
    );
    let candidate = from_python(&text).expect("a candidate");
    let report = lint(&candidate.source, None);
    report.findings.into_iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code).collect()
}

const LAUNCH: &str = "double[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)\n";

/// With the honest work after these lines, torch's work in them goes unseen.
fn hides(module: &str, lines: &str) -> bool {
    let codes = rejected(module, &format!("{lines}\n{LAUNCH}return out\n"));
    !codes.contains("K005") && !codes.contains("K007")
}

const LEAVES: &str = "def leave(*a):\n    raise ValueError('no')\n\n\ndef same(t, d):\n    return t";

/// Planted: what follows a loop, or something else that may not run, that always leaves. Seen: it counts as never reached.
#[test]
fn what_follows_a_loop_that_leaves_is_judged() {
    for lines in [
        "for _ in range(N <= 4096):\n    LAUNCH\n    return out\nreturn torch.softmax(x, -1)",
        "while N <= 4096:\n    LAUNCH\n    return out\nreturn torch.softmax(x, -1)",
        "for s in x.shape[9:]:\n    raise ValueError(s)\nreturn torch.softmax(x, -1)",
        "for _ in range(N <= 4096):\n    LAUNCH\n    return out\nelse:\n    return torch.softmax(x, -1)",
        "for _ in x.shape[9:]:\n    LAUNCH\n    return out\nself.calls += 1\nif self.calls > 260:\n    return torch.softmax(x, -1)",
        "for s in x.shape[9:]:\n    if s > 1:\n        return out\n    else:\n        raise ValueError(s)\nreturn torch.softmax(x, -1)",
        "[leave() for _ in x.shape[9:]]\nreturn torch.softmax(x, -1)",
        "g = (leave() for _ in x.shape)\nreturn torch.softmax(x, -1)",
        "list(map(leave, x.shape[9:]))\nreturn torch.softmax(x, -1)",
        "map(leave, x.shape)\nreturn torch.softmax(x, -1)",
        "functools.reduce(leave, x.shape[:1])\nreturn torch.softmax(x, -1)",
        "ok = 4096 > N > leave()\nreturn torch.softmax(x, -1)",
        "k = double[lambda meta: leave()]\nreturn torch.softmax(x, -1)",
        "@dataclasses.dataclass\nclass A:\n    a: int = dataclasses.field(default_factory=leave)\nreturn torch.softmax(x, -1)",
    ] {
        let lines = lines.replace("LAUNCH", LAUNCH.trim());
        assert!(!hides(LEAVES, &lines), "{lines}");
    }
}

/// Planted: a flag, a function or None that a loop may have replaced. Seen: it counts as replaced, and the branch on it as dead.
#[test]
fn what_a_loop_may_replace_decides_nothing() {
    for lines in [
        "big = N > 4096\nfor _ in range(N <= 4096):\n    big = False\nif big:\n    return torch.softmax(x, -1)",
        "big = 1\nwhile N <= 4096:\n    big = 0\n    N += 4096\nif big:\n    return torch.softmax(x, -1)",
        "y = None\nfor _ in range(N <= 4096):\n    y = out\nif y is None:\n    return torch.softmax(x, -1)",
        "y = x\nfor _ in range(N <= 4096):\n    y = None\nif y is not None:\n    return torch.softmax(x, -1)",
        "f = torch.softmax\nfor _ in range(N <= 4096):\n    f = same\ny = f(x, -1)",
        "f = x.softmax\nfor _ in range(N <= 4096):\n    f = out.view\ny = f(-1)",
        "box.k = 1\nfor _ in range(N <= 4096):\n    box.k = 0\nif box.k:\n    return torch.softmax(x, -1)",
        "k = 0\nfor s in x.shape[9:]:\n    k = 1\n    break\nif k == 0 and N > 4096:\n    return torch.softmax(x, -1)",
        "range = lambda *a: []\nbig = True\nfor _ in range(3):\n    big = False\nif big:\n    return torch.softmax(x, -1)",
        "range = lambda *a: [1]\nfor _ in range(0):\n    return torch.softmax(x, -1)",
        "big = True\nfor v in (1,):\n    if isinstance(v, str):\n        big = False\nif big:\n    return torch.softmax(x, -1)",
        "big = N > 4096\n[big := False for _ in range(N <= 4096)]\nif big:\n    return torch.softmax(x, -1)",
        "box.k = 1\nlist(map(lambda s: setattr(box, 'k', 0), x.shape[9:]))\nif box.k:\n    return torch.softmax(x, -1)",
        "ok = 4096 > N > (M := 0)\nif M:\n    return torch.softmax(x, -1)",
    ] {
        assert!(!hides(LEAVES, lines), "{lines}");
    }
}

/// Planted: whatever a loop binds may be what it was, whatever follows it may be what is done. Seen: honest loops are refused.
#[test]
fn honest_loops_pass() {
    for lines in [
        "for block in self.blocks:\n    if n % block == 0:\n        LAUNCH\n        return out\nLAUNCH\nreturn out",
        "for block in (64, 256):\n    LAUNCH\n    return out",
        "for block in self.blocks:\n    LAUNCH\n    return out",
        "while True:\n    LAUNCH\n    return out",
        "while True:\n    LAUNCH\n    if n > 0:\n        break\nreturn out",
        "for block in self.blocks:\n    LAUNCH\n    return out\nraise RuntimeError('no block fits')",
        "y = x\nfor _ in range(M):\n    o = torch.empty_like(y)\n    double[(triton.cdiv(n, 256),)](y, o, n, BLOCK=256)\n    y = o\nreturn y",
        "y = None\nfor _ in range(M):\n    y = torch.empty_like(x)\n    double[(triton.cdiv(n, 256),)](x, y, n, BLOCK=256)\nreturn y",
        "for i in range(M):\n    double[(triton.cdiv(N, 256),)](x[i], out[i], N, BLOCK=256)\nreturn out",
        "outs = []\nfor i in range(M):\n    o = torch.empty_like(x[i])\n    double[(1,)](x[i], o, N, BLOCK=256)\n    outs.append(o)\nreturn tuple(outs)",
        "pick = None\nfor block in self.blocks:\n    if n % block == 0:\n        pick = block\n        break\nif pick is None:\n    pick = 128\ndouble[(triton.cdiv(n, pick),)](x, out, n, BLOCK=pick)\nreturn out",
        "warps = 4\nfor limit, w in ((1024, 8), (4096, 16)):\n    if n >= limit:\n        warps = w\ndouble[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256, num_warps=warps)\nreturn out",
        "for s in x.shape:\n    if s == 0:\n        raise ValueError(s)\nLAUNCH\nreturn out",
        "for size in x.shape:\n    assert size > 0\nLAUNCH\nreturn out",
        "grid = None\nfor block in self.blocks:\n    grid = (triton.cdiv(n, block),)\ndouble[grid](x, out, n, BLOCK=256)\nreturn out",
        "kernel = None\nfor k in (double,):\n    kernel = k\nkernel[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)\nreturn out",
    ] {
        let lines = lines.replace("LAUNCH", LAUNCH.trim());
        assert_eq!(rejected("", &lines), BTreeSet::new(), "{lines}");
    }
}

const TOOLS: &str = "def poke(s, v=1):\n    s.append(v)\n\n\ndef pick(s):\n    s[0] = torch.softmax\n\n\ndef same(t, d):\n    return t\n\n\n\
     class Holds:\n    ops = [same]\n\n\nOPS = [same]\n\n\ndef change(s=OPS):\n    s[0] = torch.softmax\n\n\n\
     def read(s=OPS):\n    return s";

/// Planted: a list, a dict or a set is filled, emptied or changed under another name. Seen: the branch on it is dead, and what
/// was put into it is not there.
#[test]
fn what_another_name_changes_is_seen() {
    for setup in [
        "flag = []\nt = flag\nif N > 4096:\n    t.append(1)",
        "flag = []\nt = flag\nif N > 4096:\n    t += [1]",
        "flag = []\nt = flag\nif N > 4096:\n    t[0:0] = [1]",
        "flag = []\nif N > 4096:\n    poke(flag)",
        "flag = []\nif N > 4096:\n    poke(s=flag)",
        "flag = []\nadd = flag.append\nif N > 4096:\n    add(1)",
        "flag = []\nif N > 4096:\n    list.append(flag, 1)",
        "flag = []\nif N > 4096:\n    list(map(flag.append, [1]))",
        "flag = []\nif N > 4096:\n    [flag][0].append(1)",
        "flag = []\nif N > 4096:\n    functools.partial(flag.append, 1)()",
        "flag = []\nadd = lambda: flag.append(1)\nif N > 4096:\n    add()",
        "flag = []\ndef add():\n    flag.append(1)\nif N > 4096:\n    add()",
        "flag = []\nbox.list = flag\nif N > 4096:\n    box.list.append(1)",
        "flag = {}\nt = flag\nif N > 4096:\n    t['a'] = 1",
        "flag = set()\nt = flag\nif N > 4096:\n    t.add(1)",
        "flag = [1]\nt = flag\nif N <= 4096:\n    t.clear()",
        "flag = [1]\nif N <= 4096:\n    flag.pop()",
        "flag = [1]\nif N <= 4096:\n    del flag[0]",
    ] {
        let lines = format!("{setup}\nif flag:\n    return torch.softmax(x, -1)");
        assert!(!hides(TOOLS, &lines), "{lines}");
        let lines = format!("{setup}\nfor _ in flag:\n    return torch.softmax(x, -1)");
        assert!(!hides(TOOLS, &lines), "{lines}");
    }
    for setup in [
        "flag = [0]\nt = flag\nif N > 4096:\n    t[0] = 1",
        "flag = [0]\nt = [flag]\nif N > 4096:\n    t[0][0] = 1",
        "flag = [0, 1]\nif N > 4096:\n    flag.reverse()",
        "flag = [0, 1]\nt = flag\nif N > 4096:\n    t.sort(key=lambda v: -v)",
    ] {
        let lines = format!("{setup}\nif flag[0]:\n    return torch.softmax(x, -1)");
        assert!(!hides(TOOLS, &lines), "{lines}");
    }
    for setup in [
        "ops = [same]\nt = ops\nt[0] = torch.softmax",
        "ops = [same]\npick(ops)",
        "ops = [same]\nif M > N:\n    t = ops\nelse:\n    t = ops\nt[0] = torch.softmax",
        "ops = [same]\nother = [same]\nt = ops if N > 4096 else other\nt[0] = torch.softmax",
        "ops = [same]\nfor t in (ops,):\n    t[0] = torch.softmax",
        "ops = [same]\nops.__setitem__(0, torch.softmax)",
        "ops = [same, torch.softmax]\nops.reverse()",
        "ops = [same]\nmax(ops, ops, key=len)[0] = torch.softmax",
        "ops = [same]\noperator.getitem([ops], 0)[0] = torch.softmax",
        "ops = {0: same}\nops.__ior__({0: torch.softmax})",
        "ops = [same, torch.softmax]\nops.pop(0)",
        "ops = [same]\ndef swap():\n    ops[0] = torch.softmax\nswap()",
        "ops = [same]\nall = [[same]]\nall.append(ops)\nall[-1][0] = torch.softmax",
        "ops = [same]\nall = {'a': [same], 'b': ops}\nall['b'][0] = torch.softmax",
        "Holds.ops[0] = torch.softmax\nops = Holds.ops",
        "change()\nops = read()",
        "ops = [same]\nbox.ops = ops\nbox.ops[0] = torch.softmax",
    ] {
        let lines = format!("{setup}\ny = ops[0](x, -1)");
        assert!(!hides(TOOLS, &lines), "{lines}");
    }
    // What a library does with a list, nobody knows.
    let lines = "import collections\nops = collections.deque([same])\n\
                 collections.deque.__setitem__(ops, 0, torch.softmax)\ny = ops[0](x, -1)\nreturn y";
    assert!(rejected(TOOLS, lines).contains("K024"), "{:?}", rejected(TOOLS, lines));
    let lines = format!("outs = [out]\n{LAUNCH}t = outs\nt[0] = x\nreturn outs[0]");
    assert!(rejected("", &lines).contains("K022"));
}

/// Planted: every list is suspect. Seen: honest code that builds lists and asks them, or copies tuples, is refused.
#[test]
fn honest_lists_pass() {
    for lines in [
        "blocks = []\nfor block in self.blocks:\n    if n % block == 0:\n        blocks.append(block)\nif not blocks:\n    blocks = [256]\ndouble[(triton.cdiv(n, blocks[0]),)](x, out, n, BLOCK=blocks[0])\nreturn out",
        "outs = []\nadd = outs.append\nfor i in range(M):\n    o = torch.empty_like(x[i])\n    double[(1,)](x[i], o, N, BLOCK=256)\n    add(o)\nreturn tuple(outs)",
        "kernels = [double]\nif not kernels:\n    raise RuntimeError('none')\nkernels[0][(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)\nreturn out",
        "work = [(x, out)]\nwhile work:\n    a, b = work.pop()\n    double[(triton.cdiv(n, 256),)](a, b, n, BLOCK=256)\nreturn out",
        "shape = (M, N)\nmore = shape\nmore += (1,)\nif shape[0] == 0:\n    return out\nLAUNCH\nreturn out",
        "shape = list(x.shape)\nshape[-1] = N\ny = torch.empty(shape, device=x.device)\ndouble[(triton.cdiv(n, 256),)](x, y, n, BLOCK=256)\nreturn y",
        "opts = {}\nif n > 4096:\n    opts['num_warps'] = 8\ndouble[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256, **opts)\nreturn out",
        "pairs = []\npairs.append((x, out))\nfor a, b in pairs:\n    double[(triton.cdiv(n, 256),)](a, b, n, BLOCK=256)\nreturn out",
        "args = [x, out]\nargs.extend([n])\nassert args\ndouble[(triton.cdiv(n, 256),)](*args[:2], n, BLOCK=256)\nreturn out",
        "extra = []\nfor bias in extra:\n    n = n + bias\nLAUNCH\nreturn out",
    ] {
        let lines = lines.replace("LAUNCH", LAUNCH.trim());
        assert_eq!(rejected("", &lines), BTreeSet::new(), "{lines}");
    }
}
