"""Settings of every exchangeable piece, as frozen dataclasses; free of torch, so that ``--help`` is quick.

A config names the piece that it builds by its class attribute ``kind`` (the kind and name in ``mezzotint.registry``). ``to_dict`` and
``from_dict`` turn any of them into the JSON of ``spec.json`` and back.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from mezzotint.errors import ConfigError, unknown

SPEC_VERSION = 1


# --- schedules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiscreteConfig:
    """Noise levels known at ``steps`` knots, given by betas (DDPM, Improved DDPM, ADM)."""

    kind: ClassVar = ("schedule", "discrete")
    betas: Literal["linear", "cosine", "quad", "warmup10", "warmup50", "const", "jsd", "scaled_linear"] = "linear"
    """Name of the table of betas; "scaled_linear" is that of Stable Diffusion."""
    steps: int = 1000
    """Number of noise levels."""
    first: float | None = None
    """First beta of linear, quad and the warm-ups; None: 0.0001, for linear times 1000 / steps."""
    last: float | None = None
    """Last beta of linear, quad and the warm-ups, and the one of const; None: 0.02, for linear times 1000 / steps."""
    custom: tuple[float, ...] | None = None
    """The betas themselves, in place of a named table."""
    interpolate: Literal["log_alpha", "log_sigma", "sigma"] = "log_alpha"
    """What is linear in t between two knots; sigma is meant relative to alpha. "sigma" is how diffusers' Euler and Heun read the table."""
    zero_snr: bool = False
    """Rescale the table so that its last level is pure noise; the network must then predict v or x0."""


@dataclass(frozen=True)
class VPConfig:
    """Continuous variance-preserving schedule."""

    kind: ClassVar = ("schedule", "vp")
    shape: Literal["linear", "cosine"] = "linear"
    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    """Smallest time that training and sampling use."""


@dataclass(frozen=True)
class VEConfig:
    """Variance-exploding schedule; t is sigma itself. EDM's range is 0.002 to 80."""

    kind: ClassVar = ("schedule", "ve")
    sigma_min: float = 0.002
    sigma_max: float = 80.0


@dataclass(frozen=True)
class FlowConfig:
    """Straight path of flow matching: alpha = 1 - t, sigma = t."""

    kind: ClassVar = ("schedule", "flow")
    t_min: float = 1e-3


ScheduleConfig = DiscreteConfig | VPConfig | VEConfig | FlowConfig


# --- networks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UNetConfig:
    """The U-Net of ADM and Improved DDPM, with every flag of theirs, and EDM's version of it."""

    kind: ClassVar = ("network", "unet")
    in_channels: int = 0
    """Channels of x; 0: those of the data."""
    out_channels: int = 0
    """Channels of the output; 0: those of the data, doubled where the variance is learned."""
    low_res_channels: int = 0
    """Channels of the low-resolution condition that is concatenated to x; 0: none."""
    low_res_level: bool = False
    """Whether it is told how much noise that condition has been given, by a second time embedding."""
    num_classes: int | None = None
    """Rows of the label embedding, the null class included; None: no labels."""
    width: int = 128
    """Channels of the finest level before its multiplier."""
    mults: tuple[float, ...] = (1, 2, 2, 2)
    """Width multiplier of each level, finest first."""
    blocks: int = 2
    """Residual blocks a level."""
    attention: tuple[int, ...] = (2, 4)
    """Down-sampling factors at which attention acts."""
    heads: int = 4
    head_channels: int | None = None
    """Channels a head; replaces ``heads``."""
    heads_up: int | None = None
    """Heads on the way up; None: as on the way down."""
    attention_order: Literal["legacy", "new"] = "legacy"
    """How the 3C channels of qkv are laid out: by head, or q, k, v first."""
    scale_shift: bool = True
    """Adaptive group normalisation; otherwise the embedding is added."""
    attention_middle: bool = True
    """Attention at the coarsest resolution, between the two blocks of the middle."""
    resample: Literal["conv", "pool", "block"] = "conv"
    """Strided convolution, plain pooling and repetition, or residual blocks that resample."""
    group_channels: int = 1
    """Fewest channels of a group of the normalisations, of which there are at most 32; EDM's networks have 4."""
    augment: int = 0
    """Numbers of the condition "augment", by which the network is told how an image was augmented; 0: none."""
    dropout: float = 0.0
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder half of the ADM U-Net with a pooling head: the noisy classifier."""

    kind: ClassVar = ("network", "encoder")
    in_channels: int = 0
    """Channels of x; 0: those of the data."""
    out_channels: int = 0
    """Number of classes; 0: that of the data."""
    image_size: tuple[int, int] = (0, 0)
    """Height and width, which the position table of attention pooling needs; 0: those of the data."""
    width: int = 128
    mults: tuple[float, ...] = (1, 2, 3, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (2, 4, 8)
    heads: int = 1
    head_channels: int | None = 64
    attention_order: Literal["legacy", "new"] = "legacy"
    scale_shift: bool = True
    resample: Literal["conv", "pool", "block"] = "block"
    pool: Literal["adaptive", "attention", "spatial", "spatial_v2"] = "attention"
    dropout: float = 0.0
    checkpointing: bool = False


@dataclass(frozen=True)
class DiTConfig:
    """The diffusion transformer with adaptive normalisation; DiT-S/2 unless told otherwise."""

    kind: ClassVar = ("network", "dit")
    in_channels: int = 0
    """Channels of x; 0: those of the data."""
    out_channels: int = 0
    """Channels of the output; 0: those of the data, doubled where the variance is learned."""
    num_classes: int | None = None
    """Rows of the label embedding, the null class included; None: no labels."""
    image_size: tuple[int, int] = (0, 0)
    """Height and width of x in training; 0: those of the data. Other sizes work as well, since positions are fixed."""
    patch: int = 2
    """Side of a patch, in pixels of x."""
    width: int = 384
    """Channels of a token."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 6
    """Attention heads; they divide the width."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's perceptron, in widths."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""


@dataclass(frozen=True)
class UViTConfig:
    """U-ViT: time, conditions and patches are tokens, and long skip connections join the first blocks to the last; U-ViT-S/2."""

    kind: ClassVar = ("network", "uvit")
    in_channels: int = 0
    """Channels of x; 0: those of the data."""
    out_channels: int = 0
    """Channels of the output; 0: those of the data, doubled where the variance is learned."""
    num_classes: int | None = None
    """Rows of the label embedding, the null class included; None: no labels."""
    image_size: tuple[int, int] = (0, 0)
    """Height and width of x, which the learned positions need; 0: those of the data."""
    patch: int = 2
    """Side of a patch, in pixels of x."""
    width: int = 512
    """Channels of a token."""
    depth: int = 12
    """Blocks beside the middle one: half of them, rounded down, before it, and as many after it."""
    heads: int = 8
    """Attention heads; they divide the width."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's perceptron, in widths."""
    qkv_bias: bool = False
    """Whether the projection to q, k, v has a bias."""
    skip: Literal["concat", "add", "none"] = "concat"
    """Long skip connections: a linear layer on both, a sum, or none."""
    conv: bool = True
    """A 3x3 convolution after the last linear layer."""
    time_mlp: bool = False
    """A perceptron on the time's token."""
    text_tokens: int = 0
    """Number of tokens of the condition "text"; 0: none."""
    text_channels: int = 768
    """Channels of a token of the condition "text"."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""


@dataclass(frozen=True)
class SongUNetConfig:
    """The U-Net of score_sde as EDM has it: DDPM++ unless told otherwise; NCSN++ has Fourier waves, residual inputs and a longer filter."""

    kind: ClassVar = ("network", "song_unet")
    in_channels: int = 0
    """Channels of x; 0: those of the data."""
    out_channels: int = 0
    """Channels of the output; 0: those of the data, doubled where the variance is learned."""
    num_classes: int | None = None
    """Classes of the label table; the label of this number stands for no class. None: no labels."""
    augment: int = 0
    """Numbers of the condition "augment", by which the network is told how an image was augmented; 0: none."""
    width: int = 128
    """Channels before the first level."""
    mults: tuple[int, ...] = (2, 2, 2)
    """Width multiplier of each level, finest first."""
    blocks: int = 4
    """Residual blocks a level."""
    attention: tuple[int, ...] = (2,)
    """Down-sampling factors at which attention acts; on the way up only after the last block."""
    embedding: Literal["sinusoidal", "fourier"] = "sinusoidal"
    """Waves of the time: geometrically spaced (DDPM++) or random (NCSN++)."""
    noise_mult: int = 1
    """Number of waves, in widths; NCSN++ has 2."""
    embed_mult: int = 4
    """Length of the time's embedding, in widths."""
    encoder: Literal["plain", "skip", "residual"] = "plain"
    """How the shrunk input enters each level: not at all (DDPM++), added through a 1x1 convolution, or in a chain of its own (NCSN++)."""
    decoder: Literal["plain", "skip"] = "plain"
    """Where the output comes from: the finest level, or the sum over all levels."""
    filter: tuple[int, ...] = (1, 1)
    """Low-pass filter of the resampling along one axis; NCSN++ has 1,3,3,1."""
    dropout: float = 0.1
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""


@dataclass(frozen=True)
class UNet2DConfig:
    """The first U-Net of diffusion models, as DDPM has it; with the settings that diffusers gives it, down to score_sde's NCSN++."""

    kind: ClassVar = ("network", "unet2d")
    in_channels: int = 0
    """Channels of x; 0: those of the data."""
    out_channels: int = 0
    """Channels of the output; 0: those of the data, doubled where the variance is learned."""
    num_classes: int | None = None
    """Rows of the label embedding, the null class included; None: no labels."""
    widths: tuple[int, ...] = (128, 256, 256, 256)
    """Channels of each level, finest first."""
    blocks: int = 2
    """Residual blocks a level."""
    attention: tuple[int, ...] = (2,)
    """Down-sampling factors at which attention acts on the way down."""
    attention_up: tuple[int, ...] | None = None
    """The same on the way up; None: as on the way down."""
    attention_middle: bool = True
    """Attention between the two blocks of the middle."""
    head_channels: int | None = None
    """Channels of an attention head; None: a single head."""
    groups: int = 32
    """Groups of the normalisations."""
    groups_middle: int | None = None
    """Groups before the attention of the middle; None: ``groups``, 0: no normalisation there."""
    eps: float = 1e-6
    """Added to the variance in the normalisations."""
    scale_shift: bool = False
    """Adaptive group normalisation; otherwise the embedding is added."""
    residual_down: tuple[int, ...] = ()
    """Down-sampling factors of the levels that a residual block leads down from, in place of a strided convolution."""
    residual_up: tuple[int, ...] = ()
    """Down-sampling factors of the levels that a residual block leads up from, in place of repetition and a convolution."""
    corner: bool = True
    """Pad strided convolutions at the right and bottom alone."""
    progressive: bool = False
    """Input and output at every level, filtered resampling and scaled sums, as in NCSN++."""
    middle_scale: float = 1.0
    """Factor of the sums in the middle."""
    waves: Literal["sinusoidal", "fourier"] = "sinusoidal"
    """Waves of the time; "fourier" reads the time as sigma: random waves of its logarithm, and an output that is divided by it."""
    wave_shift: float = 1.0
    """Taken from the number of sinusoids in their exponents."""
    sine_first: bool = True
    """Sines before cosines."""
    embed: int | None = None
    """Length of the time's embedding; None: four times the first width."""
    dropout: float = 0.0
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""


@dataclass(frozen=True)
class SR3Config:
    """The U-Net of SR3: that of DDPM with more blocks and levels, told the noise level itself and a low-resolution image."""

    kind: ClassVar = ("network", "sr3")
    in_channels: int = 0
    """Channels of x; 0: those of the data."""
    out_channels: int = 0
    """Channels of the output; 0: those of the data, doubled where the variance is learned."""
    low_res_channels: int = 0
    """Channels of the low-resolution condition that stands before x; 0: none."""
    low_res_level: bool = False
    """Whether it is told how much noise that condition has been given, by a second embedding."""
    num_classes: int | None = None
    """Rows of the label embedding, the null class included; None: no labels."""
    width: int = 64
    """Channels of the finest level before its multiplier."""
    mults: tuple[float, ...] = (1, 2, 4, 8, 8)
    """Width multiplier of each level, finest first."""
    blocks: int = 2
    """Residual blocks a level."""
    attention: tuple[int, ...] = (8,)
    """Down-sampling factors at which attention acts; it always acts at the coarsest resolution, in the middle."""
    groups: int = 32
    """Groups of the normalisations."""
    waves: Literal["level", "index"] = "level"
    """What the time input is: a noise level, from 0 to 1, or the number of a step, as in DDPM."""
    rescale: bool = False
    """Divide the sums of residual blocks and attention by the square root of 2."""
    resample: Literal["conv", "block"] = "conv"
    """Strided convolution, or residual blocks that resample, as in BigGAN."""
    dropout: float = 0.0
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""


NetworkConfig = UNetConfig | EncoderConfig | DiTConfig | UViTConfig | SongUNetConfig | UNet2DConfig | SR3Config


# --- denoiser ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DenoiserConfig:
    """How the network's output becomes E[x0 | x_t]."""

    predicts: Literal["eps", "x0", "v", "score", "scaled_score", "flow", "x_prev", "edm"] = "eps"
    """What the network's output stands for; "scaled_score" is sigma times the score, "edm" Karras et al.'s preconditioning."""
    variance: Literal["fixed_small", "fixed_large", "learned_range", "learned"] = "fixed_large"
    """Reverse variance. The learned ones double the output channels."""
    time_input: Literal[
        "index", "index_1000", "index_clipped", "nearest", "t", "t_999", "t_1000", "log_sigma", "log_half_sigma", "alpha", "alpha_bar"
    ] = "index"
    """What the network is told of the time: the level's index, that index rescaled to 0..1000, the same as DPM-Solver's code tells it where
    it drops the noisiest levels (the others are then spread over the whole range), the index of the level whose sigma/alpha is nearest (the
    network then knows no times between the levels), t, 999 t, 1000 t, log(sigma)/4, log(sigma/2), alpha, or alpha^2."""
    sigma_data: float = 0.5
    """Standard deviation of the data, for "edm"."""


@dataclass(frozen=True)
class CovarianceConfig:
    """How a model knows Var[x0 | x_t], which sampling with the optimal variance needs."""

    method: Literal["analytic", "sn", "npr", "heuristic"] = "analytic"
    """From one number a noise level (Analytic-DPM); from a head that predicts the squared noise (SN-DPM), or the squared error of the
    predicted noise (NPR-DPM); or from the predicted noise alone, as if its square had the mean 1 at every pixel."""
    head: Literal["simple", "block"] = "simple"
    """The head of sn and npr: normalisation and a convolution, or a residual block that is told of the time before them."""
    average: bool = False
    """Take the mean over each image before the variance is clipped."""
    largest: float | None = 1.0
    """The variance is clipped to [0, largest]; 1 is the most that images in [-1, 1] can have. None: no upper limit, for latents."""
    features: int = 0
    """Channels of the network's last features; 0: found out when the head is built."""
    factor: int = 1
    """Pixels of x along a pixel of those features."""


# --- codecs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelConfig:
    """The model works on the images themselves."""

    kind: ClassVar = ("codec", "pixel")


@dataclass(frozen=True)
class VAELatentConfig:
    """The model works on the latents of an autoencoder, which is not trained; Stable Diffusion's unless told otherwise."""

    kind: ClassVar = ("codec", "vae")
    path: str = "stabilityai/sd-vae-ft-ema"
    """Folder or hub name of the autoencoder, in diffusers' format."""
    channels: int = 4
    """Channels of the latents."""
    factor: int = 8
    """Pixels of the image along a pixel of the latents."""
    scale: float | None = None
    """What latents are multiplied by; None: what the autoencoder's settings say, 0.18215 for Stable Diffusion's."""
    shift: float | None = None
    """What is subtracted from latents before; None: what the autoencoder's settings say."""
    posterior: Literal["sample", "mean"] = "sample"
    """Whether encoding draws from the posterior or takes its mean."""


CodecConfig = PixelConfig | VAELatentConfig


# --- conditioning, times, objectives -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelConfig:
    """Class labels, dropped in training with a probability so that classifier-free guidance is possible."""

    kind: ClassVar = ("conditioner", "label")
    num_classes: int = 0
    """Number of classes; 0: that of the data."""
    drop: float = 0.0
    """Probability that a label is replaced by the null class; 0 leaves the null class out."""


@dataclass(frozen=True)
class LowResConfig:
    """The same image at a lower resolution: what super-resolution and the later stages of cascades begin from."""

    kind: ClassVar = ("conditioner", "low_res")
    scale: int = 4
    """Pixels along a pixel of the low-resolution image."""
    down: Literal["bicubic", "bilinear", "area"] = "bicubic"
    """How training makes low-resolution images: antialiased interpolation, or means of squares."""
    degrade: tuple[str, ...] = ()
    """What else is done to them, with strengths drawn for each image: blur,low=0.2,high=2 before the reduction (pixels),
    noise,low=0,high=0.1 and jpeg,low=50,high=95 after it."""
    up: Literal["bicubic", "bilinear"] = "bicubic"
    """How a low-resolution image is brought to the size of x."""
    augment: Literal["none", "linear", "cosine"] = "none"
    """Noise that low-resolution images are given in training: the forward process of these betas, at a level that the network is told."""
    augment_steps: int = 4000
    """Number of levels of that process; level 0 is no noise."""
    blur: float = 0.0
    """Probability that a low-resolution image is blurred in training."""
    blur_sigma: tuple[float, float] = (0.4, 0.6)
    """Range of the standard deviation of that blur, in pixels of the low-resolution image; its kernel is 3x3."""


@dataclass(frozen=True)
class TimesConfig:
    """Law of the training times."""

    law: Literal["uniform", "importance", "lognormal", "loguniform", "noise_level"] = "uniform"
    """Uniform; by the second moment of recent losses (Improved DDPM); log-normal in sigma (EDM); uniform in log sigma (VE); or uniform in
    alpha^2 between two neighbours of the table, so that the network knows every noise level (SR3)."""
    mean: float = -1.2
    """Mean of log sigma, for "lognormal"."""
    std: float = 1.2
    """Standard deviation of log sigma, for "lognormal"."""
    official: bool = False
    """For "noise_level", as the common code has it: one step of the table for the whole batch, and uniform in alpha."""


@dataclass(frozen=True)
class DenoisingConfig:
    """Squared error of the prediction, with or without Improved DDPM's variational term."""

    kind: ClassVar = ("objective", "denoising")
    weighting: Literal["simple", "snr", "truncated_snr", "min_snr", "edm"] = "simple"
    """Weight of each time: 1 in the space of the prediction, or by the signal-to-noise ratio."""
    loss: Literal["l2", "l1"] = "l2"
    """Squared or absolute error."""
    vlb: float = 0.001
    """Weight of the variational bound where the variance is learned (hybrid loss); no effect otherwise."""


@dataclass(frozen=True)
class VLBConfig:
    """The variational bound alone, in bits/dim."""

    kind: ClassVar = ("objective", "vlb")
    rescale: bool = True
    """Multiply the term of the drawn level by the number of levels, so that the loss estimates the whole bound."""


@dataclass(frozen=True)
class RegressionConfig:
    """The error of an image that the network gives at once, from its conditions alone; the models of SR3's comparison."""

    kind: ClassVar = ("objective", "regression")
    loss: Literal["l2", "l1"] = "l2"
    """Squared or absolute error."""


@dataclass(frozen=True)
class ClassifyConfig:
    """Cross-entropy of the class of a noised image."""

    kind: ClassVar = ("objective", "classify")
    noised: bool = True
    """Whether the images are noised; off trains an ordinary classifier at t = 0."""


ObjectiveConfig = DenoisingConfig | VLBConfig | RegressionConfig | ClassifyConfig


# --- priors --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GaussianConfig:
    """Sampling starts from noise."""

    kind: ClassVar = ("prior", "gaussian")


@dataclass(frozen=True)
class OneShotConfig:
    """The network gives the finished image at once, from its conditions alone; no step follows."""

    kind: ClassVar = ("prior", "one_shot")


PriorConfig = GaussianConfig | OneShotConfig


# --- training ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and decay, all counted in images."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 0
    """Images over which the learning rate rises linearly from zero."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to zero at the end of the budget."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None: no clipping."""


@dataclass(frozen=True)
class EMAConfig:
    """Moving averages of the weights."""

    decays: tuple[float, ...] = (0.9999,)
    """One profile for each decay per optimiser step."""
    warmup: bool = True
    """Use min(decay, (1 + step) / (10 + step)), so that a short run is not dominated by the start."""
    stds: tuple[float, ...] = ()
    """Power-function profiles (EDM2), each by its relative standard deviation: its width as a share of the run. They are kept at intervals,
    and `mezzotint ema` makes the average of any other length from two of them, such as 0.05 and 0.1."""
    snapshot_every: int | None = None
    """Images between two snapshots of the power-function profiles; None: a 32nd of the budget."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and what is done to them."""

    path: str = ""
    """Folder, folder of class folders, ZIP of either, .npz (arr_0, arr_1), .tar shards ("x-{000..146}.tar", "x-*.tar" or a URL),
    "hf:NAME_OR_FOLDER[:split]", or "digits"."""
    size: tuple[int, int] | None = None
    """Height and width to bring images to; None: all images must have one size already."""
    fit: Literal["crop", "random", "squash"] = "crop"
    """How images of other shapes reach the size: resize the short side and cut the middle; in training, resize it to at most 1.25
    times the size and cut anywhere; or distort."""
    channels: int | None = None
    """Channels to convert to (1 gray, 3 colour); None: as stored, and all images must agree."""
    flip: bool = False
    """Mirror half of the images, left and right."""
    augment: float = 0.0
    """Probability of each geometric change of an image (EDM: 0.12 to 0.15); the network is told of them, so that samples show none."""
    labels: bool = True
    """Read class folders or arr_1 as labels."""
    split: Literal["all", "train", "test"] = "all"
    """Part of the data, where it has parts."""
    workers: int = 0
    """Processes that decode images beside the training process."""
    column: str | None = None
    """Where examples have several images or labels: the column "image" or "image,label", or the extension of a shard's members."""
    max_unreadable: float = 0.001
    """Share of images that may be unreadable; they are listed, and others stand in for them. 0: none."""


@dataclass(frozen=True)
class TrainConfig:
    """One run of the trainer. All amounts are counted in images, so that they do not depend on the batch."""

    images: int = 1_000_000
    """Budget: training ends after this many images."""
    batch: int = 128
    """Images an optimiser step, over all ranks."""
    micro_batch: int | None = None
    """Images a forward pass and rank; smaller than the rank's share of the batch accumulates gradients."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0
    save_every: int | None = None
    """Images between checkpoints; None: a tenth of the budget."""
    sample_every: int | None = None
    """Images between sample grids; None: a tenth of the budget, 0: never."""
    sample_num: int = 16
    """Images of a sample grid."""
    log_every: int = 50
    """Steps between two lines of the log."""
    keep: int = 2
    """Newest checkpoints that are kept; 0: all."""
    keep_every: int = 0
    """Also keep, for good, the first checkpoint after each multiple of so many images; 0: none."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """What 25 steps in a row that are not finite lead to: the end, or the last good state and half the learning rate."""
    timeout: float = 1800
    """Seconds that a rank waits for the others before the run ends with their names."""
    sharding: Literal["none", "fsdp"] = "none"
    """What ranks keep: all of the model, or with fsdp a part of weights, averages, gradients and optimiser, for large models."""
    trackers: tuple[str, ...] = ()
    """Trackers beside TensorBoard and log.jsonl, as Accelerate names them: wandb, trackio, mlflow, ..."""
    held_out: float = 0.0
    """Share of the images that are not trained on; their loss is compared with that of as many others at each checkpoint."""
    fd_every: int = 0
    """Images between two quick Frechet distances of samples to the data; 0: never."""
    fd_num: int = 2000
    """Samples of such a distance, which is named after it: fd2k."""
    fd_steps: int = 20
    """Sampling steps of those samples."""
    fd_features: str = "pixels"
    """What is compared: pixels, the folder of a classifier, or a feature network as in "inception,weights=FILE"."""
    compile: bool = False
    """Compile the networks with torch.compile."""


# --- sampling ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleConfig:
    """How a model is sampled unless the caller says otherwise; stored with the model."""

    sampler: str = "ancestral"
    """A sampler with its settings, as in "ddim,eta=0.5"."""
    steps: int | None = None
    """Number of steps; None: every level the network knows, or 50 where it knows a continuum."""
    grid: str = "uniform"
    """Spacing of the times, or an official respacing rule such as "250", "ddim25" or "10,15,20"."""
    clip: bool = True
    """Clip the estimate of x0 to [-1, 1] at each step."""
    level: float = 0.0
    """Noise that a low-resolution condition is given, as a time of the process of ``low_res.augment``; 0: none, 1: nothing else is left."""
    truncated: bool = False
    """In a cascade: the stage before stops at that noise, rather than finish its images, which then get it."""
    guidance: tuple[str, ...] = ()
    """Guidances, the innermost first, as in "cfg,scale=2"."""


# --- recipe --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """All that is needed to train a model; with the parts that the data fills in, also all that is needed to rebuild it."""

    name: str
    """Name of the recipe that this one began as."""
    task: Literal["generate", "classify"]
    """What the trained model is for."""
    net: NetworkConfig
    schedule: ScheduleConfig
    objective: ObjectiveConfig
    denoiser: DenoiserConfig = DenoiserConfig()
    label: LabelConfig | None = None
    """Class conditioning; None: unconditional. Not used by classifiers."""
    low_res: LowResConfig | None = None
    """The image at a lower resolution as a condition; None: the model needs no image to begin from."""
    times: TimesConfig = TimesConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    ema: EMAConfig = EMAConfig()
    sample: SampleConfig = SampleConfig()
    codec: CodecConfig = PixelConfig()
    """Space that the network works in."""
    prior: PriorConfig = GaussianConfig()
    """Where sampling starts."""
    cite: tuple[str, ...] = ()
    """Papers to cite, as keys of docs/citations."""
    score: str = ""
    """What the published model of these settings scored; empty where there is none."""


@dataclass(frozen=True)
class DataFacts:
    """What a model must know of the data that it was trained on."""

    channels: int = 3
    size: tuple[int, int] = (32, 32)
    """Height and width."""
    classes: tuple[str, ...] = ()
    """Name of each label, in order; empty: no labels."""
    bits: Literal[8, 16] = 8
    """Bits a channel of the files."""


@dataclass(frozen=True)
class Spec:
    """Contents of ``spec.json``: the resolved recipe, what the data was, and what the weight files are."""

    recipe: Recipe
    data: DataFacts
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Weight file -> what it holds: ``{"ema": decay or None, "images": count, "sha256": hash}``."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the model came from, for people."""
    before: tuple[str, ...] = ()
    """For a cascade: the subfolders of the stages before this one, in order."""
    covariance: CovarianceConfig | None = None
    """How it knows Var[x0 | x_t], if it does; its table or head is the weight file of the network "covariance"."""
    version: int = SPEC_VERSION


# --- JSON ----------------------------------------------------------------------------------------------------------------

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """Turns a config into plain dictionaries, lists, strings and numbers."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        out: dict[str, Any] = {}
        kind = getattr(config, "kind", None)
        if kind is not None:
            out["kind"] = kind[1]
        for f in dataclasses.fields(config):
            out[f.name] = to_dict(getattr(config, f.name))
        return out
    if isinstance(config, list | tuple):
        return [to_dict(v) for v in config]
    if isinstance(config, dict):
        return {k: to_dict(v) for k, v in config.items()}
    return config


def from_dict(cls: type[T], value: Any) -> T:
    """Builds a config from what ``to_dict`` made.

    Raises:
        ConfigError: An unknown key, a missing key, an unknown kind, or a value of the wrong type.
    """
    return _build(cls, value, cls.__name__)


def _build(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        configs: list[Any] = [o for o in options if dataclasses.is_dataclass(o)]
        tagged = {o.kind[1]: o for o in configs if hasattr(o, "kind")}
        if tagged and isinstance(value, dict):
            name = value.get("kind")
            if name not in tagged:
                raise unknown(f"kind of {where}", name, tagged)
            return _build(tagged[name], value, where)
        for option in options:
            try:
                return _build(option, value, where)
            except ConfigError:
                continue
        raise ConfigError(f"{where}: {value!r} is not one of {hint}")
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise unknown(where, value, typing.get_args(hint))
        return value
    if origin in (tuple, list):
        args = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        if len(args) == 2 and args[1] is not Ellipsis and len(value) != 2:
            raise ConfigError(f"{where}: expected two values, got {value!r}")
        item = args[0] if args else Any
        return tuple(_build(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, got {value!r}")
        return dict(value)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, got {value!r}")
        hints = typing.get_type_hints(hint)
        known = {f.name: f for f in dataclasses.fields(hint)}
        given = {k: v for k, v in value.items() if k != "kind" or "kind" in known}
        for key in given:
            if key not in known:
                raise unknown(f"setting of {where}", key, known)
        for name, f in known.items():
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if required and name not in given:
                raise ConfigError(f"{where}: '{name}' is missing")
        make: Any = hint
        return make(**{k: _build(hints[k], v, f"{where}.{k}") for k, v in given.items()})
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool, type(None)):
        wanted = type(None) if hint is None else hint
        if not isinstance(value, wanted) or (hint is int and isinstance(value, bool)):
            raise ConfigError(f"{where}: expected {wanted.__name__}, got {value!r}")
        return value
    return value
