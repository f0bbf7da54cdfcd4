"""What the schema of each version consists of: its tables and indexes, and a digest of how each is defined.

A table with our name is not ours if it has a check, a default, a collation or a computed column that we did not give
it: SQLite evaluates these when rows are read or written.
"""

import re

from blake3 import blake3

_SPACE = re.compile(r"[ \t\r\n]*([(),])[ \t\r\n]*|[ \t\r\n]+")
_DIGEST_SIZE = 16

SQLITE_OWN = {
    "sqlite_sequence": "CREATE TABLE sqlite_sequence(name,seq)",
    "sqlite_stat1": "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "sqlite_stat3": "CREATE TABLE sqlite_stat3(tbl,idx,neq,nlt,ndlt,sample)",
    "sqlite_stat4": "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}
"""Tables that SQLite makes by itself, or for ``ANALYZE``."""


def definition(kind: str, table: str, sql: str) -> str:
    """Return a digest of how a table or an index is defined, whatever the white space between words."""
    text = f"{kind} {table} {_SPACE.sub(lambda match: match[1] or ' ', sql)}"
    return blake3(text.encode(errors="replace")).hexdigest(_DIGEST_SIZE)


_SINCE_0001 = {
    "blob": "9ed13faf2e2218c5e1eed136ec697d52",
    "chunk": "fa28784265517e0a774beae7aeabe245",
    "metric": "d4ecaee1095b73b70a1dfd26c6c49133",
    "recordstore_version": "88cd8a2faed309b1d9277f2b0b587154",
    "tag": "02a0b4fef48769c36bcea1373f855360",
    "ix_array_blob_id": "de3303603cd302620231e52fa31d8c26",
    "ix_blob_dead": "405ff71d368654f8c52a5127d6f90fa7",
    "ix_blob_nbytes_head": "c880b9c98d883c1e97d8d8baf8378724",
    "ix_metric_name_value": "1d25e478a475960d761968e6882b2210",
    "ix_record_run_id": "5f93cbeaefbbf672de63b1050e120cef",
    "ix_record_unfinished": "1dec020abacaaaebcfcce72dd83051f6",
    "ix_tag_record_id": "8d08433787287f9be73be71e1a8b4d3f",
    "uq_blob_ready_digest": "2137fa44a15b1132b72e4a14b0be032a",
}

DEFINITIONS: dict[int, dict[str, str]] = {
    1: _SINCE_0001
    | {
        "array": "b6a8142827a7cb2b1030d6993fed846f",
        "record": "09dfdf98794fde1863e80710aea76836",
    },
    2: _SINCE_0001
    | {
        "array": "47309e1882e55a0ec87605ba75c8f8ae",
        "history": "a09900e536f88649241897c82fa00624",
        "record": "dec5b27d3afb6cf062e7d7bfde23202d",
    },
}
"""By schema version and name. A version to come needs its own: tests/reliability/test_hostile_schemas.py tells them."""
