"""Share saved adapters on the Hugging Face hub, with a model card that is made from the run's record."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sdpet.adapters.format import DESIGN, WEIGHTS, read_saved
from sdpet.adapters.parts import UNET, where_of
from sdpet.adapters.spec import AdapterSpec
from sdpet.choices import WHERE_WORDS
from sdpet.runs.stored import untrusted_config

if TYPE_CHECKING:
    from sdpet.methods import PeftSpec
    from sdpet.runs.record import Record


def push_to_hub(
    folder: str | Path, repo_id: str, private: bool = False, license: str | None = None, samples: int = 4
) -> str:
    """Upload saved adapters to the hub: weights, design, model card and some sample images.

    Parameters
    ----------
    folder : str or Path
        A folder of saved adapters, such as that of a finished run.
    repo_id : str
        Name of the repository, "user/name".
    private : bool
        Whether a new repository is private.
    license : str, optional
        Licence of the weights, such as "openrail".
    samples : int
        Number of the run's sample images to upload.

    Returns
    -------
    str
        The address of the repository.

    Raises
    ------
    ValueError
        The folder holds no adapters, or the hub refuses the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    with tempfile.TemporaryDirectory() as upload:
        write_upload(folder, repo_id, Path(upload), license, samples)
        try:
            hub = HfApi()
            address = hub.create_repo(repo_id, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repo_id, folder_path=upload, commit_message="Upload adapters")
        except (HfHubHTTPError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{repo_id} could not be uploaded ({type(error).__name__}: {str(error).splitlines()[0]}); "
                "hf auth login logs in, and --dry-run OUT writes the files without uploading them."
            ) from error
    return str(address)


def write_upload(folder: str | Path, repo_id: str, out: Path, license: str | None = None, samples: int = 4) -> None:
    """Write the files that `push_to_hub` uploads into the folder `out`.

    Parameters
    ----------
    folder, repo_id, license, samples
        See `push_to_hub`.
    out : Path
        The folder to write to.

    Raises
    ------
    ValueError
        The folder holds no adapters, or `repo_id` is not of the form "user/name".
    """
    folder = Path(folder)
    saved = _saved(folder)
    if "/" not in repo_id.strip("/"):
        raise ValueError(f"the repository must be given as user/name, not {repo_id!r}.")
    out.mkdir(parents=True, exist_ok=True)
    for name in saved.files:
        shutil.copyfile(folder / name, out / name)
    shown = sorted((folder / "samples").glob("*.png"))[: max(0, samples)]
    if shown:
        (out / "samples").mkdir(exist_ok=True)
    for image in shown:
        shutil.copyfile(image, out / "samples" / image.name)
    text = card(
        repo_id, saved.spec, saved.parameters, record_of(folder), _unet(folder), license, [i.name for i in shown],
        saved.where,
    )  # fmt: skip
    (out / "README.md").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _Saved:
    """What a folder holds: its files, the design, the number of trained parameters, and the parts of the model."""

    files: tuple[str, ...]
    spec: AdapterSpec | PeftSpec
    parameters: int
    where: str


def _saved(folder: Path) -> _Saved:
    from sdpet.methods import PeftTuning, layer_sizes, read_peft

    if (folder / PeftTuning.DESIGN).is_file():
        peft, weights = read_peft(folder)
        files = (PeftTuning.FILE, PeftTuning.CONFIG, PeftTuning.DESIGN)
        sizes = layer_sizes(weights)
        return _Saved(files, peft, sum(sizes.values()), where_of(sizes))
    spec, tensors = read_saved(folder)
    return _Saved((WEIGHTS, DESIGN), spec, sum(value.numel() for value in tensors.values()), where_of(tensors))


def card(
    repo_id: str,
    spec: AdapterSpec | PeftSpec,
    parameters: int,
    record: Record | None,
    unet: dict[str, Any],
    license: str | None = None,
    samples: list[str] | None = None,
    where: str = UNET,
) -> str:
    """The model card: the design, its scores beside their reference scores, and how to load the adapters.

    Parameters
    ----------
    repo_id : str
        Name of the repository, "user/name".
    spec : AdapterSpec or PeftSpec
        The design.
    parameters : int
        Number of trained parameters.
    record : Record or None
        The record of the run, if there is one.
    unet : dict
        The group `unet` of the run's config, or {}.
    license : str, optional
        Licence of the weights.
    samples : list of str, optional
        File names of sample images.
    where : {"unet", "text_encoder", "both"}
        The parts of the model that are tuned.

    Returns
    -------
    str
        Markdown with a YAML header.
    """
    path = unet.get("path")
    hub_id = path if isinstance(path, str) and path.count("/") == 1 and not Path(path).exists() else None
    head: dict[str, Any] = {"tags": ["sdpet", "adapter", "text-to-image", "stable-diffusion", "diffusers"]}
    if hub_id:
        head["base_model"] = hub_id
    if license:
        head["license"] = license
    model = hub_id or unet.get("name") or "a model that the run does not name"
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "", f"# {repo_id.split('/')[-1]}", ""]
    what = "Adapters" if isinstance(spec, AdapterSpec) else spec.method
    lines += [f"{what} for {model}, trained with sdpet.", ""]
    lines += [f"![sample](samples/{name})" for name in samples or []] + [""] * bool(samples)
    lines += ["| | |", "|---|---|", *_design_rows(spec)]
    lines += [f"| parameters | {parameters:,} |"]
    if where in WHERE_WORDS:
        lines += [f"| where | {WHERE_WORDS[where]} |"]
    if record is not None:
        task = {key: value for key, value in record.task.items() if key != "data" and value is not None}
        named = {"name": "task"}
        lines += [f"| {named.get(key, key).replace('_', ' ')} | {value} |" for key, value in task.items()]
        lines += [f"| seed | {record.factors.get('seed')} |"]
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if version)
        lines += [f"| made with | {versions} |"]
        lines += ["", *_scores(record)] if record.metrics else []
    library, load = "from peft import PeftModel", "tuned = PeftModel.from_pretrained"
    target = "pipe.unet"
    if isinstance(spec, AdapterSpec):
        library, load = "from sdpet import load_adapters", "adapters = load_adapters"
        target = target if where == UNET else "pipe"
    elif where != UNET:
        library, target = f"{library}\nfrom sdpet.adapters import model_at", f'model_at(pipe, "{where}")'
    lines += ["", "```python", "from huggingface_hub import snapshot_download", library, ""]
    lines += [f'{load}({target}, snapshot_download("{repo_id}"))', "```", ""]
    return "\n".join(lines)


def _design_rows(spec: AdapterSpec | PeftSpec) -> list[str]:
    if isinstance(spec, AdapterSpec):
        form = f"| form | {spec.words}, scale {spec.scale:g} |"
        return [f"| reads, writes | {spec.placement.replace('-', ', ')} |", form]
    return [f"| method | {spec.words()} |"]


def _scores(record: Record) -> list[str]:
    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    rows = ["| score | | untuned model | real images |", "|---|---|---|---|"]
    for name, value in record.metrics.items():
        anchor = record.anchors.get(name, {})
        rows.append(f"| {name} | {shown(value)} | {shown(anchor.get('floor'))} | {shown(anchor.get('ceiling'))} |")
    return rows


def record_of(folder: Path) -> Record | None:
    """The record of the run in `folder`; None for adapters that were not saved by a run."""
    from sdpet.runs.record import FILE, Record

    return Record.read(folder) if (folder / FILE).is_file() else None


def _unet(folder: Path) -> dict[str, Any]:
    return asdict(untrusted_config(folder).unet) if (folder / "config.yaml").is_file() else {}
