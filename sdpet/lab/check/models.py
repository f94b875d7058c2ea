"""The lab's base models, as they are checked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LabModel:
    """A base model of the lab, and the study that checks it.

    Parameters
    ----------
    overrides : tuple of str
        The config overrides that select it.
    name : str
        Its name in `load_base`.
    pooled : bool
        Whether it gets pooled text.
    guidance : float
        Strength of guidance of the judged samples.
    sweep : str
        The sweep of its placements.
    placements : int
        Their number.
    study : str
        Default name of the study's folder.
    """

    overrides: tuple[str, ...] = ("unet=lab",)
    name: str = "lab"
    pooled: bool = True
    guidance: float = 2.5
    sweep: str = "placement"
    placements: int = 20
    study: str = "lab_check"


_UNET = LabModel()
_TRANSFORMERS = [
    LabModel(
        ("unet=lab_dit", f"unet.pooled={str(pooled).lower()}"), "lab_dit", pooled, 1.5, "placement_dit", 16,
        "lab_check_dit" if pooled else "lab_check_dit_without_pooled",
    )
    for pooled in (True, False)
]  # fmt: skip
# by the overrides on the command line, sorted
CHECKED: dict[tuple[str, ...], LabModel] = {
    (): _UNET,
    ("unet=lab",): _UNET,
    ("unet=lab_dit",): _TRANSFORMERS[0],
    **{tuple(sorted(model.overrides)): model for model in _TRANSFORMERS},
}
