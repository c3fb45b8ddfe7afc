import pytest

from models.config import ModelConfig


def test_null_settings_take_the_published_value_of_the_variant():
    config = ModelConfig(name="spikeyolo-p", variant="gen1").build().config
    assert (config.decay, config.input_scale) == (0.5, 0.5)
    coco = ModelConfig(name="spikeyolo-p", variant="coco", in_channels=3, decay=0.5).build().config
    assert (coco.decay, coco.input_scale, coco.in_channels) == (0.5, 1.0, 3)


def test_an_impossible_setting_is_refused():
    with pytest.raises(ValueError, match="time_steps is 0, expected 1 or more"):
        ModelConfig(name="spikeyolo-p", time_steps=0).build()
