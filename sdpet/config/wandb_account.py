"""Check before any work whether this machine is logged in to W&B."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@cache
def has_account() -> bool:
    """Whether this machine is logged in to W&B (`wandb login`, or WANDB_API_KEY). This does not use the network."""
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        return bool(wandb.login(prompt=False, verify=False))
    finally:
        wandb.teardown()  # otherwise child processes would share this process's W&B service
