"""Ways in which a file is damaged, each drawn from the random numbers of a trial.

What SQL can change is changed without the types and constraints of the columns, as rot on a disk would.
"""

import math
import random
import re
import sqlite3
import string
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

Row = tuple[Any, ...]

TABLES = {"record": 4, "array": 4, "blob": 4, "chunk": 4, "tag": 1, "metric": 1, "history": 1}
"""How often each is chosen."""

TREE_PAGES = {2, 5, 10, 13}
"""The first byte of a page of a B-tree, https://www.sqlite.org/fileformat2.html#b_tree_pages"""


class Undecodable(bytes):
    """Bytes that come into a column as a text."""


ODD: list[Any] = [
    *(None, b"", b"\xff", bytes(32), bytes(3), 0, 1, -1, 2, 255, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)),
    *(0.5, -1.0, 1e308, math.inf, "", "text", "7", "nan", "[", "[2]", "{", "{}", '{"$deque":[[],1e999]}', "9" * 5000),
    *("writing", "ready", "deleting", "dead", "damaged", "[" * 10_000, "2026-01-01", "x\0y", Undecodable(b"\xff\xfe")),
]
"""Values of every type that a column can hold."""


# Bytes of the file


def flip_bits(dice: random.Random, path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    _flip(dice, data, [dice.randrange(len(data)) for _ in range(dice.randint(1, 20))])
    path.write_bytes(data)


def flip_bits_of_a_tree(dice: random.Random, path: Path, other: Path) -> None:
    """Flip bits of one page that holds rows or leads to them: most of a file is the bytes of arrays."""
    data = bytearray(path.read_bytes())
    size = _page_size(data)
    start = dice.choice([start for start in range(0, len(data), size) if data[start or 100] in TREE_PAGES])
    reach = dice.choice([8, 100, size])
    _flip(dice, data, [start + dice.randrange(reach) for _ in range(dice.randint(1, 6))])
    path.write_bytes(data)


def zero_sectors(dice: random.Random, path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    for start, stop in _places(dice, data, dice.choice([512, 4096]), dice.randint(1, 3)):
        data[start:stop] = bytes(stop - start)
    path.write_bytes(data)


def swap_sectors(dice: random.Random, path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    (a, b), (c, d) = _places(dice, data, dice.choice([512, 4096, _page_size(data)]), 2)
    data[a:b], data[c:d] = data[c:d], data[a:b]
    path.write_bytes(data)


def repeat_a_page(dice: random.Random, path: Path, other: Path) -> None:
    """Write a page to the place of another one."""
    data = bytearray(path.read_bytes())
    (a, b), (c, d) = _places(dice, data, _page_size(data), 2)
    data[a:b] = data[c:d]
    path.write_bytes(data)


def take_pages_of_another_store(dice: random.Random, path: Path, other: Path) -> None:
    data, strange = bytearray(path.read_bytes()), other.read_bytes()
    for start, stop in _places(dice, data, _page_size(data), dice.randint(1, 2)):
        data[start:stop] = strange[start:stop].ljust(stop - start, b"\0")
    path.write_bytes(data)


def cut_off(dice: random.Random, path: Path, other: Path) -> None:
    data = path.read_bytes()
    length = dice.randrange(len(data))
    path.write_bytes(data[: length if dice.random() < 0.5 else length // _page_size(data) * _page_size(data)])


def append(dice: random.Random, path: Path, other: Path) -> None:
    length = dice.randint(1, 70_000)
    path.write_bytes(path.read_bytes() + dice.choice([dice.randbytes(length), bytes(length), path.read_bytes()]))


def lay_a_strange_journal(dice: random.Random, path: Path, other: Path) -> None:
    """Leave the journal of another store, which SQLite takes for that of a killed writer, and rolls back."""
    with closing(sqlite3.connect(other, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN IMMEDIATE")
        table = dice.choice(["record", "array", "blob"])
        connection.execute(
            f"UPDATE {table} SET nbytes = nbytes + 1 WHERE rowid = 1"
            if table != "array"
            else "UPDATE array SET nbytes = nbytes + 1 WHERE record_id = 1"
        )
        journal = other.with_name(f"{other.name}-journal").read_bytes()
        connection.execute("ROLLBACK")
    path.with_name(f"{path.name}-journal").write_bytes(journal)


# Rows


def change_a_value(dice: random.Random, path: Path, other: Path) -> None:
    with _unguarded(path) as connection:
        table, rows = _draw(dice, connection)
        row = dice.choice(rows)
        column = dice.randrange(len(row))
        changes = [
            lambda value: dice.choice(ODD),
            lambda value: dice.choice(rows)[column],
            lambda value: _near(dice, value),
        ]
        value = dice.choice(changes)(row[column])
        _replace(connection, table, [row], [(*row[:column], value, *row[column + 1 :])])


def swap_values(dice: random.Random, path: Path, other: Path) -> None:
    """Swap what two rows have in some columns, such as digest and bytes of two chunks."""
    with _unguarded(path) as connection:
        table, rows = _draw(dice, connection)
        one, two = (list(dice.choice(rows)) for _ in range(2))
        before = [tuple(one), tuple(two)]
        for column in dice.sample(range(len(one)), dice.randint(1, 2)):
            one[column], two[column] = two[column], one[column]
        _replace(connection, table, before, [tuple(one), tuple(two)])


def repeat_a_row(dice: random.Random, path: Path, other: Path) -> None:
    """Add a row that is another one but for a column or two, such as the number of a chunk."""
    with _unguarded(path) as connection:
        table, rows = _draw(dice, connection)
        row = list(dice.choice(rows))
        row[0] = dice.choice([dice.choice(rows)[0], _near(dice, row[0]), 1000])
        column = dice.randrange(1, len(row))
        row[column] = dice.choice([_near(dice, row[column]), dice.choice(rows)[column], 99])
        _replace(connection, table, [], [tuple(row)])


def delete_rows(dice: random.Random, path: Path, other: Path) -> None:
    with _unguarded(path) as connection:
        table, rows = _draw(dice, connection)
        _replace(connection, table, dice.sample(rows, min(len(rows), dice.randint(1, 3))), [])


WAYS: dict[str, tuple[int, Callable[[random.Random, Path, Path], None]]] = {
    "bits": (12, flip_bits),
    "bits of a tree": (24, flip_bits_of_a_tree),
    "zeroed sectors": (8, zero_sectors),
    "swapped sectors": (6, swap_sectors),
    "a page twice": (6, repeat_a_page),
    "pages of another store": (5, take_pages_of_another_store),
    "cut off": (4, cut_off),
    "a tail": (3, append),
    "a journal of another store": (4, lay_a_strange_journal),
    "a changed value": (20, change_a_value),
    "swapped values": (8, swap_values),
    "a row too many": (6, repeat_a_row),
    "missing rows": (6, delete_rows),
}
"""What can happen to a file, how often of 112 times, and how."""


def draw_way(dice: random.Random) -> str:
    """Return one of the ways."""
    (way,) = dice.choices(list(WAYS), [weight for weight, _ in WAYS.values()])
    return way


def _page_size(data: bytes | bytearray) -> int:
    size = int.from_bytes(data[16:18])
    return 65536 if size == 1 else size


def _flip(dice: random.Random, data: bytearray, positions: list[int]) -> None:
    for position in positions:
        data[position] ^= 1 << dice.randrange(8)


def _places(dice: random.Random, data: bytearray, size: int, count: int) -> list[tuple[int, int]]:
    """Return places of this size; not the first page, whose damage is seen at once, but in one of eight trials."""
    first = 0 if dice.random() < 0.125 else -(-_page_size(data) // size)
    return [(number * size, (number + 1) * size) for number in dice.sample(range(first, len(data) // size), count)]


def _near(dice: random.Random, value: Any) -> Any:
    """Return a value that is almost the same."""
    match value:
        case int() | float():
            return value + dice.choice([-1, 1])
        case bytes() if value:
            data = bytearray(value)
            _flip(dice, data, [dice.randrange(len(data))])
            return bytes(data)
        case str() if value:
            position = dice.randrange(len(value))
            return value[:position] + dice.choice(string.printable) + value[position + 1 :]
        case _:
            return dice.choice(ODD)


@contextmanager
def _unguarded(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection for which the columns have no types, and may be NULL; not to be done leaves all as it was."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        texts = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"))
        free = {
            name: re.sub(r" NOT NULL(?=,)", "", re.sub(r"\b(TEXT|BIGINT|DATETIME|DOUBLE)\b", "BLOB", text))
            for name, text in texts.items()
        }
        connection.execute("BEGIN")
        _set_schema(connection, free)
        connection.execute("SAVEPOINT rows")
        try:
            yield connection
        except sqlite3.IntegrityError:
            connection.execute("ROLLBACK TO rows")
        _set_schema(connection, texts)
        connection.execute("COMMIT")


def _set_schema(connection: sqlite3.Connection, texts: dict[str, str]) -> None:
    connection.execute("PRAGMA writable_schema=ON")
    connection.executemany(
        "UPDATE sqlite_schema SET sql = ? WHERE name = ?", [(sql, name) for name, sql in texts.items()]
    )
    connection.execute("PRAGMA writable_schema=RESET")


def _draw(dice: random.Random, connection: sqlite3.Connection) -> tuple[str, list[Row]]:
    (table,) = dice.choices(list(TABLES), list(TABLES.values()))
    return table, connection.execute(f"SELECT * FROM {table}").fetchall()


def _replace(connection: sqlite3.Connection, table: str, before: list[Row], after: list[Row]) -> None:
    """Remove rows and insert others, as far as the keys allow it."""
    columns = connection.execute(f"SELECT name, pk FROM pragma_table_info('{table}')").fetchall()
    keys = [index for index, (_, pk) in enumerate(columns) if pk]
    where = " AND ".join(f'"{columns[index][0]}" = ?' for index in keys)
    for row in before:
        connection.execute(f"DELETE FROM {table} WHERE {where}", [row[index] for index in keys])
    for row in after:
        places = ["CAST(? AS TEXT)" if isinstance(value, Undecodable) else "?" for value in row]
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join(places)})", row)
