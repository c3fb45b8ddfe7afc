"""Where time enters: bins one by one as steps, stacked as channels of fewer, or shown again."""

import pytest
import torch

from models import build_model, resolve
from models.deploy import deploy
from models.energy import measure_energy
from models.spike_driven import spike_driven

T, B = 4, 2
NAMES = ["spikeyolo-p", "ems-res10"]


def network(name, **settings):
    """With batch norms of what it sees, so that every layer fires."""
    torch.manual_seed(0)
    options = {"activation": "ilif", "time_steps": T, "variant": "gen1", **settings}
    model = build_model(name, **options).double()
    for bn in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        bn.momentum = 1.0
    with torch.no_grad():
        model(events())
    return model.eval()


def events():
    return torch.poisson(torch.full((T, B, 2, 64, 64), 0.3, dtype=torch.double))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("bins", "steps"), [(1, 4), (2, 2), (4, 1)])
def test_bins_become_channels_in_order_of_time(name, bins, steps):
    model, x = network(name, bins_per_step=bins), events()
    seen = []
    stem = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(x)
    (seen,) = seen
    assert seen.shape == (steps * B, 2 * bins, 64, 64)
    for t in range(T):
        step, place = divmod(t, bins)
        here = seen.unflatten(0, (steps, B))[step, :, 2 * place : 2 * place + 2]
        assert torch.equal(here, x[t])


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_all_bins_is_the_quantised_twin(name):
    """I-LIF from rest rounds and clips its input, as the quantised ANN does."""
    spiking = network(name, bins_per_step=T, input_scale=1)
    x = events()
    if name == "spikeyolo-p":
        twin = network(name, activation="qann")
        twin.load_state_dict(spiking.state_dict())
        assert all(map(torch.equal, spiking(x), twin(x)))
    report = measure_energy(spiking, [x])
    assert report.time_steps == 1
    assert report.ac > 0


def shown_once_and_twice(name, **settings):
    """Two networks of equal weights."""
    once, twice = network(name, **settings), network(name, shown=2, **settings)
    twice.load_state_dict(once.state_dict())
    return once, twice


@pytest.mark.parametrize("name", NAMES)
def test_steps_that_are_shown_again_differ_by_their_membranes_alone(name):
    x = events()
    for decay, alike in ((0.0, True), (0.5, False)):
        once, twice = shown_once_and_twice(name, decay=decay)
        assert all(map(torch.allclose, once(x), twice(x))) == alike


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_again_costs_no_second_stem(name):
    x = events()
    pair = shown_once_and_twice(name, decay=0.0, bins_per_step=T)
    once, twice = (measure_energy(model, [x]) for model in pair)
    assert (once.time_steps, twice.time_steps) == (1, 2)
    assert once.layers[0].mac == twice.layers[0].mac > 0
    assert once.ann_mj == pytest.approx(twice.ann_mj)
    assert 2 * once.ac == pytest.approx(twice.ac)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bins", [2, 4])
@pytest.mark.parametrize("shown", [1, 3])
def test_its_spike_driven_twin_is_equal(name, bins, shown):
    deployed = deploy(network(name, bins_per_step=bins, shown=shown))
    x = events()
    for ours, theirs in zip(spike_driven(deployed)(x), deployed(x), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_stem_is_priced_as_mac_either_way(name):
    x = events()
    stems = [measure_energy(network(name, bins_per_step=bins), [x]).layers[0] for bins in (1, 4)]
    assert stems[0].mac == stems[1].mac > 0
    assert stems[0].ann_pj == stems[1].ann_pj
    assert {stem.ac for stem in stems} == {0}


def test_bins_that_do_not_divide_the_time_are_refused():
    with pytest.raises(ValueError, match="bins_per_step is 3, expected a divisor of time_steps, 4"):
        resolve("spikeyolo-p", time_steps=4, bins_per_step=3)
    with pytest.raises(ValueError, match="input has T=3, the network was built for T=4"):
        network("spikeyolo-p", bins_per_step=2)(events()[:3])
