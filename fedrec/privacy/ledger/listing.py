"""What the ledgers of this machine hold, one table each."""

from dataclasses import asdict, dataclass
from typing import Any

from fedrec.errors import FedrecError, nearest
from fedrec.places import ledger_path, populations
from fedrec.privacy.accounting.composition import epsilon_of
from fedrec.privacy.accounting.interpretation import beside, clause
from fedrec.privacy.ledger.population import Run, Total, runs, totals
from fedrec.privacy.ledger.store import LedgerStore


@dataclass(frozen=True, slots=True)
class Listed:
    """One population's ledger: its runs and totals, or what is wrong with it."""

    population: str
    path: str
    head: str
    wrong: str
    totals: list[Total]
    runs: list[Run]

    def json(self) -> dict[str, Any]:
        """Return the ledger as JSON: a run's epsilon is null where nothing bounds it."""
        return {
            "population": self.population,
            "path": self.path,
            "head": self.head,
            "wrong": self.wrong or None,
            "totals": [asdict(total) for total in self.totals],
            "runs": [{**_summary(run), "rows": run.rows} for run in self.runs],
        }

    def lines(self) -> list[str]:
        """Return the ledger for a reader."""
        if self.wrong:
            return [f"{self.population}: {self.wrong}", ""]
        made = [f"{self.population}  (verified; head {self.head[:12]}...)"]
        for total in self.totals:
            together = f"all {total.runs} runs together" if total.runs > 1 else "one run"
            made.append(
                f"  {together}, unit {total.unit}, {total.neighbouring}: epsilon {total.epsilon:.2f} at delta "
                f"{total.delta:.1e} ({clause(total.beside, total.neighbouring)})"
            )
        return [*made, *(f"  {_line(run)}" for run in self.runs), ""]


def listed(population: str | None) -> list[Listed]:
    """Return the ledger of a population, or all of this machine; one that was tampered with says so in `wrong`."""
    known = populations()
    if population is not None and population not in known:
        raise FedrecError(f"no ledger of a population named {population} here.{nearest(population, known)}")
    return [_read(name) for name in (known if population is None else [population])]


def _read(population: str) -> Listed:
    path = ledger_path(population)
    try:
        store = LedgerStore(path)
    except FedrecError as error:
        return Listed(population, str(path), "", str(error), [], [])
    try:
        found = runs(store)
        return Listed(population, str(path), store.head(), "", totals(found), found)
    finally:
        store.close()


def _summary(run: Run) -> dict[str, Any]:
    account, statuses = run.account, [row["status"] for row in run.rows]
    return {
        "run": run.run,
        "mechanism": account.mechanism,
        "unit": account.unit,
        "neighbouring": account.neighbouring,
        "trust": account.trust,
        "rounds": len(statuses),
        "lost": statuses.count("lost") + statuses.count("reserved"),
        "epsilon": epsilon_of(run.spent, account.delta) if account.private else None,
        "delta": account.delta if account.private else None,
        "beside": beside(run.spent, account.neighbouring, account.delta) if account.private else None,
    }


def _line(run: Run) -> str:
    told = _summary(run)
    lost = f", {told['lost']} lost or open" if told["lost"] else ""
    guarantee = "no privacy"
    if told["epsilon"] is not None:
        more = clause(told["beside"], told["neighbouring"])
        guarantee = f"epsilon {told['epsilon']:.2f}, delta {told['delta']:.1e} ({more})"
    return f"{told['run']}: {told['mechanism']}, {told['rounds']} rounds{lost}, {guarantee}"
