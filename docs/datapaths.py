"""Draws the datapath of each family of blocks with the positions on it: `python docs/datapaths.py` writes docs/images.

Full dots are positions that can be written, open ones can only be read; the tables of sdpet.adapters say which.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sdpet.adapters.tables import TABLES

IMAGES = Path(__file__).parent / "images"
STEP, LEFT, BRANCH = 250, 70, 62  # px: from one addition to the next, to the first, from the stream up to a branch


class Stage(NamedTuple):
    """A branch of the stream: what it is, the positions of its output and of what else it reads, and the stream after.

    With `gate`, its output is multiplied by a gate before it is added.
    """

    label: str
    out: str
    after: str
    gate: bool = False
    context: str = ""


class Stream(NamedTuple):
    """One line of the drawing: its name, the position where it begins, and its branches."""

    label: str
    start: str
    stages: tuple[Stage, ...]


def _joint(prefix: str, label: str, dual: bool = False) -> Stream:
    attention = Stage("joint attention", f"{prefix}attn1o", "" if dual else f"{prefix}ffni", True)
    second = (Stage("image attention", "dualo", "ffni", True),) if dual else ()
    feed_forward = Stage("feed-forward", f"{prefix}ffno", f"{prefix}transo", True)
    return Stream(label, f"{prefix}attn1i", (attention, *second, feed_forward))


def _cross(gate: bool) -> Stream:
    return Stream("image", "attn1i", (
        Stage("self-attention", "attn1o", "attn2i", gate),
        Stage("cross-attention", "attn2o", "ffni", context="attn2c"),
        Stage("feed-forward", "ffno", "transo", gate),
    ))  # fmt: skip


DRAWINGS: dict[str, tuple[str, tuple[Stream, ...]]] = {
    "unet": ("UNet: transformer block, ResBlock", (
        _cross(gate=False), Stream("feature map", "resi", (Stage("convolutions", "", "reso"),)),
    )),
    "joint": ("SD3, Flux (double blocks), Qwen-Image", (_joint("", "image"), _joint("text_", "text"))),
    "dual": ("SD3.5 medium, blocks with two attentions (both read the stream where the block begins)", (
        _joint("", "image", dual=True), _joint("text_", "text"),
    )),
    "single": ("Flux, single blocks: text and image are one sequence, and an MLP runs beside attention", (
        Stream("text, image", "joint_attn1i", (Stage("attention", "joint_attn1o", "joint_transo", True),)),
    )),
    "cross": ("PixArt, Sana, Wan", (_cross(gate=True),)),
}  # fmt: skip


def positions(name: str) -> list[str]:
    """All positions on a drawing."""
    streams = DRAWINGS[name][1]
    found = [s.start for s in streams] + [p for s in streams for t in s.stages for p in (t.out, t.after, t.context)]
    return [position for position in found if position]


def svg(name: str) -> str:
    """The drawing as SVG."""
    title, streams = DRAWINGS[name]
    width = max(680, LEFT + STEP * max(len(stream.stages) for stream in streams) + 110)
    height = 60 + 150 * len(streams)
    parts = [_text(20, 24, title, "start", "font-weight='bold'")]
    for number, stream in enumerate(streams):
        parts += _stream(stream, 60 + 150 * number + 90, width)
    body = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"font-family='sans-serif' font-size='13'>\n<title>{title}</title>\n"
        f"<rect width='{width}' height='{height}' fill='white'/>\n{body}\n</svg>\n"
    )


def _stream(stream: Stream, y: int, width: int) -> list[str]:
    parts = [_line(20, y, width - 20, y, 2), _text(20, y + 36, stream.label, "start", "font-style='italic'")]
    parts.append(_dot(LEFT - 20, y, stream.start))
    for number, stage in enumerate(stream.stages):
        x, up = LEFT + 30 + STEP * number, y - BRANCH
        parts += [_line(x, y, x, up), _line(x, up, x + 170, up), _line(x + 170, up, x + 170, y)]
        label = _text(x + 68, up + 5, stage.label)
        parts += [
            f"<rect x='{x + 10}' y='{up - 16}' width='116' height='32' rx='4' fill='#eef' stroke='black'/>",
            label,
        ]
        if stage.context:
            parts += [_line(x + 68, up - 44, x + 68, up - 16), _dot(x + 68, up - 36, stage.context, dx=34)]
        if stage.out:
            parts.append(_dot(x + 148, up, stage.out, dy=-22))
        if stage.gate:
            parts.append(_operation(x + 170, up + 24, "×"))
        parts.append(_operation(x + 170, y, "+"))
        if stage.after:
            parts.append(_dot(x + 198, y, stage.after))
    return parts


def _writable(position: str) -> bool:
    return any((place := table.place(position)) is not None and bool(place.writes) for table in TABLES)


def _dot(x: int, y: int, position: str, dx: int = 0, dy: int = 20) -> str:
    fill = "#c33" if _writable(position) else "white"
    name = _text(x + dx, y + (4 if dx else dy), position, extra="fill='#a00'")
    return f"<circle cx='{x}' cy='{y}' r='5' fill='{fill}' stroke='#c33' stroke-width='2'/>{name}"


def _operation(x: int, y: int, sign: str) -> str:
    return f"<circle cx='{x}' cy='{y}' r='9' fill='white' stroke='black'/>{_text(x, y + 5, sign)}"


def _line(x1: int, y1: int, x2: int, y2: int, width: int = 1) -> str:
    return f"<path d='M{x1} {y1}L{x2} {y2}' stroke='black' stroke-width='{width}'/>"


def _text(x: int, y: int, words: str, anchor: str = "middle", extra: str = "") -> str:
    return f"<text x='{x}' y='{y}' text-anchor='{anchor}' {extra}>{words}</text>"


if __name__ == "__main__":
    for drawing in DRAWINGS:
        (IMAGES / f"datapath-{drawing}.svg").write_text(svg(drawing), encoding="utf-8")
