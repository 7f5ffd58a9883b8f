"""Settings of `inspect`: who searches calls and answers beside the gateway's own detectors, and how much of that there may be."""

from __future__ import annotations

from pydantic import Field, HttpUrl, model_validator

from gateway.settings_base import Group, Secret, Slug


class Guard(Group):
    """A service that is asked what becomes of a call or an answer, where a duty names it."""

    url: HttpUrl
    token: Secret | None = None
    """What it wants to see, as `Authorization: Bearer …`."""
    private: bool = False
    """Whether it may have a private address, and speak http."""
    seconds: float = Field(2.0, gt=0, le=30)
    """How long it may take; afterwards the call is refused."""

    @model_validator(mode="after")
    def _is_https(self) -> Guard:
        if self.url.scheme != "https" and not self.private:
            msg = "url: it must be https, or private: true"
            raise ValueError(msg)
        return self


class Inspect(Group):
    """Searches of what is sent and answered."""

    personal_data: bool = False
    """Whether the detector `personal-data` is there: it needs the extra `presidio`, and some seconds at the start."""
    workers: int = Field(2, ge=1, le=16)
    """Searches at once, of those that take time."""
    seconds: float = Field(5.0, gt=0, le=60)
    """How long one may take; afterwards the call is refused."""
    guards: dict[Slug, Guard] = Field(default_factory=dict)

    @property
    def known(self) -> frozenset[str]:
        """Guards, and the detectors that are switched on here."""
        return frozenset(self.guards) | (frozenset(["personal-data"]) if self.personal_data else frozenset())
