"""A refactor must not move what training computes."""

import json

import pytest

from tests.training.golden_losses import FAMILIES, GOLDEN, STEPS, curve, family

#: Steps before the rounding of another CPU may assign a label to another place.
PORTABLE_STEPS = {"adamw, ANN twin": 6}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_steps_have_the_recorded_losses(small_cache, name):
    expected = json.loads(GOLDEN.read_text())[name]
    compared = list(zip(curve(family(name, small_cache)), expected, strict=True))
    for step, (items, recorded) in enumerate(compared[: PORTABLE_STEPS.get(name, STEPS)]):
        assert items == pytest.approx(recorded, rel=1e-6, abs=1e-9), f"step {step}"
