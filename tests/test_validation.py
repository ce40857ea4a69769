"""Mistakes in the house's words, where a field can be of several kinds."""

import pytest

from trainables.errors import SpecError
from trainables.spec import parse_trial


@pytest.mark.parametrize(
    ("grade", "message"),
    [
        ("some", "dataset.referable_grade must be a whole number or 'none', got 'some'"),
        (0, "dataset.referable_grade must be at least 1, got 0"),
    ],
)
def test_a_number_or_a_word_that_is_neither_is_one_sentence(grade: object, message: str) -> None:
    content = {
        "architecture": "cbr_tiny",
        "dataset": {"reader": "digits", "referable_grade": grade},
        "training": {"steps": 1},
    }
    with pytest.raises(SpecError) as error:
        parse_trial(content)
    assert str(error.value) == message
