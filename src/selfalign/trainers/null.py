"""A trainer that trains nothing: for data alone, and for tests with the scripted engine, in milliseconds, without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import ClassVar

from selfalign.errors import RunFailed
from selfalign.protocols import Progress, TrainJob, TrainResult
from selfalign.record.checkpoints import manifest_hash, publish, read_manifest
from selfalign.record.faults import fault_point
from selfalign.types import ModelRef


@dataclass(frozen=True)
class NullTrainer:
    """Trains nothing: with an engine that runs real models each round goes on with the base model (`Recipe.trains`), and
    what the run leaves is its data. With the scripted engine it pretends, so that rounds differ.

    It then writes a folder whose content follows from the start model, the random seed and the ids and texts "trained" on: the
    same job gives the same bytes, another job other bytes. A token is a word, and the loss of its one step is 0.
    """

    pretends: ClassVar[bool] = True

    def train(self, job: TrainJob, progress: Progress) -> TrainResult:
        """Raises RunFailed: the folder for the model exists already."""
        if job.out.exists():
            raise RunFailed(f"{job.out} exists already; a model is never written over")
        rows = (*job.seeds, *job.generated)
        tokens = {part: sum(len(row.response.split()) for row in part) for part in (job.seeds, job.generated)}
        progress.start(f"round {job.round}: train", 1)
        partial = job.out.with_name(f".{job.out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        content = {
            "start": job.start.hash,
            "seed": job.seed,
            "seed_weight": job.seed_weight,
            "rows": [[row.id, hashlib.sha256(f"{row.prompt}\0{row.response}".encode()).hexdigest()] for row in rows],
        }
        (partial / "config.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        digest = manifest_hash(read_manifest(partial))
        fault_point("train.model.before-rename")
        publish(partial, job.out)
        fault_point("train.model.after-rename")
        progress.advance(1, "loss 0.000")
        progress.finish()
        both = tokens[job.seeds] + tokens[job.generated]
        share = tokens[job.seeds] / both if both else 0.0
        return TrainResult(
            model=ModelRef(str(job.out), hash=digest),
            trained=tuple(row.id for row in rows),
            dropped=(),
            steps=job.steps or 1,
            tokens=both,
            seed_weight=share if job.seed_weight is None or share in (0.0, 1.0) else job.seed_weight,
            losses=(0.0,),
        )
