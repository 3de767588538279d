"""The closed set of words a refusal or a failure is reported with."""

import enum


class Reason(enum.StrEnum):
    """Why an order was not carried out. Values travel in ``ActionResult.reason``."""

    # The order itself, see verify.
    TOO_LARGE = "too_large"
    BAD_SIGNATURE = "bad_signature"
    MALFORMED = "malformed"
    TYPE_NOT_ALLOWED = "type_not_allowed"
    OTHER_TENANT = "other_tenant"
    OTHER_HOST = "other_host"
    OTHER_SESSION = "other_session"
    LIFE_TOO_LONG = "life_too_long"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    REPLAYED = "replayed"

    # What it aims at, see guardrails and kill.
    PID_1 = "pid_1"
    KERNEL_THREAD = "kernel_thread"
    OWN_PROCESS = "own_process"
    PROTECTED = "protected"
    PID_REUSED = "pid_reused"
    OTHER_PROCESS = "other_process"
    EXE_CHANGED = "exe_changed"
    EXE_UNREADABLE = "exe_unreadable"
    GONE = "gone"
    NOT_PERMITTED = "not_permitted"

    # The responder's own state, see app and journal.
    RATE_LIMITED = "rate_limited"
    JOURNAL_FULL = "journal_full"
    JOURNAL_FAILED = "journal_failed"
    INTERRUPTED = "interrupted"
