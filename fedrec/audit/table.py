"""What a person reads of an audit."""

import math
import textwrap

from fedrec.audit.auditor import Audit, ratio
from fedrec.audit.trials import Finding
from fedrec.privacy.card import TRUST

SAYS = {
    "holds": "The measurements agree with what is reported.",
    "loose": "Nothing contradicts what is reported, but less than 95 % of it was found: more noise than needed?",
    "contradicted": "CONTRADICTED: an adversary measures more than is reported, twice in a row.",
    "no claim": "Nothing is claimed, and a canary is seen.",
}


def lines(audit: Audit) -> list[str]:
    """Return the audit as lines of text."""
    terms = audit.terms
    head = [
        f"Audit of {audit.mechanism}, {'training' if audit.trains else 'a statistic'}",
        f"unit: {terms.unit}; relation: {terms.neighbouring}; delta {audit.delta:.1e}; trusted: {TRUST[terms.trust]}",
        f"adversary: {terms.adversary}; sees {terms.release_set}",
        "",
        f"{'trial':9}{'reported':>9}{'measured':>10}{'ratio':>7}  verdict",
    ]
    rows = [line for finding in audit.findings for line in row(finding)]
    return [*head, *rows, "", f"{SAYS[audit.verdict]} ({audit.seconds:.0f} s)"]


def row(finding: Finding) -> list[str]:
    """Return a trial as a row and its details below it."""
    share = ratio(finding)
    reported = f"{finding.reported:9.3f}" if math.isfinite(finding.reported) else f"{'-':>9}"
    measured = f"{finding.measured:10.3f}" if finding.measured > 0 else f"{'-':>10}"
    first = f"{finding.trial:9}{reported}{measured}{f'{share:.3f}' if share else '-':>7}  {finding.verdict}"
    return [first, *textwrap.wrap(finding.detail, 100, initial_indent=" " * 9, subsequent_indent=" " * 9)]
