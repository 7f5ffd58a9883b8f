"""The habits that a linter does not know: sizes, names, walls.  Each rule is shown to bite on a planted offence."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
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


RULES = (long_files, long_functions, vague_names, broad_excepts, undocumented, dangerous_calls, intent_makers)
OFFENCES = {
    "long_files": ("gateway/big.py", '"""x."""\n' + "a = 1\n" * (FILE_LINES + 1)),
    "long_functions": ("gateway/big.py", '"""x."""\ndef f():\n' + "    a = 1\n" * (FUNCTION_LINES + 1)),
    "vague_names": ("gateway/http_utils.py", '"""x."""\n'),
    "broad_excepts": ("gateway/x.py", '"""x."""\ntry:\n    pass\nexcept Exception:\n    pass\n'),
    "undocumented": ("gateway/x.py", "a = 1\n"),
    "dangerous_calls": ("gateway/x.py", '"""x."""\nimport pickle\neval("1")\nrun("ls", shell=True)\n'),
    "intent_makers": ("gateway/x.py", '"""x."""\nfrom gateway.model import _RECORDED\n'),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_house_rule(rule) -> None:
    assert rule(sources()) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_rule_bites_on_a_planted_offence(rule) -> None:
    assert rule(iter([OFFENCES[rule.__name__]])) != []


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
