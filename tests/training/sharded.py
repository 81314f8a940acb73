"""A plain loop over an objective whose weights are in pieces on two ranks, or whole in one process; no Trainer."""

from pathlib import Path

import torch
import yaml
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from bertsmith import pretraining
from bertsmith.batching import TrainingStream
from bertsmith.objectives import Objective
from bertsmith.run_settings import RunSettings
from bertsmith.settings import validate
from bertsmith.training import ranks, sharding

STEPS = 5


def train_sharded(run_file: Path) -> dict[str, Tensor]:
    """Train a few steps, each rank on its half of each, and return the whole weights and buffers."""
    run = validate(RunSettings, yaml.safe_load(run_file.read_text(encoding="utf-8")), str(run_file))
    parts = pretraining._assemble(run)
    objective: Objective = parts.objective.train()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    if ranks.num_ranks() > 1:
        sharding.shard(objective, bf16=False)
        assert all(isinstance(value, DTensor) for value in objective.parameters())
        assert sum(isinstance(module, FSDPModule) for module in objective.modules()) > 1
    optimizer = torch.optim.AdamW([value for value in objective.parameters() if value.requires_grad], lr=1e-3)
    stream = TrainingStream(parts.rows, parts.rows_per_step, STEPS, seed=0, num_parts=2)
    for step in range(STEPS):
        halves = [objective.collate([stream[2 * step + half]]) for half in (0, 1)]
        counted = [objective.count_items(half) for half in halves]
        totals = {name: torch.tensor(float(sum(items[name] for items in counted))) for name in counted[0]}
        for half in halves if ranks.num_ranks() == 1 else [halves[ranks.rank()]]:
            # Gradients are averaged over ranks.
            (objective(**half, num_items=totals)["loss"] * ranks.num_ranks()).backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()
    assert sharding.is_finite(objective)
    after = {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in objective.state_dict().items()
    }
    assert all((after[name] - before[name]).abs().max() > 1e-4 for name in before if name.endswith("dense.weight"))
    return after
