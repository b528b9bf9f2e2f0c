"""Specification of a run: `RunSpec` with its `Recipe` and `Scoring`, and the `Grid` that spans many runs.

Only a `RunSpec` crosses a process or node boundary, as JSON. It defines the computation, not its execution: device,
workers and cluster are not part of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from pbt_bench import identity
from pbt_bench.constraints import Checked, Constraint, at_least, between, convert, fields, matching, one_of
from pbt_bench.errors import RequestError
from pbt_bench.mask_update_schedules import SCHEDULES
from pbt_bench.pattern_names import parse

DENSE = "dense"  # method name of the baseline, which is neither scored nor pruned

Count = Annotated[int, at_least(0)]
Positive = Annotated[int, at_least(1)]
Fraction = Annotated[float, between(0, 1)]
Rate = Annotated[float, at_least(0)]
Value = bool | int | float | str
AllSamples = Annotated[str, Constraint("a whole number or 'all'", lambda value: value == "all")]
Revision = int | str  # a number, or a digest of the source of a file outside the project
Seed = Annotated[int, Constraint("at least 0 and below 2^63", lambda value: 0 <= value < 2**63)]
Sparsity = Annotated[float, Constraint("at least 0 and below 1", lambda value: 0 <= value < 1)]
_DURATION = r"[1-9]\d* (epochs|steps)"
EARLY_CROP = "early_crop"  # the warm-up that ends by the rule of EarlyCroP
_WARMUPS = "'none', 'N epochs', 'N steps', 'early_crop' or 'early_crop F' with a decimal number F between 0 and 1"
Warmup = Annotated[str, matching(rf"none|{_DURATION}|{EARLY_CROP}( 0\.\d*[1-9])?", _WARMUPS)]
Rewind = Annotated[str, matching(rf"0|{_DURATION}", "'0', 'N epochs' or 'N steps'")]  # type of an option of a statistic
_INITS = "'default', 'kaiming', 'orthogonal', 'pretrained' or 'pretrained FILE'"
Init = Annotated[str, matching(r"default|kaiming|orthogonal|pretrained( \S.*)?", _INITS)]
_FOLDER_TEXT = "letters, digits, '.', '_' or '-' (it names a folder)"
PatternName = Annotated[str, Constraint("'none', 'channel' or 'N:M'", lambda value: parse(value) or True)]
FolderName = Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", _FOLDER_TEXT)]

READ_BY = {  # field of Recipe: the field on which its use depends, and the values with which it is used
    "momentum": ("optimizer", ("sgd",)),
    "nesterov": ("optimizer", ("sgd",)),
    "milestones": ("schedule", ("multistep",)),
    "gamma": ("schedule", ("multistep",)),
    "crop_padding": ("augment", ("crop", "crop-flip")),
}


class Recipe(Checked, frozen=True, kw_only=True):
    """Settings of the training of a masked model."""

    epochs: Count = 15
    optimizer: Annotated[str, one_of("sgd", "adamw")] = "sgd"
    learning_rate: Rate = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: Rate = 5e-4
    schedule: Annotated[str, one_of("constant", "multistep", "cosine")] = "cosine"
    milestones: tuple[int, ...] = ()  # numbers of finished epochs after which the learning rate is multiplied by gamma
    gamma: Fraction = 0.1
    warmup_epochs: Count = 0  # linear rise of the learning rate; not the dense `warmup` before scoring
    batch_size: Positive = 128
    augment: Annotated[str, one_of("none", "crop", "flip", "crop-flip")] = "none"
    crop_padding: Count = 4  # pixels, for augment = "crop" or "crop-flip"
    label_smoothing: Fraction = 0.0
    precision: Annotated[str, one_of("float32", "bfloat16")] = "float32"
    validation_fraction: Annotated[float, between(0, 0.9)] = 0.1  # of the training images, stratified by class
    split_seed: Seed = 0  # of the validation split; independent of the seed of the run
    training_images: Positive | None = None  # of those outside the validation split, stratified by class; None: all
    label_noise: Annotated[float, between(0, 1)] = 0.0  # share of the training labels replaced by other labels
    threads: Annotated[int, between(1, 1024)] = 1  # CPU threads; the last bits of a result depend on them
    test_every_epoch: bool = False  # for best_test_accuracy_over_epochs, as papers report; never the main result
    # execution of masked layers: sparsely where a fixed rule of mask and shapes predicts a speed-up ("auto"), never
    # ("dense"), or wherever that saves a multiplication ("compact")
    execution: Annotated[str, one_of("auto", "dense", "compact")] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "multistep" and not self.milestones:
            raise RequestError("schedule = 'multistep' needs milestones, for example milestones = [60, 120]")
        for name in self.unused():
            if getattr(self, name) != _DEFAULTS[name]:
                raise self.unused_error(name)
        if self.nesterov and self.momentum == 0:
            raise RequestError("nesterov = true needs momentum above 0")

    def unused(self) -> list[str]:
        """Return the fields that are not read with this optimizer, schedule and augment; they keep their defaults."""
        return [name for name, (choice, values) in READ_BY.items() if getattr(self, choice) not in values]

    def unused_error(self, name: str) -> RequestError:
        """Return the error for the field `name`, one of `unused`, that is given nevertheless."""
        choice, values = READ_BY[name]
        valid = " or ".join(repr(value) for value in values)
        return RequestError(f"{name} is for {choice} = {valid}, not {getattr(self, choice)!r}")


_DEFAULTS = {field.name: field.default for field in fields(Recipe)}


class Scoring(Checked, frozen=True, kw_only=True):
    """Settings of the computation of scores: data, BatchNorm mode and numbers."""

    samples_per_class: Positive | AllSamples = 10  # training images; of a smaller class, all images
    most_samples: Positive | None = None  # in total, drawn at random from these
    batch_size: Positive = 128
    # samples propagated at once, which changes no score; None: whole batches, for per-sample statistics 32 (GPU: 256)
    chunk: Positive | None = None
    fisher_batch_size: Positive = 1  # samples per squared gradient; 1: the per-sample empirical Fisher
    augment: bool = False  # augment the images as the recipe does; no change if its augment is "none"
    prune_classifier: bool = True
    # BatchNorm while scoring: the running statistics of the model, those of each batch, or running statistics that are
    # computed on the scoring data first
    batchnorm: Annotated[str, one_of("running", "batch", "calibrated")] = "running"
    rounds: Positive | None = None  # of an iterative method; None: the number that the method declares
    batches: Positive | None = None  # number of batches, equal up to one sample; replaces batch_size
    # order of the scoring samples: "class" sorts them by class, "cycle" takes one sample of each class in turn
    order: Annotated[str, one_of("shuffled", "class", "cycle")] = "shuffled"
    new_batches: bool = False  # an iterative method draws new scoring samples in every round
    # divides the logits in gradient, fisher_diagonal and hessian_diagonal
    loss_temperature: Annotated[float, at_least(1e-6)] = 1.0


class RunSpec(Checked, frozen=True, kw_only=True):
    """One run: everything that its result depends on."""

    dataset: str
    model: str
    method: str
    sparsity: Sparsity
    seed: Seed
    scope: str = "global"
    sanity: Annotated[str, one_of("none", "shuffle", "reinit", "invert")] = "none"
    warmup: Warmup = "none"
    rewind: bool = False
    init: Init = "default"
    protocol: Annotated[str, one_of("common", "original")] = "common"
    recipe: Recipe = Recipe()
    scoring: Scoring = Scoring()
    pattern: PatternName = "none"
    mask_updates: Annotated[str, one_of("none", *SCHEDULES)] = "none"
    update_options: dict[str, Value] = msgspec.field(
        default_factory=dict
    )  # of the mask updates, where they differ from the default
    options: dict[str, Value] = msgspec.field(
        default_factory=dict
    )  # of the method and its statistics, where they differ from the default
    revisions: dict[str, Revision] = msgspec.field(
        default_factory=dict
    )  # of the code that the result depends on, where it is not 1

    def __hash__(self) -> int:
        parts = (self.dataset, self.model, self.method, self.sparsity, self.seed, self.scope, self.sanity, self.pattern)
        return hash(
            (*parts, self.warmup, self.protocol, self.mask_updates)
        )  # the generated hash would need options that can be hashed

    @property
    def run_id(self) -> str:
        """The first 16 hex digits of the SHA-256 of `to_json`."""
        return identity.run_id(self)

    def to_json(self) -> bytes:
        """Return the canonical JSON of this run, from which its id is computed (see identity.py)."""
        return identity.canonical_json(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> RunSpec:
        """Read the output of `to_json`, also of version 0.1.

        Raises RequestError for invalid JSON, unknown fields and invalid values.
        """
        try:
            table = msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"run: not JSON: {error}") from None
        return convert(identity.with_options(table), cls, "run")

    @property
    def group(self) -> tuple[object, ...]:
        """A key that is equal for runs with the same initial weights and scoring data, which share statistics."""
        warm = self.recipe if self.warmup != "none" else self.recipe.split_seed
        length = self.sparsity if self.warmup == EARLY_CROP else None  # the sparsity sets the threshold of the rule
        images = (self.recipe.training_images, self.recipe.label_noise)
        return (self.dataset, self.model, self.seed, self.init, self.warmup, self.rewind, warm, length, images)

    @property
    def label(self) -> str:
        """A short name to print, for example `digits resnet8 snip 0.98 seed 0`."""
        if self.method == DENSE:
            return f"{self.dataset} {self.model} dense seed {self.seed}"
        values = {name: getattr(self, name) for name in ("scope", "sanity", "warmup", "init", "protocol", "pattern")}
        usual = ("global", "none", "default", "common")
        extras = [f"{name} {value}" for name, value in values.items() if value not in usual]
        return " ".join([self.dataset, self.model, self.variant, f"{self.sparsity:g}", f"seed {self.seed}", *extras])

    @property
    def variant(self) -> str:
        """The method with its options and mask updates, for example `fts`, `fts (alpha 0.3)` or `fts (rigl)`."""
        return variant_name(self.method, self.options, self.mask_updates, self.update_options)


def variant_name(
    method: str, options: Mapping[str, Value], mask_updates: str, update_options: Mapping[str, Value]
) -> str:
    """Return a method's name with its options and mask updates in brackets."""
    texts = [f"{name} {_shown(value)}" for name, value in sorted(options.items())]
    if mask_updates != "none":
        texts.append(mask_updates)
    texts += [f"{name} {_shown(value)}" for name, value in sorted(update_options.items())]
    return f"{method} ({', '.join(texts)})" if texts else method


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


class Axes(Checked, frozen=True, kw_only=True):
    """The lists of values whose product is the study."""

    dataset: tuple[str, ...]
    model: tuple[str, ...]
    method: tuple[str, ...]
    sparsity: tuple[float, ...]
    seed: tuple[int, ...]
    scope: tuple[str, ...] = ("global",)
    sanity: tuple[str, ...] = ("none",)
    warmup: tuple[str, ...] = ("none",)
    rewind: tuple[bool, ...] = (False,)
    init: tuple[str, ...] = ("default",)
    protocol: tuple[str, ...] = ("common",)
    pattern: tuple[str, ...] = ("none",)
    mask_updates: tuple[str, ...] = ("none",)

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not getattr(self, name):
                raise RequestError(f"{name} is empty: every axis needs at least one value")


class Grid(Checked, frozen=True, kw_only=True):
    """A study: the product of its axes. Its results are kept in `results/<name>/`."""

    name: FolderName
    grid: Axes
    recipe: Recipe = Recipe()
    scoring: Scoring = Scoring()
    varied: dict[str, tuple[Any, ...]] = msgspec.field(
        default_factory=dict
    )  # "recipe.learning_rate" -> the values of a list in [recipe] or [scoring]
    options: dict[str, tuple[dict[str, Value], ...]] = msgspec.field(
        default_factory=dict
    )  # method or mask updates -> the option sets with which it is run
    revisions: dict[str, dict[str, Revision]] = msgspec.field(default_factory=dict)  # "method NAME" -> those of a run
    dense: bool = True

    def runs(self) -> list[RunSpec]:
        """Return all runs without duplicates, group by group, the dense baseline of a group first.

        Without a warm-up, `rewind` has no effect: runs that differ only in `rewind` are one run. Options have no effect
        with protocol = "original". A pattern N:M is run at the sparsity 1 - N/M only. The dense baseline is not scored:
        it has the first values of [scoring].
        """
        axes = msgspec.structs.asdict(self.grid)
        inner = ("method", "scope", "sanity", "protocol", "pattern", "mask_updates", "sparsity")
        outer = [name for name in axes if name not in inner]
        found: dict[RunSpec, None] = {}
        for outer_values in itertools.product(*(axes[name] for name in outer)):
            group = dict(zip(outer, outer_values, strict=True))
            group["rewind"] = group["rewind"] and group["warmup"] != "none"
            for settings in self._settings():
                if self.dense:
                    base = {name: group[name] for name in ("dataset", "model", "seed", "init")}
                    base |= {"method": DENSE, "sparsity": 0.0, "recipe": settings["recipe"], "scoring": self.scoring}
                    found[RunSpec(**base, revisions=self._revisions(base))] = None
                for inner_values in itertools.product(*(axes[name] for name in inner)):
                    run = group | settings | dict(zip(inner, inner_values, strict=True))
                    if (pattern := parse(run["pattern"])) and not pattern.allows(run["sparsity"]):
                        continue
                    run["revisions"] = self._revisions(run)
                    for update_options in self.options.get(run["mask_updates"], ({},)):
                        for options in self.options.get(run["method"], ({},)):
                            used = {} if run["protocol"] == "original" else options
                            found[RunSpec(**run, options=used, update_options=update_options)] = None
        return list(found)

    def _revisions(self, run: Mapping[str, Any]) -> dict[str, Revision]:
        """Return the revisions of everything that a run depends on."""
        keys = [
            "training",
            *(f"{axis} {run.get(axis)}" for axis in ("dataset", "model", "method", "scope", "protocol")),
        ]
        return {name: value for key in keys for name, value in self.revisions.get(key, {}).items()}

    def _settings(self) -> Iterator[dict[str, Any]]:
        """Yield recipe and scoring for every combination of their varied fields."""
        for values in itertools.product(*self.varied.values()):
            settings: dict[str, Any] = {"recipe": self.recipe, "scoring": self.scoring}
            for key, value in zip(self.varied, values, strict=True):
                part, name = key.split(".")
                settings[part] = msgspec.structs.replace(settings[part], **{name: value})
            yield settings
