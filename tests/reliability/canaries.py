"""A word that must show nowhere, and all the places where it could."""

import logging
import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CANARY = "c4n4ry" + "s1ngs"
"""In two parts: no line of this file, which a traceback shows, holds it."""


def forms(secret: bytes) -> list[str]:
    """Return the texts in which bytes may show themselves."""
    numbers = [str(number) for number in secret]
    return [
        secret.decode(),
        secret.hex(),
        secret.hex(" "),
        ", ".join(numbers),
        " ".join(number.rjust(3) for number in numbers),
    ]


def shown(error: BaseException) -> str:
    """Return all that an error, its causes and its pickle tell, and what the frames below the caller's hold."""
    texts = []
    while error is not None:
        below = error.__traceback__ and error.__traceback__.tb_next
        texts += [str(error), repr(error), repr(vars(error)), repr(error.args)]
        texts += traceback.format_exception(type(error), error, below)
        with suppress(TypeError, AttributeError):  # errors of SQLAlchemy hold what cannot be pickled
            texts.append(pickle.dumps(error).decode("latin-1"))
        error = error.__cause__
    return "\n".join(texts)


def shown_with_locals(error: BaseException) -> str:
    """Return the traceback with the local variables of every frame but the caller's."""
    below = error.__traceback__ and error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, below, capture_locals=True).format())


@contextmanager
def all_logs() -> Iterator[list[str]]:
    """All that loggers tell at the lowest level, SQLAlchemy's among them."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(logging.Formatter("%(name)s %(message)s").format(record))

    names = ["", "recordstore", "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "sqlalchemy.orm", "alembic"]
    before = {name: logging.getLogger(name).level for name in names}
    collector = Collector(logging.DEBUG)
    logging.getLogger().addHandler(collector)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(collector)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
