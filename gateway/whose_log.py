"""Whose log somebody reads over the API: where each tenant has its own, that of their tenant, and no other tenant's.

The gateway's own is for the people of the gateway's tenant.  Every other name is refused alike, be it a log's or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Query

from gateway.reasons import Code
from gateway.stores import LOG, ROOT, of_log, several

if TYPE_CHECKING:
    from fastapi import Request

    from gateway.administration import Administration
    from gateway.model import Principal
    from gateway.settings import Settings

LogName = Annotated[str, Query(alias="log", max_length=63)]


@dataclass(frozen=True, slots=True)
class Whose:
    """Finds the log."""

    settings: Settings
    administration: Administration

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return several(self.settings)

    async def of(self, request: Request, principal: Principal, name: str = "", *, root: bool = False) -> Settings:
        """The settings as the log has them, by its name or (of none) that of the caller's tenant; `Refused` for another's.

        root  whether the root log may be meant, too.
        """
        own = principal.tenant if self.several else LOG
        may = {"", own} | ({LOG} | ({ROOT} if root else set()) if principal.tenant == self.settings.tenant else set())
        if name not in may:
            await self.administration.refuse(request, principal, Code.USER_LACKS_RIGHT, "of another tenant")
        return of_log(self.settings, name or own)
