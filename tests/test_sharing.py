"""`gpu: auto`: as many trials share a GPU as its memory holds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.config import load_study, parse_study
from study.cost.command import probe_and_print
from study.cost.probe import Probed
from study.cost.sharing import MARGIN, MOST_AT_ONCE, gpu_share, with_gpu_memory
from study.grid import expand
from study.plan import Plan
from study.sections import Study
from tests.conftest import tiny_trial
from tests.test_speed import probed
from trainables.errors import StudyFileError, UserError
from trainables.operations import Operations
from trainables.record import Store
from trainables.spec import TrialSpec

TEXT = """
name: s
trial: {dataset: {from: digits_5_9, size_px: 16}, training: {steps: 4, batch_size: 16}}
grid: {architecture: [cbr_tiny, resnet18], init: [random]}
resources: {gpu: auto}
"""


class Counts:
    """Stands in for counting: a trial of one micro-batch of 16 needs so many bytes."""

    notices: tuple[str, ...] = ()

    def __init__(self, need: int = 16) -> None:
        self.need = need

    def of(self, spec: TrialSpec) -> Operations:
        return Operations(1, 3, n_params=0, n_trainable_params=0, activation_bytes=self.need // 16)


def share(need_gb: float, memory_gb: float) -> float:
    counts = Counts(int(need_gb * 1e9))
    return gpu_share(tiny_trial(), memory_gb=memory_gb, counts=counts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("need_gb", "memory_gb", "expected"),
    [
        (1, 10, 0.125),
        (2, 10, 0.25),
        (2.5, 10, 0.3333),
        (4, 10, 0.5),
        (5, 10, 1.0),
        (20, 10, 1.0),
        (0.001, 80, 0.125),
    ],
)
def test_a_share_is_one_by_the_most_trials_that_fit(
    need_gb: float, memory_gb: float, expected: float
) -> None:
    assert share(need_gb, memory_gb) == expected


@given(st.floats(0.01, 100), st.floats(1, 200))
def test_those_that_share_fit_together_with_the_margin_and_one_more_would_not(
    need: float, memory: float
) -> None:
    n = int(1 / share(need, memory))
    assert n <= MOST_AT_ONCE
    assert n == 1 or n * need * MARGIN <= memory * 1.001
    assert n == MOST_AT_ONCE or (n + 1) * need * MARGIN > memory * 0.999


def test_what_is_not_trained_by_gradient_gets_a_whole_gpu() -> None:
    spec = tiny_trial(training={"method": "linear_probe"})
    assert gpu_share(spec, memory_gb=80, counts=Counts()) == 1.0  # type: ignore[arg-type]


def shares(study: Study) -> dict[str, float]:
    return {trial.spec.architecture.name: trial.resources.gpu for trial in expand(study).trials}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path))
    monkeypatch.setattr("study.cost.sharing.gpu_names", lambda: ("here",))


def test_the_study_file_can_say_the_memory() -> None:
    study = parse_study(TEXT.replace("auto}", "auto, gpu_memory_gb: 0.5}"))
    assert shares(study) == {"cbr_tiny": 0.125, "resnet18": 0.3333}
    assert with_gpu_memory(study, {}) is study


def test_else_a_record_or_a_probe_of_the_gpu_at_hand_does_or_the_last_one() -> None:
    study = parse_study(TEXT)
    assert shares(study) == {"cbr_tiny": 1.0, "resnet18": 1.0}
    assert shares(with_gpu_memory(study, {"here": 0.5, "there": 80.0}))["resnet18"] == 0.3333
    assert shares(with_gpu_memory(study, {"elsewhere": 80.0, "there": 0.5}))["resnet18"] == 0.3333


def test_without_any_it_is_said_what_to_do() -> None:
    with pytest.raises(UserError) as error:
        with_gpu_memory(parse_study(TEXT), {})
    assert str(error.value) == (
        "resources.gpu: auto shares GPUs by their memory, which no record and no probe tells yet; give "
        "resources.gpu_memory_gb, or measure it with: transfusion probe STUDY_FILE"
    )


def test_auto_can_be_meant_for_one_architecture() -> None:
    study = parse_study(TEXT.replace("{gpu: auto}", "{gpu: 1, by_architecture: {cbr_tiny: {gpu: auto}}}"))
    assert shares(with_gpu_memory(study, {"here": 80.0})) == {"cbr_tiny": 0.125, "resnet18": 1.0}
    plain = load_study(Path(__file__).parent.parent / "configs" / "demo.yaml")
    assert with_gpu_memory(plain, {}) is plain


def test_a_probe_that_knows_no_memory_measures_one_trial_first_and_then_all_at_their_shares(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[tuple[str, float]]] = []

    def probe_study(study: Study, plan: Plan, *, store: Store, report: object) -> Probed:
        trials = [entry.trial for entry in plan.entries]
        asked.append([(trial.spec.architecture.name, trial.resources.gpu) for trial in trials])
        speed = probed(hardware="here", is_gpu=True, gpu_memory_gb=0.5)
        return Probed(speeds=(speed,), stacks=(), sizes=(), notices=())

    monkeypatch.setattr("study.cost.probe.probe_study", probe_study)
    only_one = TEXT.replace("{gpu: auto}", "{gpu: 0, by_architecture: {resnet18: {gpu: auto}}}")
    for text in (only_one, TEXT):
        probe_and_print(parse_study(text), lambda *_: None)
    assert asked == [
        [("resnet18", 1.0)],
        [("cbr_tiny", 0), ("resnet18", 0.3333)],
        [("cbr_tiny", 0.125), ("resnet18", 0.3333)],
    ]


def test_a_probe_that_finds_no_memory_measures_whole_gpus(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    n_asked: list[int] = []

    def probe_study(study: Study, plan: Plan, *, store: Store, report: object) -> Probed:
        n_asked.append(len(plan.entries))
        return Probed(speeds=(), stacks=(), sizes=(), notices=("resnet18: cannot be measured: why",))

    monkeypatch.setattr("study.cost.probe.probe_study", probe_study)
    probe_and_print(parse_study(TEXT), lambda *_: None)
    assert n_asked == [1, 2]
    assert capsys.readouterr().err.count("note: resnet18: cannot be measured: why") == 2


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("gpu: some", "resources.gpu must be a number or 'auto', got 'some'"),
        ("gpu: 1.5", "resources.gpu must be a fraction below 1 or a whole number, got 1.5"),
        ("gpu: -1", "resources.gpu must be at least 0, got -1"),
        ("stack: 0", "resources.stack must be at least 1, got 0"),
        (
            "gpu: auto, stack: 4",
            "gpu: auto is the share that one trial needs, and a stack needs that of all its members",
        ),
        ("gpu: auto, stack: auto", "gpu: auto is the share that one trial needs, and a stack needs"),
        ("stack: some", "resources.stack must be a whole number or 'auto', got 'some'"),
        ("gpu_memory_gb: 0", "resources.gpu_memory_gb must be greater than 0, got 0"),
    ],
)
def test_what_is_neither_a_number_nor_auto_is_refused(written: str, message: str) -> None:
    with pytest.raises(StudyFileError) as error:
        parse_study(TEXT.replace("gpu: auto", written))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{gpu_hour: -1}", "price.gpu_hour must be at least 0, got -1"),
        ("{gpu_hour: cheap}", "price.gpu_hour must be a number, got 'cheap'"),
        ("{gpu: 2}", "price.gpu"),
        ("{currency: ''}", "price.currency"),
    ],
)
def test_a_price_is_a_number_for_an_hour(written: str, message: str) -> None:
    with pytest.raises(StudyFileError) as error:
        parse_study(TEXT + f"price: {written}\n")
    assert message in str(error.value)
