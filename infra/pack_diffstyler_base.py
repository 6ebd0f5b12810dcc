"""Write the DiffStyler base that the package ships.

    python infra/pack_diffstyler_base.py --model RUN/base --run RUN/run.json --steps N

Its photos are those of the other shipped base, which are samples of that base, so that the package
contains no training data.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from diffstyler.base import load_base
from diffstyler.bundle import SHIPPED, write_base_json
from diffstyler.model_files import save_model
from osasis.bundles.files import shipped_bases

NAME = "portraits64-sd"
PHOTOS = "photos.safetensors"
# A clone of the repository needs no large files.
SHARD = "9MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path, help="folder in the diffusers layout")
    parser.add_argument("--run", required=True, type=Path, help="run.json of its training")
    parser.add_argument("--steps", required=True, type=int, help="steps of the UNet in the model")
    args = parser.parse_args()
    folder = SHIPPED / NAME
    shutil.rmtree(folder, ignore_errors=True)
    base = load_base(args.model, dtype=torch.float16)
    networks = {part: getattr(base, part) for part in ("unet", "vae", "text_encoder")}
    save_model(folder, networks, args.model, torch.float16, SHARD)
    shutil.copyfile(shipped_bases()["portraits64"] / PHOTOS, folder / PHOTOS)
    run = json.loads(args.run.read_text()) | {"steps_done": args.steps}
    info = write_base_json(
        folder,
        name=NAME,
        image_size=base.image_size,
        preset="small",
        provenance={"sources": {"training": run}, "dtype": "float16", "licence": "Apache-2.0"},
    )
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB, fingerprint {info['fingerprint']}")


if __name__ == "__main__":
    main()
