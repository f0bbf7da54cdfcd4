"""The app in this process, without a network, without ray: the real ServerApp and ClientApps under a stand-in grid.

Trains once, or goes on with what is in the file::

    python local_grid.py --checkpoints checkpoints.db
    python local_grid.py --checkpoints checkpoints.db --kill-in-round 7       # dies while clients train
    python local_grid.py --checkpoints checkpoints.db --kill-at-commit 7      # dies while the round is saved
"""

import argparse
import copy
import logging
import os
import signal
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from digitsapp.client_app import app as client_app
from digitsapp.server_app import app as server_app
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from sqlalchemy import Connection, Engine, event

# Not public, and there is no public way: a message asks which task creates it, and Flower's own runtimes set that when
# they start. Versions without this module do not ask.
try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:
    TaskIdentity = None

NODES = 10
RUN_ID = 1


class LocalGrid(Grid):
    """Hands each message to a ClientApp in this process, one after the other, and returns the replies.

    Parameters
    ----------
    run_config
        What the clients find in ``context.run_config``.
    kill_in_round
        Send SIGKILL to this process after the first client has trained in this server round.
    kill_at_commit
        Send SIGKILL to this process in the middle of the transaction that saves this server round.
    """

    def __init__(
        self, run_config: dict[str, Any], *, kill_in_round: int | None = None, kill_at_commit: int | None = None
    ) -> None:
        self.contexts = {
            partition + 1: Context(
                run_id=RUN_ID,
                node_id=partition + 1,
                node_config={"partition-id": partition, "num-partitions": NODES},
                state=RecordDict(),
                run_config=run_config,
            )
            for partition in range(NODES)
        }
        self.kill_in_round, self.kill_at_commit = kill_in_round, kill_at_commit
        self.shows = False

    def get_node_ids(self) -> list[int]:
        """Return the same ids at every start."""
        return list(self.contexts)

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002
    ) -> list[Message]:
        """Let the clients work; there are no messages for a round that is answered from the store."""
        replies = []
        for message in messages:
            kind, server_round = message.metadata.message_type, message.content["config"]["server-round"]
            if kind == MessageType.TRAIN and not replies:
                self.show(server_round)
            if kind == MessageType.EVALUATE and not replies and server_round == self.kill_at_commit:
                kill_in_next_commit()
            replies.append(self.deliver(message))
            if kind == MessageType.TRAIN and server_round == self.kill_in_round:
                kill()
        return replies

    def show(self, server_round: int) -> None:
        """Print the rounds in which clients are contacted, in one line."""
        print(f" {server_round}" if self.shows else f"   clients train in round {server_round}", end="", flush=True)
        self.shows = True

    def deliver(self, message: Message) -> Message:
        """Return what the client replies."""
        message.content = copy.deepcopy(message.content)  # strategies put one and the same object into all messages
        return client_app(message, self.contexts[message.metadata.dst_node_id])

    @property
    def run(self) -> Any:
        """Nothing here asks for it."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """Nothing here calls it."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Nothing here calls it: strategies call ``Message``."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Nothing here calls it: strategies call ``send_and_receive``."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Nothing here calls it: strategies call ``send_and_receive``."""
        raise NotImplementedError


def kill() -> None:
    """End this process as ``kill -9`` does: no handler runs, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_next_commit() -> None:
    """Send SIGKILL to this process between the next rows of arrays that are written and their COMMIT."""
    written = []

    def count(_connection: Connection, _cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO chunk"):
            written.append(statement)

    def die(_connection: Connection) -> None:
        if written:
            kill()

    event.listen(Engine, "after_cursor_execute", count)
    event.listen(Engine, "commit", die, insert=True)  # called before the COMMIT is sent


def read_run_config(**overrides: Any) -> dict[str, Any]:
    """Return the configuration in pyproject.toml with overrides, as ``flwr run --run-config`` makes it."""
    pyproject = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text(encoding="utf-8"))
    return pyproject["tool"]["flwr"]["app"]["config"] | overrides


def run_app(grid: LocalGrid, run_config: dict[str, Any]) -> None:
    """Run the ServerApp to its end."""
    torch.set_num_threads(1)  # a model this small is not faster with more
    if TaskIdentity is not None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1
    server_app(grid, Context(run_id=RUN_ID, node_id=1, node_config={}, state=RecordDict(), run_config=run_config))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the app in this process; run it again, and it goes on.")
    parser.add_argument("--checkpoints", default="checkpoints.db", help="the record store (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="server rounds in all (default: %(default)s)")
    parser.add_argument("--kill-in-round", type=int, metavar="N", help="SIGKILL myself while clients train in round N")
    parser.add_argument("--kill-at-commit", type=int, metavar="N", help="SIGKILL myself while round N is being saved")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(stream=sys.stdout, format="   %(message)s")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    run_config = read_run_config(checkpoints=arguments.checkpoints, **{"num-server-rounds": arguments.rounds})
    grid = LocalGrid(run_config, kill_in_round=arguments.kill_in_round, kill_at_commit=arguments.kill_at_commit)
    run_app(grid, run_config)
    print()


if __name__ == "__main__":
    main()
