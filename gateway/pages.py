"""Pages for people at a browser: no script, nothing from elsewhere; and the forms that come back, read in one way only."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from fastapi.responses import HTMLResponse

from gateway.asgi import small_body
from gateway.model import Refused

if TYPE_CHECKING:
    from fastapi import Request

MOST_MEMBERS: Final = 16
HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_STYLE: Final = (
    "body{font:16px/1.5 sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}button{font:inherit;padding:.4rem 1rem}"
    "pre{overflow:auto;padding:1rem;border:1px solid}input{font:inherit;width:100%}"
)


def page(status: int, title: str, body: str, *, refresh: str = "", origin: bool = False) -> HTMLResponse:
    """A page of this body, which is HTML; with `origin` its form may say where it comes from, which no-referrer would hide."""
    onward = f'<meta http-equiv="refresh" content="0;url={escape(refresh)}">' if refresh else ""
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">{onward}'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>{body}</html>"
    )
    headers = {**HEADERS, "Referrer-Policy": "same-origin"} if origin else HEADERS
    return HTMLResponse(text, status, headers=dict(headers))


async def form(request: Request, most: int) -> Mapping[str, str]:
    """The members of a form of at most so many bytes, each once; ValueError for what is none."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise ValueError("not a form")
    try:
        pairs = parse_qsl((await small_body(request.receive, most)).decode("ascii"), max_num_fields=MOST_MEMBERS)
    except Refused:
        raise ValueError("the form does not come whole") from None
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members
