"""Names that are not the names of tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.poison.subject import Subject
from policies.lookalike import skeleton
from policies.pinning import Grade
from policies.unseen import shown

GRADE: Grade = "medium"
_NAME: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")


def find(subject: Subject) -> Iterator[tuple[str, str]]:
    """A tool's or prompt's name holds other characters than `A-Z a-z 0-9 _ - . /`, or is longer than 128; or its title reads like
    the name of another server's tool.

    Letters of another script, spaces and marks make a name look like one that is known; a title is shown in its place.

    A tool of such a name cannot be registered in `tools.yaml`.
    """
    if subject.what in {"tool", "prompt"} and not _NAME.fullmatch(subject.name):
        yield "name", f"no name of a {subject.what}: {ascii(subject.name[:80])[1:-1]}"
    title = subject.definition.get("title") if isinstance(subject.definition, dict) else None
    if isinstance(title, str) and title != subject.name:
        alike = {skeleton(name): (name, server) for name, server in subject.elsewhere.items() if server != subject.server}
        name, server = alike.get(skeleton(title.strip().replace(" ", "_")), ("", ""))
        if server and skeleton(name) != skeleton(subject.name):
            yield "title", f"it reads like the tool '{shown(name)}' of the server '{server}'"
