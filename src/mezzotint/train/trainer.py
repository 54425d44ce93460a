"""The one trainer: any objective, any number of phases, on what Accelerate gives.

Training step k is a function of (state, seed, k): order, noise and dropout derive from the seed, the image and the step, so that a run
that was killed repeats an uninterrupted one.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from mezzotint.configs import EMAConfig, OptimConfig, Spec, TrainConfig, to_dict
from mezzotint.errors import CheckpointError, ConfigError, DataError, MezzotintError, TrainingError
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.train.ema import EMA
from mezzotint.train.folder import RunFolder, read_state
from mezzotint.train.loader import Source, batches, rows
from mezzotint.train.logging import Meter, RunLog
from mezzotint.train.optim import build_optimizer, lr_multiplier
from mezzotint.train.order import Turn, stream_key, turns
from mezzotint.train.precision import build_accelerator
from mezzotint.types import Batch, Loss, Phase
from mezzotint.weights.io import WeightSet, load_into, read_spec, read_tensors, save_model, weight_file

BAD_STEPS = 25
"""Optimiser steps of a phase that may be skipped in a row before the run stops."""

OnSample = Callable[[Mapping[str, nn.Module], int, Path], None]


class _PhaseForward(nn.Module):
    """The objective with its phase fixed: what DDP wraps, once for each phase."""

    def __init__(self, objective: Objective, phase: str):
        super().__init__()
        self.objective = objective
        self.phase = phase

    def forward(self, batch: Batch, step: int, noise: Noise) -> Loss:
        return self.objective(batch, phase=self.phase, step=step, noise=noise)


@dataclass
class _Runner:
    """A phase with what it needs to run."""

    phase: Phase
    config: OptimConfig
    parameters: dict[str, nn.Parameter]
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    meter: Meter = field(default_factory=Meter)
    skipped: int = 0
    skipped_in_a_row: int = 0


@dataclass
class _Figures:
    """What one optimiser step gave, over all ranks."""

    per_sample: Tensor
    t: Tensor
    total: float
    logs: dict[str, float]
    stop: bool


class Trainer:
    """Trains an objective until its budget of images is used up.

    Args:
        objective: What to minimise; its ``models`` are saved and averaged.
        source: The data set.
        out: The run folder.
        train: Budget, batch, precision, seed and intervals.
        optim: The optimiser, for phases that bring none of their own.
        ema: The averages.
        spec: What the model is; saved beside the weights.
        resume: Go on with the run in ``out`` rather than begin one.
        on_sample: Called with (models in evaluation mode with their first average, images seen, file to write) on the first rank.

    Raises:
        ConfigError: Settings that do not fit each other or the machine.
        DataError: Fewer images than a batch.
    """

    def __init__(
        self,
        objective: Objective,
        source: Source,
        *,
        out: Path | str,
        train: TrainConfig,
        optim: OptimConfig,
        ema: EMAConfig,
        spec: Spec,
        resume: bool = False,
        on_sample: OnSample | None = None,
    ):
        self.accelerator: Accelerator = build_accelerator(train)
        _check(train, len(source), self.accelerator.num_processes)
        self.objective = objective
        self.source = source
        self.train = train
        self.spec = spec
        self.resume = resume
        self.on_sample = on_sample
        self.folder = RunFolder(out, keep=train.keep)
        self.steps = math.ceil(train.images / train.batch)
        self.step = 0
        self.cursor = 0
        self._asked: int | None = None  # the signal that this rank got
        self._stop: int | None = None  # the same, once all ranks know
        self._settings = {
            **to_dict(spec.recipe),
            "train": to_dict(train),
            "optim": to_dict(optim),
            "ema": to_dict(ema),
            "facts": to_dict(spec.data),
            "fingerprint": source.fingerprint,
        }
        objective.to(self.accelerator.device).train()
        if train.compile:
            for model in objective.models.values():
                model.compile()
        self._trainable = {id(p) for p in objective.parameters() if p.requires_grad}
        self._runners = [self._runner(phase, phase.optim or optim) for phase in objective.phases]
        self._switch(None)
        self._active: _Runner | None = None
        self.ema = EMA(objective.models, objective.phases, ema)

    def _runner(self, phase: Phase, config: OptimConfig) -> _Runner:
        own = {id(p) for module in phase.modules for p in module.parameters()} & self._trainable
        parameters = {name: p for name, p in self.objective.named_parameters() if id(p) in own}
        if not parameters:
            raise ConfigError(f"phase '{phase.name}' has no parameters to train; leave it out or give it a module that is not frozen")
        self._switch(parameters)  # DDP takes the parameters that require gradients when it wraps
        forward = self.accelerator.prepare_model(_PhaseForward(self.objective, phase.name))
        optimizer = build_optimizer(config, parameters.values())
        return _Runner(phase, config, parameters, forward, optimizer)

    def _switch(self, parameters: Mapping[str, nn.Parameter] | None) -> None:
        """Lets gradients reach these parameters alone; None: all that are trainable."""
        wanted = self._trainable if parameters is None else {id(p) for p in parameters.values()}
        for p in self.objective.parameters():
            if p.requires_grad != (id(p) in wanted):
                p.requires_grad_(id(p) in wanted)

    @property
    def images(self) -> int:
        """Images seen: training steps times batch, whatever the number of phases."""
        return self.step * self.train.batch

    # --- the run ---------------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Trains to the end of the budget.

        Returns:
            The folder of the finished model.

        Raises:
            ConfigError: The folder holds another run, or cannot be written.
            CheckpointError: A checkpoint cannot be written or read.
            DataError: Images cannot be read.
            TrainingError: Too many steps in a row were not finite, or memory ran out.
            SystemExit: SIGINT or SIGTERM, after a checkpoint was saved; the code is 128 + the signal's number.
        """
        self._say(f"run folder: {self.folder.path.resolve()}")
        if self.resume:
            checkpoint = self._on_main(lambda: self.folder.resume(self._settings))
            if checkpoint is not None:
                self._restore(checkpoint)
            self._say(f"resumed at {self.images} of {self.steps * self.train.batch} images")
        else:
            self._on_main(lambda: self.folder.start(self._settings))
        log = self._open_log()
        try:
            with self._signals():
                self._loop(log)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise TrainingError(
                "out of memory: lower --train.micro-batch (the result stays the same), recompute activations (checkpointing of the "
                f"network), or use --train.precision bf16; {self._last_good()}"
            ) from error
        finally:
            if log:
                log.close()
        if self._stop is not None:
            self._say(
                f"stopped at {self.images} of {self.steps * self.train.batch} images; go on with --resume; "
                f"run folder: {self.folder.path.resolve()}"
            )
            raise SystemExit(128 + self._stop)
        self._on_main(self._finish)
        self._say(f"run folder: {self.folder.path.resolve()}")
        return self.folder.model

    def _open_log(self) -> RunLog | None:
        if not self.accelerator.is_main_process:
            return None
        budget = self.steps * self.train.batch
        log = RunLog(self.folder.log, step=self.step, images=self.images, budget=budget, device=self.accelerator.device)
        if self.resume:
            log.event("resume", step=self.step, images=self.images)
        return log

    def _loop(self, log: RunLog | None) -> None:
        accelerator, train = self.accelerator, self.train
        arriving = batches(
            self.source,
            self.objective.phases,
            seed=train.seed,
            batch=train.batch,
            first_step=self.step,
            last_step=self.steps,
            cursor=self.cursor,
            rank=accelerator.process_index,
            ranks=accelerator.num_processes,
            workers=self.spec.recipe.data.workers,
        )
        save_every = train.save_every or math.ceil(train.images / 10)
        sample_every = math.ceil(train.images / 10) if train.sample_every is None else train.sample_every
        batch: Batch | None = None
        due = False
        while self.step < self.steps and self._stop is None:
            stop = False
            for turn in turns(self.objective.phases, self.step):
                if turn.draws:
                    batch = next(arriving)
                    self.cursor += train.batch
                assert batch is not None
                stop |= self._update(turn, batch, log)
            before = self.images
            self.step += 1
            last = self.step == self.steps
            if log and (self.step % train.log_every == 0 or last):
                phases = {r.phase.name: {**r.meter.summary(), "skipped": r.skipped} for r in self._runners}
                log.train(step=self.step, images=self.images, epoch=self.cursor / len(self.source), phases=phases)
            if self.step % train.log_every == 0:
                for runner in self._runners:
                    runner.meter.clear()
            if sample_every and self.on_sample and (last or _crosses(before, self.images, sample_every)):
                self._sample()
            due |= _crosses(before, self.images, save_every)
            # While steps fail the weights may be what is wrong with them: the checkpoints from before are kept.
            if last or stop or (due and not any(runner.skipped_in_a_row for runner in self._runners)):
                self._on_main(self._save)
                due = False
            if stop:
                self._stop = self._asked or signal.SIGTERM

    def _update(self, turn: Turn, batch: Batch, log: RunLog | None) -> bool:
        """One optimiser step of one phase. Returns whether a rank was told to stop."""
        runner = self._runners[turn.phase]
        if self._active is not runner:
            self._switch(runner.parameters)
            self._active = runner
        multiplier = lr_multiplier(runner.config, self.images, self.train.images)
        for group in runner.optimizer.param_groups:
            group["lr"] = runner.config.lr * multiplier
        figures = self._gather(self._backward(runner, turn, batch))
        norm = self._gradient_norm(runner)
        good = math.isfinite(figures.total) and math.isfinite(norm) and bool(figures.per_sample.isfinite().all())
        scaler = self.accelerator.scaler
        if good:
            if scaler is None:
                runner.optimizer.step()
            else:
                scaler.step(runner.optimizer)
            self.ema.update(runner.phase.name)
            device = self.accelerator.device
            self.objective.update(figures.t.to(device), figures.per_sample.to(device), phase=runner.phase.name)
            scalars = {"total": figures.total, "gradient_norm": norm, "lr": runner.config.lr * multiplier, **figures.logs}
            runner.meter.add(figures.t, figures.per_sample, scalars)
            runner.skipped_in_a_row = 0
        if scaler is not None:
            scaler.update()  # lowers the scale if it made a gradient overflow
        runner.optimizer.zero_grad(set_to_none=True)
        if log:
            log.progress(self.images + self.train.batch, figures.per_sample.mean().item())
        if not good:
            self._count_bad(runner, turn, figures, norm, log)
        return figures.stop

    def _backward(self, runner: _Runner, turn: Turn, batch: Batch) -> tuple[Tensor, Tensor, float, dict[str, float]]:
        """Adds up the gradients of this rank's share: per-sample losses, times, total loss and scalars to be logged."""
        stage = turn.stage(runner.phase.name)
        ids = batch.ids.tolist()
        share = len(ids)
        micro = self.train.micro_batch or share
        first = self.accelerator.process_index * share
        losses: list[Tensor] = []
        times: list[Tensor] = []
        totals: list[Tensor] = []
        logs: dict[str, float] = {}
        for start in range(0, share, micro):
            part = slice(start, min(start + micro, share))
            weight = (part.stop - part.start) / share
            more = part.stop < share
            with self.accelerator.no_sync(runner.forward) if more else nullcontext():
                self._seed_dropout(stream_key(self.train.seed, stage, turn.step, first + start))
                noise = Noise(self.train.seed, ids[part], stage=stage, step=turn.step)
                loss = runner.forward(rows(batch, part, self.accelerator.device), turn.step, noise)
                # A loss that is not finite goes backward as well: under DDP all ranks must make the same calls.
                self.accelerator.backward(loss.total * weight)
            losses.append(loss.per_sample.detach().double())
            times.append(loss.t.detach().double())
            totals.append(loss.total.detach().double() * weight)
            for name, value in loss.logs.items():
                logs[name] = logs.get(name, 0.0) + float(value) * weight
        return torch.cat(losses), torch.cat(times), torch.stack(totals).sum().item(), logs

    def _seed_dropout(self, seed: int) -> None:
        """Seeds the global stream; ``torch.manual_seed`` does more and takes a millisecond."""
        torch.default_generator.manual_seed(seed)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _gather(self, mine: tuple[Tensor, Tensor, float, dict[str, float]]) -> _Figures:
        """Brings the figures of all ranks together in one call, on the CPU."""
        losses, times, total, logs = mine
        names = sorted(logs)
        rest = [total, float(self._asked is not None), *(logs[name] for name in names)]
        packed = torch.cat([losses.cpu(), times.cpu(), torch.tensor(rest, dtype=torch.float64)])
        if self.accelerator.num_processes > 1:
            packed = self.accelerator.gather(packed.to(self.accelerator.device)).cpu()  # pyright: ignore
        table = packed.reshape(self.accelerator.num_processes, -1)
        n = len(losses)
        scalars = table[:, 2 * n :]
        means = scalars.mean(0).tolist()
        return _Figures(
            per_sample=table[:, :n].reshape(-1),
            t=table[:, n : 2 * n].reshape(-1),
            total=means[0],
            logs=dict(zip(names, means[2:], strict=True)),
            stop=bool(scalars[:, 1].any()),
        )

    def _gradient_norm(self, runner: _Runner) -> float:
        """Norm of the whole gradient before clipping; clips it."""
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.unscale_(runner.optimizer)
        own = [p for p in runner.parameters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in own if p.grad is not None])
        value = float(norm)
        if runner.config.clip is not None and value > runner.config.clip:
            nn.utils.clip_grads_with_norm_(own, runner.config.clip, norm)
        return value

    def _count_bad(self, runner: _Runner, turn: Turn, figures: _Figures, norm: float, log: RunLog | None) -> None:
        runner.skipped += 1
        runner.skipped_in_a_row += 1
        bad = ~figures.per_sample.isfinite()
        levels = (figures.t[bad] if bad.any() else figures.t).tolist()
        if log:
            phase = runner.phase.name
            log.event("skipped", step=turn.step + 1, phase=phase, loss=figures.total, gradient_norm=norm, t=levels)
            log.say(
                f"step {turn.step + 1}, phase {phase}: loss {figures.total:.4g}, gradient norm {norm:.4g}, "
                f"t from {min(levels):.4g} to {max(levels):.4g}; step skipped ({runner.skipped} so far)"
            )
        if runner.skipped_in_a_row >= BAD_STEPS:
            raise TrainingError(
                f"{BAD_STEPS} steps in a row of phase '{runner.phase.name}' were not finite, up to step {turn.step + 1} "
                f"(t from {min(levels):.4g} to {max(levels):.4g}): use a lower --optim.lr or --train.precision fp32; {self._last_good()}"
            )

    def _last_good(self) -> str:
        newest = self.folder.newest()
        return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"

    # --- state -----------------------------------------------------------------------------------------------------------

    def _weight_sets(self) -> list[WeightSet]:
        models = self.objective.models
        sets = [WeightSet(_tensors(model), name, None, self.images) for name, model in models.items()]
        for decay in self.ema.config.decays:
            sets += [WeightSet(self.ema.tensors(decay, n), n, decay, self.images) for n in models if self.ema.averages_of(n)]
        return sets

    def _beside_models(self) -> dict[str, Any]:
        """The state of the objective that its model files do not hold."""
        held = {id(v) for model in self.objective.models.values() for v in model.state_dict(keep_vars=True).values()}
        return {name: v for name, v in self.objective.state_dict(keep_vars=True).items() if id(v) not in held}

    def _save(self) -> None:
        beside = self._beside_models()
        tensors = {f"objective/{name}": v for name, v in beside.items() if isinstance(v, Tensor)}
        state: dict[str, Any] = {
            "step": self.step,
            "cursor": self.cursor,
            "ema": self.ema.counts,
            "objective": {name: v for name, v in beside.items() if not isinstance(v, Tensor)},
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {},
            "phases": {},
        }
        for runner in self._runners:
            name = runner.phase.name
            meter, scalars = runner.meter.state()
            tensors |= {f"meter/{name}/{key}": value for key, value in meter.items()}
            slots = runner.optimizer.state
            for key, p in runner.parameters.items():
                tensors |= {f"optim/{name}/{slot}/{key}": value for slot, value in slots.get(p, {}).items()}
            state["phases"][name] = {"skipped": runner.skipped, "skipped_in_a_row": runner.skipped_in_a_row, "scalars": scalars}
        self.folder.save(self.images, self.spec, self._weight_sets(), tensors, state)

    def _restore(self, checkpoint: Path) -> None:
        tensors, state = read_state(checkpoint)
        spec = read_spec(checkpoint)
        for name, model in self.objective.models.items():
            file = checkpoint / weight_file(name)
            load_into(model, read_tensors(file), where=file)
        for info in spec.weights.values():
            if info["ema"] is not None:
                name = weight_file(info["model"], info["ema"])
                self.ema.load(info["ema"], info["model"], read_tensors(checkpoint / name))
        held = {name.split("/", 1)[1]: value for name, value in tensors.items() if name.startswith("objective/")}
        lacking = set(self._beside_models()) - set(held) - set(state["objective"])
        if lacking:
            raise CheckpointError(f"{checkpoint} lacks '{min(lacking)}' of the objective; begin again with another --out")
        self.objective.load_state_dict({**held, **state["objective"]}, strict=False)
        for runner in self._runners:
            name = runner.phase.name
            runner.optimizer.load_state_dict(self._optimizer_state(runner, tensors))
            start = f"meter/{name}/"
            kept = state["phases"][name]
            runner.meter.restore({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}, kept["scalars"])
            runner.skipped, runner.skipped_in_a_row = kept["skipped"], kept["skipped_in_a_row"]
        self.ema.counts.update(state["ema"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.cursor = state["step"], state["cursor"]

    def _optimizer_state(self, runner: _Runner, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        index = {key: i for i, key in enumerate(runner.parameters)}
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "optim" and rest.startswith(f"{runner.phase.name}/"):
                slot, _, key = rest.removeprefix(f"{runner.phase.name}/").partition("/")
                slots.setdefault(index[key], {})[slot] = value
        return {"state": slots, "param_groups": runner.optimizer.state_dict()["param_groups"]}

    def _finish(self) -> None:
        save_model(self.folder.model, self.spec, self._weight_sets())

    def _sample(self) -> None:
        """Has the caller draw a grid with the first average; the state of training is left as it was."""
        if self.on_sample and self.accelerator.is_main_process:
            modes = [(module, module.training) for module in self.objective.modules()]
            self.objective.eval()
            try:
                with self.ema.swapped():
                    self.on_sample(self.objective.models, self.images, self.folder.sample(self.images))
            finally:
                for module, training in modes:
                    module.training = training
        self.accelerator.wait_for_everyone()

    # --- ranks and signals -----------------------------------------------------------------------------------------------

    def _on_main(self, action: Callable[[], Any]) -> Any:
        """Does something on the first rank and gives every rank its result, or its error, so that none is left waiting."""
        result: list[Any] = [None, None]
        if self.accelerator.is_main_process:
            try:
                result[0] = action()
            except MezzotintError as error:
                result[1] = error
        if self.accelerator.num_processes > 1:
            broadcast_object_list(result)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            print(text, flush=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turns the first SIGINT or SIGTERM into a wish to stop after this step; a second one acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

        def wish(number: int, _: Any) -> None:
            self._asked = number
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in before:
            signal.signal(number, wish)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _crosses(before: int, now: int, every: int) -> bool:
    return now // every > before // every


def _check(train: TrainConfig, num_images: int, ranks: int) -> None:
    positive = {"images": train.images, "batch": train.batch, "log_every": train.log_every, "micro_batch": train.micro_batch or 1}
    for name, value in positive.items():
        if value < 1:
            raise ConfigError(f"--train.{name.replace('_', '-')} is {value}; it must be at least 1")
    if train.batch > num_images:
        raise DataError(f"the data has {num_images} images, fewer than a batch of {train.batch}; use --train.batch {num_images} or less")
    if train.batch % ranks:
        raise ConfigError(f"a batch of {train.batch} cannot be shared by {ranks} ranks; use a multiple of {ranks}")
