"""Names of arrays, runs, metrics and tags, and the numbers of rounds: what they may be."""

import numpy as np
import pytest

from recordstore import InvalidValueError, RecordNotFoundError, RecordStore

NAMES = [
    "",
    " ",
    "/",
    "..",
    "a/../b",
    "layer.0.weight",
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "cafe\N{COMBINING ACUTE ACCENT}",
    "\n\t\x01\x7f",
    "A",
    "a",
    "'; DROP TABLE record; --",
    "%s %(x)s ? :name",
    "\uffff\U0010ffff",
    "x" * 1024,
    "\N{GRINNING FACE}" * 256,
]


def test_names_are_kept_to_the_byte_and_told_apart(memory: RecordStore) -> None:
    given = {name: np.array(index) for index, name in enumerate(NAMES)}
    record_id = memory.save(given, metrics=dict.fromkeys(NAMES, 1), metadata=NAMES)
    assert {name: array.numpy()[()] for name, array in memory.stream(record_id)} == {
        name: index for index, name in enumerate(NAMES)
    }
    info = memory.info(record_id)
    assert (info.names, sorted(info.metrics), info.metadata) == (tuple(NAMES), sorted(NAMES), NAMES)
    for index, name in enumerate(NAMES):
        assert memory.load(record_id, names=[name])[name].numpy() == index


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_a_run_may_have_any_name_without_an_at_sign(memory: RecordStore, name: str) -> None:
    record_id = memory.save([], run=name, round=2**63 - 1)
    assert (
        memory.latest(name).id == memory.info(f"{name}@latest").id == memory.info(f"{name}@{2**63 - 1}").id == record_id
    )
    assert memory.runs() == [(name, 1, 2**63 - 1)]


@pytest.mark.parametrize("tag", [name for name in NAMES if name and ":" not in name])
def test_a_tag_may_have_any_other_name(memory: RecordStore, tag: str) -> None:
    record_id = memory.save([], run="r", tags=[tag])
    assert memory.info(f"r@{tag}").id == memory.info(tag).id == record_id
    assert memory.info(record_id).tags == (tag,)
    memory.untag(tag, tag)
    assert tag not in memory


@pytest.mark.parametrize("tag", ["12a", "best of all", "LATEST", "-1", "1.0"])
def test_a_tag_that_merely_resembles_another_reference_is_one(memory: RecordStore, tag: str) -> None:
    record_id = memory.save([], run="r", tags=(tag,))
    assert memory.info(f"r@{tag}").id == memory.info(tag).id == record_id


BAD_TEXTS = ["a\0b", "\ud800", "x" * 1025, "\N{GRINNING FACE}" * 257]
BAD_TAGS = ["", "1", "0123", "latest", "a@b", "a:b", "\N{ARABIC-INDIC DIGIT THREE}", "\N{SUPERSCRIPT TWO}"]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=ascii)
def test_a_text_that_no_database_holds_is_refused_wherever_it_comes(memory: RecordStore, text: str) -> None:
    memory.save([])
    for call in (
        lambda: memory.save({text: np.ones(1)}),
        lambda: memory.save([], run=text),
        lambda: memory.save([], metrics={text: 1}),
        lambda: memory.save([], tags=[text]),
        lambda: memory.tag(1, text),
        lambda: memory.untag(1, text),
        lambda: memory.load(1, names=[text]),
        lambda: memory.best(text, "max"),
        lambda: memory.latest(text),
        lambda: memory.records(run=text),
    ):
        with pytest.raises(InvalidValueError, match=r"NUL|surrogate|more than 1024"):
            call()
    assert list(memory) == [1]


@pytest.mark.parametrize("tag", BAD_TAGS, ids=ascii)
def test_a_tag_that_would_be_taken_for_another_reference_is_refused(memory: RecordStore, tag: str) -> None:
    memory.save([])
    for call in (lambda: memory.save([], tags=[tag]), lambda: memory.tag(1, tag), lambda: memory.untag(1, tag)):
        with pytest.raises(InvalidValueError, match=r"tag .* must not"):
            call()
    assert memory.info(1).tags == ()


@pytest.mark.parametrize("run", ["", "@", "a@b"])
def test_a_run_that_a_reference_could_not_name_is_refused(memory: RecordStore, run: str) -> None:
    with pytest.raises(InvalidValueError, match=r"run .* must not"):
        memory.save([], run=run)


@pytest.mark.parametrize("number", [-1, 2**63])
def test_a_round_out_of_range_is_refused(memory: RecordStore, number: int) -> None:
    with pytest.raises(InvalidValueError, match=r"between 0 and"):
        memory.save([], run="r", round=number)
    with pytest.raises(InvalidValueError, match=r"needs a run"):
        memory.save([], round=1)
    assert memory.info(memory.save([], run="r", round=np.uint8(5))).round == 5  # type: ignore[arg-type]


class Text(str):
    """A string that prints as something else than it is, as the members of an Enum of strings do."""

    __slots__ = ()

    def __str__(self) -> str:
        return "printed"


def test_a_subclass_of_str_counts_as_the_text_that_it_equals(memory: RecordStore) -> None:
    given = {Text("name"): np.ones(2)}
    memory.save(given, run=Text("run"), round=1, tags=[Text("tag")], metrics={Text("name"): 1}, keep_input=False)
    info = memory.info("run@tag")
    assert (info.run, info.tags, info.names, info.metrics) == ("run", ("tag",), ("name",), {"name": 1.0})
    assert given == {}
    assert list(memory.load(Text("run@1"), names=[Text("name")])) == ["name"]
    assert {type(text) for text in (info.run, *info.tags, *info.names)} == {str}


HUGE = 10**5000


def test_numbers_too_long_to_print_are_refused_like_other_large_ones(memory: RecordStore) -> None:
    for call in (
        lambda: memory.save([], run="r", round=HUGE),
        lambda: memory.save([], run="r", round=-HUGE),
        lambda: memory.records(limit=-HUGE),
        lambda: memory.gc(grace=HUGE),
        lambda: RecordStore(":memory:", timeout=HUGE),
    ):
        with pytest.raises(InvalidValueError):
            call()
    assert HUGE not in memory
    assert -HUGE not in memory
    for call in (memory.info, memory.load, memory.delete):
        with pytest.raises(RecordNotFoundError):
            call(HUGE)
