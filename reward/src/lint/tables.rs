//! The listed glue: what `ModelNew.forward` may do with tensors besides launching kernels. Everything of torch that is
//! not in these lists counts as compute; everything else that is not understood is reported.

/// How a function of torch, reached by its full name, counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchCall {
    /// Makes a new tensor from sizes and constants.
    Alloc,
    /// Another look at, cast or copy of its first argument.
    View,
    /// A new tensor with the data of its first argument.
    Copy,
    /// A number, flag, dtype, device or context manager.
    Scalar,
    /// Asks in which mode the caller runs.
    Mode,
    /// A module class that computes.
    Module,
    /// Work on data.
    Compute,
}

/// Methods of a tensor, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A dimension number.
    Size,
    /// One size or all.
    Shape,
    Scalar,
    View,
    Copy,
    Alloc,
    /// Overwrites the tensor with a constant.
    Fill,
    /// Moves data to the host or looks at addresses.
    Host,
    /// Reads one number to the host.
    Item,
    Compute,
}

const ALLOC: &[&str] = &[
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "scalar_tensor",
    "tensor",
    "zeros",
    "zeros_like",
    "Tensor",
    "FloatTensor",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
];

const VIEWS: &[&str] = &[
    "adjoint",
    "as_strided",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_to",
    "chunk",
    "detach",
    "diagonal",
    "dsplit",
    "flatten",
    "hsplit",
    "moveaxis",
    "movedim",
    "narrow",
    "permute",
    "ravel",
    "reshape",
    "select",
    "split",
    "split_with_sizes",
    "squeeze",
    "swapaxes",
    "swapdims",
    "t",
    "tensor_split",
    "transpose",
    "unbind",
    "unflatten",
    "unsqueeze",
    "view_as_complex",
    "view_as_real",
    "vsplit",
    "imag",
    "real",
];

const SCALARS: &[&str] = &[
    "_assert",
    "_check",
    "autocast",
    "amp.autocast",
    "broadcast_shapes",
    "can_cast",
    "device",
    "dtype",
    "finfo",
    "get_default_device",
    "get_default_dtype",
    "iinfo",
    "is_complex",
    "is_floating_point",
    "is_storage",
    "is_tensor",
    "numel",
    "promote_types",
    "result_type",
    "Size",
    "cuda.amp.autocast",
    "cuda.current_device",
    "cuda.device",
    "cuda.device_count",
    "cuda.device_of",
    "cuda.empty_cache",
    "cuda.get_device_capability",
    "cuda.get_device_name",
    "cuda.get_device_properties",
    "cuda.is_available",
    "cuda.is_bf16_supported",
    "cuda.synchronize",
    "autograd.Function",
    "no_grad",
    "inference_mode",
    "enable_grad",
    "autograd.no_grad",
    "autograd.set_grad_enabled",
    "set_grad_enabled",
    "version.hip",
    "version.cuda",
];

const MODES: &[&str] = &[
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "is_inference",
    "is_autocast_enabled",
    "is_anomaly_enabled",
    "cuda.is_current_stream_capturing",
    "compiler.is_compiling",
    "compiler.is_dynamo_compiling",
    "jit.is_scripting",
    "jit.is_tracing",
];

/// Tensor methods that are only another look at the data, and casts.
const METHOD_VIEWS: &[&str] = &[
    "bfloat16",
    "bool",
    "byte",
    "char",
    "contiguous",
    "cuda",
    "detach_",
    "double",
    "expand",
    "expand_as",
    "float",
    "half",
    "int",
    "long",
    "pin_memory",
    "requires_grad_",
    "reshape_as",
    "resolve_conj",
    "resolve_neg",
    "retain_grad",
    "short",
    "squeeze_",
    "t_",
    "to",
    "transpose_",
    "type",
    "type_as",
    "unfold",
    "unsqueeze_",
    "view",
    "view_as",
];

/// Attributes of a tensor that are views of it.
pub const ATTR_VIEWS: &[&str] = &["T", "mT", "H", "mH", "data", "real", "imag"];

/// Attributes of a tensor that are numbers, flags and the like.
pub const ATTR_SCALARS: &[&str] = &[
    "device",
    "dtype",
    "grad_fn",
    "is_cpu",
    "is_cuda",
    "is_leaf",
    "is_meta",
    "is_quantized",
    "is_sparse",
    "itemsize",
    "layout",
    "name",
    "names",
    "nbytes",
    "ndim",
    "output_nr",
    "requires_grad",
];

/// Of these, what tells whether somebody asks for gradients.
pub const GRADIENTS: &[&str] = &["grad_fn", "is_leaf", "output_nr", "requires_grad"];

/// Builtins that take a tensor without computing on its elements.
pub const QUIET_BUILTINS: &[&str] = &[
    "callable",
    "dict",
    "enumerate",
    "hasattr",
    "id",
    "isinstance",
    "issubclass",
    "iter",
    "len",
    "list",
    "next",
    "object",
    "range",
    "repr",
    "reversed",
    "set",
    "slice",
    "sorted",
    "str",
    "super",
    "tuple",
    "type",
    "zip",
];

/// Builtins that compute on a tensor they are given.
pub const COMPUTE_BUILTINS: &[&str] =
    &["abs", "all", "any", "bool", "complex", "divmod", "filter", "float", "int", "max", "min", "pow", "round", "sum"];

/// The part of a `torch.` function's name behind `torch.`.
pub fn torch_call(name: &str) -> TorchCall {
    if ALLOC.contains(&name) {
        return TorchCall::Alloc;
    }
    if VIEWS.contains(&name) {
        return TorchCall::View;
    }
    if name == "clone" {
        return TorchCall::Copy;
    }
    if SCALARS.contains(&name) {
        return TorchCall::Scalar;
    }
    if MODES.contains(&name) {
        return TorchCall::Mode;
    }
    if let Some(rest) = name.strip_prefix("nn.") {
        let last = rest.rsplit('.').next().unwrap_or_default();
        if last.starts_with(|c: char| c.is_ascii_uppercase()) && !rest.starts_with("functional.") {
            return TorchCall::Module;
        }
    }
    TorchCall::Compute
}

/// A tensor method by name.
pub fn method(name: &str) -> Method {
    match name {
        "numel" | "nelement" => Method::Size,
        "size" => Method::Shape,
        "dim" | "ndimension" | "element_size" | "storage_offset" | "stride" | "is_contiguous" | "is_floating_point"
        | "is_complex" | "is_signed" | "get_device" | "dim_order" | "has_names" | "is_shared" | "is_pinned"
        | "is_same_size" => Method::Scalar,
        "new_empty" | "new_zeros" | "new_ones" | "new_full" | "new_tensor" | "new_empty_strided" => Method::Alloc,
        "clone" => Method::Copy,
        "zero_" | "fill_" => Method::Fill,
        "item" => Method::Item,
        "cpu" | "numpy" | "tolist" | "data_ptr" | "untyped_storage" | "storage" | "share_memory_" | "__array__"
        | "__dlpack__" => Method::Host,
        _ if VIEWS.contains(&name) || METHOD_VIEWS.contains(&name) => Method::View,
        _ => Method::Compute,
    }
}

/// Names that only a tensor method has: calling one on a value of unknown type is compute too.
pub fn clearly_tensor_method(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "addmm",
        "argmax",
        "argmin",
        "baddbmm",
        "bmm",
        "clamp",
        "cumprod",
        "cumsum",
        "einsum",
        "exp",
        "gelu",
        "log_softmax",
        "logsumexp",
        "masked_fill",
        "matmul",
        "mean",
        "mm",
        "mul",
        "mv",
        "relu",
        "rsqrt",
        "sigmoid",
        "silu",
        "softmax",
        "sqrt",
        "std",
        "tanh",
        "var",
    ];
    NAMES.contains(&name)
}
