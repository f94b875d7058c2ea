"""Example: python -m sdpet.lab.subjects outputs/subjects_of_the_lab

Draws six subjects that the lab's base models never saw, one of each shape, in the layout of the public DreamBooth data
set: a folder of five photos for each, and prompts_and_classes.txt. All have an outline and two halves in colours
without a name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sdpet.lab.world import BACKGROUNDS, SUBJECT_LEFT, SUBJECT_RIGHT, SUBJECT_SHAPE

PHOTOS = 5
# Name -> shape, and the colours of its halves.
SUBJECTS = {
    "pink_star": (SUBJECT_SHAPE, SUBJECT_LEFT, SUBJECT_RIGHT),
    "mint_cross": ("cross", (140, 230, 180), (120, 10, 40)),
    "salmon_ring": ("ring", (250, 130, 110), (20, 20, 110)),
    "sky_square": ("square", (110, 170, 250), (120, 120, 20)),
    "lime_triangle": ("triangle", (170, 225, 40), (90, 60, 160)),
    "olive_circle": ("circle", (140, 140, 60), (250, 150, 230)),
}


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        "python -m sdpet.lab.subjects", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the subjects are written")
    folder = parser.parse_args().folder
    write_subjects(folder)
    print(f"{len(SUBJECTS)} subjects: python train.py -m +sweeps=subjects data.root={folder} data.class_images=64")


def write_subjects(folder: Path) -> None:
    """Write the subjects and the file that lists them.

    Parameters
    ----------
    folder : Path
        Created where missing. The subjects' folders in it are replaced.
    """
    from sdpet.lab.drawing import render, write_images
    from sdpet.lab.world import subject_scenes

    for number, (name, (shape, left, right)) in enumerate(SUBJECTS.items()):
        write_images(folder / name, render(subject_scenes(PHOTOS, 51 + 10 * number, shape, left, right)))
    classes = "\n".join(f"{name},{shape}" for name, (shape, _, _) in SUBJECTS.items())
    said = [f"a photo of a {{0}} {{1}} on {'an' if g[0] in 'aeiou' else 'a'} {g} background" for g in BACKGROUNDS]
    prompts = "\n".join(f"'{text}'.format(unique_token, class_token)," for text in said)
    text = f"Classes\nsubject_name,class\n{classes}\n\nPrompts\n\nObject Prompts\nprompt_list = [\n{prompts}\n]\n"
    (folder / "prompts_and_classes.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
