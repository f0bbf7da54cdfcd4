"""What SQLAlchemy logs of the statements of a store."""

import logging

LOGGING_NAME = "recordstore"
"""What the names of the loggers end in: https://docs.sqlalchemy.org/en/20/core/engines.html#setting-the-logging-name."""


def _shows_no_row(message: logging.LogRecord) -> bool:
    """Return whether a message is one without rows, which hold the bytes of arrays: they come at the lowest level."""
    return message.levelno > logging.DEBUG


logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(_shows_no_row)
