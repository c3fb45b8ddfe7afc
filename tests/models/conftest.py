"""What the tests of the network share: weights and inputs drawn by the golden figures' own rule."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.neuron import ILIFNode
from tests.conftest import GOLDEN as FIGURES

GOLDEN = FIGURES / "spikeyolo"

#: Scale of the batch norm weights the rule draws, for the networks of either code.
BN_GAIN = {"coco": 1.0, "gen1": 1.8}


def load_module(path: Path) -> ModuleType:
    """A file as a module of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def rule() -> ModuleType:
    """The rule that draws weights, inputs and cotangents from names."""
    return load_module(GOLDEN / "rule.py")


@pytest.fixture(scope="session")
def ems_rule() -> ModuleType:
    """The rule that draws the weights and inputs of the figures of EMS-YOLO."""
    return load_module(GOLDEN.parent / "ems_yolo" / "rule.py")


@pytest.fixture(scope="session")
def ems_json() -> Callable[[str], Any]:
    """ems_json("ems_blocks_keys") -> its content."""
    return lambda name: json.loads((GOLDEN.parent / "ems_yolo" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def golden_json() -> Callable[[str], Any]:
    """golden_json("energy_sheet") -> its content."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


#: Figures of the normalised neuron -> D, whether they are normalised, decay if there is time.
NILIF: dict[str, tuple[int, bool, float | None]] = {
    "Multispike_norm_D4": (4, True, None),
    "MultiSpike_norm4": (4, True, None),
    "MultiSpike_4_unnormalised": (4, False, None),
    "Quant4_surrogate": (4, True, None),
    "Quant_D8_surrogate": (8, False, None),
    "Q_IFNode_one_call": (8, True, None),
    "Q_IFNode_T1": (8, True, 1.0),
    "Q_IFNode_T2": (8, True, 1.0),
    "Q_IFNode_T4": (8, True, 1.0),
    "paper_NILIF_T4_D4_beta1.0": (4, True, 1.0),
    "paper_NILIF_T4_D4_beta0.25": (4, True, 0.25),
}


@pytest.fixture(params=NILIF)
def check_nilif(
    request: pytest.FixtureRequest, golden: Callable[[str], Any]
) -> Callable[[str], None]:
    """check_nilif(backend): spikes, gradients and last membrane of one case, in float64."""
    file = golden("ems_yolo/nilif.npz")
    case = {key: torch.tensor(file[f"{request.param}/{key}"]) for key in ("x", "y", "gy", "gx")}
    max_spikes, normalize, decay = NILIF[request.param]

    def check(backend: str) -> None:
        if backend == "spikingjelly" and decay == 1:
            pytest.skip("SpikingJelly's neuron leaks")
        settings: dict[str, Any] = {"backend": backend, "normalize": normalize}
        settings |= {} if normalize else {"detach_reset": False}
        node = ILIFNode(max_spikes, 0.5 if decay is None else decay, 1.0, **settings)
        x = case["x"].clone().requires_grad_()
        spikes = node(x[None])[0] if decay is None else node(x)
        (spikes * case["gy"]).sum().backward()
        torch.testing.assert_close(spikes.detach(), case["y"], rtol=0, atol=1e-9)
        torch.testing.assert_close(x.grad, case["gx"], rtol=0, atol=1e-9)
        after = f"{request.param}/v_after"
        if after in file:
            assert node.v is not None
            last = torch.tensor(file[after])[-1]
            torch.testing.assert_close(node.v.detach(), last, rtol=0, atol=1e-9)

    return check


@pytest.fixture(scope="session")
def authors_state(
    rule: ModuleType, golden_json: Callable[[str], Any]
) -> Callable[[str], dict[str, Tensor]]:
    """authors_state("gen1_s_nc2") -> a float64 state_dict with the authors' names."""

    def build(case: str) -> dict[str, Tensor]:
        gain = BN_GAIN[case.split("_", maxsplit=1)[0]]
        keys = golden_json(f"keys_{case}")["keys"]
        return {
            name: torch.as_tensor(rule.tensor_for(name, shape, gain, 0.1))
            for name, shape, _ in keys
        }

    return build


def randomise_batch_norms(model: nn.Module, seed: int = 0) -> None:
    """Give every batch norm statistics and weights far from their start, so neurons fire."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.8, 3, generator=generator)
            nn.init.normal_(module.bias, 0.2, 0.3, generator=generator)


@pytest.fixture
def lively() -> Callable[[nn.Module], nn.Module]:
    """lively(model) -> the model in float64 and evaluation mode, with neurons that fire."""

    def prepare(model: nn.Module) -> nn.Module:
        randomise_batch_norms(model)
        return model.double().eval()

    return prepare


@pytest.fixture
def events() -> Callable[..., Tensor]:
    """events(T, B, C, H, W) -> random event counts, float64."""

    def draw(*shape: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.poisson(torch.full(shape, 0.3, dtype=torch.float64), generator=generator)

    return draw
