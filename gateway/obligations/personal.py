"""Personal data by its form, as Presidio's recognisers find it; an extra, which works without a model and without a network.

It knows numbers and addresses by patterns and check digits, not names of people: no model of a language is loaded.  Texts are
bounded, each search has a time, and what was not searched to its end is refused.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from gateway.model import Refused
from gateway.reasons import Code

NAME: Final = "personal-data"
EXTRA: Final = "presidio"
_WINDOW: Final = 20_000
_OVERLAP: Final = 400
_LONGEST: Final = 100_000
_SCORE: Final = 0.4
_PATTERN_SECONDS: Final = 2.0
_RECOGNISERS: Final = (
    *("CreditCardRecognizer", "IbanRecognizer", "PhoneRecognizer", "UsSsnRecognizer", "UsItinRecognizer", "UkNinoRecognizer"),
    *("EsNifRecognizer", "ItFiscalCodeRecognizer", "FiPersonalIdentityCodeRecognizer", "InPanRecognizer", "SgFinRecognizer"),
)

Spans = Callable[[str], list[tuple[int, int]]]
_loaded: list[Spans] = []
_until = threading.local()


def installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("presidio_analyzer") is not None


def load() -> None:
    """Make ready what searches, once in a process: takes seconds.  ImportError where the extra is missing."""
    if not _loaded:
        _loaded.append(_analyser())


def spans(text: str) -> list[tuple[int, int]] | None:
    """Where each begins and ends; None for a text that is too long to be searched.

    `Refused(DUTY_FAILED)` where nothing searches here, or it took too long.
    """
    if not _loaded:
        raise Refused(Code.DUTY_FAILED, f"{NAME}: the settings have no inspect.personal_data")
    if len(text) > _LONGEST:
        return None
    found = []
    for start in range(0, max(len(text) - _OVERLAP, 1), _WINDOW - _OVERLAP):
        if time.monotonic() > getattr(_until, "at", float("inf")):
            raise Refused(Code.DUTY_FAILED, f"{NAME}: the search took too long")
        found += [(start + begin, start + end) for begin, end in _loaded[0](text[start : start + _WINDOW])]
    return sorted(found)


def within(seconds: float) -> None:
    """What this thread searches from now on must be done by then."""
    _until.at = time.monotonic() + seconds


class _TooSlowError(Exception):
    """Of a pattern; no TimeoutError, which Presidio would pass over, and with it what there is to be found."""


class _Strict:
    """A compiled pattern whose search ends in time, or ends everything."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def finditer(self, text: str, **_said: Any) -> Iterator[Any]:
        try:
            yield from self._compiled.finditer(text, timeout=_PATTERN_SECONDS, concurrent=True)
        except TimeoutError:
            raise _TooSlowError from None


def _analyser() -> Spans:
    import regex  # noqa: PLC0415  an extra: only who has personal data looked for pays for it
    import spacy  # noqa: PLC0415  as above
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry, predefined_recognizers  # noqa: PLC0415  as above
    from presidio_analyzer.nlp_engine import SpacyNlpEngine  # noqa: PLC0415  as above
    from tldextract import TLDExtract  # noqa: PLC0415  as above

    domains = TLDExtract(suffix_list_urls=(), cache_dir=None)  # its own would fetch a list

    class Email(predefined_recognizers.EmailRecognizer):  # type: ignore[misc]  # untyped where the extra is missing
        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).fqdn)

    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.nlp = {"en": spacy.blank("en")}  # tokens alone: nothing is downloaded
    found = [Email(), *(getattr(predefined_recognizers, name)(supported_language="en") for name in _RECOGNISERS)]
    for recogniser in found:
        for pattern in getattr(recogniser, "patterns", ()):
            flags = recogniser.global_regex_flags
            pattern.compiled_regex = _Strict(regex.compile(pattern.regex, flags=flags))
            pattern.compiled_with_flags = flags
    analyser = AnalyzerEngine(
        registry=RecognizerRegistry(recognizers=found, supported_languages=["en"]),
        nlp_engine=engine,
        supported_languages=["en"],
        default_score_threshold=_SCORE,
    )

    def search(text: str) -> list[tuple[int, int]]:
        try:
            return [(each.start, each.end) for each in analyser.analyze(text, "en")]
        except _TooSlowError:
            raise Refused(Code.DUTY_FAILED, f"{NAME}: the search took too long") from None

    search("warm up")
    return search
