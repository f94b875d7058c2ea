"""Lets Hydra find the studies of sweeps/ (`+sweeps=placement`) from any working directory."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class SweepsSearchPath(SearchPathPlugin):
    """Adds the folder that holds both conf/ and sweeps/, wherever train.py lies."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in list(search_path.get_path()):
            conf = Path((element.path or "").removeprefix("file://"))
            if element.provider == "main" and (conf.parent / "sweeps").is_dir():
                search_path.append(provider="sweeps", path=f"file://{conf.parent}")
