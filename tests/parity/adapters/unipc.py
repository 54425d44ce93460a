"""wl-zhao/UniPC, on formulas; the network and the schedules are those of DPM-Solver."""

from __future__ import annotations

import torch
from tests.parity.adapters.dpm_solver import SPACINGS, Corrected, denoiser_of, schedule_of
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor

from mezzotint.sample.dpm_solver import Leg
from mezzotint.sample.loop import sample
from mezzotint.sample.unipc import UniPC


class Shrinking(UniPC):
    """Multiplies each corrected x by a factor, as the authors' ``correcting_xt_fn`` allows; their network sees it before."""

    factor = 1.0

    def advance(self, leg: Leg, x_t: Tensor, values: tuple[Tensor, ...], lams: tuple[Tensor, ...], order: int, *, correct: bool) -> Tensor:
        x_s = super().advance(leg, x_t, values, lams, order, correct=correct)
        return self.factor * x_s if correct else x_s


@adapter("unipc", "sample")
def unipc(case: Case) -> Outputs:
    schedule = schedule_of(case, clips=False)
    network, denoiser, cond = denoiser_of(case, schedule)
    given, solver = case.config["sample"], case.config["UniPC"]
    to_zero = given.get("denoise_to_zero", False)
    ours = Shrinking(
        order=given["order"],
        variant=solver["variant"],
        prediction=solver.get("algorithm_type", "data_prediction").removesuffix("_prediction"),
        lower_order_final=given.get("lower_order_final", True),
        official=True,
    )
    ours.factor = 0.99 if "correcting_xt_fn" in solver else 1.0
    plan = ours.plan(
        schedule,
        steps=given["steps"] + to_zero,
        spacing=SPACINGS[given["skip_type"]],
        t_start=given.get("t_start"),
        t_end=0.0 if to_zero else given.get("t_end", "last"),
    )
    run = Corrected(ours, first=ours.factor)
    x = ours.factor * sample(denoiser, run, plan, ours.factor * case.inputs["x_T"], cond=cond).x
    # The authors do not correct the last x before they denoise it.
    path = [run.path[-1] if to_zero and i == len(run.states) - 1 else state.x for i, state in enumerate(run.states)]
    return {"x": x, "model_times": torch.stack(network.labels), "intermediates": torch.stack([*path, x])}
