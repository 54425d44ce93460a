"""The one trainer: any objective, any number of phases, on what Accelerate gives.

Training step k is a function of (state, seed, k): order, noise and dropout derive from the seed, the image and the step, so that a run
that was killed repeats an uninterrupted one.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mezzotint.configs import EMAConfig, OptimConfig, Spec, TrainConfig, to_dict
from mezzotint.errors import CheckpointError, ConfigError, DataError, MezzotintError, TrainingError
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.train.ema import EMA
from mezzotint.train.faults import BAD_STEPS, MEMORY, MOST_ROLLBACKS, ROLLBACK_RATE, BadStep, find_bad, is_out_of_memory
from mezzotint.train.folder import RunFolder
from mezzotint.train.loader import Source, batches, rows
from mezzotint.train.logging import RunLog
from mezzotint.train.optim import build_optimizer, lr_multiplier
from mezzotint.train.order import Turn, positions, stream_key, turns
from mezzotint.train.precision import build_accelerator
from mezzotint.train.ranks import Ranks
from mezzotint.train.sharding import shard, together, whole
from mezzotint.train.state import Runner, RunState
from mezzotint.train.watching import Grids, View, Watcher
from mezzotint.types import Batch, Loss, Phase
from mezzotint.weights.io import save_model

SNAPSHOTS = 32
"""Snapshots of power-function averages in a run, unless told otherwise."""
OnSample = Callable[[Mapping[str, nn.Module], int, Path], dict[str, Any] | None]


class _PhaseForward(nn.Module):
    """The objective with its phase fixed: what DDP wraps, once for each phase."""

    def __init__(self, objective: Objective, phase: str):
        super().__init__()
        self.objective = objective
        self.phase = phase

    def forward(self, batch: Batch, step: int, noise: Noise) -> Loss:
        return self.objective(batch, phase=self.phase, step=step, noise=noise)


@dataclass
class _Figures:
    """What one optimiser step gave, over all ranks."""

    per_sample: Tensor
    t: Tensor
    total: float
    logs: dict[str, float]
    stop: bool


class _GoBack(Exception):
    """Too many steps in a row were not finite, and the run is to go back to its last good state."""

    def __init__(self, step: int, reason: str):
        super().__init__(reason)
        self.step = step


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
        on_sample: Called with (models in evaluation mode with their first average, images seen, file to write) on the first rank; what it
            returns is logged.
        watchers: What else is looked at during the run.

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
        watchers: Sequence[Watcher] = (),
    ):
        self.accelerator: Accelerator = build_accelerator(train, Path(out))
        self.ranks = Ranks(self.accelerator, train.timeout, setting="--train.timeout")
        _check(train, ema, len(source), self.ranks.count)
        self.objective = objective
        self.source = source
        self.train = train
        self.spec = spec
        self.resume = resume
        self.folder = RunFolder(out, keep=train.keep, keep_every=train.keep_every)
        self.steps = math.ceil(train.images / train.batch)
        self.watchers = list(watchers)
        tenth = math.ceil(train.images / 10)
        grids_every = tenth if train.sample_every is None else train.sample_every
        if on_sample and grids_every:
            self.watchers.insert(0, Grids(on_sample, grids_every))
        self._save_every = train.save_every or tenth
        self._snapshot_every = (ema.snapshot_every or math.ceil(train.images / SNAPSHOTS)) if ema.stds else 0
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
        self._sharded = train.sharding == "fsdp" and self.ranks.count > 1
        if train.sharding == "fsdp":
            _check_sharding(train, objective)
        if self._sharded:
            shard(objective, device=self.accelerator.device, ranks=self.ranks.count)
        self._trainable = {id(p) for p in objective.parameters() if p.requires_grad}
        runners = [self._runner(phase, phase.optim or optim) for phase in objective.phases]
        self._switch(None)
        self._active: Runner | None = None
        averages = EMA(objective.models, objective.phases, ema)
        self.state = RunState(objective, runners, averages, self.accelerator.scaler, train.batch, writes=self.ranks.main)

    def _runner(self, phase: Phase, config: OptimConfig) -> Runner:
        own = {id(p) for module in phase.modules for p in module.parameters()} & self._trainable
        parameters = {name: p for name, p in self.objective.named_parameters() if id(p) in own}
        if not parameters:
            raise ConfigError(f"phase '{phase.name}' has no parameters to train; leave it out or give it a module that is not frozen")
        self._switch(parameters)  # DDP takes the parameters that require gradients when it wraps
        forward = self.accelerator.prepare_model(_PhaseForward(self.objective, phase.name), evaluation_mode=self._sharded)  # no DDP then
        optimizer = build_optimizer(config, parameters.values())
        return Runner(phase, config, parameters, forward, optimizer)

    def _switch(self, parameters: Mapping[str, nn.Parameter] | None) -> None:
        """Lets gradients reach these parameters alone; None: all that are trainable."""
        wanted = self._trainable if parameters is None else {id(p) for p in parameters.values()}
        for p in self.objective.parameters():
            if p.requires_grad != (id(p) in wanted):
                p.requires_grad_(id(p) in wanted)

    # --- the run ---------------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Trains to the end of the budget.

        Returns:
            The folder of the finished model.

        Raises:
            ConfigError: The folder holds another run, or cannot be written.
            CheckpointError: The last checkpoint cannot be written, or none can be read.
            DataError: Images cannot be read.
            TrainingError: Too many steps in a row were not finite, memory ran out, or a rank is missing.
            SystemExit: SIGINT or SIGTERM, after a checkpoint was saved; the code is 128 + the signal's number.
        """
        self.ranks.say(f"run folder: {self.folder.path.resolve()}")
        try:
            self._begin()
            self._run()
        finally:
            self.ranks.close()
        self.ranks.say(f"run folder: {self.folder.path.resolve()}")
        return self.folder.model

    def _run(self) -> None:
        """Runs, and records how it ends."""
        self._status("running")
        try:
            try:
                self._train()
            except (RuntimeError, MemoryError) as error:
                raise self._explained(error) from error
        except SystemExit:
            self._status("stopped", reason="it was asked to")
            raise
        except KeyboardInterrupt:
            self._status("stopped", reason="interrupted before it could save")
            raise
        except Exception as error:
            self._status("failed", reason=(str(error).splitlines() or [type(error).__name__])[0])
            raise
        self._status("finished")

    def _status(self, state: str, **more: Any) -> None:
        if self.ranks.main:
            self.folder.status(state, **more)

    def _begin(self) -> None:
        """Makes the folder, or goes back to its newest checkpoint."""
        state = self.state
        if not self.resume:
            self.ranks.on_main(lambda: self.folder.start(self._settings))
        else:
            checkpoint = self.ranks.on_main(lambda: self.folder.resume(self._settings))
            if checkpoint is not None:
                state.restore(checkpoint)
            if state.step > self.steps:
                raise ConfigError(f"{self.folder.path} has seen {state.images} images already; give --train.images {state.images} or more")
            if state.step < self.steps:
                self.ranks.on_main(lambda: self.folder.reopen(state.images))
            self.ranks.say(f"resumed at {state.images} of {self.steps * self.train.batch} images")

    def _explained(self, error: BaseException) -> BaseException:
        """What to raise in the place of an error of PyTorch."""
        if is_out_of_memory(error):
            return TrainingError(f"{MEMORY}; {self._last_good()}")
        return self.ranks.explain(error) or error

    def _train(self) -> None:
        log = self._open_log()
        try:
            with self._signals():
                while True:
                    try:
                        self._loop(log)
                        break
                    except _GoBack as fault:
                        self._go_back(fault, log)
        finally:
            if log:
                log.close()
        if self._stop is not None:
            self.ranks.say(
                f"stopped at {self.state.images} of {self.steps * self.train.batch} images; go on with --resume; "
                f"run folder: {self.folder.path.resolve()}"
            )
            raise SystemExit(128 + self._stop)
        sets = self.state.weight_sets()
        self.ranks.on_main(lambda: save_model(self.folder.model, self.spec, sets))

    def _open_log(self) -> RunLog | None:
        if self.train.trackers:
            config = {name: str(value) for name, value in self._settings.items()}
            self.accelerator.init_trackers("mezzotint", config, {"wandb": {"name": self.folder.path.name}})
        if not self.ranks.main:
            return None
        state = self.state
        log = RunLog(
            self.folder.log,
            self.folder.events,
            step=state.step,
            images=state.images,
            budget=self.steps * self.train.batch,
            device=self.accelerator.device,
            rollbacks=state.rollbacks,
            trackers=self.accelerator.trackers,
        )
        if self.resume:
            log.event("resume", step=state.step, images=state.images)
        return log

    def _loop(self, log: RunLog | None) -> None:
        train, state = self.train, self.state
        arriving = batches(
            self.source,
            self.objective.phases,
            seed=train.seed,
            batch=train.batch,
            first_step=state.step,
            last_step=self.steps,
            cursor=state.cursor,
            rank=self.ranks.index,
            ranks=self.ranks.count,
            workers=self.spec.recipe.data.workers,
        )
        if train.on_nan == "rollback" and state.step == 0:
            self._save(log)  # so that there is a state to go back to
        batch: Batch | None = None
        due = False
        while state.step < self.steps and self._stop is None:
            stop = False
            for turn in turns(self.objective.phases, state.step):
                if turn.draws:
                    self.ranks.at(f"reading the images of step {turn.step + 1}")
                    batch = next(arriving)
                    state.cursor += train.batch
                assert batch is not None
                stop |= self._update(turn, batch, log)
            before = state.images
            state.step += 1
            last = state.step == self.steps
            self._log_figures(log, last)
            for watcher in self.watchers:
                if last or _crosses(before, state.images, watcher.every):
                    stop |= self._look(watcher, log)
            due |= _crosses(before, state.images, self._save_every) or bool(
                train.keep_every and _crosses(before, state.images, train.keep_every)
            )
            if self._snapshot_every and (last or _crosses(before, state.images, self._snapshot_every)):
                self._snapshot(log)
            # While steps fail the weights may be what is wrong with them: the checkpoints from before are kept.
            if last or stop or (due and not state.skipping):
                self._save(log, must=last or stop)
                due = False
            if stop:
                self._stop = self._asked or signal.SIGTERM

    def _log_figures(self, log: RunLog | None, last: bool) -> None:
        state, whole = self.state, self.state.step % self.train.log_every == 0
        if log and (whole or last):
            phases = {r.phase.name: {**r.meter.summary(), "skipped": r.skipped} for r in state.runners}
            epoch = state.cursor / len(self.source)
            log.train(step=state.step, images=state.images, epoch=epoch, phases=phases, half_lives=state.half_lives())
        if whole:
            for runner in state.runners:
                runner.meter.clear()

    # --- one step --------------------------------------------------------------------------------------------------------

    def _update(self, turn: Turn, batch: Batch, log: RunLog | None) -> bool:
        """One optimiser step of one phase. Returns whether a rank was told to stop."""
        state = self.state
        runner = state.runners[turn.phase]
        if self._active is not runner:
            self._switch(runner.parameters)
            self._active = runner
        multiplier = lr_multiplier(runner.config, state.images, self.train.images) * ROLLBACK_RATE**state.rollbacks
        for group in runner.optimizer.param_groups:
            group["lr"] = runner.config.lr * multiplier
        where = f"step {turn.step + 1}, phase {runner.phase.name}"
        self.ranks.at(f"adding up the gradients of {where}")
        mine = self._backward(runner, turn, batch)
        self.ranks.at(f"bringing the losses of {where} together")
        figures = self._gather(mine)
        norm = self._gradient_norm(runner)
        good = math.isfinite(figures.total) and math.isfinite(norm) and bool(figures.per_sample.isfinite().all())
        scaler = self.accelerator.scaler
        fault = None
        if good:
            if scaler is None:
                runner.optimizer.step()
            else:
                scaler.step(runner.optimizer)
            state.ema.update(runner.phase.name)
            device = self.accelerator.device
            self.objective.update(figures.t.to(device), figures.per_sample.to(device), phase=runner.phase.name)
            scalars = {"total": figures.total, "gradient_norm": norm, "lr": runner.config.lr * multiplier, **figures.logs}
            runner.meter.add(figures.t, figures.per_sample, scalars)
            runner.skipped_in_a_row = 0
        else:
            ids = positions(self.train.seed, len(self.source), state.cursor - self.train.batch, self.train.batch)
            fault = find_bad(runner.parameters, figures.per_sample, figures.t, figures.total, ids)
        if scaler is not None:
            scaler.update()  # lowers the scale if it made a gradient overflow
        runner.optimizer.zero_grad(set_to_none=True)
        if log:
            log.progress(state.images + self.train.batch, figures.per_sample.mean().item())
        if fault is not None:
            self._count_bad(runner, turn, figures, norm, fault, log)
        return figures.stop

    def _backward(self, runner: Runner, turn: Turn, batch: Batch) -> tuple[Tensor, Tensor, float, dict[str, float]]:
        """Adds up the gradients of this rank's share: per-sample losses, times, total loss and scalars to be logged."""
        stage = turn.stage(runner.phase.name)
        ids = batch.ids.tolist()
        share = len(ids)
        micro = self.train.micro_batch or share
        first = self.ranks.index * share
        losses: list[Tensor] = []
        times: list[Tensor] = []
        totals: list[Tensor] = []
        logs: dict[str, float] = {}
        for start in range(0, share, micro):
            part = slice(start, min(start + micro, share))
            weight = (part.stop - part.start) / share
            more = part.stop < share
            if self._sharded:
                self.objective.set_requires_gradient_sync(not more)  # pyright: ignore
            with self.accelerator.no_sync(runner.forward) if more and not self._sharded else nullcontext():
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
        table = self.ranks.gather(torch.cat([losses.cpu(), times.cpu(), torch.tensor(rest, dtype=torch.float64)]))
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

    def _gradient_norm(self, runner: Runner) -> float:
        """Norm of the whole gradient before clipping; clips it."""
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.unscale_(runner.optimizer)
        own = [p for p in runner.parameters.values() if p.grad is not None]
        norm = whole(nn.utils.get_total_norm([p.grad for p in own if p.grad is not None]))
        value = float(norm)
        if runner.config.clip is not None and value > runner.config.clip:
            nn.utils.clip_grads_with_norm_(own, runner.config.clip, norm)
        return value

    # --- faults ----------------------------------------------------------------------------------------------------------

    def _count_bad(self, runner: Runner, turn: Turn, figures: _Figures, norm: float, fault: BadStep, log: RunLog | None) -> None:
        runner.skipped += 1
        runner.skipped_in_a_row += 1
        phase, step = runner.phase.name, turn.step + 1
        if log:
            log.event("skipped", step=step, phase=phase, loss=figures.total, gradient_norm=norm, first_bad=fault.what, t=fault.levels)
            log.say(
                f"step {step}, phase {phase}: {fault.what} is not finite (loss {figures.total:.4g}, gradient norm {norm:.4g}, "
                f"{fault.between}); step skipped ({runner.skipped} so far)"
            )
        if runner.skipped_in_a_row < BAD_STEPS:
            return
        reason = f"{BAD_STEPS} steps in a row of phase '{phase}' were not finite, up to step {step}: {fault.what} ({fault.between})"
        if self.train.on_nan == "rollback" and self.state.rollbacks < MOST_ROLLBACKS:
            raise _GoBack(step, reason)
        again = f", after going back {MOST_ROLLBACKS} times" if self.state.rollbacks else ""
        raise TrainingError(f"{reason}{again}; use a lower --optim.lr or --train.precision fp32; {self._last_good()}")

    def _go_back(self, fault: _GoBack, log: RunLog | None) -> None:
        """Goes back to the newest checkpoint before the failure, with a lower learning rate from then on."""
        state, failed = self.state, fault.step
        times = state.rollbacks + 1

        def choose() -> Path:
            good = [
                (path, held) for path, held in self.folder.good() if not any(phase["skipped_in_a_row"] for phase in held["phases"].values())
            ]
            if len(good) > 1 and good[0][1]["returned"]:
                good = good[1:]  # from there the run failed once more
            if not good:
                raise TrainingError(f"{fault}; there is no good checkpoint to go back to; use a lower --optim.lr")
            return good[0][0]

        self.ranks.at("going back to the last good state")
        state.restore(self.ranks.on_main(choose))
        state.rollbacks = times
        for runner in state.runners:
            runner.optimizer.zero_grad(set_to_none=True)
        self.ranks.on_main(lambda: self.folder.forget(state.images))
        if log:
            log.back_to(state.step, state.images, state.rollbacks)
        state.returned = True
        self._save(log)  # the same state with the lower rate, so that a killed run does not fail once more
        state.returned = False
        rate = ROLLBACK_RATE**times
        if log:
            log.event("rollback", step=state.step, images=state.images, failed=failed, reason=str(fault), times=times, rate=rate)
            log.say(f"{fault}; back to {state.images} images, with {rate:g} of the learning rate")

    def _last_good(self) -> str:
        newest = self.folder.newest()
        return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"

    # --- saving and looking ----------------------------------------------------------------------------------------------

    def _save(self, log: RunLog | None, *, must: bool = False) -> None:
        """Writes a checkpoint. If the file system refuses, the run goes on with those it has, unless it ``must``."""
        self.ranks.at("waiting for the checkpoint")
        state = self.state
        sets, tensors, plain = state.pieces()
        try:
            self.ranks.on_main(lambda: self.folder.save(state.images, self.spec, sets, tensors, plain))
        except CheckpointError as error:
            if must:
                raise CheckpointError(f"{error}; {self._last_good()}, and --resume goes on from it") from error
            self._complain("save_failed", error, log)

    def _snapshot(self, log: RunLog | None) -> None:
        """Keeps the power-function averages as they are now."""
        self.ranks.at("waiting for the snapshot of the averages")
        state = self.state
        sets = state.averages(snapshots=True)
        try:
            self.ranks.on_main(lambda: save_model(self.folder.snapshot(state.images), self.spec, sets))
        except CheckpointError as error:
            self._complain("save_failed", error, log)

    def _complain(self, event: str, error: Exception, log: RunLog | None) -> None:
        if log:
            reason = f"{error.filename or 'the run folder'}: {error.strerror}" if isinstance(error, OSError) else str(error)
            log.event(event, step=self.state.step, images=self.state.images, reason=reason)
            log.say(f"{reason}; the run goes on; {self._last_good()}")

    def _look(self, watcher: Watcher, log: RunLog | None) -> bool:
        """Has a watcher look; the state of training is left as it was. Returns whether a rank was told to stop meanwhile."""
        state, stop = self.state, False

        def asked() -> bool:
            nonlocal stop
            (count,) = self.ranks.add_up(torch.tensor(float(self._asked is not None)))
            stop |= bool(count)
            return stop

        self.ranks.at(f"looking at the {watcher.event.replace('_', '-')} figures")
        figures: dict[str, Any] = {}
        with self._evaluating():
            if watcher.everywhere or self.ranks.main:
                view = View(self.objective.models, state.images, self.folder.sample(state.images), self.ranks, asked)
                try:
                    figures = watcher.look(view)
                except (OSError, MezzotintError) as error:  # such as a full disk: no reason to end the run
                    if watcher.everywhere:  # the others may be waiting
                        raise
                    self._complain("look_failed", error, log)
        self.accelerator.wait_for_everyone()
        if log and figures:
            log.look(watcher.event, step=state.step, images=state.images, figures=figures)
        return stop

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The networks in evaluation mode, with their first average; afterwards as they were."""
        modes = [(module, module.training) for module in self.objective.modules()]
        self.objective.eval()
        try:
            with self.state.ema.swapped(), together(self.objective) if self._sharded else nullcontext():
                yield
        finally:
            for module, training in modes:
                module.training = training

    # --- signals ---------------------------------------------------------------------------------------------------------

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


def _crosses(before: int, now: int, every: int) -> bool:
    return now // every > before // every


def _check_sharding(train: TrainConfig, objective: Objective) -> None:
    if len(objective.phases) > 1:
        names = ", ".join(phase.name for phase in objective.phases)
        raise ConfigError(f"--train.sharding fsdp shards one phase, and there are {len(objective.phases)} ({names}); leave it out")
    if train.precision == "fp16":
        raise ConfigError("--train.sharding fsdp does not go with --train.precision fp16; use bf16")
    if train.compile:
        raise ConfigError("--train.sharding fsdp does not go with --train.compile; leave out one of them")


def _check(train: TrainConfig, ema: EMAConfig, num_images: int, ranks: int) -> None:
    positive = {"images": train.images, "batch": train.batch, "log_every": train.log_every, "micro_batch": train.micro_batch or 1}
    for name, value in positive.items():
        if value < 1:
            raise ConfigError(f"--train.{name.replace('_', '-')} is {value}; it must be at least 1")
    if ema.snapshot_every is not None and not ema.stds:
        raise ConfigError("--ema.snapshot-every keeps power-function averages, and there are none; add --ema.stds 0.05 0.1")
    if train.batch > num_images:
        raise DataError(f"the data has {num_images} images, fewer than a batch of {train.batch}; use --train.batch {num_images} or less")
    if train.batch % ranks:
        raise ConfigError(f"a batch of {train.batch} cannot be shared by {ranks} ranks; use a multiple of {ranks}")
