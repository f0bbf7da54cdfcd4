"""Thousands of generated calls, each made on Flower's classes and on ours: the outcomes must be the same.

An outcome is the value, or the exception (its type, and its message where that is fixed), what is left of the inputs,
and the number of garbage collections. What goes beyond Flower is left out here and tested elsewhere.
"""

from __future__ import annotations

import copy
import gc
import pickle
import random
import re
import sys
import warnings
from collections import Counter, OrderedDict
from io import BytesIO
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

import recordstore.arrayrecord as our_record_module
from recordstore.array import Array
from recordstore.arrayrecord import ArrayRecord

CASES = {
    "array_arguments": 700,
    "array_of_an_ndarray": 500,
    "numpy_of_any_bytes": 200,
    "array_as_a_value": 100,
    "record_arguments": 500,
    "record_from_a_class_method": 400,
    "record_to_numpy": 200,
    "mapping_operations": 500,
    "stand_in_torch": 200,
    "torch_absent": 100,
    "torch_tensors": 300,
    "torch_records": 300,
}
FIXED = [
    "Invalid arguments for ArrayRecord",
    "Invalid arguments for Array",
    "Key must be of type",
    "Value must be of type",
    "PyTorch is required",
    "Unsupported serialization type for numpy conversion: '",
    "Expected NumPy ndarray, got",
    "Expected PyTorch Tensor, got",
]
DTYPES = ["?", "i1", "<i2", ">i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", ">f4", "<f8", "g", "<c8", ">c16"]
DTYPES += ["S3", "<U2", ">U2", "V5", "M8[ns]", ">M8[D]", "m8[s]", "O"]
RECORD_DTYPES = [[("a", "<i4"), ("b", ">f8")], [("x", "<f4", (2,)), ("y", [("z", "S2")])], [("a", "O")]]
SHAPES = [(), (0,), (1,), (4,), (2, 3), (2, 0, 3), (2, 2, 2)]
done: Counter[str] = Counter()


# ---- running one case ------------------------------------------------------------------------------------------------


def run(family: str, seed: int, api: SimpleNamespace, threshold: int) -> dict[str, Any]:
    """Make one call on one library; everything random comes from the seed, so both get the same call."""
    api.watched = []
    rng = random.Random(f"{family} {seed}")
    collections = mock.Mock(return_value=0)
    with (
        mock.patch.object(api.record_module, "GC_THRESHOLD", threshold),
        mock.patch.object(gc, "collect", collections),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            outcome = plain(globals()[family](rng, api))
        except Exception as error:
            outcome = error
    return {"outcome": outcome, "left": plain(api.watched), "collections": collections.call_count}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], case: str) -> None:
    expected, got = theirs.pop("outcome"), ours.pop("outcome")
    if isinstance(got, AssertionError) and not __debug__:
        return  # under python -O Flower leaves its assertions out, and goes on with what it does not expect
    if isinstance(expected, Exception):
        assert isinstance(got, type(expected)), f"{case}: {expected!r} expected, not {got!r}"
        start = next((start for start in FIXED if str(expected).startswith(start)), "")
        assert str(got).startswith(start), case
        if start.endswith("'"):
            assert str(got) == str(expected), case
    else:
        assert got == expected, case
    assert ours == theirs, case


def plain(value: Any) -> Any:
    """The value as builtins that can be compared across the two libraries."""
    kind = type(value).__name__
    if kind in {"Array", "ArrayRecord"} or isinstance(value, dict):
        if kind == "Array":
            fields = [name for name in vars(value) if not name.startswith("_")]  # newer Flowers keep caches there
            return kind, value.dtype, list(value.shape), value.stype, value.data, fields
        return kind, [(plain(key), plain(item)) for key, item in value.items()]
    if isinstance(value, np.ndarray):
        flags = value.flags
        layout = flags.c_contiguous, flags.f_contiguous, flags.writeable
        content = value.tolist() if value.dtype.hasobject else value.tobytes()
        return kind, str(value.dtype), value.dtype.byteorder, value.shape, layout, content
    if hasattr(value, "requires_grad"):
        detail = value.requires_grad, value.is_contiguous(), value.stride()
        return kind, str(value.dtype), tuple(value.shape), detail, value.detach().numpy().tobytes()
    if isinstance(value, list | tuple):
        return kind, [plain(item) for item in value]
    if kind in {"dict_keys", "dict_values", "dict_items"}:
        return kind, [plain(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"shape=\(([^)]*?),?\)", r"shape=[\1]", value).replace("flwr.", "")
    return value


@pytest.fixture
def libraries(flower: SimpleNamespace) -> tuple[SimpleNamespace, SimpleNamespace]:
    ours = SimpleNamespace(Array=Array, ArrayRecord=ArrayRecord, record_module=our_record_module, shape=flower.shape)
    return ours, flower


@pytest.mark.parametrize("family", CASES)
def test_behaves_as_flower(family: str, libraries: tuple, request: pytest.FixtureRequest) -> None:
    ours, theirs = libraries
    torch = None
    if family.startswith("torch_") and family != "torch_absent":
        torch = request.getfixturevalue("torch")
    for api in libraries:
        api.torch = torch
    for seed in range(CASES[family]):
        threshold = random.Random(seed).choice([0, 150, 300, 1000, 200_000_000])
        results = [run(family, seed, api, threshold) for api in (ours, theirs)]
        assert_same(*results, f"case {seed} of {family} against flwr {theirs.version}")
        done[family] += 1
    assert done[family] >= CASES[family]


def test_at_least_two_thousand_cases_are_compared(flower: SimpleNamespace) -> None:
    assert sum(CASES.values()) >= 2000
    assert sum(count for family, count in CASES.items() if not family.startswith("torch_")) >= 2000
    print(f"{sum(done.values())} cases compared with flwr {flower.version}: {dict(done)}")


# ---- material ---------------------------------------------------------------------------------------------------------


class Bytes(bytes):
    pass


class Text(str):
    __slots__ = ()


class Subclass(np.ndarray):
    pass


def ndarray(rng: random.Random, *, objects: bool = True) -> np.ndarray:
    dtype = np.dtype(rng.choice([*DTYPES, *RECORD_DTYPES]) if rng.random() < 0.8 else "<f4")
    if dtype.hasobject and not objects:
        dtype = np.dtype("<f8")
    shape = rng.choice(SHAPES)
    size = int(np.prod((2, *shape), dtype=int))
    if dtype.hasobject:
        array = np.zeros((2, *shape), dtype)
    else:
        array = np.frombuffer(bytearray(rng.randbytes(size * dtype.itemsize)), np.uint8).view(dtype)
        array = array.reshape((2, *shape))
    layouts = [
        array[0, ...].copy,
        lambda: np.asfortranarray(array),
        lambda: array.T,
        lambda: array[::-1],
        lambda: array[..., ::2],
        lambda: array.swapaxes(0, -1),
        lambda: np.broadcast_to(array, (2, *array.shape)),
        lambda: array[1, ...].view(Subclass),
    ]
    return rng.choice(layouts)()


def small_array(rng: random.Random, api: SimpleNamespace, stype: str = "numpy.ndarray") -> Any:
    buffer = BytesIO()
    np.save(buffer, np.arange(rng.randrange(20), dtype=rng.choice(["f4", "i8", ">i2"])))
    return api.Array(rng.choice(["float32", "", "x"]), api.shape([rng.randrange(4)]), stype, buffer.getvalue())


class Stranger:
    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stranger)

    def __repr__(self) -> str:
        return "a stranger"


def wrong(rng: random.Random) -> Any:
    return rng.choice([0, 1.5, "text", b"bytes", (), [1], {"a": 1}, {1, 2}, Stranger(), object, True, range(2)])


# ---- the families of cases -------------------------------------------------------------------------------------------


def array_arguments(rng: random.Random, api: SimpleNamespace) -> Any:
    valid = {"dtype": "float32", "shape": api.shape([2, 3]), "stype": "numpy.ndarray", "data": b"abc"}
    odd = {
        "dtype": ["", Text("f"), b"float32", np.dtype("f4"), np.zeros(2), None, 3],
        "shape": [
            *map(api.shape, [(), [True], [1.0], ["a"], [np.int64(2)], [-1, 0], [None]]),
            *(range(2), {2: 3}, "ab", 2, np.zeros(2), None),
        ],
        "stype": ["", "anything", Text("s"), b"numpy.ndarray", None, 1],
        "data": [b"", Bytes(b"xy"), bytearray(b"abc"), memoryview(b"abc"), "abc", None, [1]],
    }
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        slot = rng.choice(list(odd))
        valid[slot] = rng.choice(odd[slot])
    names = list(valid)
    by_position = rng.randrange(5)
    args = [valid[name] for name in names[:by_position]]
    kwargs = {name: valid[name] for name in names[by_position:]}
    change = rng.randrange(10)
    if change == 0 and kwargs:
        del kwargs[rng.choice(list(kwargs))]
    elif change == 1 and args:
        args[rng.randrange(len(args))] = rng.choice([None, np.ones(2), "x"])
    elif change == 2:
        kwargs[rng.choice([*names, "ndarray", "torch_tensor"])] = rng.choice([None, np.ones(3), "y", b"z"])
    elif change == 3:
        args.append(rng.choice([None, b"more", np.ones(2)]))
    elif change == 4:
        array = ndarray(rng)
        args = rng.choice([[], [array], [None, array], [None, None, None, array], [array, None], [array, array]])
        kwargs = rng.choice([{}, {"ndarray": array}, {"ndarray": None}, {"torch_tensor": array}, {"shape": array}])
    elif change == 5:
        args, kwargs = rng.choice([([], {}), ([None] * 4, {}), ([None] * 5, {}), ([wrong(rng)], {}), ([], {"x": 1})])
    return api.Array(*args, **kwargs)


def array_of_an_ndarray(rng: random.Random, api: SimpleNamespace) -> Any:
    source = ndarray(rng)
    if rng.random() < 0.1:
        source = rng.choice([[1.0], (1, 2), 3, None, "x", np.float32(1), Stranger()])
    forms = [api.Array, lambda each: api.Array(ndarray=each), api.Array.from_numpy_ndarray]
    array = rng.choice(forms)(source)
    api.watched += [source]
    return array, array.numpy(), repr(array), array.stype == "numpy.ndarray"


def numpy_of_any_bytes(rng: random.Random, api: SimpleNamespace) -> Any:
    buffer = BytesIO()
    np.save(buffer, ndarray(rng, objects=False), allow_pickle=False)
    data = buffer.getvalue()
    kind = rng.randrange(6)
    if kind == 0:
        data = data[: rng.randrange(len(data))]
    elif kind == 1:
        data += rng.randbytes(rng.randrange(9))
    elif kind == 2:
        data = rng.randbytes(rng.randrange(40)).replace(b"PK", b"pk")
    elif kind == 3:
        data = b""
    stype = rng.choice(["numpy.ndarray"] * 4 + ["numpy.ndarray.tobytes", "", "it's"])
    array = api.Array("float32", api.shape([2]), stype, data)
    api.watched += [array]
    return array.numpy()


def array_as_a_value(rng: random.Random, api: SimpleNamespace) -> Any:
    first, second = small_array(rng, api), small_array(rng, api)
    twin = copy.copy(first) if rng.random() < 0.5 else pickle.loads(pickle.dumps(first))
    if rng.random() < 0.3:
        setattr(twin, rng.choice(["dtype", "stype"]), "other")
    api.watched += [first, twin]
    subclass = type("Subclass", (api.Array,), {})
    actions = [
        lambda: (first == twin, first != twin, first == second, [twin].index(first)),
        lambda: hash(first),
        lambda: first < second,
        lambda: first == vars(first),
        lambda: first == subclass(first.dtype, first.shape, first.stype, first.data),
        lambda: type(subclass(np.ones(2))).__name__,
        lambda: type(subclass.from_numpy_ndarray(np.ones(2))).__name__,
        lambda: repr(first),
        lambda: copy.deepcopy(first),
        lambda: list(type(first).__dataclass_fields__),
    ]
    return rng.choice(actions)()


def an_input(rng: random.Random, api: SimpleNamespace) -> Any:
    count = rng.randrange(4)
    arrays = [ndarray(rng, objects=rng.random() < 0.2) for _ in range(count)]
    stored = {rng.choice("abcdef") + str(at): small_array(rng, api) for at in range(count)}
    kind = rng.randrange(12)
    if kind <= 2:
        return arrays
    if kind <= 5:
        return OrderedDict(stored) if kind == 5 else stored
    odd: list[Any] = [
        None,
        wrong(rng),
        tuple(arrays),
        {**stored, "odd": rng.choice([None, np.ones(2), 3])},
        {**stored, 3: small_array(rng, api)},
        [*arrays, rng.choice([None, 3, [1.0]])],
        api.ArrayRecord(stored),
        iter(arrays),
        {"a": np.ones(2)},
    ]
    return rng.choice(odd)


def record_arguments(rng: random.Random, api: SimpleNamespace) -> Any:
    value = an_input(rng, api)
    keyword = rng.choice(["array_dict", "numpy_ndarrays", "torch_state_dict"])
    args, kwargs = rng.choice([([value], {}), ([], {keyword: value}), ([None], {keyword: value})])
    if rng.random() < 0.1:
        args = [*args, rng.choice([None, value, True])]
    if rng.random() < 0.1:
        kwargs = {**kwargs, rng.choice(["array_dict", "numpy_ndarrays", "torch_state_dict", "x"]): an_input(rng, api)}
    if rng.random() < 0.6:
        kwargs = {**kwargs, "keep_input": rng.random() < 0.4}
    if not hasattr(value, "__next__"):
        api.watched += [value]
    record = api.ArrayRecord(*args, **kwargs)
    return record, record.count_bytes(), sorted(vars(record))[:3], repr(record)


def record_from_a_class_method(rng: random.Random, api: SimpleNamespace) -> Any:
    name = rng.choice(["from_array_dict", "from_numpy_ndarrays"])
    value = an_input(rng, api)
    if rng.random() < 0.5:
        value = [ndarray(rng, objects=rng.random() < 0.2) for _ in range(rng.randrange(6))]
        if rng.random() < 0.3:
            value.insert(rng.randrange(len(value) + 1), rng.choice([None, [1.0]]))
        name = "from_numpy_ndarrays"
    elif name == "from_array_dict" and isinstance(value, dict) and rng.random() < 0.3:
        odd = small_array(rng, api)
        setattr(odd, rng.choice(["dtype", "stype", "data"]), 3)
        value["odd"] = odd
        api.watched += [list(value)]
        plain_left = value
        value = {**plain_left}
    if not hasattr(value, "__next__") and "odd" not in (value if isinstance(value, dict) else ()):
        api.watched += [value]
    args = [value] if rng.random() < 0.95 else [value, value]
    record = getattr(api.ArrayRecord, name)(*args, keep_input=rng.random() < 0.4)
    if name == "from_array_dict":
        originals = getattr(value, "values", list)()
        shared = [a.data is b.data and a is not b for a, b in zip(record.values(), originals, strict=False)]
        return record, shared
    return record


def record_to_numpy(rng: random.Random, api: SimpleNamespace) -> Any:
    record = api.ArrayRecord({str(at): small_array(rng, api) for at in range(rng.randrange(6))})
    for key in rng.sample(list(record), k=min(len(record), rng.choice([0, 0, 1]))):
        record[key] = small_array(rng, api, "other")
    api.watched += [record]
    return record.to_numpy_ndarrays(**rng.choice([{}, {"keep_input": True}, {"keep_input": False}]))


def operations(record: Any, other: Any, key: Any, value: Any, new: Any, api: SimpleNamespace) -> dict[str, Any]:
    return {
        "set": lambda: record.__setitem__(key, value),
        "delete": lambda: record.__delitem__(key),
        "item": lambda: record[key],
        "get": lambda: record.get(key, 7),
        "pop": lambda: record.pop(key),
        "pop with default": lambda: record.pop(key, 7),
        "popitem": record.popitem,
        "setdefault": lambda: record.setdefault(key, value),
        "setdefault alone": lambda: record.setdefault(key),
        "update": lambda: record.update({"b": new, key: value}),
        "update pairs": lambda: record.update([("n", new), (key, value)]),
        "update keywords": lambda: record.update(c=value),
        "update record": lambda: record.update(other),
        "contains": lambda: (key in record, "a" in record, record.keys().__contains__(key)),
        "equal": lambda: (record == other, record != other, record == dict(record), dict(record) == record),
        "equal reversed": lambda: record == api.ArrayRecord(dict(reversed(list(record.items())))),
        "equal strange": lambda: (record == list(record), record == 3, record == None),  # noqa: E711
        "length": lambda: (len(record), bool(record), list(record), list(iter(record))),
        "views": lambda: (record.keys(), record.values(), record.items(), list(reversed(record.keys()))),
        "view sets": lambda: (sorted(record.keys() | {"q"}), sorted(record.keys() & other.keys())),
        "views live": lambda: (keys := record.keys(), record.__setitem__("w", value), list(keys)),
        "reversed": lambda: list(reversed(record)),
        "clear": record.clear,
        "repr": lambda: (repr(record), str(record)),
        "hash": lambda: hash(record),
        "union": lambda: record | other,
        "pickle": lambda: (pickle.loads(pickle.dumps(record)) == record, pickle.loads(pickle.dumps(record))),
        "deepcopy": lambda: copy.deepcopy(record),
        "bytes": record.count_bytes,
        "attribute": lambda: record.missing,
        "grow while iterating": lambda: [record.__setitem__(each + each, record[each]) for each in record],
    }


def mapping_operations(rng: random.Random, api: SimpleNamespace) -> Any:
    record = api.ArrayRecord({key: small_array(rng, api) for key in rng.sample("abcde", rng.randrange(5))})
    other = api.ArrayRecord(dict(rng.sample(list(record.items()), rng.randrange(len(record) + 1))))
    trace = []
    for _ in range(rng.randrange(1, 8)):
        key = rng.choice(["a", "b", "c", "z", Text("a"), 3, None, ("a",), ["a"]])
        new = small_array(rng, api)
        value = rng.choice([new, new, None, np.ones(2), "x"])
        choices = operations(record, other, key, value, new, api)
        name = rng.choice(list(choices))
        try:
            trace.append((name, plain(choices[name]())))
        except Exception as error:
            start = next((start for start in FIXED if str(error).startswith(start)), "")
            trace.append((name, type(error), start))
        trace.append(list(record))
    api.watched += [record, other]
    return trace


class StandInTensor:
    """The three methods of a tensor that a conversion needs, counted."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in {"detach", "cpu", "numpy"}:
            self.calls.append(name)
            return lambda: self.array if name == "numpy" else self
        raise AttributeError(name)


def stand_in_torch(rng: random.Random, api: SimpleNamespace) -> Any:
    torch = ModuleType("torch")
    torch.Tensor, torch.from_numpy = StandInTensor, lambda array: ("tensor", array)
    tensors = {name: StandInTensor(ndarray(rng, objects=rng.random() < 0.1)) for name in "abc"[: rng.randrange(4)]}
    first = next(iter(tensors.values()), None)
    keep = {"keep_input": rng.random() < 0.5}
    record = api.ArrayRecord([np.arange(3), np.ones(2)])
    actions = [
        lambda: api.Array(first),
        lambda: api.Array(torch_tensor=first),
        lambda: api.Array(ndarray=first),
        lambda: api.Array.from_torch_tensor(rng.choice([first, np.ones(2)])),
        lambda: api.ArrayRecord(tensors, **keep),
        lambda: api.ArrayRecord(torch_state_dict=tensors, **keep),
        lambda: api.ArrayRecord(array_dict=tensors, **keep),
        lambda: api.ArrayRecord({**tensors, "odd": np.ones(2)}),
        lambda: api.ArrayRecord.from_torch_state_dict(tensors, **keep),
        lambda: api.ArrayRecord.from_torch_state_dict({**tensors, "odd": rng.choice([3, None])}, **keep),
        lambda: record.to_torch_state_dict(**keep),
    ]
    with mock.patch.dict(sys.modules, torch=torch):
        try:
            return rng.choice(actions)()
        finally:
            api.watched += [list(tensors), [each.calls for each in tensors.values()], record]


def torch_absent(rng: random.Random, api: SimpleNamespace) -> Any:
    tensors = {name: StandInTensor(np.ones(2)) for name in "abc"[: rng.randrange(4)]}
    record = api.ArrayRecord([np.arange(3), np.ones(2)])
    keep = {"keep_input": rng.random() < 0.5}
    actions = [
        lambda: api.Array(StandInTensor(np.ones(2))),
        lambda: api.Array(torch_tensor=StandInTensor(np.ones(2))),
        lambda: api.Array.from_torch_tensor(rng.choice([StandInTensor(1), np.ones(2), None])),
        lambda: api.ArrayRecord(tensors, **keep),
        lambda: api.ArrayRecord(torch_state_dict=tensors, **keep),
        lambda: api.ArrayRecord.from_torch_state_dict(rng.choice([tensors, None, 3]), **keep),
        lambda: record.to_torch_state_dict(**keep),
        lambda: record.to_numpy_ndarrays(**keep),
    ]
    with mock.patch.dict(sys.modules):
        sys.modules.pop("torch", None)
        try:
            return rng.choice(actions)()
        finally:
            api.watched += [list(tensors), record]


def tensor(rng: random.Random, torch: Any, *, odd: bool = True) -> Any:
    names = ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64"]
    names += ["uint16", "uint32", "uint64", "complex128"]
    dtype = getattr(torch, rng.choice(names))
    shape = rng.choice(SHAPES)
    base = torch.tensor(np.random.default_rng(rng.randrange(1000)).integers(0, 99, (2, *shape))).to(dtype)
    layouts = [
        lambda: base,
        lambda: base[0],
        lambda: base.transpose(0, -1),
        lambda: base[1:],
        lambda: base[..., ::2],
        lambda: base.expand(3, *base.shape),
        lambda: base[0].clone().requires_grad_(dtype.is_floating_point),
        lambda: torch.nn.Parameter(base, requires_grad=dtype.is_floating_point),
        lambda: base.to(torch.float32).requires_grad_() * 2,
    ]
    if odd and rng.random() < 0.2:
        layouts = [
            lambda: torch.ones(2, dtype=torch.complex64).conj(),
            lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
            lambda: torch.eye(2).to_sparse(),
            lambda: torch.empty(2, dtype=torch.complex32),
            lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            lambda: torch.empty(2, device="meta"),
        ]
    return rng.choice(layouts)()


def torch_tensors(rng: random.Random, api: SimpleNamespace) -> Any:
    source = tensor(rng, api.torch)
    forms = [api.Array, lambda each: api.Array(torch_tensor=each), api.Array.from_torch_tensor]
    forms += [lambda each: api.Array(ndarray=each), lambda each: api.Array(each, api.shape([2]))]
    if rng.random() < 0.05:
        source = rng.choice([np.ones(2), None, 3.0, [source]])
    array = rng.choice(forms)(source)
    return array, array.numpy(), api.torch.from_numpy(array.numpy()), source


def torch_records(rng: random.Random, api: SimpleNamespace) -> Any:
    torch = api.torch
    if rng.random() < 0.3:
        arrays = [ndarray(rng, objects=False) for _ in range(rng.randrange(4))]
        record = api.ArrayRecord(arrays)
        if record and rng.random() < 0.2:
            record[rng.choice(list(record))] = small_array(rng, api, "other")
        api.watched += [record]
        return record.to_torch_state_dict(**rng.choice([{}, {"keep_input": True}, {"keep_input": False}]))
    odd = rng.random() < 0.3
    state_dict: dict[Any, Any] = OrderedDict((name, tensor(rng, torch, odd=odd)) for name in "dacb"[: rng.randrange(5)])
    if rng.random() < 0.1:
        state_dict = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()
        for each in state_dict.values():
            each.fill_(rng.randrange(9))
    if rng.random() < 0.1:
        state_dict[rng.choice([3, "z"])] = rng.choice([torch.ones(2), np.ones(2), None])
    form = rng.choice(["constructor", "keyword", "class method"])
    keep = rng.choice([{}, {"keep_input": True}, {"keep_input": False}])
    try:
        if form == "constructor":
            record = api.ArrayRecord(state_dict, **keep)
        elif form == "keyword":
            record = api.ArrayRecord(torch_state_dict=state_dict, **keep)
        else:
            record = api.ArrayRecord.from_torch_state_dict(state_dict, **keep)
        return record, record.to_torch_state_dict(), record.to_numpy_ndarrays()
    finally:
        api.watched += [list(state_dict)]
