"""What a trial does about what goes wrong: too little memory, a GPU that failed, a worker told to go."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.conftest import tiny_trial
from tests.test_trial import EVERY_EVALUATION, equal, final_weights, find, finish, start
from trainables.checkpoints import Contents
from trainables.datasets.loading import Split
from trainables.placement import OnDevice, OnHost, Placed
from trainables.record import Store, TrialWriter
from trainables.spec import FailureOptions
from trainables.training import Training


@pytest.fixture(autouse=True)
def every_evaluation_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.progress.REPORT_AT_MOST_EVERY_S", -1.0)


def room_for(n_images: int, *, after_calls: int = 0) -> Callable[[Training, Tensor], object]:
    """Make a forward pass that runs out of memory with more images at once, from some call on."""
    forward, calls = Training.forward, 0

    def limited(training: Training, images: Tensor) -> object:
        nonlocal calls
        calls += 1
        if len(images) > n_images and calls > after_calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(training, images)

    return limited


def test_too_little_memory_halves_the_micro_batch_until_it_fits_and_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_trial()
    with monkeypatch.context() as patched:
        patched.setattr(Training, "forward", room_for(5))
        *_, last = start(store, spec)
    assert last.status == "finished"
    assert [notice.split(",")[0] for notice in last.notices] == [
        "out of GPU memory after step 0 with 16 images at once: goes on from step 0 with 8",
        "out of GPU memory after step 0 with 8 images at once: goes on from step 0 with 4",
    ]
    record = find(store, spec)
    assert store.client.get_run(record.run_id).data.tags["micro_batch_size"] == "4"
    # What the notice promises: the same as asking for micro-batches of that size.
    asked = tiny_trial(
        training={"steps": 12, "batch_size": 16, "evaluation": {"points": 4}, "micro_batch_size": 4}
    )
    assert equal(final_weights(store, record), final_weights(store, finish(store, asked)))


def test_images_leave_the_memory_of_the_gpu_before_batches_are_cut(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, fills = Training.forward, []

    def tight(training: Training, images: Tensor) -> Tensor:
        fills.append(training.batches.are_on_device)
        if fills[-1] and len(fills) > 3:
            raise torch.OutOfMemoryError("too small")
        return forward(training, images)

    def placed(split: Split, device: torch.device, *, may_fill: bool) -> Placed:
        return OnDevice(split, device) if may_fill else OnHost(split, device)

    with monkeypatch.context() as patched:
        patched.setattr("trainables.batches.place", placed)
        patched.setattr(Training, "forward", tight)
        *_, last = start(store, tiny_trial())
    assert last.status == "finished"
    [notice] = last.notices
    assert notice.endswith("with the images in the memory of the machine")
    assert not fills[-1]
    record = find(store, tiny_trial())
    assert "micro_batch_size" not in store.client.get_run(record.run_id).data.tags


def test_images_of_earlier_trials_leave_for_a_network_that_does_not_fit_beside_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fills: list[bool] = []

    def placed(split: Split, device: torch.device, *, may_fill: bool) -> Placed:
        fills.append(may_fill)
        if may_fill:
            raise torch.OutOfMemoryError("too small")
        return OnHost(split, device)

    with monkeypatch.context() as patched:
        patched.setattr("trainables.batches.place", placed)
        patched.setattr("trainables.gradient_trial.is_anything_placed", lambda device: False)
        *_, last = start(store, tiny_trial())
        assert last.status == "failed", "nothing is in its way"
        patched.setattr("trainables.gradient_trial.is_anything_placed", lambda device: True)
        *_, last = start(store, tiny_trial())
    assert last.status == "finished"
    assert fills == [True, True, False]


def test_memory_that_runs_out_on_the_way_costs_the_steps_since_the_last_state(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_trial()
    taken: list[int] = []
    take = Training._take_step

    def counted(training: Training) -> Tensor:
        loss = take(training)
        taken.append(training.step + 1)
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_take_step", counted)
        # Evaluations and states at 0, 1, 2, 5, 12; each evaluation is some calls, too.
        patched.setattr(Training, "forward", room_for(8, after_calls=20))
        *_, last = start(store, spec)
    assert last.status == "finished"
    assert taken[-1] == 12
    redone = len(taken) - len(set(taken))
    assert 0 <= redone <= 7, "more than one interval was redone"
    steps = [point.step for point in store.client.get_metric_history(find(store, spec).run_id, "val_loss")]
    assert sorted(steps) == [0, 1, 2, 5, 12]


def test_an_evaluation_for_which_memory_does_not_suffice_is_done_in_smaller_pieces(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_trial()
    undisturbed = finish(store, spec)
    store.client.delete_run(undisturbed.run_id)
    with monkeypatch.context() as patched:
        patched.setattr(Training, "forward", room_for(16))
        again = finish(store, spec)
    for name, value in undisturbed.metrics.items():
        if name != "train_seconds":
            assert again.metrics[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize(
    ("n_images", "options"),
    [
        (0, EVERY_EVALUATION),
        (5, EVERY_EVALUATION.model_copy(update={"failures": FailureOptions(out_of_memory="fail")})),
    ],
)
def test_where_halving_does_not_help_or_is_not_wanted_the_trial_fails_with_the_cause(
    store: Store, monkeypatch: pytest.MonkeyPatch, n_images: int, options: object
) -> None:
    spec = tiny_trial()
    monkeypatch.setattr(Training, "forward", room_for(n_images))
    *_, last = start(store, spec, options)  # type: ignore[arg-type]
    assert last.status == "failed"
    assert "CUDA out of memory" in (find(store, spec).cause or "")


def test_a_halved_micro_batch_stays_halved_when_the_trial_goes_on_elsewhere(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_trial()
    with monkeypatch.context() as patched:
        patched.setattr(Training, "forward", room_for(8))
        begun = start(store, spec)
        while next(begun).step < 5:
            continue
        begun.close()  # type: ignore[attr-defined]
    seen: list[int] = []
    forward = Training.forward

    def watched(training: Training, images: Tensor) -> object:
        if training.network.module.training:
            seen.append(len(images))
        return forward(training, images)

    monkeypatch.setattr(Training, "forward", watched)
    finish(store, spec)
    assert set(seen) == {8}


@pytest.mark.parametrize(
    "error", [torch.AcceleratorError("an illegal memory access"), RuntimeError("CUDA error: unspecified")]
)
def test_a_gpu_that_failed_costs_the_process_and_not_the_trial(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    spec = tiny_trial()

    def broken(training: Training) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_take_step", broken)
        with pytest.raises(RuntimeError, match=str(error)):
            list(start(store, spec))
    assert find(store, spec).status == "running"
    assert finish(store, spec).status == "finished"


@pytest.mark.parametrize("told", [SystemExit, KeyboardInterrupt])
def test_a_process_that_is_told_to_go_in_the_middle_of_a_step_leaves_its_last_state(
    store: Store, monkeypatch: pytest.MonkeyPatch, told: type[BaseException]
) -> None:
    spec = tiny_trial()
    forward = Training.forward

    def told_to_go(training: Training, images: Tensor) -> object:
        outputs = forward(training, images)
        if training.step == 7:
            raise told(1)  # batch norm has seen the batch, the optimizer has not
        return outputs

    with monkeypatch.context() as patched:
        patched.setattr(Training, "forward", told_to_go)
        with pytest.raises(told):
            list(start(store, spec))
    record = find(store, spec)
    assert record.status == "killed"
    assert record.resumes_at_step == 5
    resumed = final_weights(store, finish(store, spec))
    store.client.delete_run(record.run_id)
    assert equal(resumed, final_weights(store, finish(store, spec)))


def test_a_trial_that_is_closed_before_an_evaluation_is_done_keeps_the_state_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_trial()
    options = EVERY_EVALUATION.model_copy(update={"series_points": 3})
    with monkeypatch.context() as patched:
        patched.setattr("trainables.gradient_trial.REPORT_AT_MOST_EVERY_S", 0.0)
        patched.setattr(TrialWriter, "has_room", lambda writer, contents: len(contents.facts) > 0)
        running = start(store, spec, options)
        # Of weights, which have no facts, no room is left: it waits before the first checkpoint.
        next(running)
        running.close()  # type: ignore[attr-defined]
    assert find(store, spec).resumes_at_step == 0
    record = finish(store, spec)
    steps = [point.step for point in store.client.get_metric_history(record.run_id, "val_loss")]
    assert sorted(steps) == [0, 1, 2, 5, 12]


def test_a_trial_that_was_found_damaged_is_not_taken_for_concluded_when_its_redoing_is_killed(
    store: Store,
) -> None:
    spec = tiny_trial()
    store.client.set_terminated(finish(store, spec).run_id, "FAILED")
    redoing = start(store, spec)
    while next(redoing).step < 2:
        continue
    redoing.close()  # type: ignore[attr-defined]
    assert find(store, spec).status == "killed"
    *_, last = start(store, spec)
    assert (last.status, last.step) == ("finished", 12)


def without_facts(state: Contents) -> Contents:
    return Contents(state.tensors, {"step": state.facts["step"]})


def of_a_wider_network(state: Contents) -> Contents:
    return Contents(
        {name: tensor.repeat_interleave(2) for name, tensor in state.tensors.items()}, state.facts
    )


def with_other_names(state: Contents) -> Contents:
    named = {name.replace("model/", "model/net."): tensor for name, tensor in state.tensors.items()}
    return Contents(named, state.facts)


def with_a_best_of_other_names(state: Contents) -> Contents:
    named = {name.replace("best/", "best/net."): tensor for name, tensor in state.tensors.items()}
    return Contents(named, state.facts)


def of_another_optimizer(state: Contents) -> Contents:
    return Contents({**state.tensors, "optimizer/999.momentum": torch.ones(1)}, state.facts)


@pytest.mark.parametrize(
    "otherwise",
    [
        without_facts,
        of_a_wider_network,
        with_other_names,
        with_a_best_of_other_names,
        of_another_optimizer,
    ],
)
def test_a_state_that_does_not_fit_costs_the_trial_its_progress_and_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, otherwise: Callable[[Contents], Contents]
) -> None:
    spec = tiny_trial()
    with monkeypatch.context() as patched:
        # As another version of the program would have written it.
        take = Training.take_state
        patched.setattr(Training, "take_state", lambda training: otherwise(take(training)))
        begun = start(store, spec)
        while next(begun).step < 5:
            continue
        begun.close()  # type: ignore[attr-defined]
    assert find(store, spec).resumes_at_step > 0
    *_, last = start(store, spec)
    assert last.status == "finished"
    assert any("the resumable state does not fit, beginning anew: " in notice for notice in last.notices)
    record = find(store, spec)
    assert (record.status, record.state) == ("finished", None)
    resumed = final_weights(store, record)
    store.client.delete_run(record.run_id)
    assert equal(resumed, final_weights(store, finish(store, spec)))


def test_a_gpu_that_fails_while_a_state_is_taken_up_does_not_cost_the_state(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_trial()
    begun = start(store, spec)
    while next(begun).step < 5:
        continue
    begun.close()  # type: ignore[attr-defined]
    step = find(store, spec).resumes_at_step

    def broken(training: Training, state: Contents) -> None:
        raise RuntimeError("Error(s) in loading state_dict: CUDA error: unspecified launch failure")

    with monkeypatch.context() as patched:
        patched.setattr(Training, "restore_state", broken)
        with pytest.raises(RuntimeError, match="CUDA error"):
            list(start(store, spec))
    assert find(store, spec).resumes_at_step == step > 0
