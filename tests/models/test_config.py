"""Settings of a network: published values, choices, names of older files."""

from dataclasses import astuple

import pytest

from models import build_model, resolve


def test_what_is_not_given_is_published_for_the_variant():
    config = resolve("spikeyolo-p", variant="gen1", time_steps=None)
    assert (config.name, config.decay, config.input_scale) == ("spikeyolo-p", 0.5, 0.5)
    coco = resolve("spikeyolo-p", variant="coco", decay=0.5)
    assert (coco.decay, coco.input_scale, coco.in_channels) == (0.5, 1.0, 3)


@pytest.mark.parametrize(
    ("name", "activation", "settings"),
    [
        ("spikeyolo-p", None, (4, 4, "ilif")),
        ("ems-res10", None, (5, 1, "lif-hard")),
        ("ems-res10", "lif", (5, 1, "lif-hard")),
        ("ems-res10", "nilif", (5, 4, "nilif")),
    ],
)
def test_what_is_not_given_is_published_for_the_family_and_neuron(name, activation, settings):
    config = resolve(name, variant="gen1", activation=activation)
    assert (config.time_steps, config.max_spikes, config.activation) == settings


def test_gains_are_those_of_the_model_but_for_the_given_ones():
    gains = {"box": 2}
    assert astuple(build_model("spikeyolo-p").criterion(gains).gains) == (2, 0.5, 1.5)
    assert astuple(build_model("ems-res10").criterion(gains).gains) == (2, 1, 0.5)
    with pytest.raises(ValueError, match=r"gains\.dfl is not part .* loss, expected box, obj, cls"):
        build_model("ems-res10").criterion({"dfl": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_steps": 0}, "time_steps is 0, expected 1 or more"),
        ({"backend": "jax"}, "backend is 'jax', expected one of auto, cupy, spikingjelly, torch"),
        ({"variant": "kitti"}, "variant is 'kitti', expected one of coco, gen1"),
        ({"activation": "gelu"}, "activation is 'gelu', expected one of ilif, nilif, lif-soft,"),
        ({"colour": 1}, "unknown model setting 'colour', expected one of name, variant,"),
    ],
)
def test_an_impossible_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        resolve("spikeyolo-p", **settings)
