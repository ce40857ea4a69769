"""Measures the open trials of a study, setting by setting, on the machines that will run them.

As many are measured at once as the study runs at once: two trials on two cores slow each other down.
"""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

# First, because it sets what Ray reads when it is imported.
from study.cluster import last_line, ray_session  # isort: split

import ray
from ray.exceptions import RayError

from study.cost.estimate import CLOSED
from study.cost.setting import setting_label, setting_of
from study.cost.slots import Capacity, count_slots
from study.cost.speed import Measurements
from study.cost.splits import dataset_key
from study.extent import published_sizes
from study.grid import Resources
from study.plan import Plan, PlanEntry, State
from study.sections import Study
from study.stacks import sizes_to_measure, stack_limits
from study.tuning import worker_config
from trainables.datasets.spec import DatasetSpec
from trainables.probes import SettingProbe, SizesProbe, SpeedProbe, StackProbe
from trainables.record import Store, open_store
from trainables.spec import RunOptions, TrialSpec

# More at once tell nothing new.
MOST_WORKERS = 32
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Attributes:
        notices: what could not be measured, for people.
    """

    speeds: tuple[SpeedProbe, ...]
    stacks: tuple[StackProbe, ...]
    sizes: tuple[SizesProbe, ...]
    notices: tuple[str, ...]


def probe_study(study: Study, plan: Plan, *, store: Store, report: Report) -> Probed:
    """Measure every setting of the open trials, and count the images of datasets of unknown size.

    Args:
        report: of what is measured, how much is done, and all.

    Raises:
        UserError: the cluster of RAY_ADDRESS cannot be joined.
    """
    entries = [entry for entry in plan.entries if entry.state not in CLOSED]
    # What a search will draw is not known yet; its cell as the file has it stands for it.
    entries += [
        PlanEntry(search.cell.as_written(), search.label, State.TO_RUN, None, "")
        for search in plan.searches
        if not search.is_decided
    ]
    datasets = dict.fromkeys(entry.trial.spec.dataset for entry in entries)
    unsized = [spec for spec in datasets if None in vars(published_sizes(spec)).values()]
    by_resources: dict[Resources, dict[str, list[PlanEntry]]] = {}
    for entry in entries:
        if (setting := setting_of(entry.trial.spec)) is not None:
            by_resources.setdefault(entry.trial.resources, {}).setdefault(setting, []).append(entry)
    n_settings, done = sum(map(len, by_resources.values())), 0
    scratch = open_store(store.display_uri, experiment=f"{store.experiment}-probe")
    speeds: list[SpeedProbe] = []
    stacks: list[StackProbe] = []
    notices: list[str] = []
    with ray_session():
        sizes = list(_count_images(unsized, notices))
        for resources, settings in by_resources.items():
            alike = list(settings.values())
            for speed, of_stacks in _probe_alike(alike, resources, study, scratch, notices):
                done += 1
                report(speed.label, done, n_settings)
                speeds.append(speed)
                stacks += of_stacks
    return Probed(tuple(speeds), tuple(stacks), tuple(sizes), tuple(notices))


def _probe_alike(
    settings: Sequence[Sequence[PlanEntry]],
    resources: Resources,
    study: Study,
    scratch: Store,
    notices: list[str],
) -> Iterator[tuple[SpeedProbe, list[StackProbe]]]:
    """Measure trials that ask for the same resources, round by round, every slot busy in each.

    Args:
        settings: the trials of each.
    """
    have = ray.cluster_resources()
    capacity = Capacity(have.get("CPU", 0), have.get("GPU", 0))
    n_slots = count_slots([resources], at_most=study.slots, capacity=capacity) or 1
    n_workers = min(n_slots, MOST_WORKERS)
    worker = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_restarts=-1)(_Worker)
    began, series = time.monotonic(), secrets.token_hex(8)
    workers = [worker.remote(scratch.display_uri, scratch.experiment) for _ in range(n_workers)]
    places = ray.get([one.place.remote(bool(resources.gpu)) for one in workers])
    start_s = time.monotonic() - began
    for first in range(0, len(settings), n_workers):
        chosen = settings[first : first + n_workers]
        # What is left of the last round is filled up, so that no slot is idle beside those that are measured.
        jobs = [chosen[i % len(chosen)] for i in range(n_workers)]
        asked = [
            one.measure.remote(
                worker_config([job[0]], study, scratch),
                sizes_to_measure(study, _n_alike(job, study), n_slots=n_slots),
            )
            for one, job in zip(workers, jobs, strict=True)
        ]
        found: dict[str, list[tuple[SpeedProbe, list[StackProbe]]]] = {}
        for call, (entry, *_), place in zip(asked, jobs, places, strict=True):
            spec = entry.trial.spec
            try:
                measured = ray.get(call)
            except RayError as error:
                notices.append(f"{spec.cell_label}: cannot be measured: {last_line(error)}")
                continue
            notices += [f"{setting_label(spec)}: {notice}" for notice in measured.pop("notices")]
            probes = _as_probes(
                measured, spec, resources, place, at_once=n_workers, start_s=start_s, series=series
            )
            found.setdefault(entry.trial_id, []).append(probes)
        for of_setting in found.values():
            speeds, stacks_of_each = zip(*of_setting, strict=True)
            measured_by_all = zip(*stacks_of_each, strict=False)
            yield _middle(speeds), [_middle_of_stacks(alike) for alike in measured_by_all]
    for one in workers:
        ray.kill(one)


def _as_probes(
    measured: dict[str, Any],
    spec: TrialSpec,
    resources: Resources,
    place: Mapping[str, Any],
    *,
    at_once: int,
    start_s: float,
    series: str,
) -> tuple[SpeedProbe, list[StackProbe]]:
    """Return what a worker measured as it is stored.

    Args:
        measured: fields of `study.cost.measuring.Measured` but its notices.
        place: as `_Worker.place` tells it.
    """
    where = SettingProbe(
        setting=setting_of(spec) or "",
        label=setting_label(spec),
        hardware=place["hardware"],
        is_gpu=place["is_gpu"],
        threads=resources.threads,
        at_once=at_once,
        gpu_share=resources.gpu_share,
        is_compiled=resources.is_compiled,
        is_deterministic=resources.is_deterministic,
    )
    stacked = measured.pop("stacked")
    speed = SpeedProbe(
        **vars(where),
        gpu_memory_gb=place["gpu_memory_gb"],
        start_s=start_s,
        **measured,
    )
    stacks = [
        StackProbe(
            **vars(where),
            members=members,
            alone_s=speed.train_s,
            stacked_s=one.seconds,
            why_not=one.why_not,
            series=series,
        )
        for members, one in stacked.items()
        if speed.train_s is not None
    ]
    return speed, stacks


def _n_alike(entries: Sequence[PlanEntry], study: Study) -> int:
    """Return how many trials of one setting can be trained together, at most."""
    limits = (stack_limits(entry, study, Measurements()) for entry in entries)
    alike = Counter(limit.key for limit in limits if limit is not None)
    return max(alike.values(), default=0)


def _middle(probes: Sequence[SpeedProbe]) -> SpeedProbe:
    """Return the medians of probes of one setting; it did not fit if it did not once."""
    return replace(probes[0], **_medians(probes, "train_s", "score_s", "overhead_s"))


def _middle_of_stacks(probes: Sequence[StackProbe]) -> StackProbe:
    """Return the medians of probes of stacks of one size."""
    return replace(probes[0], **_medians(probes, "alone_s", "stacked_s"))


def _medians(probes: Sequence[object], *names: str) -> dict[str, Any]:
    return {
        name: None if None in (values := [getattr(probe, name) for probe in probes]) else median(values)
        for name in names
    }


class _Worker:
    """A process that measures, with the resources of a trial."""

    def __init__(self, uri: str, experiment: str) -> None:
        # What a trial imports, torch included, belongs to the start of a worker.
        import trainables.trial
        import trainables.tune_trainable  # noqa: F401

        self._store = open_store(uri, experiment=experiment)

    def place(self, is_gpu: bool) -> dict[str, Any]:
        """Say where this is, as the record of a trial does."""
        from study.cost.measuring import device_of
        from trainables.record.circumstances import circumstances_of
        from trainables.record.environment import describe_environment

        found = circumstances_of(describe_environment(device_of(is_gpu=is_gpu)).tags)
        return {
            "hardware": found.hardware or "unknown",
            "is_gpu": found.is_gpu,
            "gpu_memory_gb": found.gpu_memory_gb,
        }

    def measure(self, config: dict[str, Any], stacks: tuple[int, ...]) -> dict[str, Any]:
        """Measure the trial of a config that Tune would get, and stacks of so many of them."""
        from study.cost.measuring import device_of, measure

        (trial,) = config["trials"]
        options = RunOptions.model_validate_json(trial["options"])
        spec = TrialSpec.model_validate_json(trial["spec"])
        device = device_of(is_gpu=config["gpu"] > 0)
        return vars(measure(spec, store=self._store, options=options, device=device, stacks=stacks))


def _count_images(datasets: Sequence[DatasetSpec], notices: list[str]) -> Iterator[SizesProbe]:
    """Count the splits of datasets where their tables are; one that is not there is only noted."""
    task = ray.remote(num_cpus=1)(_split_sizes)
    for spec, call in [(spec, task.remote(spec)) for spec in datasets]:
        try:
            train, val, test = ray.get(call)
        except RayError as error:
            notices.append(f"{spec.label}: its images cannot be counted: {last_line(error)}")
        else:
            yield SizesProbe(dataset_key(spec), f"images of {spec.label}", train, val, test)


def _split_sizes(spec: DatasetSpec) -> tuple[int, int, int]:
    """Read the table of a dataset, not its pixels."""
    from trainables.datasets.reading import read_table
    from trainables.datasets.selection import select

    root = os.environ.get("TRANSFUSION_DATA")
    data_root = Path(root) if root else None
    table = select(read_table(spec, data_root=data_root), spec, data_root=data_root)
    return tuple(int((table.splits == name).sum()) for name in ("train", "val", "test"))  # type: ignore[return-value]
