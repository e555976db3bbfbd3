"""Order statistics: what follows what in the histories of all devices, released in up to four rounds.

1. counts: of a device's items, and of its last ones, which tell what is fresh. They choose the head.
2. pairs: for every pair of head items how often one follows the other within `window` steps, in either order, and by
   how much more often in ascending order of rows.
3. cells: the same of the most promising pairs alone, each device's vector scaled to length 1 after the restriction.
4. weights: how the features of a history should weigh in the score (`fedrec.algorithms.feature_weights`).

Each round's vector is at most 1 long, so that one user changes no sum by more. What is chosen and scaled by in a round
is a function of the releases before it and of public data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.base import Contribution, RoundContext, StatisticAlgorithm
from fedrec.algorithms.feature_weights import SHARPER, feature_scales, improved_weights, slopes
from fedrec.algorithms.item_bounds import bounding
from fedrec.algorithms.item_counts import bounded_counts
from fedrec.algorithms.item_pairs import Pairs, flat_place, together, transitions, triangle
from fedrec.algorithms.transition_estimation import (
    FactorPrior,
    Floats,
    PairSums,
    choose_cells,
    estimate_counts,
    estimate_transitions,
    expected_of_popularity,
    fit_prior_means,
)
from fedrec.algorithms.transition_plan import (
    CELL_PARTS,
    CELL_SHARE,
    CELLS,
    COUNTS,
    PARTS,
    SCALES,
    STAGE,
    STAGES,
    TransitionPlan,
    stage_of,
)
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.messages import Arrays, ModelUpdate, cells
from fedrec.models.base import Recommender
from fedrec.models.ease import check_head, same_head
from fedrec.models.history_features import Past
from fedrec.models.transitions import ItemTransitionModel, TransitionPrior, history_features, sizes, unfolded
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.rng import CounterRNG, Stream

PRIOR_SCALE = 1.5  # of the factors by which pairs differ from what is expected of them
PASTS, NOISE = "kept/pasts", "kept/noise"  # what the server keeps for its own steps, beside the sums of the pairs


@dataclass(frozen=True, slots=True)
class TransitionCounts(TransitionPlan):
    """Sums bounded transitions of devices, and estimates from the noised sums what follows what."""

    name: ClassVar[str] = "order"
    accepts: ClassVar[tuple[type[Recommender], ...]] = (ItemTransitionModel,)

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Start from what the model starts from; "stage/order" says which round comes next."""
        shared = model.shared_arrays()
        same_head(self.head, len(shared["head_items"]), len(catalogue))
        if len(shared["symmetric_weights"]) != sizes(catalogue, self.encoder)[0]:
            raise FedrecError("algorithm.encoder and model.encoder differ: leave model.encoder=${algorithm.encoder}")
        if self.one_round:
            check_head(len(catalogue), len(catalogue), 4.0, "algorithm.one_round=true sends all pairs of items")
        size, later = len(shared["head_items"]), Arrays()
        if "cells" in self.stages:
            pairs = np.zeros(triangle(size), np.float32)
            later |= {CELLS: np.zeros(min(self.cells * size, len(pairs)), np.float32), NOISE: np.zeros(1, np.float32)}
            later |= {CELL_SHARE: np.ones(1, np.float32), **{f"kept/{name}": pairs.copy() for name in PARTS}}
        if "weights" in self.stages and isinstance(model, ItemTransitionModel):
            later[SCALES] = np.ones(len(shared["feature_weights"]), np.float32)
            pasts = [(past.items, past.decay) for past in model.pasts.values()]
            later[PASTS] = np.array(pasts, np.float32)
        return {**shared, STAGE: np.zeros(1, np.float32), **later}

    def broadcast(self, state: Arrays) -> Arrays:
        """Send everything that a device needs to know which round it is, and to score."""
        return {name: array for name, array in state.items() if not name.startswith("kept/")}

    def contribute(
        self, model: Recommender, broadcast: Arrays, device: DeviceData, private: Arrays, context: RoundContext
    ) -> Contribution:
        """Return one device's statistic, or what it would have the features' weights be."""
        return self.contribute_many(model, broadcast, [device], [private], context)[0]

    def contribute_many(
        self,
        model: Recommender,
        broadcast: Arrays,
        devices: Sequence[DeviceData],
        private: Sequence[Arrays],
        context: RoundContext,
    ) -> Sequence[Contribution]:
        """Return what each device contributes; features are made of what was released once for all of them."""
        if stage_of(broadcast) != "weights" or not isinstance(model, ItemTransitionModel):
            alone = StatisticAlgorithm.contribute
            return [alone(self, model, broadcast, d, p, context) for d, p in zip(devices, private, strict=True)]
        model.load({name: broadcast[name] for name in model.shared})
        features, random = model.features(), CounterRNG(context.seed, context.round, Stream.TRAIN)
        weights, scales = broadcast["feature_weights"], broadcast[SCALES]
        return [
            Contribution(ModelUpdate({"slopes": slopes(features, d, (weights, scales), random)}, 1), p)
            for d, p in zip(devices, private, strict=True)
        ]

    def statistic(self, broadcast: Arrays, device: DeviceData, unit: Unit) -> Arrays:
        """Return the parts of the device's vector that this round asks for, each of the length that is its own."""
        asked, items = self.shapes(broadcast), len(broadcast["counts"])
        lengths, found, shortest = self.lengths(), Arrays(), bounding(self.shortest_history, unit)
        if "counts" in asked:
            counts = bounded_counts(device.history, items, Unit.USER, shortest)
            last = bounded_counts(device.history[-self.late :], items, Unit.USER, shortest and min(shortest, self.late))
            found["counts"], found["late"] = counts * np.float32(lengths["counts"]), last * np.float32(lengths["late"])
        for names in (PARTS, CELL_PARTS):
            if names[0] in asked:
                pairs, least = self._pairs(device.history, broadcast), self.least_norm(shortest)
                if names == CELL_PARTS:
                    pairs = pairs.only(broadcast[CELLS].astype(np.int64))
                    least *= float(broadcast[CELL_SHARE][0]) ** 0.5
                scale = lengths["pairs"] / max(pairs.norm(self.direction), least, 1e-30)
                for name, value in zip(names, (pairs.both, self.direction * pairs.ascending), strict=True):
                    found[name] = cells(pairs.place, (scale * value).astype(np.float32), asked[name])
        return found

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Estimate what the round's sums are about, and choose what the next round asks for."""
        if self.catalogue is None:
            raise FedrecError("TransitionCounts smooths by public features: call with_catalogue(catalogue) first")
        found, stage, noise = dict(state), stage_of(state), total.noise_std
        if stage == "counts":
            found |= self._counted(self.catalogue, state, total)
        if "symmetric" in total.arrays:
            sent = self._on_head(found, total.arrays["symmetric"]), self._on_head(found, total.arrays["antisymmetric"])
            found |= self._paired(TransitionPrior(self.catalogue, found["counts"], self.encoder), found, sent, noise)
        if stage == "cells":
            sent = total.arrays["cell_symmetric"], total.arrays["cell_antisymmetric"]
            found |= self._refined(TransitionPrior(self.catalogue, found["counts"], self.encoder), found, sent, noise)
        if stage == "weights":
            weights = improved_weights(state["feature_weights"], state[SCALES], total.arrays["slopes"])
            return found | {"feature_weights": weights}
        after = self.stages[self.stages.index(stage) + 1 :]
        if after[:1] == ("weights",):
            near, far = (Past(int(items), float(decay)) for items, decay in state[PASTS])
            features = history_features(self.catalogue, found, {"near": near, "far": far}, self.encoder)
            found[SCALES] = feature_scales(features, found["counts"])
            found["feature_weights"] = np.float32(SHARPER) * state["feature_weights"]
        return found | ({STAGE: np.array([STAGES.index(after[0])], np.float32)} if after else {})

    def _counted(self, catalogue: Catalogue, state: Arrays, total: Aggregate) -> Arrays:
        """Return the estimates of the counts, and the head that they choose."""
        sent, length = COUNTS if self.order else COUNTS[:1], self.lengths()
        sums = {name: total.arrays[name].astype(np.float64) / length[name] for name in sent}
        found = estimate_counts(catalogue, sums, {name: total.noise_std / length[name] for name in sent})
        head = np.argsort(-found["counts"], kind="stable")[: len(state["head_items"])]
        return found | {"head_items": np.sort(head).astype(np.float32)}

    def _paired(self, expectation: TransitionPrior, state: Arrays, sent: tuple[Floats, Floats], noise: float) -> Arrays:
        """Return the estimates of the pairs, and the cells that they choose."""
        head = state["head_items"].astype(np.int64)
        sums = PairSums.of(sent, noise, self.direction, expected_of_popularity(expectation, head))
        weights = fit_prior_means(expectation, head, sums)
        prior = FactorPrior.of(expectation, head, self.own, self.prior_scale or PRIOR_SCALE)
        found = estimate_transitions(expectation, head, sums, weights, prior)
        found |= {"symmetric_weights": weights[0], "antisymmetric_weights": weights[1]}
        if "cells" in self.stages:
            upper = np.triu_indices(len(head), 1)
            chosen = choose_cells(found["symmetric"], state["counts"][head], len(state[CELLS]))
            share = found["symmetric"][chosen].sum() / found["symmetric"].sum()
            found |= {CELLS: chosen.astype(np.float32), CELL_SHARE: np.array([share], np.float32)}
            found |= {
                f"kept/{name}": part[upper] for name, part in zip(PARTS, (sums.both, sums.ascending), strict=True)
            }
            found[NOISE] = np.array([sums.noise], np.float32)
        return found

    def _refined(
        self, expectation: TransitionPrior, state: Arrays, sent: tuple[Floats, Floats], noise: float
    ) -> Arrays:
        """Return the estimates of the pairs from what was kept of their sums and those of the cells."""
        head, chosen = state["head_items"].astype(np.int64), state[CELLS].astype(np.int64)
        both, ascending = (unfolded(state[f"kept/{name}"], len(head)) for name in PARTS)
        sums = PairSums(both + both.T, ascending - ascending.T, float(state[NOISE][0]), self.direction)
        sums = sums.joined(chosen, sent, noise, state["symmetric"][chosen])
        weights = state["symmetric_weights"], state["antisymmetric_weights"]
        prior = FactorPrior.of(expectation, head, self.own, self.prior_scale or PRIOR_SCALE)
        return estimate_transitions(expectation, head, sums, weights, prior)

    def _pairs(self, history: NDArray[np.int32], broadcast: Arrays) -> Pairs:
        items = len(broadcast["counts"])
        head = np.arange(items) if self.one_round else broadcast["head_items"].astype(np.int64)
        place = np.full(items, -1)
        place[head] = np.arange(len(head))
        places = place[history]
        return transitions(places, len(head), self.window, self.decay) if self.order else together(places, len(head))

    def _on_head(self, state: Arrays, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the strict upper triangle over the head, flat, of one over the catalogue or over the head already."""
        head, items = state["head_items"].astype(np.int64), len(state["counts"])
        if not self.one_round:
            return flat
        one, other = np.triu_indices(len(head), 1)
        return flat[flat_place(head[one], head[other], items)]
