"""Writes docs/configuration.md from the schema of frcnn/config/schema.py: every option with its type, range, default and meaning.

python tools/config_reference.py            write the page
python tools/config_reference.py --check    exit with 1 where the page is not current
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from frcnn.config import Config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEADER = """# Configuration

Every option of a run, written by `tools/config_reference.py` from `frcnn/config/schema.py`. A recipe is a YAML file of these sections that
changes what it needs and leaves the rest; `KEY=VALUE` on the command line changes it further:

    frcnn train --config configs/shapes_r18_fpn.yaml training.batch_size=8 image.min_size='[320, 352]' optimizer.clip_norm=null

An unknown option, a wrong type or a value out of range ends the command before anything starts, with the option, the value and
what is allowed. The whole configuration of a run, defaults included, is kept as `config.yaml` in its folder and its model folder.
"""


def reference() -> str:
    """The whole page."""
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    tables: list[str] = []
    _add_tables(schema, "", Config().model_dump(mode="json"), definitions, tables)
    return HEADER + "".join(tables)


def _add_tables(
    section: dict[str, Any], name: str, defaults: dict[str, Any], definitions: dict[str, Any], tables: list[str]
) -> None:
    rows, below = [], []
    for option, field in section["properties"].items():
        if "$ref" in field:
            below.append((option, definitions[field["$ref"].rpartition("/")[2]]))
        else:
            rows.append(
                f"| `{option}` | {_type(field)} | `{_default(defaults[option])}` | {_cell(field['description'])} |"
            )
    if rows:
        tables.append(f"\n## {name or 'Top level'}\n\n")
        meaning = section.get("description", "")
        if name and meaning:
            tables.append(" ".join(meaning.replace("``", "`").split()) + "\n\n")
        tables.append("\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n")
    for option, child in below:
        _add_tables(child, f"{name}.{option}" if name else option, defaults[option], definitions, tables)


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(member) for member in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return _list_type(field)
    if field.get("format") == "path":
        return "path"
    return {"integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}[
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
