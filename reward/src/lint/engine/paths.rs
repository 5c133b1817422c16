//! One spelling for every library name.

/// Modules that other modules import for themselves and hand on by doing so.
const HANDED_ON: &[&str] = &[
    "torch",
    "numpy",
    "np",
    "os",
    "sys",
    "io",
    "time",
    "threading",
    "_thread",
    "subprocess",
    "importlib",
    "builtins",
    "ctypes",
    "inspect",
    "socket",
    "shutil",
    "pathlib",
    "tempfile",
    "traceback",
    "pickle",
    "marshal",
    "gc",
    "atexit",
    "weakref",
    "linecache",
    "codeop",
    "runpy",
];

/// The path from the last module in it that was only handed on: `triton.tools.mxfp.torch.sigmoid` is `torch.sigmoid`.
fn own_root(path: &str) -> &str {
    let mut own = path;
    for (at, _) in path.match_indices('.') {
        let rest = &path[at + 1..];
        let segment = rest.split('.').next().unwrap_or_default();
        if HANDED_ON.contains(&segment) {
            own = rest;
        } else if HANDED_ON.contains(&segment.trim_start_matches('_')) {
            // As in `collections._sys`.
            own = rest.trim_start_matches('_');
        }
    }
    own
}

/// One spelling per function, whatever road leads to it.
pub fn canonical(path: &str) -> String {
    let path = own_root(path);
    for (from, to) in [
        ("torch.nn.modules.module.Module", "torch.nn.Module"),
        ("torch.nn.parameter.", "torch.nn."),
        ("torch.functional.", "torch."),
        ("torch._tensor.Tensor", "torch.Tensor"),
        ("torch.autograd.function.Function", "torch.autograd.Function"),
        ("torch.cuda.amp.", "torch.amp."),
        ("triton.runtime.jit.jit", "triton.jit"),
        ("triton.runtime.autotuner.", "triton."),
        ("triton.runtime.jit.JITFunction", "triton.JITFunction"),
    ] {
        if let Some(rest) = path.strip_prefix(from) {
            return format!("{to}{rest}");
        }
    }
    path.to_owned()
}
