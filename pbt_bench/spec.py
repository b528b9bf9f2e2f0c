"""What a run IS: `RunSpec` with its `Recipe` and `Scoring`, and the `Grid` that spans many of them.

A `RunSpec` is the only thing that crosses a process or node boundary (as JSON). Its identity is the
SHA-256 of its canonical JSON (`RunSpec.to_json`). How it is executed (device, workers, cluster) is not in it.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from pbt_bench.errors import RequestError, unknown
from pbt_bench.recipes import PRESETS

DENSE = "dense"  # the method name of the baseline: nothing is scored, nothing is pruned

_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("constant", "multistep", "cosine"),
    "augment": ("none", "crop", "flip", "crop-flip"),
    "precision": ("float32", "bfloat16"),
    "curvature": ("hutchinson", "ggn"),
    "order": ("shuffled", "class", "cycle"),
    "batchnorm": ("running", "batch", "calibrated"),
    "scope": ("global", "layer", "erk", "uniform"),
    "sanity": ("none", "shuffle", "reinit", "invert"),
    "init": ("default", "kaiming"),
    "execution": ("auto", "dense", "compact"),
    "protocol": ("common", "original"),
}
_WARMUP = re.compile(r"none|[1-9]\d* (epochs|steps)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, typed, no unknown fields, one spelling per value (a float field never holds an int)."""

    def __post_init__(self) -> None:
        floats, chosen = _fields_to_check(type(self))
        for name in floats:
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool):
                msgspec.structs.force_setattr(self, name, float(value))
        for name in chosen:
            value = getattr(self, name)
            if isinstance(value, str) and value not in _CHOICES[name]:
                raise unknown(f"{name} value", value, _CHOICES[name])
        for name, low, high in self._ranges():
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not low <= value <= high:
                bound = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
                raise RequestError(f"{name} = {value!r} must be {bound}")

    @staticmethod
    def _ranges() -> Sequence[tuple[str, float, float]]:
        """(field, lowest, highest) of the numbers that have bounds."""
        return ()


@cache  # fields() reads annotations each time: at 100,000 runs, seconds
def _fields_to_check(kind: type[_Strict]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the float fields, and of those with a closed list of values."""
    fields = msgspec.structs.fields(kind)
    return (
        tuple(field.name for field in fields if field.type is float),
        tuple(field.name for field in fields if field.name in _CHOICES),
    )


@cache
def _defaults(kind: type[_Strict]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


_INF = float("inf")


class Recipe(_Strict, frozen=True, kw_only=True):
    """How a masked model is trained. Learning rates are per step, decays at the START of a milestone epoch."""

    epochs: int = 15
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()  # epochs after which the learning rate is multiplied by gamma
    gamma: float = 0.1
    warmup_epochs: int = 0  # linear rise of the learning rate; not the dense `warmup` before scoring
    batch_size: int = 128
    augment: str = "none"
    crop_padding: int = 4  # pixels, for augment = crop
    label_smoothing: float = 0.0
    precision: str = "float32"
    validation_fraction: float = 0.1  # of the training images, stratified; never of the test set
    split_seed: int = 0  # of that split; independent of the run's seed
    threads: int = 1  # CPU threads of the run: the bits of a result depend on it, so it is part of the run
    test_every_epoch: bool = False  # for best_test_accuracy_over_epochs, which papers print; never the headline
    execution: str = "auto"  # a masked network: of what is kept where a fixed rule of mask and shapes says it pays

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "multistep" and not self.milestones:
            raise RequestError("schedule = 'multistep' needs milestones, for example milestones = [60, 120]")
        if self.schedule != "multistep" and self.milestones:
            raise RequestError(f"milestones are for schedule = 'multistep', not {self.schedule!r}")
        defaults = _defaults(type(self))
        for name in self.unused():
            if getattr(self, name) != defaults[name]:
                raise self.unused_error(name)
        if self.nesterov and self.momentum == 0:
            raise RequestError("nesterov = true needs momentum above 0")

    def unused(self) -> tuple[str, ...]:
        """Fields that this recipe's optimizer, schedule and augment do not read: they keep their defaults."""
        return (
            *(("momentum", "nesterov") if self.optimizer != "sgd" else ()),
            *(("gamma",) if self.schedule != "multistep" else ()),
            *(("crop_padding",) if "crop" not in self.augment else ()),
        )

    def unused_error(self, name: str) -> RequestError:
        """The error for a given field that is one of `unused`."""
        if name in ("momentum", "nesterov"):
            return RequestError(
                f"{name} is not a field of optimizer = {self.optimizer!r} (learning_rate, weight_decay)"
            )
        if name == "gamma":
            return RequestError(f"gamma is for schedule = 'multistep', not {self.schedule!r}")
        return RequestError(f"{name} is for augment = 'crop' or 'crop-flip', not {self.augment!r}")

    @staticmethod
    def _ranges() -> Sequence[tuple[str, float, float]]:
        return (
            ("epochs", 0, _INF),
            ("learning_rate", 0, _INF),
            ("momentum", 0, 1),
            ("weight_decay", 0, _INF),
            ("gamma", 0, 1),
            ("warmup_epochs", 0, _INF),
            ("batch_size", 1, _INF),
            ("crop_padding", 0, _INF),
            ("label_smoothing", 0, 1),
            ("validation_fraction", 0, 0.9),
            ("split_seed", 0, 2**63 - 1),
            ("threads", 1, 1024),
        )


class Scoring(_Strict, frozen=True, kw_only=True):
    """On what data, in which mode and with which numbers scores are computed."""

    samples_per_class: int | Literal["all"] = 10  # training images; a class that has fewer gives all it has
    most_samples: int | None = None  # in all, drawn at random from the above
    batch_size: int = 128
    chunk: int | None = None  # samples propagated at once; None = whole batches, per-sample statistics 32 (GPU: 256)
    fisher_batch_size: int = 1  # samples per squared gradient; 1 = the per-sample empirical Fisher
    augment: bool = False  # as the recipe augments training images (not at all where its augment is "none")
    prune_classifier: bool = True
    batchnorm: str = "running"  # "running" as the model stands | "batch" | "calibrated" on the scoring data
    temperature: float = 200.0  # of the loss whose gradient flow GraSP measures
    curvature: str = "hutchinson"  # of hessian_diagonal: an estimate, or "ggn", exact for ReLU networks
    probes: int = 100  # Rademacher vectors of Hutchinson's estimate, at least
    probe_tolerance: float | None = None  # its relative standard error, with as many more probes as that takes
    perturbations: int = 5  # NTK-SAP: draws of weights, inputs and perturbations per batch and round
    perturbation_scale: float = 0.01  # NTK-SAP: standard deviation of the weight perturbation
    inner_steps: int = 3  # ProsPr: steps of training that the score looks through
    inner_learning_rate: float = 0.1
    inner_momentum: float = 0.0
    rounds: int | None = None  # of an iterative method; None = the method's own number
    batches: int | None = None  # number of batches, equal up to one sample, in place of batch_size
    order: str = "shuffled"  # of the scoring samples | "class": sorted by class | "cycle": one of each class in turn
    new_batches: bool = False  # an iterative method draws new scoring samples in every round
    loss_temperature: float = 1.0  # divides the logits in gradient, fisher_diagonal and hessian_diagonal
    probes_per_batch: bool = False  # Hutchinson's estimate draws `probes` new probes for every batch
    signed: bool = False  # hutchinson_diagonal and hutchinson_pruning rank the signed score, not its absolute value

    @staticmethod
    def _ranges() -> Sequence[tuple[str, float, float]]:
        return (
            ("samples_per_class", 1, _INF),
            ("most_samples", 1, _INF),
            ("chunk", 1, _INF),
            ("batch_size", 1, _INF),
            ("fisher_batch_size", 1, _INF),
            ("temperature", 1e-6, _INF),
            ("probes", 1, _INF),
            ("probe_tolerance", 1e-4, _INF),
            ("perturbations", 1, _INF),
            ("perturbation_scale", 1e-12, _INF),
            ("inner_steps", 1, _INF),
            ("inner_learning_rate", 0, _INF),
            ("inner_momentum", 0, 1),
            ("rounds", 1, _INF),
            ("batches", 1, _INF),
            ("loss_temperature", 1e-6, _INF),
        )


class RunSpec(_Strict, frozen=True, kw_only=True):
    """One run: everything that its result depends on."""

    dataset: str
    model: str
    method: str
    sparsity: float
    seed: int
    scope: str = "global"
    sanity: str = "none"
    warmup: str = "none"
    rewind: bool = False
    init: str = "default"
    protocol: str = "common"
    recipe: Recipe = Recipe()
    scoring: Scoring = Scoring()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sparsity < 1:
            raise RequestError(f"sparsity = {self.sparsity!r} must be at least 0 and below 1")
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"seed = {self.seed!r} must be at least 0 and below 2^63")
        if not _WARMUP.fullmatch(self.warmup):
            raise RequestError(f"warmup = {self.warmup!r} must be 'none', 'N epochs' or 'N steps'")

    @property
    def run_id(self) -> str:
        """First 16 hex digits of the SHA-256 of `to_json`."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no white space, every field of format 1, later fields unless at their default.

        Adding a field therefore changes no existing run id.
        """
        return msgspec.json.encode(_canonical(self), order="sorted")

    @classmethod
    def from_json(cls, text: bytes | str) -> RunSpec:
        """The inverse of `to_json`. Raises RequestError if it is not JSON or a field is unknown or out of range."""
        try:
            table = msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"run: not JSON: {error}") from None
        return convert(table, cls, "run")

    @property
    def group(self) -> tuple[object, ...]:
        """Runs with the same group start from the same weights and scoring data, so they share statistics."""
        warm = self.recipe if self.warmup != "none" else self.recipe.split_seed
        return (self.dataset, self.model, self.seed, self.init, self.warmup, self.rewind, warm)

    @property
    def label(self) -> str:
        """Short name for people: `digits resnet8 snip 0.98 seed 0`."""
        if self.method == DENSE:
            return f"{self.dataset} {self.model} dense seed {self.seed}"
        extras = [
            f"{name} {value}"
            for name in ("scope", "sanity", "warmup", "init", "protocol")
            if (value := getattr(self, name)) not in ("global", "none", "default", "common")
        ]
        return " ".join([self.dataset, self.model, self.method, f"{self.sparsity:g}", f"seed {self.seed}", *extras])


_FORMAT_1 = {Recipe: 20, Scoring: 18, RunSpec: 13}  # number of fields in version 0.1; later fields follow them


def _canonical(value: _Strict) -> dict[str, Any]:
    found = {}
    for index, (name, default) in enumerate(_defaults(type(value)).items()):
        field = getattr(value, name)
        if index < _FORMAT_1[type(value)] or field != default:
            found[name] = _canonical(field) if isinstance(field, _Strict) else field
    return found


class Axes(_Strict, frozen=True, kw_only=True):
    """The lists whose product is the study."""

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

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            if not getattr(self, field.name):
                raise RequestError(f"{field.name} is empty: every axis needs at least one value")


class Grid(_Strict, frozen=True, kw_only=True):
    """A study: axes x recipe x scoring. Its results live in `results/<name>/`."""

    name: str
    grid: Axes
    recipe: Recipe = Recipe()
    scoring: Scoring = Scoring()
    dense: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RequestError(f"name = {self.name!r} must be letters, digits, '.', '_' or '-' (it names a folder)")

    def runs(self) -> list[RunSpec]:
        """All runs, each once: group by group, the dense baseline of a group first.

        Without a warm-up there is nothing to rewind from: such runs are the same whatever `rewind` says.
        """
        axes = msgspec.structs.asdict(self.grid)
        shared: dict[str, Any] = {"recipe": self.recipe, "scoring": self.scoring}
        inner = ("method", "scope", "sanity", "protocol", "sparsity")
        outer = [name for name in axes if name not in inner]
        found: dict[RunSpec, None] = {}
        for place in itertools.product(*(axes[name] for name in outer)):
            here = dict(zip(outer, place, strict=True)) | shared
            here["rewind"] = here["rewind"] and here["warmup"] != "none"
            if self.dense:
                base = {name: here[name] for name in ("dataset", "model", "seed", "init")}
                found[RunSpec(method=DENSE, sparsity=0.0, **base, **shared)] = None
            for what in itertools.product(*(axes[name] for name in inner)):
                found[RunSpec(**here, **dict(zip(inner, what, strict=True)))] = None
        return list(found)


def load_grid(path: str | Path, overrides: Iterable[str] = ()) -> Grid:
    """Read and check a grid file; `overrides` are `key=value` with dotted keys and TOML values.

    Raises RequestError, in one line, naming the file and the nearest valid key or the valid range.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not a TOML file: {error}") from None
    if isinstance(table.get("recipe"), str):
        table["recipe"] = {"preset": table["recipe"]}
    for override in overrides:
        _override(table, override)
    _expand_preset(table, str(path))
    axes = table.get("grid")
    if isinstance(axes, dict):
        if "dense" in axes:  # written below [grid] it means the same
            table["dense"] = axes.pop("dense")
        for key, value in axes.items():
            if not isinstance(value, (list, dict)):
                axes[key] = [value]
    grid = check_grid(table, str(path))
    for name in grid.recipe.unused():  # written at its default it would be ignored in silence
        if name in table.get("recipe", {}):
            raise RequestError(f"{path}: recipe: {grid.recipe.unused_error(name)}")
    return grid


_NUMBERS_OF = {
    "optimizer": ("momentum", "nesterov"),
    "schedule": ("milestones", "gamma"),
    "augment": ("crop_padding",),
}


def _expand_preset(table: dict[str, Any], where: str) -> None:
    """Replace a preset's name by its fields; keys that the user wrote beside it win.

    With another optimizer, schedule or augmentation the preset's own numbers for its one are left out.
    """
    recipe = table.get("recipe", {})
    scoring = table.get("scoring", {})
    if not isinstance(recipe, dict) or "preset" not in recipe or not isinstance(scoring, dict):
        return  # nothing to expand, or a wrong type that check_grid names
    name = recipe.pop("preset")
    if not isinstance(name, str) or name not in PRESETS:
        raise unknown("preset", name, PRESETS, where)
    inherited = dict(PRESETS[name][0])
    for choice, numbers in _NUMBERS_OF.items():
        if recipe.get(choice, inherited.get(choice)) != inherited.get(choice):
            inherited = {key: value for key, value in inherited.items() if key not in numbers}
    table["recipe"], table["scoring"] = inherited | recipe, PRESETS[name][1] | scoring


def check_grid(table: Mapping[str, Any], where: str) -> Grid:
    """A `Grid` from plain data, every run of it checked. Raises RequestError that begins with `where`."""
    grid = convert(table, Grid, where)
    try:
        grid.runs()
    except RequestError as error:
        raise RequestError(f"{where}: grid.{error}") from None
    return grid


_T = TypeVar("_T")


def convert(table: Any, kind: type[_T], where: str) -> _T:
    """Plain data as a `kind` of Struct. Raises RequestError naming `where`, the key, and the nearest valid one."""
    _check_keys(table, kind, where, "")
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        place = place.rstrip("`").lstrip(".")
        raise RequestError(f"{where}: {place + ': ' if place else ''}{message}") from None


def _check_keys(table: Any, kind: Any, where: str, prefix: str) -> None:
    """Every key must be a field of `kind` (a Struct), and every field without a default must be there."""
    if not isinstance(table, Mapping):
        return  # msgspec says which type was expected
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key not in fields:
            raise unknown("key", f"{prefix}{key}", (f"{prefix}{name}" for name in fields), where)
        inner = fields[key].type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _check_keys(value, inner, where, f"{prefix}{key}.")
    missing = [f"{prefix}{name}" for name, field in fields.items() if field.required and name not in table]
    if missing:
        raise RequestError(f"{where}: missing {', '.join(missing)}")


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RequestError(f"--set {text!r}: expected key=value, for example recipe.epochs=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RequestError(f"--set {text!r}: {part!r} is not a table")
    table[path[-1]] = parsed
