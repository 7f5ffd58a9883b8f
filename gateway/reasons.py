"""The closed list of codes by which the gateway refuses, a line of prose each.  Adding one is a reviewed act."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why a call was refused.  The value is stable: it stands in the ledger, in metrics and (where `on_wire`) in answers."""

    # who
    NO_CREDENTIAL = "no-credential"
    INVALID_CREDENTIAL = "invalid-credential"
    REVOKED = "revoked"
    SCOPE_REQUIRED = "scope-required"
    # what
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    HEADER_MISMATCH = "header-mismatch"
    UNSUPPORTED_VERSION = "unsupported-version"
    UNKNOWN_METHOD = "unknown-method"
    UNKNOWN_TARGET = "unknown-target"
    UNKNOWN_SESSION = "unknown-session"
    INVALID_PARAMS = "invalid-params"
    AMBIGUOUS = "ambiguous"
    BAD_ORIGIN = "bad-origin"
    # what a server asks of the client
    QUESTION_REFUSED = "question-refused"
    QUESTION_UNANSWERED = "question-unanswered"
    # may they
    UNKNOWN_RESOURCE = "unknown-resource"
    USER_LACKS_RIGHT = "user-lacks-right"
    AGENT_LACKS_RIGHT = "agent-lacks-right"
    GUARDRAIL = "guardrail"
    DECISION_ERROR = "decision-error"
    NOT_OWNER = "not-owner"
    INSUFFICIENT_SCOPE = "insufficient-scope"
    DEFINITION_HELD = "definition-held"
    DEFINITION_UNKNOWN = "definition-unknown"
    CARD_UNVERIFIED = "card-unverified"
    # what came before, in the workflow
    STEP_MISSING = "step-missing"
    STEP_TOO_LATE = "step-too-late"
    STEP_LOCKED = "step-locked"
    STEP_REPEATED = "step-repeated"
    SAME_HANDS = "same-hands"
    BUDGET_SPENT = "budget-spent"
    NOT_IN_WORKFLOW = "not-in-workflow"
    DATAFLOW = "dataflow"
    WORKFLOW_UNKNOWN = "workflow-unknown"
    # duties
    UNKNOWN_DUTY = "unknown-duty"
    DUTY_FAILED = "duty-failed"
    CONTENT_REFUSED = "content-refused"
    LIMIT_REACHED = "limit-reached"
    STEP_UP_REQUIRED = "step-up-required"
    APPROVAL_REQUIRED = "approval-required"
    APPROVAL_DENIED = "approval-denied"
    ISOLATION_UNPROVEN = "isolation-unproven"
    DESTINATION_REFUSED = "destination-refused"
    # delegation
    DELEGATION_LOOP = "delegation-loop"
    DELEGATION_TOO_DEEP = "delegation-too-deep"
    # the credential for the way on
    CREDENTIAL_UNAVAILABLE = "credential-unavailable"
    CONSENT_REQUIRED = "consent-required"
    # the gateway itself
    LEDGER_UNAVAILABLE = "ledger-unavailable"
    OVERLOADED = "overloaded"
    INTERNAL_ERROR = "internal-error"


PROSE: dict[Code, str] = {
    Code.NO_CREDENTIAL: "The request carries no credential.",
    Code.INVALID_CREDENTIAL: "The credential is not valid here: issuer, audience, signature, type, time or holder is wrong.",
    Code.REVOKED: "The person, an agent of the chain, the workflow or the token has been revoked.",
    Code.SCOPE_REQUIRED: "The token is good, and lacks a scope that tokens of its issuer must have here.",
    Code.MALFORMED: "The message is not one well-formed message of its protocol.",
    Code.TOO_LARGE: "The request is larger or deeper than the gateway accepts.",
    Code.HEADER_MISMATCH: "A routing header says something else than the body.",
    Code.UNSUPPORTED_VERSION: "The protocol revision is not one that is served here.",
    Code.UNKNOWN_METHOD: "The method is not one that is served here.",
    Code.UNKNOWN_TARGET: "There is no such server or agent, or this caller may not know of it.",
    Code.UNKNOWN_SESSION: "The session is unknown, ended, or another caller's.",
    Code.INVALID_PARAMS: "The parameters do not fit the method.",
    Code.AMBIGUOUS: "Several servers have what the address names: it must be asked of one of them by its own URL.",
    Code.BAD_ORIGIN: "The request comes from a web origin that is not allowed.",
    Code.QUESTION_REFUSED: "A server asked the client for what it may not ask for, or what the client did not offer to answer.",
    Code.QUESTION_UNANSWERED: "A server asked the client for what it needs for the call, and got no answer in time, or an error.",
    Code.UNKNOWN_RESOURCE: "Nothing of that name is registered in the policy bundle.",
    Code.USER_LACKS_RIGHT: "The person on whose behalf the call is made has no right to it.",
    Code.AGENT_LACKS_RIGHT: "An agent in the chain has no right to make or to relay the call.",
    Code.GUARDRAIL: "A deny rule forbids the call.",
    Code.DECISION_ERROR: "The decision could not be made, and so it is a denial.",
    Code.NOT_OWNER: "The task or context belongs to somebody else.",
    Code.INSUFFICIENT_SCOPE: "The workflow was begun for less than this.",
    Code.DEFINITION_HELD: "The server's definition of what is called is not the one that was approved or seen first.",
    Code.DEFINITION_UNKNOWN: "The server did not say what its definition of what is called is now.",
    Code.CARD_UNVERIFIED: "The agent shows no card that a pinned key signed, and its settings stop calls to it then.",
    Code.STEP_MISSING: "In this workflow something else must have succeeded first.",
    Code.STEP_TOO_LATE: "In this workflow the time for this step is over.",
    Code.STEP_LOCKED: "In this workflow something was begun that must end before anything else is done.",
    Code.STEP_REPEATED: "In this workflow this may be done once.",
    Code.SAME_HANDS: "Another agent or another person must do this than the one who did a step before.",
    Code.BUDGET_SPENT: "What this may be done for, or how often, is spent; running calls count.",
    Code.NOT_IN_WORKFLOW: "This is no part of the workflow.",
    Code.DATAFLOW: "What came into this workflow before may not leave it by this way.",
    Code.WORKFLOW_UNKNOWN: "The workflow was begun under a name that the policy does not know, or not any more.",
    Code.UNKNOWN_DUTY: "The policy demands a duty that this gateway does not know.",
    Code.DUTY_FAILED: "A duty that the policy demands could not be fulfilled.",
    Code.CONTENT_REFUSED: "What was sent, or the answer to it, holds something that a duty lets nobody send or see.",
    Code.LIMIT_REACHED: "There were too many such calls, or are too many at once, or this one is too large.",
    Code.STEP_UP_REQUIRED: "The person has to prove who they are more strongly, or anew, before this is done in their name.",
    Code.APPROVAL_REQUIRED: "A person has to approve this very call first; it is asked again once they have.",
    Code.APPROVAL_DENIED: "The person who was asked to approve this very call said no.",
    Code.ISOLATION_UNPROVEN: "The isolation that the profile asks for could not be proven on this machine.",
    Code.DESTINATION_REFUSED: "The code's profile does not list this host and port, or it leads where no code may connect.",
    Code.DELEGATION_LOOP: "The agent stands in the chain already.",
    Code.DELEGATION_TOO_DEEP: "The chain of agents is as long as it may get.",
    Code.CREDENTIAL_UNAVAILABLE: "The credential that the upstream wants could not be had.",
    Code.CONSENT_REQUIRED: "The person has to let the gateway use their account at the upstream first.",
    Code.LEDGER_UNAVAILABLE: "The call cannot be recorded, and so it is not made.",
    Code.OVERLOADED: "The gateway has as much work as it accepts; try again later.",
    Code.INTERNAL_ERROR: "The gateway failed; the call was not allowed.",
}
