"""The build step of a wheel: conf/, train.py and evaluate.py go where sdpet/files/project.py looks for them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithProject(build_py):
    """Copies the package, then what stands beside it in a checkout; an editable install needs no copy."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "sdpet", "_project")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        shutil.copytree("conf", target / "conf")  # the link conf/sweeps becomes a folder of files
        for script in ("train.py", "evaluate.py"):
            shutil.copy2(script, target)


setup(cmdclass={"build_py": BuildWithProject})
