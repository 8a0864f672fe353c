"""How many kernels a training step launches on a GPU, counted on fake tensors.

Each takes some 5 microseconds of the host, which is more than the GPU needs for the small tensors of deep levels.
"""

from __future__ import annotations

import json

from tests import on_fake_cuda

PROGRAM = """
import json, os, sys
from tests.fake_cuda import fake_cuda
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from monai_idm.meters import denoising_step
from monai_idm.networks import InvertibleDiffusionUNet

NONE = "_reshape_alias _unsafe_view alias as_strided detach diagonal empty empty_like empty_strided expand new_empty "
NONE += "new_empty_strided permute select slice split split_with_sizes squeeze t transpose unbind unsqueeze view device"
# by the sources of torch's CUDA kernels: moments, fused parameters and scale of a normalisation; a convolution of
# bfloat16 with the transposes that cuDNN adds, and with its bias; panels of an LU factorisation; a build without CUDA
# takes the gradient of SiLU apart into five operations, one of them a sigmoid, while CUDA has one kernel for it
SEVERAL = {"native_group_norm": 3, "native_group_norm_backward": 5, "convolution": 4, "convolution_backward": 7,
           "_linalg_solve_ex": 14, "linalg_lu_solve": 8, "sort": 3, "sigmoid": -3}


class Launches(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(t.device.type == "cuda" for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor)):
            name = func._schema.name.split("::")[1]
            self.total += 0 if name in NONE.split() else SEVERAL.get(name, 1)
        return out


with fake_cuda():
    for preset, activations, *shape in json.loads(sys.argv[1]):
        with torch.device("cuda"):
            network = InvertibleDiffusionUNet.from_preset(preset, activations=activations, precision="mixed")
        with Launches() as launches:
            denoising_step(network, shape)
        print(launches.total, flush=True)
os._exit(0)  # torch's thread for the device never ends
"""
LIMITS = {  # preset, activations, shape
    ("paper", "rebuilt", 4, 2, 64, 64, 64): 7500,
    ("base", "rebuilt", 4, 2, 64, 64, 64): 7200,
    ("base", "stored", 4, 2, 64, 64, 64): 5450,
    ("light", "stored", 2, 2, 32, 32, 32): 2000,
}


def test_a_step_launches_few_kernels():
    counts = map(int, on_fake_cuda.run(PROGRAM, json.dumps([*LIMITS])).split())
    assert {step: n for step, n in zip(LIMITS, counts, strict=True) if n > LIMITS[step]} == {}
