"""Settings of what is more than one request and one answer: a server's questions, and streams."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, HttpUrl, StringConstraints, model_validator

from gateway.settings_base import Group, Secret

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


class Push(Group):
    """Whose webhooks get news of tasks (A2A push notifications); none, where neither names any."""

    hosts: tuple[Annotated[str, StringConstraints(pattern=r"^(\*|(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)$")], ...] = Field(
        (), max_length=256
    )
    """Hosts on the Internet, by https: a name, `*.` and a domain, or `*` for any."""
    private: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9.:\[\]-]{1,255}:[0-9]{1,5}$")], ...] = Field(
        (), max_length=256
    )
    """`host:port` of those that may have a private address, and speak http."""


class Notify(Group):
    """Who is told of calls, where a duty says so: a webhook, and the secret by which it knows that the gateway speaks."""

    url: HttpUrl
    secret: Secret
    """Signs what is sent (Standard Webhooks): `whsec_` and base64, or any text of at least 24 bytes."""
    private: bool = False
    """Whether it may have a private address, and speak http."""

    @model_validator(mode="after")
    def _is_https(self) -> Notify:
        if self.url.scheme != "https" and not self.private:
            msg = "url: it must be https, or private: true"
            raise ValueError(msg)
        return self


class Questions(Group):
    """What a server may ask clients, where policy grants that it may ask at all."""

    max_tokens: int = Field(4096, ge=1, le=1_000_000)
    """The most that it may have the client's model write at once."""
    url_hosts: tuple[HostName, ...] = Field((), max_length=256)
    """Hosts to which it may send the person, exactly."""
    unasked: Literal["pass", "drop"] = "pass"
    """Answers of the stateless era to questions that are not known to have been asked; on record as such, passed on or not."""
