"""Builds our own objects from a resolved configuration: `_target_` names the class, over an allow-list.

Not Hydra's instantiate: that calls anything importable, and a configuration can come in a message.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from fedrec.errors import FedrecError, suggest

ALLOWED = (
    "fedrec.data.datasets.",
    "fedrec.models.",
    "fedrec.numpy_engine.",
    "fedrec.algorithms.",
    "fedrec.privacy.",
    "fedrec.evaluation.config.",
    "fedrec.experiment.cohort.",
    "fedrec.audit.threat_model.",
)
SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}

_packages: set[str] = set()  # of the user's own, allowed in this process
_classes: dict[str, type] = {}  # that this process was handed as such, by their full names


def allow(*packages: str) -> None:
    """Let classes of these packages be built in this process from now on."""
    _packages.update(packages)


def allow_class(kind: type) -> str:
    """Let this one class be built in this process, and return the name that documents call it by.

    It may be defined anywhere, in a notebook or in a function. Another class of the same name takes its place.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    _classes[name] = kind
    return name


def resolve_class(target: str, where: str) -> Callable[..., Any]:
    """Return the class that `target` names; refuse what is neither in fedrec's own rooms nor allowed by the user."""
    if target in _classes:
        return _classes[target]
    module_name, _, name = target.rpartition(".")
    if not f"{module_name}.".startswith((*ALLOWED, *(f"{package}." for package in _packages))):
        raise FedrecError(f"{where}._target_={target} is not one of fedrec's own classes ({', '.join(ALLOWED)}*)")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise FedrecError(f"{where}._target_={target}: no module {module_name}") from error
    found = getattr(module, name, None)
    if not inspect.isclass(found) or found.__module__ != module_name:
        classes = [n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module_name]
        raise FedrecError(f"{where}._target_={target} is no class of {module_name}.{suggest(name, classes)}")
    return found


def instantiate(node: Mapping[str, Any], where: str) -> Any:
    """Build the object that a configuration node describes; with `_partial_: true`, what is still to be called.

    A field that the class does not have, and a scalar of the wrong kind, are errors that name `where.field`.
    """
    target = resolve_class(str(node["_target_"]), where)
    fields = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    parameters = inspect.signature(target).parameters
    for key, value in fields.items():
        if key not in parameters:
            raise FedrecError(
                f"{where}.{key} does not exist.{suggest(key, (p for p in parameters if p != 'catalogue'))}"
            )
        fields[key] = check_type(value, hints(target).get(key), f"{where}.{key}")
    return partial(target, **fields) if node.get("_partial_") else call_or_refuse(where, partial(target, **fields))


def call_or_refuse(where: str, call: Callable[[], Any]) -> Any:
    """Return what the call makes; what a constructor says of values that it can't take becomes an error of `where`."""
    try:
        return call()
    except FedrecError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, OverflowError) as error:
        raise FedrecError(f"{where} can't be built from these settings: {str(error).splitlines()[0]}") from error


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a class's constructor parameters."""
    own = target.__init__ if "__init__" in vars(target) and not hasattr(target, "__dataclass_fields__") else target
    return get_type_hints(own)


def check_list(value: Any, kind: Any, where: str) -> tuple[Any, ...]:
    """Return a list as a tuple, each element checked."""
    if not isinstance(value, list):
        raise FedrecError(f"{where}={value}: expected a list, such as [{value}]")
    return tuple(check_type(element, kind, f"{where}[{n}]") for n, element in enumerate(cast(list[Any], value)))


def is_node(value: Any) -> bool:
    """Return whether a value describes an object of its own."""
    return isinstance(value, Mapping) and "_target_" in value


def check_type(value: Any, hint: Any, where: str) -> Any:
    """Return the value if it is of the kind that the constructor declares, a list as a tuple; else say what is."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    lists = [kind for kind in kinds if get_origin(kind) in (tuple, Sequence)]
    if lists and not (value is None and NoneType in kinds):
        return check_list(value, get_args(lists[0])[0], where)
    if is_node(value):
        return instantiate(cast("Mapping[str, Any]", value), where)
    if any(kind not in SCALARS for kind in kinds):
        return value
    if type(value) in kinds or (type(value) is int and float in kinds):
        return float(value) if float in kinds and int not in kinds and value is not None else value
    expected = " or ".join(SCALARS[kind] for kind in kinds)
    raise FedrecError(f"{where}={value}: expected {expected}")
