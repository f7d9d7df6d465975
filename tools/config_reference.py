"""Generates docs/configuration.md from frcnn/config/: every option with its type, range, default and meaning.

python tools/config_reference.py            write the page
python tools/config_reference.py --check    exit with 1 if the page is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.config import Config
from frcnn.config.schema import DETECTRON2_CONVENTIONS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEADER = """# Configuration

All options of a training run, for users who edit a recipe. `tools/config_reference.py` generates this page from
`frcnn/config/`. A recipe is a YAML file of these sections that contains what it changes; `KEY=VALUE` on the command
line overrides it:

    frcnn train --config configs/shapes_r18_fpn.yaml training.batch_size=8 image.min_size='[128, 160]'

An unknown option, a wrong type or a value out of range is an error before anything starts; the message names the
option, its value and what is allowed. The whole configuration of a run, defaults included, is saved as `config.yaml`
in its output folder and in its model folder.
"""

CONVENTIONS = """
## Conventions

Options that exist to reproduce another framework's numbers exactly from its weights. `conventions` chooses their
defaults; each can still be set. Leave them alone unless you start from such weights ([numerics.md](numerics.md)).

"""

COLUMNS = ("option", "type", "default", "meaning")
CONVENTION_COLUMNS = ("option", "type", "torchvision", "detectron2", "meaning")


def reference() -> str:
    """The whole page."""
    schema = Config.model_json_schema()
    page = _Page(schema["$defs"])
    page.add_section(schema, "", Config().model_dump(mode="json"))
    return HEADER + "".join(page.tables) + CONVENTIONS + _table(CONVENTION_COLUMNS, page.conventions)


class _Page:
    """Collects a table for each section, and the rows of the options that the conventions decide."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions = definitions
        self.tables: list[str] = []
        self.conventions: list[str] = []

    def add_section(self, section: dict[str, Any], name: str, defaults: dict[str, Any]) -> None:
        rows, subsections = [], []
        for option, field in section["properties"].items():
            full_name = f"{name}.{option}" if name else option
            if "$ref" in field:
                definition = self.definitions[field["$ref"].rpartition("/")[2]]
                subsections.append((definition, full_name, defaults[option]))
                continue
            cells = [f"`{option}`", _type(field), f"`{_default(defaults[option])}`", _cell(field["description"])]
            if full_name in DETECTRON2_CONVENTIONS:
                cells[0] = f"`{full_name}`"
                cells.insert(3, f"`{_default(DETECTRON2_CONVENTIONS[full_name])}`")
                self.conventions.append(f"| {' | '.join(cells)} |")
            else:
                rows.append(f"| {' | '.join(cells)} |")
        if rows:
            meaning = " ".join(section.get("description", "").replace("``", "`").split())
            self.tables.append(f"\n## {name or 'Top level'}\n\n" + (f"{meaning}\n\n" if name and meaning else ""))
            self.tables.append(_table(COLUMNS, rows))
        for subsection in subsections:
            self.add_section(*subsection)


def _table(columns: Sequence[str], rows: Sequence[str]) -> str:
    return "\n".join([f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *rows]) + "\n"


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(member) for member in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{str(value).lower()}`" for value in field["enum"])
    if field["type"] == "array":
        return _list_type(field)
    if field.get("format") == "path":
        return "path"
    return {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}[
        field["type"]
    ] + _range(field)


def _list_type(field: dict[str, Any]) -> str:
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}: {_type(field['prefixItems'][0])}"
    least, most = field.get("minItems"), field.get("maxItems")
    length = f" {least}" if least and least == most else f" {least} or more" if least else ""
    return f"list of{length}: {_type(field['items'])}"


def _range(field: dict[str, Any]) -> str:
    bounds = [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
    found = [f"{sign} {field[key]:g}" for key, sign in bounds if key in field and field[key] < 2**31]
    return f" {', '.join(found)}" if found else ""


def _default(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_default(entry) for entry in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    page = reference()
    if not check:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print(f"{PAGE} is not current; run: python tools/config_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
