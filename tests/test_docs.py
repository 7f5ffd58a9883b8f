"""The documentation says what the code says: every closed list, every setting, every verb, every local link."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from audit.leaf import Kind
from gateway.cli import VERBS
from gateway.identity.agents import AgentCredentials
from gateway.model import OutcomeStatus
from gateway.reasons import PROSE, Code
from gateway.settings import Agent, Settings
from policies.expression import FUNCTIONS
from policies.registry import RISKS, TYPES
from policies.values import NAMES
from sandbox.model import Guarantee, Language, Limits, Reason
from sandbox.profiles import KEYS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]


def headings(page: str) -> set[str]:
    return set(re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), re.MULTILINE))


def test_every_reason_code_has_a_heading_and_its_prose() -> None:
    text = (DOCS / "reference/reasons.md").read_text()
    assert {code.value for code in Code} == headings("reference/reasons.md") - {"Reason codes"}
    assert all(PROSE[code] in text for code in Code)


def test_every_kind_of_record_and_every_outcome_has_a_heading() -> None:
    found = headings("reference/records.md")
    assert {kind.value for kind in Kind} <= found
    assert {status.value for status in OutcomeStatus} <= found


def test_every_verb_has_a_heading_and_an_example_in_its_help() -> None:
    assert {f"bailiwick {verb}" for verb in VERBS} <= headings("reference/cli.md")


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        found.add(f"{prefix}{name}")
        for module, inner in re.findall(r"(gateway\.settings\w*)\.(\w+)", str(field.annotation)):
            found |= keys(getattr(sys.modules[module], inner), f"{prefix}{name}.")
    return found


def test_every_setting_stands_in_the_reference() -> None:
    text = (DOCS / "reference/settings.md").read_text()
    assert [key for key in sorted(keys(Settings)) if f"`{key.rsplit('.', 1)[-1]}`" not in text] == []


def test_every_key_limit_guarantee_and_end_of_a_profile_stands_in_its_page() -> None:
    text = (DOCS / "reference/profiles.md").read_text()
    words = {*KEYS, *Limits.__slots__, *map(str, Guarantee), *map(str, Reason), *map(str, Language)}
    assert [word for word in sorted(words) if f"`{word}`" not in text and f"`[{word}]`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_no_file_names_a_folder_of_the_machine_that_it_was_written_on() -> None:
    places = [f"{place}/" for place in (ROOT, Path.home()) if len(place.parts) > 1]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    texts = {name: (ROOT / name).read_text(errors="replace") for name in listed if name and (ROOT / name).is_file()}
    assert [f"{name}: {place}" for name, text in texts.items() for place in places if place in text] == []


def test_lock_files_name_no_index_so_that_they_work_behind_a_mirror() -> None:
    locks = [*(ROOT / "requirements").glob("*.lock"), *ROOT.glob("examples/procurement/filesystem/package-lock.json")]
    assert len(locks) == 4
    assert [lock.name for lock in locks if '"resolved"' in lock.read_text() or "index-url" in lock.read_text()] == []


def test_every_part_of_the_condition_language_stands_in_its_page() -> None:
    text = (DOCS / "reference/conditions.md").read_text()
    assert [name for name in FUNCTIONS if f"`{name}(" not in text] == []
    assert [name for name in (".".join(key) for key in NAMES) if f"`{name}`" not in text] == []
    assert [name for name in (*TYPES, *RISKS) if f"`{name}`" not in text] == []


def test_the_secret_that_the_page_makes_is_accepted() -> None:
    text = (DOCS / "how-to/deploy.md").read_text()
    commands = re.search(r"^ *(SECRET=.*)\n *(printf.*)$", text, re.MULTILINE)
    assert commands is not None
    script = f'{commands[1]}\n{commands[2]}\nprintf %s "$SECRET"'
    printed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    agent = Agent.model_validate({"auth": {"secret_sha256": [printed[0]]}})
    assert AgentCredentials({"researcher": agent}, "https://gateway.example.com").by_secret(printed[-1]) == "researcher"


def test_every_page_is_in_the_table_of_contents_once() -> None:
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
