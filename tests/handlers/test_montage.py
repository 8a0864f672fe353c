"""Where a voxel is in the picture, and what the handler writes."""

import sys

import numpy as np
import pytest
import torch
from ignite.engine import Events
from matplotlib.image import imread
from monai.engines import SupervisedTrainer
from monai.handlers import ValidationHandler

from monai_idm.handlers import MontageHandler
from monai_idm.handlers.montage import montage

from .evaluators import MODALITIES, SIZE, make_evaluator, make_item, reconstruct


def pictures(figure):
    """The arrays drawn, by row and column."""
    arrays = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    columns = len({round(axes.get_position(original=True).x0, 6) for axes in figure.axes})
    return [arrays[i : i + columns] for i in range(0, len(arrays), columns)]


def texts(figure):
    shown = [text.get_text() for text in figure.texts]
    return shown + [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_radiological_orientation_of_a_marked_voxel():
    # RAS: the first axis grows to the right, the second to the front, the third upwards
    volume, mask = torch.zeros(1, 5, 7, 9), torch.zeros(1, 5, 7, 9)
    at = (1, 5, 6)  # left of the middle, in front, high
    volume[(0, *at)] = mask[(0, *at)] = 1
    (axial,), (coronal,), (sagittal,) = pictures(montage({"real": volume}, ("t1",), mask))
    assert [axial.shape, coronal.shape, sagittal.shape] == [(7, 5), (9, 5), (9, 7)]
    assert np.argwhere(axial).tolist() == [[1, 3]]  # anterior up; the patient's left on the right
    assert np.argwhere(coronal).tolist() == [[2, 3]]  # superior up
    assert np.argwhere(sagittal).tolist() == [[2, 1]]  # anterior on the left


def test_the_letters_at_the_edges_agree_with_the_voxels():
    figure = montage({"real": torch.zeros(1, 8, 8, 8)}, ("t1",))
    for axes, letters in zip(figure.axes, ("ALPR", "SLIR", "SPIA"), strict=True):
        placed = {text.get_text(): text.get_position() for text in axes.texts}
        top, right, bottom, left = (placed[letter] for letter in letters)
        assert top[1] > bottom[1]
        assert left[0] < right[0]


def test_slices_go_through_the_masks_centre_of_mass():
    volume, mask = torch.rand(2, 9, 8, 10), torch.zeros(2, 9, 8, 10)
    mask[0, 1:4, 2:7, 5] = 1  # centre (2, 4, 5)
    rows = pictures(montage({"real": volume}, MODALITIES, mask))
    for c in range(2):
        drawn = [np.asarray(row[0])[::-1, ::-1].T for row in rows[3 * c : 3 * c + 3]]
        for picture, expected in zip(drawn, (volume[c, :, :, 5], volume[c, :, 4], volume[c, 2]), strict=True):
            np.testing.assert_array_equal(picture, expected.numpy())


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 8, 8, 8)])
def test_without_a_mask_the_middle_is_cut(mask):
    volume = torch.rand(1, 8, 8, 8)
    rows = pictures(montage({"real": volume}, ("t1",), mask))
    np.testing.assert_array_equal(rows[0][0], volume[0, :, :, 4].numpy().T[::-1, ::-1])


def test_a_volume_of_another_size_is_cut_at_the_same_fraction():
    mask = torch.zeros(1, 8, 8, 8)
    mask[0, 2, 6, 4] = 1
    small = torch.rand(1, 4, 4, 4)
    rows = pictures(montage({"real": torch.rand(1, 8, 8, 8), "generated": small}, ("t1",), mask))
    np.testing.assert_array_equal(rows[1][1], small[0, :, 3].numpy().T[::-1, ::-1])


def test_one_fixed_grey_scale_a_readable_size_and_everything_named():
    columns = {name: torch.rand(2, 8, 8, 8) * 3 for name in ("real", "noisy", "reconstructed", "generated")}
    figure = montage(columns, MODALITIES, title="epoch 3")
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0, 1)}
    width, height = figure.get_size_inches() * figure.dpi
    assert 1150 <= width <= 1250
    assert 1200 <= height <= 2400
    shown = "\n".join(texts(figure))
    for part in (*columns, "epoch 3", "t1   axial", "t2   coronal", "t2   sagittal", "left is on the right"):
        assert part in shown


@pytest.mark.parametrize("size", [(8, 8, 8), (16, 8, 12), (8, 16, 4)])
def test_no_picture_covers_another_or_leaves_the_canvas(size):
    figure = montage({"a": torch.rand(2, *size), "b": torch.rand(2, *size)}, MODALITIES)
    boxes = [axes.get_position(original=True) for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0


def test_volumes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"'real' has the shape \(8, 8, 8\)"):
        montage({"real": torch.rand(8, 8, 8)}, ("t1",))
    with pytest.raises(ValueError, match=r"C channels are the 2 modalities \('t1', 't2'\)"):
        montage({"real": torch.rand(1, 8, 8, 8)}, MODALITIES)
    with pytest.raises(ValueError, match="there is no volume to draw"):
        montage({}, MODALITIES)


class Writer:
    def __init__(self):
        self.images = []

    def add_image(self, tag, pixels, step, dataformats):
        self.images.append((tag, pixels, step, dataformats))


class Generated:
    """Generates two volumes, of which the first is shown."""

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine):
        engine.state.generated = torch.stack([torch.full((2, *SIZE), grey) for grey in (0.25, 0.75)])


def test_the_handler_draws_the_first_case_at_the_trainers_epoch(tmp_path, monkeypatch):
    drawn, writer = [], Writer()

    def spied(columns, modalities, mask, title):
        drawn.append((columns, modalities, mask, title))
        return montage(columns, modalities, mask, title)

    monkeypatch.setattr("monai_idm.handlers.montage.montage", spied)
    handler = MontageHandler(tmp_path / "made", MODALITIES, writer)
    evaluator = make_evaluator([Generated(), handler])
    network = torch.nn.Linear(1, 1)
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=4,
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=torch.nn.MSELoss(),
        train_handlers=[ValidationHandler(2, evaluator)],
    ).run()
    files = sorted(file.name for file in (tmp_path / "made").iterdir())
    assert files == ["montage_epoch0002.png", "montage_epoch0004.png"]
    columns, modalities, mask, title = drawn[1]
    image = make_item(0)["image"]
    assert list(columns) == ["real", "noisy", "reconstructed", "generated"]
    assert modalities == MODALITIES
    assert (columns["generated"] == 0.25).all()
    torch.testing.assert_close(columns["real"], image)
    torch.testing.assert_close(columns["reconstructed"], (image + 0.25) / 2)
    assert torch.equal(mask, (image != 0).any(0, keepdim=True))
    assert title == "epoch 4, case0"
    tag, pixels, step, dataformats = writer.images[1]
    assert (tag, step, dataformats) == ("montage/case1", 4, "HWC")
    saved = imread(tmp_path / "made" / files[1])[..., :3]
    np.testing.assert_array_equal(pixels, (saved * 255).round().astype(np.uint8))
    assert (saved[0, 0] == 0).all()  # black around
    assert saved.max() > 0.9


def test_the_slices_may_go_through_another_item(tmp_path, monkeypatch):
    masks = []
    monkeypatch.setattr(
        "monai_idm.handlers.montage.montage", lambda *arguments: masks.append(arguments[2]) or montage(*arguments)
    )
    make_evaluator([MontageHandler(tmp_path, MODALITIES, centre="noisy")]).run(1)
    make_evaluator([MontageHandler(tmp_path, MODALITIES, centre="absent")]).run(1)
    assert masks[0].shape == make_item(0)["image"].shape
    assert masks[1] is None


def test_more_cases_get_a_file_each_and_the_first_a_generated_volume(tmp_path, monkeypatch):
    drawn = {}

    def spied(columns, modalities, mask, title):
        drawn[title] = list(columns)
        return montage(columns, modalities, mask, title)

    monkeypatch.setattr("monai_idm.handlers.montage.montage", spied)
    handler = MontageHandler(tmp_path, MODALITIES, num_cases=3, filename="look_{case}.png")
    make_evaluator([Generated(), handler]).run(1)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["look_1.png", "look_2.png", "look_3.png"]
    assert sorted(drawn) == ["case0", "case1", "case2"]  # no epoch, as the file's name has none
    assert [title for title, columns in drawn.items() if "generated" in columns] == ["case0"]


def test_a_run_that_broke_off_leaves_nothing_to_the_next(tmp_path):
    handler = MontageHandler(tmp_path, MODALITIES, num_cases=5, filename="{subject}_{case}.png")

    def breaking(engine, batch):
        if engine.state.iteration == 2:
            raise ArithmeticError("on purpose")
        return reconstruct(engine, batch)

    with pytest.raises(ArithmeticError):
        make_evaluator([handler], iteration=breaking).run(1)
    assert [file.name for file in tmp_path.iterdir()] == ["case1_2.png"]  # the first is drawn at the end
    make_evaluator([handler]).run(1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["case0_1.png", "case1_2.png", "case2_3.png"]


def test_pyplot_is_not_touched(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    make_evaluator([MontageHandler(tmp_path, MODALITIES, summary_writer=Writer())]).run(1)
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_have_the_stem_of_their_subjects_other_files(tmp_path):
    items = [make_item(number) | {"subject": subject} for number, subject in enumerate(["Zoë/1", "../Ü"])]
    make_evaluator([MontageHandler(tmp_path, MODALITIES, num_cases=2, filename="{subject}.png")], items).run(1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["Zoë_1.png", "_Ü.png"]
    items = [make_item(number) | {"subject": subject} for number, subject in enumerate(["a b", "a_b"])]
    with pytest.raises(ValueError, match=r"subjects .* would share the file name a_b"):
        make_evaluator([MontageHandler(tmp_path, MODALITIES, num_cases=2, filename="{subject}.png")], items).run(1)
