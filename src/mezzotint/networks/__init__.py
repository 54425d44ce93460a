"""Backbones, one a file: ``forward(x, time_input, cond) -> Tensor``. No schedule and no loss in here."""
