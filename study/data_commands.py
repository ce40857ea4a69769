"""`transfusion data list | check | prepare`: what lies on disk, before any training needs it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from trainables.datasets.spec import DatasetSpec

EXIT_NOT_AS_PUBLISHED = 2


def _of_dataset(command: click.decorators.FC) -> click.decorators.FC:
    """Add what names a dataset, and how large its images shall be."""
    for decorate in (
        click.option("--channels", type=click.Choice(["1", "3"]), help="Grey or RGB instead of the default."),
        click.option(
            "--size-px", type=click.IntRange(8, 4096), help="Side of the images instead of the default."
        ),
        click.option(
            "--study",
            "study_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A study file whose section datasets has the name.",
        ),
        click.argument("name"),
    ):
        command = decorate(command)
    return command


@click.group()
def data() -> None:
    """Look at datasets, and prepare them.

    Images are looked up below TRANSFUSION_DATA; prepared ones are kept below TRANSFUSION_CACHE
    (~/.cache/transfusion).
    """


@data.command(name="list")
def list_command() -> None:
    """Show every dataset with a name: where it is expected, and whether it is there."""
    from study.data_screens import print_datasets
    from trainables.datasets.inspection import list_datasets

    print_datasets(list_datasets(_data_root()), root=_data_root())


@data.command()
@_of_dataset
def check(name: str, study_file: Path | None, size_px: int | None, channels: str | None) -> None:
    """Look at every image of NAME: counts, broken files, patients, class balance, digest.

    Ends with 2 if the copy is not what was published, or cannot be loaded.
    """
    from study.data_screens import print_inspection
    from study.progress import bar
    from trainables.datasets.inspection import inspect

    spec = _spec(name, study_file, size_px, channels)
    with bar(f"check {name}") as progress:
        found = inspect(spec, data_root=_data_root(), progress=lambda done, of: progress("images", done, of))
    print_inspection(name, found, is_partial=spec.partial)
    sys.exit(0 if found.is_ok or (spec.partial and found.digest is not None) else EXIT_NOT_AS_PUBLISHED)


@data.command()
@_of_dataset
def prepare(name: str, study_file: Path | None, size_px: int | None, channels: str | None) -> None:
    """Decode the images of NAME once, for all trials to come; goes on where it was interrupted.

    A set of MedMNIST that is not there is fetched through the package medmnist, if that is installed.
    """
    from study.data_screens import print_prepared
    from study.progress import bar
    from trainables.datasets.preparation import prepare as make_ready

    spec, root = _spec(name, study_file, size_px, channels), _data_root()
    _fetch(spec, root)
    try:
        with bar(f"prepare {name}") as progress:
            made = make_ready(spec, data_root=root, progress=lambda done, of: progress("images", done, of))
    except KeyboardInterrupt:
        click.echo("interrupted; what is decoded is kept: the same command goes on from there", err=True)
        raise
    print_prepared(name, made)


def _fetch(spec: "DatasetSpec", root: Path | None) -> None:
    from trainables.datasets.medmnist_download import download_medmnist
    from trainables.datasets.medmnist_flags import flag_of

    if root is None or spec.path is None or spec.reader != "medmnist" or flag_of(spec.path) is None:
        return
    if not (root / spec.path).exists():
        click.echo(f"fetched {download_medmnist(Path(spec.path).stem, root)}")


def _spec(name: str, study_file: Path | None, size_px: int | None, channels: str | None) -> "DatasetSpec":
    from study.config import load_study
    from study.content import named_datasets
    from trainables.errors import SpecError, unknown_choice

    own: Mapping[str, DatasetSpec | None] = load_study(study_file).datasets if study_file else {}
    known = named_datasets(own)
    if name not in known:
        hint = "" if study_file else "; one that a study describes needs --study FILE"
        raise SpecError(unknown_choice("dataset", name, known) + hint)
    changes = {"size_px": size_px, "channels": int(channels) if channels else None}
    return known[name].model_copy(update={key: value for key, value in changes.items() if value is not None})


def _data_root() -> Path | None:
    root = os.environ.get("TRANSFUSION_DATA")
    return Path(root) if root else None
