"""Runs every rule over a bundle.  A finding is silenced by a comment above its line that names the rule and says why."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from policies.bundle import Bundle, BundleError
from policies.finding import Finding, suggest
from policies.lint.ground import Facts, Ground, Hit, Severity
from policies.lint.loading import PAGES as LOADING

MOST_OF_ONE = 200
"""Findings of one rule that are told; the rest is counted."""

NAMES: Final = (
    "break-glass",
    "constant-condition",
    "deep-role",
    "denied-allow",
    "differing-schema",
    "differing-tool",
    "empty-role",
    "empty-set",
    "ended-line",
    "everyone",
    "idle-exemption",
    "idle-lock",
    "missing-tool",
    "named-person",
    "never-asked",
    "own-approval",
    "own-model",
    "repeated-membership",
    "shadowed-line",
    "shared-credential",
    "silent-server",
    "unapprovable",
    "unbound-step",
    "uncounted-budget",
    "undecidable-condition",
    "unfulfillable-duty",
    "unguarded-sink",
    "unknown-agent",
    "unknown-server",
    "unmeetable-budget",
    "unreachable-step",
    "unregistered-tool",
    "unset-label",
    "unused-condition",
    "unused-duty",
    "unused-role",
    "unused-set",
    "unused-tool",
    "wide-model",
)
"""Modules of `policies/lint/rules`, with hyphens."""

_ALLOW = re.compile(r"#\s*lint:\s*allow\b\s*(?P<code>[^\s]*)\s*(?:because\s+(?P<why>\S.*))?")
_COMMENT = re.compile(r"\s*#")
_SUPPRESSIONS = MappingProxyType(
    {
        "odd-suppression": (
            "A comment `# lint: allow …` names no rule that can be silenced, or gives no reason.\n\n"
            "It silences nothing. Write `# lint: allow RULE because …`, on the line above the one that is reported. What keeps a "
            "bundle from loading cannot be silenced."
        ),
        "idle-suppression": (
            "A comment `# lint: allow RULE because …` silences nothing: the rule finds nothing in the line below it.\n\n"
            "The mistake is gone, or the line has moved. Take the comment out, or it will silence the next mistake that comes to "
            "stand there."
        ),
    }
)


@dataclass(frozen=True, slots=True)
class LintRule:
    """One rule: its stable name, how grave its findings are, its help page, and what finds them."""

    code: str
    severity: Severity
    page: str
    find: Callable[[Ground], Iterator[Hit]]


def _rule(code: str) -> LintRule:
    module = import_module(f"policies.lint.rules.{code.replace('-', '_')}")
    return LintRule(code, module.SEVERITY, inspect.cleandoc(module.find.__doc__ or ""), module.find)


RULES: Final = MappingProxyType({code: _rule(code) for code in NAMES})
PAGES: Final = MappingProxyType({**{code: rule.page for code, rule in RULES.items()}, **_SUPPRESSIONS, **LOADING})
"""The help page of every code that `lint` and `refused` can report."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """A finding and how grave it is."""

    severity: Severity
    finding: Finding


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A finding that a comment silences, and the comment's reason."""

    finding: Finding
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """What was found, sorted by place; `untold` counts findings beyond the bound of one rule."""

    complaints: tuple[Complaint, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    untold: int = 0

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(each.severity == "error" for each in self.complaints)

    @property
    def warnings(self) -> int:
        """How many findings are warnings."""
        return len(self.complaints) - self.errors


def refused(error: BundleError) -> Result:
    """A bundle that does not load, in the same form: every finding is an error, and none can be silenced."""
    return Result(tuple(Complaint("error", finding) for finding in error.findings))


def lint(bundle: Bundle, facts: Facts | None = None) -> Result:
    """Run every rule.  The same bundle and facts give the same result."""
    ground = Ground(bundle, facts or Facts())
    comments = _Comments(ground)
    complaints = list(comments.odd)
    suppressed: list[Suppressed] = []
    untold = 0
    for rule in RULES.values():
        hits = rule.find(ground)
        for hit in islice(hits, MOST_OF_ONE):
            finding = _finding(ground, rule.code, hit)
            why = comments.why(finding)
            if why is None:
                complaints.append(Complaint(rule.severity, finding))
            else:
                suppressed.append(Suppressed(finding, why))
        untold += sum(1 for _ in hits)
    if not untold:  # a comment may be about a finding that was not told
        complaints += comments.idle()
    complaints.sort(key=lambda each: _order(each.finding))
    suppressed.sort(key=lambda each: _order(each.finding))
    return Result(tuple(complaints), tuple(suppressed), untold)


def _finding(ground: Ground, code: str, hit: Hit) -> Finding:
    file, line, column = hit.place
    return Finding(code, file, line, column, hit.message, hit.help, ground.line(file, line).rstrip("\r")[:400])


def _order(finding: Finding) -> tuple[str, int, int, str, str]:
    return finding.file, finding.line, finding.column, finding.code, finding.message


class _Comments:
    """The comments of a bundle that silence a rule, each for the next line that is no comment."""

    def __init__(self, ground: Ground) -> None:
        self.odd: list[Complaint] = []
        self._ground = ground
        self._said: dict[tuple[str, int, str], tuple[int, int, str]] = {}
        self._used: set[tuple[str, int, str]] = set()
        for file, text in ground.bundle.texts.items():
            if "lint:" in text and PurePosixPath(file).parts[0] != "tests":
                self._read(file, text)

    def _read(self, file: str, text: str) -> None:
        waiting: list[tuple[str, int, int, str]] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not _COMMENT.match(line):
                for code, at, column, why in waiting:
                    self._said[file, number, code] = (at, column, why)
                waiting = []
                continue
            found = _ALLOW.search(line)
            if found is None:
                continue
            code, why, column = found["code"], found["why"], found.start() + 1
            if code not in RULES:
                self._odd(file, number, column, f"'{code[:60]}' is no rule that can be silenced", suggest(code, RULES))
            elif why is None:
                self._odd(file, number, column, "the comment gives no reason", f"write '# lint: allow {code} because …'")
            else:
                waiting.append((code, number, column, why.strip()))
        for code, at, column, why in waiting:
            self._said[file, 0, code] = (at, column, why)

    def _odd(self, file: str, line: int, column: int, message: str, help_: str) -> None:
        hit = Hit((file, line, column), message, help_ or "write '# lint: allow RULE because …' above the line")
        self.odd.append(Complaint("error", _finding(self._ground, "odd-suppression", hit)))

    def why(self, finding: Finding) -> str | None:
        """The reason for which a finding is silenced, or None."""
        key = finding.file, finding.line, finding.code
        if finding.line and key in self._said:
            self._used.add(key)
            return self._said[key][2]
        return None

    def idle(self) -> Iterator[Complaint]:
        """Comments that silenced nothing."""
        for key, (line, column, _why) in self._said.items():
            if key not in self._used and self._could(key[2]):
                hit = Hit((key[0], line, column), f"'{key[2]}' finds nothing in the line below", "take the comment out")
                yield Complaint("warning", _finding(self._ground, "idle-suppression", hit))

    def _could(self, code: str) -> bool:
        """Whether the rule has the facts that it needs: without them it finds nothing, and a comment for it is not idle."""
        facts = self._ground.facts
        needed = {
            "differing-tool": facts.live, "missing-tool": facts.live, "unregistered-tool": facts.live,
            "silent-server": facts.live or facts.silent,
            "unfulfillable-duty": facts.duties is not None, "unknown-agent": facts.agents is not None,
            "unknown-server": facts.servers is not None, "shared-credential": facts.servers is not None,
            "ended-line": facts.now is not None,
        }  # fmt: skip
        return bool(needed.get(code, True))
