"""What came of the tests, written out: JUnit's XML for machines, a page of coverage for people.

Whatever comes from a file is escaped, and what no XML may hold is left out.  The page loads nothing and runs nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from html import escape

from policies.coverage import Coverage, RuleCoverage
from policies.finding import Finding
from policies.testing import CaseResult, InvariantResult, Results

_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
body { color: #1b1f24; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 } th, td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top }
pre { margin: 0; font: 13px/1.5 ui-monospace, monospace } code { font: 13px ui-monospace, monospace }
.file { border: 1px solid #d0d7de; border-radius: 6px; overflow-x: auto; margin: .5rem 0 1.5rem }
.line { display: flex; white-space: pre; padding: 0 .5rem }
.line b { width: 3.5rem; flex: none; font-weight: 400; color: #57606a }
.line i { width: 11rem; flex: none; font-style: normal; color: #57606a }
.decisive { background: #d2f4d8 } .matched { background: #eef8e4 } .never { background: #ffdcd9 } .comment { color: #57606a }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 } .file { border-color: #30363d }
  .decisive { background: #12401f } .matched { background: #22330f } .never { background: #5c1512 }
  .comment, .line b, .line i { color: #8b949e }
}
"""


# --- JUnit


def junit(results: Results, unproven: Finding | None = None) -> str:
    """One suite a file, one test a row; `unproven`: what else keeps the bundle from going live, as a test of its own."""
    suites: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for case in results.cases:
        suites[case.case.source.file].append((case.case.title, case.case.source.line, _case_failure(case)))
    for each in results.invariants:
        suites[each.invariant.source.file].append((each.invariant.title, each.invariant.source.line, _broken(each)))
    if unproven is not None:
        failure = _failure(unproven.message, unproven.help)
        suites[unproven.file].append(("a denial is proven", 0, failure))
    total = sum(len(tests) for tests in suites.values())
    failures = sum(1 for tests in suites.values() for _, _, failure in tests if failure)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines.append(f'<testsuites name="bailiwick policy test" tests="{total}" failures="{failures}" errors="0">')
    for file, tests in suites.items():
        failed = sum(1 for _, _, failure in tests if failure)
        lines.append(f'  <testsuite name="{_xml(file)}" tests="{len(tests)}" failures="{failed}" errors="0" skipped="0">')
        for title, line, failure in tests:
            name = f'name="{_xml(title)}" classname="{_xml(file)}" file="{_xml(file)}" line="{line}"'
            lines.append(f"    <testcase {name}>{failure}</testcase>" if failure else f"    <testcase {name}/>")
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>", ""])


def _case_failure(case: CaseResult) -> str:
    if case.passed:
        return ""
    return _failure("; ".join(str(each) for each in case.differences), case.explanation)


def _broken(each: InvariantResult) -> str:
    if each.passed:
        return ""
    return _failure("it could be broken", "\n".join(violation.sentence for violation in each.violations))


def _failure(message: str, text: str) -> str:
    return f'<failure message="{_xml(message)}" type="failed">{_xml(text)}</failure>'


def _xml(text: str) -> str:
    """Text for an element or an attribute, without what no XML 1.0 may hold."""
    return escape(_NO_XML.sub("�", text)).replace("\n", "&#10;")


# --- the page


def coverage_html(results: Results, coverage: Coverage) -> str:
    """One page: figures, conditions, and every file of grants with its lines coloured."""
    bundle = results.bundle
    files = dict.fromkeys(each.rule.source.file for each in coverage.rules)
    figures = f"{coverage.exercised} of {len(coverage.rules)} rules spoke in {len(results.cases)} rows"
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Policy coverage</title>',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<style>{STYLE}</style></head><body>",
        "<h1>Policy coverage</h1>",
        f"<p>{figures} (<b>{coverage.percent:.1f} %</b>). Bundle <code>{escape(bundle.digest)}</code>.</p>",
        '<p><span class="decisive">a row hangs on it</span> <span class="matched">it spoke</span>',
        '<span class="never">never exercised</span></p>',
        *_conditions(coverage),
    ]
    for file in files:
        lines += _file(file, bundle.texts.get(file, ""), coverage.rules)
    return "\n".join([*lines, "</body></html>", ""])


def _conditions(coverage: Coverage) -> Iterable[str]:
    if not coverage.conditions:
        return
    yield "<h2>Conditions</h2><table><tr><th>condition<th>true<th>false<th>unknown<th>where</tr>"
    for each in coverage.conditions:
        style = "matched" if each.both_ways else "never"
        name, say = escape(each.condition.name), escape(each.condition.say)
        yield (
            f'<tr><td class="{style}"><code>{name}</code> {say}<td>{each.true}<td>{each.false}<td>{each.unknown}'
            f"<td>{escape(str(each.condition.source))}</tr>"
        )
    yield "</table>"


def _file(file: str, text: str, rules: tuple[RuleCoverage, ...]) -> Iterable[str]:
    by_line = {each.rule.source.line: each for each in rules if each.rule.source.file == file}
    yield f'<h2>{escape(file)}</h2><div class="file"><pre>'
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        each = by_line.get(number)
        if each is None:
            style, said = "comment", ""
        else:
            style = "decisive" if each.decisive else "matched" if each.matched else "never"
            said = f"{each.matched} rows, hung on {each.decisive}" if each.matched else "never"
        yield f'<span class="line {style}" id="{escape(file)}-{number}"><b>{number}</b><i>{said}</i>{escape(line)}</span>'
    yield "</pre></div>"
