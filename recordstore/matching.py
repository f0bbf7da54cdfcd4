"""Whether the arrays of a record fit into a target: names, shapes and dtypes, before a byte of it is overwritten."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from recordstore.destinations import Destination
from recordstore.digest import shape_json
from recordstore.exceptions import MismatchError
from recordstore.repository import StoredArrayRow

WRAPPERS = ("module.", "_orig_mod.")
"""What ``DistributedDataParallel`` and ``torch.compile`` put before each name."""

SHOWN = 10
"""Names and differences that a message lists."""


class IncompatibleKeys(NamedTuple):
    """Names that were left out, as PyTorch tells of them.

    Attributes
    ----------
    missing_keys
        Names of the target that the record lacks.
    unexpected_keys
        Names of the record that the target lacks.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]


class Match(NamedTuple):
    """What goes where: arrays of the record by position, and their places by name."""

    rows: list[StoredArrayRow]
    places: dict[str, Destination]
    keys: IncompatibleKeys


def match(
    record_id: int, rows: Iterable[StoredArrayRow], places: Mapping[str, Destination], *, strict: bool, prefix: str
) -> Match:
    """Find a place for each array whose name begins with the prefix.

    Raises
    ------
    MismatchError
        Shapes or dtypes differ, or, if ``strict``, names.
    """
    named = {row.name: row for row in rows if row.name.startswith(prefix)}
    wanted = {f"{prefix}{name}": place for name, place in places.items()}
    keys = IncompatibleKeys(
        [name.removeprefix(prefix) for name in wanted if name not in named],
        [name.removeprefix(prefix) for name in named if name not in wanted],
    )
    chosen = [row for name, row in named.items() if name in wanted]
    flaws = [flaw for row in chosen for flaw in _flaws(row, wanted[row.name])]
    if flaws:
        raise MismatchError(f"record {record_id} does not fit: {_listed(flaws)}; nothing was overwritten")
    if strict and any(keys):
        raise MismatchError(
            f"record {record_id} and the target have other names: {_differences(keys)}. {_hint(keys, prefix)}"
            "strict=False takes those that match; nothing was overwritten"
        )
    return Match(chosen, {row.name: wanted[row.name] for row in chosen}, keys)


def _flaws(row: StoredArrayRow, place: Destination) -> list[str]:
    if not row.dtype:  # legacy parameters tell neither dtype nor shape; their bytes do
        return []
    flaws, shape = [], shape_json(place.shape)
    if row.shape != shape:
        flaws.append(f"the shape of {row.name!r} is {row.shape} stored and {shape} in the target")
    if row.dtype != place.dtype:
        flaws.append(f"the dtype of {row.name!r} is {row.dtype} stored and {place.dtype} in the target")
    return flaws


def _differences(keys: IncompatibleKeys) -> str:
    texts = [("missing in the record", keys.missing_keys), ("unexpected in the record", keys.unexpected_keys)]
    return "; ".join(f"{text}: {_listed(map(repr, names))}" for text, names in texts if names)


def _hint(keys: IncompatibleKeys, prefix: str) -> str:
    """Say so if names differ only in what a wrapper has put before them."""
    missing, unexpected = set(keys.missing_keys), set(keys.unexpected_keys)
    for wrapper in WRAPPERS:
        if {f"{wrapper}{name}" for name in missing} == unexpected:
            return f"Those of the record only begin with {wrapper!r}: pass prefix={prefix + wrapper!r}; "
        if {f"{wrapper}{name}" for name in unexpected} == missing:
            attribute = wrapper.removesuffix(".")
            return f"Those of the target only begin with {wrapper!r}: load into its attribute {attribute!r}; "
    return ""


def _listed(texts: Iterable[str]) -> str:
    every = list(texts)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
