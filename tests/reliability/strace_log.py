"""What the calls of a process do to the files of a folder, as strace has recorded them."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from disk import Enter, Event, Leave, Move, Resize, Said, Sync, SyncFolder, Write

HARMLESS = {"close", "sync_file_range"}

CALLS = [
    "open",
    "openat",
    "openat2",
    "creat",
    "close",
    "dup",
    "dup2",
    "dup3",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "sendfile",
    "copy_file_range",
    "splice",
    "truncate",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "sync",
    "syncfs",
    "msync",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
]

FOLDER = -1
"""Stands for the file that the folder is."""

_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)", re.DOTALL)
_BEGUN = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)", re.DOTALL)
_TEXT = re.compile(r'"([^"]*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"(\d+)<(.*?)>")
_NUMBER = re.compile(r"\d+")


class UnknownCallError(Exception):
    """A file was changed in a way that the model does not know."""


def strace(log: Path) -> list[str]:
    """Return the command that records the calls of what follows it."""
    calls = ",".join(f"?{name}" for name in CALLS)  # the question mark passes over those that the platform lacks
    options = ["-f", "-qq", "-y", "-xx", "-s", str(1 << 20), "--seccomp-bpf", "-e", "signal=none"]
    return ["strace", *options, "-e", f"trace={calls}", "-o", str(log)]


def read_log(lines: Iterable[str], folder: Path, names: Iterable[str]) -> Iterator[Event]:
    """Yield what was done to the files of a folder, which had these names before."""
    reader = _Reader(folder, names)
    for process, call, arguments, value in _calls(lines):
        if value >= 0:
            yield from reader.read(call, arguments, value, process)


def _calls(lines: Iterable[str]) -> Iterator[tuple[int, str, str, int]]:
    """Yield process, name, arguments and value of each call, in the order in which they ended."""
    begun: dict[str, str] = {}
    for line in lines:
        if match := _BEGUN.match(line):
            begun[match[1]] = match[2]
            continue
        ended = _ENDED.match(line)
        match = _CALL.match(f"{ended[1]} {begun.pop(ended[1])}{ended[2]}" if ended else line)
        if match is None:
            raise UnknownCallError(line[:200])
        if match[4] != "?":
            yield int(match[1]), match[2], match[3], int(match[4])


class _Reader:
    """Knows which descriptor, and which name, means which file."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._folder = folder
        self._names = {name: number for number, name in enumerate(names)}
        self._created = len(self._names)
        self._open: dict[int, int] = {}

    def read(self, call: str, arguments: str, value: int, process: int) -> Iterator[Event]:
        match call:
            case "open" | "openat" | "creat":
                yield from self._opened(arguments, value)
            case "close":
                self._open.pop(int(_NUMBER.match(arguments)[0]), None)
            case "write" if arguments.startswith("1<"):
                yield Said(json.loads(_texts(arguments)[0]))
            case "unlink" | "unlinkat" | "rename" | "renameat" | "renameat2" | "link" | "linkat":
                yield from self._renamed(call.removesuffix("2").removesuffix("at"), _texts(arguments))
            case _:
                yield from self._changed(call, arguments, value)

    def _opened(self, arguments: str, descriptor: int) -> Iterator[Event]:
        path = _texts(arguments)[0].decode()
        if Path(path) == self._folder:
            self._open[descriptor] = FOLDER
        elif name := self._name(path):
            if name not in self._names:
                yield self._enter(name, self._created)
                self._created += 1
            elif "O_TRUNC" in arguments:
                yield Resize(self._names[name], 0)
            self._open[descriptor] = self._names[name]

    def _renamed(self, call: str, texts: list[bytes]) -> Iterator[Event]:
        name, *new = (self._name(text.decode()) for text in texts)
        if name is None and new in ([], [None]):
            return
        if name is None or new == [None]:
            raise UnknownCallError(f"{call} across folders: {texts}")
        if call == "link":
            yield self._enter(new[0], self._names[name])
            return
        file = self._names.pop(name)
        if call == "unlink":
            yield Leave(name)
        else:
            self._names[new[0]] = file
            yield Move(name, new[0], file)

    def _changed(self, call: str, arguments: str, value: int) -> Iterator[Event]:
        files = self._files(arguments)
        if not files:
            return
        file = files[0]
        match call:
            case "pwrite64":
                (data,) = _texts(arguments)
                yield Write(file, int(arguments.rpartition(",")[2]), data[:value])
            case "ftruncate":
                yield Resize(file, int(arguments.rpartition(",")[2]))
            case "fsync" | "fdatasync":
                yield SyncFolder() if file == FOLDER else Sync(file)
            case _ if call not in HARMLESS:  # a copy made by the system, perhaps
                raise UnknownCallError(f"{call}({arguments[:200]}")

    def _enter(self, name: str, file: int) -> Enter:
        self._names[name] = file
        return Enter(name, file)

    def _name(self, path: str) -> str | None:
        return Path(path).name if Path(path).parent == self._folder else None

    def _files(self, arguments: str) -> list[int]:
        """Return the files of the descriptors among the arguments of a call, those elsewhere left out."""
        found = []
        for match in _DESCRIPTOR.finditer(_TEXT.sub("", arguments)):
            path = _decoded(match[2]).decode()
            if int(match[1]) in self._open:
                found.append(self._open[int(match[1])])
            elif Path(path) == self._folder or self._name(path):
                raise UnknownCallError(f"a descriptor that was not seen to be opened: {arguments[:200]}")
        return found


def _texts(arguments: str) -> list[bytes]:
    """Return the texts among the arguments of a call."""
    found = list(_TEXT.finditer(arguments))
    if any(match[2] for match in found):
        raise UnknownCallError(f"a text was cut off: {arguments[:200]}")
    return [_decoded(match[1]) for match in found]


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()
