"""`trm submit`: answer ARC tasks that a model was not trained on, in Kaggle's form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.completion import trial_addresses
from orchestrator.cli.options import (
    INPUT_FILE,
    OUTPUT_FILE,
    JsonOption,
    MaxStepsOption,
    SetOption,
    StorageOption,
    TrustOption,
    trust_files,
)
from trm_data.settings import strict_json

if TYPE_CHECKING:
    from orchestrator.api.submit import Answers


def submit(
    challenges: Annotated[
        Path, typer.Argument(help="Kaggle's file of tasks, *_challenges.json; answers are not needed.", **INPUT_FILE)
    ],
    start_from: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="The trained model: a file, SWEEP/TRIAL, SWEEP/best, hf://OWNER/NAME[@REVISION]/FILE or s3://. "
            "SWEEP/last passes over the runs of trm submit.",
            show_default=False,
            autocompletion=trial_addresses,
        ),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="File to write.", **OUTPUT_FILE)] = Path(
        "submission.json"
    ),
    max_steps: MaxStepsOption = None,
    votes: Annotated[
        int | None,
        typer.Option("--votes", min=1, help="Views of an input that vote; all trained ones if left out."),
    ] = None,
    set_: SetOption = None,
    solutions: Annotated[
        Path | None, typer.Option("--solutions", help="Held-back answers to score the file with.", **INPUT_FILE)
    ] = None,
    trust: TrustOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Train embeddings of unseen ARC tasks on their demonstrations, answer their test inputs, write a submission.

    The network is frozen (`--set train.freeze=none` trains it, too). The same command again resumes.

    Examples:

    trm submit arc-agi_test_challenges.json --from arc.safetensors --max-steps 2000

    trm submit arc-agi_evaluation_challenges.json --from train/last --solutions held_back.json --set aug=100
    """
    from orchestrator.api.submit import count_inputs, is_submission, read_solutions, submission_config
    from orchestrator.api.submit import submit as run_submission
    from orchestrator.cli.configs import single_values
    from orchestrator.cli.lookup import start_address
    from orchestrator.cli.views.train import TrainView, show_outcome
    from trm_data.files import write_output

    trust_files(trust)
    start = start_address(start_from, storage, lambda record: is_submission(record.config))
    config = submission_config(challenges, start, single_values(set_), max_steps)
    if solutions is not None:
        read_solutions(solutions, count_inputs(challenges))
    answers, outcome = run_submission(config, storage, votes=votes, callbacks=[TrainView()])
    if not answers:
        raise typer.Exit(show_outcome(outcome, as_json))
    write_output(output, strict_json(answers).encode())
    _show(answers, outcome.location, output, solutions, as_json)


def _show(answers: Answers, record: str, output: Path, solutions: Path | None, as_json: bool) -> None:
    """Print what was written, and how many held-back answers it agrees with."""
    from orchestrator.api.submit import score_submission
    from orchestrator.cli.views.console import out
    from orchestrator.sweep.text import plural

    items = sum(map(len, answers.values()))
    scored = None if solutions is None else score_submission(answers, solutions)
    if as_json:
        facts = {"submission": str(output), "tasks": len(answers), "test_inputs": items, "record": record}
        print(strict_json({**facts, "score": scored and scored._asdict()}, indent=1))
        return
    out.print(f"{output}: two attempts at {plural(items, 'test input')} of {plural(len(answers), 'task')}")
    if scored is not None:
        share = f"{100 * scored.right / scored.items:.1f} %" if scored.items else "no solution"
        whole = f"whole tasks {scored.whole_tasks} of {scored.tasks}"
        out.print(f"right: {scored.right} of {scored.items} ({share}), {scored.first_right} at the first try; {whole}")
