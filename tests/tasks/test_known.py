"""Which contrasts are kept and hidden, and what the masks and the target hold."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_idm.tasks import ChooseKnownd

NAMES = ("t1", "t1ce", "t2")
VOLUME = torch.arange(1, 4).view(3, 1, 1, 1) * torch.ones(3, 2, 2, 2)


def channels(volume):
    return volume.flatten(1).amax(1).tolist()


def test_known_contrasts_stay_hidden_ones_go_and_the_masks_say_which():
    found = ChooseKnownd("image", NAMES, known=["t1", "t2"])({"image": VOLUME})
    assert channels(found["image"]) == [1, 0, 3, 1, 0, 1]
    assert found["image"].shape == (6, 2, 2, 2)
    assert found["target"] is VOLUME


def test_a_case_may_lack_what_is_not_known():
    found = ChooseKnownd("image", NAMES, known=["t2"], loaded=["t2", "t1"])({"image": VOLUME[:2]})
    assert channels(found["image"]) == [0, 0, 1, 0, 0, 1]
    assert "target" not in found


def test_any_contrasts_are_known_in_turn_but_never_none_or_all():
    choose = ChooseKnownd("image", NAMES).set_random_state(0)
    seen = {tuple(channels(choose({"image": VOLUME})["image"])[3:]) for _ in range(200)}
    assert len(seen) == 2**3 - 2
    assert (0, 0, 0) not in seen
    assert (1, 1, 1) not in seen
    again = ChooseKnownd("image", NAMES).set_random_state(0)
    choose.set_random_state(0)
    for _ in range(5):
        assert torch.equal(choose({"image": VOLUME})["image"], again({"image": VOLUME})["image"])


def test_affine_and_type_stay():
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    found = ChooseKnownd("image", NAMES, known=["t1"])({"image": MetaTensor(VOLUME, affine=affine)})
    assert isinstance(found["image"], MetaTensor)
    assert torch.equal(found["image"].affine, affine.double())


@pytest.mark.parametrize(
    "names", [{"known": []}, {"known": NAMES}, {"known": ["flair"]}, {"known": ["t1"], "loaded": ["t2"]}]
)
def test_names_that_leave_nothing_to_do_are_refused(names):
    with pytest.raises(ValueError, match="name at least one contrast, and not all"):
        ChooseKnownd("image", NAMES, **names)


def test_channels_are_those_named():
    with pytest.raises(ValueError, match=r"'image' has the shape \(2, 2, 2, 2\); .* t1, t1ce, t2"):
        ChooseKnownd("image", NAMES)({"image": VOLUME[:2]})
