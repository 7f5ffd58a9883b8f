"""A run as an MCP tool result, bounded: what it printed, how it ended, what was proven; its files as links, small ones whole."""

from __future__ import annotations

import base64
from typing import Any, Final

from gateway.sandbox.kept import File
from gateway.sandbox.runs import Ran
from sandbox.model import Reason

INLINE_TEXT: Final = 16 << 10
INLINE_IMAGE: Final = 512 << 10
INLINE_ALL: Final = 1 << 20
"""Bytes of one text file, of one image, and of all files that stand in a result whole; every file is also a link."""


def result_of(ran: Ran) -> dict[str, Any]:
    """As `CallToolResult`: a run that did not end well is an error, which the model reads."""
    run = ran.run
    failed = run.reason != "ok"
    said = run.to_dict() | ({"detail": ""} if run.reason == Reason.SANDBOX_ERROR else {})  # it may name folders of this machine
    shown, blocks = _files(ran.files)
    structured = said | {
        "profile": ran.profile.name,
        "files": shown,
        "files_skipped": [{"name": name, "why": why} for name, why in ran.not_kept],
        "calls": {"made": ran.beside.calls, "refused": ran.beside.refused},
        "connections": ran.beside.connections,
    }
    text = "\n".join(part for part in (str(said["stdout"]), str(said["stderr"])) if part)
    if failed:
        detail = f" ({said['detail']})" if said["detail"] else ""
        text = f"{text}\nThe run ended: {run.reason}{detail}".strip()
    return {"content": [{"type": "text", "text": text}, *blocks], "structuredContent": structured, "isError": failed}


def _files(files: tuple[File, ...]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the structured result says of each file, and the blocks beside it: links, and images that are small."""
    shown, links, images, room = [], [], [], INLINE_ALL
    for file in files:
        entry: dict[str, Any] = {
            "name": file.name, "uri": file.uri, "mimeType": file.mime, "size": len(file.data), "sha256": file.sha256
        }  # fmt: skip
        size, text = len(file.data), file.text
        if text is not None and size <= min(INLINE_TEXT, room):
            entry["text"] = text
            room -= size
        elif file.mime.startswith("image/") and size <= min(INLINE_IMAGE, room):
            images.append({"type": "image", "data": base64.b64encode(file.data).decode("ascii"), "mimeType": file.mime})
            room -= size
        shown.append(entry)
        links.append({"type": "resource_link", **file.listed()})
    return shown, [*images, *links]
