"""Can the network tell real brains from its own, as the paper asks (open question 2)? Beside features that need none.

The network is trained with its inverse (``lambda_r``). Real brains of the validation and test cases, and as many
generated ones with their ages and sexes, are described by

- the errors of the image that a single pass predicts, from eight amounts of noise;
- the errors of the network's input that its inverse rebuilds from that prediction;
- the histogram of intensities, the power spectrum, and the means of 4 x 4 x 4 blocks.

Around the brain everything is set to 0 in both, because the faint noise there would tell the generated ones. A linear
discriminant on each description is judged by the AUC on brains that it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from scipy.ndimage import binary_fill_holes, label
from torch import Tensor

from idm_bundle.studies import brains
from idm_bundle.studies.configs import configured
from idm_bundle.studies.runs import draw, train_once
from monai_idm.checkpoints import read_weights
from monai_idm.metrics.volume_features import features
from monai_idm.noise import seeded_noise
from monai_idm.schedulers import predicted_sample

__all__ = ["STUDIES", "auc", "out_of_fold", "real_or_generated"]

_NAME = "flow, shifted, Age, Sex, stride 2"
_CHANGES = {"lambda_r": 0.1}
_TIMESTEPS = (20, 50, 100, 200, 400, 700, 1100, 1600)  # of 2000
_STEPS = 20
_BRAIN = 0.2  # intensities above this are brain, and so is what they enclose
_FOLDS, _REPEATS, _RESAMPLES = 5, 20, 2000
_RIDGE = 1.0  # of standardised features


def real_or_generated(steps: int, side: int, dataset_dir: str, work: str) -> dict[str, Any]:
    """Train, draw as many brains as are held out, and tell both apart.

    Args:
        steps: Iterations of training.
        side: Voxels per axis of a volume.
        dataset_dir: Folder of the cases, with T1 and ``participants.csv``.
        work: Folder that keeps the training.
    Returns:
        ``brains``, the number of each kind; and by description the ``auc`` with its 95 % interval, ``ci95``.
    """
    folder = Path(work, "real_or_generated")
    values = {
        **brains.values_of(_NAME, dataset_dir, work, steps, side),
        **_CHANGES,
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "output"),
    }
    measured = train_once(folder / "training.json", values)
    del measured["losses"]
    config = configured(values)
    datalist = config.get_parsed_content("datalist")
    held_out = [*datalist["validation"], *datalist["test"]]
    weights = Path(values["ckpt_dir"], "model.pt")
    drawn = draw(
        {
            "ckpt_file": str(weights),
            "output_dir": str(folder / "samples"),
            "num_samples": len(held_out),
            "num_inference_steps": _STEPS,
            "condition_values": {
                name: [item["condition_values"][name] for item in held_out] for name in values["condition_columns"]
            },
            "precision": values["precision"],
        }
    )
    network = config.get_parsed_content("network")
    network.load_state_dict(read_weights(weights)[0])
    described = partial(descriptions, network.eval(), config.get_parsed_content("scheduler"))
    real, generated = (
        [described(brain_alone(volume), number) for number, volume in enumerate(volumes)]
        for volumes in (brains.preprocessed(config, held_out), [volume for volume, _ in drawn])
    )
    return {
        **measured,
        "brains": len(held_out),
        **{name: auc(*(torch.stack([of[name] for of in kind]) for kind in (real, generated))) for name in real[0]},
    }


def brain_alone(volume: Tensor) -> Tensor:
    """A volume ``(1, *spatial)``, 0 to 1, that is 0 around the brain, which is its largest bright part."""
    parts, _ = label(volume[0].as_subclass(Tensor).numpy() > _BRAIN)
    largest = np.bincount(parts[parts > 0]).argmax()
    return volume * torch.from_numpy(binary_fill_holes(parts == largest))


@torch.no_grad()
def descriptions(network: Any, scheduler: Any, volume: Tensor, seed: int) -> dict[str, Tensor]:
    """Features of a brain by the name of the description.

    Args:
        network: Network with an inverse.
        scheduler: Scheduler of its training.
        volume: The brain, ``(1, X, Y, Z)``, 0 to 1.
        seed: Seed of the noise.
    """
    image = 2 * volume[None] - 1
    noise = seeded_noise(image.shape[1:], seed)[None]
    denoised, rebuilt = [], []
    for timestep in _TIMESTEPS:
        t = torch.tensor([timestep])
        noisy = scheduler.add_noise(image, noise, t)
        prediction = network(noisy, t)
        denoised.append(_error(predicted_sample(scheduler, prediction, timestep, noisy), image))
        rebuilt.append(_error(network.inverse(prediction), noisy))
    simple = features(volume)
    return {
        "errors of one pass": torch.tensor(denoised).double(),
        "errors of the inverse": torch.tensor(rebuilt).double(),
        "both errors": torch.tensor([*denoised, *rebuilt]).double(),
        "histogram": simple["intensity"].double(),
        "power spectrum": simple["texture"].double(),
        "means of blocks": simple["layout"].double(),
    }


def auc(real: Tensor, generated: Tensor) -> dict[str, Any]:
    """Area under the ROC curve of a linear discriminant, out of fold.

    Args:
        real: Features, ``(N, F)``; brain i and the generated one i are in the same fold.
        generated: Features, ``(N, F)``.
    Returns:
        ``auc`` and its 95 % interval by the bootstrap over the pairs, ``ci95``.
    """
    scores = out_of_fold(real, generated)
    generator = torch.Generator().manual_seed(0)
    picked = torch.randint(len(real), (_RESAMPLES, len(real)), generator=generator)
    resampled = torch.tensor([_area(scores[:, some]) for some in picked])
    low, high = resampled.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"auc": _area(scores), "ci95": [low, high]}


def out_of_fold(real: Tensor, generated: Tensor) -> Tensor:
    """Scores ``(2, N)`` of real and generated brains, each by discriminants that were fitted to brains of other folds.

    Means over several divisions into folds, of scores in standard deviations of each fold's fitted brains.
    """
    total = torch.zeros(2, len(real), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_REPEATS):
        for fold in torch.randperm(len(real), generator=generator).tensor_split(_FOLDS):
            rest = torch.ones(len(real), dtype=torch.bool)
            rest[fold] = False
            score = _discriminant(real[rest], generated[rest])
            total[0, fold] += score(real[fold])
            total[1, fold] += score(generated[fold])
    return total / _REPEATS


def _discriminant(real: Tensor, generated: Tensor) -> Callable[[Tensor], Tensor]:
    """Ridge regression to 1 for generated and -1 for real brains, on features in standard deviations."""
    x = torch.cat([real, generated])
    mean, deviation = x.mean(0), x.std(0).clamp(min=1e-12)
    target = torch.cat([-torch.ones(len(real)), torch.ones(len(generated))]).to(x)
    z = (x - mean) / deviation
    w = torch.linalg.solve(z.T @ z + _RIDGE * torch.eye(z.shape[1]).to(z), z.T @ target)
    return lambda some: ((some - mean) / deviation) @ w


def _area(scores: Tensor) -> float:
    labels = torch.cat([torch.zeros(scores.shape[1]), torch.ones(scores.shape[1])])
    return float(torch.as_tensor(compute_roc_auc(scores.flatten(), labels)))


def _error(a: Tensor, b: Tensor) -> float:
    """Logarithm of the RMS difference."""
    return float((a - b).square().mean().sqrt().clamp(min=1e-12).log10())


STUDIES = {"real_or_generated": {_NAME: real_or_generated}}
