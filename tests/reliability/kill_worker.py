"""The processes that are killed: each opens a file, says what it is going to do, does it, and says so."""

import os
import random
import signal
from contextlib import suppress
from itertools import count

from oracle import Plan, checkpoint, content, draw, reported
from support import hear, make_small, say

from recordstore import RecordNotFoundError, RecordStore


def fork_workers(sizes: dict[str, float]) -> None:
    """Fork a worker for each order that comes; the imports are made once, and each opens the file for itself."""
    make_small(**sizes)
    RecordStore(":memory:").close()  # which imports what opening and upgrading need
    content(0, large=True)
    while (order := hear()) is not None:
        worker = os.fork()
        if not worker:
            name, *arguments = order
            JOBS[name](*arguments)
            signal.pause()  # whoever kills it finds it
        say({"pid": worker})
        say({"status": os.waitpid(worker, 0)[1]})


def work(path: str, seed: int) -> None:
    """Do one thing after the other."""
    dice = random.Random(seed)
    with RecordStore(path) as store:
        for number in count():
            plan = draw(dice, store)
            if plan["do"] == "backup":
                plan["to"] = f"{path}.backup-{number}"
            say({"begin": plan})
            say({"done": perform(plan, store)})


def perform(plan: Plan, store: RecordStore) -> int:
    """Do what a plan says, and return the id of the record that was saved, or 0."""
    match plan["do"]:
        case "delete":
            store.delete(plan["id"])
        case "tag":
            store.tag(plan["id"], plan["tag"])
        case "untag":
            store.untag(plan["id"], plan["tag"])
        case "gc":
            store.gc(grace=0)
        case "compact":
            store.compact()
        case "backup":
            store.backup(plan["to"])
        case "checkpoint":
            return save_checkpoint(plan, store)
        case _:
            return save(plan, store)
    return 0


def save(plan: Plan, store: RecordStore) -> int:
    arrays = dict(content(plan["seed"], large=plan["large"]))
    options = {name: plan[name] for name in ("run", "round", "tags")} | {"overwrite": True, "keep_input": plan["keep"]}
    if plan["do"] != "save_async":
        return store.save(arrays, **options)
    handle = store.save_async(arrays, **options)
    newest = store.latest()
    if newest is not None:
        with suppress(RecordNotFoundError):  # which the save may replace meanwhile
            store.load(newest)  # a reader beside the writer
    return handle.result()


def save_checkpoint(plan: Plan, store: RecordStore) -> int:
    seed, number = plan["seed"], plan["round"]
    arrays, state = content(seed, large=plan["large"]), checkpoint(seed)
    place = {"run": plan["run"], "round": number}
    return store.save_checkpoint(arrays, state, **place, history=[reported(number, seed)], forget_after=number)


def recover(path: str) -> None:
    """Open a file that a killed process has left, and remove what is left over."""
    with RecordStore(path) as store:
        store.gc(grace=0)
    say({"recovered": path})


def upgrade(path: str) -> None:
    """Bring a file to the newest schema."""
    say({"begin": {"do": "upgrade"}})
    RecordStore(path, upgrade=True).close()
    say({"done": 0})


JOBS = {"work": work, "recover": recover, "upgrade": upgrade}
