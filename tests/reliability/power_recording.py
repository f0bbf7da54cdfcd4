"""Recordings of what the store asks a disk to do, call by call, and what each moment of them has promised."""

import bisect
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from disk import Disk, Event, Said, Write
from kill_worker import perform
from oracle import SAVES, Model, Plan
from strace_log import read_log, strace
from support import Child, make_small, say

from recordstore import RecordStore, compaction, connection, constants, upkeep

NAME = "store.db"

Plans = Sequence[Plan]


def save(
    run: str | None, number: int | None, seed: int, *, large: bool, tags: Sequence[str] = (), do: str = "save"
) -> Plan:
    """Return the plan of a save."""
    sizes = {"seed": seed, "large": large, "keep": True}
    return {"do": do, "run": run, "round": number, "tags": list(tags), **sizes}


PLANS: Plans = (
    {"do": "open"},
    save("a", 0, 1, large=False, tags=["best"]),
    save("a", 1, 17, large=True),
    save(None, None, 37, large=True),
    {"do": "tag", "id": 2, "tag": "good"},
    save("a", 1, 129, large=True, do="save_async"),
    save("b", 0, 5, large=False),
    {"do": "delete", "id": 3},
    {"do": "open"},
    save("b", 1, 107, large=True, tags=["best"]),
    {"do": "untag", "id": 1, "tag": "best"},
    {"do": "delete", "id": 1},
    {"do": "gc"},
    {"do": "backup", "to": "first.db"},
    save("b", 0, 108, large=True, do="overwrite"),
    {"do": "delete", "id": 6},
    {"do": "compact"},
    save(None, None, 8, large=False),
    {"do": "backup", "to": "second.db"},
    save("a", 2, 111, large=True, tags=["best"]),
    {"do": "delete", "id": 4},
    {"do": "gc"},
    {"do": "compact"},
    save("b", 0, 10, large=False, do="overwrite"),
    {"do": "delete", "id": 9},
    {"do": "open"},
    save("a", 3, 11, large=False, do="save_async"),
    save("b", 7, 114, large=True, do="checkpoint"),
    save("b", 2, 12, large=False, do="checkpoint"),
    {"do": "compact"},
)
"""Everything that writes, with the ids that the records get."""

FEW: Plans = (
    {"do": "open"},
    save("a", 0, 1, large=False, tags=["best"]),
    save("a", 1, 17, large=True),
    {"do": "tag", "id": 2, "tag": "good"},
    save("a", 1, 4, large=False, do="overwrite"),
    save("a", 2, 5, large=False),
    {"do": "delete", "id": 1},
    save("a", 3, 6, large=False),
)


def follow(
    path: str, plans: Plans, sizes: dict[str, Any], settings: dict[str, str], open_options: dict[str, Any]
) -> None:
    """Follow plans, and say when each is done; ``settings`` replace those of the connections."""
    make_small(**sizes)
    compaction.STEP_BYTES = 256 * 1024
    upkeep.DELETE_STEPS = 1  # the rest is left to gc
    _replace_settings(settings)
    store = None
    for plan in plans:
        if plan["do"] == "open":
            if store is not None:
                store.close()
            store = RecordStore(path, **open_options)
            say({"done": 0})
        else:
            say({"done": perform(_placed(plan, path), store)})
    store.close()


def _placed(plan: Plan, path: str) -> Plan:
    return plan | {"to": str(Path(path).with_name(plan["to"]))} if "to" in plan else plan


def _replace_settings(settings: dict[str, str]) -> None:
    """Have SQLite do with less care than the package asks it for."""
    run = connection.run

    def replaced(*arguments: Any, **options: Any) -> Any:
        return run(*(settings.get(text, text) if isinstance(text, str) else text for text in arguments), **options)

    connection.run = replaced


@dataclass(frozen=True)
class Recording:
    """What a process has done to a folder, and what a dict would hold after each operation that it has acknowledged."""

    before: dict[str, bytes]
    events: list[Event]
    plans: Plans = ()
    models: list[Model] = field(default_factory=list)
    right: dict[str, bytes] = field(default_factory=dict)
    """Backups whose bytes were found to be right."""

    @cached_property
    def _acknowledged(self) -> list[int]:
        return [place for place, event in enumerate(self.events) if isinstance(event, Said) and "done" in event.message]

    @cached_property
    def _landmarks(self) -> list[int]:
        return [place for place, event in enumerate(self.events) if not isinstance(event, Write)]

    def draw_place(self, dice: Random) -> int:
        """Return after how many calls the power fails: of all, of those of an operation, or soon after a landmark.

        Most calls are writes of a few large operations, which the first would draw almost always.
        """
        match dice.randrange(3):
            case 0:
                return dice.randint(0, len(self.events))
            case 1:
                ends = [0, *self._acknowledged, len(self.events)]
                number = dice.randrange(len(ends) - 1)
                return dice.randint(ends[number], ends[number + 1])
            case _:
                return min(dice.choice(self._landmarks) + dice.randint(0, 3), len(self.events))

    def acknowledged(self, place: int) -> int:
        """Return how many operations had been acknowledged by then."""
        return bisect.bisect_left(self._acknowledged, place)

    def told(self, place: int) -> list[str]:
        """Return the last calls by then, for messages."""
        return [_short(event) for event in self.events[max(0, place - 25) : place]]


def _short(event: Event) -> str:
    if isinstance(event, Write):
        return f"Write(file={event.file}, offset={event.offset}, {len(event.data)} bytes)"
    return repr(event)


def record(folder: Path, function: Callable[..., object], *arguments: object) -> Recording:
    """Record what ``function(path, *arguments)`` does in a process of its own to the files beside ``path``."""
    before = contents(folder)
    log = folder.with_name(f"{folder.name}.log")
    with Child(function, folder / NAME, *arguments, under=strace(log)) as process:
        process.finish()
    with log.open() as lines:
        events = list(read_log(lines, folder, before))
    log.unlink()
    _check_whole(folder, before, events)
    return Recording(before, events)


def sizes() -> dict[str, Any]:
    """Return the sizes that are set here, for the processes that are recorded."""
    names = ("CHUNK_SIZE", "BATCH_BYTES", "BATCH_ROWS", "RING_CHUNKS", "PAUSE_SECONDS")
    return {name: getattr(constants, name) for name in names}


def record_plans(
    folder: Path,
    plans: Plans,
    settings: dict[str, str] | None = None,
    open_options: dict[str, Any] | None = None,
) -> Recording:
    """Record a process that follows plans, and foretell what it leads to."""
    recording = record(folder, follow, plans, sizes(), settings or {}, open_options or {})
    ids = [event.message["done"] for event in recording.events if isinstance(event, Said)]
    models = [Model()]
    for plan, id_ in zip(plans, ids, strict=True):
        assert bool(id_) == (plan["do"] in SAVES)
        models.append(models[-1].after(plan, id_))
    return Recording(recording.before, recording.events, plans, models)


def _check_whole(folder: Path, before: dict[str, bytes], events: list[Event]) -> None:
    """Raise unless the calls lead to the files that are there: nothing was missed, and nothing misunderstood."""
    disk = Disk(before)
    for event in events:
        disk.apply(event)
    assert _but_shared_memory(disk.with_power()) == _but_shared_memory(contents(folder))


def _but_shared_memory(files: dict[str, Any]) -> dict[str, bytes]:
    return {name: bytes(content) for name, content in files.items() if not name.endswith("-shm")}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir())}


def can_record() -> bool:
    """Return whether strace is there, and allowed."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode == 0
