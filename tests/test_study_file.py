"""A study file: what it can say, and that every mistake is reported with its line, all at once."""

import json
from pathlib import Path

import pytest

from study.config import load_study, load_trial, parse_study
from study.grid import expand
from study.sections import Study
from study.yaml_lines import NotReadableError, read_yaml
from tests.study_mistakes import GOOD, MISTAKES
from trainables.errors import SpecError, StudyFileError
from trainables.identity import trial_id
from trainables.resolution import resolve
from trainables.spec import parse_trial


def problems_of(text: str) -> list[str]:
    with pytest.raises(StudyFileError) as caught:
        parse_study(text)
    return caught.value.problems


@pytest.mark.parametrize(("old", "new", "line", "words"), MISTAKES)
def test_a_mistake_is_reported_once_with_its_line(old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    problems = problems_of(GOOD.replace(old, new, 1))
    assert len(problems) == 1
    assert problems[0].startswith(f"line {line}: {words}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the file is empty; see configs/demo.yaml for an example"),
        ("# nothing\n", "line 1: the file is empty"),
        ("- a\n", "line 1: expected a mapping (`name: …`), got a list"),
        ("hello\n", "line 1: expected a mapping (`name: …`), got 'hello'"),
    ],
)
def test_a_file_without_a_mapping_is_refused(text: str, words: str) -> None:
    assert problems_of(text)[0].startswith(words)


def test_all_mistakes_of_a_file_are_reported_together_in_the_order_of_lines() -> None:
    text = GOOD
    for old, new in [
        ("name: demo", "name: my study"),
        ("seeds: [0, 1]", "seeds: [0, 0]"),
        ("train_fraction: 0.1", "train_fraction: no"),
        ("cbr_tiny\n", "cbr_tny\n"),
        ("steps: 20", "steps: 012"),
        ("dataset: digits_0_4", "dataset: digits_0_5"),
        ("[1, 2]", "[1, 9]"),
        ("[8, 16]", "[8, 16, 32]"),
        ("init: pretrained}", "init: pretraned}"),
        ("set: {init: mean_var}", "set: {init: meanvar}"),
        ("cpu: 1\n", "cpu: 0\n"),
        ("keep: [final]", "keep: [last]"),
        ("thresholds:", "tresholds:"),
    ]:
        assert old in text
        text = text.replace(old, new, 1)
    problems = problems_of(text)
    assert [int(problem.split(":")[0].removeprefix("line ")) for problem in problems] == [
        *(1, 3, 5, 7, 10, 13, 18, 20, 23, 26, 29, 31, 33)
    ]


def test_the_message_names_the_file_and_counts_its_mistakes() -> None:
    with pytest.raises(StudyFileError, match=r"^mine.yaml: 1 mistake\n  line 1: the file is empty"):
        parse_study("", path="mine.yaml")
    with pytest.raises(StudyFileError, match=r"^study.yaml: 2 mistakes\n  line 1: .*\n  line 3: "):
        parse_study(GOOD.replace("name: demo", "name: 5").replace("seeds: [0, 1]", "seeds: 0"))


def test_a_missing_section_is_reported_once() -> None:
    assert problems_of(GOOD.replace("trial:", "trail:"))[0] == "line 1: trial is required"
    assert len(problems_of(GOOD.replace("trial:", "trail:"))) == 2


def test_a_mistaken_rule_still_keeps_its_combinations_out() -> None:
    """The excluded combination could not be trained, and is not to be: that is no second mistake."""
    text = GOOD.replace("[cbr_tiny, cbr_small]", "[cbr_tiny, resnet50]").replace(
        "  - where: {architecture: cbr_small, init: pretrained}\n    reason: too slow",
        "  - where: {architecture: resnet50, transfusion_depth: 5}",
    )
    text = text.replace("[1, 2]", "[1, 5]").replace("{cbr_small: ", "{resnet50: ")
    assert problems_of(text)[-1] == "line 23: exclude[0].reason is required"


def minimal(more: str = "", **changes: str) -> str:
    values = {"dataset": "digits_5_9", "training": "{steps: 20}", "init": "random", **changes}
    base = "".join(f"  {name}: {value}\n" for name, value in values.items())
    return f"name: demo\ntrial:\n  architecture: cbr_tiny\n{base}{more}"


def first_spec(text: str):  # type: ignore[no-untyped-def]
    return next(trial.spec for trial in expand(parse_study(text)).trials if not trial.is_source)


def test_a_study_file_reads_as_it_is_written() -> None:
    study = parse_study(GOOD)
    assert (study.name, study.question, study.seeds) == ("demo", "Does it help?", (0, 1))
    assert list(study.axes) == [
        "architecture", "init", "transfusion_depth", "training.batch_size", "training.optimizer.lr"
    ]  # fmt: skip
    assert study.options.keep == ("final",)
    assert study.options.state_every_s == 30
    assert study.slots is None
    assert study.analysis.model_dump() == {
        "baseline": "random",
        "samples": "positions",
        "variance_reading": "squares",
        "bootstrap_replicates": 1000,
        "explained_images": 4,
        "threshold_metric": "val_auroc",
        "thresholds": {"digits 5–9 0.1": 0.9},
        "probe_images": 512,
        "positions_per_image": 8,
        "variance_fraction": 0.99,
    }


def test_a_stored_text_gives_the_same_trials_again() -> None:
    study = parse_study(GOOD)
    assert expand(parse_study(study.text)) == expand(study)


def test_seeds_can_be_a_number() -> None:
    assert parse_study(minimal("seeds: 3\n")).seeds == (0, 1, 2)
    assert parse_study(minimal("seeds: [7, 5]\n")).seeds == (7, 5)
    assert parse_study(minimal()).seeds == (0,)


@pytest.mark.parametrize(
    ("dataset", "same"),
    [
        ("digits", "{reader: digits}"),
        ("{from: digits}", "{reader: digits}"),
        ("{from: digits, size_px: 32}", "{reader: digits, size_px: 32}"),
        ("mine", "{reader: digits, train_fraction: 0.5}"),
        (
            "{from: synthetic_chest, options: {n_images: 60}}",
            "{reader: synthetic_chest, size_px: 64, options: {n_classes: 2, n_images: 60}}",
        ),
        (
            "{from: films, options: {n_images: 60}}",
            "{reader: synthetic_chest, size_px: 64, options: {n_classes: 2, seed: 1, n_images: 60}}",
        ),
        ("{from: films, reader: digits, options: {}}", "{reader: digits, size_px: 64}"),
        ("{from: mine, size_px: 32}", "{reader: digits, train_fraction: 0.5, size_px: 32}"),
    ],
)
def test_ways_to_name_a_dataset_mean_the_same(dataset: str, same: str) -> None:
    own = (
        "datasets:\n  mine: {from: digits, train_fraction: 0.5}\n"
        "  films: {from: synthetic_chest, options: {seed: 1}}\n"
    )
    assert first_spec(minimal(own, dataset=dataset)) == first_spec(minimal(dataset=same))


def test_a_study_can_give_a_name_of_the_catalog_another_meaning() -> None:
    own = "datasets:\n  digits: {from: digits, size_px: 16}\n"
    assert first_spec(minimal(own, dataset="digits")).dataset.size_px == 16


def test_a_pretraining_starts_from_the_training_of_the_trial() -> None:
    training = "{steps: 20, batch_size: 8, optimizer: {lr: 0.5, momentum: 0.1}, schedule: step}"
    source = "source: {dataset: digits_0_4, seed: 3, training: {epochs: 2, optimizer: {lr: 0.25}}}\n"
    spec = first_spec(minimal(source, init="pretrained", training=training))
    parent = spec.init.source.trial
    assert (parent.training.steps, parent.training.epochs, parent.training.batch_size) == (None, 2, 8)
    assert (parent.training.optimizer.lr, parent.training.optimizer.momentum) == (0.25, 0.1)
    assert parent.training.schedule == spec.training.schedule
    assert (parent.seed, parent.architecture, parent.init.kind) == (3, spec.architecture, "random")
    assert spec.training.steps == 20


def test_another_kind_of_optimizer_replaces_the_inherited_one() -> None:
    training = "{steps: 20, optimizer: {lr: 0.5, momentum: 0.1}}"
    source = "source: {dataset: digits_0_4, training: {optimizer: {kind: adam, beta1: 0.5}}}\n"
    parent = first_spec(minimal(source, init="pretrained", training=training)).init.source.trial
    assert parent.training.optimizer.model_dump(include={"kind", "lr", "beta1"}) == {
        "kind": "adam", "lr": 0.001, "beta1": 0.5
    }  # fmt: skip


def test_a_source_can_have_a_source() -> None:
    source = "source:\n  dataset: digits_0_4\n  source: {dataset: digits, checkpoint: final}\n"
    spec = first_spec(minimal(source, init="pretrained"))
    parent = spec.init.source.trial
    assert parent.init.kind == "pretrained"
    assert parent.init.source.checkpoint == "final"
    assert parent.init.source.trial.dataset.classes is None


def test_a_mistake_inherited_by_the_source_is_reported_where_it_is_written() -> None:
    text = minimal("source: {dataset: digits_0_4}\n", init="pretrained", training="{steps: 20, batchsize: 8}")
    assert [problem.split(" (")[0] for problem in problems_of(text)] == [
        "line 5: training.batchsize is not a field of training; did you mean 'batch_size'?"
    ]


def test_checking_a_study_needs_no_weight_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFUSION_DATA", raising=False)
    assert parse_study(minimal("source: {file: weights.pth}\n", init="pretrained")).source == {
        "file": "weights.pth"
    }


def test_anchors_and_merge_keys_are_understood() -> None:
    document = read_yaml(
        "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\nd:\n  <<: [*a, {x: 5, z: 6}]\ne:\n  - 1\n  - *a\n"
    )
    assert document.problems == []
    a = {"x": 1, "y": 2}
    assert document.content == {"a": a, "b": {"y": 3, "x": 1}, "c": a, "d": {**a, "z": 6}, "e": [1, a]}
    assert document.line(("b", "y")) == 4
    assert document.line(("e", 1, "x")) == 1
    assert document.line(("e", 7)) == 8
    assert document.line(("nowhere",)) == 1


def test_anchors_that_multiply_beyond_reason_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(NotReadableError, match="more than 100000 values; the anchors multiply them"):
        read_yaml("\n".join(lines))
    with pytest.raises(NotReadableError, match="an anchor contains itself"):
        read_yaml("a: &a\n  <<: *a\n  x: 1\n")


def test_plain_values_are_read_as_yaml_reads_them() -> None:
    document = read_yaml("a: true\nb: 1.0e-4\nc: -3\nd: 'no'\ne:\nf: 0x10\ng: 1_000\nh: 0\n")
    assert document.content == {
        "a": True, "b": 1e-4, "c": -3, "d": "no", "e": None, "f": 16, "g": 1000, "h": 0
    }  # fmt: skip
    assert document.problems == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: a\nquestion: häufig\n".encode("latin-1"))
    with pytest.raises(
        StudyFileError, match=r"latin.yaml: 1 mistake\n  line 2: not UTF-8 text; save the file as"
    ):
        load_study(tmp_path / "latin.yaml")
    with pytest.raises(StudyFileError, match="the file cannot be read: No such file or directory"):
        load_study(tmp_path / "absent.yaml")
    (tmp_path / "good.yaml").write_text(GOOD, encoding="utf-8")
    assert isinstance(load_study(tmp_path / "good.yaml"), Study)


TRIAL = """\
architecture: cbr_tiny
dataset: digits_5_9
training: {steps: 20}
init:
  kind: pretrained
  source:
    trial:
      architecture: cbr_tiny
      dataset: {from: digits_0_4}
      training: {steps: 40}
"""


def test_a_trial_file_can_name_datasets(tmp_path: Path) -> None:
    (tmp_path / "trial.yaml").write_text(TRIAL, encoding="utf-8")
    spec = load_trial(tmp_path / "trial.yaml")
    assert spec.dataset.classes == ("5", "6", "7", "8", "9")
    assert spec.init.source is not None
    assert spec.init.source.trial is not None
    assert spec.init.source.trial.dataset.classes == ("0", "1", "2", "3", "4")
    (tmp_path / "trial.json").write_text(json.dumps(spec.model_dump(mode="json")), encoding="utf-8")
    assert load_trial(tmp_path / "trial.json") == spec


def test_a_mistaken_trial_file_is_reported_with_lines(tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    text = TRIAL.replace("steps: 20", "steps: 2e1").replace("from: digits_0_4", "from: digit")
    file.write_text(text.replace("architecture: cbr_tiny\n", "architecture: 3\n", 1), encoding="utf-8")
    with pytest.raises(StudyFileError) as caught:
        load_trial(file)
    assert [problem.split(",")[0] for problem in caught.value.problems] == [
        "line 1: architecture must be a mapping",
        "line 3: training.steps must be a whole number",
        "line 9: init.source.trial.dataset must be one of 'aptos2019'",
    ]
    (tmp_path / "trial.json").write_text('{"architecture": "cbr_tiny"}', encoding="utf-8")
    with pytest.raises(SpecError, match="dataset is required\ntraining is required"):
        load_trial(tmp_path / "trial.json")


def test_a_trial_file_means_what_the_trial_means() -> None:
    plain = resolve(
        parse_trial({"architecture": "cbr_tiny", "dataset": {"reader": "digits"}, "training": {"steps": 20}})
    )
    assert trial_id(first_spec(minimal(dataset="digits"))) == trial_id(plain)
