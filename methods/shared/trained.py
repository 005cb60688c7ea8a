"""Weights that a method brings along for a transformer, in their place for a while: low-rank pairs, or all of them.

One safetensors file: a LoRA as :mod:`methods.shared.lora` describes it, or the whole transformer under the names that
diffusers gives its tensors. Which of the two, the names tell. Nothing is merged or written over: modules or parameters
are exchanged, and the network's own come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from methods.shared import lora

WHOLE = "diffusion_pytorch_model.safetensors"  # what diffusers calls a transformer in its folder


def find(where: str, missing: str) -> Path:
    """The file that ``where`` names: itself, or in a folder a LoRA or a transformer as diffusers writes them.

    Args:
        missing: what to do where there is none, for the error.

    Raises:
        PrerequisiteError: there is none.
    """
    path = Path(where).expanduser()
    if path.is_dir() and (path / WHOLE).is_file():
        return path / WHOLE
    return lora.find(where, missing)


def check(path: Path, network: Any, pattern: str, optional: str, whose: str) -> None:
    """Refuse a file that is not for this network; only its header is read, and of the network only its shapes.

    Args:
        pattern: of the whole names of the linear layers that a LoRA has pairs for.
        optional: of those that it may lack, all of them together.
        whose: the network's name, for errors.

    Raises:
        UsageError: no safetensors file, other layers or tensors, shapes that do not fit.
    """
    shapes, _ = lora.header(path)
    if any("lora" in name for name in shapes):
        lora.check(path, lora.layers(network, pattern), lora.layers(network, optional), whose)
        return
    expected = {name: tuple(p.shape) for name, p in network.named_parameters()}
    lists = (sorted(set(shapes) - set(expected)), "unknown"), (sorted(set(expected) - set(shapes)), "missing")
    wrong = [f"{len(names)} {what}, first {names[0]}" for names, what in lists if names]
    wrong += [f"{n} is {shapes[n]}, expected {s}" for n, s in expected.items() if shapes.get(n, s) != s][:1]
    if wrong:
        raise UsageError(
            f"{path} is no transformer of {whose}: tensors {'; '.join(wrong)}; expected all {len(expected)} of it, or "
            f"low-rank pairs"
        )


@contextmanager
def worn(network: Any, path: Path, device: Any) -> Iterator[None]:
    """Let a network work with the weights of a checked file, in the network's own types; its own come back.

    Args:
        device: where low-rank pairs are to be.

    Raises:
        UsageError: whole weights for a network whose own are kept elsewhere layer by layer (``offload=sequential``).
    """
    if any("lora" in name for name in lora.header(path)[0]):
        with adapted(network, lora.load(path, device, network.dtype)):
            yield
        return
    from safetensors.torch import load_file

    with exchanged(network, load_file(path), device):
        yield


@contextmanager
def adapted(network: Any, adapter: lora.Adapter) -> Iterator[None]:
    """Let linear layers add their low-rank pairs."""
    own = {name: network.get_submodule(name) for name in adapter}
    for name, layer in own.items():
        network.set_submodule(name, _paired_class()(layer, adapter[name]))
    try:
        yield
    finally:
        for name, layer in own.items():
            network.set_submodule(name, layer)


@contextmanager
def bare(network: Any) -> Iterator[None]:
    """Let layers that wear low-rank pairs (:func:`adapted`) work without them."""
    worn = {layer: layer.pair for layer in network.modules() if isinstance(layer, _paired_class())}
    for layer in worn:
        layer.pair = None
    try:
        yield
    finally:
        for layer, pair in worn.items():
            layer.pair = pair


@contextmanager
def exchanged(network: Any, tensors: Mapping[str, Any], device: Any) -> Iterator[None]:
    """Let other tensors stand in the place of a network's parameters."""
    import torch

    own = dict(network.named_parameters())
    if any(p.device.type == "meta" for p in own.values()) and str(device) != "meta":
        raise UsageError("whole weights of a method's own and offload=sequential do not go together; use offload=model")

    def put(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            module, _, leaf = name.rpartition(".")
            network.get_submodule(module)._parameters[leaf] = value

    put({n: torch.nn.Parameter(tensors[n].to(p.device, p.dtype), requires_grad=False) for n, p in own.items()})
    try:
        yield
    finally:
        put(own)


@cache
def _paired_class() -> Any:
    import torch

    class Paired(torch.nn.Module):
        """A linear layer and its pair."""

        def __init__(self, layer: Any, pair: lora.Lora | None) -> None:
            super().__init__()
            self.layer, self.pair = layer, pair

        def forward(self, x: Any) -> Any:
            return lora.linear(self.layer, x, self.pair)

    return Paired
