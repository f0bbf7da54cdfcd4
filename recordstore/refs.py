"""References to records: an id, a :class:`RecordInfo` or a string such as ``"mnist@latest"``."""

from typing import NamedTuple

from recordstore.exceptions import InvalidTypeError, RecordNotFoundError
from recordstore.info import RecordInfo
from recordstore.validation import MAX_INT, check_int, show


class ById(NamedTuple):
    """The record of this id."""

    id: int


class Latest(NamedTuple):
    """The newest record of a run, or of the whole store (``run`` is None)."""

    run: str | None


class ByRound(NamedTuple):
    """The record of a round."""

    run: str
    round: int


class ByTag(NamedTuple):
    """The record with a tag in a run; a bare tag (``run`` is None) has to be unique."""

    run: str | None
    tag: str


Ref = ById | Latest | ByRound | ByTag


def parse_ref(ref: object) -> Ref:
    """Return what a user's reference asks for.

    Raises
    ------
    InvalidTypeError
        Neither an int, nor a RecordInfo, nor a str.
    RecordNotFoundError
        A reference that no record can ever have.
    """
    if isinstance(ref, RecordInfo):
        return ById(ref.id)
    if isinstance(ref, str):
        return _parse_text(ref)
    try:
        number = check_int("ref", ref)
    except InvalidTypeError:
        raise InvalidTypeError(
            f"a record is named by its id, a RecordInfo, or a str such as 'run@latest', not by {type(ref).__name__}"
        ) from None
    if not 0 < number <= MAX_INT:
        raise RecordNotFoundError(f"no record has the id {show(number)}: ids begin with 1")
    return ById(number)


def _parse_text(text: str) -> Ref:
    run, separator, rest = text.partition("@")
    if not separator:
        return _parse_bare(text)
    if not run or not rest or not _storable(text):
        raise RecordNotFoundError(f"{text!r} names no record; use 'run@latest', 'run@3' or 'run@tag'")
    if rest == "latest":
        return Latest(run)
    if rest.isascii() and rest.isdigit():
        return _parse_round(run, rest)
    return ByTag(run, rest)


def _parse_bare(text: str) -> Ref:
    if text == "latest":
        return Latest(None)
    if not text or text.isdigit() or not _storable(text):
        raise RecordNotFoundError(f"{text!r} names no record; use an int for an id, 'latest', 'run@3' or a tag")
    return ByTag(None, text)


def _parse_round(run: str, digits: str) -> Ref:
    if len(digits) > len(str(MAX_INT)) or int(digits) > MAX_INT:
        raise RecordNotFoundError(f"run {run!r} has no round {digits[:40]}")
    return ByRound(run, int(digits))


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
