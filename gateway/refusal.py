"""How a call ends that is not made, or whose upstream fails: exceptions of the road, which `gateway.model` hands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from policies.model import NOTHING

if TYPE_CHECKING:
    from gateway.model import Call, Principal
    from gateway.reasons import Code
    from policies.model import AccessRequest, Decision


class Refused(Exception):  # noqa: N818  the word of the house: a call is refused
    """The gateway says no.  `code` is from the closed list; `detail` is for the ledger and never for the wire."""

    challenge: tuple[tuple[str, str], ...] = ()
    """Header lines that tell the caller how to prove itself, where the protocol's own challenge would mislead it."""
    receipt: Mapping[str, object] | None = None
    """Where the refusal stands in the ledger, for a caller that is known to keep."""

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        decision: Decision | None = None,
        request: AccessRequest | None = None,
        call: Call | None = None,
        principal: Principal | None = None,
        data: Mapping[str, object] = NOTHING,
    ) -> None:
        super().__init__(f"{code.value}: {detail}" if detail else code.value)
        self.code = code
        self.detail = detail
        self.decision = decision
        self.request = request
        self.call = call
        self.principal = principal
        self.data = data  # protocol facts that belong on the wire, as {"supported": [...]}


class UpstreamError(Exception):
    """The upstream could not be reached or did not answer as its protocol demands.  `kind` is for metrics and the ledger."""

    def __init__(
        self, kind: Literal["connect", "timeout", "protocol", "too-large", "closed", "status"], detail: str = ""
    ) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail
