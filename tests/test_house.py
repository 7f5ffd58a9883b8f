"""The habits that a linter does not know: sizes, names, walls.  Each rule is shown to bite on a planted offence."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "policies", "audit", "sandbox")
FILE_LINES = 400
FUNCTION_LINES = 50
STANDALONE = {"audit/verify.py"}  # one file that a stranger reads and runs
LONGER_FUNCTIONS: dict[str, str] = {}  # "file::function": the reason
FORBIDDEN_NAMES = re.compile(r"(^|_)(utils?|helpers?|managers?|services?|misc|common)(_|$)")
BROAD_EXCEPT: set[str] = {
    "gateway/pipeline.py",  # the road's end: an unexpected exception is recorded and refused
    "policies/engine.py",  # an error while deciding is a denial
    "gateway/policy/checks.py",  # a bundle that breaks the loader is refused; the one in force stays, and the watch goes on
    "gateway/listener/exchange.py",  # an application that fails costs its own answer, never the listener
    "gateway/cli/__init__.py",  # one line for people instead of a traceback
    "sandbox/inside/warden.py",  # a forked child must not return into the warden's code
}
COMPILES = {("sandbox/inside/discover.py", "marshal")}  # the warden's own modules, written for the interpreter that loads them


def sources(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            yield path.relative_to(root).as_posix(), path.read_text()


def long_files(files: Iterator[tuple[str, str]]) -> list[str]:
    return [f"{name}: {n}" for name, text in files if (n := len(text.splitlines())) > FILE_LINES and name not in STANDALONE]


def long_functions(files: Iterator[tuple[str, str]]) -> list[str]:
    found = []
    for name, text in files:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and name not in STANDALONE:
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > FUNCTION_LINES and f"{name}::{node.name}" not in LONGER_FUNCTIONS:
                    found.append(f"{name}:{node.lineno} {node.name}: {lines}")
    return found


def vague_names(files: Iterator[tuple[str, str]]) -> list[str]:
    return [name for name, _ in files if FORBIDDEN_NAMES.search(Path(name).stem)]


def broad_excepts(files: Iterator[tuple[str, str]]) -> list[str]:
    found = []
    for name, text in files:
        for node in ast.walk(ast.parse(text)):
            broad = isinstance(node, ast.ExceptHandler) and (
                node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
            )
            cleans_up = isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if broad and not cleans_up and name not in BROAD_EXCEPT | STANDALONE:  # one that ends in `raise` hides nothing
                found.append(f"{name}:{node.lineno}")
    return found


def undocumented(files: Iterator[tuple[str, str]]) -> list[str]:
    found = []
    for name, text in files:
        tree = ast.parse(text)
        doc = ast.get_docstring(tree)
        if doc is None and tree.body:
            found.append(f"{name}: no module docstring")
        elif doc and len(doc.splitlines()) > 5 and name not in STANDALONE:
            found.append(f"{name}: module docstring of {len(doc.splitlines())} lines")
    return found


def dangerous_calls(files: Iterator[tuple[str, str]]) -> list[str]:
    found = []
    for name, text in files:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                found += [
                    f"{name}:{node.lineno} imports {m}"
                    for m in modules
                    if m.split(".")[0] in {"pickle", "marshal", "shelve"} and (name, m) not in COMPILES
                ]
            if not isinstance(node, ast.Call):
                continue
            func = node.func
            called = func.id if isinstance(func, ast.Name) else ""
            if called in {"eval", "exec"}:
                found.append(f"{name}:{node.lineno} calls {called}")
            if any(k.arg == "shell" and isinstance(k.value, ast.Constant) and k.value.value for k in node.keywords):
                found.append(f"{name}:{node.lineno} runs a shell")
    return found


def intent_makers(files: Iterator[tuple[str, str]]) -> list[str]:
    return [name for name, text in files if "_RECORDED" in text and name not in {"gateway/model.py", "gateway/record.py"}]


def forked_migrations(files: Iterator[tuple[str, str]]) -> list[str]:
    """Two that follow the same one: whoever came later names the other as its `down_revision`."""
    after: dict[tuple[str, str], str] = {}
    found = []
    for name, text in files:
        folder, _, file = name.rpartition("/")
        earlier = re.search(r"^down_revision = (.+)$", text, re.MULTILINE)
        if folder.endswith("migrations/versions") and earlier is not None:
            other = after.setdefault((folder, earlier[1]), file)
            if other != file:
                found.append(f"{folder}: {other} and {file} both follow {earlier[1]}")
    return found


RULES = (
    long_files, long_functions, vague_names, broad_excepts, undocumented, dangerous_calls, intent_makers, forked_migrations,
)  # fmt: skip
OFFENCES = {
    "long_files": ("gateway/big.py", '"""x."""\n' + "a = 1\n" * (FILE_LINES + 1)),
    "long_functions": ("gateway/big.py", '"""x."""\ndef f():\n' + "    a = 1\n" * (FUNCTION_LINES + 1)),
    "vague_names": ("gateway/http_utils.py", '"""x."""\n'),
    "broad_excepts": ("gateway/x.py", '"""x."""\ntry:\n    pass\nexcept Exception:\n    pass\n'),
    "undocumented": ("gateway/x.py", "a = 1\n"),
    "dangerous_calls": ("gateway/x.py", '"""x."""\nimport pickle\neval("1")\nrun("ls", shell=True)\n'),
    "intent_makers": ("gateway/x.py", '"""x."""\nfrom gateway.model import _RECORDED\n'),
}
PLANTED = {rule: [offence] for rule, offence in OFFENCES.items()}
PLANTED["forked_migrations"] = [
    (f"audit/migrations/versions/l{n}.py", f'"""x."""\nrevision = "l{n}"\ndown_revision = "l1"\n') for n in (2, 3)
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_house_rule(rule) -> None:
    assert rule(sources()) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_rule_bites_on_a_planted_offence(rule) -> None:
    assert rule(iter(PLANTED[rule.__name__])) != []


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--no-cache", "--config", str(root / "pyproject.toml")]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, check=False)


def test_the_import_contracts_hold() -> None:
    run = lint_imports(ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("policies/sentence.py", "import audit.leaf", "policies, audit and sandbox know nothing of ours"),
        ("gateway/mcp/wire.py", "import gateway.a2a.wire", "MCP and A2A never import each other"),
        ("gateway/record.py", "import casbin", "Casbin is spoken to in one place"),
        ("gateway/mcp/wire.py", "import sqlmodel", "SQL is spoken by the stores alone"),
    ],
)
def test_an_import_through_a_wall_breaks_its_contract(tmp_path: Path, file: str, line: str, contract: str) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for name, text in sources():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text}\n{line}\n" if name == file else text)
    run = lint_imports(tmp_path)
    assert run.returncode != 0
    assert re.search(re.escape(contract) + r".*BROKEN", run.stdout), run.stdout


def test_two_workers_keep_a_file_whole_and_one_of_them_has_all_that_looks_at_the_machine(tmp_path: Path) -> None:
    """What looks at the whole machine would else count what the other worker has started."""
    for place in ("sandbox/test_one.py", "stdio/test_two.py", "mcp/test_three.py", "mcp/test_four.py"):
        file = tmp_path / "tests" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        tests = "".join(f"def test_{n}(record_property, worker_id):\n    record_property('by', worker_id)\n" for n in range(9))
        file.write_text(tests)
    (tmp_path / "conftest.py").write_text(
        "from tests.sharing import ByFile\ndef pytest_xdist_make_scheduler(config, log):\n    return ByFile(config, log)\n"
    )
    shutil.copy(ROOT / "tests" / "sharing.py", tmp_path / "tests")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "--junitxml", "out.xml", "tests"]
    said = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": "."}
    )
    assert said.returncode == 0, said.stdout
    by: dict[str, set[str]] = {}
    for case in ET.parse(tmp_path / "out.xml").iter("testcase"):
        worker = next(entry.attrib["value"] for entry in case.iter("property"))
        by.setdefault(case.attrib["classname"].removeprefix("tests."), set()).add(worker)
    assert by.keys() == {"sandbox.test_one", "stdio.test_two", "mcp.test_three", "mcp.test_four"}
    assert all(len(workers) == 1 for workers in by.values())
    assert by["sandbox.test_one"] == by["stdio.test_two"]
    assert len(set.union(*by.values())) == 2  # either has a piece before anybody has a second one
