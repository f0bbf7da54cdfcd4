"""Functions that the caller gives to be told of progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recordstore.exceptions import InvalidTypeError
from recordstore.info import Progress

Tell = Callable[[Progress], object]


class _Raised(Exception):  # noqa: N818 - a carrier, not an error
    """An error of the caller's function on its way to the caller."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@contextmanager
def telling(progress: Tell | None) -> Iterator[Tell]:
    """Give a function that tells of progress; what the caller's own one raises arrives as it is.

    Between the two it is none of our errors: what looks for a damaged or a deleted record must not take it for one.

    Raises
    ------
    InvalidTypeError
        ``progress`` is neither a function nor None.
    """
    if progress is not None and not callable(progress):
        raise InvalidTypeError(f"progress must be a function, not {type(progress).__name__}")

    def tell(news: Progress) -> None:
        try:
            if progress is not None:
                progress(news)
        except Exception as error:
            raise _Raised(error) from error

    own = None
    try:
        yield tell
    except _Raised as raised:
        own = raised.error
    if own is not None:
        raise own
