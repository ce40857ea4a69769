"""No code of ours can run what it reads: which calls are allowed where, read from the source."""

import ast
import re
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from analysis.report.page import Page, Report, Section, write_report
from analysis.tables.table import Table

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    file for package in ("study", "trainables", "analysis") for file in (ROOT / package).rglob("*.py")
)

# Of each call that could run or write what it reads: where it is allowed, and what it must say there.
ALLOWED: dict[str, dict[str, str]] = {
    "torch.load": {"trainables/pretrained.py": "weights_only=True"},
    "np.load": {"analysis/jobs/cache.py": "allow_pickle=False"},
    "np.lib.format.read_array": {"trainables/datasets/npz_arrays.py": "allow_pickle=False"},
    "zipfile.ZipFile": {
        "trainables/datasets/npz_arrays.py": "",
        "trainables/datasets/archive.py": "",
        "trainables/record/archive.py": "",
    },
    "tarfile.open": {"trainables/datasets/archive.py": ""},
    "jinja2.Environment": {"analysis/report/page.py": "autoescape=True"},
}
# Never called, wherever it comes from.
FORBIDDEN = re.compile(
    r"(.*\.)?(unsafe_load|full_load|load_all|full_load_all|unsafe_load_all|extractall|read_pickle"
    r"|Unpickler|loads?_pickle|literal_eval|system|popen|getoutput|getstatusoutput)"
    r"|(?!.*\.str\.).*\.extract|eval|exec|compile|__import__"
    r"|(pickle|cloudpickle|dill|marshal|shelve|joblib|jsonpickle)\..*"
    r"|yaml\.(load|full_load|unsafe_load|load_all)|torch\.jit\.load|np\.fromfile|numpy\.load"
)
IMPORTED = {"dill", "marshal", "shelve", "joblib", "jsonpickle", "cloudpickle", "pty"}
# The one unpickler, which knows arrays alone, and the name of an error.
PICKLE_HERE = {"trainables/datasets/cifar.py", "trainables/pretrained.py"}


@cache
def nodes(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text())))


@cache
def calls(file: Path) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in nodes(file) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_only_calls_that_run_nothing_are_made(file: Path) -> None:
    name = str(file.relative_to(ROOT))
    for function, call in calls(file):
        where = f"{name}:{call.lineno}: {ast.unparse(call)[:80]}"
        assert not FORBIDDEN.fullmatch(function), where
        if function in ALLOWED:
            assert name in ALLOWED[function], where
            assert ALLOWED[function][name] in ast.unparse(call), where
        shell = next((word.value for word in call.keywords if word.arg == "shell"), None)
        assert shell is None or (isinstance(shell, ast.Constant) and not shell.value), where
        pickled = next((word.value for word in call.keywords if word.arg == "allow_pickle"), None)
        assert pickled is None or ast.unparse(pickled) == "False", where


def test_every_call_that_is_allowed_is_made() -> None:
    made = {(function, str(file.relative_to(ROOT))) for file in MODULES for function, _ in calls(file)}
    assert {(function, name) for function, names in ALLOWED.items() for name in names} <= made


def test_modules_that_unpickle_are_imported_nowhere_but_where_their_names_are_checked() -> None:
    for file in MODULES:
        name = str(file.relative_to(ROOT))
        for node in nodes(file):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not IMPORTED.intersection(part.split(".")[0] for part in names), name
            assert "pickle" not in names or name in PICKLE_HERE, name


def test_yaml_constructs_nothing() -> None:
    users = [file for file in MODULES if "import yaml" in file.read_text()]
    loaders = {
        (str(file.relative_to(ROOT)), node.attr)
        for file in users
        for node in nodes(file)
        if isinstance(node, ast.Attribute) and node.attr.endswith("Loader")
    }
    assert loaders == {("study/yaml_lines.py", "SafeLoader")}


@pytest.mark.parametrize(
    "code",
    ["eval(x)", "pickle.loads(x)", "yaml.load(x)", "a.extractall()", "os.system(x)", "torch.jit.load(x)"],
)
def test_the_rules_know_what_is_forbidden(code: str) -> None:
    (call,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    assert FORBIDDEN.fullmatch(ast.unparse(call.func))


def test_names_from_data_are_text_in_the_report(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    rows = pd.DataFrame({"class": [evil, "well"], "auroc": ["0.5", "0.6"]})
    table = Table("classes", evil, evil, data=rows, display=rows)
    page = Page("a", evil, evil, [Section(evil, evil, tables=[table])])
    report = Report(
        study=evil,
        question=evil,
        generated=evil,
        counts={evil: 1},
        findings=[],
        findings_note=evil,
        pages=[page],
        settings={evil: evil},
        study_file=evil,
        warnings=[evil],
    )
    html = write_report(report, tmp_path / "report.html").read_text()
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10
    assert evil not in html
