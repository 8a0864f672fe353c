"""A sampler is found by its name, or an error lists the names."""

from __future__ import annotations

import pytest

from monai_idm.schedulers import SAMPLERS, StridedDDIMScheduler, named_sampler

GIVEN = {"num_train_timesteps": 100, "schedule": "cosine", "clip_sample_min": 0.0, "num_inference_steps": 5}


class Mine(StridedDDIMScheduler):
    """A user's own sampler."""


@pytest.mark.parametrize("name", [*SAMPLERS, f"{__name__}.Mine", "monai_idm.schedulers.StridedHeunScheduler"])
def test_a_sampler_by_its_name(name):
    sampler = named_sampler(name, **GIVEN)
    assert type(sampler).__name__ == name.split(".")[-1]
    assert len({*sampler.timesteps.tolist()}) == 5
    assert sampler.clip_sample_values == (0.0, 1.0)


@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "PNDMScheduler", "monai.networks.schedulers.DDPMScheduler", "StridedDDIM", "torch.nn.Linear",
     "no.such.module", "", None],
)  # fmt: skip
def test_what_is_none_is_refused_with_the_names(name):
    with pytest.raises(ValueError, match="is not a few-step sampler; choose one of DPMSolverPlusPlusScheduler, Str"):
        named_sampler(name, **GIVEN)
