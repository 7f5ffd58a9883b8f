"""The state store: opened once, shared by every replica that names the same URL."""

from __future__ import annotations

from gateway.model import random16
from gateway.state.approvals import ApprovalRows
from gateway.state.cards import CardRows
from gateway.state.database import open_engine
from gateway.state.definitions import Definitions
from gateway.state.erasing import PersonRows
from gateway.state.grants import Grants
from gateway.state.histories import Histories
from gateway.state.hops import HandedHops
from gateway.state.kills import KillRows
from gateway.state.limits import LimitRows
from gateway.state.outbox import Outbox
from gateway.state.ownership import Contexts, Tasks
from gateway.state.push import PushRows
from gateway.state.standing import Standings
from gateway.state.subject_tokens import SubjectTokens
from gateway.state.used import Once
from gateway.state.vault import Tickets, Vaulted
from gateway.state.worker import Worker


class State:
    """What stands in it, by subject.  Every method is durable on return, and none blocks the event loop."""

    def __init__(self, worker: Worker, history_days: int = 30) -> None:
        """`history_days`: for how long histories of workflows are kept after their ends."""
        self._worker = worker
        self.replica = random16().hex()
        """This process's word for itself in notices."""
        self.contexts = Contexts(worker)
        self.tasks = Tasks(worker, self.contexts)
        self.once = Once(worker)
        self.subject_tokens = SubjectTokens(worker)
        self.kills = KillRows(worker, self.replica)
        self.hops = HandedHops(worker)
        self.grants = Grants(worker)
        self.vaulted = Vaulted(worker)
        self.tickets = Tickets(worker)
        self.definitions = Definitions(worker)
        self.push = PushRows(worker)
        self.histories = Histories(worker, history_days * 86_400)
        self.people = PersonRows(worker, self.histories.forget)
        self.standings = Standings(worker)
        self.cards = CardRows(worker)
        self.limits = LimitRows(worker)
        self.approvals = ApprovalRows(worker)
        self.outbox = Outbox(worker)

    @classmethod
    def open(cls, url: str, history_days: int = 30) -> State:
        """Open and migrate the store (`sqlite:///…` or `postgresql+psycopg://…`); blocks.  ProblemError where that fails."""
        engine, threads = open_engine(url)
        return cls(Worker(engine, threads), history_days)

    async def close(self) -> None:
        """Finish what waits and let go of the database."""
        await self._worker.close()
