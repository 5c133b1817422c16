//! Which operations an answer to a task cannot do without, by name of a torch function, method or module.

use super::engine::features::Features;

/// A component of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Something that makes other data of data.
    Work,
    Multiply,
    Sum,
    Transcendental,
    Root,
    /// A choice by value over an axis or between tensors.
    Select,
    /// A choice by value that is without effect where values have one sign.
    Clip,
}

impl Need {
    /// Any of these will do; generous, since there are many ways to compute one thing.
    pub fn done_by(self) -> Features {
        let any = Features::MULTIPLY
            | Features::ADD
            | Features::DIVIDE
            | Features::DOT
            | Features::SUM
            | Features::TRANSCENDENTAL
            | Features::ROOT
            | Features::SELECT
            | Features::OTHER;
        match self {
            Need::Work => any,
            Need::Multiply => Features::DOT | Features::MULTIPLY,
            Need::Sum => Features::SUM | Features::ADD | Features::DOT | Features::MULTIPLY,
            // Bits may be turned into powers of two, and polynomials come near.
            Need::Transcendental => Features::TRANSCENDENTAL | Features::OTHER,
            Need::Root => Features::ROOT | Features::DIVIDE | Features::TRANSCENDENTAL,
            Need::Select | Need::Clip => Features::SELECT | Features::OTHER,
        }
    }

    pub fn shown(self) -> &'static str {
        match self {
            Need::Work => "an operation on what it loads",
            Need::Multiply => "a matrix product or any other product",
            Need::Sum => "a sum",
            Need::Transcendental => "an exponential, logarithm or the like",
            Need::Root => "a root or a division",
            Need::Select | Need::Clip => "a maximum, comparison or the like",
        }
    }
}

/// One spelling for functions, methods and modules: `F.conv_transpose2d` and `nn.ConvTranspose2d` are `convtranspose`.
pub fn plain(name: &str) -> String {
    let mut plain: String = name.chars().filter(|c| *c != '_').collect::<String>().to_ascii_lowercase();
    for end in ["1d", "2d", "3d"] {
        if let Some(rest) = plain.strip_suffix(end) {
            plain = rest.to_owned();
        }
    }
    match plain.strip_suffix("loss") {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => plain,
    }
}

/// What an operation needs; empty for those that move data or may be simplified away, `None` for unknown ones.
pub fn of(name: &str) -> Option<&'static [Need]> {
    use Need::{Clip, Multiply, Root, Select, Sum, Transcendental, Work};
    Some(match name {
        "matmul" | "mm" | "bmm" | "mv" | "addmm" | "addmv" | "addbmm" | "baddbmm" | "multidot" | "linear"
        | "bilinear" | "conv" | "convtranspose" | "gemm" => &[Multiply, Work],
        "scaleddotproductattention" | "multiheadattention" | "attention" => &[Multiply, Transcendental, Sum, Work],
        "lstm" | "gru" | "rnn" | "lstmcell" | "grucell" | "rnncell" => &[Multiply, Transcendental, Work],
        "softmax" | "logsoftmax" | "softmin" | "logsumexp" | "crossentropy" => &[Transcendental, Sum, Work],
        "exp" | "exp2" | "expm1" | "log" | "log2" | "log10" | "log1p" | "sin" | "cos" | "tan" | "sinh" | "cosh"
        | "tanh" | "atan" | "erf" | "erfc" | "sigmoid" | "silu" | "swish" | "gelu" | "mish" | "softplus"
        | "logsigmoid" | "elu" | "selu" | "celu" | "glu" => &[Transcendental, Work],
        "bcewithlogits" | "binarycrossentropy" | "binarycrossentropywithlogits" => &[Transcendental, Work],
        "layernorm" | "groupnorm" | "instancenorm" | "rmsnorm" => &[Sum, Root, Work],
        "std" => &[Sum, Root, Work],
        "sum" | "mean" | "var" | "cumsum" | "avgpool" | "adaptiveavgpool" | "reduction" => &[Sum, Work],
        "max" | "min" | "amax" | "amin" | "argmax" | "argmin" | "maxpool" | "adaptivemaxpool" | "maximum"
        | "minimum" | "topk" | "sort" | "argsort" | "median" | "cummax" | "cummin" => &[Select, Work],
        "relu" | "relu6" | "leakyrelu" | "prelu" | "hardtanh" | "clamp" | "clip" | "hardswish" | "hardsigmoid"
        | "softshrink" | "hardshrink" | "threshold" => &[Clip, Work],
        "normalize" | "cosinesimilarity" | "batchnorm" | "cumprod" | "prod" | "softsign" | "norm" | "vectornorm"
        | "mse" | "l1" | "smoothl1" | "huber" | "kldiv" | "activation" | "normalisation" | "normalization" => &[Work],
        _ => return None,
    })
}

/// Operations whose result may have values of either sign when what they are given has.
pub fn keeps_signs(name: &str) -> bool {
    let moves = matches!(
        name,
        "transpose"
            | "t"
            | "permute"
            | "view"
            | "reshape"
            | "contiguous"
            | "flatten"
            | "squeeze"
            | "unsqueeze"
            | "size"
            | "add"
            | "sub"
            | "neg"
            | "cat"
            | "stack"
            | "chunk"
            | "split"
            | "expand"
            | "dropout"
            | "to"
            | "float"
    );
    moves
        || matches!(name, "batchnorm" | "layernorm" | "groupnorm" | "instancenorm" | "avgpool" | "adaptiveavgpool")
        || of(name).is_some_and(|needs| {
            needs.contains(&Need::Multiply) && !needs.contains(&Need::Transcendental)
                || needs.contains(&Need::Clip)
                || needs.contains(&Need::Select)
        })
}
