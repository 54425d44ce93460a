"""The state of a run, between two steps: what a checkpoint holds, beside which a step is a function of the seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.configs import OptimConfig
from mezzotint.errors import CheckpointError
from mezzotint.objectives.base import Objective
from mezzotint.train.ema import EMA
from mezzotint.train.folder import read_state
from mezzotint.train.logging import Meter
from mezzotint.train.sharding import like, whole
from mezzotint.types import Phase
from mezzotint.weights.io import WeightSet, load_into, read_spec, read_tensors, weight_file


@dataclass
class Runner:
    """A phase with what it needs to run.

    Attributes:
        phase: The phase.
        config: Its optimiser's settings.
        parameters: What it trains: name in the objective -> parameter.
        forward: What is called for its loss.
        optimizer: Its optimiser.
        meter: Its figures since the last line of the log.
        skipped: Steps that were skipped.
        skipped_in_a_row: The same since the last good one.
    """

    phase: Phase
    config: OptimConfig
    parameters: dict[str, nn.Parameter]
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    meter: Meter = field(default_factory=Meter)
    skipped: int = 0
    skipped_in_a_row: int = 0


class RunState:
    """All that changes in a run.

    Args:
        objective: What is minimised.
        runners: Its phases.
        ema: The averages.
        scaler: The loss scaler of fp16, or None.
        batch: Images a step.
        writes: Whether this rank writes checkpoints, and so wants the parts that others keep.

    Attributes:
        step: Training steps done.
        cursor: Images drawn.
        rollbacks: How often the run went back to a good state.
        returned: Whether the run has gone back to just this state.
    """

    def __init__(self, objective: Objective, runners: Sequence[Runner], ema: EMA, scaler: Any, batch: int, *, writes: bool = True):
        self.objective, self.runners, self.ema, self.scaler, self.batch, self._writes = objective, runners, ema, scaler, batch, writes
        self.step = 0
        self.cursor = 0
        self.rollbacks = 0
        self.returned = False

    @property
    def images(self) -> int:
        """Images seen: training steps times batch, whatever the number of phases."""
        return self.step * self.batch

    @property
    def skipping(self) -> bool:
        """Whether the last step of a phase was not finite."""
        return any(runner.skipped_in_a_row for runner in self.runners)

    # --- weights ---------------------------------------------------------------------------------------------------------

    def half_life(self, length: float, model: str) -> float:
        """Half-life of an average in images, at this point."""
        updates = self.ema.updates_of(model)
        return self.ema.profiles[length].half_life(updates) * (self.images / updates if updates else 0)

    def half_lives(self) -> dict[str, float]:
        """Average -> half-life in images, of the first network that is averaged."""
        model = next((name for name in self.objective.models if self.ema.averages_of(name)), None)
        return {} if model is None else {f"{length:.10g}": self.half_life(length, model) for length in self.ema.profiles}

    def _whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: whole(value, keep=self._writes) for name, value in tensors.items()}

    def averages(self, *, snapshots: bool = False) -> list[WeightSet]:
        """The weight files of the averages; with ``snapshots`` those of power-function profiles alone. All ranks must ask for them."""
        sets = []
        for length, profile in self.ema.profiles.items():
            for name in self.objective.models:
                if self.ema.averages_of(name) and (not snapshots or profile.kind == "power"):
                    about = {"profile": profile.kind, "updates": self.ema.updates_of(name), "half_life": self.half_life(length, name)}
                    sets.append(WeightSet(self._whole(self.ema.tensors(length, name)), name, length, self.images, **about))
        return sets

    def weight_sets(self) -> list[WeightSet]:
        """All weight files. All ranks must ask for them."""
        models = self.objective.models
        return [WeightSet(self._whole(_tensors(model)), name, None, self.images) for name, model in models.items()] + self.averages()

    def beside_models(self) -> dict[str, Any]:
        """The state of the objective that its model files do not hold."""
        held = {id(v) for model in self.objective.models.values() for v in model.state_dict(keep_vars=True).values()}
        return {name: v for name, v in self.objective.state_dict(keep_vars=True).items() if id(v) not in held}

    # --- checkpoints -----------------------------------------------------------------------------------------------------

    def pieces(self) -> tuple[list[WeightSet], dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds: weight files, tensors and plain values. All ranks must ask for it."""
        beside = self.beside_models()
        tensors = {f"objective/{name}": v for name, v in self._whole(_tensors_of(beside)).items()}
        state: dict[str, Any] = {
            "step": self.step,
            "cursor": self.cursor,
            "rollbacks": self.rollbacks,
            "returned": self.returned,
            "ema": self.ema.counts,
            "objective": {name: v for name, v in beside.items() if not isinstance(v, Tensor)},
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "phases": {},
        }
        for runner in self.runners:
            name = runner.phase.name
            meter, plain = runner.meter.state()
            tensors |= {f"meter/{name}/{key}": value for key, value in meter.items()}
            slots = runner.optimizer.state
            for key, p in runner.parameters.items():
                tensors |= {f"optim/{name}/{slot}/{key}": value for slot, value in self._whole(slots.get(p, {})).items()}
            state["phases"][name] = {"skipped": runner.skipped, "skipped_in_a_row": runner.skipped_in_a_row, **plain}
        return self.weight_sets(), tensors, state

    def restore(self, checkpoint: Path) -> None:
        """Goes back to what a checkpoint holds.

        Raises:
            CheckpointError: It is damaged, or of something else.
        """
        tensors, state = read_state(checkpoint)
        spec = read_spec(checkpoint)
        for name, model in self.objective.models.items():
            file = checkpoint / weight_file(name)
            load_into(model, _cut(read_tensors(file), model.state_dict()), where=file)
        for name, info in spec.weights.items():
            if info["ema"] is not None:
                self.ema.load(info["ema"], info["model"], read_tensors(checkpoint / name))
        held = {name.split("/", 1)[1]: value for name, value in tensors.items() if name.startswith("objective/")}
        lacking = set(self.beside_models()) - set(held) - set(state["objective"])
        if lacking:
            raise CheckpointError(f"{checkpoint} lacks '{min(lacking)}' of the objective; begin again with another --out")
        self.objective.load_state_dict({**_cut(held, self.objective.state_dict()), **state["objective"]}, strict=False)
        for runner in self.runners:
            name = runner.phase.name
            runner.optimizer.load_state_dict(_optimizer_state(runner, tensors))
            start = f"meter/{name}/"
            kept = state["phases"][name]
            runner.meter.restore({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}, kept)
            runner.skipped, runner.skipped_in_a_row = kept["skipped"], kept["skipped_in_a_row"]
        self.ema.counts.update(state["ema"])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.cursor, self.rollbacks = state["step"], state["cursor"], state["rollbacks"]


def _optimizer_state(runner: Runner, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    index = {key: i for i, key in enumerate(runner.parameters)}
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "optim" and rest.startswith(f"{runner.phase.name}/"):
            slot, _, key = rest.removeprefix(f"{runner.phase.name}/").partition("/")
            p = runner.parameters[key]
            slots.setdefault(index[key], {})[slot] = like(value, p) if value.shape == p.shape else value
    return {"state": slots, "param_groups": runner.optimizer.state_dict()["param_groups"]}


def _cut(tensors: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors in the parts of a state of the same names."""
    return {name: like(value, own[name]) if name in own else value for name, value in tensors.items()}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return _tensors_of(module.state_dict())


def _tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
