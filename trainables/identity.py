"""The identity of a trial: what its specification comes down to, and the hash of that.

`trial_id` hashes the normal form that `trainables.resolution` brings a spec to.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from trainables.spec import TrialSpec


def canonical(spec: TrialSpec) -> dict[str, Any]:
    """Return the content that is hashed, of a resolved spec: every field written out, files by digest."""
    content = _written(spec)
    _by_digest(content["dataset"])
    source = content["init"]["source"]
    if source is not None:
        source.pop("file")
        if spec.init.source is not None and spec.init.source.trial is not None:
            source["trial"] = canonical(spec.init.source.trial)
    if spec.importance is not None:
        content["importance"]["classifier"] = canonical(spec.importance.classifier)
        _by_digest(content["importance"]["target"])
    return content


def _written(spec: TrialSpec) -> dict[str, Any]:
    """Return every field; a trial of no special purpose has the identity it had before there were others."""
    content = spec.model_dump(mode="json")
    if spec.purpose == "result":
        del content["purpose"]
    return content


def _by_digest(dataset: dict[str, Any]) -> None:
    if isinstance(dataset["superclasses"], str):
        dataset["superclasses"] = "file"


def trial_id(spec: TrialSpec) -> str:
    """Return the identity of a resolved spec: 16 hex digits of the SHA-256 of its canonical JSON."""
    return _digest(canonical(spec))


def cell_id(spec: TrialSpec, *, but: Iterable[str] = ()) -> str:
    """Return the identity of the spec without its seed: equal for the trials that tables average.

    Args:
        but: dotted fields that shall not count either.
    """
    content = canonical(spec)
    content.pop("seed")
    for name in but:
        *outer, last = name.split(".")
        inner: Any = content
        for part in outer:
            inner = inner.get(part) or {}
        inner.pop(last, None)
    return _digest(content)


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(spec: TrialSpec) -> dict[str, Any]:
    """Return every field of a resolved spec under its dotted name, the trials it starts from by their ids.

    What is long or has a name for people (stages that learn, superclasses) stands under that.
    """
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        elif value is not None:
            flat[prefix] = ",".join(map(str, value)) if isinstance(value, list) else value

    content = _written(spec)
    content["training"]["trainable"] = spec.training.trainable.label
    if isinstance(content["dataset"]["superclasses"], dict):
        content["dataset"]["superclasses"] = " ".join(content["dataset"]["superclasses"])
    content["importance"] = _flat_importance(spec)
    source = spec.init.source
    if source is not None:
        content["init"]["source"] = {"name": source.label, "checkpoint": source.checkpoint}
        if source.sha256 is not None:
            content["init"]["source"]["sha256"] = source.sha256
        if source.trial is not None:
            content["init"]["source"]["trial_id"] = trial_id(source.trial)
    visit("", content)
    return flat


def _flat_importance(spec: TrialSpec) -> dict[str, Any] | None:
    if spec.importance is None:
        return None
    return {
        "target": spec.importance.target.label,
        "classifier_trial_id": trial_id(spec.importance.classifier),
        "temper": spec.importance.temper,
        "cap": spec.importance.cap,
    }
