"""The command line. Everything heavy is imported inside the commands, so that `parm --help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from experiments.commands.accuracy import accuracy_command
from experiments.commands.arguments import (
    INTERRUPTED,
    MODELS,
    DataFolder,
    Debug,
    Device,
    File,
    ModelsFolder,
    Overrides,
    Plugins,
    Workers,
    debug_wanted,
)
from experiments.commands.calibrate import calibrate_command
from experiments.commands.plan import plan_command
from experiments.commands.validate import validate_command
from sim.errors import ParmError

if TYPE_CHECKING:
    from experiments.accuracy.options import Study
    from experiments.calibration.options import Calibration
    from experiments.config.schema import Experiment

app = typer.Typer(
    name="parm",
    help="Which redundancy policy answers how late, how wrong and at what cost, when machines are slow or fail?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    file: File,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory.", show_default="runs/NAME")] = None,
    overrides: Overrides = None,
    workers: Workers = None,
    data: DataFolder = None,
    device: Device = "auto",
    models: ModelsFolder = MODELS,
    plugin: Plugins = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard a run that is in the directory.")] = False,
    debug: Debug = False,
) -> None:
    """Run an experiment, or all of a bundle, or continue: simulate, predict, and write tables and figures."""
    del debug
    from experiments.config import bundle
    from experiments.run.session import InterruptedRunError, Session

    plan = bundle.load(file, overrides or (), plugin or ())
    session = Session(workers, data, models, device, fresh)
    try:
        for path, experiment in plan.experiments:
            session.run(experiment, path, plan.folder(out, experiment))
    except InterruptedRunError:
        raise typer.Exit(INTERRUPTED) from None
    if any(experiment.claims for _, experiment in plan.experiments[1:]):
        _print_claims(plan.folder(out, experiment).parent)


@app.command()
def train(
    file: File,
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Device = "auto",
    models: ModelsFolder = MODELS,
    publish: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the models here too, in half precision.")
    ] = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Train the models that an experiment needs, or continue; what is trained already is kept."""
    del debug
    from experiments.config import loader
    from experiments.run.cells import cells
    from experiments.run.progress import Reporter
    from experiments.run.session import command, sigterm_as_interrupt

    experiment = loader.load(file, overrides or (), plugin or ())
    if experiment.model is None:
        raise ParmError(f"{file} has no 'model', so there is nothing to train.")
    from experiments.run.models import Models

    reporter = Reporter()
    trained = Models(data, models, device, reporter, publish)
    try:
        sigterm_as_interrupt()
        trained.prepare(cells(experiment, loader.context(file)))
    except KeyboardInterrupt:
        reporter.say(f"Interrupted. Continue with the same command: {' '.join(command())}")
        raise typer.Exit(INTERRUPTED) from None
    for line in trained.describe():
        print(line)


@app.command()
def check(
    file: File,
    overrides: Overrides = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Validate a file without running it, and say what it would run: an experiment, a study, a calibration."""
    del debug
    from experiments.config import bundle, loader

    sort = loader.sort_of(loader.read(file).data)
    if sort == "study":
        from experiments.accuracy.options import Study

        _describe_study(loader.load_as(Study, file, overrides or (), plugin or ()), file)
        return
    if sort == "calibration":
        from experiments.calibration.options import Calibration

        _describe_calibration(loader.load_as(Calibration, file, overrides or (), plugin or ()), file)
        return
    for path, experiment in bundle.load(file, overrides or (), plugin or ()).experiments:
        _describe(experiment, path)


@app.command()
def profile(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Measure this experiment's network.")] = None,
    network: Annotated[
        str | None, typer.Option(metavar="YAML", help="Or this one, as resnet18 or '{kind: resnet18, width: 16}'.")
    ] = None,
    shape: Annotated[str, typer.Option(metavar="C,H,W", help="Shape of a sample for --network.")] = "3,32,32",
    outputs: Annotated[int, typer.Option(min=1, help="Classes for --network.")] = 10,
    batches: Annotated[str, typer.Option(metavar="B,B,...", help="Batch sizes to measure.")] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Services per batch size.")] = 500,
    contention: Annotated[int, typer.Option(min=0, help="Processes that keep the device busy meanwhile.")] = 0,
    half: Annotated[bool, typer.Option("--half", help="Measure half precision.")] = False,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The profile to write.")] = Path("profile.json"),
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Device = "auto",
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Measure a network's service times, and its codes', on this machine, for `service: {kind: profile, ...}`."""
    del debug
    from experiments.config import loader

    if (file is None) == (network is None):
        raise ParmError("name either an experiment's FILE or a --network to measure, not both.")
    from experiments.run.store import ensure_writable, writing

    ensure_writable(out)
    sizes = _numbers(batches, "--batches")
    if file is not None:
        experiment = loader.load(file, overrides or (), plugin or ())
        if experiment.model is None:
            raise ParmError(f"{file} has no 'model' to measure; name one with --network.")
        from experiments.commands.profiling import Effort, measure_model

        effort = Effort(device, sizes, repeats, "half" if half else "single", contention)
        measured = measure_model(experiment.model, experiment.policies, data, effort)
    else:
        loader.import_plugins(plugin or (), Path.cwd())
        from experiments.commands.profiling import Effort, measure_network, parse_network

        dimensions = _numbers(shape, "--shape")
        if len(dimensions) != 3:
            raise ParmError(f"--shape {shape}: must be three numbers: channels, height and width.")
        channels, height, width = dimensions
        effort = Effort(device, sizes, repeats, "half" if half else "single", contention)
        measured = measure_network(parse_network(network or ""), (channels, height, width), outputs, effort)
    with writing(out):
        measured.write(out)
    for role, services in measured.roles.items():
        for size, times in services.items():
            print(
                f"{role}, batch {size}: mean {times.mean * 1e3:.3f} ms, "
                f"p50 {times.at(0.5) * 1e3:.3f} ms, p99 {times.at(0.99) * 1e3:.3f} ms"
            )
    print(out)


@app.command()
def figures(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Write the tables and draw the figures of a run anew from its cells."""
    del debug
    from experiments.config import loader
    from experiments.run.cells import cells
    from experiments.run.session import conclude
    from experiments.run.store import RunStore

    file = folder / "experiment.yaml"
    if not file.is_file():
        raise ParmError(f"{folder} is not a run directory: there is no experiment.yaml in it.")
    experiment = loader.load(file, (), plugin or ())
    store = RunStore(folder)
    todo = cells(experiment, loader.context(file))
    outcomes = store.outcomes(todo)
    if not outcomes:
        raise ParmError(f"{folder} holds no finished cell yet: run it first.")
    conclude(store, experiment, todo, outcomes)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR DIR...", help="Run directories; the first is the base.")
    ],
    debug: Debug = False,
) -> None:
    """Set runs side by side, policy by policy and sweep point by sweep point."""
    del debug
    from experiments.analysis.compare import compare as set_side_by_side
    from experiments.run.session import console

    comparison = set_side_by_side(folders)
    console().print(comparison.table())
    for sentence in comparison.unmatched:
        print(sentence)


@app.command()
def claims(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory, or a folder of them.")],
    debug: Debug = False,
) -> None:
    """Show what is claimed of runs, what was simulated, and whether the two agree."""
    del debug
    _print_claims(folder)


app.command("accuracy")(accuracy_command)
app.command("calibrate")(calibrate_command)
app.command("plan")(plan_command)
app.command("validate")(validate_command)


@app.command("list")
def list_kinds(
    family: Annotated[str | None, typer.Argument(help="One family, section or kind.")] = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Show everything that can be named in YAML, with its options."""
    del debug
    from experiments.config import loader

    loader.import_plugins(plugin or (), Path.cwd())
    from experiments.commands.catalogue import catalogue

    print(catalogue(family))


def main() -> NoReturn:
    """Entry point: a user's mistake is one sentence on standard error and exit status 2, never a traceback."""
    try:
        app(prog_name="parm")
    except ParmError as error:
        if debug_wanted:
            raise
        says = str(error)
        print(says if says.endswith((".", "?")) else f"{says}.", file=sys.stderr)
    except Exception as error:
        if debug_wanted:
            raise
        says = " ".join(str(error).split())
        print(f"parm failed ({type(error).__name__}: {says}); --debug shows where.", file=sys.stderr)
        sys.exit(1)
    sys.exit(2)


def _describe(experiment: Experiment, file: Path) -> None:
    """Say what an experiment would run."""
    from experiments.config import loader
    from experiments.run.cells import cells
    from experiments.run.manifest import notes

    todo = cells(experiment, loader.context(file))
    points = experiment.points()
    print(f"{file} is valid: {experiment.name}, seed {experiment.seed}")
    print(
        f"{len(todo)} cells: {len(experiment.policies)} policies x {len(points)} sweep points "
        f"x {experiment.trials} trials, of {experiment.workload.queries} queries each"
    )
    for key, values in experiment.sweep.items():
        print(f"sweep {key}: {', '.join(str(value) for value in values)}")
    for policy in experiment.policies:
        mine = [cell for cell in todo if cell.policy.label == policy.label]
        instances = sorted({cell.policy.instances(cell.experiment.machines) for cell in mine})
        print(f"policy {policy.label}: {' to '.join(str(count) for count in instances)} instances")
    for note in notes(experiment, todo):
        print(f"note: {note}")
    if experiment.model is None:
        print("no model: latency only")
        return
    from experiments.run.models import needs

    for need in needs(todo):
        print(f"model: {need}")


def _describe_study(study: Study, file: Path) -> None:
    """Say what a study would train and measure."""
    print(f"{file} is valid: {study.name}, a study of accuracy; 'parm accuracy' runs it")
    print(f"{len(list(study.cases()))} lines: every model with every code, recipe and seed")
    for model in study.models:
        print(f"model {model.title}: recipes {', '.join(model.recipes or study.recipes)}")
    for coding in study.codes:
        print(f"code {coding.title}: {coding.losses} lost of {coding.k} predictions")
    print(f"seeds: {', '.join(str(seed) for seed in study.seeds)}")


def _describe_calibration(calibration: Calibration, file: Path) -> None:
    """Say what a calibration would fit, and to what."""
    points = len(calibration.experiment.points())
    print(f"{file} is valid: {calibration.profile.name}, a calibration; 'parm calibrate' runs it")
    for name, free in calibration.free.items():
        print(f"free {name}: {free.low:g} to {free.high:g}, from {free.start:g}")
    for target in calibration.targets:
        print(f"target {target.policy} {target.metric}: {points} sweep points")


def _print_claims(folder: Path) -> None:
    from experiments.analysis import claims
    from experiments.run.session import console

    console().print(claims.table(claims.read(folder)))


def _numbers(text: str, option: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ParmError(f"{option} {text}: must be whole numbers above 0 with commas between them.")
    return [int(word) for word in words]


if __name__ == "__main__":
    main()
