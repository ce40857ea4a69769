"""A trial's identity: equal trainings have equal ids, different ones different ids."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from trainables.architectures.catalog import ARCHITECTURES
from trainables.errors import SpecError, WeightsError
from trainables.identity import canonical, cell_id, flatten, trial_id
from trainables.resolution import resolve
from trainables.spec import SPEC_VERSION, RunOptions, TrialSpec, parse_trial

# The id of GOLDEN_TRIAL under each version. A canonical form that changes needs a new version: old records
# would otherwise be taken for trainings that they are not.
GOLDEN_IDS = {1: "9164c5d2191d52b5", 2: "1f6d90766bc60e3e", 3: "e66dcaefed642ed4"}
GOLDEN_TRIAL: dict[str, Any] = {
    "architecture": "resnet18",
    "init": {
        "kind": "transfusion",
        "depth": 2,
        "source": {
            "trial": {
                "architecture": "resnet18",
                "dataset": {"reader": "digits", "classes": ["0", "1"]},
                "training": {"epochs": 3, "optimizer": {"kind": "adam"}},
            }
        },
    },
    "dataset": {"reader": "digits"},
    "training": {"steps": 100, "schedule": {"kind": "step"}, "early_stopping": {"patience": 3}},
    "seed": 7,
}
DIGEST = "ab" * 32
WEIGHTS = {"file": "w.safetensors", "sha256": DIGEST}
NETWORKS = sorted(name for name, entry in ARCHITECTURES.items() if entry.is_network)
SMALL = ("cbr_tiny", "cbr_large_t", "resnet18", "resnet50")


def trial(**changes: Any) -> dict[str, Any]:
    plain = {"architecture": "cbr_tiny", "dataset": {"reader": "digits"}, "training": {"steps": 10}}
    return {**plain, **changes}


def identity(content: dict[str, Any], data_root: Path | None = None) -> str:
    return trial_id(resolve(parse_trial(content), data_root))


optimizers = st.one_of(
    st.fixed_dictionaries({}, optional={"lr": st.floats(1e-5, 1), "momentum": st.floats(0, 0.99)}),
    st.fixed_dictionaries({"kind": st.just("adam")}, optional={"lr": st.floats(1e-5, 1)}),
)
schedules = st.fixed_dictionaries({}, optional={"warmup_epochs": st.floats(0, 5)}) | st.fixed_dictionaries(
    {"kind": st.just("step")}, optional={"milestones_epochs": st.lists(st.floats(1, 90), max_size=3)}
)
trainings = st.fixed_dictionaries(
    {"steps": st.integers(0, 10_000)},
    optional={"batch_size": st.integers(1, 512), "optimizer": optimizers, "schedule": schedules},
)
datasets = st.fixed_dictionaries(
    {"reader": st.just("digits")},
    optional={
        "classes": st.lists(st.sampled_from("0123456789"), min_size=2, unique=True),
        "train_fraction": st.floats(0.01, 1),
        "size_px": st.integers(28, 64),
    },
)
inits = st.one_of(
    st.sampled_from(["random", {"kind": "random"}]),
    st.fixed_dictionaries({"kind": st.sampled_from(["pretrained", "mean_var"]), "source": st.just(WEIGHTS)}),
    st.fixed_dictionaries(
        {"kind": st.just("transfusion"), "depth": st.integers(0, 4), "source": st.just(WEIGHTS)},
        optional={"rest": st.sampled_from(["random", "mean_var"])},
    ),
)
trials = st.fixed_dictionaries(
    {"architecture": st.sampled_from(SMALL), "dataset": datasets, "training": trainings},
    optional={"init": inits, "seed": st.integers(0, 2**31 - 1)},
)


def reordered(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: reordered(content[key]) for key in reversed(content)}
    return content


def tuples(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: tuples(value) for key, value in content.items()}
    return tuple(content) if isinstance(content, list) else content


@settings(deadline=None)
@given(trials)
def test_order_of_keys_does_not_matter(content: dict[str, Any]) -> None:
    assert identity(reordered(content)) == identity(content)


@settings(deadline=None)
@given(trials)
def test_defaults_can_be_written_out_or_omitted(content: dict[str, Any]) -> None:
    assert identity(parse_trial(content).model_dump()) == identity(content)
    assert identity(parse_trial(content).model_dump(mode="json")) == identity(content)


@settings(deadline=None)
@given(trials)
def test_resolving_twice_changes_nothing(content: dict[str, Any]) -> None:
    resolved = resolve(parse_trial(content))
    assert resolve(resolved) == resolved
    assert TrialSpec.model_validate_json(resolved.model_dump_json()) == resolved


@settings(deadline=None)
@given(trials)
def test_lists_and_tuples_are_alike(content: dict[str, Any]) -> None:
    assert identity(tuples(content)) == identity(content)


@settings(deadline=None)
@given(trials, st.integers(0, 1000))
def test_cell_id_ignores_the_seed_and_only_the_seed(content: dict[str, Any], seed: int) -> None:
    one, other = (resolve(parse_trial({**content, "seed": s})) for s in (seed, seed + 1))
    longer = {**content["training"], "steps": content["training"]["steps"] + 1}
    changed = resolve(parse_trial({**content, "training": longer}))
    assert cell_id(one) == cell_id(other)
    assert trial_id(one) != trial_id(other)
    assert cell_id(changed) != cell_id(one)


@pytest.mark.parametrize(
    ("written", "same"),
    [
        (trial(architecture={"name": "cbr_tiny"}), trial()),
        (trial(init="random"), trial(init={"kind": "random"})),
        (trial(init={"kind": "random", "source": WEIGHTS}), trial()),
        (trial(training={"epochs": 2}), trial(training={"epochs": 2.0})),
        (trial(training={"steps": 1, "label_smoothing": -0.0}), trial(training={"steps": 1})),
        (
            trial(training={"steps": 1, "optimizer": "adam"}),
            trial(training={"steps": 1, "optimizer": {"kind": "adam"}}),
        ),
        (
            trial(training={"steps": 1, "optimizer": {"lr": 0.1}, "schedule": {"warmup_epochs": 1}}),
            trial(
                training={
                    "steps": 1,
                    "optimizer": {"kind": "sgd", "lr": 0.1},
                    "schedule": {"kind": "constant", "warmup_epochs": 1.0},
                }
            ),
        ),
        (trial(dataset={"reader": "digits", "classes": list("0123456789")}), trial()),
        (
            trial(dataset={"reader": "image_folder", "path": "./a//b"}),
            trial(dataset={"reader": "image_folder", "path": "a/b"}),
        ),
        (
            trial(init={"kind": "pretrained", "source": {**WEIGHTS, "checkpoint": "final"}}),
            trial(init={"kind": "pretrained", "source": WEIGHTS}),
        ),
        (
            trial(init={"kind": "pretrained", "source": {"file": "a.pth", "sha256": DIGEST.upper()}}),
            trial(init={"kind": "pretrained", "source": {"file": "b.pth", "sha256": DIGEST}}),
        ),
    ],
)
def test_ways_to_write_one_training_have_one_id(written: dict[str, Any], same: dict[str, Any]) -> None:
    assert identity(written) == identity(same)
    assert resolve(parse_trial(written)).init.kind == resolve(parse_trial(same)).init.kind


@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_ends_of_a_transfusion_are_the_plain_initializations(architecture: str) -> None:
    backbone = ARCHITECTURES[architecture].backbone

    def init_id(init: Any) -> str:
        dataset = {"reader": "digits", "size_px": 320}
        return identity(trial(architecture=architecture, init=init, dataset=dataset))

    def transfusion(depth: int | str, rest: str = "random") -> str:
        return init_id({"kind": "transfusion", "depth": depth, "rest": rest, "source": WEIGHTS})

    pretrained = init_id({"kind": "pretrained", "source": WEIGHTS})
    assert transfusion(0) == init_id("random")
    assert transfusion(0, "mean_var") == init_id({"kind": "mean_var", "source": WEIGHTS})
    assert transfusion(len(backbone)) == transfusion("all") == transfusion(backbone[-1]) == pretrained
    assert transfusion("all", "mean_var") == pretrained
    assert transfusion(backbone[0]) == transfusion(1)
    depths = [transfusion(depth) for depth in range(len(backbone) + 1)]
    assert len(set(depths)) == len(backbone) + 1
    assert transfusion(1) != transfusion(1, "mean_var")


# A trial in which every field matters, so that each can be changed by itself.
RICH = trial(
    init={"kind": "transfusion", "depth": 2, "rest": "random", "source": {"file": "a.pth", "sha256": DIGEST}},
    dataset={"reader": "image_folder", "path": "x", "classes": ["a", "b"], "train_fraction": 0.5},
    training={
        "steps": 10,
        "schedule": {"kind": "step"},
        "early_stopping": {"patience": 2},
    },
)
BY_HAND: dict[str, Any] = {
    "architecture.name": "cbr_small",
    "init.kind": None,  # its own tests
    "architecture.slim": {"from_stage": "conv3", "factor": 2},
    "architecture.truncate_after": "conv3",
    "architecture.auxiliary": None,  # cbr_tiny has no auxiliary head, and no dense layers
    "architecture.head_width": None,
    "init.depth": 3,
    "init.rest": "mean_var",
    "init.norm": None,  # belongs to mean_var; its own test
    "init.source.weights": None,  # its own test
    "init.source.file": None,  # no part of the identity: the digest is
    "init.source.sha256": "cd" * 32,
    "init.source.trial": None,  # its own test
    "init.source.checkpoint": None,  # belongs to init.source.trial
    "dataset.reader": "medmnist",
    "dataset.path": "y",
    "dataset.options": None,  # image_folder has none; their own test
    "dataset.partial": None,  # nothing is published of image_folder
    "dataset.classes": ("b", "a"),
    "dataset.n_classes": None,  # of two classes there are no fewer; its own test
    "dataset.superclasses": {"x": ["a"], "y": ["b"]},
    "dataset.superclasses_sha256": None,  # belongs to a file; its own test
    "dataset.train_per_class": None,  # instead of train_fraction; its own test
    "dataset.referable_grade": 1,
    "importance": None,  # its own test
    "training.method": None,  # its own test
    "training.micro_batch_size": 8,
    "training.trainable.first": None,  # with last; their own test
    "training.trainable.last": None,
    "training.trainable.frozen_statistics": None,  # nothing is frozen
    "training.augment.crop_area": (0.5, 1.0),
    "training.augment.scale": (0.9, 1.1),
    "training.augment.saturation": None,  # grey images have none; its own test
    "training.gradient_clip": 1.0,
    "training.batch_norm_momentum": 0.5,
    "training.epochs": None,  # instead of steps; its own test
    "training.schedule.milestones_epochs": (1.0, 2.0),
    "spec_version": None,
}


def leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield every field of a spec: its dotted name, value and annotation."""
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, info.annotation


def other_value(value: Any, annotation: Any) -> Any:
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    if choices:
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    raise AssertionError(f"say in BY_HAND how to change {annotation}")


def changeable() -> Iterator[tuple[str, Any]]:
    for field, value, annotation in leaves(parse_trial(RICH)):
        if field.endswith(".kind") and field != "init.kind":
            continue  # the tag of an optimizer or a schedule; its own test
        changed = BY_HAND[field] if field in BY_HAND else other_value(value, annotation)
        if changed is not None:
            yield field, changed


def with_field(content: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    first, _, rest = field.partition(".")
    return {**content, first: with_field(content.get(first) or {}, rest, value) if rest else value}


@pytest.mark.parametrize(("field", "value"), list(changeable()))
def test_every_field_is_part_of_the_identity(field: str, value: Any) -> None:
    rich = parse_trial(RICH).model_dump()
    assert identity(with_field(rich, field, value)) != identity(rich)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"steps": 10, "optimizer": "adam"}},
        {"training": {"steps": 10, "schedule": "cosine"}},
        {"training": {"epochs": 10}},
        {"init": {"kind": "pretrained", "source": WEIGHTS}},
        {"init": {"kind": "mean_var", "source": WEIGHTS}},
        {"init": {"kind": "pretrained", "source": {"file": "w.pth", "sha256": "cd" * 32}}},
        {"init": {"kind": "gabor"}},
        {"init": {"kind": "gabor", "source": WEIGHTS}},
        {"training": {"method": "linear_probe"}},
    ],
)
def test_other_kinds_are_other_trainings(changes: dict[str, Any]) -> None:
    others = [identity(trial()), identity(trial(init={"kind": "transfusion", "depth": 1, "source": WEIGHTS}))]
    assert identity(trial(**changes)) not in others


def test_lineage_is_part_of_the_identity() -> None:
    def child(checkpoint: str = "best", **parent: Any) -> str:
        source = {"trial": trial(**parent), "checkpoint": checkpoint}
        return identity(trial(init={"kind": "pretrained", "source": source}))

    grandparent = {"kind": "pretrained", "source": {"trial": trial(seed=5)}}
    ids = [
        child(),
        child("final"),
        child(seed=1),
        child(training={"steps": 11}),
        child(dataset={"reader": "digits", "train_fraction": 0.5}),
        child(init=grandparent),
        child(init={"kind": "pretrained", "source": {"trial": trial(seed=6)}}),
    ]
    assert len(set(ids)) == len(ids)
    assert child(init={"kind": "transfusion", "depth": 0, "source": WEIGHTS}) == child()
    assert child(dataset={"reader": "digits", "classes": list("0123456789")}) == child()


def test_a_renamed_weight_file_is_the_same_source(tmp_path: Path) -> None:
    (tmp_path / "one.pth").write_bytes(b"weights")
    (tmp_path / "two.pth").write_bytes(b"weights")
    (tmp_path / "three.pth").write_bytes(b"others")

    def of_file(file: str) -> str:
        return identity(trial(init={"kind": "pretrained", "source": {"file": file}}), tmp_path)

    assert of_file("one.pth") == of_file("two.pth")
    assert of_file("one.pth") != of_file("three.pth")
    resolved = resolve(
        parse_trial(trial(init={"kind": "pretrained", "source": {"file": "one.pth"}})), tmp_path
    )
    assert resolved.init.source is not None
    assert resolved.init.source.sha256 == hashlib.sha256(b"weights").hexdigest()


def test_how_a_trial_is_run_is_no_part_of_its_identity() -> None:
    def keys(content: Any) -> set[str]:
        if not isinstance(content, dict):
            return set()
        return set(content).union(*map(keys, content.values()))

    assert not keys(canonical(resolve(parse_trial(GOLDEN_TRIAL)))) & set(RunOptions.model_fields)


def test_the_canonical_form_is_pinned_to_the_spec_version() -> None:
    assert identity(GOLDEN_TRIAL) == GOLDEN_IDS[SPEC_VERSION], (
        "the canonical form changed: raise SPEC_VERSION"
    )


def test_flatten_names_the_pretraining_by_its_id() -> None:
    resolved = resolve(parse_trial(GOLDEN_TRIAL))
    flat = flatten(resolved)
    assert resolved.init.source is not None
    assert resolved.init.source.trial is not None
    assert flat["init.source.trial_id"] == trial_id(resolved.init.source.trial)
    assert flat["training.optimizer.lr"] == 0.01
    assert flat["training.schedule.milestones_epochs"] == "30.0,60.0,90.0"
    assert all(isinstance(value, (str, int, float, bool)) for value in flat.values())


NUMBERS = [
    f
    for f, value, annotation in leaves(parse_trial(RICH))
    if annotation is not bool and (isinstance(value, (int, float)) or f in ("training.epochs", "init.depth"))
]


@pytest.mark.parametrize("field", NUMBERS)
def test_a_boolean_is_no_number(field: str) -> None:
    with pytest.raises(SpecError, match=rf"{field} must be a (whole )?number"):
        parse_trial(with_field(parse_trial(RICH).model_dump(), field, True))


FIELDS_OF_TRAINING = (
    "(fields: method, steps, epochs, batch_size, micro_batch_size, trainable, optimizer, schedule, "
    "evaluation, early_stopping, selection_metric, augment, label_smoothing, class_weights, gradient_clip, "
    "batch_norm_momentum, precision)"
)
STEPPED = {"kind": "step", "milestones_epochs": [1, "x"]}
UNSPLIT = {"reader": "digits", "validation_fraction": 0.5, "test_fraction": 0.5}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sed", 1, "is not a field of a trial; did you mean 'seed'? (fields: spec_version, architecture,"),
        ("training.lerning", 1, f"is not a field of training {FIELDS_OF_TRAINING}"),
        ("training.lr", 1, "is not a field of training; did you mean 'training.optimizer.lr'? (fields: "),
        ("training.optimizer.momentun", 1, "is not a field of training.optimizer; did you mean 'momentum'?"),
        (
            "training.optimizer.lr",
            "1e-4",
            "must be a number, got '1e-4' (YAML reads 1e-4 as text; write 1.0e-4)",
        ),
        (
            "training.optimizer.lr",
            "2.5E3",
            "must be a number, got '2.5E3' (YAML reads 2.5E3 as text; write 2.5e+3",
        ),
        ("training.steps", "1e3", "must be a whole number, got '1e3' (YAML reads 1e3 as text; write 1000)"),
        ("seed", "3", "must be a whole number, got '3'; remove the quotes"),
        ("seed", 2**31, "must be less than 2147483648, got 2147483648"),
        ("training.optimizer.kind", "sdg", "must be one of 'adam', 'sgd', got 'sdg'; did you mean 'sgd'?"),
        ("training.optimizer.kind", None, "must be one of 'adam', 'sgd', got None"),
        (
            "training.schedule.kind",
            "cosin",
            "must be one of 'constant', 'cosine', 'step', got 'cosin'; did you",
        ),
        ("training.schedule", STEPPED, ".milestones_epochs[1] must be a number, got 'x'"),
        ("training.optimizer.nesterov", 1, "must be true or false, got 1"),
        ("training.epochs", float("nan"), "must be a finite number, got nan"),
        ("training.label_smoothing", float("nan"), "must be less than 1, got nan"),
        ("training", {}, ": give the length of the training either as steps or as epochs"),
        (
            "training",
            {"steps": 1, "epochs": 1},
            ": give the length of the training either as steps or as epochs",
        ),
        ("init", "transfuse", ".kind must be one of 'gabor', 'mean_var', 'pretrained', 'random', 'trans"),
        ("init", {"norm": "reset"}, ": norm belongs to mean_var, or to a transfusion whose rest is mean_var"),
        ("init", "pretrained", ": pretrained needs a source of pretrained weights"),
        ("init", "transfusion", ": transfusion needs a depth (a number of stages, a stage, or 'all')"),
        ("init", {"depth": 2}, ": depth and rest belong to transfusion, not to random"),
        ("init.depth", -1, "must be at least 0, got -1"),
        ("init.depth", 1.5, "must be a whole number or text, got 1.5"),
        ("init.source", {**WEIGHTS, "weights": "a"}, ": exactly one of weights, file and trial must be"),
        ("init.source", {"weights": "a", "sha256": DIGEST}, ": sha256 belongs to file"),
        (
            "init.source",
            {"file": "a", "sha256": "xyz"},
            ".sha256 must be the 64 hex digits of a SHA-256, got",
        ),
        (
            "init.source",
            {"file": "../a"},
            ".file must be relative to the data root (TRANSFUSION_DATA) and stay",
        ),
        ("init.source", {"trial": trial(seed="x")}, ".trial.seed must be a whole number, got 'x'"),
        ("dataset", {}, ".reader is required"),
        ("dataset", None, "must be a mapping, got nothing"),
        ("dataset", UNSPLIT, ": validation_fraction + test_fraction must leave samples for training"),
        ("dataset.channels", 2, "must be 1 or 3, got 2"),
        ("dataset.size_px", 5000, "must be at most 4096, got 5000"),
        ("dataset.train_fraction", 0, "must be greater than 0, got 0"),
        ("dataset.test_fraction", 1, "must be less than 1, got 1"),
        ("dataset.classes", [1, "2"], "[0] must be text, got 1; put it in quotes"),
        ("dataset.classes", "01", "must be a list, got '01'"),
    ],
)
def test_a_mistaken_trial_says_what_is_wrong(field: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_trial(with_field(trial(), field, value))
    joint = "" if message[0] in ":.[" else " "
    assert str(caught.value).startswith(f"{field}{joint}{message}")
    assert "\n" not in str(caught.value)


def test_all_mistakes_of_a_trial_are_told() -> None:
    with pytest.raises(SpecError) as caught:
        parse_trial(trial(seed=-1, init="transfuse", training={"steps": -1, "batch": 3}))
    fields = [line.split(" ")[0] for line in str(caught.value).splitlines()]
    assert fields == ["init.kind", "training.steps", "training.batch", "seed"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "resnet19"},
            "architecture must be one of .*, got 'resnet19'; did you mean 'resnet18'?",
        ),
        (
            {"init": {"kind": "transfusion", "depth": 9, "source": WEIGHTS}},
            r"init.depth must be at most 4 for cbr_tiny \(stages conv1, conv2, conv3, conv4\), got 9",
        ),
        (
            {"init": {"kind": "transfusion", "depth": "conv9", "source": WEIGHTS}},
            r"init.depth must be one of 'all', 'conv1', .*, got 'conv9'; did you mean '.*'\? \(cbr_tiny; or",
        ),
        (
            {"init": {"kind": "transfusion", "depth": 2}},
            "init: transfusion needs a source of pretrained weights",
        ),
        (
            {"dataset": {"reader": "digits", "size_px": 8}},
            "dataset.size_px must be at least 16 for cbr_tiny, got 8",
        ),
        (
            {"init": {"kind": "pretrained", "source": {"trial": trial(architecture="cbr_small")}}},
            "init.source.trial.architecture must be 'cbr_tiny', the network it initializes, got 'cbr_small'",
        ),
        (
            {
                "init": {
                    "kind": "pretrained",
                    "source": {"trial": trial(dataset={"reader": "digits", "channels": 3})},
                }
            },
            r"init.source.trial.dataset.channels must be 1 as in the target digits, got 3 \(digits\); give",
        ),
        (
            {
                "init": {
                    "kind": "pretrained",
                    "source": {"trial": trial(dataset={"reader": "digits", "size_px": 8})},
                }
            },
            "init.source.trial.dataset.size_px must be at least 16 for cbr_tiny, got 8",
        ),
    ],
)
def test_a_trial_that_cannot_be_trained_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"^{message}"):
        resolve(parse_trial(trial(**changes)))


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    spec = parse_trial(trial(init={"kind": "pretrained", "source": {"file": "a.pth"}}))
    with pytest.raises(WeightsError, match=r"source.file: no file at .*a.pth; put it there or mend the path"):
        resolve(spec, tmp_path)
    with pytest.raises(
        WeightsError, match=r"source.file a.pth: set TRANSFUSION_DATA to the folder that holds it"
    ):
        resolve(spec)
