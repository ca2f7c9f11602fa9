"""Print what a schema is in another language: `python -m schemas proto transaction`."""

import argparse
import json
import sys
from pathlib import Path

from schemas.json_schema import json_schema
from schemas.proto_text import proto_text
from schemas.schema import load_schema
from schemas.tree import SchemaError


def main() -> int:
    """Print it, and return the exit code: 2 for a schema that is none, or that Protobuf cannot hold."""
    parser = argparse.ArgumentParser(prog="python -m schemas", description=__doc__)
    parser.add_argument("language", choices=["proto", "json-schema"])
    parser.add_argument("schema", help="a bundled name, or the path of an .avsc file")
    arguments = parser.parse_args()
    try:
        schema = load_schema(arguments.schema, Path())
        if arguments.language == "proto":
            print(proto_text(schema), end="")
        else:
            print(json.dumps(json_schema(schema), indent=2, ensure_ascii=False))
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
