from dataclasses import astuple

import pytest

from models import build_model
from models.config import GainsConfig, ModelConfig


def test_null_settings_take_the_published_value_of_the_variant():
    config = ModelConfig(name="spikeyolo-p", variant="gen1").build().config
    assert (config.decay, config.input_scale) == (0.5, 0.5)
    coco = ModelConfig(name="spikeyolo-p", variant="coco", in_channels=3, decay=0.5).build().config
    assert (coco.decay, coco.input_scale, coco.in_channels) == (0.5, 1.0, 3)


def test_null_settings_take_the_value_of_the_family():
    config = ModelConfig(name="spikeyolo-p").resolved()
    assert (config.time_steps, config.max_spikes, config.activation) == (4, 4, "ilif")
    config = ModelConfig(name="ems-res10").resolved()
    assert (config.time_steps, config.max_spikes, config.activation) == (5, 1, "lif-hard")
    config = ModelConfig(name="ems-res10", activation="nilif").resolved()
    assert (config.time_steps, config.max_spikes, config.activation) == (5, 4, "nilif")
    assert config.build().config.anchors[1][-2:] == (216, 269)


def test_the_neuron_of_an_older_run_is_known_by_its_name_of_today():
    for name, neuron in (("spikeyolo-p", "lif-soft"), ("ems-res10", "lif-hard")):
        old = {"name": name, "activation": "lif"}
        assert ModelConfig(name=name).with_todays_names(old) == {**old, "activation": neuron}
    assert ModelConfig().with_todays_names({"activation": "ilif"}) == {"activation": "ilif"}


def test_gains_are_those_of_the_model_but_for_the_given_ones():
    gains = GainsConfig(box=2).given()
    assert astuple(build_model("spikeyolo-p").criterion(gains).gains) == (2, 0.5, 1.5)
    assert astuple(build_model("ems-res10").criterion(gains).gains) == (2, 1, 0.5)
    with pytest.raises(ValueError, match=r"gains\.dfl is not part .* loss, expected box, obj, cls"):
        build_model("ems-res10").criterion(GainsConfig(dfl=1).given())


def test_an_impossible_setting_is_refused():
    with pytest.raises(ValueError, match="time_steps is 0, expected 1 or more"):
        ModelConfig(name="spikeyolo-p", time_steps=0).build()
