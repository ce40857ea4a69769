"""The findings of all papers, and what became of them here."""

import pandas as pd

from analysis.papers import chextransfer, freeze_study, transfusion
from analysis.papers.evidence import AREA_MARGIN, SCORE_MARGIN, SIMILARITY_MARGIN, UNTESTED, Evidence, Verdict
from analysis.tables.table import Table

FINDINGS = (*transfusion.FINDINGS, *chextransfer.FINDINGS, *freeze_study.FINDINGS)


def papers_table(evidence: Evidence) -> Table:
    """Look for every finding; those that the study cannot test say what it would need."""
    rows = []
    for finding in FINDINGS:
        verdicts = list(finding.look(evidence)) if not evidence.finished.empty else []
        absent = Verdict("", UNTESTED, f"needs {finding.needs}")
        for where, verdict, text in verdicts or [absent]:
            rows.append(
                {
                    "finding": finding.text,
                    "paper": finding.paper,
                    "here": verdict,
                    "where": where or "–",
                    "evidence": text,
                }
            )
    data = pd.DataFrame(rows, columns=["finding", "paper", "here", "where", "evidence"])
    note = (
        "A finding reappears, or does not, where a 95 % interval (Student's t over paired seeds unless said "
        f"otherwise) lies wholly on one side: of 0 for “more” and “less”, of "
        f"±{SCORE_MARGIN} for “as well” and “little” in scores, {AREA_MARGIN} in areas under the learning "
        f"curve, {SIMILARITY_MARGIN} in SVCCA. "
        "Everything else is not resolved by these seeds. The intervals are not corrected for the number of "
        "findings. Speed is judged by the area under the learning curve, which also counts the level that is "
        "reached; SVCCA of stages is compared as the share above its noise floor. The papers' data, sizes "
        "and recipes are others."
    )
    return Table("papers", "Findings of the papers", note, data, data)
