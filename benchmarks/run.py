"""Runs every benchmark and writes one markdown table, misses named as misses: `python -m benchmarks.run [--quick]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import bench_catchup, bench_dedupe, bench_discord, bench_discord_return, bench_end_to_end, bench_journal, bench_latency
from benchmarks.errors import BenchError
from benchmarks.harness import Row, add_options, machine, read_options, write_table

BENCHES = {
    "dedupe": bench_dedupe.bench,
    "journal": bench_journal.bench,
    "end to end": bench_end_to_end.bench,
    "latency": bench_latency.bench,
    "catch-up": bench_catchup.bench,
    "discord, through": bench_discord.bench,
    "discord, coming back": bench_discord_return.bench,
}


def main() -> int:
    """0 when every target was met, 1 when one was missed or could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--out", type=Path, help="write the table here instead of to stdout")
    args = parser.parse_args()
    try:
        options = read_options(args)
        about = machine(options.directory)
    except BenchError as error:
        sys.exit(str(error))
    rows: list[Row] = []
    for name, bench in BENCHES.items():
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            rows += bench(options)
        except BenchError as error:
            rows.append(Row(name, "", f"not measured: {error}", False))
    out = args.out.open("w") if args.out else sys.stdout
    try:
        if options.quick:
            out.write("Quick mode: shows that it runs; no figure to keep.\n\n")
        out.writelines(f"- {what}: {value}\n" for what, value in about)
        out.write("\n")
        write_table(out, rows)
    finally:
        if args.out:
            out.close()
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
