"""Damaged files: a read returns exactly what was saved as this record, or raises; ``verify`` names what is damaged.

What no digest covers, see docs/format.md: run, round, state, ``created_at``, metadata, metrics, tags and the history;
whether a record has a checkpoint at all; and the id, which an empty record may change. ``info`` reads no digest: the
names, ``nbytes`` and the digest that it tells are those of the tables. Of all these, a damaged file gives a documented
error or a value of the right type.

A save, a delete, ``gc`` or a mark that writes to a file whose trees are broken can break more of it: what was readable
before then has to stay so only where SQLite itself finds the file in order.
"""

import shutil
import signal
import sqlite3
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from damage import WAYS, draw_way
from damaged_base import Base, make_base
from damaged_use import NOTHING, Use
from support import memory_used, rows
from trials import Trials

from recordstore import RecordStore, RecordStoreError

Bases = tuple[Base, Base]

CPU_SECONDS = 120.0
"""Of a trial that takes a tenth of one, unless it never ends."""

MIB = 1024 * 1024

ENOUGH = 30
"""Trials from which on shares mean something."""

OUTCOMES = ("all records read", "records raise or are missing", "no list of records")
ALWAYS = ("load", "stream", "slice", "data", "load_into", "info")
"""Calls that have to succeed often."""

ERRORS = MIB // 4
"""Bytes that errors and their messages may take, and what SQLAlchemy learns of statements that mark damage."""


@pytest.fixture(params=[1024, 32768])
def bases(request: pytest.FixtureRequest, memory_folder: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> Bases:
    """A store and another one of the same shape; small pages make deep trees, the large ones are those of all stores."""
    settings = (f"PRAGMA page_size={request.param}", "PRAGMA auto_vacuum=INCREMENTAL")
    monkeypatch.setattr("recordstore.schema.CREATION", settings)
    return make_base(memory_folder / "base.db", 0), make_base(memory_folder / "other.db", 1)


@contextmanager
def an_end() -> Iterator[None]:
    """Interrupt what goes on for ever."""

    def interrupt(*_: object) -> None:
        raise TimeoutError("this trial does not end")

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def damaged(trials: Trials, number: int, bases: Bases, path: Path) -> Iterator[tuple[Use | None, str]]:
    """Give a damaged copy of a store, opened if it can be, and in which way it was damaged."""
    dice = trials.dice(number, trials.name)
    base, other = bases
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink()
    shutil.copyfile(base.path, path)
    way = draw_way(dice)
    WAYS[way][1](dice, path, other.path)
    use = None
    try:
        with an_end(), suppress(RecordStoreError):
            use = Use(RecordStore(path, read_only=dice.random() < 0.25, timeout=1.0), base, dice)
    except Exception as error:
        trials.fail(number, way, "open", repr(error))
    try:
        with an_end():
            yield use, way
            if use is not None:
                use.call("close", use.store.close)
    except Exception as error:
        trials.fail(number, way, repr(error), traceback.format_exc())
    for problem in () if use is None else use.problems:
        trials.fail(number, way, *problem)


@pytest.mark.timeout(7200)
@pytest.mark.trials(30, 5000)
def test_a_damaged_file_gives_what_was_saved_or_a_documented_error(
    trials: Trials, bases: Bases, memory_folder: Path
) -> None:
    path = memory_folder / "store.db"
    for number in trials:
        with damaged(trials, number, bases, path) as (use, way):
            trials.counts[f"{way}: {'not opened' if use is None else read(use, path)}"] += 1
            if use is not None and not use.store._database.read_only and use.dice.random() < 0.6:
                write(use, trials, path)
        for what in ALWAYS if use is not None else ():
            trials.counts[f"succeeded, {what}"] += use.succeeded[what]
    trials.conclude()
    if trials.count >= ENOUGH:
        outcomes = {kind: sum(trials.counts[f"{way}: {kind}"] for way in WAYS) for kind in ("not opened", *OUTCOMES)}
        assert outcomes["all records read"] >= 0.1 * trials.count, "too much damage shows no read at all"
        assert trials.count - outcomes["all records read"] >= 0.3 * trials.count, "too little damage"
        assert min(trials.counts[f"succeeded, {what}"] for what in ALWAYS) >= 0.3 * trials.count


def in_order(path: Path) -> bool:
    """Return whether SQLite finds no fault in the trees of a file."""
    try:
        return rows(path, "PRAGMA integrity_check") == [("ok",)]
    except sqlite3.Error:
        return False


def wrong_lengths(path: Path) -> set[int]:
    """Return the records whose ``nbytes``, or those of one of their arrays, are not those of the bytes."""
    arrays = "SELECT record_id FROM array JOIN blob ON blob.id = blob_id WHERE array.nbytes IS NOT blob.nbytes"
    total = (
        "SELECT total(blob.nbytes) FROM array JOIN blob ON blob.id = blob_id WHERE record_id = record.id AND part = ''"
    )
    with suppress(sqlite3.Error):
        return {id_ for (id_,) in rows(path, f"{arrays} UNION SELECT id FROM record WHERE nbytes IS NOT ({total})")}
    return set()


def read(use: Use, path: Path) -> str:
    """Read all that there is, and have it verified; return what has become of the records."""
    listed = use.ids()
    ids = sorted({*(listed or ()), *use.base.records})
    before = use.sound = use.readable(ids)
    use.look_around(ids)
    report = use.call("verify", use.store.verify)
    if report is NOTHING:
        use.problems.append(("verify", "raises", use.error))
        return "not verified"
    named = {damage.record_id for damage in report.damaged}
    if report and not in_order(path):
        use.problems.append(("verify", "finds nothing where SQLite does"))
    if listed is None:
        if None not in named:
            use.problems.append(("verify", "does not say that the records cannot be listed"))
        return OUTCOMES[2]
    named &= {*listed}
    lengths = wrong_lengths(path) & {*listed}  # which no read shows
    damaged_ids = {*listed} - before | lengths
    later = {*listed} - use.readable(listed) | lengths
    if named not in (damaged_ids, later) and (damaged_ids - named or in_order(path)):
        use.problems.append(("verify", "names", named, "not", damaged_ids, [d.message for d in report.damaged]))
    return OUTCOMES[len(before) < len(use.base.records) - 1]


def write(use: Use, trials: Trials, path: Path) -> None:
    """Save what is there already, in bytes that may be damaged; save, delete and sweep, and read again."""
    sound = in_order(path)
    saved = use.save(use.dice.choice(sorted(use.base.records)))
    victim = use.dice.choice(sorted(use.base.records))
    use.call("delete", lambda: use.store.delete(victim))
    use.call("gc", lambda: use.store.gc(grace=0))
    expected = {id_ for id_ in [*use.sound, saved] if id_ not in (None, victim)}
    lost = expected - use.readable(sorted(expected))
    if lost and sound:
        use.problems.append(("lost", "by writing to a file in order", lost, saved, victim))
    trials.counts["records written to a file that SQLite finds broken, and lost"] += len(lost)


@pytest.mark.timeout(7200)
@pytest.mark.trials(4, 250)
def test_reading_a_damaged_file_takes_no_more_memory_than_reading_a_sound_one(
    trials: Trials, bases: Bases, memory_folder: Path
) -> None:
    with RecordStore(bases[0].path) as store:
        read_all(store)
        need = peak(lambda: read_all(store))
    most = 0.0
    for number in trials:
        with damaged(trials, number, bases, memory_folder / "store.db") as (use, _):
            if use is None:
                continue
            resident: list[int] = []
            with memory_used(resident):
                read_all(use.store)
            taken = peak(lambda use=use: read_all(use.store))
            most = max(most, taken / need)
            if taken > 2 * need + ERRORS or resident[0] > 2 * need + 16 * MIB:
                use.problems.append(("memory", taken, resident, need))
    print(f"\nat most {most:.2f} of what the undamaged store takes")
    trials.conclude()


def read_all(store: RecordStore) -> None:
    ids: list[int] = []
    with suppress(RecordStoreError):
        ids = list(store)
    calls: list[Callable[[int], object]] = [store.load, store.load_checkpoint, store.info]
    for id_ in ids:
        for call in calls:
            with suppress(RecordStoreError):
                call(id_)
        with suppress(RecordStoreError):
            for item in store.stream(id_):
                del item
        with suppress(RecordStoreError):
            for array in store.open(id_).values():
                if array.stype == "numpy.ndarray" and array.shape:
                    array[:1]
    with suppress(RecordStoreError):
        store.verify()


def peak(function: Callable[[], object]) -> int:
    """Return the bytes of Python and NumPy that a call has at most."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
