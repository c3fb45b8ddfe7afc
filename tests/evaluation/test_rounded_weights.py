"""`--weights int8` scores the rounded network, at int8's prices, and says so."""

from evaluation.metrics import EvalConfig, run
from tests.models.export.conftest import SAMPLE


def test_an_evaluation_with_rounded_weights(street_cache, tmp_path):
    config = EvalConfig(SAMPLE, street_cache, tmp_path, weights="int8", pictures=1)
    metrics = run(config)
    assert metrics["kind"] == "int8"
    assert metrics["energy"]["prices"]["name"] == "int8"
    assert metrics["energy"]["prices"]["ac_pj"] == 0.03
