"""Study and trial files that are broken on purpose: each gets a clear message, soon, and runs nothing."""
# ruff: noqa: E501

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.cli import main
from study.config import load_study, load_trial, parse_study
from tests.hostility import CANARY, read_or_refused, refused, watched
from tests.study_mistakes import GOOD
from trainables.errors import StudyFileError

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
)
MAPPING_BOMB = "\n".join(
    ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{l: *a{i - 1}, r: *a{i - 1}}}" for i in range(1, 40)]
)
MERGE_BOMB = "\n".join(
    ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]
)
CHAIN = "\n".join(["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200)])
MERGE_CHAIN = "\n".join(["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: *a{i - 1}}}" for i in range(1, 200)])
CALL = f"touch {CANARY}"
N_VALUES, N_TEXTS = 60, 60


def with_name(value: str) -> str:
    return GOOD.replace("name: demo", f"name: {value}")


def with_steps(value: str) -> str:
    return GOOD.replace("steps: 20", f"steps: {value}")


# Of whole files, study or trial alike: what they hold, and words of the message.
FILES: dict[str, tuple[bytes | str, str]] = {
    "empty": (b"", "line 1: the file is empty"),
    "blank": ("   \n\n", "the file is empty"),
    "a comment": ("# name: demo\n", "the file is empty"),
    "a null": ("~\n", "line 1: expected a mapping"),
    "a number": ("42\n", "expected a mapping"),
    "a list": ("- name: demo\n", "expected a mapping .* got a list"),
    "a NUL byte": (GOOD.encode().replace(b"Does", b"D\x00es"), "line 2: a character is not allowed in YAML"),
    "NUL bytes alone": (b"\0" * 4096, "line 1: a character is not allowed"),
    "an escape of a terminal": (GOOD.replace("Does", "\x1b[31m"), "line 2: a character is not allowed"),
    "a vertical tab": (GOOD.replace("Does", "\x0b"), "line 2: a character is not allowed"),
    "UTF-16": (GOOD.encode("utf-16"), "line 1: not UTF-8 text; save the file as UTF-8"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "line 1: a character is not allowed"),
    "UTF-32": (GOOD.encode("utf-32"), "not UTF-8 text"),
    "Latin 1": (GOOD.replace("Does", "Hülf").encode("latin-1"), "line 2: not UTF-8 text"),
    "a byte that UTF-8 lacks": (GOOD.encode() + b"# \xff\n", "line 34: not UTF-8 text"),
    "a surrogate in bytes": (GOOD.encode() + b"# \xed\xa0\x80\n", "line 34: not UTF-8 text"),
    "an overlong slash": (b"name: \xc0\xaf\n", "line 1: not UTF-8 text"),
    "UTF-8 cut in a character": ("name: ä".encode()[:-1], "line 1: not UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "line 1: not UTF-8 text"),
    "an archive": (b"PK\x03\x04" + bytes(64), "a character is not allowed"),
    "cut in a list": (GOOD[: GOOD.index("cbr_small]")], "not YAML: "),
    "cut in a mapping": (GOOD[: GOOD.index("lr: 0.1}")], "not YAML: "),
    "cut in a quote": ("name: 'de", "not YAML: "),
    "cut after a tag": ("name: !", "name: the tag ! is not allowed|is required"),
    "cut after an anchor": ("name: &", "not YAML: "),
    "cut after an alias": ("name: *", "not YAML: "),
    "cut after an escape": ('name: "\\', "not YAML: "),
    "tabs": (GOOD.replace("  ", "\t"), "a tab stands here; YAML wants spaces"),
    "a tab alone": ("\tname: demo", "a tab stands here"),
    "a wrong indentation": (GOOD.replace("  dataset: few", "    dataset: few"), "not YAML|indentation"),
    "two documents": ("name: a\n---\nname: b\n", "line 2: a second document begins here"),
    "a thousand documents": ("---\n" * 1000, "a second document begins here"),
    "a directive of another YAML": ("%YAML 3.0\n---\nname: a\n", "not YAML: "),
    "a directive twice": ("%YAML 1.1\n%YAML 1.1\n---\nname: a\n", "not YAML: "),
    "an unknown handle": ("name: !x!y z\n", "not YAML: "),
    "lists of lists of lists": (BOMB, "more than 100000 values; the anchors multiply them"),
    "mappings of mappings": (MAPPING_BOMB, "more than 100000 values; the anchors multiply them|nested"),
    "merges of merges": (MERGE_BOMB, "more than 100000 values; the anchors multiply them|nested"),
    "a chain of anchors": (CHAIN, "nested more than 50 deep"),
    "a chain of merges": (MERGE_CHAIN, "nested more than 50 deep"),
    "an anchor in itself": ("name: &a [*a]\n", "line 1: name\\[0\\]: an anchor contains itself"),
    "an anchor in itself by a mapping": ("a: &a {b: {c: *a}}\n", "an anchor contains itself"),
    "an anchor that merges itself": ("a: &a\n  <<: *a\n", "an anchor contains itself"),
    "an anchor that merges a list of itself": ("a: &a\n  <<: [*a]\n", "an anchor contains itself"),
    "two anchors in each other": ("a: &a {b: &b {c: *a, d: *b}}\n", "an anchor contains itself"),
    "a list that merges itself": ("b:\n  <<: &b [*b]\n", "an anchor contains itself"),
    "an anchor of nothing": ("name: *nobody\n", "found undefined alias 'nobody'"),
    "an alias as a key": ("a: &a b\n*a : c\n", "is required|not a field"),
    "deep lists": ("name: " + "[" * 20_000, "nested more than 50 deep"),
    "deep lists that end": ("name: " + "[" * 400 + "]" * 400, "nested more than 50 deep"),
    "deep mappings": ("name: " + "{a: " * 20_000, "nested more than 50 deep"),
    "deep blocks": ("\n".join(" " * depth + "a:" for depth in range(300)), "nested more than 50 deep"),
    "deep sequences": ("- " * 5_000 + "x", "nested more than 50 deep|expected a mapping"),
    "a complex key": ("? [a, b]\n: c\n", "a key must be text, got a list"),
    "a complex key that is deep": ("? " * 2_000 + "x", "nested more than 50 deep|a key must be text"),
    "a merge key alone": ("<<: x\n", "<<: stands before the anchor of a mapping"),
    "an unprintable escape": ('name: "\\x07"\n', "line 1: name: the character .* is not allowed; write text that can be printed"),
    "an escape of half a character": ('name: "\\ud800"\n', "the character .* is not allowed"),
    "half a character as a key": ('"\\udfff": 1\n', "the key .* must be of characters that can be printed"),
    "an escape beyond Unicode": ('name: "\\U00110000"\n', "not YAML: "),
    "an escape far beyond Unicode": ('name: "\\UFFFFFFFF"\n', "not YAML: "),
    "a tag beyond Unicode": ("name: !%FF%FE x\n", "not YAML: |is not allowed"),
    "code by a function": (f"a: !!python/object/apply:os.system ['{CALL}']\n", "the tag .*apply:os.system is not"),
    "code by a new object": (f"a: !!python/object/new:os.system ['{CALL}']\n", "the tag .*new:os.system is not"),
    "code by an object": ("a: !!python/object:os.system {x: 1}\n", "the tag .*object:os.system is not allowed"),
    "code by a module": ("a: !!python/module:antigravity ''\n", "the tag .*module:antigravity is not allowed"),
    "code by a name": ("a: !!python/name:os.system ''\n", "the tag .*name:os.system is not allowed"),
    "code by eval": (f"a: !!python/object/apply:eval [\"__import__('os').system('{CALL}')\"]\n", "the tag .*apply:eval"),
    "code as the whole file": (f"!!python/object/apply:os.system ['{CALL}']\n", "expected a mapping"),
    "code as a mapping": (f"!!python/object/apply:os.system\nargs: ['{CALL}']\n", "the tag .*os.system is not allowed"),
    "code as a key": ("!!python/name:os.system '' : 1\n", "must be in quotes to be text"),
    "code by a handle of one's own": (f"%TAG !p! tag:yaml.org,2002:python/object/apply:\n---\na: !p!os.system ['{CALL}']\n", "the tag .*os.system is not allowed"),
    "a set": ("a: !!set {x, y}\n", "the tag !!set is not allowed"),
    "an ordered mapping": ("a: !!omap [x: 1]\n", "the tag !!omap is not allowed"),
    "pairs": ("a: !!pairs [x: 1]\n", "the tag !!pairs is not allowed"),
    "bytes": ("a: !!binary aGk=\n", "the tag !!binary is not allowed"),
    "a mapping that says it is a list": ("a: !!seq {x: 1}\n", "the tag !!seq|a is not a field"),
    "a list that says it is text": ("name: !!str [a]\n", "the tag !!str is not allowed"),
    "a key twice": ("name: a\nname: b\n", "line 2: name is given twice, first in line 1"),
    "a key twice in a list": ("exclude: [{where: {}, where: {}}]\n", "is given twice"),
    "a key of a date": ("2024-01-01: x\n", "the key 2024-01-01 must be in quotes"),
    "a key of nothing": ("~: x\n", "must be in quotes"),
    "a key of a number": ("1.5: x\n", "the key 1.5 must be in quotes"),
    "a million keys": ("\n".join(f"k{i}: 1" for i in range(1_000_000)), "is larger than"),
    "many keys": ("\n".join(f"k{i}: 1" for i in range(12_000)), "more than 1000 keys in one mapping"),
    "a thousand keys": ("\n".join(f"k{i}: 1" for i in range(1_000)), "and \\d+ more"),
    "a long key": (f"? {'k' * 40_000}\n: 1\n", "is not a field"),
    "a text of 100 MB": (b"name: " + b"a" * 100_000_000, "is larger than 128 KiB"),
    "a text of 120 KB": ("name: " + "a b" * 40_000, "name must consist of letters"),
    "a line of brackets": ("name: [" + "[], " * 15_000 + "]\n", "name must be text"),
}  # fmt: skip

# In a study file that is good otherwise.
VALUES: dict[str, tuple[str, str]] = {
    "a whole number of 5,000 digits": (with_steps("9" * 5_000), "line 10: trial.training.steps"),
    "a hexadecimal number of 5,000 digits": (with_steps("0x" + "f" * 5_000), "line 10: trial.training.steps"),
    "a binary number of 100,000 digits": (with_steps("0b" + "1" * 100_000), "line 10: trial.training.steps"),
    "an octal number of 5,000 digits": (with_steps("0" + "7" * 5_000), "line 10: trial.training.steps"),
    "a number to the base of 60": (with_steps(":".join(["59"] * 5_000)), "line 10: trial.training.steps"),
    "2 to the 63rd": (with_steps(str(2**63)), "line 10: trial.training.steps"),
    "a negative number of 400 digits": (with_steps("-" + "9" * 400), "line 10: trial.training.steps"),
    "a quintillion of seeds": (GOOD.replace("[0, 1]", str(10**18)), "seeds must be a list of seeds, or how many"),
    "a rate of 400 digits": (GOOD.replace("lr: 0.1}", f"lr: {'9' * 400}}}"), "optimizer.lr"),
    "infinity": (GOOD.replace("lr: 0.1}", "lr: .inf}"), "optimizer.lr must be a finite number"),
    "infinity by an exponent": (GOOD.replace("lr: 0.1}", "lr: 1.0e+999}"), "optimizer.lr must be a finite number"),
    "not a number": (GOOD.replace("train_fraction: 0.1", "train_fraction: .NaN"), "must be a finite number, got .NaN"),
    "a date": (with_name("2024-01-01"), "reads 2024-01-01 as a date; put it in quotes"),
    "a date that is none": (with_name("2024-99-99"), "reads 2024-99-99 as a date"),
    "a time": (with_name("2024-01-01 10:00:00"), "as a date; put it in quotes"),
    "yes": (with_name("yes"), "YAML reads yes as true"),
    "nothing for a name": (with_name("~"), "name must be text, got nothing"),
    "a name of dots": (with_name(".."), "name must"),
    "a name that leaves its folder": (with_name("../../etc/cron.d/x"), "name must consist of letters"),
    "a name that is absolute": (with_name("/etc/passwd"), "name must consist of letters"),
    "a name with a quote": (with_name("\"a' or '1'='1\""), "name must consist of letters"),
    "a name of markup": (with_name("<script>alert(1)</script>"), "name must consist of letters"),
    "a name of 5,000 letters": (with_name("n" * 5_000), "name must"),
    "a list for a name": (with_name("[a, b]"), "name must be text"),
    "a dataset that leaves the root": (GOOD.replace("from: digits_5_9", "reader: image_folder, path: ../../etc"), "stay below it"),
    "a dataset that is absolute": (GOOD.replace("from: digits_5_9", "reader: image_folder, path: /etc"), "stay below it"),
    "a dataset with NUL in its path": (GOOD.replace("from: digits_5_9", 'reader: image_folder, path: "a\\0b"'), "datasets.few.path"),
    "a dataset with a path of 5,000 letters": (GOOD.replace("from: digits_5_9", f"reader: image_folder, path: {'p' * 5_000}"), "datasets.few.path"),
    "an image folder that leaves its table": (GOOD.replace("from: digits_5_9", "reader: csv, path: a.csv, options: {label: x, folder: ../..}"), "stay below it"),
    "an image folder with NUL": (GOOD.replace("from: digits_5_9", 'reader: csv, path: a.csv, options: {label: x, folder: "a\\0"}'), "folder"),
    "superclasses outside": (GOOD.replace("from: digits_5_9", "from: digits_5_9, superclasses: ../x.csv"), "stay below it"),
    "weights outside": (GOOD.replace("  dataset: digits_0_4\n  training: {steps: 40}", "  file: ../../w.pth"), "stay below it"),
    "a reader that is a module": (GOOD.replace("from: digits_5_9", "reader: 'os:system'"), "datasets.few.reader must be one of"),
    "an architecture that is a module": (GOOD.replace("architecture: cbr_tiny\n", "architecture: os.system\n"), "architecture must be one of"),
    "an axis of the insides": (GOOD.replace("  init: [", "  __class__: [3]\n  init: ["), "grid.__class__ is no axis"),
    "a field of the insides": (GOOD.replace("question:", "__init__:"), "__init__ is not a field of a study"),
    "a field of pydantic": (GOOD.replace("question:", "model_config:"), "model_config is not a field of a study"),
    "an axis with empty parts": (GOOD.replace("  init: [", "  training..steps: [3]\n  init: ["), "training. is not a field of training"),
    "a size of a billion": (GOOD.replace("dataset: few", "dataset: {from: few, size_px: 1000000000}"), "size_px must be at most 4096"),
    "synthetic images beyond memory": (GOOD.replace("from: digits_5_9", "from: synthetic_chest, options: {n_images: 9000000000000}"), "n_images"),
    "a grid of a trillion": (GOOD.replace("seeds: [0, 1]", "seeds: 10000").replace("[8, 16]", str(list(range(1, 3000)))).replace("[0.1, 0.2]", str([i / 3000 for i in range(1, 200)])), "trainings; at most 100000 are allowed"),
    "a base that is the grid": (GOOD.replace("grid:", "grid: &g").replace("zip:\n", "zip:\n  - *g\n"), "is an axis already"),
}  # fmt: skip


def written(folder: Path, content: bytes | str) -> Path:
    file = folder / "hostile.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("load", [load_study, load_trial])
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused(
    name: str, load: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = FILES[name]
    file = written(tmp_path, content)
    if load is load_trial:  # the fields of a trial are others
        words = words if "line" in words or "YAML" in words else "hostile.yaml: \\d+ mistake"
    with refused(tmp_path, words, kind=StudyFileError):
        load(file)


@pytest.mark.parametrize("name", VALUES)
def test_a_hostile_value_is_refused(name: str, tmp_path: Path) -> None:
    text, words = VALUES[name]
    assert text != GOOD
    with refused(tmp_path, words, kind=StudyFileError):
        parse_study(text)


def test_hostile_files_end_the_command_line_with_2_and_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for name in ("empty", "UTF-16", "deep lists", "code as the whole file", "lists of lists of lists"):
        file = written(tmp_path, FILES[name][0])
        for command in ("plan", "run", "trial"):
            with watched(tmp_path):
                result = CliRunner().invoke(main, [command, str(file)])
            assert result.exit_code == 2, (name, command, result.output)
            assert "hostile.yaml" in result.output
            assert "Traceback" not in result.output
    assert not (tmp_path / "mlflow.db").exists(), "a mistake is told before anything is opened"


@pytest.mark.parametrize("text", ["", "{", "[" * 50_000, "5", "null", "[]", '{"a": NaN}', '"\\ud800"', "\0"])
def test_a_hostile_trial_of_json_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "trial.json"
    file.write_text(text)
    with refused(tmp_path, "trial.json|is required|must be a mapping"):
        load_trial(file)


hostile_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["every", "all", "cbr_tiny", "no", "1e-4", "../x", "__class__", 10**30, -(2**63)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    found = [path] if path else []
    for key, value in items if isinstance(content, (dict, list)) else ():
        found += places(value, (*path, key)) if isinstance(value, (dict, list)) else [(*path, key)]
    return found


PLACES = places(yaml.safe_load(GOOD))


@settings(max_examples=N_VALUES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), hostile_values), min_size=1, max_size=3))
def test_any_values_anywhere_give_a_study_or_mistakes(
    changes: list[tuple[tuple[Any, ...], Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = yaml.safe_load(GOOD)
    for path, value in changes:
        inner = content
        for key in path[:-1]:
            inner = inner[key] if isinstance(inner, (dict, list)) and has(inner, key) else {}
        if isinstance(inner, dict) or (isinstance(inner, list) and has(inner, path[-1])):
            inner[path[-1]] = value
    with read_or_refused(tmp_path_factory.getbasetemp(), "line "):
        parse_study(yaml.safe_dump(content, allow_unicode=True))


def has(content: Any, key: Any) -> bool:
    return key in content if isinstance(content, dict) else isinstance(key, int) and key < len(content)


@settings(max_examples=N_TEXTS, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    where=st.floats(0, 1),
    removed=st.integers(0, 20),
    put=st.text(st.sampled_from("{}[]&*!|>'\"%@`:,?-#\n\t \\\0<~a0_.é\ud7ff"), max_size=12),
)
def test_any_text_anywhere_gives_a_study_or_mistakes(
    where: float, removed: int, put: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start = int(where * len(GOOD))
    with read_or_refused(tmp_path_factory.getbasetemp(), "line "):
        parse_study(GOOD[:start] + put + GOOD[start + removed :])
