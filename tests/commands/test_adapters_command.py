"""`sdpet adapters`: conversion from and to the reference code's form, sharing; and that form's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import plain_blocks
import pytest
import torch
import yaml
from adapter_tools import run, small_unet, write_reference
from PIL import Image

from sdpet import AdapterSpec, attach, load_adapters
from sdpet.adapters import PLACEMENTS, matching_blocks
from sdpet.adapters.positions import component
from sdpet.commands.adapters import main
from sdpet.commands.cli import main as sdpet
from sdpet.models import load_base
from sdpet.runs import Record
from sdpet.runs import model_card as sharing
from sdpet.runs.stored import NEEDED

GROUPS: dict[str, dict] = {group: {} for group in NEEDED}  # what the config of a run has at least


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_reference_codes_arithmetic_in_every_form(placement, tmp_path):
    """4 activations x 4 scales of adapters read from its folder, each block against the plainly written one."""
    unet = small_unet().requires_grad_(False)
    states = write_reference(tmp_path / "500-adapters", placement)
    worst = 0.0
    torch.manual_seed(0)
    for activation in ("relu", "sig", "silu", "ident"):
        for scale in (0.5, 1.0, 2.0, 4.0):
            spec = AdapterSpec.parse(placement, mid_dim=3, activation=activation, scale=scale, init="default")
            adapters = load_adapters(unet, tmp_path / "500-adapters", spec)
            for path, block in matching_blocks(unet, spec).items():
                if component(placement) == "resnet":
                    x, temb = torch.randn(1, block.in_channels, 4, 4), torch.randn(1, block.time_emb_proj.in_features)
                    expected = plain_blocks.resnet_block(block, x, temb, spec, states[path], 32)
                    got = block(x, temb)
                else:
                    x, context = torch.randn(1, 5, block.dim), torch.randn(1, 3, 20)
                    expected = plain_blocks.transformer_block(block, x, context, spec, states[path])
                    got = block(x, encoder_hidden_states=context)
                size = expected.abs().max().item()
                worst = max(worst, (got - expected).abs().max().item() / max(1.0, size))
            adapters.detach()
    assert worst < 1e-5


@pytest.fixture
def model(tmp_path):
    """The path of a model folder of which the commands need only the UNet's config, and that UNet."""
    unet = small_unet()
    unet.save_config(tmp_path / "model" / "unet")
    return tmp_path / "model", unet


@pytest.fixture
def of_model(model, monkeypatch):
    """The commands find the model by its path although it has no weights."""
    from sdpet.models import Source

    monkeypatch.setattr("sdpet.models.source.find_source", lambda path, **options: Source(model[0], model[0]))
    return ["--model", str(model[0])]


@pytest.mark.parametrize("placement", ["attn2o-ffni", "resi-reso"])
def test_there_and_back_again(placement, model, of_model, tmp_path, capsys):
    unet = model[1]
    adapters = attach(
        unet, AdapterSpec.parse(placement, mid_dim=3, scale=2.0, activation="silu", init="default"), seed=0
    )
    tuned = run(unet)
    adapters.save(tmp_path / "own")
    adapters.detach()
    assert main(["export-reference", str(tmp_path / "own"), str(tmp_path / "9-adapters"), *of_model]) == 0
    form = ["--placement", placement, "--activation", "silu", "--scale", "2"]
    assert main(["import-reference", str(tmp_path / "9-adapters"), str(tmp_path / "back"), *form, *of_model]) == 0
    assert "mid_dim 3" in capsys.readouterr().out
    back = load_adapters(unet, tmp_path / "back")
    assert torch.equal(run(unet), tuned) and back.spec == adapters.spec
    main(["show", str(tmp_path / "back")])
    shown = capsys.readouterr().out
    assert f"{placement}, silu, mid_dim 3, scale 2" in shown and f"{back.num_parameters():,} parameters" in shown


def test_export_for_stable_diffusion_v1_needs_no_weights_of_it(tmp_path):
    from sdpet.commands.adapters import shape_of_unet

    unet = shape_of_unet(None, tmp_path)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=2)
    from sdpet.adapters import Adapters
    from sdpet.adapters.attachment import sites_of
    from sdpet.adapters.forms import make_form

    adapters = {key: make_form(spec, site.shape) for key, site in sites_of(unet, spec).items()}
    Adapters(spec, adapters).save(tmp_path / "own")
    main(["export-reference", str(tmp_path / "own"), str(tmp_path / "0-adapters"), "--model", "sd15"])
    unet_of_run = {"name": "sd15", "path": str(tmp_path / "gone")}  # the model is no longer where the run had it
    (tmp_path / "own" / "config.yaml").write_text(yaml.safe_dump(GROUPS | {"unet": unet_of_run}))
    main(["export-reference", str(tmp_path / "own"), str(tmp_path / "1-adapters")])
    names, same = ({path.name for path in (tmp_path / f"{i}-adapters").iterdir()} for i in (0, 1))
    assert names == same
    assert len(names) == 32 and "middle_block.1.transformer_blocks.0.adapter_inout.pt" in names
    assert "output_blocks.11.1.transformer_blocks.0.adapter_inout.adp.pt" in names


def test_what_does_not_fit_is_one_sentence(model, of_model, tmp_path, capsys):
    write_reference(tmp_path / "9-adapters", "attn2o-ffni")
    (tmp_path / "9-adapters" / "middle_block.1.transformer_blocks.0.adapter_inout.pt").unlink()
    (tmp_path / "9-adapters" / "middle_block.1.transformer_blocks.0.adapter_inout.adp.pt").unlink()
    given = ["adapters", "import-reference", str(tmp_path / "9-adapters"), str(tmp_path / "out"), *of_model]
    for more, words in (
        (["--placement", "attn2o-ffni"], "missing middle_block.1.transformer_blocks.0.adapter_inout.pt (1 in all)"),
        (["--placement", "resi-reso"], "no adapters of resnet blocks"),
        (["--placement", "attn2o-attn1i"], "from attn2o write to ffni or transo"),
        (["--placement", "attn2o-ffni", "--activation", "swirl"], "choose one of relu, sig, silu, ident"),
    ):
        with pytest.raises(SystemExit) as ended:
            sdpet([*given, *more])
        said = capsys.readouterr().err
        assert ended.value.code == 1 and words in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def finished(tmp_path):
    """A finished run's folder, as much of it as sharing reads."""
    folder = tmp_path / "run"
    adapters = attach(small_unet(), AdapterSpec.parse("attn2o-ffni", mid_dim=3), seed=0)
    adapters.save(folder)
    (folder / "samples").mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(folder / "samples" / f"{i:05d}.png")
    unet = {"name": "sd15", "path": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
    (folder / "config.yaml").write_text(
        yaml.safe_dump(GROUPS | {"unet": unet, "data": {"subject_dir": "/home/me/secret"}})
    )
    Record(
        run_id="run", study="s", status="finished", factors={"seed": 7},
        task={"name": "dreambooth", "data": "/home/me/secret", "prompt": "a photo of a sks dog"},
        metrics={"clip_i": 0.81234}, anchors={"clip_i": {"floor": 0.5, "ceiling": None}},
    ).write(folder)  # fmt: skip
    return folder


def test_the_card_says_what_the_record_holds(finished, tmp_path, capsys):
    main(["push", str(finished), "me/my-dog", "--dry-run", str(tmp_path / "up"), "--license", "openrail"])
    files = sorted(path.relative_to(tmp_path / "up").as_posix() for path in (tmp_path / "up").rglob("*.*"))
    assert files == ["README.md", "adapters.json", "adapters.safetensors", *(f"samples/0000{i}.png" for i in range(4))]
    text = (tmp_path / "up" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["base_model"] == "stable-diffusion-v1-5/stable-diffusion-v1-5" and head["license"] == "openrail"
    expected = [
        "# my-dog",
        "| task | dreambooth |",
        "| clip_i | 0.8123 | 0.5 |  |",
        "a photo of a sks dog",
        "attn2o, ffni",
        "| seed | 7 |",
    ]
    expected += ["relu, mid_dim 3, scale 1", 'snapshot_download("me/my-dog")', "![sample](samples/00003.png)"]
    assert not [words for words in expected if words not in body]
    assert "secret" not in text + (tmp_path / "up" / "adapters.json").read_text()
    assert f"| parameters | {json.loads((finished / 'adapters.json').read_text())['parameters']:,} |" in body
    unet = small_unet()
    load_adapters(unet, tmp_path / "up")  # as one who fetched it would


def test_pushing_uploads_that_folder_and_says_why_it_could_not(finished, monkeypatch, capsys):
    uploaded = {}

    class Hub:
        def create_repo(self, repo_id, private, exist_ok):
            return f"hub:{repo_id}:{private}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            from pathlib import Path

            uploaded[repo_id] = sorted(path.name for path in Path(folder_path).rglob("*.*"))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert sharing.push_to_hub(finished, "me/my-dog", private=True, samples=1) == "hub:me/my-dog:True"
    assert uploaded == {"me/my-dog": ["00000.png", "README.md", "adapters.json", "adapters.safetensors"]}
    monkeypatch.setattr(Hub, "create_repo", lambda *args, **options: (_ for _ in ()).throw(OSError("no network\nmore")))
    with pytest.raises(ValueError, match=r"me/my-dog could not be uploaded \(OSError: no network\); hf auth login"):
        sharing.push_to_hub(finished, "me/my-dog")
    with pytest.raises(ValueError, match="user/name"):
        sharing.push_to_hub(finished, "my-dog")
    with pytest.raises(ValueError, match="holds no adapters"):
        sharing.push_to_hub(finished / "samples", "me/my-dog")


def test_what_was_exported_from_a_lab_run_is_read_without_naming_its_model(tmp_path, capsys):
    base = load_base("lab")
    adapters = attach(base.unet, AdapterSpec.parse("attn2o-ffni", mid_dim=3, init="default"), seed=0)
    adapters.save(tmp_path / "own")
    lab = ["--model", "lab"]
    assert main(["export-reference", str(tmp_path / "own"), str(tmp_path / "9-adapters"), *lab]) == 0
    given = ["import-reference", str(tmp_path / "9-adapters"), str(tmp_path / "back"), "--placement", "attn2o-ffni"]
    assert main(given) == 0
    assert "taken for a model like lab" in capsys.readouterr().out
    adapters.detach()
    back = load_adapters(base.unet, tmp_path / "back")
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), adapters.parameters(), strict=True))
    (next((tmp_path / "9-adapters").glob("*.adapter_inout.pt"))).unlink()
    next((tmp_path / "9-adapters").glob("*.adapter_inout.adp.pt")).rename(tmp_path / "9-adapters" / "other.adapter.pt")
    with pytest.raises(ValueError, match="fits none of sd14, sd21, sdxl, lab; name its model with --model"):
        main(given)


SIZES = {  # parameters; blocks and width of the image stream; blocks of the text stream, which may end one earlier
    "sd3_medium": (2_028_328_000, 24, 1536, 23),
    "sd35_medium": (2_243_171_520, 24, 1536, 23),
    "sd35_large": (8_056_627_520, 38, 2432, 37),
    "flux_dev": (11_901_408_320, 19, 3072, 19),
    "pixart_sigma": (610_856_096, 28, 1152, 0),
}


@pytest.mark.parametrize("model", SIZES)
def test_parameters_of_every_placement_of_the_transformers_are_those_on_the_page(model, capsys):
    total, blocks, width, text_blocks = SIZES[model]
    assert main(["count", model]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.endswith(f", {total:,} parameters")
    page = (Path(__file__).parents[2] / "docs/how-to/transformers.md").read_text()
    assert f"{model} ({total:,})" in page
    one = 2 * 60 * width + 60 + width  # of a bottleneck
    for row in rows:
        placement, adapters, mid_dim, parameters, _ = row.split()
        expected = text_blocks if placement.startswith("text_") and placement != "text_attn1i-text_attn1i" else blocks
        expected = {"dualo": 13, "joint": 38}.get(placement[:5], expected)
        assert (int(adapters), mid_dim, parameters) == (expected, "60", f"{expected * one:,}"), row
        assert f"| {expected} | {expected * one:,} |" in page
    assert main(["count", model, "--params", "1511040"]) == 0
    for row in capsys.readouterr().out.splitlines()[2:]:
        _, adapters, mid_dim, parameters, _ = row.split()
        assert abs(int(parameters.replace(",", "")) - 1_511_040) <= int(adapters) * width
        assert f"| {int(mid_dim)} |" in page


def test_count_of_a_folder_with_projections_and_of_what_is_none(model, capsys):
    path, unet = model
    assert main(["count", str(path), "--mid-dim", "2", "--projections"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in rows if "." not in row.split()[0]] == [*PLACEMENTS]
    assert len(rows) == 20 + 10
    key = next(row.split() for row in rows if row.startswith("attn2.k-attn2.k"))
    layers = [layer for name, layer in unet.named_modules() if name.endswith("attn2.to_k")]
    parameters = sum(2 * (layer.in_features + layer.out_features) for layer in layers)  # LoRA of rank 2
    assert key[1:4] == [str(len(layers)), "2", f"{parameters:,}"]
    with pytest.raises(ValueError, match=r"neither one of sd14, .*pixart_sigma nor a folder"):
        main(["count", "sd99"])
