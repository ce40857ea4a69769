"""Packages of others add networks and readers through the entry points they declare."""

import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.config import parse_study
from study.plan import make_plan
from trainables.architectures.catalog import find_architecture
from trainables.datasets.readers import find_reader
from trainables.errors import SpecError
from trainables.plugins import plugins
from trainables.record import RecordReader, Store
from trainables.spec import RunOptions
from trainables.trial import run_trial

PACKAGE = Path(__file__).parent / "example_plugin"
STUDY = """
name: plugged
trial:
  architecture: plugin_net
  dataset: {reader: plugin_stripes, size_px: 8}
  training: {steps: 30, batch_size: 8, optimizer: {lr: 0.05}}
source:
  dataset: {reader: plugin_stripes, size_px: 8, split_seed: 1}
grid:
  init: [random, transfusion]
  transfusion_depth: every
"""


def install(site: Path, *, entries: dict[str, dict[str, str]], name: str = "example_plugin") -> None:
    """Write what an installer writes for a package with entry points."""
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = (
        "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in points.items())])
        for group, points in entries.items()
    )
    (information / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what it declares is known as long as the test runs."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(PACKAGE / "src"))
    plugins.cache_clear()
    yield tmp_path / "site"
    plugins.cache_clear()
    sys.modules.pop("example_plugin", None)


@pytest.fixture
def installed(site: Path) -> Path:
    install(site, entries=tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["entry-points"])
    importlib.invalidate_caches()
    return site


def test_a_package_adds_a_network_and_a_reader_that_a_study_can_name(installed: Path, store: Store) -> None:
    plan = make_plan(parse_study(STUDY), [])
    assert [entry.trial.spec.init_label for entry in plan.entries] == ["random", "random", "transfusion 1/2"]
    for entry in plan.entries:
        *_, last = run_trial(entry.trial.spec, store=store, options=RunOptions(), data_root=None)
        assert (last.status, last.cause) == ("finished", None)
    best = [record.metrics["test_auroc"] for record in RecordReader(store).trials()]
    assert min(best) > 0.9


def test_entries_are_found_beside_our_own(installed: Path) -> None:
    assert find_architecture("plugin_net").backbone == ("conv1", "conv2")
    assert find_architecture("cbr_tiny").backbone[0] == "conv1"
    assert find_reader("plugin_stripes").known_classes
    with pytest.raises(SpecError, match="got 'plugin_ner'; did you mean 'plugin_net'"):
        find_architecture("plugin_ner")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            "nowhere:NET",
            r"transfusion.architectures: broken \(nowhere:NET\) cannot be imported \(ModuleNotFound",
        ),
        ("example_plugin:PLUGIN_STRIPES", "must be of type Architecture, got Reader; mend that package"),
    ],
)
def test_a_broken_package_is_named(site: Path, declared: str, message: str) -> None:
    install(site, entries={"transfusion.architectures": {"broken": declared}})
    with pytest.raises(SpecError, match=message):
        find_architecture("broken")


def test_a_name_of_our_own_is_not_given_another_meaning(site: Path) -> None:
    install(
        site,
        entries={
            "transfusion.architectures": {"resnet18": "example_plugin:PLUGIN_NET"},
            "transfusion.datasets": {"digits": "example_plugin:PLUGIN_STRIPES"},
        },
    )
    with pytest.raises(SpecError, match=r"^transfusion.datasets: digits .* has the name of an entry"):
        find_reader("digits")
    with pytest.raises(SpecError, match=r"^transfusion.architectures: resnet18 .* has the name of an"):
        find_architecture("another")


def test_two_packages_with_one_name_are_told(site: Path) -> None:
    entry = {"transfusion.architectures": {"plugin_net": "example_plugin:PLUGIN_NET"}}
    install(site, entries=entry)
    install(site, entries=entry, name="another_plugin")
    with pytest.raises(SpecError, match=r"plugin_net .* is declared by two packages; remove one"):
        find_architecture("plugin_net")
