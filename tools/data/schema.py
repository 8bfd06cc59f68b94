"""The JSON Schema of a row, as `datasets/schema.json` publishes it.

python -P -m tools.data.schema      # writes it again, from the models in tools/data/examples.py
"""

from pathlib import Path
from typing import Any

from tools.data.examples import Example
from tools.files import write_json

PATH = Path(__file__).resolve().parents[2] / "datasets" / "schema.json"


def row_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one row in Alpaca's form with looptune's fields."""
    schema = Example.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A looptune row"}


if __name__ == "__main__":
    write_json(PATH, row_schema())
