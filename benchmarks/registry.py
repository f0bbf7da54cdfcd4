"""All peers, and which of them can take part."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from floor import BlobFloor, CopyFloor, InsertFloor, PlainFileFloor
from peer import Peer
from peers_databases import FlowerPeer, LmdbPeer, NaiveSqlitePeer, ObjectStorePeer
from peers_files import (
    DistributedPeer,
    HDF5Peer,
    JoblibPeer,
    NpzPeer,
    OrbaxPeer,
    SafetensorsPeer,
    TorchPeer,
    ZarrPeer,
)
from peers_recordstore import RecordPeer, RecordStorePeer, ReopenedPeer

REFERENCE = RecordStorePeer
"""All others are compared with it."""

# The closer two stand, the less happens to the machine between them
PEERS: tuple[type[Peer], ...] = (
    ReopenedPeer,
    RecordPeer,
    CopyFloor,
    SafetensorsPeer,
    REFERENCE,
    InsertFloor,
    BlobFloor,
    PlainFileFloor,
    TorchPeer,
    FlowerPeer,
    DistributedPeer,
    NpzPeer,
    JoblibPeer,
    HDF5Peer,
    ZarrPeer,
    LmdbPeer,
    NaiveSqlitePeer,
    OrbaxPeer,
    ObjectStorePeer,
)


def versions(peers: tuple[type[Peer], ...]) -> dict[str, str]:
    """Return the versions of what these peers need, as far as it is installed."""
    found = {}
    for need in sorted({need for peer in peers for need in peer.needs}):
        try:
            found[need] = version(need)
        except PackageNotFoundError:
            continue
    return found


def has_modules(peer: type[Peer]) -> bool:
    """Return whether the installed versions have what the peer imports."""
    try:
        return all(find_spec(module) for module in peer.modules)
    except ModuleNotFoundError:  # of a package around it
        return False


def choose(words: list[str]) -> tuple[list[type[Peer]], list[str]]:
    """Return the peers to measure, and the names of those that are not installed.

    Parameters
    ----------
    words
        Parts of names; none chooses all. The reference is always there.
    """
    wanted = tuple(peer for peer in PEERS if peer is REFERENCE or not words or any(word in peer.name for word in words))
    installed = versions(wanted)
    missing = [peer.name for peer in wanted if not (installed.keys() >= set(peer.needs) and has_modules(peer))]
    return [peer for peer in wanted if peer.name not in missing], missing
