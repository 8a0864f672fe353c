"""Small networks of ours and of MONAI whose predictions are not those of their initialization."""

from __future__ import annotations

from monai.networks.nets import DiffusionModelUNet, SPADEDiffusionModelUNet

from monai_idm.networks import InvertibleDiffusionUNet
from tests.reversible.chains import disturb


def core_network():
    return disturb(
        DiffusionModelUNet(2, 1, 1, channels=(8, 16), attention_levels=(False, False), num_res_blocks=1,
                           norm_num_groups=4, num_class_embeds=None)
    ).eval()  # fmt: skip


def our_network(**kwargs):
    return disturb(
        InvertibleDiffusionUNet(
            2, 1, 1, channels=(16, 32), num_res_blocks=1, attention_levels=(False, False), norm_num_groups=4,
            embedding_channels=16, **kwargs
        )
    ).eval()  # fmt: skip


def spade_network(**kwargs):
    return disturb(
        SPADEDiffusionModelUNet(2, 1, 1, label_nc=2, channels=(8, 16), attention_levels=(False, False),
                                num_res_blocks=1, norm_num_groups=4, spade_intermediate_channels=8, **kwargs)
    ).eval()  # fmt: skip
