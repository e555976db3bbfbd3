"""The sentence and the table that a simulation ends with."""

from collections.abc import Mapping
from typing import Any

from fedrec.privacy.accounting.interpretation import clause

TITLES = {
    "no_privacy": "the same model, no privacy",
    "popularity": "popularity, pooled data",
    "private_popularity": "popularity, same mechanism and budget",
    "local": "a device alone, no federation",
    "item_knn": "item-kNN, pooled data",
    "ease": "EASE, pooled data",
    "ials": "iALS, pooled data",
}


def guarantee(privacy: Mapping[str, Any]) -> str:
    """Return a guarantee in one clause, never as one bare number."""
    if privacy["unit"] == "none":
        return "no privacy guarantee"
    gain = f"; {clause(privacy, privacy['neighbouring'])}" if "attacker" in privacy else ""
    return (
        f"epsilon {privacy['epsilon']:.2f} (unit: one {privacy['unit']}; {privacy['neighbouring']}; "
        f"delta {privacy['delta']:.1e}; trusted: the {privacy['trust']} only{gain})"
    )


def verdict(values: Mapping[str, Any]) -> str:
    """Return the sentence that says what the run shows."""
    ours, popular = values["test"]["full"]["ndcg@10"], values["baselines"]["popularity"]
    data = f"{values['dataset']['name']}{' (synthetic users)' if values['dataset']['synthetic'] else ''}"
    text = (
        f"On {data}, {values['model']} with {guarantee(values['privacy'])} reaches NDCG@10 {ours:.4f} on full ranking"
    )
    if popular:
        gap = popular["paired_ndcg@10"]
        word = "above" if gap["low"] > 0 else "below" if gap["high"] < 0 else "not to be told from"
        text += (
            f", {word} popularity's {popular['full']['ndcg@10']:.4f} "
            f"(difference {gap['difference']:+.4f}, 95 % over users {gap['low']:+.4f} to {gap['high']:+.4f})"
        )
    twin = values["baselines"]["no_privacy"]
    if twin:
        free, gap = twin["full"]["ndcg@10"], twin["paired_ndcg@10"]
        cost = f"so privacy costs {100 * (1 - ours / max(free, 1e-9)):.0f} %" if ours < free else "no less than that"
        sure = "" if gap["high"] < 0 else ", a difference within the noise of these users"
        text += f"; without privacy it reaches {free:.4f}, {cost}{sure}"
    early = values.get("ended_early")
    return f"{text}.{f' Not the whole run: it ended {early}.' if early else ''}"


def table(values: Mapping[str, Any]) -> str:
    """Return one line a method, full ranking first."""
    unit = values["privacy"]["unit"]
    label = (
        values["model"]
        if unit == "none"
        else f"{values['model']}, {unit} level, epsilon {values['privacy']['epsilon']:.2f}"
    )
    rows = [(label, values["test"])]
    rows += [(TITLES.get(name, name), found) for name, found in values["baselines"].items() if found]
    negatives = values["test"]["sampled"]["negatives"]
    lines = [f"{'':44}{'full ranking':^46}{f'against {negatives} sampled':^22}".rstrip()]
    lines.append(f"{'':44}{'HR@10':>8}  {'NDCG@10 (95 % over users)':>28}  {'coverage':>8}{'HR@10':>10}{'NDCG@10':>10}")
    for name, found in rows:
        full, sampled = found["full"], found["sampled"]
        low, high = full["ndcg@10_ci"]
        interval = f"{full['ndcg@10']:.4f} ({low:.4f} to {high:.4f})"
        lines.append(
            f"{name:44}{full['hr@10']:8.4f}  {interval:>28}  {full['coverage@10']:8.3f}"
            f"{sampled['hr@10']:10.4f}{sampled['ndcg@10']:10.4f}"
        )
    if "rmse" in values["test"]:
        lines.append(f"RMSE on the held-out ratings: {values['test']['rmse']:.4f}")
    return "\n".join(lines)
