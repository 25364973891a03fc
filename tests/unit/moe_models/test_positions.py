"""Positions: what no comparison with a library says."""

from __future__ import annotations

import math

import pytest

from moe_models.positions.rope_yarn import RopeYarn


@pytest.mark.parametrize("mscale", [0.0, 0.707, 1.0])
@pytest.mark.parametrize("mscale_all_dim", [0.0, 0.707, 1.0])
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_yarn_weighs_its_temperature_as_deepseek_does(factor: float, mscale: float, mscale_all_dim: float) -> None:
    """Each weight by itself has an effect: `yarn_get_mscale` of DeepSeek-V3's code, written down once more."""

    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    yarn = RopeYarn(original_max_seq_len=8, factor=factor, mscale=mscale, mscale_all_dim=mscale_all_dim)
    assert yarn.amplitude() == temperature(mscale) / temperature(mscale_all_dim)
    assert yarn.softmax_factor() == pytest.approx(temperature(mscale_all_dim) ** 2)
