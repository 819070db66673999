"""`selfalign show DIR ID`: the lineage of a sample."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import print_json
from selfalign.record.store import Store


def main(arguments: Sequence[str]) -> int:
    from selfalign.record.lineage import lineage, lineage_text

    parser = new_parser("show", "The lineage of a sample: what it was made from, by which model, the verdict, what it trained.")
    parser.add_argument("folder", type=str, help="the run folder")
    parser.add_argument("id", type=str, help="id of a seed or a sample, as `export` and kept.jsonl give it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parse(parser, arguments)
    with Store.read(options.folder) as store:
        found = lineage(store, options.id)
    if options.json:
        print_json(found)
    else:
        sys.stdout.write(lineage_text(found) + "\n")
    return 0
