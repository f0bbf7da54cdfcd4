"""The table, and what the figures in it depend on."""

import os
import platform
import sqlite3
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TIMES = {
    "save": "save",
    "again": "save unchanged",
    "blocked": "caller blocked",
    "blocked again": "blocked, 2nd",
    "load": "load",
    "into": "load into model",
    "one": "open + 1 array",
    "convert": "ArrayRecord(...)",
    "restore": "to_torch_...",
}
COUNTS = {
    "disk": "on disk",
    "written": "written",
    "memory of save": "peak of save",
    "memory of into": "peak of load into",
}
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def milliseconds(seconds: float) -> str:
    """Return a time in three digits or so."""
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(nbytes: float) -> str:
    """Return a number of bytes in three digits or so."""
    for unit, factor in UNITS:
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {unit}" if nbytes < 999.5 * factor else f"{nbytes / factor:.0f} {unit}"
    return f"{nbytes} B"


def align(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    rule = " | ".join("-" * width if index == 0 else "-" * (width - 1) + ":" for index, width in enumerate(widths))
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def table(title: str, columns: dict[str, str], peers: dict[str, Any], cell: Callable[[Any, str], str | None]) -> str:
    """Return a table of those columns and peers that have anything in them."""
    cells = {name: {column: cell(peer, column) for column in columns} for name, peer in peers.items()}
    used = [column for column in columns if any(row[column] is not None for row in cells.values())]
    rows = [
        [name, *(row[column] or "–" for column in used)]  # noqa: RUF001 - an en dash stands for nothing
        for name, row in cells.items()
        if any(row[column] is not None for column in used)
    ]
    return align([[title, *(columns[column] for column in used)], *rows]) if rows else ""


def time_cell(peer: Any, column: str) -> str | None:
    """Return a time, and the ratio to the reference."""
    if column not in peer["seconds"]:
        return None
    ratio = peer["ratios"].get(column)
    return milliseconds(peer["seconds"][column]) + ("" if ratio is None else f" ({ratio:.2f})")


def count_cell(peer: Any, column: str) -> str | None:
    """Return a number of bytes."""
    return size(peer["counted"][column]) if column in peer["counted"] else None


def render(result: Any) -> str:
    """Return the tables of one workload in one folder."""
    peers = result["peers"]
    times = table("ms (ratio to recordstore)", TIMES, peers, time_cell)
    counts = table("counted in a child process", COUNTS, peers, count_cell)
    head = (
        f"{result['workload']}: {result['nbytes']:,} bytes in {result['arrays']} arrays, on {result['file_system']} "
        f"({result['folder']}), medians of {result['pairs']} pairs; load of the machine "
        f"{result['load_before']:.1f} before, {result['load_after']:.1f} after"
    )
    return "\n\n".join(part for part in (head, times, counts) if part)


def notes(peers: Iterable[Any]) -> str:
    """Return what has to be known about the peers."""
    lines = [f"- {peer.name}: {peer.note}" for peer in peers if peer.note]
    return "\n".join(
        [
            "A ratio is the median of those of the pairs: above 1, recordstore is faster. Saves are on the disk when",
            "they have ended (fsync). A peer without saves in the background blocks its caller for a whole save.",
            *lines,
        ]
    )


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is in, as far as Linux tells."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return platform.system()
    found = [line.split()[1:3] for line in mounts.read_text(encoding="utf-8").splitlines()]
    return max((len(point), kind) for point, kind in found if folder.resolve().is_relative_to(point))[1]


def load() -> float:
    """Return how many processes wanted to run, on the average of the last minute."""
    return os.getloadavg()[0]


def setting(versions: dict[str, str], missing: list[str]) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "sqlite": sqlite3.sqlite_version,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        "fsync": True,
        "versions": versions,
        "not installed": missing,
    }


def render_setting(found: dict[str, Any]) -> str:
    """Return what the figures depend on, in two lines."""
    libraries = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    missing = ", ".join(found["not installed"])
    return (
        f"{found['date']}; SQLite {found['sqlite']}, Python {found['python']}, {found['system']}; fsync on\n{libraries}"
        + (f"\nnot installed and left out: {missing}" if missing else "")
    )
