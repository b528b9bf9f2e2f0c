"""Tests that presets expand to plain fields, and that fields without an effect are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbt_bench.cli import main
from pbt_bench.errors import RequestError
from pbt_bench.grid_file import load_grid
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import Grid

AXES = '[grid]\ndataset = "digits"\nmodel = "vgg8"\nmethod = "snip"\nsparsity = 0.9\nseed = 0\n'


def grid(folder: Path, recipe: str, top: str = "") -> Grid:
    path = folder / "grid.toml"
    path.write_text(f'name = "g"\n{top}\n{AXES}{recipe}')
    return load_grid(path)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_both_spellings_agree(tmp_path: Path, name: str) -> None:
    short = grid(tmp_path, "", f'recipe = "{name}"')
    assert short == grid(tmp_path, f'[recipe]\npreset = "{name}"')
    assert short.recipe.milestones[-1] < short.recipe.epochs


def test_what_the_user_writes_wins(tmp_path: Path) -> None:
    changed = grid(tmp_path, '[recipe]\npreset = "fts-2025"\nepochs = 2\n[scoring]\nsamples_per_class = 3')
    assert (changed.recipe.epochs, changed.recipe.gamma, changed.scoring.samples_per_class) == (2, 0.2, 3)
    assert changed.scoring.augment


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ('preset = "fts-2052"', "unknown preset 'fts-2052'; did you mean 'fts-2025'"),
        ('optimizer = "adamw"\nmomentum = 0.9', "momentum is for optimizer = 'sgd', not 'adamw'"),
        ('optimizer = "adamw"\nnesterov = true', "nesterov is for optimizer = 'sgd', not 'adamw'"),
        ("gamma = 0.1", "gamma is for schedule = 'multistep', not 'cosine'"),
        ("crop_padding = 4", "crop_padding is for augment = 'crop' or 'crop-flip', not 'none'"),
        ("nesterov = true\nmomentum = 0.0", "nesterov = true needs momentum above 0"),
    ],
)
def test_a_field_that_nothing_reads_is_refused(tmp_path: Path, recipe: str, message: str) -> None:
    with pytest.raises(RequestError) as error:
        grid(tmp_path, f"[recipe]\n{recipe}")
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_another_schedule_leaves_the_numbers_of_the_first_out(tmp_path: Path) -> None:
    recipe = 'preset = "fts-2025"\nschedule = "cosine"\naugment = "flip"'
    assert grid(tmp_path, f"[recipe]\n{recipe}").recipe.milestones == ()
    adamw = 'preset = "synflow-2020"\noptimizer = "adamw"\nlearning_rate = 0.001'
    assert not grid(tmp_path, f"[recipe]\n{adamw}").recipe.nesterov


def test_a_preset_is_the_same_run_as_its_fields_written_out(tmp_path: Path) -> None:
    short = grid(tmp_path, "", 'recipe = "openlth-2020"')
    text = 'epochs = 160\naugment = "crop-flip"\nschedule = "multistep"\nmilestones = [80, 120]\nweight_decay = 1e-4'
    assert [r.run_id for r in short.runs()] == [r.run_id for r in grid(tmp_path, f"[recipe]\n{text}").runs()]


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "recipes"]) == 0
    assert "fts-2025 " in (text := capsys.readouterr().out)
    assert "milestones = [60, 120]" in text


def test_an_override_changes_a_preset(tmp_path: Path) -> None:
    grid(tmp_path, "", 'recipe = "fts-2025"')
    assert load_grid(tmp_path / "grid.toml", ["recipe.epochs=2"]).recipe.epochs == 2
