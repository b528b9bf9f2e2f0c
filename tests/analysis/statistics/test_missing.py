"""Missing runs are named with their time."""

from __future__ import annotations

from collections.abc import Callable

from pbt_bench.analysis.records.data_frame import frame
from pbt_bench.analysis.statistics.missing import missing_runs, time_left
from pbt_bench.running.record import RunRecord
from pbt_bench.spec import Grid


def test_missing_runs_are_listed_with_their_time(grid: Callable[..., Grid], record: Callable[..., RunRecord]) -> None:
    specs = grid(model=("vgg8",), method=("snip", "fts"), sparsity=(0.9, 0.98)).runs()
    lacking = {spec for spec in specs if spec.method == "fts"} | {specs[0], specs[1]}
    runs = [spec if spec in lacking else record(spec) for spec in specs]
    assert missing_runs(frame(runs)) == [
        "digits / vgg8, dense: 1 of 3: 0 seed 0",
        "digits / vgg8, snip: 1 of 6: 0.9 seed 0",
        "digits / vgg8, fts: 6 of 6",
    ]
    timed = [spec if spec in lacking else record(spec, environment={"seconds": 10.0}) for spec in specs]
    assert time_left(specs, frame(timed)) == (
        "They take one worker about 1 min 20 s, judged by the 7 runs measured so far."
    )
    assert time_left(specs, frame(specs)).startswith("How long they take is not known")
    assert time_left(specs, frame(map(record, specs))) == ""
