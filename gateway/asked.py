"""What a body of the gateway's own API asks for: JSON said to be JSON, every member once, within bounds of size and time.

What two parsers could read in two ways asks for nothing: the ledger must say what was wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from gateway.asgi import small_body
from gateway.identity import strictjson
from gateway.model import Refused

if TYPE_CHECKING:
    from fastapi import Request

MAX_DEPTH: Final = 8
M = TypeVar("M", bound=BaseModel)


async def asked(request: Request, model: type[M], limit: int) -> M:
    """The wish, or RequestValidationError, which names the member and repeats nothing of it; at most `limit` bytes are read."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise invalid("the body is JSON: send 'Content-Type: application/json'")
    try:
        body = await small_body(request.receive, limit)
    except Refused as refusal:
        raise invalid(f"the body is {refusal.code.value}") from None
    try:
        strictjson.loads(body, MAX_DEPTH)
    except ValueError as error:
        raise invalid(f"the body is not JSON that is read here: {error}") from None
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None


def invalid(text: str, *where: str) -> RequestValidationError:
    """That the body, or a member of it, asks for nothing that can be had."""
    return RequestValidationError([{"loc": ("body", *where), "msg": text}])
