//! What torch.nn.Module defines and others ask of a module: torch itself, and whoever checks and times it. A candidate's
//! module leaves it as it is.

/// Names of `torch.nn.Module`, and of every object where copies, sets and comparisons ask for them, that a module does not
/// define anew. `forward`, `__init__` and the texts about a module are not among them.
const KEPT: &[&str] = &[
    "__call__",
    "__class__",
    "__copy__",
    "__deepcopy__",
    "__delattr__",
    "__dict__",
    "__dir__",
    "__eq__",
    "__getattr__",
    "__getattribute__",
    "__getstate__",
    "__hash__",
    "__ne__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__setattr__",
    "__setstate__",
    "__sizeof__",
    "_apply",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_buffers",
    "_call_impl",
    "_compiled_call_impl",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_get_backward_hooks",
    "_get_backward_pre_hooks",
    "_get_name",
    "_is_full_backward_hook",
    "_load_from_state_dict",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_maybe_warn_non_full_backward_hook",
    "_modules",
    "_named_members",
    "_non_persistent_buffers_set",
    "_parameters",
    "_register_load_state_dict_pre_hook",
    "_register_state_dict_hook",
    "_replicate_for_data_parallel",
    "_save_to_state_dict",
    "_slow_forward",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_wrapped_call_impl",
    "add_module",
    "apply",
    "bfloat16",
    "buffers",
    "children",
    "compile",
    "cpu",
    "cuda",
    "double",
    "eval",
    "float",
    "get_buffer",
    "get_extra_state",
    "get_parameter",
    "get_submodule",
    "half",
    "ipu",
    "load_state_dict",
    "modules",
    "mtia",
    "named_buffers",
    "named_children",
    "named_modules",
    "named_parameters",
    "parameters",
    "register_backward_hook",
    "register_buffer",
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook",
    "register_module",
    "register_parameter",
    "register_state_dict_post_hook",
    "register_state_dict_pre_hook",
    "requires_grad_",
    "set_extra_state",
    "set_submodule",
    "share_memory",
    "state_dict",
    "to",
    "to_empty",
    "train",
    "training",
    "type",
    "xpu",
    "zero_grad",
];

/// Of these, words that a model may well keep a number under: `self.half = n // 2`.
const WORDS: &[&str] =
    &["bfloat16", "compile", "cpu", "cuda", "double", "float", "half", "to", "train", "training", "type"];

/// Does torch.nn.Module define this name for others?
pub(super) fn kept(name: &str) -> bool {
    KEPT.binary_search(&name).is_ok()
}

/// May a value that is not known, but is no code as far as it is, be kept under this name?
pub(super) fn word(name: &str) -> bool {
    WORDS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::{KEPT, kept, word};

    /// Planted: a name out of order. Seen: it is not found, and may be overridden.
    #[test]
    fn names_are_sorted_and_found() {
        assert!(KEPT.is_sorted());
        assert!(KEPT.iter().all(|name| kept(name)));
        for free in
            ["forward", "__init__", "extra_repr", "__repr__", "__len__", "__iter__", "weight", "reset_parameters"]
        {
            assert!(!kept(free), "{free}");
        }
        assert!(word("half") && !word("parameters"));
    }
}
