"""Holes lie in healthy brain, have the extent asked for in mm, and are hidden without a trace."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_idm.data import FillHoled, HideHoled, LabelToHoled, RandHoled, harmonic_fill

SIZE = (32, 40, 28)


def item(lesion=False, spacing=(4.0, 2.0, 3.0), subject="a"):
    brain = torch.zeros(1, *SIZE)
    brain[:, 4:-4, 4:-4, 4:-4] = 1
    image = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0)) * brain
    d = {
        "subject": subject,
        "image": MetaTensor(image, affine=torch.diag(torch.tensor([*spacing, 1.0]))),
        "mask": brain,
    }
    if lesion:
        d["label"] = torch.zeros(1, *SIZE)
        d["label"][:, 6:10, 10:16, 8:12] = 1
    return d


def holes(kinds, count=20, **options):
    draw = RandHoled(kinds, (20, 40)).set_random_state(0)
    return [draw(item(**options))["hole"][0] > 0 for _ in range(count)]


def extents_mm(hole, spacing=(4.0, 2.0, 3.0)):
    places = hole.nonzero()
    return (places.amax(0) - places.amin(0) + 1) * torch.tensor(spacing)


def test_holes_differ_and_lie_in_healthy_brain():
    drawn = holes(("blob", "box"), lesion=True)
    healthy = (item()["mask"][0] > 0) & (item(lesion=True)["label"][0] == 0)
    assert len({hole.numpy().tobytes() for hole in drawn}) == len(drawn)
    for hole in drawn:
        assert hole.any()
        assert not (hole & ~healthy).any()


def test_extents_are_in_mm_whatever_the_voxels():
    found = torch.stack([extents_mm(hole) for hole in holes(("box",), 60)])
    assert (found <= 40 + 4).all()  # a voxel more, whose centre is inside
    assert found.amax(0).min() > 30  # on every axis
    rough = torch.stack([extents_mm(hole) for hole in holes(("blob",), 60)])
    assert (rough <= 40 * 1.6 + 4).all()
    assert rough.mean() < found.mean() * 1.1


def test_a_blob_is_no_box():
    def fill(hole):
        return float(hole.sum()) / float((extents_mm(hole) / torch.tensor([4.0, 2.0, 3.0])).prod())

    assert max(map(fill, holes(("blob",)))) < 0.8
    assert sum(fill(hole) > 0.99 for hole in holes(("box",))) > 10  # the others are cut by the brain's border


def test_a_mirrored_lesion_is_the_lesion_on_the_other_side():
    (hole,) = holes(("mirrored",), 1, lesion=True)
    assert torch.equal(hole, item(lesion=True)["label"][0].flip(0) > 0)
    assert holes(("mirrored",), 1)[0].any()  # without a lesion: a blob


def test_with_a_seed_a_case_has_one_hole_and_another_case_another():
    draw = RandHoled(seed=3)
    first, again, other = (draw(item(subject=name))["hole"] for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, RandHoled(seed=4)(item(subject="a"))["hole"])


def test_several_holes_hide_more_but_not_more_than_half_of_the_brain():
    one, few, many = (
        [RandHoled(diameter_mm=(10, 20), max_holes=n).set_random_state(k)(item())["hole"] > 0 for k in range(30)]
        for n in (1, 4, 1000)
    )
    brain = float(item()["mask"].sum())
    shares = [[float(hole.sum()) / brain for hole in holes] for holes in (one, few, many)]
    assert sum(shares[0]) * 1.7 < sum(shares[1]) < sum(shares[2])
    assert 0.4 < max(shares[2]) <= 0.5
    assert all((more | hole).equal(more) for hole, more in zip(one, few, strict=True))  # the first is the same
    assert 7 < sum(more.equal(hole) for hole, more in zip(one, few, strict=True)) < 23  # and often it is the only one


def test_nothing_of_what_is_hidden_is_left():
    d = RandHoled(seed=0)(item())
    changed = {**d, "image": torch.where(d["hole"] > 0, 7, d["image"])}
    hidden, other = HideHoled("image")(d), HideHoled("image")(changed)
    assert torch.equal(hidden["image"].as_tensor(), other["image"].as_tensor())
    assert torch.equal(hidden["image"][:2].as_tensor(), harmonic_fill(d["image"], d["hole"]))
    assert torch.equal(hidden["image"][2:].as_tensor(), d["hole"].as_tensor())
    assert torch.equal(hidden["target"].as_tensor(), d["image"].as_tensor())


def test_around_the_hole_another_volume_is_put_to_the_bit():
    d = {name: torch.rand(2, *SIZE) for name in ("pred", "given")}
    d["hole"] = torch.rand(1, *SIZE) * (torch.rand(1, *SIZE) > 0.5)
    filled = FillHoled("pred", "given")(d)["pred"]
    hole = d["hole"].expand_as(filled) > 0
    assert torch.equal(filled[hole], d["pred"][hole])
    assert torch.equal(filled[~hole], d["given"][~hole])
    with pytest.raises(ValueError, match="put ToNatived before"):
        FillHoled("pred", "given")({**d, "pred": torch.rand(2, 3, 3, 3)})


def test_chosen_numbers_of_a_label_are_replaced():
    label = torch.tensor([0.0, 1, 2, 4]).view(1, 4, 1, 1)
    assert LabelToHoled("label")({"label": label})["label"].flatten().tolist() == [0, 1, 1, 1]
    assert LabelToHoled("label", [1, 4])({"label": label})["label"].flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandHoled(["ball"]), "hole_kinds=.*choose some of blob, box, mirrored"),
        (lambda: RandHoled(diameter_mm=[40, 20]), "smallest and the largest extent"),
        (lambda: RandHoled(max_holes=0), "max_holes=0; give the largest number of holes in a volume, 1 or more"),
        (lambda: LabelToHoled("label", [0, 1]), "hole_labels=.*numbers above 0"),
        (lambda: RandHoled()({**item(), "image": torch.rand(2, *SIZE)}), "does not know the size of its voxels"),
        (lambda: RandHoled()({**item(), "mask": torch.zeros(1, *SIZE)}), "no healthy brain to hide"),
        (lambda: HideHoled("image")({**item(), "hole": torch.zeros(1, *SIZE)}), "marks nothing"),
        (lambda: HideHoled("image")({**item(), "hole": torch.ones(1, *SIZE)}), "covers the whole brain"),
        (lambda: HideHoled("image")({**item(), "hole": torch.ones(1, 3, 3, 3)}), "resample it onto the volume"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
