"""The page of a workflow: all of its calls, in a document that loads nothing, and what callers wrote is never markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from audit.story_page import ROWS, Seen, page
from audit.trace import Asked, CallFacts, Node, Rule, Shown, Story

from .conftest import NOON, Open
from .test_trace import SUBJECT, call, decision, ended, story

SEEN = Seen("example.org/ledger", 12, "unwitnessed: nobody outside", NOON)
TAGS = frozenset(
    {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "b", "span", "br", "code", "div", "svg", "line", "text"}
    | {"g", "path", "details", "summary", "table", "tr", "th", "td", "ul", "li", "pre"}
)
ATTRIBUTES = frozenset(
    {"lang", "charset", "name", "content", "http-equiv", "class", "tabindex", "role", "width", "height", "viewbox"}
    | {"x1", "y1", "x2", "y2", "x", "y", "text-anchor", "d"}
)


class Read(HTMLParser):
    """Every tag, attribute and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def facts(**more: object) -> CallFacts:
    plain = CallFacts(
        "c1",
        3,
        NOON,
        ("user:corp/ann", "agent:planner"),
        "mcp",
        "tools/call",
        "erp",
        "pay",
        "call",
        "erp.pay",
        "allow",
        "allowed",
        "ok",
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def told(*calls: CallFacts, workflow: str = "wf") -> str:
    root = Node("user", "user:corp/ann", children=tuple(Node("call", each.resource, each) for each in calls))
    return page(Story(workflow, root, NOON, NOON, len(calls), 0, 0), SEEN)


async def test_a_page_shows_every_call_its_decision_and_what_it_carried(path: Path, open_journal: Open) -> None:
    refused = decision((SUBJECT, True), ("agent:risk", False), reason="actor-lacks-right")
    found = await story(
        open_journal,
        path,
        call("c1", ("agent:planner",), "risk"),
        call(
            "c2",
            ("agent:planner", "agent:risk"),
            "erp",
            "pay",
            "c1",
            kind="decision.deny",
            decision=refused,
            refused={"code": "x"},
        ),
        ended("c1"),
    )
    read = Read(page(found, SEEN))
    text = " ".join(read.texts)
    for said in (
        "user:corp/ann → agent:planner",
        "request of c1",
        "response of c1",
        "denied: x",
        "PRO-2 (people.csv:14)",
        "PRO-3",
        "c2",
    ):
        assert said in text, said
    assert read.tags.count("details") == 2
    assert set(read.tags) <= TAGS
    assert "unwitnessed" in text


def test_the_page_holds_no_script_and_may_load_nothing() -> None:
    text = told(facts())
    assert "default-src 'none'" in text
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(Read(text).tags)


hostile = st.text(max_size=30) | st.sampled_from(
    [
        '"><script>alert(1)</script>',
        "</pre><img src=x onerror=alert(1)>",
        "</title>",
        "\u202egnp.exe",
        "\x1b[31m",
        "]]>",
        "&lt;",
        "' onload='",
    ]
)


@given(hostile, hostile, hostile, hostile)
def test_whatever_callers_wrote_is_text(one: str, two: str, three: str, four: str) -> None:
    asked = (Asked(one, two, three, allowed=False, rules=(Rule(two, four),), near=(Rule(one, one),), resource=four),)
    said = facts(
        id=one,
        who=(one, two),
        method=three,
        target=two,
        tool=one,
        action=four,
        resource=three,
        reason=four,
        outcome=two,
        asked=asked,
        detail=one,
        policy=two,
        obligations=(three,),
        trace=four,
        request=Shown("shown", 3, one),
        response=Shown("damaged", 4),
        effect="deny" if len(one) % 2 else "allow",
    )
    read = Read(told(said, workflow=two))
    assert set(read.tags) <= TAGS
    assert read.attributes <= ATTRIBUTES
    assert all(c.isprintable() or c == "\n" or c == "\t" for piece in read.texts for c in piece)


def test_calls_that_look_the_same_are_one_line_of_the_picture_and_cards_of_their_own() -> None:
    text = told(*(facts(id=f"c{n}", index=n) for n in range(412)))
    assert "pay ×412" in text
    assert Read(text).tags.count("details") == 412


def test_a_picture_of_very_many_different_calls_is_bounded_and_says_so() -> None:
    text = told(*(facts(id=f"c{n}", index=n, tool=f"t{n}", resource=f"erp.t{n}") for n in range(ROWS + 5)))
    assert f"the first {ROWS} of {ROWS + 5} lines" in text
    assert Read(text).tags.count("details") == ROWS + 5
    assert Read(text).tags.count("g") == ROWS


def test_a_page_says_of_a_chain_that_was_joined_by_a_trace_that_it_is_not_proven() -> None:
    assert "the chain is correlated, not proven" in told(facts(assurance="correlated"))
    for proven in ("pop", "bearer", ""):
        assert "not proven" not in told(facts(assurance=proven))
