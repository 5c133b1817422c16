"""What libdevice's functions compute, by name without `__nv_` and the suffix of the type: Triton's interpreter has none of
them. Rounding modes are the nearest; an approximation (`fast_`) is the function itself.
"""
import math

import numpy as np
import torch

_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])


def _special(function):
    """A function of torch's that numpy lacks, in float64."""
    def found(*values):
        with torch._C.DisableTorchFunction():
            return function(*(torch.from_numpy(np.array(v, dtype=np.float64)) for v in values)).numpy()
    return found


def _round(x):
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def _bits(integer, real):
    def found(x):
        return np.asarray(x).view(real if np.asarray(x).dtype.kind in "iu" else integer)
    return found


def _popcount(x):
    return np.vectorize(lambda v: int(v).bit_count(), otypes=[np.int32])(_unsigned(x))


def _unsigned(x):
    x = np.asarray(x)
    return x.view(np.dtype(f"u{x.dtype.itemsize}"))


def _leading_zeros(x):
    width = np.asarray(x).dtype.itemsize * 8
    return np.vectorize(lambda v: width - int(v).bit_length(), otypes=[np.int32])(_unsigned(x))


def _first_set(x):
    return np.vectorize(lambda v: (int(v) & -int(v)).bit_length(), otypes=[np.int32])(_unsigned(x))


def _reversed(x):
    x = np.asarray(x)
    width = x.dtype.itemsize * 8
    turned = np.vectorize(lambda v: int(f"{int(v):0{width}b}"[::-1], 2), otypes=[np.uint64])(_unsigned(x))
    return turned.astype(_unsigned(x).dtype).view(x.dtype)


def _high_product(a, b):
    a, b = np.asarray(a), np.asarray(b)
    width = a.dtype.itemsize * 8
    return np.vectorize(lambda x, y: (int(x) * int(y)) >> width, otypes=[a.dtype])(a, b)


FUNCTIONS = {
    "tanh": np.tanh, "sinh": np.sinh, "cosh": np.cosh, "tan": np.tan, "atan": np.arctan, "asin": np.arcsin,
    "acos": np.arccos, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "atan2": np.arctan2,
    "exp": np.exp, "exp2": np.exp2, "exp10": lambda x: np.power(10.0, x), "expm1": np.expm1, "log": np.log, "log2": np.log2,
    "log10": np.log10, "log1p": np.log1p, "logb": lambda x: np.floor(np.log2(np.abs(x))),
    "ilogb": lambda x: np.frexp(x)[1] - 1, "pow": np.power, "powi": np.power, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt, "rcbrt": lambda x: 1 / np.cbrt(x), "sin": np.sin, "cos": np.cos,
    "sinpi": lambda x: np.sin(np.pi * x), "cospi": lambda x: np.cos(np.pi * x), "fabs": np.abs, "abs": np.abs,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint, "nearbyint": np.rint, "llrint": np.rint,
    "round": _round, "llround": _round, "fmod": np.fmod,
    "remainder": lambda a, b: a - b * np.rint(a / b), "hypot": np.hypot, "rhypot": lambda a, b: 1 / np.hypot(a, b),
    "norm3d": lambda a, b, c: np.sqrt(a * a + b * b + c * c),
    "norm4d": lambda a, b, c, d: np.sqrt(a * a + b * b + c * c + d * d),
    "rnorm3d": lambda a, b, c: 1 / np.sqrt(a * a + b * b + c * c),
    "rnorm4d": lambda a, b, c, d: 1 / np.sqrt(a * a + b * b + c * c + d * d),
    "fdim": lambda a, b: np.maximum(a - b, 0), "fmin": np.fmin, "fmax": np.fmax, "min": np.minimum, "max": np.maximum,
    "copysign": np.copysign, "signbit": np.signbit, "nextafter": np.nextafter, "ldexp": np.ldexp, "scalbn": np.ldexp,
    "saturate": lambda x: np.clip(np.nan_to_num(x, nan=0.0), 0, 1), "erf": _erf, "erfc": _erfc, "lgamma": _lgamma,
    "tgamma": np.vectorize(lambda x: math.gamma(x) if math.isfinite(x) and (x > 0 or x % 1) else math.nan, otypes=[np.float64]),
    "erfinv": _special(torch.special.erfinv), "erfcinv": _special(lambda x: torch.special.erfinv(1 - x)),
    "erfcx": _special(torch.special.erfcx), "normcdf": lambda x: 0.5 * _erfc(-np.asarray(x, dtype=np.float64) / math.sqrt(2)),
    "normcdfinv": _special(torch.special.ndtri), "j0": _special(torch.special.bessel_j0),
    "j1": _special(torch.special.bessel_j1), "y0": _special(torch.special.bessel_y0),
    "y1": _special(torch.special.bessel_y1), "cyl_bessel_i0": _special(torch.special.i0),
    "cyl_bessel_i1": _special(torch.special.i1), "fma": lambda a, b, c: a * b + c, "add": np.add, "sub": np.subtract,
    "mul": np.multiply, "div": lambda a, b: a / b, "rcp": lambda x: 1 / x, "isnan": np.isnan, "isinf": np.isinf,
    "isfinite": np.isfinite, "finite": np.isfinite, "fast_tanh": np.tanh, "fast_exp": np.exp,
    "fast_exp10": lambda x: np.power(10.0, x), "fast_log": np.log, "fast_log2": np.log2, "fast_log10": np.log10,
    "fast_sin": np.sin, "fast_cos": np.cos, "fast_tan": np.tan, "fast_pow": np.power, "fast_fdivide": lambda a, b: a / b,
    "float_as_int": _bits(np.int32, np.float32), "float_as_uint": _bits(np.uint32, np.float32),
    "int_as_float": _bits(np.int32, np.float32), "uint_as_float": _bits(np.uint32, np.float32),
    "double_as_longlong": _bits(np.int64, np.float64), "longlong_as_double": _bits(np.int64, np.float64),
    "popc": _popcount, "clz": _leading_zeros, "ffs": _first_set, "brev": _reversed, "mulhi": _high_product,
    "mul24": lambda a, b: (a << 8 >> 8) * (b << 8 >> 8), "sad": lambda a, b, c: np.abs(a - b) + c,
    "hadd": lambda a, b: (a.astype(np.int64) + b) >> 1, "rhadd": lambda a, b: (a.astype(np.int64) + b + 1) >> 1,
}


def find(symbol):
    """The model of a symbol such as `__nv_fdiv_rn`, `__nv_isnand` or `__nv_float2int_rz`; None: there is none."""
    name = symbol.removeprefix("__nv_")
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    head, _, mode = name.rpartition("_")
    if mode == "rn" and head:
        name = head
    if name[1:] in ("add", "sub", "mul", "div", "sqrt", "rcp", "rsqrt") and name[0] in "fd":
        return FUNCTIONS[name[1:]]
    for suffix in ("f", "d", "ll", "l", "u"):
        if name.removesuffix(suffix) in FUNCTIONS:
            return FUNCTIONS[name.removesuffix(suffix)]
    source, two, target = (head or name).partition("2")
    if two and source in _NUMBERS and target in _NUMBERS:
        return _CONVERSIONS.get(mode) if target not in ("float", "double") else (np.asarray if mode == "rn" else None)
    return None


_NUMBERS = {"float", "double", "int", "uint", "ll", "ull"}
_CONVERSIONS = {"rn": np.rint, "rz": np.trunc, "rd": np.floor, "ru": np.ceil}
