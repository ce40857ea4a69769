"""What a machine has, read without torch."""

from pathlib import Path

import pytest

from trainables import hardware


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("A", "B", "C")),
        ("", ()),
        ("-1", ()),
        ("0", ("A",)),
        ("2, 0", ("C", "A")),
        ("7", ()),
        ("GPU-1f2e,GPU-3d4c", ("A", "B")),
    ],
)
def test_the_gpus_that_a_process_may_use_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: tuple[str, ...]
) -> None:
    for place, name in (("0000:01", "A"), ("0000:02", "B"), ("0000:03", "C")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(f"Model: \t\t {name}\nIRQ:   16\n")
    monkeypatch.setattr(hardware, "NVIDIA", tmp_path)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.gpu_names() == expected


def test_a_machine_without_the_driver_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "NVIDIA", tmp_path / "absent")
    assert hardware.gpu_names() == ()
