"""Scorers against plain computations with random weights of the true architectures, from files on this machine."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from sdpet.scoring import DinoScorer, InceptionScorer, LpipsScorer, Scorers, clip_i, clip_t, distances, load_scorers


@pytest.fixture(scope="module")
def pictures():
    """Four crops uint8 (4, 96, 96, 3) of photographs that ship with scikit-image."""
    places = [(0, 180), (100, 40)]
    return np.stack([p[y : y + 96, x : x + 96] for p in (data.astronaut(), data.chelsea()) for y, x in places])


def channels_first(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Inception v3's file with random weights: convolutions with unit gain, so that features do not vanish."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, **more):  # it insists on a file before there is one
            return None

    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Blank("inception-v3-compat", ["2048"], str(file))
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        torch.save(network.state_dict(), file)
    return file


def test_inception_gives_torch_fidelitys_features_and_clean_fids_resizing(inception_file, pictures):
    from cleanfid.resize import make_resizer
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_file))
    resize = make_resizer("PIL", True, "bicubic", (299, 299))
    sized = np.stack([resize(image) for image in pictures])
    scorer = InceptionScorer(str(inception_file))
    features = scorer.encode_raw(channels_first(pictures))
    torch.testing.assert_close(features, network(channels_first(sized))[0], rtol=1e-5, atol=1e-6)
    original = InceptionScorer(str(inception_file), resize="original")
    old = original.encode_raw(channels_first(pictures))
    torch.testing.assert_close(old, network(channels_first(pictures))[0], rtol=1e-5, atol=1e-6)
    assert (old - features).abs().max() > 1e-3 * features.abs().max(), "the two ways of resizing differ"
    assert original.preparation["resize"] != scorer.preparation["resize"]
    three = torch.stack([features.double()[:2], features.double()[2:]])
    assert distances.frechet(*three) > 10 * distances.frechet(three[0], three[0].flip(0))
    with pytest.raises(ValueError, match="do not exist"):
        InceptionScorer("/nowhere/inception.pth")
    with pytest.raises(ValueError, match="antialiased or original"):
        InceptionScorer(str(inception_file), resize="nearest")


def test_dino_is_the_class_token_of_the_vision_transformer(tmp_path, pictures):
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    small = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTModel(ViTConfig(**small, patch_size=16), add_pooling_layer=False).save_pretrained(tmp_path / "dino")
        Dinov2Model(Dinov2Config(**small, patch_size=14)).save_pretrained(tmp_path / "dinov2")
    pixels = []
    for picture in pictures:  # 96 x 96: the shortest side to 256, then the centre
        large = np.asarray(Image.fromarray(picture).resize((256, 256), Image.Resampling.BICUBIC))[16:240, 16:240]
        pixels.append((large / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    values = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    for name, kind in {"dino": ViTModel, "dinov2": Dinov2Model}.items():
        network = kind.from_pretrained(tmp_path / name, **({"add_pooling_layer": False} if name == "dino" else {}))
        with torch.no_grad():
            tokens = network.eval()(pixel_values=values).last_hidden_state[:, 0].double()
        scorer = DinoScorer(str(tmp_path / name))
        unit = tokens / tokens.norm(dim=1, keepdim=True)
        found = clip_i(pictures[:2], pictures[2:], Scorers({"dino": scorer}), "dino")
        assert found == pytest.approx(float((unit[:2] @ unit[2:].T).mean()), abs=1e-6)
    with pytest.raises(ValueError, match=r"could not be fetched or read .*; give a folder"):
        DinoScorer(str(tmp_path))


def test_lpips_as_its_paper_writes_it(tmp_path, pictures):
    """Unit-length channels of five layers of AlexNet; squared differences weighted, summed, averaged over places."""
    from torchmetrics.functional.image import lpips
    from torchvision.models import alexnet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = alexnet(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    linear = torch.load(Path(inspect.getfile(lpips)).parent / "lpips_models" / "alex.pth", "cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x = [(channels_first(side) / 127.5 - 1 - shift) / scale for side in (pictures[:2], pictures[2:])]
    expected = torch.zeros(2)
    with torch.no_grad():
        for number, layer in enumerate(network.features):
            x = [layer(side) for side in x]
            if number in (1, 4, 7, 9, 11):
                unit = [side / side.norm(dim=1, keepdim=True) for side in x]
                weight = linear[f"lin{(1, 4, 7, 9, 11).index(number)}.model.1.weight"]
                expected += ((unit[0] - unit[1]) ** 2 * weight).sum(dim=1).mean(dim=(1, 2))
    scorer = LpipsScorer("alex", str(tmp_path / "alexnet.pth"))
    torch.testing.assert_close(scorer.distances(pictures[:2], pictures[2:]).float(), expected, rtol=1e-4, atol=1e-6)
    assert scorer.distances(pictures, pictures).abs().max() < 1e-6
    with pytest.raises(ValueError, match="could not be fetched or read"):
        LpipsScorer("alex", str(tmp_path / "gone.pth"))


@pytest.mark.slow
def test_clip_vit_b_32_against_open_clip_and_transformers(tmp_path, pictures):
    """CLIP-I and the CLIP score with random weights: open_clip's own pipeline, and transformers' image tower."""
    import open_clip
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from sdpet.scoring import OpenClipScorer

    name, texts = "ViT-B-32-quickgelu", ["a photo of a cat", "an astronaut"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip, _, preprocess = open_clip.create_model_and_transforms(name)
    clip.eval()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])
        raw = clip.encode_image(pixels)
        image = raw / raw.norm(dim=1, keepdim=True)
        text = clip.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True)
    scorer = OpenClipScorer(name, str(tmp_path / "clip.pt"))
    assert clip_i(pictures[:2], pictures[2:], scorer) == pytest.approx(
        float((image[:2] @ image[2:].T).mean()), abs=1e-6
    )
    found = clip_t(pictures[:2], texts, scorer)
    assert found == pytest.approx(float((image[:2] * text).sum(1).mean()), abs=1e-6)
    torch.testing.assert_close(Scorers.of(scorer).features("clip", pictures, raw=True).float(), raw)

    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=512, hidden_act="quick_gelu")).eval()
    own, ours = clip.visual.state_dict(), {}
    ours["vision_model.embeddings.class_embedding"] = own["class_embedding"]
    ours["vision_model.embeddings.patch_embedding.weight"] = own["conv1.weight"]
    ours["vision_model.embeddings.position_embedding.weight"] = own["positional_embedding"]
    ours["visual_projection.weight"] = own["proj"].T
    for theirs, mine in {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}.items():
        ours |= {f"vision_model.{theirs}.{end}": own[f"{mine}.{end}"] for end in ("weight", "bias")}
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for layer in range(12):
        theirs, mine = f"vision_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for end in ("weight", "bias"):
            ours |= {f"{theirs}.{a}.{end}": own[f"{mine}.{b}.{end}"] for a, b in parts.items()}
            ours[f"{theirs}.self_attn.out_proj.{end}"] = own[f"{mine}.attn.out_proj.{end}"]
            joint = own[f"{mine}.attn.in_proj_{end}"].chunk(3)
            ours |= {f"{theirs}.self_attn.{k}_proj.{end}": part for k, part in zip("qkv", joint, strict=True)}
    unknown = tower.load_state_dict(ours, strict=False)
    assert not unknown.unexpected_keys and set(unknown.missing_keys) <= {"vision_model.embeddings.position_ids"}
    with torch.no_grad():
        torch.testing.assert_close(tower(pixel_values=pixels).image_embeds, raw, rtol=1e-4, atol=1e-5)


def test_a_scorer_that_cannot_be_had_is_missing_and_never_replaced():
    def gone():
        raise ValueError("its weights are gone")

    found = load_scorers({"clip": lambda: "the scorer", "dino": gone}, strict=False)
    assert "dino" not in found and found.missing == {"dino": "its weights are gone"} and found["clip"] == "the scorer"
    with pytest.raises(ValueError, match="the scorer dino is not available: its weights are gone"):
        load_scorers({"clip": lambda: "the scorer", "dino": gone}, strict=True)
    with pytest.raises(ValueError, match="none of the scorers dino"):
        load_scorers({"dino": gone}, strict=False)
