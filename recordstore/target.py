"""What a store is opened on: a path, ``":memory:"`` or an SQLAlchemy URL."""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from recordstore.exceptions import (
    InvalidTypeError,
    InvalidValueError,
    NotARecordStoreError,
    RecordStoreError,
    StoreAccessError,
)

MEMORY = ":memory:"

COMPANIONS = ("-journal", "-wal", "-shm")
"""What SQLite appends to the name of a database, https://www.sqlite.org/tempfiles.html."""


@dataclass(frozen=True)
class Target:
    """A database file by its absolute path, or a database in memory (``path`` is None)."""

    path: str | None

    def __str__(self) -> str:
        return MEMORY if self.path is None else self.path.encode(errors="replace").decode()

    def uri(self, options: str) -> str:
        """Return the name that SQLite opens the file by (https://www.sqlite.org/uri.html)."""
        return f"file:{quote(os.fsencode(self.path or ''))}?{options}"

    def ensure_file(self, *, read_only: bool) -> None:
        """Check that the target can be a database file, and create a missing one, empty and private.

        SQLite would create it readable for everybody. ``O_EXCL`` guards the locks of an open store: closing a second
        descriptor of the file drops them (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        """
        if self.path is None:
            return
        for suffix in COMPANIONS:  # a pipe would keep SQLite waiting for ever
            _check_regular(f"{self.path}{suffix}")
        if not _check_regular(self.path):
            if read_only:
                raise StoreAccessError(f"{self} does not exist, and read_only=True creates nothing")
            _refuse_companion(self.path)
            self._refuse_leftovers(self.path)
            self._create(self.path)

    def _refuse_leftovers(self, path: str) -> None:
        """Raise for what SQLite would take for a part of the new file, and overwrite, apply to it or remove."""
        for beside in (f"{path}{suffix}" for suffix in COMPANIONS):
            # the file comes before what is beside it: another process may just have made both
            if _size(beside) and not Path(path).exists():
                raise StoreAccessError(
                    f"{self} does not exist, and {Target(beside)} is beside it, which may be a part of a database of "
                    "that name; move it away first, or bring the database back"
                )

    def _create(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except FileExistsError:
            return  # another process was faster
        except OSError as error:
            folder = Path(path).parent
            hint = f"create the folder {folder} first" if not folder.is_dir() else "choose a folder you can write to"
            raise StoreAccessError(f"{self} cannot be created: {error.strerror}; {hint}") from error
        os.close(descriptor)
        Path(path).chmod(0o600)  # an odd umask may have taken our own rights too


def _refuse_companion(path: str) -> None:
    """Raise for the name of a new file that SQLite would remove as soon as somebody opens the database beside it."""
    if path.endswith(COMPANIONS):
        raise InvalidValueError(
            f"{Target(path)} has a name that SQLite uses for files beside a database, and removes; choose another path"
        )


def _size(path: str) -> int:
    with suppress(FileNotFoundError):
        return Path(path).stat().st_size
    return 0


def _check_regular(path: str) -> bool:
    """Return whether there is a file; raise for what is something else."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreAccessError(f"{Target(path)} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise NotARecordStoreError(f"{Target(path)} is {kind}; give the path of a database file")
    return True


def parse_target(target: str | os.PathLike[str] | URL) -> Target:
    """Return the target that a user named.

    Raises
    ------
    InvalidTypeError
        Neither a path nor a URL.
    InvalidValueError
        A URL of another database than SQLite, or with more than a path.
    """
    try:
        return _parse(target)
    except RecordStoreError as error:
        raise error.with_traceback(None) from None
    finally:
        del target  # it may hold a password, which some tools would show with the frames of a traceback


def _parse(target: object) -> Target:
    if isinstance(target, URL):
        return _from_url(target)
    if not isinstance(target, (str, os.PathLike)):
        raise InvalidTypeError(f"target must be a path, ':memory:' or a URL, not {type(target).__name__}")
    path = os.fspath(target)
    if not isinstance(path, str):
        raise InvalidTypeError("target must be a text path; decode it with os.fsdecode() first")
    if isinstance(target, str) and "://" in target:
        return _from_url(_parse_url(target))
    return _from_path(path)


def check_path(path: object) -> Path:
    """Return the absolute path of a file that a user named.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        It is none.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InvalidTypeError(f"path must be a text path, not {type(path).__name__}")
    name = os.fspath(path)
    where = _from_path(name).path
    if where is None or "://" in name:
        raise InvalidValueError("path must be that of a new file, not ':memory:' or a URL")
    folder, base = os.path.split(name)  # a Path forgets what the name ends with
    if base in {"", ".", ".."}:
        raise InvalidValueError(f"path {name!r} is that of a folder; name a file in it")
    path = os.path.join(os.path.realpath(folder), base)  # noqa: PTH118 - where a link leads to is not what was named
    _refuse_companion(path)
    return Path(path)


def _parse_url(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        # the text may hold a password, and so may the message
        raise InvalidValueError(
            "target is no valid URL; an SQLite file is sqlite:///relative or sqlite:////abs"
        ) from None


def _from_url(url: URL) -> Target:
    if url.get_backend_name() != "sqlite":
        raise InvalidValueError(
            f"a {url.get_backend_name()} database is not supported by this version; use a path or sqlite:///path"
        )
    if url.query:
        raise InvalidValueError("options in the URL are not supported; use the arguments of RecordStore")
    if url.host or url.port or url.username or url.password:
        raise InvalidValueError("an SQLite URL names a file and nothing else: sqlite:///relative or sqlite:////abs")
    return _from_path(url.database or MEMORY)


def _from_path(path: str) -> Target:
    if path == MEMORY:
        return Target(None)
    if not path or "\0" in path:
        raise InvalidValueError("target must be a path without NUL characters, and not empty")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise InvalidValueError(f"target {path!r} holds characters that no file name can have") from None
    # The journal lies beside the real file, wherever a symbolic link to it may be.
    return Target(os.path.realpath(path))
