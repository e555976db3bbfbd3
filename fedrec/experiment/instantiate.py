"""Builds objects from a resolved configuration: `_target_` names a class, over an allow-list.

The list holds our own rooms, and packages that a person allowed by name: whoever started this process (`allow`, or the
environment variable FEDREC_ALLOW), on a real device its policy alone (`allow_only`). A configuration can come in a
message, so that nothing in it ever adds to the list, and nothing of a package is imported before the list was asked.
That is why Hydra's own instantiate, which calls anything importable, is not used.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from fedrec.errors import FedrecError, RefusedError, suggest

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

# What run folders and messages of 0.1.0 call classes that have moved since, and their fields. A document is never
# rewritten, for its hash names the experiment: whoever looks into one asks `canonical` or `canonical_node`.
ALIASES = {
    "fedrec.algorithms.counts.ItemCounts": "fedrec.algorithms.item_counts.ItemCounts",
    "fedrec.algorithms.fedadagrad.FedAdagrad": "fedrec.algorithms.fedavg.FedAdagrad",
    "fedrec.algorithms.fedadam.FedAdam": "fedrec.algorithms.fedavg.FedAdam",
    "fedrec.algorithms.gram.GramMatrix": "fedrec.algorithms.gram_matrix.GramMatrix",
    "fedrec.algorithms.ials.IalsSums": "fedrec.algorithms.ials.IALSStatistics",
    "fedrec.algorithms.neighbours.Neighbours": "fedrec.algorithms.gram_matrix.ItemKnnGram",
    "fedrec.algorithms.order.OrderSums": "fedrec.algorithms.transition_counts.TransitionCounts",
    "fedrec.algorithms.sequences.SequenceGradients": "fedrec.algorithms.sequence_sgd.FedSGDSequences",
    "fedrec.cohort.Cohort": "fedrec.experiment.cohort.CohortConfig",
    "fedrec.data.datasets.amazon.AmazonVideoGames": "fedrec.data.datasets.ecommerce.AmazonVideoGames",
    "fedrec.data.datasets.delimited.Delimited": "fedrec.data.datasets.csv.Delimited",
    "fedrec.data.datasets.enrolled.Enrolled": "fedrec.data.datasets.enrolled_devices.Enrolled",
    "fedrec.data.datasets.filmtrust.FilmTrust": "fedrec.data.datasets.social.FilmTrust",
    "fedrec.data.datasets.gowalla.Gowalla": "fedrec.data.datasets.social.Gowalla",
    "fedrec.data.datasets.lastfm.HetRecLastFM": "fedrec.data.datasets.social.HetRecLastFM",
    "fedrec.data.datasets.latest_small.MovieLensLatestSmall": "fedrec.data.datasets.movielens.MovieLensLatestSmall",
    "fedrec.data.datasets.online_retail.OnlineRetailII": "fedrec.data.datasets.ecommerce.OnlineRetailII",
    "fedrec.data.datasets.synthetic_large.SyntheticLarge": "fedrec.data.datasets.synthetic.SyntheticLarge",
    "fedrec.evaluation.options.Evaluation": "fedrec.evaluation.config.EvaluationConfig",
    "fedrec.models.item_knn.ItemKnn": "fedrec.models.ease.ItemKnn",
    "fedrec.models.mf.MatrixFactorisation": "fedrec.models.mf.MatrixFactorization",
    "fedrec.models.order.OrderStatistics": "fedrec.models.transitions.ItemTransitionModel",
    "fedrec.models.order.Window": "fedrec.models.transitions.Window",
    "fedrec.privacy.banded.BandedUserLevel": "fedrec.privacy.mechanisms.banded.BandedUserLevel",
    "fedrec.privacy.gateway.GatewayLevel": "fedrec.privacy.mechanisms.gateway.GatewayLevel",
    "fedrec.privacy.interaction.InteractionLevel": "fedrec.privacy.mechanisms.interaction.InteractionLevel",
    "fedrec.privacy.none.NoPrivacy": "fedrec.privacy.mechanisms.none.NoPrivacy",
    "fedrec.privacy.user.UserLevel": "fedrec.privacy.mechanisms.user.UserLevel",
    "fedrec.privacy.user_adaptive.UserAdaptive": "fedrec.privacy.mechanisms.user_adaptive.UserAdaptive",
    "fedrec.privacy.user_local.UserLocal": "fedrec.privacy.mechanisms.user_local.UserLocal",
}

OLD_FIELDS = {
    **{
        f"fedrec.algorithms.{name}": {"optimiser": "optimizer"}
        for name in ("fedavg.FedAvg", "fedavg.FedAdam", "fedavg.FedAdagrad")
    },
    "fedrec.algorithms.gram_matrix.GramMatrix": {"regularisation": "regularization"},
    **{
        name: {"unobserved": "unobserved_weight", "regulariser": "regularization"}
        for name in ("fedrec.algorithms.ials.IALSStatistics", "fedrec.models.ials.Ials")
    },
    **{
        f"fedrec.models.{name}": {"scale": "init_std"}
        for name in ("mf.MatrixFactorization", "neumf.NeuMF", "pfedrec.PFedRec")
    },
}

# Where our own classes for each part of the experiment lie: one of another room is refused there.
ROOMS = {
    "dataset": ("fedrec.data.datasets.",),
    "model": ("fedrec.models.", "fedrec.numpy_engine.models."),
    "algorithm": ("fedrec.algorithms.",),
    "privacy": ("fedrec.privacy.mechanisms.",),
    "cohort": ("fedrec.experiment.cohort.",),
    "evaluation": ("fedrec.evaluation.config.",),
}
AUDITED = "fedrec.audit.threat_model."  # an audit plays its worst case as data, as a model and as an algorithm

# What a class of somebody's own must be, by the part of the experiment that it is for: a subclass of the base class of
# that name (by name, so that devices without torch need not import it), or a class with these methods.
BASES = {"model": "fedrec.models.base.Recommender"}
METHODS = {
    "dataset": ("load",),
    "algorithm": ("init", "broadcast", "sensitivity", "shapes", "contribute", "contribute_many", "step"),
    "privacy": ("calibrated", "delta_for", "event", "privatize_update", "privatize_aggregate", "sample_cohort"),
}
VARIABLE = "FEDREC_ALLOW"  # packages, with commas between them
PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

_allowed: set[str] = set()
_classes: dict[str, type] = {}  # classes that this process was handed as such, by their full names
_only: ContextVar[frozenset[str] | None] = ContextVar("only", default=None)


def check_package(name: str, where: str = "--allow") -> str:
    """Return the name of a package that can be allowed; one of Python's own or of fedrec is an error."""
    first = name.partition(".")[0]
    if not PACKAGE.fullmatch(name) or (first.startswith("__") and name != "__main__"):
        raise FedrecError(f"{where} {name}: the name of a package expected, as it is imported, such as my_package")
    if first == "fedrec":
        raise FedrecError(f"{where} {name}: fedrec's own classes need no leave; name the package that is yours")
    if first in sys.stdlib_module_names:
        raise FedrecError(f"{where} {name}: that is Python's own; name the package that holds your classes")
    return name


def allow(*packages: str) -> None:
    """Let classes of these packages be built in this process from now on: for whoever starts it, never for a message.

    What a configuration or a message says of it is not asked: call this with what a person typed.
    """
    _allowed.update([check_package(name) for name in packages])


def allow_class(kind: type) -> str:
    """Let this one class be built in this process, and return the name that documents call it by.

    It may be defined anywhere, in a notebook or in a function. Another class of the same name takes its place.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    _classes[name] = kind
    return name


def handed(target: str) -> type | None:
    """Return the class that this process was handed under a name; on a device, whose policy names packages, none."""
    return _classes.get(target) if _only.get() is None else None


def allowed() -> frozenset[str]:
    """Return the packages whose classes may be built here beside our own."""
    only = _only.get()
    if only is not None:
        return only
    named = (part.strip() for part in os.environ.get(VARIABLE, "").split(","))
    return frozenset(_allowed | {check_package(name, f"{VARIABLE}:") for name in named if name})


@contextmanager
def allow_only(packages: Iterable[str]) -> Generator[None]:
    """Let classes of these packages be built inside the context, whatever this process allows: for a real device."""
    token = _only.set(frozenset(check_package(name, "[packages] allow") for name in packages))
    try:
        yield
    finally:
        _only.reset(token)


def environment() -> dict[str, str]:
    """Return what a process that this one starts needs in its environment to allow the same."""
    return {VARIABLE: ",".join(sorted(allowed()))} if allowed() else {}


def canonical(target: str) -> str:
    """Return what a class is called today."""
    return ALIASES.get(target, target)


def canonical_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what describes an object, its class and its fields called what they are called today."""
    target = canonical(str(node.get("_target_")))
    renamed = {old: new for old, new in OLD_FIELDS.get(target, {}).items() if new not in node}
    found = {renamed.get(key, key): value for key, value in node.items()}
    return {**found, "_target_": target} if "_target_" in node else found


def canonical_document(node: Any) -> Any:
    """Return a document in the names of today, to compare it with another: its hash is that of the names it has."""
    if isinstance(node, Mapping):
        named = canonical_node(cast("Mapping[str, Any]", node))
        return {key: canonical_document(value) for key, value in named.items()}
    if isinstance(node, list):
        return [canonical_document(value) for value in cast("list[Any]", node)]
    return node


def is_ours(target: str) -> bool:
    """Return whether a class, by its name of today, lies in one of fedrec's own rooms."""
    return f"{target.rpartition('.')[0]}.".startswith(ALLOWED)


def foreign_targets(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield (where, class) of everything in a document that names a class which is not ours; nothing is imported."""
    if isinstance(node, Mapping):
        for key, value in cast("Mapping[str, Any]", node).items():
            if key == "_target_" and not is_ours(target := canonical(str(value))):
                yield where, target
            yield from foreign_targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list):
        for place, value in enumerate(cast("list[Any]", node)):
            yield from foreign_targets(value, f"{where}[{place}]")


def package_of(target: str, packages: Iterable[str]) -> str | None:
    """Return which of the packages a class lies in, by its name alone; None where it lies in none of them."""
    return next((name for name in packages if f"{target.rpartition('.')[0]}.".startswith(f"{name}.")), None)


def check_allowed(document: Mapping[str, Any]) -> None:
    """Raise `RefusedError`, naming class and package, where a document needs a package that is not allowed here."""
    packages = allowed()
    for where, target in foreign_targets(document):
        _check_one(target, where, packages)


def _check_one(target: str, where: str, packages: Iterable[str]) -> None:
    if handed(target) is not None:
        return
    parts = target.split(".")
    sound = PACKAGE.fullmatch(target) and not any(part.startswith("__") for part in parts[1:])
    if sound and package_of(target, packages) is not None:
        return
    said = f"{where}._target_={target} is not one of fedrec's own classes"
    first = parts[0]
    if not sound or len(parts) == 1 or first == "fedrec" or first in sys.stdlib_module_names:
        raise RefusedError(f"{said} that a configuration may build")
    if _only.get() is not None:
        raise RefusedError(
            f"{where}._target_={target}: this device does not allow {first}; its person can, in policy.toml: "
            f'[packages] allow = ["{first}"]'
        )
    raise RefusedError(
        f"{said}; if you trust the code of {first}, allow it by name: --allow {first}, or {VARIABLE}={first} where the "
        "nodes are processes of their own"
    )


def resolve_class(target: str, where: str) -> Callable[..., Any]:
    """Return the class that `target` names; refuse what lies neither in fedrec's own rooms nor in an allowed package.

    A class of somebody's own must be defined in the allowed package, and be of the kind that this place takes.
    """
    if (given := handed(target)) is not None:
        return given
    target = canonical(target)
    module_name, _, name = target.rpartition(".")
    if not is_ours(target):
        _check_one(target, where, packages := allowed())
        return _resolve_foreign(target, where, cast(str, package_of(target, packages)))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise FedrecError(f"{where}._target_={target}: no module {module_name}") from error
    found = getattr(module, name, None)
    if not inspect.isclass(found) or found.__module__ != module_name:
        raise FedrecError(_no_class(target, where, module, module_name))
    lacks = any(not callable(getattr(found, method, None)) for method in METHODS.get(where, ()))
    of_audit = target.startswith(AUDITED) and _only.get() is None  # never on a device
    if lacks or not (of_audit or f"{module_name}.".startswith(ROOMS.get(where, ""))):
        raise RefusedError(f"{where}._target_={target}: {name} is no {where}; choose one of {ROOMS[where][0]}*")
    return found


def _no_class(target: str, where: str, module: Any, home: str) -> str:
    classes = [n for n, c in vars(module).items() if inspect.isclass(c) and f"{c.__module__}.".startswith(f"{home}.")]
    name = target.rpartition(".")[2]
    return f"{where}._target_={target} is no class of {module.__name__}.{suggest(name, classes)}"


def _resolve_foreign(target: str, where: str, package: str) -> Callable[..., Any]:
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # somebody else's module may fail in any way
        raise FedrecError(f"{where}._target_={target}: {module_name} can't be imported here ({error})") from error
    found = getattr(module, name, None)
    if not inspect.isclass(found) or not f"{found.__module__}.".startswith(f"{package}."):
        raise FedrecError(_no_class(target, where, module, package))
    base = BASES.get(where)
    if base is not None and base not in {f"{one.__module__}.{one.__qualname__}" for one in found.__mro__}:
        raise FedrecError(f"{where}._target_={target} is no {base}: derive the class from it")
    lacking = [method for method in METHODS.get(where, ()) if not callable(getattr(found, method, None))]
    if lacking or (where not in BASES and where not in METHODS and "." not in where and "[" not in where):
        what = f"lacks {', '.join(lacking)}" if lacking else "can't stand here: this part is always fedrec's own"
        raise FedrecError(f"{where}._target_={target} {what}")
    return found


def instantiate(node: Mapping[str, Any], where: str, kinds: Sequence[type] = ()) -> Any:
    """Build the object that a configuration node describes; with `_partial_: true`, what is still to be called.

    `kinds` are the classes of which it must be one, where that is known. A field that the class does not have, and a
    scalar of the wrong kind, are errors that name `where.field`.
    """
    node = canonical_node(node)
    target = resolve_class(str(node["_target_"]), where)
    if kinds and not issubclass(cast(type, target), tuple(kinds)):
        raise FedrecError(f"{where}._target_={node['_target_']}: a {kinds[0].__name__} is expected here")
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
    try:
        return get_type_hints(own)
    except NameError as error:
        raise FedrecError(
            f"{target.__qualname__}: its types can't be read ({error}); import them outside `if`"
        ) from error


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
        classes = [kind for kind in kinds if inspect.isclass(kind) and kind not in SCALARS]
        if not classes:
            raise FedrecError(f"{where} takes a plain value, no object with a _target_ of its own")
        return instantiate(cast("Mapping[str, Any]", value), where, classes)
    if any(kind not in SCALARS for kind in kinds):
        return value
    if type(value) in kinds or (type(value) is int and float in kinds):
        return float(value) if float in kinds and int not in kinds and value is not None else value
    expected = " or ".join(SCALARS[kind] for kind in kinds)
    raise FedrecError(f"{where}={value}: expected {expected}")
