"""The error of a combination of levels that cannot be."""

from __future__ import annotations


class InadmissibleCell(ValueError):
    """Each level exists, but their combination does not, such as a task with data of another kind.

    A sweep leaves such cells out.

    Parameters
    ----------
    sentence : str
        The error message.
    cell : str
        A short name of the combination, for the report of a sweep.
    """

    def __init__(self, sentence: str, cell: str) -> None:
        super().__init__(sentence)
        self.cell = cell
