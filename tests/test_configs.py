"""Every file a user starts from is well-formed: study files, cluster files, links of the documents."""

import re
from pathlib import Path
from typing import get_args

import pytest

from study.config import load_study
from study.plan import make_plan
from trainables.architectures.catalog import ARCHITECTURES
from trainables.datasets.catalog import DATASETS
from trainables.datasets.readers import READERS
from trainables.spec import InitSpec

ROOT = Path(__file__).parent.parent
STUDIES = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if "clusters" not in p.parts)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("file", STUDIES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_configuration_plans_without_its_data(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFUSION_DATA", raising=False)
    assert make_plan(load_study(file), []).entries


@pytest.mark.parametrize("file", STUDIES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_configuration_says_what_it_asks_and_what_it_needs(file: Path) -> None:
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    words = [line.split()[1] for line in header if len(line.split()) > 1]
    assert {"Question", "Command", "Data", "Time", "Expected"} <= set(words)


def test_a_pretraining_is_one_training_for_all_studies_of_transfusion() -> None:
    """What a source leaves unsaid it inherits from the trial, which differs from study to study."""
    ids: dict[str, set[str]] = {}
    for file in (ROOT / "configs" / "transfusion").glob("*.yaml"):
        for entry in make_plan(load_study(file), []).entries:
            if entry.trial.is_source:
                ids.setdefault(entry.cell_label, set()).add(entry.trial_id)
    assert ids["cbr_large_w · random · imagenet"]
    assert {label for label, found in ids.items() if len(found) > 1} == set()


def test_the_catalog_of_the_documents_names_every_entry() -> None:
    text = (ROOT / "docs" / "catalog.md").read_text()
    datasets = {name for name in DATASETS if not re.search("mnist", name)}
    kinds = get_args(InitSpec.model_fields["kind"].annotation)
    for name in (*ARCHITECTURES, *READERS, *datasets, *kinds):
        assert f"`{name}`" in text, name
    for reader in READERS.values():
        for option in reader.options.model_fields if reader.options else ():
            assert f"`{option}`" in text, option


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
