"""What `import fedrec` offers: runs, studies and audits as values, frames and classes instead of files and names."""

from fedrec.api.runs import Run, load_run, simulate
from fedrec.api.settings import load_dataset, load_settings
from fedrec.api.studies import AuditResult, StudyResult, audit, study

__all__ = [
    "AuditResult",
    "Run",
    "StudyResult",
    "audit",
    "load_dataset",
    "load_run",
    "load_settings",
    "simulate",
    "study",
]
