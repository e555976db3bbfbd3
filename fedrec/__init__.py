"""Private federated recommenders: interactions stay on their device, only a bounded, noised update leaves it.

    >>> import fedrec
    >>> run = fedrec.simulate(dataset="synthetic", model="ease", privacy=fedrec.UserLevel(epsilon=8), progress=False)
    >>> round(run.metrics["privacy"]["epsilon"])
    8

Everything here is imported when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrec.api import Run as Run
    from fedrec.api import StudyResult as StudyResult
    from fedrec.api import audit as audit
    from fedrec.api import load_dataset as load_dataset
    from fedrec.api import load_run as load_run
    from fedrec.api import load_settings as load_settings
    from fedrec.api import simulate as simulate
    from fedrec.api import study as study
    from fedrec.errors import FedrecError as FedrecError
    from fedrec.experiment.experiment import Experiment as Experiment
    from fedrec.privacy.mechanisms.banded import BandedUserLevel as BandedUserLevel
    from fedrec.privacy.mechanisms.gateway import GatewayLevel as GatewayLevel
    from fedrec.privacy.mechanisms.interaction import InteractionLevel as InteractionLevel
    from fedrec.privacy.mechanisms.none import NoPrivacy as NoPrivacy
    from fedrec.privacy.mechanisms.user import UserLevel as UserLevel
    from fedrec.privacy.mechanisms.user_adaptive import UserAdaptive as UserAdaptive
    from fedrec.privacy.mechanisms.user_local import UserLocal as UserLocal
    from fedrec.privacy.mechanisms.user_secure import UserSecure as UserSecure

    __version__: str

_API = ("Run", "StudyResult", "audit", "load_dataset", "load_run", "load_settings", "simulate", "study")
_WHERE = {
    **dict.fromkeys(_API, "fedrec.api"),
    "BandedUserLevel": "fedrec.privacy.mechanisms.banded",
    "Experiment": "fedrec.experiment.experiment",
    "FedrecError": "fedrec.errors",
    "GatewayLevel": "fedrec.privacy.mechanisms.gateway",
    "InteractionLevel": "fedrec.privacy.mechanisms.interaction",
    "NoPrivacy": "fedrec.privacy.mechanisms.none",
    "UserAdaptive": "fedrec.privacy.mechanisms.user_adaptive",
    "UserLevel": "fedrec.privacy.mechanisms.user",
    "UserLocal": "fedrec.privacy.mechanisms.user_local",
    "UserSecure": "fedrec.privacy.mechanisms.user_secure",
}
__all__ = [  # noqa: RUF022  # in the order of use
    "simulate", "load_run", "load_settings", "load_dataset", "audit", "study", "Run", "StudyResult", "Experiment",
    "UserLevel", "InteractionLevel", "UserLocal", "UserSecure", "GatewayLevel", "UserAdaptive", "BandedUserLevel",
    "NoPrivacy", "FedrecError", "__version__",
]  # fmt: skip


class _CallablePackage(ModuleType):
    """A package that is also a function of the same name: `fedrec.audit(...)` beside `fedrec.audit.auditor`."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return getattr(import_module("fedrec.api"), self.__name__.rpartition(".")[2])(*arguments, **settings)


class _Fedrec(ModuleType):
    """This package: Python sets a package that was imported as an attribute, which would hide the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("audit", "study") and type(value) is ModuleType:
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Fedrec


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("fedrec")
    if name not in _WHERE:
        raise AttributeError(f"module 'fedrec' has no attribute '{name}'; it has {', '.join(__all__)}")
    value = getattr(import_module(_WHERE[name]), name)
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted(__all__)
