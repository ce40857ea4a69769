"""What `transfusion probe` measured, as runs of their own kind, so that plans on other machines find it."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from functools import partial
from typing import Any, get_args, get_type_hints

from trainables.probes import Probe, SizesProbe, SpeedProbe, StackProbe
from trainables.record import names
from trainables.record.store import Store, persistently

_KINDS: dict[str, type[Probe]] = {"speed": SpeedProbe, "stack": StackProbe, "sizes": SizesProbe}


def write_probes(store: Store, probes: Iterable[Probe]) -> None:
    """Store each as a run.

    Raises:
        TrackingError: the store cannot be used.
    """
    for probe in probes:
        kind = next(name for name, known in _KINDS.items() if isinstance(probe, known))
        tags = {names.KIND: names.PROBE_KIND, names.PROBE: json.dumps({"kind": kind, **asdict(probe)})}
        name = f"probe {probe.label}"
        create = partial(store.client.create_run, store.experiment_id, tags=tags, run_name=name)
        run = persistently("storing a probe", create)
        end = partial(store.client.set_terminated, run.info.run_id)
        persistently("storing a probe", end)


def read_probes(store: Store) -> list[Probe]:
    """Return all that a store holds, the oldest first; one that was edited by hand is left out.

    Raises:
        TrackingError: the store cannot be used.
    """
    texts = (run.data.tags.get(names.PROBE, "") for run in store.search(names.KIND, names.PROBE_KIND))
    return [probe for text in texts if (probe := _probe(text)) is not None]


def _probe(text: str) -> Probe | None:
    try:
        content = json.loads(text)
        kind = _KINDS[content.pop("kind")]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    known = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}  # others came later
    is_sound = needed <= content.keys() <= known and _have_types(content, kind)
    return kind(**content) if is_sound else None


def _have_types(content: Mapping[str, Any], kind: type) -> bool:
    types = get_type_hints(kind)
    return all(_is(value, types[name]) for name, value in content.items())


def _is(value: object, wanted: Any) -> bool:
    kinds = get_args(wanted) or (wanted,)
    if value is None or isinstance(value, bool | str):
        return type(value) in kinds
    is_number = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return is_number and (float in kinds or (int in kinds and isinstance(value, int)))
