"""Stable Diffusion at its true size, with random weights: from an original checkpoint to an image."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from study_tools import environment

ROOT = Path(__file__).parents[2]
STEP = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from sdpet.adapters import AdapterSpec, attach
from sdpet.models import find_source, load_base, mapped_bytes, on_meta, step_memory
from sdpet.runs.libraries import library_bytes
from sdpet.training import fit
from sdpet.training import PeakMemory
from sdpet.methods import Design, build, load
from sdpet.sampling import SamplerConfig, sample
from sdpet.tasks import FinetuneTask

file, folder = Path(sys.argv[1]), Path(sys.argv[2])
libraries, start = library_bytes(), time.perf_counter()
memory = PeakMemory(torch.device("cpu"))
dtype, config = sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else None
base = load_base("ckpt", file, image_size=64, dtype=dtype, config=config)
loaded, load_peak = time.perf_counter(), memory.peak()
images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
held = {"heldout_images": images, "heldout_captions": ["a"] * 2}
task = FinetuneTask(base, None, 1, images=images, captions=["a dog"] * 2, **held)
sampler = SamplerConfig("ddim", 2, 7.5)
untuned = sample(base, ["a dog"], [0], sampler)
handle = build(base, Design("adapter", AdapterSpec.parse("attn2o-ffni", mid_dim=60)))
sizes = [len(handle), handle.num_parameters()]
assert torch.isfinite(base.encode_text(["a dog"])).all()
of_step = PeakMemory(torch.device("cpu"))
begun = time.perf_counter()
result = fit(base, handle, task, steps=1, lr=1e-2, seed=0)
trained, step_peak = time.perf_counter(), of_step.peak()
source = find_source(file, config=config)
shapes = on_meta(source)
mapped = mapped_bytes(source, shapes, lambda part: dtype)
trained_there = attach(shapes["unet"], AdapterSpec.parse("attn2o-ffni", mid_dim=60)).parameters()
expected = step_memory(shapes, list(trained_there), 1, base.latent_shape[-1], dtype)
tuned = sample(base, ["a dog"], [0], sampler)
handle.save(folder)
handle.detach()
assert np.array_equal(sample(base, ["a dog"], [0], sampler), untuned)
load(base, folder)
again = sample(base, ["a dog"], [0], sampler)
assert np.array_equal(again, tuned) and not np.array_equal(tuned, untuned) and tuned.shape == (1, 64, 64, 3)
print(json.dumps({"sizes": sizes, "loss": result.loss, "load": loaded - start, "step": trained - begun,
                  "seconds": time.perf_counter() - start, "peaks": [load_peak, step_peak], "libraries": libraries,
                  "expected": [libraries + expected.weights + mapped, libraries + expected.total]}))
"""


def write_full_checkpoint(file: Path, kind: str) -> None:
    """A checkpoint of random weights in float16 with the original key names."""
    import torch
    from safetensors.torch import save_file
    from tiny_models import original_weights

    from sdpet.models import ARCHITECTURES, Source, on_meta

    made = on_meta(Source(ARCHITECTURES / kind, ARCHITECTURES / kind))
    torch.manual_seed(0)
    for network in made.values():
        network.to_empty(device="cpu").half()
        for name, parameter in network.named_parameters():
            norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.data = torch.ones_like(parameter) if norm else torch.empty_like(parameter).normal_(std=0.02)
    state = original_weights(made)
    del made
    save_file(state, file) if file.suffix == ".safetensors" else torch.save({"state_dict": state}, file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "dtype", "blocks", "gigabytes"),
    [  # XL's weights in float32 would need more than twice the memory
        ("v1", "model.ckpt", "float32", 16, (2.0, 2.3)),
        ("v21", "model.safetensors", "float32", 16, (2.4, 2.8)),
        ("sdxl", "model.safetensors", "bfloat16", 70, (6.7, 7.1)),
    ],
)
def test_from_an_original_checkpoint_to_an_image(tmp_path, kind, name, dtype, blocks, gigabytes):
    """Load, train a step of attn2o-ffni, save, reload and draw, in a process whose memory is as doctor expects."""
    file = tmp_path / name
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT / 'tests' / 'models')!r}]\n"
        "from test_full_size import write_full_checkpoint\n"
    )
    program += f"from pathlib import Path; write_full_checkpoint(Path({str(file)!r}), {kind!r})"
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True, timeout=900)
    assert gigabytes[0] * 1e9 < file.stat().st_size < gigabytes[1] * 1e9
    command = [sys.executable, "-c", STEP, str(file), str(tmp_path / "adapters"), dtype]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1500)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    print(kind, found)
    assert found["sizes"][0] == blocks and found["loss"][0] > 0
    assert found["peaks"] == pytest.approx(found["expected"], rel=0.15)
    if kind != "v1":
        return
    assert found["sizes"][1] == 1_511_040
    asked = ["unet=ckpt", f"unet.path={file}", "unet.image_size=64", "adapter.mid_dim=60", "trainer.batch_size=1"]
    script = ["-m", "sdpet.commands.cli", "doctor", *asked, "task.reg_weight=0"]
    ended = subprocess.run([sys.executable, *script], env=environment(), capture_output=True, text=True, timeout=300)
    said = next(line for line in ended.stdout.splitlines() if line.startswith("ok  process"))
    step, _, _, load = (float(word) * 2**30 for word in re.findall(r"\d+\.\d+", said)[:4])
    assert [load, step] == pytest.approx(found["peaks"], rel=0.15)
    script = ["-m", "sdpet.commands.cli", "txt2img", "--ckpt", str(file), "--adapters", str(tmp_path / "adapters")]
    script += ["--H", "64", "--W", "64", "--ddim_steps", "2", "--n_iter", "1", "--n_samples", "1", "--skip_grid"]
    script += ["--outdir", str(tmp_path / "out"), "--prompt", "a dog"]
    ended = subprocess.run([sys.executable, *script], env=environment(), capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "out" / "samples").glob("*.png"))) == 1
