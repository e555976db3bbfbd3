"""What one real device answers: who it is, whether it takes part, and each round at most once."""

import contextlib
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fedrec.data.catalogue import Catalogue
from fedrec.device import saved_state
from fedrec.device.availability import AvailabilityPolicy, unavailable_reason
from fedrec.device.backend import select_backend
from fedrec.device.catalogue import check_same_in_run, pinned, take_catalogue
from fedrec.device.consent.consent import Consent, ConsentPolicy, DeclinedError
from fedrec.device.consent.request import PlayedRounds, check_packages
from fedrec.device.dataset import BufferedPrivateStore, load_engine, local_dataset, train_on
from fedrec.device.derive import check_enrolled, rehearse
from fedrec.device.home import Home
from fedrec.device.limits import DeviceLimits, check_disk, check_names, check_train
from fedrec.device.saved_state import expire
from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError, OverLimitError, RefusedError
from fedrec.experiment.instantiate import allow_only
from fedrec.messages import PROTOCOL, Message, unpack
from fedrec.ops.bounded import run_bounded
from fedrec.ops.keys import device_id, sign

ECHO = ("protocol", "run", "round", "hash")


class Device:
    """The device whose home this is."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def answer(self, request: Message) -> Message:
        """Return the reply to a hello, catalogue, train or evaluate message.

        Classes are built of fedrec and of the packages in this device's policy, whatever its process allows; a run that
        needs another is refused by name, before anything of it is imported or charged.
        """
        kinds = {
            "hello": self._hello,
            "catalogue": self._catalogue,
            "train": self._train,
            "evaluate": self._evaluate,
        }
        if request.header.get("protocol") != PROTOCOL:
            raise RefusedError(f"the server speaks protocol {request.header.get('protocol')}, this device {PROTOCOL}")
        with allow_only(self.home.packages()), contextlib.closing(self.home.store()) as store:
            check_packages(request.header)
            try:
                reply = kinds[request.header["kind"]](store, request)
            except OverLimitError as reason:
                reply = self._over_limit(store, request, reason)
        return Message({**{key: request.header[key] for key in ECHO}, **reply.header}, reply.arrays)

    def _hello(self, store: DeviceStore, request: Message) -> Message:
        """Prove who this is: the run and its nonce, signed with the device's key."""
        check_names(self.limits(), request.header)
        name, pin = device_id(self.home.public_key.read_bytes()), pinned(store)
        header = {
            "fedrec": version("fedrec"),
            "device": name,
            "proof": sign(self.home.key.read_bytes(), f"{request.header['run']} {request.header['nonce']} {name}"),
            "catalogue": None if pin is None else pin.hash,
            "evaluates": self._sharing().get("evaluation") is True,
        }
        return Message(header)

    def _catalogue(self, store: DeviceStore, request: Message) -> Message:
        take_catalogue(self.home, store, request)
        return Message({})

    def _train(self, store: DeviceStore, request: Message) -> Message:
        check_train(self.limits(), request, store.count_events())
        run, number = request.header["run"], request.header["round"]
        before = saved_state.find_reply(store, run, number)
        if before is not None:
            return replay_reply(before, request)
        if (reason := unavailable_reason(AvailabilityPolicy.of(self.home))) is not None:
            return declined(store, f"not training: {reason}")
        check_disk(self.limits(), self.home.path, request.bytes)
        check_same_in_run(store, run)
        played = self._rehearsed(store, request)
        try:
            consent_of(self.home).charge(request.header, played=played)
        except DeclinedError as reason:
            return declined(store, str(reason))
        expire(self.home, store)
        seen, start = store.generation(), time.monotonic()
        private = BufferedPrivateStore(saved_state.DevicePrivate(store, run), number)
        reply = self._carried_out(store, request, private)
        with store.transaction():
            if store.generation() != seen:
                raise RefusedError("something was forgotten while this round trained: its result is dropped")
            private.write()
            saved_state.save_model(store, request)
            saved_state.save_reply(store, run, number, request, reply)
        saved_state.note(store, f"trained round {number} of {run} in {time.monotonic() - start:.1f} s")
        return reply

    def _evaluate(self, store: DeviceStore, request: Message) -> Message:
        """Return sums over this one device, where its person lets it be evaluated."""
        if self._sharing().get("evaluation") is not True:
            raise RefusedError("exact results do not leave this device (policy.toml: [sharing] evaluation = true)")
        check_train(self.limits(), request, store.count_events())
        check_enrolled(request.header)
        run, number = request.header["run"], request.header["round"]
        private = BufferedPrivateStore(saved_state.DevicePrivate(store, run), number + 1)
        rows = self._carried_out(store, request, private)
        sums = {
            name: float(column.sum())
            for name, column in rows.arrays.items()
            if name.startswith(("full_", "sampled_")) and column.ndim == 1
        }
        return Message({"count": rows.header["count"], "sums": sums})

    def _rehearsed(self, store: DeviceStore, request: Message) -> PlayedRounds | None:
        """Return the rounds of the run by this device's own calculation; the light engine can't calculate them.

        The round is carried out on a few public items first: whatever keeps it from being trained is refused here,
        before anything is charged.
        """
        catalogue, engine = catalogue_of(store), select_backend(self.home.enrolment().engine)

        def work() -> Message:
            played = rehearse(request, catalogue, engine)
            return Message({"played": None if played is None else [played.rounds, played.shares]})

        try:
            played = self._bounded(work).header["played"]
        except FedrecError as reason:
            if not isinstance(reason, OverLimitError):
                consent_of(self.home).note_refusal(request.header, str(reason))
            raise
        if played is None:
            return None
        rounds, shares = played
        return PlayedRounds(rounds, None if shares is None else tuple(shares))

    def _carried_out(self, store: DeviceStore, request: Message, private: BufferedPrivateStore) -> Message:
        """Return the engine's reply to a train or evaluate message, `private` filled with what is to be kept."""
        dataset = local_dataset(store, catalogue_of(store), request.header)
        # A loss is exact too, and only an evaluation was allowed.
        exact = request.header["kind"] == "evaluate" and self._sharing().get("evaluation") is True
        engine = select_backend(self.home.enrolment().engine)

        def work() -> Message:
            return private.packed(train_on(engine, dataset, private, exact)(request))

        return private.unpacked(self._bounded(work))

    def _bounded(self, work: Callable[[], Message]) -> Message:
        limits = self.limits()
        load_engine(select_backend(self.home.enrolment().engine))
        return run_bounded(work, limits.seconds, limits.memory_mib)

    def _over_limit(self, store: DeviceStore, request: Message, reason: RefusedError) -> Message:
        """Keep for this device's person which limit a request would pass; the server is told that there is one."""
        consent_of(self.home).note_refusal(request.header, str(reason))
        reply = declined(store, f"declined: {reason}")
        if request.header["kind"] in ("hello", "catalogue"):
            raise RefusedError("this device's own limits do not allow it") from reason
        return reply

    def limits(self) -> DeviceLimits:
        """Return what this device's person lets a server's words cost it."""
        return DeviceLimits.of(self.home)

    def _sharing(self) -> dict[str, Any]:
        return self.home.table("sharing")


def catalogue_of(store: DeviceStore) -> Catalogue:
    """Return the catalogue that this device has taken; none is `RefusedError`."""
    catalogue = saved_state.catalogue(store)
    if catalogue is None:
        raise RefusedError("this device has no catalogue yet")
    return catalogue


def declined(store: DeviceStore, reason: str) -> Message:
    """Note why, for this device's person alone: a reason would tell what the device did before, or where it is."""
    saved_state.note(store, reason)
    return Message({"declined": True})


def consent_of(home: Home) -> Consent:
    """Return what this device's person allows, and its ledger; a crash after a charge loses that round, no more."""
    policy = ConsentPolicy.of(home.table("privacy"), str(home.policy))
    return Consent(policy, home.ledger, int(DeviceLimits.of(home).refusals))


def replay_reply(before: saved_state.SentReply, request: Message) -> Message:
    """Return the answer that was given before: the same bytes, or none."""
    if before.request != saved_state.request_fingerprint(request):
        raise RefusedError("this round was answered already, for another model: one answer a round leaves this device")
    if before.reply is None:
        raise RefusedError("this round was answered already, and what it said has been forgotten")
    return unpack(before.reply)
