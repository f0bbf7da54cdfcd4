"""What the benchmark saves and loads: random bytes in the names and shapes of real models."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import nn

State = dict[str, torch.Tensor]
"""The ``state_dict`` of a model."""

Shapes = dict[str, tuple[int, ...]]

SNAPSHOT = ("save", "again", "blocked", "blocked again", "load", "into", "one")
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Workload:
    """A model that is saved at once.

    Parameters
    ----------
    name
        The word of the command line.
    shapes
        Of the arrays, by their names.
    small
        The name of the array that is read alone.
    operations
        What is timed.

    Attributes
    ----------
    states
        What one timed save consists of, one after the other.
    base
        What was saved before, into the same place; only peers that keep what is there make use of it.
    """

    def __init__(self, name: str, shapes: Shapes, *, small: str, operations: tuple[str, ...] = SNAPSHOT) -> None:
        self.name = name
        self.small = small
        self.operations = operations
        self.states = [random_state(shapes)]
        self.base: State | None = None

    @property
    def nbytes(self) -> int:
        """Return the bytes of all arrays of one timed save."""
        return sum(tensor.nbytes for state in self.states for tensor in state.values())

    def renew(self) -> None:
        """Change what has changed since the last save, so that no peer has seen it."""

    def model(self) -> nn.Module:
        """Return a model that a state fits into."""
        return build_model(self.states[0])


class Changed(Workload):
    """A model of which some arrays have changed since it was last saved."""

    def __init__(self, name: str, shapes: Shapes, *, changed: Iterable[str], small: str) -> None:
        super().__init__(name, shapes, small=small, operations=("save", "blocked"))
        self.base = self.states[0]
        self.changed = {key: torch.empty_like(self.base[key]) for key in changed}
        self.states = [self.base | self.changed]
        self.renew()

    def renew(self) -> None:
        """Give the arrays that change new values."""
        for tensor in self.changed.values():
            tensor.normal_()


class Rounds(Workload):
    """A model that is saved after every round, all of it changed."""

    def __init__(self, name: str, shapes: Shapes, *, rounds: int, small: str) -> None:
        super().__init__(name, shapes, small=small, operations=("save", "blocked", "load", "into", "one"))
        self.states += [random_state(shapes, seed) for seed in range(1, rounds)]


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """Return tensors that do not compress."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(1000, shape, generator=generator)
        if name.endswith("num_batches_tracked")
        else torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def build_model(state: State) -> nn.Module:
    """Return a tree of modules whose ``state_dict`` has these names, shapes and dtypes, filled with zeros."""
    root = nn.Module()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:  # noqa: SLF001 - a module has no public question for a direct child
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if leaf in BUFFERS:
            module.register_buffer(leaf, torch.zeros_like(tensor))
        else:
            module.register_parameter(leaf, nn.Parameter(torch.zeros_like(tensor), requires_grad=False))
    return root


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def normalization(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def batch_normalization(name: str, size: int) -> Shapes:
    buffers: Shapes = {f"{name}.{BUFFERS[0]}": (size,), f"{name}.{BUFFERS[1]}": (size,), f"{name}.{BUFFERS[2]}": ()}
    return normalization(name, size) | buffers


def tiny() -> Shapes:
    """Return the arrays of five layers: 10 arrays, 130 kB."""
    sizes = (64, 96, 96, 96, 64, 22)
    shapes: Shapes = {}
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        shapes |= linear(f"layers.{index}", inputs, outputs)
    return shapes


def digits() -> Shapes:
    """Return the arrays of the CNN of ``examples/federated_digits.py``: 8 arrays, 153 kB."""
    convolutions: Shapes = {
        "conv1.weight": (16, 1, 3, 3),
        "conv1.bias": (16,),
        "conv2.weight": (32, 16, 3, 3),
        "conv2.bias": (32,),
    }
    return convolutions | linear("hidden", 512, 64) | linear("classes", 64, 10)


def resnet18() -> Shapes:
    """Return 62 parameters and 60 buffers, 47 MB, as torchvision names them."""
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7)} | batch_normalization("bn1", 64)
    inputs = 64
    for layer, outputs in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (outputs, inputs, 3, 3)} | batch_normalization(f"{name}.bn1", outputs)
            shapes |= {f"{name}.conv2.weight": (outputs, outputs, 3, 3)} | batch_normalization(f"{name}.bn2", outputs)
            if inputs != outputs:
                shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= batch_normalization(f"{name}.downsample.1", outputs)
            inputs = outputs
    return shapes | linear("fc", 512, 1000)


def gpt2() -> Shapes:
    """Return the 148 arrays of the smallest GPT-2, 498 MB, as transformers names them; its layers are transposed."""
    shapes: Shapes = {"wte.weight": (50257, 768), "wpe.weight": (1024, 768)}
    for index in range(12):
        block = f"h.{index}"
        shapes |= normalization(f"{block}.ln_1", 768)
        shapes |= linear(f"{block}.attn.c_attn", 2304, 768) | {f"{block}.attn.c_attn.bias": (2304,)}
        shapes |= linear(f"{block}.attn.c_proj", 768, 768)
        shapes |= normalization(f"{block}.ln_2", 768)
        shapes |= linear(f"{block}.mlp.c_fc", 3072, 768) | {f"{block}.mlp.c_fc.bias": (3072,)}
        shapes |= linear(f"{block}.mlp.c_proj", 768, 3072) | {f"{block}.mlp.c_proj.bias": (768,)}
    return shapes | normalization("ln_f", 768)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "tiny": lambda: Workload("tiny", tiny(), small="layers.2.bias"),
    "resnet18": lambda: Workload("resnet18", resnet18(), small="layer3.0.bn1.weight"),
    "gpt2": lambda: Workload("gpt2", gpt2(), small="h.6.ln_1.weight"),
    # 2 of 148 arrays, 0.95 % of the bytes
    "lora": lambda: Changed(
        "lora",
        gpt2(),
        changed=["h.3.attn.c_proj.weight", "h.8.attn.c_proj.weight"],
        small="h.6.ln_1.weight",
    ),
    "rounds": lambda: Rounds("rounds", digits(), rounds=20, small="hidden.bias"),
}
"""What makes each workload, by its name."""
