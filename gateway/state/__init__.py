"""What replicas share and a restart keeps.  A thief of it learns who talked to which agent and when, and can act as nobody."""

from gateway.state.ownership import Contexts, Owner, Tasks
from gateway.state.store import State

__all__ = ["Contexts", "Owner", "State", "Tasks"]
