"""The storeys of the code: imports go down or sideways, no modules import each other, packages stay small."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up; packages of one line may import each other, but not in a circle of modules.
STOREYS = {
    "sdpet": [
        ["files", "seeds", "choices"],
        ["adapters"],
        ["models"],
        ["methods", "config"],
        ["sampling"],
        ["scoring"],
        ["tasks"],
        ["lab"],
        ["training"],
        ["runs"],
        ["study"],
        ["commands"],
        ["__main__"],
    ],
    "analysis": [
        ["linear_model"],
        ["runs"],
        ["comparisons"],
        ["variance"],
        ["planning", "explore"],
        ["conclusions"],
        ["sequential"],
        ["figures"],
        ["report"],
        ["dashboard", "power_command", "live"],
        ["__main__"],
    ],
}
MOST_MODULES = 16  # in a package
MOST_FLAT = 4  # in sdpet/ itself
PRINTING = (  # commands
    "sdpet/commands/",
    "sdpet/lab/check/",
    "sdpet/lab/pretrain/",
    "sdpet/lab/subjects.py",
    "sdpet/study/__main__.py",
)


@cache
def modules() -> dict[str, Path]:
    found = {}
    for top in ("sdpet", "analysis", "hydra_plugins"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def face(package: str) -> dict[str, str]:
    """Public names of a package, each with the module that has it."""
    path = modules()[package]
    stub = path.with_suffix(".pyi")
    source = stub if stub.exists() else path
    names = {}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom):
            home = node.module or ""
            home = f"{package}.{home}" if node.level else home
            names.update({alias.asname or alias.name: home for alias in node.names if home in modules()})
    return names


def imported(tree: ast.Module, module: str) -> Iterator[str]:
    """The project's modules that a module imports, in functions as well, but for what only a type checker reads."""
    typed = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    skipped = {id(inner) for node in typed for part in node.body for inner in ast.walk(part)}
    is_package = modules()[module].name == "__init__.py"
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package]
            origin = ".".join([*above, node.module or ""]).rstrip(".") if node.level else node.module or ""
            if origin not in modules():
                continue
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield whole if whole in modules() else face(origin).get(alias.name, origin) if _lazy(origin) else origin


def _lazy(package: str) -> bool:
    return modules()[package].with_suffix(".pyi").exists()


@cache
def graph() -> dict[str, set[str]]:
    return {name: set(imported(ast.parse(path.read_text()), name)) - {name} for name, path in modules().items()}


def storey(module: str) -> int | None:
    top, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    return next((i for i, names in enumerate(STOREYS.get(top, [])) if part in names), None)


def test_every_module_has_a_storey():
    assert [name for name in modules() if "." in name and storey(name) is None and name.split(".")[0] in STOREYS] == []


def test_imports_go_down_or_sideways():
    upward = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if module.split(".")[0] == other.split(".")[0] and (a := storey(module)) is not None
        and (b := storey(other)) is not None and b > a
    ]  # fmt: skip
    assert upward == []


def test_no_modules_import_each_other():
    state: dict[str, int] = {}
    circles: list[str] = []

    def visit(module: str, path: tuple[str, ...]) -> None:
        state[module] = 1
        for other in sorted(graph()[module]):
            if state.get(other) == 1:
                circles.append(" -> ".join([*path[path.index(other) :], other]))
            elif other not in state:
                visit(other, (*path, other))
        state[module] = 2

    for module in graph():
        if module not in state:
            visit(module, (module,))
    assert circles == []


def test_nothing_imports_the_plugins_and_analysis_takes_no_torch():
    users = {module for module, others in graph().items() if any(o.startswith("hydra_plugins") for o in others)}
    assert users <= {module for module in modules() if module.startswith("hydra_plugins")}
    light = (
        "sdpet.adapters.positions",
        "sdpet.config",
        "sdpet.files",
        "sdpet.choices",
        "sdpet.runs.copies",
        "sdpet.runs.record",
        "sdpet.study.manifest",
        "sdpet.study.status",
    )
    taken = {o for m, others in graph().items() if m.startswith("analysis") for o in others if o.startswith("sdpet.")}
    assert {name for name in taken if not name.startswith(light)} == set()


def test_packages_stay_small():
    sizes: dict[Path, int] = {}
    for path in modules().values():
        sizes[path.parent] = sizes.get(path.parent, 0) + (path.name != "__init__.py")
    assert sizes.pop(ROOT / "sdpet") + 1 <= MOST_FLAT
    assert {str(folder): size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_no_module_is_named_like_a_public_name_of_its_package():
    """Importing such a module would put it in the place of the name."""
    clashes = []
    for package, path in modules().items():
        if path.name == "__init__.py" and package:
            clashes += [
                f"{package}.{name}"
                for name, home in face(package).items()
                if home != package and f"{package}.{name}" in modules()
            ]
    assert clashes == []


@pytest.mark.parametrize("package", [name for name, path in modules().items() if path.with_suffix(".pyi").exists()])
def test_every_name_of_a_face_exists(package: str):
    module = importlib.import_module(package)
    missing = [name for name in face(package) if not hasattr(module, name)]
    assert missing == []


def test_only_commands_print():
    printing = []
    for path in modules().values():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("sdpet/") and not name.startswith(PRINTING):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            printing += [f"{name}:{call.lineno}" for call in calls if getattr(call.func, "id", "") == "print"]
    # The ready line of a rank and the farewell of a signal handler are part of how processes talk to each other.
    allowed = ("sdpet/runs/distributed.py", "sdpet/study/signals.py")
    assert [place for place in printing if not place.startswith(allowed)] == []


def test_only_the_config_package_looks_into_the_plain_config():
    looking = []
    for path in modules().values():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("sdpet/") and not name.startswith(("sdpet/config/", "sdpet/models/", "sdpet/lab/")):
            lines = path.read_text().splitlines()
            looking += [
                f"{name}:{i}"
                for i, line in enumerate(lines, 1)
                if re.search(r"\bconfig(\.values)?\[\"(?!hydra)\w+\"\]", line)
            ]
    assert looking == []
