"""Checks of a design: the groups adapter and form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdpet.adapters.positions import PLACEMENTS, check_placement, component
from sdpet.choices import DEFAULT_FORM, FILE_METHOD, FORMS, LORA_FILE_DESIGN, TEXT_METHODS, check_peft_options
from sdpet.config.cells import InadmissibleCell

FORM = ("din", "dout", "activation", "scale", "init")
PEFT_KEYS = ("targets", "options")
METHOD_KEYS = {
    "full": (),
    "lora": ("mid_dim", "params", "scale"),
    "embedding": (),
    "dora": ("mid_dim", "params", "scale", "targets", "options"),
    "lokr": ("mid_dim", "params", "scale", "targets", "options"),
    "loha": ("mid_dim", "params", "scale", "targets", "options"),
    "oft": ("mid_dim", "params", "targets", "options"),
    "ia3": ("targets", "options"),
    "vera": ("mid_dim", "params", "targets", "options"),
    FILE_METHOD: ("file",),
}  # the keys of the group adapter that a method takes; method adapter takes all of them


def check_design(adapter: dict[str, Any], form: dict[str, Any]) -> None:
    """Raise ValueError unless the keys of the method and its form are there, and go together."""
    method = adapter["method"]
    takes = METHOD_KEYS.get(method, (*FORM, "mid_dim", "params"))
    _check_extent(adapter, form)
    if method == "adapter" and form["name"] in FORMS:
        _check_form(adapter, form["name"])
        if "mid_dim" not in FORMS[form["name"]]:
            return
    elif method == "adapter":
        _check_own_form(adapter, form)
    keys = (*FORM, "mid_dim", "params", *PEFT_KEYS)
    given = [key for key in keys if adapter.get(key) is not None and key not in takes]
    if given:
        raise InadmissibleCell(
            f"method {method} takes no {given[0]}; set adapter.{given[0]}=null.",
            f"{method} with {given[0]} {adapter[given[0]]}",
        )
    optional = _optional_keys(adapter, form)
    missing = [key for key in FORM if adapter[key] is None and key in takes and key not in optional]
    if missing:
        raise InadmissibleCell(
            f"adapter.{missing[0]} must be given when adapter.method is {method}.",
            f"{form['name'] if method == 'adapter' else method} without {missing[0]}",
        )
    if adapter.get("options") is not None:
        check_peft_options(method, adapter["options"])
    if "params" not in takes:
        return
    if adapter["mid_dim"] is not None:
        adapter["params"] = None  # an explicit width overrides the default number of parameters


def _optional_keys(adapter: dict[str, Any], form: dict[str, Any]) -> set[str]:
    """Keys of a design that may be null."""
    without = {"din", "dout"} if adapter.get("placements") else set()
    return without | ({"activation"} if "activation" not in FORMS.get(form["name"], ()) else set())


def _check_extent(adapter: dict[str, Any], form: dict[str, Any]) -> None:
    """Check where and when adapters act. Several placements take the place of din and dout."""
    _check_where(adapter, form)
    _check_file(adapter)
    if adapter["method"] != "adapter":
        for key, neutral in (("placements", None), ("blocks", "all"), ("when", [0.0, 1.0])):
            if adapter.get(key, neutral) != neutral:
                raise InadmissibleCell(
                    f"method {adapter['method']} takes no adapter.{key}.", f"{adapter['method']} with {key}"
                )
        if form != {"name": DEFAULT_FORM}:
            raise InadmissibleCell(
                f"method {adapter['method']} takes no form; leave form out.", f"{adapter['method']} with {form['name']}"
            )
        return
    if several := adapter.get("placements"):
        one = several[0].split("-") if len(several) == 1 else (None, None)
        adapter |= {"placements": several if len(several) > 1 else None, "din": one[0], "dout": one[1]}
    placements = adapter.get("placements") or [f"{adapter['din']}-{adapter['dout']}"]
    if adapter["din"] is not None and adapter["dout"] is not None and placements[0] not in PLACEMENTS:
        try:
            check_placement(adapter["din"], adapter["dout"])
        except ValueError as error:
            raise InadmissibleCell(str(error), placements[0]) from None


def _check_file(adapter: dict[str, Any]) -> None:
    """Check that the file of method lora_file is there."""
    method, given = adapter["method"], adapter.get("file")
    if method != FILE_METHOD:
        if given is not None:
            raise InadmissibleCell(
                f"method {method} takes no adapter.file; set adapter.file=null.", f"{method} with file {given}"
            )
        return
    if given is None:
        raise ValueError(
            "adapter.file must be given when adapter.method is lora_file: adapter.file=FILE.safetensors, or the folder "
            "that sdpet adapters import-lora wrote."
        )
    path = Path(given).expanduser()
    if not (path / LORA_FILE_DESIGN).is_file() and not (path.suffix == ".safetensors" and path.is_file()):
        raise ValueError(
            f"adapter.file: {path} is no .safetensors file and no folder that sdpet adapters import-lora wrote."
        )


def _check_where(adapter: dict[str, Any], form: dict[str, Any]) -> None:
    """Check what goes with adapters in the text encoder, which knows no noise and whose tokens are no grid."""
    where, method = adapter.get("where", "unet"), adapter["method"]
    if where == "unet":
        return
    if method not in TEXT_METHODS:
        said = f"method {method} takes no adapter.where; the methods that do are {', '.join(TEXT_METHODS)}."
        raise InadmissibleCell(said, f"{method} with where {where}")
    for key, neutral in (("when", [0.0, 1.0]), *([("blocks", "all")] if where == "both" else [])):
        if adapter.get(key, neutral) != neutral:
            raise InadmissibleCell(
                f"adapter.{key} says something of the denoiser, so it does not go with adapter.where={where}; leave it "
                "out, or choose adapter.where=unet.",
                f"{key} with where {where}",
            )
    if form["name"] == "conv":
        said = f"form conv needs tokens on a grid, and with adapter.where={where} they are text."
        raise InadmissibleCell(said, f"conv with where {where}")


def _check_form(adapter: dict[str, Any], form: str) -> None:
    """Check what one of sdpet's forms takes."""
    for key in ("activation", "mid_dim", "params"):
        if adapter[key] is not None and ("mid_dim" if key == "params" else key) not in FORMS[form]:
            raise InadmissibleCell(
                f"form {form} takes no {key}; set adapter.{key}=null.", f"{form} with {key} {adapter[key]}"
            )
    placements = adapter.get("placements") or [f"{adapter['din']}-{adapter['dout']}"]
    text = [one for one in placements if one in PLACEMENTS and component(one) == "context"]
    if form == "conv" and text:
        said = f"form conv needs tokens on a grid, and at {text[0]} they are text."
        raise InadmissibleCell(said, f"conv at {text[0]}")


def _check_own_form(adapter: dict[str, Any], form: dict[str, Any]) -> None:
    """Check that the user's class can be imported and takes its options. It is the only reason to import torch here."""
    from sdpet.adapters.forms import check_class

    options = {key: value for key, value in form.items() if key not in ("name", "_target_")}
    check_class(form["_target_"], options, adapter["activation"])
