"""When figures mean less than they seem to: what the verdict says beside them, one plain sentence each.

Everything here is read from what a run's metrics.json says anyway; no figure is looked at that is not in it.
"""

from collections.abc import Mapping
from typing import Any

FEW_USERS = 200  # below, the interval over users is wider than methods differ
MUCH_CHANCE = 0.1  # what blind chance reaches against 99 sampled items
HELD_BY_TIES = 0.05  # of NDCG@10
MANY_SHORT = 0.1  # of the users
POOLED = {"ease": "EASE", "item_knn": "item-kNN", "ials": "iALS"}


def find_caveats(values: Mapping[str, Any], fitting: str | None = None) -> list[str]:
    """Return what keeps the figures of metrics.json from meaning what they seem to; nothing where nothing does.

    `fitting` is the model that suits such data by what is public of them.
    """
    found = (
        *_of_data(values["dataset"]),
        _chance(values),
        _short(values),
        _few(values),
        _tied(values),
        _poor(values, fitting),
        _tuned_for_noise(values),
    )
    return [text for text in found if text]


def sampled_heading(values: Mapping[str, Any]) -> str | None:
    """Return how many sampled items each held-out one was ranked against; None where that measure is spent."""
    test = values["test"]
    asked = test["sampled"].get("negatives")
    least, most = test["sampled"].get("drawn") or (asked, asked)
    if asked is None or test.get("fewer_candidates", 0) > MANY_SHORT * test.get("users", 0):
        return None
    return _between(least, most)


def _between(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def _of_data(data: Mapping[str, Any]) -> list[str]:
    """Return what was found in the rows, and that they have no times where nothing else is said of their order."""
    found = data.get("findings", ())
    said = [_sentence(one["text"], one["setting"]) for one in found]
    if data.get("order") == "random":
        said.append("What is held out was drawn at random: nothing here says how well what comes next is foreseen.")
    if data.get("order") == "file" and not any(one["setting"].startswith("dataset.order") for one in found):
        said.append("What is held out is each user's last row in the file, which need not be the last in time.")
    return said


def _sentence(text: str, setting: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{f' ({setting})' if setting else ''}."


def _chance(values: Mapping[str, Any]) -> str:
    chance = values["test"].get("chance_hr@10") or 0.0
    if chance <= MUCH_CHANCE:
        return ""
    return (
        f"Blind chance puts {100 * chance:.0f} % of the held-out items among the first ten, so few others are left to "
        "rank: accuracy says little on data as small as these."
    )


def _short(values: Mapping[str, Any]) -> str:
    test = values["test"]
    short, sampled = test.get("fewer_candidates", 0), test["sampled"]
    if not short:
        return ""
    least, most = sampled["drawn"]
    left_out = ", and their columns are left out" if sampled_heading(values) is None else ""
    who = "All" if short == test["users"] else f"{short:,} of"
    return (
        f"{who} {test['users']:,} users had fewer than {sampled['negatives']} other items to be ranked against "
        f"({_between(least, most)} drawn): sampled figures can't be compared with anybody else's{left_out}."
    )


def _few(values: Mapping[str, Any]) -> str:
    users = values["test"].get("users", 0)
    if not 0 < users < FEW_USERS:
        return ""
    who = "1 user" if users == 1 else f"{users} users"
    return f"Only {who} had something held out: with fewer than {FEW_USERS}, chance moves figures more than methods do."


def _tied(values: Mapping[str, Any]) -> str:
    test = values["test"]
    ndcg, least = (test["full"].get(name) for name in ("ndcg@10", "ndcg@10_pessimistic"))
    if not ndcg or least is None or ndcg - least <= HELD_BY_TIES * ndcg:
        return ""
    return (
        f"For {100 * test['tie_fraction']:.0f} % of the users the held-out item has the score of others, too, and "
        f"counts as their mean rank; were all ties lost, NDCG@10 would be {least:.4f}."
    )


def _poor(values: Mapping[str, Any], fitting: str | None) -> str:
    """Say what ranks better where popularity does: what this run has tried beside it, and what suits such data."""
    ours, found = values["test"]["full"].get("ndcg@10"), values["baselines"]
    popular = found.get("popularity")
    if ours is None or not popular or popular["paired_ndcg@10"]["high"] >= 0:
        return ""
    better, private = list[str](), found.get("private_popularity")
    if private and private["full"]["ndcg@10"] > ours:
        better.append(f"model=popularity reaches {private['full']['ndcg@10']:.4f} under the same privacy")
    reached = {name: found[name]["full"]["ndcg@10"] for name in POOLED if found.get(name) and name != values["model"]}
    name = max(reached, key=reached.__getitem__, default="")
    if name and reached[name] > popular["full"]["ndcg@10"]:
        better.append(f"{POOLED[name]} reaches {reached[name]:.4f} on pooled data")
    if fitting and fitting not in (values["model"], name, "popularity"):
        better.append(f"model={fitting} suits data like these")
    if not better:
        better.append("nothing tried here does better; model=popularity is simpler")
    return f"Popularity ranks better than {values['model']} on these data: {'; '.join(better)}."


def _tuned_for_noise(values: Mapping[str, Any]) -> str:
    twin = values["baselines"].get("no_privacy")
    if not twin or twin["paired_ndcg@10"]["low"] <= 0:
        return ""
    return (
        f"Without privacy the same settings reach less ({twin['full']['ndcg@10']:.4f}): they are tuned for noise, so "
        "that row is no baseline, and what privacy costs is not told by it."
    )
