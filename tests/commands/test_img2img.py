"""`sdpet img2img` from the command line to the files."""

import json

import numpy as np
import pytest
from PIL import Image
from scripts_tools import decoded, names, pictures, sdpet
from test_txt2img import make_checker

from sdpet.commands.scripts.init_image import fitted


@pytest.fixture
def fast(tiny_folder):
    return ["img2img", "--model", tiny_folder, "--ddim_steps", 4, "--quiet", "--n_samples", 1]


@pytest.fixture
def photo(tmp_path):
    """A file of 48 x 32 pixels (W x H) whose corners differ."""
    pixels = np.linspace(0, 255, 32 * 48 * 3).reshape(32, 48, 3).astype(np.uint8)
    pixels[:8, :8] = (250, 20, 20)
    file = tmp_path / "photo.png"
    Image.fromarray(pixels).save(file)
    return file


def test_the_lab_recolours_an_image(tmp_path):
    """A red star becomes a green one in the same place; the background, which the prompt leaves open, stays."""
    from sdpet.lab import COLORS, SHAPES, load_judge

    lab = ["--model", "lab", "--quiet", "--ddim_steps", 20]
    prompt = "a photo of a red star on a pink background"
    assert sdpet("txt2img", *lab, "--prompt", prompt, "--outdir", tmp_path / "a", "--n_iter", 1, "--n_samples", 1) == 0
    init = tmp_path / "a" / "samples" / "00000.png"
    common = [*lab, "--init-img", init, "--prompt", "a photo of a green star on a pink background", "--n_samples", 3]
    assert sdpet("img2img", *common, "--outdir", tmp_path / "b") == 0
    images = pictures(tmp_path / "b")
    answers = load_judge().judge(images)
    assert set(answers["shape"]) == {SHAPES.index("star")} and set(answers["color"]) == {list(COLORS).index("green")}
    assert names(tmp_path / "b") == ["grid-0000.png", *[f"samples/0000{i}.png" for i in range(3)]]
    weak = [*common, "--strength", 0.1, "--outdir", tmp_path / "c", "--n_samples", 1]
    assert sdpet("img2img", *weak) == 0
    red = np.asarray(Image.open(init)).astype(int)
    assert abs(pictures(tmp_path / "c")[0] - red).mean() < abs(images[0] - red).mean()


@pytest.mark.parametrize(("strength", "steps"), [(0, 0), (0.24, 0), (0.25, 1), (0.75, 3), (1.0, 4)])
def test_strength_is_a_number_of_steps(fast, photo, tmp_path, monkeypatch, strength, steps):
    from sdpet.models import BaseModel

    seen, predict = [], BaseModel.predict
    monkeypatch.setattr(
        BaseModel, "predict", lambda self, x, t, *more: seen.append(int(t)) or predict(self, x, t, *more)
    )
    assert sdpet(*fast, "--init-img", photo, "--strength", strength, "--outdir", tmp_path / "out") == 0
    assert seen == [751, 501, 251, 1][4 - steps :]


def kept(fast, file, tmp_path, size):
    """What strength 0 makes of a file: uint8 (H, W, 3), the image through the autoencoder."""
    assert sdpet(*fast, "--init-img", file, "--strength", 0, "--outdir", tmp_path / "kept", "--skip_grid") == 0
    image = pictures(tmp_path / "kept")[-1]
    assert image.shape == (*size, 3)
    return image


def test_strength_0_is_the_image_through_the_autoencoder(fast, photo, tmp_path, tiny_base):
    through = tiny_base.through_vae(np.array(Image.open(photo))[None])[0]
    np.testing.assert_array_equal(kept(fast, photo, tmp_path, (32, 48)), through)


def test_images_of_any_kind(fast, photo, tmp_path, tiny_base):
    pixels = np.array(Image.open(photo))
    plain = kept(fast, photo, tmp_path, (32, 48))

    turned = Image.fromarray(np.rot90(pixels))  # stored on its side, with the EXIF entry that says so
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(kept(fast, tmp_path / "turned.png", tmp_path, (32, 48)), plain)

    clear = np.concatenate([pixels, np.full((32, 48, 1), 255, np.uint8)], axis=2)
    clear[8:, :, 3] = 0  # transparent below row 8, whatever colour is stored there
    over_white = pixels.copy()
    over_white[8:] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    expected = tiny_base.through_vae(over_white[None])[0]
    np.testing.assert_array_equal(kept(fast, tmp_path / "clear.png", tmp_path, (32, 48)), expected)

    gray = (np.arange(32 * 48).reshape(32, 48) * 40).astype(np.uint16)
    Image.fromarray(gray).save(tmp_path / "deep.png")
    eight = np.repeat((gray / 257).round().astype(np.uint8)[..., None], 3, axis=2)
    expected = tiny_base.through_vae(eight[None])[0]
    np.testing.assert_array_equal(kept(fast, tmp_path / "deep.png", tmp_path, (32, 48)), expected)

    Image.fromarray(pixels).convert("P").save(tmp_path / "palette.gif")
    kept(fast, tmp_path / "palette.gif", tmp_path, (32, 48))
    Image.fromarray(pixels).resize((63, 47)).save(tmp_path / "odd.jpg")
    kept(fast, tmp_path / "odd.jpg", tmp_path, (32, 48))  # down to multiples of 16, 4 latents of this model


@pytest.mark.parametrize(("content", "words"), [(None, "does not exist"), (b"no image", "cannot be read")])
def test_files_that_are_no_image(fast, tmp_path, capsys, content, words):
    file = tmp_path / "broken.png"
    if content is not None:
        file.write_bytes(content)
    assert sdpet(*fast, "--init-img", file, "--outdir", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert words in error and "broken.png" in error and error.count("\n") == 1


def test_other_errors(fast, photo, tmp_path, capsys):
    Image.open(photo).crop((0, 0, 48, 12)).save(tmp_path / "flat.png")
    assert sdpet(*fast, "--init-img", tmp_path / "flat.png", "--outdir", tmp_path / "out") == 1
    assert "48 x 12 pixels; this model needs at least 16 x 16" in capsys.readouterr().err
    photo.write_bytes(photo.read_bytes()[:-60])  # cut off
    assert sdpet(*fast, "--init-img", photo, "--outdir", tmp_path / "out") == 1
    assert "cannot be read" in capsys.readouterr().err
    assert sdpet(*fast, "--init-img", photo, "--strength", 1.5) == 2
    assert "from 0 to 1" in capsys.readouterr().err
    assert sdpet(*fast) == 2
    assert "--init-img" in capsys.readouterr().err


def test_marked_and_checked_as_well(fast, photo, tmp_path, capsys):
    Image.open(photo).resize((256, 256)).save(tmp_path / "large.png")
    common = [*fast, "--init-img", tmp_path / "large.png", "--strength", 0.25]
    assert sdpet(*common, "--outdir", tmp_path / "out", "--safety-checker", make_checker(tmp_path / "ok", 2.0)) == 0
    for file in names(tmp_path / "out"):
        assert decoded(tmp_path / "out" / file) == b"StableDiffusionV1"
    assert sdpet(*common, "--outdir", tmp_path / "no", "--safety-checker", make_checker(tmp_path / "strict", -2.0)) == 0
    assert pictures(tmp_path / "no").max() < 60, "black, but for the watermark"
    assert "withheld" in capsys.readouterr().err


def test_all_samplers_begin_with_an_image(fast, photo, tmp_path):
    """PLMS, which the public script does not have here, comes close to DDIM where steps are many."""
    common = [*fast, "--init-img", photo, "--ddim_steps", 40, "--strength", 0.5]
    assert sdpet(*common, "--outdir", tmp_path / "ddim") == 0
    assert sdpet(*common, "--outdir", tmp_path / "plms", "--plms") == 0
    difference = abs(pictures(tmp_path / "ddim").astype(int) - pictures(tmp_path / "plms"))
    assert difference.max() > 0 and difference.mean() < 2
    assert sdpet(*common, "--outdir", tmp_path / "dpm", "--dpm_solver") == 0
    difference = abs(pictures(tmp_path / "ddim").astype(int) - pictures(tmp_path / "dpm"))
    assert difference.max() > 0 and difference.mean() < 4


def test_sizes_and_what_the_file_says(fast, photo, tmp_path):
    common = [*fast, "--init-img", photo, "--strength", 0.25]
    for number, (given, size) in enumerate(
        [((), (32, 48)), (("--W", 96), (64, 96)), (("--H", 16), (16, 16)), (("--H", 64, "--W", 64), (64, 64))]
    ):
        out = tmp_path / str(number)
        assert sdpet(*common, *given, "--outdir", out) == 0
        assert pictures(out)[0].shape == (*size, 3)
        text = json.loads(Image.open(out / "samples" / "00000.png").text["sdpet"])
        assert (text["height"], text["width"]) == size and text["strength"] == 0.25
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 200
    assert (fitted(wide, 16, 32, 32) == 200).all()  # the middle, not squeezed
