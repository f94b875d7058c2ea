"""`sdpet txt2img` from the command line to the files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts_tools import decoded, names, pictures, sdpet
from tiny_models import write_checkpoint, write_configs, write_folder

LINES = [
    ("a photo of a red star", "star", "red"),
    ("a photo of a blue circle", "circle", "blue"),
    ("a photo of a green square", "square", "green"),
    ("a photo of a yellow triangle", "triangle", "yellow"),
    ("a photo of a purple cross", "cross", "purple"),
]


@pytest.fixture
def fast(tiny_folder):
    """A model with random weights, two steps, and nothing said."""
    return ["txt2img", "--model", tiny_folder, "--ddim_steps", 2, "--quiet"]


def test_the_lab_draws_what_a_file_of_prompts_says(tmp_path):
    """Five prompts in batches of two: the last one is short. The judge looks at shape and colour."""
    from sdpet.lab import COLORS, SHAPES, load_judge

    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(line for line, *_ in LINES) + "\n\n")
    out = tmp_path / "out"
    common = ["txt2img", "--model", "lab", "--from-file", file, "--n_iter", 2, "--dpm_solver", "--ddim_steps", 15]
    assert sdpet(*common, "--n_samples", 2, "--outdir", out) == 0
    assert names(out) == ["grid-0000.png", *[f"samples/{i:05d}.png" for i in range(10)]]
    images = pictures(out)
    answers = load_judge().judge(images)
    assert list(answers["shape"]) == [SHAPES.index(shape) for _, shape, _ in LINES] * 2
    assert list(answers["color"]) == [list(COLORS).index(color) for *_, color in LINES] * 2
    metadata = [json.loads(Image.open(out / "samples" / f"{i:05d}.png").text["sdpet"]) for i in range(10)]
    assert [t["seed"] for t in metadata] == list(range(42, 52)) and metadata[6]["prompt"] == LINES[1][0]
    grid = np.asarray(Image.open(out / "grid-0000.png"))
    assert grid.shape == (2 + 5 * 34, 2 + 2 * 34, 3)
    np.testing.assert_array_equal(grid[2 + 34 : 34 + 34, 2 : 2 + 32], images[2])

    # the same images in batches of another size, numbered on
    assert sdpet(*common, "--n_samples", 5, "--outdir", out, "--skip_grid") == 0
    assert abs(pictures(out)[10:].astype(int) - images).max() <= 1


def test_one_image_of_many_can_be_drawn_again(fast, tmp_path):
    assert sdpet(*fast, "--outdir", tmp_path / "many", "--seed", 7) == 0
    many = pictures(tmp_path / "many")
    assert len(many) == 6 and abs(many[0].astype(int) - many[4]).max() > 5
    assert sdpet(*fast, "--outdir", tmp_path / "one", "--seed", 11, "--n_iter", 1, "--n_samples", 1) == 0
    assert abs(pictures(tmp_path / "one")[0].astype(int) - many[4]).max() <= 1


def test_fixed_code_and_eta(fast, tmp_path):
    common = [*fast, "--n_samples", 2, "--n_iter", 2, "--fixed_code"]
    assert sdpet(*common, "--outdir", tmp_path / "a") == 0
    one = pictures(tmp_path / "a")
    assert abs(one[:2].astype(int) - one[2:]).max() <= 1 and abs(one[0].astype(int) - one[1]).max() > 5
    assert sdpet(*common, "--outdir", tmp_path / "b", "--ddim_eta", 1) == 0
    other = pictures(tmp_path / "b")
    assert abs(other[:2].astype(int) - other[2:]).max() > 5, "the noise of the steps is each image's own"


def test_what_is_skipped_and_how_files_are_numbered(fast, tmp_path):
    common = [*fast, "--n_iter", 1, "--n_samples", 1, "--outdir", tmp_path]
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "00007.png").write_bytes(b"mine")
    (tmp_path / "samples" / "notes.txt").write_text("mine")
    assert sdpet(*common, "--skip_grid") == 0
    assert sdpet(*common, "--skip_save") == 0
    assert sdpet(*common) == 0
    expected = ["grid-0000.png", "grid-0001.png", *[f"samples/0000{i}.png" for i in (7, 8, 9)], "samples/notes.txt"]
    assert names(tmp_path) == expected
    assert (tmp_path / "samples" / "00007.png").read_bytes() == b"mine"


def test_two_writers_never_overwrite_each_other(tmp_path, monkeypatch):
    from sdpet.commands.scripts.folder import Numbered

    files = Numbered(tmp_path)
    first = files.add(lambda path: path.write_bytes(b"first"))
    monkeypatch.setattr(Numbered, "next", lambda self: 0)  # another process was quicker
    second = files.add(lambda path: path.write_bytes(b"second"))
    assert (first.name, second.name) == ("00000.png", "00001.png") and first.read_bytes() == b"first"
    with pytest.raises(KeyError):
        files.add(lambda path: {}["an interrupted write"])
    assert names(tmp_path) == ["00000.png", "00001.png"]


def test_interrupted_what_is_finished_is_kept(fast, tmp_path, monkeypatch, capsys):
    from sdpet import sampling

    calls, whole = [], sampling.denoise

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(sampling, "denoise", interrupted)
    assert sdpet(*fast, "--n_iter", 4, "--n_samples", 2, "--outdir", tmp_path) == 130
    assert names(tmp_path) == ["grid-0000.png", *[f"samples/0000{i}.png" for i in range(4)]]
    assert "4 of 8 images are kept" in capsys.readouterr().err


def test_the_watermark_is_read_by_the_librarys_own_decoder(fast, tmp_path, capsys):
    sizes = ["--H", 256, "--W", 264, "--n_samples", 2, "--n_iter", 1]
    assert sdpet(*fast, *sizes, "--outdir", tmp_path / "large") == 0
    files = names(tmp_path / "large")
    assert len(files) == 3
    for file in files:
        assert decoded(tmp_path / "large" / file) == b"StableDiffusionV1", file
    small = [argument for argument in fast if argument != "--quiet"]
    assert sdpet(*small, "--n_samples", 1, "--n_iter", 1, "--outdir", tmp_path / "small") == 0
    assert "32 x 32 get no watermark, which needs at least 256 x 256" in capsys.readouterr().err
    assert sdpet(*fast, "--n_samples", 64, "--n_rows", 8, "--n_iter", 1, "--outdir", tmp_path / "small") == 0
    assert decoded(tmp_path / "small" / "grid-0001.png") == b"StableDiffusionV1", "the grid is large enough"


@pytest.mark.parametrize("kind", ["photograph", "smooth", "noise", "flat"])
def test_marks_that_one_pass_leaves_unreadable_can_be_read(kind):
    from imwatermark import WatermarkDecoder, WatermarkEncoder
    from skimage import data

    from sdpet.commands.scripts.watermark import Watermark

    rng = np.random.default_rng(0)
    image = {
        "photograph": lambda: Image.fromarray(data.astronaut()),
        "smooth": lambda: Image.fromarray(rng.integers(60, 200, (16, 16, 3)).astype(np.uint8)),
        "noise": lambda: Image.fromarray(rng.integers(0, 256, (256, 256, 3)).astype(np.uint8)),
        "flat": lambda: Image.new("RGB", (256, 256), (230, 25, 25)),
    }[kind]()
    before = np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC))
    marked, readable = Watermark().mark(before)
    assert readable and marked.shape == before.shape
    assert WatermarkDecoder("bytes", 136).decode(np.ascontiguousarray(marked[:, :, ::-1]), "dwtDct") == (
        b"StableDiffusionV1"
    )
    change = 10 * np.log10(255**2 / np.mean((marked.astype(float) - before) ** 2))
    once = WatermarkEncoder()
    once.set_watermark("bytes", b"StableDiffusionV1")
    single = once.encode(np.ascontiguousarray(before[:, :, ::-1]), "dwtDct")[:, :, ::-1]
    change_once = 10 * np.log10(255**2 / np.mean((single.astype(float) - before) ** 2))
    assert change > change_once - 6, "hardly more visible than what the public scripts write"


def test_a_watermark_that_cannot_be_written_says_how_to_correct_it(fast, tmp_path, monkeypatch, capsys):
    (tmp_path / "imwatermark.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imwatermark", raising=False)
    assert sdpet(*fast, "--H", 256, "--W", 256, "--outdir", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "libGL.so.1" in error and "opencv-python-headless" in error and error.count("\n") == 1
    assert sdpet(*fast, "--n_iter", 1, "--outdir", tmp_path / "out") == 0, "small images need no OpenCV"


def make_checker(folder: Path, threshold: float) -> Path:
    """A safety checker with random weights; cosines all lie below a threshold of 2 and above one of -2."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16, "projection_dim": 8,
    }  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(threshold)
        checker.special_care_embeds_weights.fill_(2.0)
    checker.save_pretrained(folder)
    return folder


def test_the_safety_checker_replaces_what_it_flags(fast, tmp_path, capsys, tiny_folder):
    strict, lenient = make_checker(tmp_path / "strict", -2.0), make_checker(tmp_path / "lenient", 2.0)
    common = [*fast, "--n_iter", 1, "--n_samples", 2]
    assert sdpet(*common, "--outdir", tmp_path / "none") == 0
    assert sdpet(*common, "--outdir", tmp_path / "passed", "--safety-checker", lenient) == 0
    np.testing.assert_array_equal(pictures(tmp_path / "passed"), pictures(tmp_path / "none"))
    assert "withheld" not in capsys.readouterr().err
    assert sdpet(*common, "--outdir", tmp_path / "flagged", "--safety-checker", strict) == 0
    assert not pictures(tmp_path / "flagged").any()
    assert not np.asarray(Image.open(tmp_path / "flagged" / "grid-0000.png")).any()
    assert "00001.png was withheld by the safety checker and replaced by a black image." in capsys.readouterr().err
    (tmp_path / "model").mkdir()
    for part in (*tiny_folder.iterdir(), strict):  # a model's own checker runs without being asked for
        name = "safety_checker" if part == strict else part.name
        (tmp_path / "model" / name).symlink_to(part)
    own = ["txt2img", "--model", tmp_path / "model", *common[3:]]
    assert sdpet(*own, "--outdir", tmp_path / "own") == 0
    assert not pictures(tmp_path / "own").any()
    unchecked = [argument for argument in common if argument != "--quiet"]
    capsys.readouterr()
    assert sdpet(*unchecked, "--outdir", tmp_path / "none") == 0
    assert "no safety checker is used; give one by --safety-checker" in capsys.readouterr().err


def test_adapters_at_strength_0_half_and_1(tiny_base, tiny_folder, fast, tmp_path):
    from sdpet import AdapterSpec, attach

    adapters = attach(tiny_base.unet, AdapterSpec("attn2o", "ffni", mid_dim=8, scale=4.0, init="default"), seed=0)
    adapters.save(tmp_path / "adapters")
    adapters.detach()
    common = [*fast, "--n_iter", 1, "--n_samples", 2]
    assert sdpet(*common, "--outdir", tmp_path / "base") == 0
    with_adapters = [*common, "--adapters", tmp_path / "adapters"]
    drawn = {}
    for scale in (0, 0.5, 1):
        assert sdpet(*with_adapters, "--adapter-scale", scale, "--outdir", tmp_path / str(scale)) == 0
        drawn[scale] = pictures(tmp_path / str(scale)).astype(int)
    base = pictures(tmp_path / "base").astype(int)
    np.testing.assert_array_equal(drawn[0], base)
    assert 0 < abs(drawn[0.5] - base).mean() < abs(drawn[1] - base).mean()

    # of a run's folder, the base model is known
    groups = "".join(f"{name}: {{}}\n" for name in ("adapter", "task", "data", "trainer", "sampler", "eval"))
    (tmp_path / "adapters" / "config.yaml").write_text(f"{groups}unet: {{name: folder, path: '{tiny_folder}'}}\n")
    bare = ["txt2img", *with_adapters[3:]]
    assert sdpet(*bare, "--outdir", tmp_path / "run") == 0
    np.testing.assert_array_equal(pictures(tmp_path / "run"), drawn[1])


def test_two_adapters_side_by_side_and_what_the_file_says(tiny_base, tiny_folder, fast, tmp_path, capsys):
    from sdpet import AdapterSpec, attach, load_adapters

    for name, placement, seed in (("a", "attn2o-ffni", 0), ("b", "attn2o-ffni", 1)):
        adapters = attach(tiny_base.unet, AdapterSpec.parse(placement, mid_dim=8, scale=4.0, init="default"), seed=seed)
        adapters.save(tmp_path / name)
        adapters.detach()
    both = [item for name in "ab" for item in ("--adapters", tmp_path / name)]
    common = [*fast, "--n_iter", 1, "--n_samples", 1, "--negative_prompt", "a star", "--scale", 3]

    def drawn(*given):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert sdpet(*common, *given, "--outdir", out) == 0
        return pictures(out)[0].astype(int), json.loads(Image.open(out / "samples" / "00000.png").text["sdpet"])

    alone, text = drawn("--adapters", tmp_path / "a", "--adapter-scale", 0.7)
    assert text["adapters"] == [{"folder": "a", "strength": 0.7}] and text["negative_prompt"] == "a star"
    assert text["model_hash"] == tiny_base.weight_hash and (text["width"], text["height"]) == (32, 32)
    np.testing.assert_array_equal(drawn(*both, "--strengths", "0.7,0")[0], alone)
    together, text = drawn(*both, "--strengths", "0.7,0.5")
    assert [entry["strength"] for entry in text["adapters"]] == [0.7, 0.5] and abs(together - alone).mean() > 0.5
    handles = [load_adapters(tiny_base.unet, tmp_path / name, alongside=True) for name in "ab"]
    from sdpet.sampling import SamplerConfig, denoise

    handles[0].scale(0.7)
    handles[1].scale(0.5)
    states = tiny_base.encode_text([text["prompt"], "a star"])
    ours = tiny_base.decode(denoise(tiny_base, states[:1], states[1:], [42], SamplerConfig("ddim", 2, 3.0)))[0]
    for handle in handles:
        handle.detach()
    assert abs(ours - together).max() <= 1

    for given, words in (
        ((*both, "--strengths", "0.7"), "1 numbers for 2 --adapters"),
        ((*both, "--strengths", "1,1", "--adapter-scale", 2), "both set the strength"),
        ((*both, "--strengths", "1,x"), "must be a number"),
    ):
        assert sdpet(*common, *given, "--outdir", tmp_path / "no") != 0
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("method", [{"method": "lora", "rank": 4, "scale": 8.0}, {"method": "full"}], ids=str)
def test_other_methods_at_strength_0_and_1(tiny_base, fast, tmp_path, method, capsys):
    from sdpet.methods import Design, build

    handle = build(tiny_base, Design(**method))
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.add_(torch.full_like(parameter, 0.05))
    handle.save(tmp_path / "tuned")
    handle.detach()
    common = [*fast, "--n_iter", 1, "--n_samples", 2]
    with_tuned = [*common, "--adapters", tmp_path / "tuned"]
    assert sdpet(*common, "--outdir", tmp_path / "base") == 0
    base = pictures(tmp_path / "base").astype(int)
    assert sdpet(*with_tuned, "--adapter-scale", 0, "--outdir", tmp_path / "zero") == 0
    np.testing.assert_array_equal(pictures(tmp_path / "zero"), base)
    assert sdpet(*with_tuned, "--outdir", tmp_path / "one") == 0
    one = abs(pictures(tmp_path / "one") - base).mean()
    half = sdpet(*with_tuned, "--adapter-scale", 0.5, "--outdir", tmp_path / "half")
    if method["method"] == "lora":
        assert half == 0 and 0 < abs(pictures(tmp_path / "half") - base).mean() < one
    else:
        assert half == 1 and one > 1 and "--adapter-scale must be 0 or 1" in capsys.readouterr().err


def test_checkpoints_in_the_original_format_at_odd_multiples_of_32(tmp_path):
    made = write_folder(tmp_path / "folder")
    configs = write_configs(tmp_path / "configs", made)
    file = write_checkpoint(tmp_path / "model.ckpt", made)
    common = ["txt2img", "--ddim_steps", 2, "--n_samples", 1, "--n_iter", 1, "--H", 96, "--W", 32, "--quiet", "--plms"]
    common += ["--C", 4, "--f", 8, "--outdir"]
    assert sdpet(*common, tmp_path / "a", "--ckpt", file, "--config", configs) == 0
    assert sdpet(*common, tmp_path / "b", "--model", tmp_path / "folder") == 0
    assert pictures(tmp_path / "a").shape == (1, 96, 32, 3)
    np.testing.assert_array_equal(pictures(tmp_path / "a"), pictures(tmp_path / "b"))


V1 = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    scale_factor: 0.18215
    unet_config:
      params: {image_size: 32, in_channels: 4, out_channels: 4, model_channels: 320, num_res_blocks: 2,
        attention_resolutions: [4, 2, 1], channel_mult: [1, 2, 4, 4], num_heads: 8, transformer_depth: 1,
        context_dim: 768, use_spatial_transformer: true, use_checkpoint: true, legacy: false}
    first_stage_config:
      params: {embed_dim: 4, ddconfig: {z_channels: 4, resolution: 256, in_channels: 3, out_ch: 3, ch: 128,
        ch_mult: [1, 2, 4, 4], num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}}
    cond_stage_config: {target: ldm.modules.encoders.modules.FrozenCLIPEmbedder}
"""


def test_the_public_config_of_v1_gives_the_architecture_of_v1(tmp_path):
    from sdpet.commands.scripts.ldm_config import write_configs
    from sdpet.models import ARCHITECTURES

    (tmp_path / "v1.yaml").write_text(V1)
    folder = write_configs(tmp_path / "v1.yaml", tmp_path / "configs")
    for name in ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"):
        ours, shipped = (json.loads((place / name).read_text()) for place in (folder, ARCHITECTURES / "v1"))
        ours.pop("transformer_layers_per_block", None)
        assert ours == shipped
    (tmp_path / "v1.yaml").write_text(V1.replace("FrozenCLIPEmbedder", "BERTEmbedder"))
    with pytest.raises(ValueError, match="BERTEmbedder"):
        write_configs(tmp_path / "v1.yaml", tmp_path / "other")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--plms", "--ddim_eta", "0.5"], ["--ddim_eta must be 0", "DDIM"]),
        (["--plms", "--dpm_solver"], ["--plms", "--dpm_solver", "choose one"]),
        (["--laion400m"], ["BERT", "--ckpt"]),
        (["--from-file", "missing.txt"], ["missing.txt", "one prompt per line"]),
        (["--H", "500"], ["--H", "multiple of 4"]),
        (["--W", "30"], ["--W", "multiple of 4", "28 or 32"]),
        (["--C", "3"], ["--C 3", "4"]),
        (["--f", "8"], ["--f 8", "4"]),
        (["--ddim_steps", "1001"], ["1000"]),
        (["--ddim_steps", "1000", "--dpm_solver"], ["999"]),
        (["--adapters", "nowhere"], ["nowhere", "run"]),
        (["--safety-checker", "./nowhere"], ["nowhere", "hub id"]),
        (["--ckpt", "model.ckpt"], ["--model and --ckpt"]),
        (["--use-ema"], ["--use-ema", "checkpoint file"]),
        (["--config", "v1.yaml"], ["v1.yaml", "does not exist"]),
    ],
)
def test_errors_are_one_sentence(wrong, words, tiny_folder, tmp_path, monkeypatch, capsys):
    if wrong[0] == "--H":
        wrong = ["--H", "502"]
    monkeypatch.chdir(tmp_path)
    assert sdpet("txt2img", "--model", tiny_folder, "--quiet", *wrong) == 1
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and not out
    assert all(word in error for word in words), error
    assert not (tmp_path / "outputs").exists() or not names(tmp_path / "outputs")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--n_samples", "0"], ["--n_samples", "at least 1"]),
        (["--scale", "-1"], ["--scale", "at least 0"]),
        (["--ddim_eta", "2"], ["--ddim_eta", "from 0 to 1"]),
        (["--precision", "half"], ["full", "autocast"]),
        (["--promt", "x"], ["--promt"]),
    ],
)
def test_a_wrong_command_line_is_one_sentence(wrong, words, capsys):
    assert sdpet("txt2img", *wrong) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words)


def test_a_missing_checkpoint_is_named_by_its_option(tmp_path, capsys):
    assert sdpet("txt2img", "--ckpt", tmp_path / "none.ckpt") == 1
    error = capsys.readouterr().err
    assert "none.ckpt does not exist; --ckpt must be" in error and error.count("\n") == 1


def test_without_a_model_the_choices_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sdpet("txt2img") == 1
    error = capsys.readouterr().err
    assert all(word in error for word in ("model.ckpt", "--ckpt", "--model", "diffusers folder", "hub id", "lab"))


def test_under_autocast_only_the_networks_compute_in_half_precision(fast, tmp_path, monkeypatch):
    """CUDA's float16 stands for itself only there; on the CPU the same code runs under bfloat16."""
    from sdpet.commands.scripts import draw

    common = [*fast, "--n_iter", 1, "--n_samples", 2]
    assert sdpet(*common, "--precision", "full", "--outdir", tmp_path / "full") == 0
    assert sdpet(*common, "--precision", "autocast", "--outdir", tmp_path / "cpu") == 0
    full = pictures(tmp_path / "full").astype(int)
    np.testing.assert_array_equal(pictures(tmp_path / "cpu"), full)
    monkeypatch.setattr(draw, "_half_precision", lambda base, precision: torch.autocast("cpu", torch.bfloat16))
    assert sdpet(*common, "--outdir", tmp_path / "half") == 0
    difference = abs(pictures(tmp_path / "half") - full)
    assert 0 < difference.mean() < 3


def test_prompts_longer_than_the_model_reads_are_reported(fast, tmp_path, capsys):
    loud = [argument for argument in fast if argument != "--quiet"]
    prompt = "a photo of a red star " * 4
    assert sdpet(*loud, "--prompt", prompt, "--n_iter", 1, "--n_samples", 1, "--outdir", tmp_path) == 0
    assert "leaves out 'of a red star a photo of a red star'" in capsys.readouterr().err


def test_help_begins_with_an_example_and_is_quick():
    code = (
        "import sys; from sdpet.commands.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    for script in ("txt2img", "img2img"):
        shown = subprocess.run([sys.executable, "-c", code, script], capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.startswith(f"example: sdpet {script}")
