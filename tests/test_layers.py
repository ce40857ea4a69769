"""The layers of the project hold: who may import whom, read from the source."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("study", "trainables", "analysis")

# What each package must not import. `study.cli` alone may import analysis.
FORBIDDEN = {
    "trainables": ("study", "analysis"),
    "analysis": ("study", "ray"),
    "study": ("analysis",),
}
ONLY_HERE = {
    "ray": ("study.", "trainables.tune_trainable"),
    "mlflow": ("trainables.record", "study.tracking"),
}
# Numerics: functions on arrays, that know nothing of the project.
PURE = "analysis.numerics."


def modules() -> dict[str, Path]:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def imports(file: Path, *, at_import_time_only: bool = False) -> set[str]:
    """Return the dotted names a file imports; with the flag, only those executed when it is imported."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the layer"
            for alias in node.names:
                # `from package import module` is an import of the module, not of what the package exports.
                inner = f"{node.module}.{alias.name}"
                found.add(
                    inner
                    if (ROOT / Path(*inner.split("."))).with_suffix(".py").exists()
                    else node.module or ""
                )
        if at_import_time_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text()))
    return found


def belongs(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_its_layer_may(module: str) -> None:
    package = module.split(".")[0]
    names = imports(MODULES[module])
    for forbidden in FORBIDDEN[package]:
        if (module, forbidden) == ("study.cli", "analysis"):
            continue
        assert not [name for name in names if belongs(name, forbidden)], f"{module} imports {forbidden}"
    for library, owners in ONLY_HERE.items():
        if any(module.startswith(owner) for owner in owners):
            continue
        assert not [name for name in names if belongs(name, library)], f"{module} imports {library}"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(PURE)])
def test_numerics_know_nothing_of_the_project(module: str) -> None:
    # The numerics may build on one another.
    others = [n for n in imports(MODULES[module]) if n.split(".")[0] in PACKAGES and not n.startswith(PURE)]
    assert not others, f"{module} imports {others}"


def test_there_is_no_import_cycle() -> None:
    graph = {
        module: {
            name for name in imports(file, at_import_time_only=True) if name in MODULES and name != module
        }
        for module, file in MODULES.items()
    }
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import cycle: {' → '.join((*path[path.index(module) :], module))}"
        if module in done:
            return
        for imported in sorted(graph[module]):
            walk(imported, (*path, module))
        done.add(module)

    for module in graph:
        walk(module, ())


def test_the_check_sees_imports_inside_functions() -> None:
    assert "analysis.pipeline" in imports(MODULES["study.cli"])
    assert "analysis.pipeline" not in imports(MODULES["study.cli"], at_import_time_only=True)


def test_the_driver_of_a_study_needs_no_torch() -> None:
    code = "import study.runner, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# What a machine with GPUs and nothing but torch, torchvision, timm, numpy and pydantic does not have.
NOT_THERE = ("ray", "mlflow", "pandas", "sklearn", "scipy", "optuna", "rich", "click", "yaml")


BARE: dict[str, str] = {
    "training": "",
    "packing": "found['training'](found['noise'](), 0, torch.device('cpu')).train_until(1)",
    "similarity": "",
    "step": "next(found['own_times'](found['training']('cbr_tiny', 32, 4, precision='tf32', "
    "device=torch.device('cpu'))))",
}


@pytest.mark.parametrize("benchmark", BARE, ids=lambda name: f"benchmarks/{name}.py")
def test_benchmarks_for_bare_machines_need_nothing_else(benchmark: str) -> None:
    program = f"""
import runpy, sys, torch
sys.modules.update(dict.fromkeys({NOT_THERE!r}))
found = runpy.run_path({str(ROOT / "benchmarks" / benchmark)!r} + ".py", run_name="looked at")
{BARE[benchmark]}
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
