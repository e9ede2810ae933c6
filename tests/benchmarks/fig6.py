"""Fig. 6 of the patent over several trainings: the three models with each seed, judged on photos that no training saw.

    python -m tests.benchmarks.fig6 WORK --set steps=1000

WORK is that of `naturaltone.infra.default_model`, which has prepared its store and its held-out photos. The models train
without the identity term, which the patent does not have, one after another in WORK/fig6; a second call resumes. The last line
printed is one JSON object: the mean and the spread over the seeds of each measure of each stage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import ablation, report
from naturaltone.serving.evaluation.photos import folder_photos
from naturaltone.training import runs
from naturaltone.training.alone import train_alone
from naturaltone.training.config import TrainConfig, make_config
from naturaltone.training.train import write_bundle

_SHOWN = (
    "naturalness",
    "niqe",
    "fidelity",
    "clipped_fraction",
    "banding",
    "noise_gain",
    "halo_overshoot",
    "identity_psnr",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    whole = make_config("small", ["lambda_identity=0", *options.set])
    measured: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(options.seeds):
        configs = (*ablation.without_losses(whole), whole)
        models = [
            Enhancer.load(str(trained(options.work, f"fig6-{name}-{seed}", dataclasses.replace(config, seed=seed))))
            for name, config in zip(ablation.MODELS, configs, strict=True)
        ]
        found = ablation.ablate(
            models,
            folder_photos(find_photos(str(options.work / "held-out" / "inputs")), []),
            natural=folder_photos(find_photos(str(options.work / "held-out" / "natural")), []),
            held_out=True,
        )
        print(f"\nseed {seed}\n{report.format_table(found.evaluation)}")
        print(ablation.format_expectations(ablation.expectations(found)), flush=True)
        for stage, row in found.evaluation.table.items():
            for name in _SHOWN:
                if name in row:
                    measured[stage][name].append(row[name])
            measured[stage]["told_apart"].append(float(np.mean(found.told_apart[stage])))
    print(
        json.dumps(
            {
                stage: {
                    name: [round(float(np.mean(v)), 4), round(float(np.std(v, ddof=1)), 4)] for name, v in row.items()
                }
                for stage, row in measured.items()
            }
        )
    )


def trained(work: Path, run: str, config: TrainConfig) -> Path:
    """The bundle of a run; trains it if it has not finished."""
    bundle, store = work / "fig6" / run, storage.absolute(str(work / "store"))
    if not bundle.exists():
        print(f"training {run}", flush=True)
        snapshot = train_alone(store, config, run_name=run, device=torch.device("cpu"))
        write_bundle(bundle, snapshot, runs.open_run(store, run).store, run=run)
    return bundle


if __name__ == "__main__":
    main()
