"""What tests share: a base model of the lab's architecture with random weights, and a scorer to match."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

LONGEST = (  # files, by measured time; with several workers these come first, so that none is left with a long one
    "test_study", "test_notebooks", "test_launchers", "test_chaos", "test_released", "test_fleet_size", "test_progress",
    "test_report", "test_analysis_saying", "test_examples", "test_main_line", "test_copies", "test_own_parts",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all else stays in order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers pipeline folder: the lab's networks, untrained, in float32."""
    import torch

    from sdpet.lab import architecture

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = architecture.build_tokenizer()
        folder = tmp_path_factory.mktemp("tiny") / "pipeline"
        architecture.save_pipeline(
            folder,
            vae=architecture.build_vae(),
            unet=architecture.build_unet(),
            text_encoder=architecture.build_text_encoder(tokenizer),
            tokenizer=tokenizer,
            half=False,
        )
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_folder: Path):
    """A loaded BaseModel with random weights, shared by the session: detach whatever you attach."""
    import torch

    from sdpet.models import load_base

    torch.set_num_threads(1)
    return load_base("tiny", tiny_folder)


@pytest.fixture(scope="session")
def tiny_scorer():
    """A scorer with random weights and the lab scorer's interface."""
    import torch

    from sdpet.lab import architecture

    class TinyScorer:
        name, weight_hash = "tiny", "0" * 32

        def __init__(self):
            self.tokenizer = architecture.build_tokenizer()
            self.clip = architecture.build_clip(architecture.clip_config(self.tokenizer)).eval()

        @torch.no_grad()
        def encode_image(self, images):
            pixels = torch.nn.functional.interpolate(images.float() / 255, size=64, mode="bilinear")
            return self.clip.encode_image(pixels, normalize=True)

        @torch.no_grad()
        def encode_text(self, texts):
            ids = self.tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
            return self.clip.encode_text(ids.input_ids, normalize=True)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyScorer()


@pytest.fixture(scope="session")
def subject_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders subject (5 images), class (8) and heldout (6) of coloured noise squares, 32 x 32."""
    from PIL import Image

    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    folders = {}
    for name, count, color in (
        ("subject", 5, (255, 40, 150)),
        ("class", 8, (20, 160, 40)),
        ("heldout", 6, (255, 40, 150)),
    ):
        folders[name] = root / name
        folders[name].mkdir()
        for i in range(count):
            image = rng.integers(0, 60, (32, 32, 3)) + 100
            x, y = rng.integers(0, 16, 2)
            image[y : y + 16, x : x + 16] = color
            Image.fromarray(image.astype(np.uint8)).save(folders[name] / f"{i:02d}.png")
    return folders


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports whose figures are made but whose files stay blank, for tests of words: most of a report is drawing."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    def savefig(self, file, **more) -> None:
        if isinstance(file, Path):
            file.touch()
        else:
            file.write('<svg width="480pt"></svg>')

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)
