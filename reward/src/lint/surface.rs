//! What of each library a candidate may name: which modules there are for it, and of the dangerous ones which names.
//! torch and triton are open but for the parts listed here and in the rules; the rest is closed.

/// All modules a candidate may reach, sorted. torch's and triton's other modules are refused by `outside`.
const MODULES: &[&str] = &[
    "__future__",
    "abc",
    "collections",
    "collections.abc",
    "contextlib",
    "copy",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "logging",
    "math",
    "numbers",
    "numpy",
    "operator",
    "random",
    "string",
    "textwrap",
    "time",
    "torch",
    "torch.amp",
    "torch.autograd",
    "torch.autograd.function",
    "torch.backends",
    "torch.backends.cuda",
    "torch.backends.cuda.matmul",
    "torch.backends.cudnn",
    "torch.backends.mps",
    "torch.compiler",
    "torch.cuda",
    "torch.cuda.amp",
    "torch.fft",
    "torch.functional",
    "torch.library",
    "torch.linalg",
    "torch.nn",
    "torch.nn.functional",
    "torch.nn.init",
    "torch.nn.modules",
    "torch.nn.parameter",
    "torch.nn.utils",
    "torch.sparse",
    "torch.special",
    "torch.testing",
    "torch.types",
    "torch.utils",
    "torch.version",
    "triton",
    "triton.errors",
    "triton.language",
    "triton.language.core",
    "triton.language.extra",
    "triton.language.extra.cuda",
    "triton.language.extra.cuda.libdevice",
    "triton.language.extra.hip",
    "triton.language.extra.hip.libdevice",
    "triton.language.extra.libdevice",
    "triton.language.math",
    "triton.language.random",
    "triton.language.standard",
    "triton.runtime",
    "triton.runtime.autotuner",
    "triton.runtime.driver",
    "triton.runtime.driver.active",
    "triton.runtime.driver.active.utils",
    "triton.runtime.jit",
    "triton.tools",
    "triton.tools.tensor_descriptor",
    "types",
    "typing",
    "typing_extensions",
    "warnings",
];

/// What may be named of a module.
struct Part {
    module: &'static str,
    /// Everything that starts with a capital.
    capitals: bool,
    names: &'static [&'static str],
}

const fn part(module: &'static str, capitals: bool, names: &'static [&'static str]) -> Part {
    Part { module, capitals, names }
}

const TYPING: &[&str] = &[
    "assert_never",
    "assert_type",
    "cast",
    "final",
    "get_args",
    "get_origin",
    "no_type_check",
    "overload",
    "override",
    "runtime_checkable",
];

/// Closed modules.
const PARTS: &[Part] = &[
    part("abc", true, &["abstractmethod", "abstractproperty"]),
    part("collections", false, &["ChainMap", "Counter", "OrderedDict", "abc", "defaultdict", "deque", "namedtuple"]),
    part("collections.abc", true, &[]),
    part(
        "contextlib",
        false,
        &["AbstractContextManager", "ContextDecorator", "ExitStack", "contextmanager", "nullcontext", "suppress"],
    ),
    part("copy", false, &["copy", "deepcopy"]),
    part(
        "dataclasses",
        false,
        &["FrozenInstanceError", "InitVar", "KW_ONLY", "asdict", "astuple", "dataclass", "field", "fields", "replace"],
    ),
    part("enum", true, &["auto", "unique"]),
    part(
        "functools",
        false,
        &[
            "cache",
            "cached_property",
            "lru_cache",
            "partial",
            "partialmethod",
            "reduce",
            "singledispatch",
            "singledispatchmethod",
            "total_ordering",
            "update_wrapper",
            "wraps",
        ],
    ),
    part(
        "logging",
        false,
        &[
            "CRITICAL",
            "DEBUG",
            "ERROR",
            "INFO",
            "Logger",
            "NOTSET",
            "WARNING",
            "debug",
            "error",
            "exception",
            "getLogger",
            "info",
            "log",
            "warning",
        ],
    ),
    part(
        "numpy",
        false,
        &[
            "abs", "arange", "array", "asarray", "bool_", "ceil", "cos", "cumsum", "dtype", "e", "exp", "finfo",
            "float16", "float32", "float64", "floating", "floor", "iinfo", "inf", "int16", "int32", "int64", "int8",
            "integer", "linspace", "log", "log2", "max", "maximum", "mean", "min", "minimum", "nan", "ndarray", "ones",
            "pi", "prod", "round", "sin", "sqrt", "sum", "tanh", "uint32", "uint64", "uint8", "zeros",
        ],
    ),
    part("random", false, &["choice", "gauss", "randint", "random", "randrange", "sample", "shuffle", "uniform"]),
    part(
        "string",
        false,
        &["ascii_letters", "ascii_lowercase", "ascii_uppercase", "digits", "hexdigits", "punctuation", "whitespace"],
    ),
    part("textwrap", false, &["dedent", "indent"]),
    part("torch.compiler", false, &["disable", "is_compiling", "is_dynamo_compiling"]),
    part(
        "torch.cuda",
        false,
        &[
            "OutOfMemoryError",
            "amp",
            "current_device",
            "device",
            "device_count",
            "device_of",
            "get_device_capability",
            "get_device_name",
            "get_device_properties",
            "is_available",
            "is_bf16_supported",
            "is_current_stream_capturing",
            "synchronize",
        ],
    ),
    part("torch.autograd.function", false, &["Function", "FunctionCtx", "once_differentiable"]),
    part("torch.backends", false, &["cuda", "cudnn", "mps"]),
    part("torch.backends.mps", false, &["is_available", "is_built"]),
    part("torch.backends.cuda", false, &["matmul"]),
    part(
        "torch.backends.cudnn",
        false,
        &["allow_tf32", "benchmark", "deterministic", "enabled", "is_available", "version"],
    ),
    part("torch.testing", false, &["assert_close"]),
    part("torch.utils", false, &[]),
    part(
        "triton",
        false,
        &[
            "CompilationError",
            "Config",
            "OutOfResources",
            "TensorWrapper",
            "TritonError",
            "__version__",
            "autotune",
            "cdiv",
            "constexpr_function",
            "errors",
            "heuristics",
            "jit",
            "language",
            "launch_pdl",
            "next_power_of_2",
            "reinterpret",
            "runtime",
            "set_allocator",
            "tools",
        ],
    ),
    part("triton.language.extra.cuda", false, &["libdevice", "num_threads", "num_warps"]),
    part("triton.language.extra.hip", false, &["libdevice"]),
    part("triton.runtime", false, &["autotuner", "driver", "jit"]),
    part("triton.runtime.driver", false, &["active"]),
    part(
        "triton.runtime.driver.active",
        false,
        &["get_active_torch_device", "get_current_device", "get_current_target", "utils"],
    ),
    part("triton.runtime.driver.active.utils", false, &["get_device_properties"]),
    part("types", false, &["EllipsisType", "MappingProxyType", "NoneType", "SimpleNamespace"]),
    part("typing", true, TYPING),
    part("typing_extensions", true, TYPING),
    part("warnings", false, &["filterwarnings", "simplefilter", "warn"]),
];

/// Parts of open modules that are not for a candidate; most of them bring the rest of torch along.
const REFUSED: &[&str] = &[
    "torch.F",
    "torch.accelerator",
    "torch.amp.autocast_mode",
    "torch.amp.grad_scaler",
    "torch.ao",
    "torch.autograd.anomaly_mode",
    "torch.autograd.forward_ad",
    "torch.autograd.functional",
    "torch.autograd.grad_mode",
    "torch.autograd.graph",
    "torch.autograd.profiler",
    "torch.autograd.profiler_legacy",
    "torch.autograd.profiler_util",
    "torch.classes",
    "torch.cpp",
    "torch.cpu",
    "torch.distributions",
    "torch.func",
    "torch.get_device_module",
    "torch.masked",
    "torch.monitor",
    "torch.mps",
    "torch.mtia",
    "torch.nested",
    "torch.nn.attention",
    "torch.nn.common_types",
    "torch.nn.functional.grad",
    "torch.nn.grad",
    "torch.nn.intrinsic",
    "torch.nn.parallel",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.nn.utils.clip_grad",
    "torch.nn.utils.convert_parameters",
    "torch.nn.utils.fusion",
    "torch.nn.utils.init",
    "torch.nn.utils.memory_format",
    "torch.nn.utils.parametrizations",
    "torch.nn.utils.parametrize",
    "torch.nn.utils.rnn",
    "torch.nn.utils.stateless",
    "torch.optim",
    "torch.overrides",
    "torch.package",
    "torch.quantization",
    "torch.quasirandom",
    "torch.return_types",
    "torch.serialization",
    "torch.signal",
    "torch.sparse.semi_structured",
    "torch.storage",
    "torch.torch_version",
    "torch.windows",
    "torch.xpu",
    "triton.language.core.ir",
    "triton.language.core.knobs",
    "triton.language.core.math",
    "triton.language.extra.cuda.libdevice.core",
    "triton.language.extra.hip.libdevice.core",
    "triton.language.extra.libdevice.core",
    "triton.language.extra.module",
    "triton.language.math.core",
    "triton.language.random.math",
    "triton.language.random.tl",
    "triton.language.standard.core",
    "triton.language.standard.math",
    "triton.language.target_info",
    "typing.ForwardRef",
    "typing_extensions.ForwardRef",
];

/// Modules that torch and triton import and so hand on.
const HANDED_ON: &[&str] = &[
    "abc",
    "argparse",
    "ast",
    "base64",
    "bltns",
    "collections",
    "concurrent",
    "contextlib",
    "copyreg",
    "dataclasses",
    "datetime",
    "dis",
    "enum",
    "errno",
    "functools",
    "glob",
    "gzip",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "logging",
    "mock",
    "mp",
    "multiprocessing",
    "operator",
    "pkgutil",
    "platform",
    "pprint",
    "queue",
    "re",
    "signal",
    "stdlib_re",
    "string",
    "struct",
    "sysconfig",
    "textwrap",
    "tokenize",
    "typing",
    "unittest",
    "uuid",
    "warnings",
    "zipfile",
];

/// Is this the path of a module?
pub fn is_module(path: &str) -> bool {
    MODULES.binary_search(&path).is_ok() || layers(path).is_some_and(|rest| !rest.contains('.'))
}

/// torch keeps its module classes in files of their own: what follows `torch.nn.modules.`
fn layers(path: &str) -> Option<&str> {
    path.strip_prefix("torch.nn.modules.").filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

fn below<'a>(path: &'a str, part: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(part)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

/// Does this path name something that a candidate may not name?
pub fn outside(path: &str) -> bool {
    let root = path.split('.').next().unwrap_or_default();
    if root != "builtins" && MODULES.binary_search(&root).is_err() {
        return true;
    }
    let capital = |name: &str| name.trim_start_matches('_').starts_with(|c: char| c.is_ascii_uppercase());
    let listed = |part: &Part| {
        let name = below(path, part.module)?.split('.').next().filter(|n| !n.is_empty())?;
        Some(part.capitals && capital(name) || part.names.contains(&name))
    };
    if PARTS.iter().filter_map(listed).any(|listed| !listed) {
        return true;
    }
    if let Some(name) = layers(path).and_then(|rest| rest.split('.').nth(1))
        && (!capital(name) || matches!(name, "F" | "_VF"))
        && !matches!(name, "_pair" | "_single" | "_triple" | "_quadruple" | "_ntuple")
    {
        return true;
    }
    if REFUSED.iter().any(|part| below(path, part).is_some()) {
        return true;
    }
    let own = matches!(root, "torch" | "triton") && layers(path).is_none();
    let class = |name: &str| name.starts_with(|c: char| c.is_ascii_uppercase());
    own && path.split('.').skip(1).take_while(|name| !class(name)).any(|name| HANDED_ON.contains(&name) || inner(name))
}

/// A private part of a module.
fn inner(name: &str) -> bool {
    name.starts_with('_')
        && !matches!(name, "__version__" | "_assert")
        && !name.starts_with("_check")
        && !name.starts_with("_calculate_")
        && !name.starts_with("_experimental")
}

/// May this module be imported?
pub fn importable(path: &str) -> bool {
    is_module(path) && !outside(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_sorted() {
        assert!(MODULES.is_sorted());
    }

    #[test]
    fn closed_modules_have_no_other_names() {
        for free in [
            "torch.float16",
            "torch.cuda.get_device_properties",
            "torch.nn.functional.relu",
            "torch.Tensor.numpy",
            "torch.__version__",
            "math.prod",
            "typing.Optional",
            "torch.nn.modules.batchnorm._BatchNorm",
            "torch.nn.modules.utils._pair",
            "triton.language.math.exp",
            "triton.runtime.driver.active.utils.get_device_properties",
        ] {
            assert!(!outside(free), "{free}");
        }
        for shut in [
            "logging.threading",
            "torch.cuda.streams.Stream",
            "torch.nn.modules.linear.F.linear",
            "torch.glob.glob",
            "torch.utils.collect_env.run",
            "numpy.fromfile",
            "np.save",
            "typing.get_type_hints",
            "operator_",
            "triton.runtime.driver.active.get_device_interface",
            "triton.language.extra.cuda.globaltimer",
        ] {
            assert!(outside(shut), "{shut}");
        }
    }
}
