"""Functions that the caller gives to be told of progress."""

from collections.abc import Callable

from recordstore.exceptions import InvalidTypeError
from recordstore.info import Progress

Tell = Callable[[Progress], object]


class _Raised(Exception):  # noqa: N818 - a carrier, not an error
    """An error of the caller's function on its way to the caller."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class telling:  # noqa: N801 - called like a function
    """Give a function that tells of progress; what the caller's own one raises arrives as it is.

    Between the two it is none of our errors: what looks for a damaged or a deleted record must not take it for one.

    Raises
    ------
    InvalidTypeError
        ``progress`` is neither a function nor None.
    """

    def __init__(self, progress: Tell | None) -> None:
        if progress is not None and not callable(progress):
            raise InvalidTypeError(f"progress must be a function, not {type(progress).__name__}")
        self._progress = progress

    def __enter__(self) -> Tell:
        return self._tell

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, _Raised):
            own, context = error.error, error.error.__context__
            try:
                raise own
            finally:
                # not the carrier; its class may let no attribute be set
                BaseException.__dict__["__context__"].__set__(own, context)

    def _tell(self, news: Progress) -> None:
        try:
            if self._progress is not None:
                self._progress(news)
        except Exception as error:
            raise _Raised(error) from error
