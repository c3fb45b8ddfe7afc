"""Spike2Former's figures: weights and inputs drawn by their own rule, in float64."""

import json
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.authors import tensor_names
from models.neuron import ILIFNode
from tests.conftest import GOLDEN
from tests.models.conftest import load_module

FIGURES = GOLDEN / "spike2former"
#: Theirs: no time, no decay; hands on counts over D.
theirs = partial(ILIFNode, 4, 0.0, 1.0, backend="torch", normalize=True)


def files(pattern: str) -> list[str]:
    """Names of the npz files there are; other figures of the same kind may stand elsewhere."""
    return sorted(path.stem for path in FIGURES.glob(f"{pattern}.npz"))


def info(name: str) -> dict[str, Any]:
    """What a file says of its figures; {} where there is no such file."""
    if not (FIGURES / f"{name}.npz").is_file():
        return {}
    with np.load(FIGURES / f"{name}.npz", allow_pickle=False) as figures:
        return json.loads(str(figures["info"]))


def figures_of(name: str) -> list[str]:
    """The names of a file's arrays; none where there is no such file."""
    if not (FIGURES / f"{name}.npz").is_file():
        return []
    with np.load(FIGURES / f"{name}.npz", allow_pickle=False) as figures:
        return list(figures.files)


def blocks_of(name: str) -> dict[str, dict[str, Any]]:
    """What a file says of every block in it."""
    return {block: said for block, said in info(name).items() if isinstance(said, dict)}


@pytest.fixture(scope="session")
def s2f_rule() -> ModuleType:
    return load_module(FIGURES / "rule.py")


@pytest.fixture(scope="session")
def figures(golden: Callable[[str], Any]) -> Callable[[str], Any]:
    """figures("loss") -> the open npz file."""
    return lambda name: golden(f"spike2former/{name}.npz")


@pytest.fixture(scope="session")
def fill(s2f_rule: ModuleType) -> Callable[..., dict[str, str]]:
    """fill(module, prefix, keys) -> our names of its tensors and theirs; weights are the rule's.

    `keys`: the authors' names and shapes, which must be those of the module, no more, no less.
    `alone`: the module is one convolution and its batch norm, which only theirs name.
    """

    def build(
        module: nn.Module, prefix: str, keys: dict[str, list[int]], alone: bool = False
    ) -> dict[str, str]:
        names = tensor_names(module)
        if alone:  # theirs have a name for a convolution and its batch norm; ours are parts
            names = {ours: f"encode_{name}" for ours, name in names.items()}
        assert set(names.values()) == set(keys)
        state = {}
        for ours, tensor in module.state_dict().items():
            drawn = s2f_rule.tensor(prefix + names[ours], tuple(keys[names[ours]]))
            state[ours] = tensor if drawn is None else torch.tensor(drawn).view(tensor.shape)
        module.double().load_state_dict(state)
        return names

    return build


def check_stored_gradients(figures: Any, at: str, found: dict[str, Tensor]) -> None:
    """Those of the parameters, by the authors' names: whole, or norms and first four numbers.

    |g - ref| <= 1e-9 |ref| + 1e-13 * the largest norm of the case.
    """
    if f"{at}|grad_keys" in figures.files:
        norms = dict(zip(figures[f"{at}|grad_keys"], figures[f"{at}|grad_norms"], strict=True))
        firsts = dict(zip(figures[f"{at}|grad_keys"], figures[f"{at}|grad_first4"], strict=True))
        assert set(found) == set(norms)
        largest = max(norms.values())
        for name, grad in found.items():
            bound = 1e-9 * norms[name] + 1e-13 * largest
            assert abs(grad.norm().item() - norms[name]) <= bound, name
            first = grad.flatten()[:4]
            assert (first - torch.tensor(firsts[name])[: len(first)]).norm() <= bound, name
        return
    start = f"{at}|grad|"
    stored = {k.removeprefix(start): figures[k] for k in figures.files if k.startswith(start)}
    norms = {name: float(np.linalg.norm(grad)) for name, grad in stored.items()}
    for name, wanted in stored.items():
        grad = found[name]
        bound = 1e-9 * norms[name] + 1e-13 * max(norms.values())
        if wanted.size == 0:
            assert grad is None, name
            continue
        assert (grad - torch.tensor(wanted).view(grad.shape)).norm() <= bound, name
    assert not stored or set(stored) == set(found)


class Probe:
    """A big array of the figures, told by shape, norm and its first and last 16 numbers."""

    def __init__(self, figures: Any, key: str) -> None:
        self.figures, self.key = figures, key

    def check(self, found: Tensor) -> None:
        figures, key, flat = self.figures, self.key, found.detach().flatten()
        if key in figures.files:
            whole = torch.tensor(figures[key]).view(found.shape)
            torch.testing.assert_close(found.detach(), whole, rtol=0, atol=1e-9)
        if f"{key}|norm" not in figures.files:
            assert key in figures.files, key
            return
        assert found.numel() == np.prod(figures[f"{key}|shape"]), key
        norm = float(figures[f"{key}|norm"])
        assert flat.norm().item() == pytest.approx(norm, rel=1e-11, abs=1e-9), key
        for part, given in (("first16", flat[:16]), ("last16", flat[-16:])):
            wanted = torch.tensor(figures[f"{key}|{part}"])
            torch.testing.assert_close(given, wanted, rtol=0, atol=1e-9)
