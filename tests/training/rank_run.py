"""Run train_gen1.py, write every step's loss to a file, and perhaps die on the way.

python rank_run.py STEPS.jsonl "RANK:STEP" [arguments of train_gen1.py]; "RANK:STEP" kills that
rank before its step, once ("RANK:STEP:memory" asks for too much memory there): STEPS.jsonl.died
says that it has happened.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import train_gen1  # noqa: E402
from gen1.ending import leave  # noqa: E402
from training.loop import Trainer  # noqa: E402
from training.task import Batch  # noqa: E402


def main() -> int:
    log, death, *arguments = sys.argv[1:]
    at, how = death.removesuffix(":memory"), death[-7:]
    rank, died = os.environ.get("RANK", "0"), Path(f"{log}.died")
    saved = Path(log.removesuffix(".jsonl"), "last.pt")
    step = Trainer.step

    def logged(trainer: Trainer, batch: Batch) -> tuple[dict[str, float], float]:
        place = trainer.epoch * trainer.batches_per_epoch + trainer.batch
        if at == f"{rank}:{place}" and not died.exists():
            for _ in range(400 * (place > 0)):  # so that there is something to go on from
                if saved.exists():
                    break
                time.sleep(0.05)
            died.touch()
            if how == ":memory":
                torch.empty(1 << 50)
            os.kill(os.getpid(), signal.SIGKILL)
        items, lr = step(trainer, batch)
        if trainer.ranks.is_main:
            with Path(log).open("a") as file:
                file.write(json.dumps([place, *items.values()]) + "\n")
        return items, lr

    Trainer.step = logged  # type: ignore[method-assign, assignment]
    return train_gen1.main(arguments)


if __name__ == "__main__":
    leave(main())
