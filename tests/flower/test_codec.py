"""The state as JSON and arrays: back to the bit, to the type, and without anything being executed."""

import collections
import json
import random
from typing import Any

import numpy as np
import pytest
from flwr_import import import_quietly
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

flower = import_quietly("recordstore.flower")
codec = import_quietly("recordstore.flower.codec")

from flwr.app import Array as FlowerArray  # noqa: E402
from flwr.app import ArrayRecord as FlowerArrayRecord  # noqa: E402
from flwr.app import ConfigRecord, MetricRecord  # noqa: E402
from flwr.common import Parameters  # noqa: E402

from recordstore import Array, ArrayRecord, CorruptRecordError, InvalidTypeError, RecordStore  # noqa: E402
from recordstore.rounds import Checkpoint  # noqa: E402

Encoder, Fingerprint = codec.Encoder, codec.Fingerprint
Decoder = import_quietly("recordstore.flower.decoder").Decoder


def through_the_store(value: Any, store: RecordStore | None = None) -> Any:
    """Encode a value, save it as a state, load it and decode it."""
    encoder = Encoder()
    data = encoder.encode(value, "label")
    with RecordStore(":memory:") as own:
        target = store or own
        record_id = target.save_checkpoint([], Checkpoint(data, encoder.arrays), run="r", round=len(target))
        checkpoint = target.load_checkpoint(record_id)
    return Decoder(checkpoint.arrays).decode(checkpoint.state)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal to the bit and in the types of all their parts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        order = one.flags.f_contiguous == other.flags.f_contiguous or one.flags.c_contiguous
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes() and order
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(x, y) for pair in pairs for x, y in zip(*pair, strict=True))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(x, y) for x, y in zip(one, other, strict=True))
    if isinstance(one, np.generic):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return one == other or repr(one) == repr(other)


dtypes = hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="=") | hnp.floating_dtypes() | hnp.complex_number_dtypes()
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3000)
keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
values = st.recursive(
    scalars | arrays | arrays.map(lambda array: array.ravel()[0] if array.size else np.float64(0)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(collections.OrderedDict)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(values)
def test_any_state_comes_back_to_the_bit_and_in_its_types(value: Any) -> None:
    assert same(through_the_store(value), value)


def test_records_of_flower_come_back_as_such(store: RecordStore) -> None:
    arrays = FlowerArrayRecord({"x": FlowerArray(np.arange(3)), "": FlowerArray("bf16", (2,), "other", b"ab")})
    parameters = Parameters(tensors=[b"one", b"", b"two" * 1000], tensor_type="numpy.ndarray")
    state = {
        "arrays": arrays,
        "config": ConfigRecord({"b": b"\xff" * 5, "list": [1, 2], "s": "x", "big": b"\x00" * 5000}),
        "metrics": MetricRecord({"nan": float("nan"), "big": 2**80, "no": []}),
        "parameters": [parameters],
    }
    back = through_the_store(state, store)
    assert [type(part) for part in back.values()] == [FlowerArrayRecord, ConfigRecord, MetricRecord, list]
    assert dict(back["arrays"]) == dict(arrays)
    assert back["arrays"][""].shape == (2,)
    assert back["config"] == state["config"]
    assert repr(dict(back["metrics"])) == repr(dict(state["metrics"]))
    assert back["parameters"] == [parameters]


def test_generators_draw_on(store: RecordStore) -> None:
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        generator = np.random.Generator(kind(3))
        generator.normal(size=5)
        assert through_the_store(generator, store).normal(size=9).tolist() == generator.normal(size=9).tolist()
    own = random.Random(3)
    own.gauss(0, 1)
    back = through_the_store(own, store)
    assert [back.gauss(0, 1) for _ in range(3)] == [own.gauss(0, 1) for _ in range(3)]


def test_tensors_come_back_with_their_dtype(store: RecordStore, torch: Any) -> None:
    tensors = {"f": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "s": torch.tensor(7)}
    back = through_the_store(tensors, store)
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_parameters_and_what_learns_come_back_as_such(store: RecordStore, torch: Any) -> None:
    learning = torch.ones(2, requires_grad=True)
    frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    back = through_the_store([torch.nn.Parameter(torch.arange(2.0)), frozen, learning, torch.ones(1)], store)
    kinds = [(type(one), one.requires_grad) for one in back]
    assert kinds == [
        (torch.nn.Parameter, True),
        (torch.nn.Parameter, False),
        (torch.Tensor, True),
        (torch.Tensor, False),
    ]
    assert back[0].tolist() == [0.0, 1.0]


def test_a_generator_of_torch_draws_on(store: RecordStore, torch: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    back = through_the_store(generator, store)
    assert torch.equal(torch.rand(9, generator=back), torch.rand(9, generator=generator))
    with pytest.raises(InvalidTypeError, match="Generator"):
        Encoder(private=True).encode(generator, "x")


def test_what_is_one_array_stays_one(store: RecordStore, torch: Any) -> None:
    array, tensor = np.ones(3), torch.ones(2)
    state = {"first": array, "second": [array, tensor], "third": tensor, "equal": np.ones(3)}
    back = through_the_store(state, store)
    assert back["first"] is back["second"][0]
    assert back["third"] is back["second"][1]
    assert back["equal"] is not back["first"]


def test_long_contents_of_a_bytearray_are_kept_as_an_array(store: RecordStore) -> None:
    encoder = Encoder()
    value = bytearray(range(256)) * 20
    assert encoder.encode(value, "x") == {"$bytearray": {"$long": "x.0"}}
    assert same(through_the_store(value, store), value)


class Evil:
    def __reduce__(self) -> Any:
        raise AssertionError("pickled")


REFUSED = [
    Evil(),
    object(),
    lambda: None,
    {"deep": [{"x": Evil()}]},
    np.array([object()]),
    collections.deque([object()]),
    type("Sub", (dict,), {})(a=1),
    type("Sub", (np.ndarray,), {})((2,)),
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_would_come_back_as_something_else_is_refused(value: Any) -> None:
    encoder = Encoder()
    encoder.encode(np.ones(1), "before")
    with pytest.raises(InvalidTypeError, match=r"strategy\.x cannot be kept"):
        encoder.encode([np.zeros(2), value], "strategy.x")
    assert len(encoder.arrays) == 1, "nothing of a value that is refused stays"


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidTypeError):
        Encoder().encode(loop, "x")


@pytest.mark.parametrize("tag", ["$pickle", "$Generator", "$eval"])
def test_a_crafted_state_runs_nothing(tag: str) -> None:
    content = {"bit_generator": "seed", "state": 1} if tag == "$Generator" else "print(1)"
    with pytest.raises(CorruptRecordError):
        Decoder({}).decode({tag: content})


@pytest.mark.parametrize(
    "data",
    [
        {"$array": "missing"},
        {"$array": ["no", "name"]},
        {"$bytes": "no base64!"},
        {"$tensor": "x"},
        {"$int": 5},
        {"$complex": ["1", 2]},
        {"$defaultdict": ["eval", []]},
        {"$defaultdict": ["list", 5]},
        {"$deque": [[], -1]},
        {"$Random": [3, [1], None]},
        {"$RandomState": {"bit_generator": "MT19937", "state": {}}},
        {"$Generator": {"bit_generator": "PCG64", "state": "x"}},
        {"$torch.Generator": ["tpu", 5]},
        {"$ConfigRecord": {"x": {"$tuple": [object.__name__, []]}}},
        {"$Parameters": ["numpy.ndarray"]},
        {"$ArrayRecord": [["key"]]},
    ],
    ids=str,
)
def test_what_no_encoder_wrote_is_called_corrupt(data: Any, torch: Any) -> None:
    with pytest.raises(CorruptRecordError):
        Decoder({}).decode(data)


def test_fingerprints_of_equal_values_are_equal_and_of_others_not() -> None:
    def mark(value: Any) -> str:
        return json.dumps(Fingerprint().encode_whole(value, "x"))

    assert mark({"a": np.ones(3), "b": {3, "x"}}) == mark({"a": np.ones(3), "b": {"x", 3}})
    assert mark(np.ones(3)) != mark(np.ones(3, np.float32))
    assert mark(np.ones(3)) != mark(np.ones((3, 1)))
    assert mark(1) != mark(1.0) != mark(True)
    assert mark(0.0) != mark(-0.0)
    assert mark(print) != mark(len)
    assert mark(Evil()) == mark(Evil())


def test_conversions_share_the_bytes() -> None:
    ours = ArrayRecord({"x": Array(np.arange(6).reshape(2, 3)), "y": Array("bfloat16", [1], "torch.Tensor", b"ab")})
    theirs = flower.to_flower(ours)
    assert type(theirs) is FlowerArrayRecord
    assert [array.data is ours[name].data for name, array in theirs.items()] == [True, True]
    assert [array.shape for array in theirs.values()] == [(2, 3), (1,)]
    back = flower.from_flower(theirs)
    assert back == ours
    assert back["x"].data is ours["x"].data


def test_a_record_of_flower_is_saved_as_ours_is(store: RecordStore) -> None:
    ours = ArrayRecord([np.ones(3), np.zeros((2, 2), np.float32)])
    one, other = store.save(ours), store.save(flower.to_flower(ours))
    assert store.info(one).digest == store.info(other).digest
    assert flower.from_flower(flower.to_flower(store.load(other))) == ours
