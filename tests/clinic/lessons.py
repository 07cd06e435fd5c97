"""The experiments that textbooks and lectures tell of: sick, treated, and healthy again."""

from __future__ import annotations

from dataclasses import dataclass, field

from .recipe import Recipe


@dataclass(frozen=True)
class Lesson:
    """One experiment."""

    name: str
    sick: Recipe
    verdicts: frozenset[str]
    """Each of them would be right."""
    treated: Recipe = field(default_factory=lambda: Recipe(0))
    """The same without the cause."""


def _lesson(name: str, verdicts: str, sick: Recipe, treated: Recipe) -> Lesson:
    return Lesson(name, sick, frozenset(verdicts.split()), treated)


_LENET = Recipe(1, net="cnn", act="tanh", width=8, steps=250)
_FLAT = Recipe(2, depth=3, init="normal", init_std=0.1, optimizer="sgd", rate=0.3)
_TANH = Recipe(3, act="tanh", depth=10, width=500, init="normal", optimizer="sgd", steps=150)
_DEEP = Recipe(4, depth=20, width=128, init="xavier", optimizer="sgd")
_SIGMOID = Recipe(5, act="sigmoid", depth=8, init="xavier", optimizer="sgd")
_PLAIN = Recipe(6, depth=2, width=128, init="he", optimizer="sgd", validates=True)
_FEW = Recipe(
    7, depth=2, width=256, samples=20, batch_size=10, logs_metric=True, steps=600, rate=0.1
)
_MANY = Recipe(17, data="mixed", samples=1000, width=256, steps=800, logs_metric=True)
_MEMORY = Recipe(
    8, data="memory", net="loop", act="tanh", width=32, depth=1,
    faults=(("recurrent_gain", 0.5),),
)  # fmt: skip
_NORM = Recipe(9, norm="bn", depth=3, batch_size=2, steps=400, rate=0.2)
_SMALL = "init-scale collapsed-activation vanishing-gradient"

LESSONS = [
    _lesson(
        "a LeNet of zeros", "symmetric-init",
        _LENET.with_faults(constant_weights=0.0), _LENET,
    ),
    _lesson(
        "the last layer from N(100, 10)", "init-scale initial-loss",
        _FLAT.with_faults(last_mean=100.0), _FLAT.but(init="he"),
    ),
    _lesson("ten tanh layers at 0.01", _SMALL, _TANH, _TANH.but(init="xavier")),
    _lesson(
        "ten tanh layers at 1", "saturated-activation init-scale",
        _TANH.but(init_std=1.0), _TANH.but(init="xavier"),
    ),
    _lesson("ReLU with Xavier's weights", _SMALL, _DEEP, _DEEP.but(init="he", rate=0.1)),
    _lesson(
        "eight sigmoid layers", f"{_SMALL} saturated-activation",
        _SIGMOID, _SIGMOID.but(act="relu", init="he"),
    ),
    _lesson(
        "a learning rate of 1e-6", "learning-rate-too-low",
        _PLAIN.but(rate=1e-5), _PLAIN,
    ),
    _lesson(
        "a learning rate of 1e6", "learning-rate-too-high",
        _PLAIN.but(rate=1e7), _PLAIN,
    ),
    _lesson(
        "a learning rate that kills", "learning-rate-too-high dead-relu",
        _PLAIN.but(rate=20.0), _PLAIN,
    ),
    _lesson("twenty samples", "overfitting", _FEW, _FEW.but(samples=0, width=64, rate=1.0)),
    _lesson(
        "a thousand samples", "overfitting",
        _MANY, _MANY.but(width=32, depth=1, dropout=0.3),
    ),
    _lesson(
        "one sample a step", "noisy-gradient learning-rate-too-high",
        _PLAIN.but(batch_size=1, rate=1.0, steps=600), _PLAIN.but(batch_size=64),
    ),
    _lesson(
        "a plain recurrent network that forgets", "vanishing-gradient",
        _MEMORY, _MEMORY.but(faults=(("recurrent_gain", 1.0),)),
    ),
    _lesson(
        "pixels from 0 to 255", "unnormalised-input",
        _PLAIN.with_faults(scale=128.0, offset=128.0), _PLAIN,
    ),
    _lesson(
        "validation by its own statistics", "train-validation-shift",
        _PLAIN.with_faults(validation_scale=0.4, validation_offset=1.0), _PLAIN,
    ),
    _lesson(
        "batch norm over two samples", "batch-norm-gap",
        _NORM, _NORM.but(batch_size=32, rate=1.0),
    ),
    _lesson(
        "softmax twice", "output-activation-mismatch",
        _PLAIN.with_faults(out_softmax=1.0), _PLAIN,
    ),
]  # fmt: skip
"""From Stanford's CS231n (2, 3, 4, 6 to 9, 14), Glorot and Bengio 2010 (3, 4, 6), He et al. 2015
(5), Bengio et al. 1994 (13), Wu and He 2018 (16), and what everybody does once (the others)."""
