"""Settings of approvals: whom the gateway tells that a call waits for one."""

from __future__ import annotations

from pydantic import Field, HttpUrl, model_validator

from gateway.settings_base import Group, Secret


class ApprovalWebhook(Group):
    """Where it is told that a call waits for an approval; what the call says is not told."""

    url: HttpUrl
    secret: Secret
    """Of at least 24 bytes: signs each notice (HMAC-SHA256, as Standard Webhooks have it)."""
    private: bool = False
    """Whether it may have a private address, and speak http, as in one's own network."""
    seconds: float = Field(30, ge=1, le=3600)
    """How long to wait before it is tried again, for as long as the approval is open."""

    @model_validator(mode="after")
    def _secure(self) -> ApprovalWebhook:
        if self.url.scheme != "https" and not self.private:
            msg = "https, or `private` for one in your own network"
            raise ValueError(msg)
        return self


class Approvals(Group):
    """Calls that people must approve."""

    webhook: ApprovalWebhook | None = None
