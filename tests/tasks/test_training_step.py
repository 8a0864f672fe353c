"""What a training step draws."""

from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from monai_idm.schedulers import predicted_noise, predicted_sample
from monai_idm.tasks import DenoisingPrepareBatch


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_target_is_what_the_scheduler_takes_for_a_prediction(prediction_type):
    scheduler = DDPMScheduler(100, "cosine", prediction_type=prediction_type)
    x = torch.randn(4, 1, 4, 4).double()
    images, target, _, drawn = DenoisingPrepareBatch(scheduler)({"image": x})
    for i, t in enumerate(drawn["timesteps"]):
        x_t = scheduler.add_noise(images, drawn["noise"], drawn["timesteps"])[i]
        torch.testing.assert_close(predicted_sample(scheduler, target[i], t, x_t), images[i])
        torch.testing.assert_close(predicted_noise(scheduler, target[i], t, x_t), drawn["noise"][i])


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_timesteps_follow_the_power(power):
    draw = DenoisingPrepareBatch(DDPMScheduler(2000, "cosine"), power)
    t = torch.cat([draw.get_timesteps(torch.empty(3, 1)) for _ in range(20_000)])
    assert 0 <= t.min() < t.max() == 1999
    assert t.dtype == torch.long
    assert (t < 400).double().mean() == pytest.approx(0.2 ** (1 / power), abs=0.01)


def test_a_batch_covers_all_timesteps_evenly():
    t = DenoisingPrepareBatch(DDPMScheduler(2000, "cosine")).get_timesteps(torch.empty(4, 1))
    assert sorted((t // 500).tolist()) == [0, 1, 2, 3]


def test_processes_draw_together_what_one_would_draw(monkeypatch):
    draw = DenoisingPrepareBatch(DDPMScheduler(2000, "cosine"), 2.0)
    images = torch.randn(4, 1, 2, 2)

    def drawn(images):
        torch.manual_seed(0)
        named = draw({"image": images})[3]
        return named["noise"], named["timesteps"]

    alone = drawn(images)
    assert len({tuple(noise.flatten().tolist()) for noise in alone[0]}) == 4
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        for found, expected in zip(drawn(images[rank::2]), alone, strict=True):
            assert torch.equal(found, expected[rank::2])


def test_impossible_choices_are_refused():
    with pytest.raises(ValueError, match="choose 1"):
        DenoisingPrepareBatch(DDPMScheduler(100, "cosine"), 0.5)
    scheduler = DDPMScheduler(100, "cosine")
    scheduler.prediction_type = "flow"
    with pytest.raises(ValueError, match="choose one of epsilon, sample, v_prediction"):
        DenoisingPrepareBatch(scheduler)
