"""The command line: it parses the arguments of each verb and calls the package that implements it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pbt_bench import shipped
from pbt_bench.errors import (
    RequestError,
    StoreError,
    counted,
    printable,
    printable_json,
    printable_lines,
    reason,
    unknown,
)
from pbt_bench.grid_file import load_grid
from pbt_bench.recipes import PRESETS
from pbt_bench.spec import Grid

_MOST_CHARACTERS = 300  # of a path in a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 success, 1 failed runs, 2 invalid request, 130 interrupted."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup makes it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        return verb(options)
    except RequestError as error:
        print(f"pbt-bench: error: {printable_lines(str(error))}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"pbt-bench: error: {printable_lines(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a further one would interrupt the end of this process
        print("\npbt-bench: interrupted; finished runs are kept, and the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has closed it: print nothing more
        return 0
    except OSError as error:  # of a path that the user gave: not writable, or too long
        path = "" if error.filename is None else f"{str(error.filename)[:_MOST_CHARACTERS]}: "
        print(f"pbt-bench: error: {printable(f'{path}{error.strerror or error}')}", file=sys.stderr)
        return 1


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from pbt_bench.running.source import versions

        print(versions())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pbt-bench", description="Compare methods for pruning before training.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print version, commit, torch and kernels")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(name: str, verb: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=verb)
        return sub

    def add_grid(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("grid", metavar="GRID", help="a grid file or a study of `pbt-bench list studies`")
        sub.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
        sub.add_argument(
            "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
            help="change the grid, for example recipe.epochs=2 (repeatable)",
        )  # fmt: skip

    run = add("run", _run, "run the missing runs of a grid on this machine")
    add_grid(run)
    run.add_argument("--workers", type=int, metavar="N", help="processes; default: one per GPU or CPU core")
    run.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N; default: cuda if available")
    run.add_argument(
        "--data", type=Path, default=Path(os.environ.get("PBT_BENCH_DATA", "data")), metavar="DIR",
        help="folder of the datasets, and of downloads; default: $PBT_BENCH_DATA, then data",
    )  # fmt: skip
    run.add_argument(
        "--checkpoint-minutes", type=float, default=5.0, metavar="M", help="minutes between saved states; default: 5"
    )
    run.add_argument("--retry-failed", action="store_true", help="run failed runs again")

    submit = add("submit", _submit, "run the missing runs of a grid on a Slurm cluster")
    add_grid(submit)
    submit.add_argument("--cluster", required=True, metavar="PROFILE", help="a file or a name of `list profiles`")
    submit.add_argument("--dry-run", action="store_true", help="show scripts, arrays and cost; submit nothing")
    submit.add_argument(
        "--probe", action="store_true", help="time short runs, one job per dataset and model, to estimate the study"
    )
    submit.add_argument("--retry-failed", action="store_true", help="also runs that failed or were lost too often")
    submit.add_argument(
        "--data", type=Path, metavar="DIR",
        help="folder of the datasets on the nodes; default: the profile's, then $PBT_BENCH_DATA, then data",
    )  # fmt: skip

    status = add("status", _status, "count the runs of a grid by state")
    add_grid(status)
    status.add_argument("--json", action="store_true", help="print JSON, for scripts")
    status.add_argument(
        "--watch", type=float, nargs="?", const=10.0, metavar="SECONDS",
        help="repeat every SECONDS (default: 10) until no run is running or waiting",
    )  # fmt: skip

    cancel = add("cancel", _cancel, "cancel the Slurm jobs of a grid; finished runs are kept")
    add_grid(cancel)

    report = add("report", _report, "write the report of a grid: figures, tables and a page")
    add_grid(report)
    report.add_argument("--out", type=Path, metavar="DIR", help="default: RESULTS/NAME/report")

    export = add("export", _export, "write the finished records of a grid, with their curves, for other programs")
    add_grid(export)
    export.add_argument("--csv", type=Path, metavar="FILE", help="a line per run; FILE_curves has a line per epoch")
    export.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="a folder of events per run, and one of the figures"
    )
    export.add_argument(
        "--wandb", type=Path, metavar="DIR", help="offline runs of Weights & Biases, and one of the figures"
    )

    paper = add("paper", _paper, "draw every table and figure of the papers from the available results")
    paper.add_argument(
        "--grids", type=Path, metavar="DIR", help="a folder of grid files; default: all of `pbt-bench list studies`"
    )
    paper.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    paper.add_argument("--out", type=Path, metavar="DIR", help="default: RESULTS/paper")

    claims = add("claims", _claims, "test published claims on the available records; --out writes their page")
    claims.add_argument("names", nargs="*", metavar="NAME", help="default: all; pbt-bench list claims")
    claims.add_argument("--json", action="store_true", help="print JSON, for scripts")
    claims.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    claims.add_argument(
        "--grids", type=Path, metavar="DIR", help="a folder of grid files; default: all of `pbt-bench list studies`"
    )
    claims.add_argument("--claims", type=Path, metavar="DIR", help="default: claims, then those of pbt-bench")
    claims.add_argument("--mini", action="store_true", help="use the small versions of the studies")
    claims.add_argument("--out", type=Path, metavar="DIR", help="write index.html, claims.md and figures there")

    board = add("board", _board, "write one page of the methods of several studies, by network and sparsity")
    board.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a results folder or packed study")
    board.add_argument("--out", type=Path, default=Path("results/board"), metavar="DIR", help="default: results/board")

    audit = add("audit", _audit, "check the records of a grid, or of a folder of contributed studies")
    add_grid(audit)
    audit.add_argument("--by", default="", metavar="NAME", help="who audits, for the board")
    audit.add_argument("--sample", type=int, default=10, metavar="N", help="records to recompute; default: 10")
    audit.add_argument("--seed", type=int, metavar="N", help="draw the sample that an earlier audit drew")
    audit.add_argument(
        "--complete", action="store_true", help="fail if runs have no result, or files are no records of a run"
    )
    audit.add_argument("--retrain", action="store_true", help="recompute the whole training, not only the masks")
    audit.add_argument("--device", default="cpu", metavar="D", help="device that made the records; default: cpu")
    audit.add_argument(
        "--data", type=Path, default=Path(os.environ.get("PBT_BENCH_DATA", "data")), metavar="DIR",
        help="folder of the datasets; default: $PBT_BENCH_DATA, then data",
    )  # fmt: skip

    listing = add(
        "list", _list, "list methods, statistics, models, datasets, scopes, recipes, studies, profiles or claims"
    )
    valid = "methods|models|datasets|statistics|scopes|recipes|studies|profiles|claims"
    listing.add_argument("what", metavar=valid)

    init = add("init", _init, "write a study, a cluster profile and a method to start from")
    init.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="default: this folder")

    check = add("check", _check, "check a file of your own methods, statistics and scopes on small networks")
    check.add_argument("file", type=Path, metavar="FILE", help="a Python file, for example my_methods/wanda.py")

    show = add("show", _show, "print one record")
    show.add_argument("run_id", metavar="RUN_ID")
    show.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")

    masks = add("masks", _masks, "write the masks of a run to a safetensors file")
    masks.add_argument("run_id", metavar="RUN_ID", help="its first digits suffice")
    masks.add_argument("--out", required=True, type=Path, metavar="FILE", help="for example masks.safetensors")
    masks.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")

    merge = add("merge", _merge, "put the records and masks of several results folders of one study together")
    merge.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="for example results/digits, or a pack")
    merge.add_argument("--into", required=True, type=Path, metavar="FOLDER", help="it keeps the records that it has")

    pack = add("pack", _pack, "write the records and masks of a results folder to one compressed file")
    pack.add_argument("folder", type=Path, metavar="FOLDER", help="for example results/digits")
    pack.add_argument("--out", type=Path, metavar="FILE", help="default: FOLDER.pack, which every verb reads")
    pack.add_argument("--masks-of", nargs="*", metavar="METHOD", help="leave out the masks of other methods")
    return parser


def _load(options: argparse.Namespace, reading: bool = False) -> tuple[Grid, Any]:
    """Return grid and store; for `reading` records alone, the files of methods, models and datasets may be gone."""
    from pbt_bench.running.packed import packed_file
    from pbt_bench.running.plan import check_names
    from pbt_bench.running.store import Store

    options.grid = shipped.find(shipped.STUDIES, options.grid)
    grid = load_grid(options.grid, options.overrides)
    if options.results.exists() and not options.results.is_dir() and not packed_file(options.results):
        raise RequestError(f"--results {options.results}: neither a folder nor a packed study")
    store = Store(options.results if packed_file(options.results) == options.results else options.results / grid.name)
    return check_names(grid, str(options.grid), store if reading else None), store


def _run(options: argparse.Namespace) -> int:
    from pbt_bench.running.environment import emulates_bfloat16
    from pbt_bench.running.plan import check_data, plan
    from pbt_bench.running.pool import WorkerPool, select_devices
    from pbt_bench.running.progress import Progress
    from pbt_bench.running.status import summary

    if not 0 <= options.checkpoint_minutes < float("inf"):
        raise RequestError(f"--checkpoint-minutes {options.checkpoint_minutes}: must be finite and at least 0")
    grid, store = _load(options)
    store.prepare()
    todo = plan(grid, store, options.retry_failed)
    for text in todo.notes():
        print(text, file=sys.stderr)
    if todo.missing:
        devices = select_devices(options.device, options.workers)
        check_data(todo.missing, options.data)
        low = any(spec.recipe.precision == "bfloat16" for spec in todo.missing)
        if low and "cpu" in devices and emulates_bfloat16():
            note = "precision = 'bfloat16' is emulated by this processor, many times slower than 'float32'"
            print(f"note: {note}", file=sys.stderr)
        before = [r.status for r in todo.records.values() if not (options.retry_failed and r.status == "failed")]
        with (
            Progress(grid.name, len(todo.specs), before, min(len(devices), len(todo.missing))) as progress,
            WorkerPool(todo, store, options.data, progress, 60 * options.checkpoint_minutes) as pool,
        ):
            pool.run(devices)
    state = summary(grid, store, ask_slurm=False)
    print(state.line())
    return 1 if state.counts["failed"] or state.counts["unreadable"] or state.unfinished else 0


def _submit(options: argparse.Namespace) -> int:
    from pbt_bench.running.slurm.profile import load_profile
    from pbt_bench.running.slurm.request import request

    profile = load_profile(shipped.find(shipped.PROFILES, options.cluster))
    grid, store = _load(options)
    data = options.data or Path(profile.data or os.environ.get("PBT_BENCH_DATA", "data"))
    wanted = {"dry_run": options.dry_run, "retry_failed": options.retry_failed, "probe": options.probe}
    request(grid, store, profile, data, **wanted)
    return 0


def _status(options: argparse.Namespace) -> int:
    from pbt_bench.running.display import show, watch
    from pbt_bench.running.status import summary

    grid, store = _load(options, reading=True)
    if options.watch is not None:
        state = watch(lambda: summary(grid, store), max(1.0, options.watch), options.json)
    else:
        state = summary(grid, store)
        show(state, options.json)
    return 1 if any(state.counts[name] for name in ("failed", "lost", "unreadable")) else 0


def _cancel(options: argparse.Namespace) -> int:
    from pbt_bench.running.slurm.cancel import cancel

    grid, store = _load(options, reading=True)
    count = cancel(store)
    print(f"{grid.name}: {count} jobs cancelled" if count else f"{grid.name}: it has no job in Slurm's queue")
    return 0


def _report(options: argparse.Namespace) -> int:
    from pbt_bench.analysis.pages.report import GridFile, write_report
    from pbt_bench.analysis.records.data_frame import study_frame
    from pbt_bench.analysis.statistics.missing import time_left

    grid, store = _load(options, reading=True)
    specs = grid.runs()
    table = study_frame(specs, store)
    grid_file = GridFile(options.grid, options.overrides)
    page = write_report(grid.name, specs, store, options.out or store.folder / "report", table, grid_file)
    print(f"report: {page}")
    for why, count in table.attrs["superseded"].items():
        print(f"{counted(count, 'superseded record')} left out: {why}")
    left = time_left(specs, table)
    if left:
        print(f"runs are missing, the page lists them. {left}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from pbt_bench.analysis.records.export import finished_records, write_csv, write_tensorboard, write_wandb

    if not (options.csv or options.tensorboard or options.wandb):
        raise RequestError("export: give at least one of --csv FILE, --tensorboard DIR, --wandb DIR")
    grid, store = _load(options, reading=True)
    records = finished_records(grid.runs(), store)
    print(f"{grid.name}: {counted(len(records), 'finished run')}")
    figures = {}
    if records and (options.tensorboard or options.wandb):
        from pbt_bench.analysis.pages.images import report_images
        from pbt_bench.analysis.records.data_frame import study_frame

        figures = report_images(study_frame(grid.runs(), store), store)
    if options.csv:
        print(f"csv: {options.csv} and {write_csv(records, options.csv)}")
    if options.tensorboard:
        new = write_tensorboard(records, options.tensorboard, figures)
        print(f"tensorboard: {options.tensorboard}, {counted(new, 'new run')}")
    if options.wandb:
        print(
            f"wandb: {options.wandb}, {counted(write_wandb(records, options.wandb, grid.name, figures), 'offline run')}"
        )
    return 0


def _paper(options: argparse.Namespace) -> int:
    from pbt_bench.analysis.pages.paper import write_paper

    out = options.out or options.results / "paper"
    for study in write_paper(options.grids, options.results, out):
        beside = "" if study.recorded else ", published numbers alone" if study.page else ", nothing to show yet"
        print(f"{study.name}: {study.recorded} of {study.runs} runs{beside}")
    print(f"paper: {out / 'index.html'}")
    return 0


def _claims(options: argparse.Namespace) -> int:
    import msgspec

    from pbt_bench.analysis.claims.claim_file import claims_folder, load_claims, selected
    from pbt_bench.analysis.claims.claim_texts import plain_data, summary_text, verdict_text
    from pbt_bench.analysis.pages.claims import judge_claims, write_claims
    from pbt_bench.analysis.records.published import published_beside

    claims = load_claims(claims_folder(options.claims))
    names = selected(claims, options.names)
    # All claims are tested, whichever are shown: their p values are corrected together.
    findings = judge_claims(claims, options.grids, options.results, options.mini)
    findings = [finding for finding in findings if finding.claim.name in names]
    if options.json:
        text = msgspec.json.encode([plain_data(finding) for finding in findings])
        print(printable_json(msgspec.json.format(text, indent=1).decode()))
    else:
        for finding in findings:
            print(printable(f"{finding.claim.name}: {verdict_text(finding)}  [{finding.claim.statement}]"))
        print(f"{counted(len(findings), 'claim')}: {summary_text(findings)}")
    if options.out:
        page = write_claims(findings, published_beside(options.results), options.out)
        print(f"claims: {page}", file=sys.stderr if options.json else sys.stdout)
    return 0


def _board(options: argparse.Namespace) -> int:
    from pbt_bench.analysis.pages.board import write_board

    print(f"board: {write_board(options.folders, options.out)}")
    return 0


def _audit(options: argparse.Namespace) -> int:
    from pbt_bench.running.audit import audit
    from pbt_bench.running.contributed import check_contributed
    from pbt_bench.running.pool import select_devices

    if options.sample < 0:
        raise RequestError(f"--sample {options.sample}: must be at least 0")
    if Path(options.grid).is_dir():
        (device,) = select_devices(options.device, 1)
        refused = 0
        request = options.data, device, options.sample, options.seed, options.by
        for name, why in check_contributed(Path(options.grid), *request):
            print(f"{name}: refused: {why}" if why else f"{name}: verified", flush=True)
            refused += bool(why)
        return 1 if refused else 0
    grid, store = _load(options, reading=not options.retrain)
    (device,) = select_devices(options.device, 1)
    words = options.data, device, options.sample, options.retrain, options.seed
    found = audit(grid.name, grid.runs(), store, *words, by=options.by)
    print(found.text())
    return 1 if found.faults or (options.complete and found.absent) else 0


def _list(options: argparse.Namespace) -> int:
    files = {"studies": shipped.STUDIES, "profiles": shipped.PROFILES}
    if options.what in files:
        return _list_files(files[options.what])
    from pbt_bench.data import datasets
    from pbt_bench.models import listing
    from pbt_bench.pruning.plugins import pruners, scopes, statistics

    tables: dict[str, Callable[[], Any]] = {
        "methods": pruners,
        "models": listing,
        "datasets": datasets,
        "statistics": statistics,
        "scopes": scopes,
    }
    if options.what == "recipes":
        for name, preset in PRESETS.items():
            fields = [f"{key} = {value}" for key, value in {**preset.recipe, **preset.scoring}.items()]
            fields += [
                f"{method}.{key} = {value}" for method, own in preset.options.items() for key, value in own.items()
            ]
            print(f"{name:17}  {', '.join(fields)}")
        return 0
    if options.what == "claims":
        from pbt_bench.analysis.claims.claim_file import claims_folder, load_claims

        for claim in load_claims(claims_folder()):
            print(printable(f"{claim.name}  {claim.statement}  [{claim.source}]"))
        return 0
    if options.what not in tables:
        raise unknown("list", options.what, [*tables, *files, "recipes", "claims"])
    entries = tables[options.what]().items()
    width = max(len(name) for name, _ in entries)
    for name, entry in entries:
        own = entry.own_options if options.what == "methods" else entry.options if options.what == "statistics" else {}
        shown = f"  options: {', '.join(map(str, own.values()))}" if own else ""
        print(printable(f"{name:{width}}  {entry.summary}  [{entry.cite}]{shown}"))
    return 0


def _list_files(kind: shipped.Kind) -> int:
    found = shipped.files(kind)
    for name, path in found.items():
        try:
            runs = load_grid(path).runs() if kind == shipped.STUDIES else None
            first, *more = shipped.head_comment(path) or [""]
            about = f"{first} …" if more and not first.endswith((".", ":")) else first
        except (RequestError, OSError, UnicodeDecodeError) as error:  # of a file in the working directory
            runs, about = [], f"cannot be read: {reason(error)}"
        count = "" if runs is None else f"{len(runs):6} runs  "
        print(printable(f"{name:{max(map(len, found))}}  {count}{about}"))
    return 0


def _init(options: argparse.Namespace) -> int:
    from pbt_bench.starter import write_starter

    print(write_starter(options.folder))
    return 0


def _check(options: argparse.Namespace) -> int:
    from pbt_bench.pruning.contract import check_file

    wrong = 0
    for verdict in check_file(options.file):
        print(verdict, flush=True)
        wrong += bool(verdict.fault)
    return 1 if wrong else 0


def _show(options: argparse.Namespace) -> int:
    from pbt_bench.running.matching import current, revision_note
    from pbt_bench.running.record import numbers
    from pbt_bench.running.store import find

    found = find(options.results, options.run_id)
    studies = ", ".join(store.folder.name for store, _ in found)
    if len(found) > 1:
        same = len({str(numbers(record)) for _, record in found}) == 1
        print(
            f"note: {len(found)} studies have it ({studies}), with {'the same' if same else 'DIFFERENT'} numbers",
            file=sys.stderr,
        )
    record = found[0][1]
    if text := revision_note(record.spec):
        print(f"note: {text}", file=sys.stderr)
    elif (today := current(record.spec).run_id) != record.run_id:
        print(f"note: migrated from an earlier version: the id of this run is {today} now", file=sys.stderr)
    print(printable_json(record.to_json().decode()), end="")
    return 0


def _masks(options: argparse.Namespace) -> int:
    from pbt_bench.running.mask_files import export_masks
    from pbt_bench.running.store import find

    store, record = find(options.results, options.run_id)[0]
    masks = export_masks(store, record, options.out).values()
    kept, prunable = sum(int(mask.count_nonzero()) for mask in masks), sum(mask.numel() for mask in masks)
    print(f"{options.out}: {counted(len(masks), 'mask')}, {kept} of {prunable} weights kept ({record.spec.label})")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from pbt_bench.running.merge import merge

    found = merge(options.folders, options.into)
    print(found.text())
    return 1 if found.differing else 0


def _pack(options: argparse.Namespace) -> int:
    from pbt_bench.running.merge import pack

    path, records, masks = pack(options.folder, options.out, options.masks_of)
    print(f"{path}: {counted(records, 'record')}, {counted(masks, 'mask')}, {path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
