"""What the tests of adapters share: a small UNet, what attaching could leave behind, and the paper's saved form."""

import torch
from diffusers import UNet2DConditionModel

BOTH_BLOCKS = ["attn2o-ffni", "attn2c-attn2c", "resi-reso"]


V1 = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "cross_attention_dim": 768,
    "attention_head_dim": 8, "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip


def small_unet(**config):
    torch.manual_seed(0)
    config = {
        "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": 20, "attention_head_dim": 4, **config,
    }  # fmt: skip
    return UNet2DConditionModel(**config).eval()


def run(unet, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    x, context = (torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 4, 8, 8), (2, 5, 20)))
    return unet(x, torch.tensor([10, 500]), context).sample


def traces(unet):
    """All that attaching could leave behind, apart from the weights."""
    return [
        (name, type(m), sorted(m.__dict__), [len(v) for k, v in m.__dict__.items() if "hooks" in k and v is not None])
        for name, m in unet.named_modules()
    ] + [(name, p.requires_grad, p.dtype) for name, p in unet.named_parameters()]


COMPVIS = {
    "down_blocks.0": "input_blocks.1",  # input_blocks.2 is the down-sampler
    "down_blocks.1": "input_blocks.3",
    "up_blocks.0": "output_blocks.0 output_blocks.1",
    "up_blocks.1": "output_blocks.2 output_blocks.3",
}
TRANSFORMERS = {
    f"{block}.attentions.{j}.transformer_blocks.0": f"{path}.1.transformer_blocks.0"
    for block, paths in COMPVIS.items()
    for j, path in enumerate(paths.split())
} | {"mid_block.attentions.0.transformer_blocks.0": "middle_block.1.transformer_blocks.0"}


RESNETS = {f"{b}.resnets.{j}": f"{path}.0" for b, paths in COMPVIS.items() for j, path in enumerate(paths.split())} | {
    "mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"
}  # fmt: skip


def write_reference(folder, placement):
    """A folder as the public code leaves it, for the small UNet; returns the state dict of each diffusers block."""
    folder.mkdir()
    states = {}
    unet = small_unet()
    for block, stem in (RESNETS if placement.startswith("res") else TRANSFORMERS).items():
        module = unet.get_submodule(block)
        if placement.startswith("res"):
            widths = {"resi": module.in_channels, "reso": module.out_channels}
            c_in, c_out = map(widths.get, placement.split("-"))
            state = {
                "0.weight": torch.randn(c_in), "0.bias": torch.randn(c_in),
                "2.weight": torch.randn(3, c_in, 3, 3), "2.bias": torch.randn(3),
                "4.weight": torch.randn(c_out, 3, 3, 3), "4.bias": torch.randn(c_out),
            }  # fmt: skip
            torch.save(state, folder / f"{stem}.adapter.pt")
        else:
            d = 20 if placement == "attn2c-attn2c" else module.dim
            state = {"0.weight": torch.randn(3, d), "0.bias": torch.randn(3),
                     "2.weight": torch.randn(d, 3), "2.bias": torch.randn(d)}  # fmt: skip
            torch.save({f"adp.{k}": v for k, v in state.items()}, folder / f"{stem}.adapter_inout.pt")
            torch.save(state, folder / f"{stem}.adapter_inout.adp.pt")
        states[block] = state
    return states
