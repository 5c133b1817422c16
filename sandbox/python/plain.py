"""A candidate's model and tensors, looked at without running any code of the candidate's: methods of its classes, or in its objects'
own dictionaries, would run where nobody watches."""
import torch

# Taken before there is a candidate; none of these looks into an object's own dictionary for its name.
_of_module = torch.nn.Module.__dict__["__dict__"].__get__
_of_tensor = torch.Tensor.__dict__["__dict__"].__get__
_detach, numel = torch._C.TensorBase.detach, torch._C.TensorBase.numel
CLASSES = {torch.Tensor, torch.nn.Parameter}
# What such a name in a tensor's own dictionary stands before.
_METHODS = frozenset(dir(torch.Tensor))


def is_module(value):
    """`isinstance` would ask the object for its class."""
    return issubclass(type(value), torch.nn.Module)


def is_tensor(value):
    return issubclass(type(value), torch.Tensor)


def attributes(tensor):
    return _of_tensor(tensor)


def is_plain(tensor):
    """Whether its methods are torch's."""
    own = _of_tensor(tensor)
    return type(tensor) in CLASSES and (not own or _METHODS.isdisjoint(own))


def alias(tensor):
    """The same memory as a tensor that nobody else has."""
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        return _detach(tensor)


def plain(tensor):
    return tensor if is_plain(tensor) else alias(tensor)


def _entries(own, name):
    """What is in one of a module's dictionaries, by name."""
    found = own.get(name)
    if not issubclass(type(found), dict):
        return []
    return [(key, value) for key, value in dict.items(found) if type(key) is str]


def _named(model, prefix="", above=()):
    """Each module's own dictionary under its name, in torch's order; one that has two places comes twice."""
    own = _of_module(model)
    yield prefix, own
    for name, child in _entries(own, "_modules"):
        if is_module(child) and child is not model and id(child) not in above:
            yield from _named(child, f"{prefix}{name}.", (*above, id(model)))


def weights(model):
    """Parameters and buffers, each once."""
    found = {}
    if is_module(model):
        for _, own in _named(model):
            for kind in ("_parameters", "_buffers"):
                found.update((id(t), t) for _, t in _entries(own, kind) if is_tensor(t))
    return [plain(t) for t in found.values()]


def state(model):
    """What torch's `state_dict` holds."""
    found = {}
    for prefix, own in _named(model):
        passing = own.get("_non_persistent_buffers_set")
        passing = set(passing) if type(passing) is set else ()
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _entries(own, kind):
                if type(tensor) in CLASSES and not (kind == "_buffers" and name in passing):
                    found[prefix + name] = tensor
    return found


class Modes:
    """The modes that the constructor left, and setting them: as cheap as can be, as it is done within what is timed, too."""

    def __init__(self, model):
        found = {id(own): own for _, own in _named(model)} if is_module(model) else {}
        self.built = [(own, own.get("training") is True) for own in found.values()]

    def set(self, train):
        for own, mode in self.built:
            own["training"] = mode and train
