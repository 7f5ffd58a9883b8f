"""Which records and fields speak to which demand of which framework.  Guidance: an auditor decides what counts as evidence."""

from __future__ import annotations

from typing import Final, NamedTuple

NOTICE: Final = "guidance, not legal advice: your auditor decides what counts as evidence"


class Control(NamedTuple):
    """A demand, and where the ledger speaks to it.  fields: members of records; verbs: what shows it."""

    framework: str
    clause: str
    asks: str
    fields: tuple[str, ...]
    verbs: tuple[str, ...]


CONTROLS: Final = (
    Control(
        "SOC 2", "CC6.1", "access by authorised people alone", ("subject", "chain", "auth", "decision"), ("search effect:deny",)
    ),
    Control("SOC 2", "CC7.2", "anomalies are noticed", ("refused", "outcome"), ("report", "search --count-by reason")),
    Control("SOC 2", "CC7.3", "events are evaluated", ("audit.review", "identity.kill"), ("review", "report")),
    Control("SOC 2", "CC8.1", "changes are authorised", ("policy.activate", "policy.reload"), ("search kind:policy.*",)),
    Control(
        "ISO/IEC 42001",
        "A.6.2.8",
        "events of the AI system are logged",
        ("call.start", "call.end", "policy"),
        ("report", "trace"),
    ),
    Control(
        "EU AI Act",
        "Art. 12(1)",
        "events are recorded over the lifetime",
        ("ts", "workflow", "policy.activate"),
        ("report", "trace"),
    ),
    Control(
        "EU AI Act", "Art. 12(2)", "risks and changes can be found", ("decision", "policy.activate"), ("reproduce", "search")
    ),
    Control("EU AI Act", "Art. 19, 26(6)", "logs are kept six months at least", ("log.checkpoint",), ("verify",)),
    Control(
        "HIPAA",
        "164.312(b)",
        "activity in systems with health data is examined",
        ("subject", "resource", "request"),
        ("search", "review"),
    ),
    Control("HIPAA", "164.312(c)(1)", "data is not altered unnoticed", ("writer", "log"), ("verify", "prove")),
    Control(
        "PCI DSS 4.0.1",
        "10.2.1",
        "who, what, when, where, outcome",
        ("chain", "resource", "ts", "target", "outcome"),
        ("search", "show"),
    ),
    Control(
        "PCI DSS 4.0.1", "10.2.1.3", "access to audit logs is logged", ("audit.read", "audit.export"), ("search kind:audit.*",)
    ),
    Control("PCI DSS 4.0.1", "10.3", "logs are protected from change", ("writer", "log"), ("verify", "witness")),
    Control("PCI DSS 4.0.1", "10.4.1", "logs are reviewed", ("audit.review",), ("review", "report")),
    Control("PCI DSS 4.0.1", "10.7", "failures of logging are noticed", ("writer.start", "call.orphaned"), ("report",)),
)
"""Kinds of records and members of them, as `docs/reference/records.md` has them."""
