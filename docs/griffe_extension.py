"""For mkdocstrings: the reference of a package lists the names of its face, and examples become blocks of code.

A face is what a package's `__init__` offers. The light packages name it in a stub for lazy_loader, as
`from .file import name as name`. Griffe treats every imported name as private by default.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?m)^>>> .*(?:\n(?!\s*$).*)*")  # from a prompt to the next empty line
EXAMPLES_SECTION = re.compile(r"(?m)^Examples\n-+$")  # griffe reads the examples of such a section itself


class Reference(griffe.Extension):
    def on_alias_instance(self, *, alias: griffe.Alias, node: Any, **more: Any) -> None:
        """Make public what a face names: `import name as name`."""
        if isinstance(node, ast.ImportFrom) and any(alias.name == name.name == name.asname for name in node.names):
            alias.public = True

    def on_object(self, *, obj: griffe.Object, **more: Any) -> None:
        """Show examples in free text as code, not as quotations."""
        if obj.docstring and not EXAMPLES_SECTION.search(obj.docstring.value):
            obj.docstring.value = EXAMPLE.sub(lambda found: f"\n```pycon\n{found[0]}\n```\n", obj.docstring.value)

    def on_module_members(self, *, mod: griffe.Module, **more: Any) -> None:
        """Add the names that `analysis` imports when they are first used, from its table of names and modules."""
        table = mod.members.get("_MODULE_OF")
        if mod.path == "analysis" and table is not None:
            for name, module in ast.literal_eval(str(table.value)).items():
                mod.set_member(name, griffe.Alias(name, f"analysis.{module}.{name}", parent=mod))

    def on_package(self, *, pkg: griffe.Module, **more: Any) -> None:
        """Show constants of a face that have no docstring: mkdocstrings leaves out what has none."""
        for module in [pkg, *(child for child in pkg.modules.values() if child.is_init_module)]:
            for member in module.members.values():
                if constant := _constant(member):
                    constant.docstring = griffe.Docstring(f"A constant of `{constant.module.path}`.", parent=constant)


def _constant(member: Any) -> Any:
    """The public constant without a docstring that this is, or None."""
    try:
        found = member.final_target if member.is_alias else member
    except griffe.AliasResolutionError:  # of another library, or assigned in a way that griffe does not follow
        return None
    return found if member.is_public and found.is_attribute and not found.has_docstring else None
