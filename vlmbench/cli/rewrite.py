"""`vlmbench rewrite`: paraphrases and translations of a task's questions, made once and verified."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmbench.cli import options as o

if TYPE_CHECKING:
    from vlmbench.experiments.rewrite import Made

VERIFY = "How to verify"
KINDS = "paraphrase,de,fr,es,zh,ja,ar,hi,ru"


def rewrite(
    ctx: typer.Context,
    generator: Annotated[
        str,
        typer.Option(
            "--with",
            help="What writes: hub id or folder of a text model (or of a VLM, which is shown no image), or a "
            "server: openai:NAME.",
            show_default=False,
            rich_help_panel=o.MODEL,
            metavar="MODEL",
        ),
    ],
    task: Annotated[
        str, typer.Option("--task", "-t", help="Name or YAML file of one task.", rich_help_panel=o.MODEL)
    ] = "demo",
    kinds: Annotated[
        str,
        typer.Option(
            "--kinds",
            help="`paraphrase` and languages (en, de, fr, es, zh, ja, ar, hi, ru), comma-separated.",
            rich_help_panel=o.MODEL,
        ),
    ] = KINDS,
    per_item: Annotated[
        int,
        typer.Option("--per-item", help="Rewrites of each kind asked per item.", rich_help_panel=o.MODEL),
    ] = 1,
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit",
            help="Only the first N items of the seeded order of `perturb`, or `all`; without it as many as "
            "`perturb` asks.",
            rich_help_panel=o.MODEL,
            metavar="N|all",
        ),
    ] = None,
    seed: o.Seed = 0,
    verifier: Annotated[
        str | None,
        typer.Option(
            "--verify-with",
            help="Model or openai:NAME that translates back and judges paraphrases, beside the exact checks.",
            rich_help_panel=VERIFY,
            metavar="MODEL",
        ),
    ] = None,
    min_similarity: Annotated[
        float,
        typer.Option(
            "--min-similarity",
            help="Smallest share of words (token F1) that comes back, with --verify-with.",
            rich_help_panel=VERIFY,
        ),
    ] = 0.5,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Prompts per batch.", rich_help_panel=o.HOW)
    ] = 16,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", help="Longest answer.", rich_help_panel=o.HOW)
    ] = 128,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    base_url: o.BaseUrl = None,
    api_key_env: o.KeyVariable = "OPENAI_API_KEY",
    concurrency: o.Concurrency = 8,
    max_calls: o.MaxCalls = None,
    timeout: o.Timeout = 120.0,
    retries: o.Retries = 5,
    config: o.Config = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write (.jsonl); never overwritten. Rejected ones go beside it, anew with each "
            "file. Without it TASK-rewrites.jsonl.",
            rich_help_panel=o.OUT,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the header of the file, and nothing else.", rich_help_panel=o.OUT),
    ] = False,
) -> int:
    """Write paraphrases and translations of a task's questions once, verify them, and freeze them in a file.

    `perturb --rewrite FILE` then asks them. The same command goes on where a session was interrupted, and
    asks nothing again whose answer has arrived. Read a sample of the file before you trust it.

    Examples:
      vlmbench rewrite --task my.yaml --with path/to/text-model --kinds paraphrase,de --limit 200
      vlmbench rewrite --task my.yaml --with openai:NAME --base-url http://localhost:8000/v1 --max-calls 2000
      vlmbench perturb --task my.yaml --model path/to/model --rewrite my-rewrites.jsonl
    """
    from vlmbench.cli.configured import merged

    given = merged(ctx, config)
    from vlmbench.cli.quiet import quiet_libraries
    from vlmbench.errors import ExitCode
    from vlmbench.experiments.rewrite import RewriteOptions, check_rewrite, run
    from vlmbench.perturb.rewriting.languages import read_kinds

    options = RewriteOptions(
        generator=given["generator"],
        task=given["task"],
        kinds=read_kinds(given["kinds"]),
        verifier=given["verifier"],
        threshold=given["min_similarity"],
        per_item=given["per_item"],
        limit=o.read_limit(given["limit"]),
        seed=given["seed"],
        out=given["out"],
        batch_size=given["batch_size"],
        max_new_tokens=given["max_new_tokens"],
        dtype=given["dtype"],
        device=given["device"],
        server=o.read_server(given),
        show_progress=not given["json"],
    )
    check_rewrite(options)
    quiet_libraries()
    made = run(options)
    if given["json"]:
        sys.stdout.write(made.header.model_dump_json(indent=1) + "\n")
    else:
        _print(made)
    return ExitCode.OK


def _print(made: Made) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("kind", "asked", "accepted", "rejected", "rate", "why"):
        grid.add_column(name, justify="left" if name in {"kind", "why"} else "right", overflow="fold")
    for kind, count in made.header.counts.items():
        why = ", ".join(f"{reason} {n}" for reason, n in count.reasons.items())
        figures = (count.asked, count.accepted, count.rejected, f"{100 * count.rejection_rate:.1f} %")
        grid.add_row(kind, *map(str, figures), why)
    console = Console()
    console.print(grid)
    state = (
        "was made before; nothing was asked" if made.was_there else "rejected ones in " + str(made.rejected)
    )
    console.print(escape(f"rewrites: {made.path} ({state})"), highlight=False, soft_wrap=True)
