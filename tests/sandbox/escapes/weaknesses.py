"""Cages with one layer left out, to show that the suite would see it.  In tests alone: nothing of this is in the package."""

from __future__ import annotations

import marshal
import os
import subprocess
from dataclasses import dataclass, replace
from typing import Any

from sandbox import cage, interpreter, plan, seccomp


@dataclass(frozen=True)
class Weakness:
    """A layer left out.  `inside`: module of the warden → text that takes a function's place; `breaches` that it must cost."""

    sentence: str
    breaches: frozenset[str]
    inside: dict[str, str]


_KEEP_FILES = """
def _careless(low, high):
    for fd in range(low, min(high, 256)):
        try:
            if os.fstat(fd).st_mode & 0o170000 != 0o100000: os.close(fd)
        except OSError:
            pass
os.closerange = _careless
"""
WEAKNESSES = {
    "no landlock": Weakness(
        "No Landlock domain, neither the warden's nor the code's.",
        frozenset({
            "read_a_file_by_its_path", "read_a_file_through_a_link", "append_to_a_file", "rename_a_file", "list_the_root",
            "read_the_gateways_environment", "steal_an_open_file_by_proc", "read_a_private_key", "signal_a_bystander",
            "open_the_wardens_memory", "read_another_runs_file", "run_su_at_all",
        }),
        {"confine": "def enter_domain(setup, *, proc):\n    pass\n"},
    ),
    "no domain of the code's own": Weakness(
        "The code stays in the warden's domain.",
        frozenset({"signal_the_warden", "open_the_wardens_memory", "open_the_wardens_socket"}),
        {"confine": "_outer = enter_domain\ndef enter_domain(setup, *, proc):\n    proc and _outer(setup, proc=proc)\n"},
    ),
    "no filter": Weakness(
        "No filter of system calls.",
        frozenset({
            "connect_to_a_named_socket", "send_by_udp", "send_from_a_pair_to_a_path", "change_a_mode", "change_times",
            "limit_a_bystander", "renice_a_bystander", "pin_a_bystander", "make_a_user_namespace", "keep_a_key",
            "make_memory_that_is_a_file", "attach_a_system_v_segment", "hide_from_the_watchdog", "outlive_ones_parent",
        }),
        {"confine": "def install_filter(encoded):\n    pass\n"},
    ),
    "no filter of the code's own": Weakness(
        "The warden's filter alone.",
        frozenset({"outlive_ones_parent", "stack_a_filter", "stack_a_domain"}),
        {"confine": "_one, had = install_filter, []\ndef install_filter(code):\n    had or (had.append(1), _one(code))\n"},
    ),
    "metadata": Weakness(
        "The filter lets modes and times be changed, which Landlock does not hold.",
        frozenset({"change_a_mode", "change_a_mode_by_descriptor", "change_times", "change_times_by_descriptor"}),
        {},
    ),
    "inherited descriptors": Weakness(
        "What the gateway has open and inheritable stays open.",
        frozenset({"find_an_inherited_descriptor", "read_an_inherited_descriptor"}),
        {"warden": _KEEP_FILES},
    ),
    "inherited environment": Weakness(
        "The gateway's environment instead of a fixed one.",
        frozenset({"find_a_secret_in_the_environment", "find_a_secret_in_memory"}),
        {},
    ),
    "no limits": Weakness(
        "No limit of a process.",
        frozenset({"feed_the_handler_of_core_dumps"}),
        {"warden": "def _rlimits(setup):\n    return {'RLIMIT_CPU': resource.getrlimit(resource.RLIMIT_CPU)}\n"},
    ),
}  # fmt: skip


def plant(name: str) -> None:
    """Weaken the sandbox of this process."""
    if not name:
        return
    weakness, asked = WEAKNESSES[name], interpreter._ask
    # Entered last, with the warden's own `main`: what is exchanged by then is what the warden will call.
    text = "import sys\n" + "".join(
        f"exec({source!r}, sys.modules['sandbox.inside.{module}'].__dict__)\n" for module, source in weakness.inside.items()
    )
    entry = ("planted", compile(text + "from sandbox.inside.warden import main\n", "planted", "exec"))

    def weakened(path: str, uid: int | None) -> interpreter.Interpreter:
        found = asked(path, uid)
        return replace(found, modules=marshal.dumps([*marshal.loads(found.modules), entry]))

    interpreter._ask = weakened
    if name == "metadata":
        seccomp._WITHOUT_EFFECT.clear()
    if name == "inherited environment":
        cage.ENVIRONMENT = plan.ENVIRONMENT = dict(os.environ)
    if name == "inherited descriptors":
        _leave_open()


def _leave_open() -> None:
    class Careless(subprocess.Popen[Any]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "close_fds": False})

    subprocess.Popen = Careless  # type: ignore[misc]  the tests' own gateway is meant to be careless
