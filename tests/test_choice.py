"""Evidence, churn and frozen masks, through the engine, against what a reader would count by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import run as perturbed
from runs import write_rows

from vlmbench.engine.store import read_records
from vlmbench.errors import ContractError, UsageError
from vlmbench.experiments.options import RunOptions, TimingPlan
from vlmbench.experiments.perturb import PerturbOptions
from vlmbench.experiments.prune import PruneOptions
from vlmbench.experiments.prune import run as prune
from vlmbench.models.adapter import Adapter
from vlmbench.models.before import kept_input
from vlmbench.models.loading import load_model
from vlmbench.prune import PRUNERS, get
from vlmbench.prune.base import Context, Reduced
from vlmbench.schema import Record, State

Tiny = Callable[[str], Path]
SIDE = 112  # of the pictures; the tiny encoders resize them
FAMILIES = ["llava", "llava_next", "qwen2_5_vl"]


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise, with a box that is half of each, the whole of it, or missing."""
    folder = tmp_path_factory.mktemp("boxed")
    (folder / "images").mkdir()
    draw = np.random.default_rng(0)
    boxes = ([0, 0, SIDE / 2, SIDE], [0, 0, SIDE, SIDE], None)
    rows = []
    for i, box in enumerate(boxes):
        pixels = draw.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        row = {"id": f"i{i}", "image": f"{i}.png", "question": "what is it ?", "answer": "yes"}
        rows.append(row | ({} if box is None else {"box": box}))
    return write_rows(folder, rows)


def run(model: Path, task: Path, out: Path, **options: object) -> Mapping[tuple[str, str, str], Record]:
    perturbed(model, task, out, repeats=0, **options)  # type: ignore[arg-type]
    return read_records(out)


@pytest.mark.parametrize("family", FAMILIES)
def test_evidence_is_the_share_of_the_box_that_is_kept(
    family: str, tiny_model: Tiny, boxed: Path, tmp_path: Path
) -> None:
    found = run(
        tiny_model(family),
        boxed,
        tmp_path / "run",
        families="noise",
        prune="identity,blind,random@0.5,oracle@0.5,pool@0.5",
    )

    def evidence(item: int, condition: str) -> float | None:
        return found["own", f"i{item}", condition].evidence

    assert [evidence(i, "identity") for i in range(3)] == [pytest.approx(1), pytest.approx(1), None]
    assert [evidence(i, "blind") for i in range(3)] == [0, 0, None]
    # the box is half of the tokens: all of them are what an oracle keeps
    assert evidence(0, "oracle(ratio=0.5)") == pytest.approx(1, abs=0.02)
    assert found["own", "i2", "oracle(ratio=0.5)"].state is State.NOT_APPLICABLE
    half = evidence(1, "random(ratio=0.5)")
    assert half is not None
    if family != "llava_next":  # whose tiles are of several sizes
        assert half == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_churn(family: str, tiny_model: Tiny, boxed: Path, tmp_path: Path) -> None:
    """A shift by nothing changes no token; with the mask frozen the same places are kept, so that a model
    which keeps everything answers as the full one does."""
    found = run(
        tiny_model(family),
        boxed,
        tmp_path / "run",
        families="shift(dx=0),shift(dx=3)",
        prune="none,divprune@0.5,random@0.5,identity,fastv@0.5(K=1),pool@0.5",
        churn=True,
    )

    def record(condition: str, item: int = 0) -> Record:
        return found["own", f"i{item}", condition]

    for method in ("divprune", "random"):
        still = record(f"shift+{method}(ratio=0.5)")
        assert still.kept_overlap == 1
        frozen = record(f"shift+{method}(mask=frozen,ratio=0.5)")
        assert (frozen.kept_hash, frozen.raw) == (still.kept_hash, still.raw)
        assert frozen.prob == pytest.approx(still.prob, abs=1e-5)
        moved = [record(f"shift(dx=3)+{method}(ratio=0.5)", i).kept_overlap for i in range(3)]
        assert all(share is not None and 0 <= share <= 1 for share in moved)
    # drawn by place, without a look at the image
    assert record("shift(dx=3)+random(mask=frozen,ratio=0.5)").visual_tokens == still.visual_tokens
    assert record("shift(dx=3)+identity").kept_overlap is None  # it chooses no tokens
    whole, kept = record("shift(dx=3)"), record("shift(dx=3)+identity")
    assert (whole.raw, whole.prob) == (kept.raw, pytest.approx(kept.prob, abs=1e-5))


def test_cdpruner_reads_the_question_with_a_clip_of_its_own(
    tiny_model: Tiny, boxed: Path, tmp_path: Path
) -> None:
    """Named by its folder; the kept tokens are those of the relevances that its towers give."""
    from test_clip_text import save_clip

    from vlmbench.models.clip_text import clip_relevance, load_clip

    adapter = Adapter(load_model(str(tiny_model("llava")), device="cpu"))
    clip = save_clip(tmp_path / "clip", adapter.model.config.vision_config.hidden_size)
    found = run(
        tiny_model("llava"), boxed, tmp_path / "run", families="noise", prune=f"cdpruner@0.5(clip={clip})"
    )
    record = found["own", "i0", f"cdpruner(clip={clip},ratio=0.5)"]
    assert record.state is not State.NOT_APPLICABLE
    picture = Image.open(boxed.parent / "images" / "0.png")
    row = adapter.prepare(adapter.render("what is it ?", 1), [picture], 3)
    encoded = adapter.encode([row], frozenset({"projector_in"}))
    (image,) = encoded.features[0].images
    assert image.projector_in is not None
    relevance = clip_relevance(adapter.model, load_clip(str(clip)), image.projector_in[:, 0], "what is it ?")
    context = Context(
        features=encoded.features[0].rows,
        grid=image.grid,
        projector_in=image.projector_in,
        relevance=relevance,
    )
    pruner = get("cdpruner")(ratio=0.5, clip=str(clip))
    kept = pruner.select(context, pruner.budget(context.n))
    assert record.kept_hash == kept_input(encoded.features[0], kept).kept_hash


def test_a_tower_that_no_checkpoint_fits_refuses_its_row_and_no_other(
    tiny_model: Tiny, boxed: Path, tmp_path: Path
) -> None:
    """Without a checkpoint, and with one of another width, the other methods are still answered."""
    from test_clip_text import save_clip

    wrong = save_clip(tmp_path / "clip", 96)
    methods = f"none,cdpruner@0.5,cdpruner@0.5(clip={wrong}),zoo@0.5"
    found = run(tiny_model("llava"), boxed, tmp_path / "run", families="noise", prune=methods)
    for name, says in (
        ("cdpruner(ratio=0.5)", "this model lacks CLIP's text tower"),
        (f"cdpruner(clip={wrong},ratio=0.5)", "is 96 wide and the model's vision tower"),
    ):
        record = found["own", "i0", name]
        assert record.state is State.NOT_APPLICABLE
        assert says in record.detail
    assert found["own", "i0", "zoo(ratio=0.5)"].state.counts


def test_best_of_n_is_the_best_draw_of_each_item(tiny_model: Tiny, boxed: Path, tmp_path: Path) -> None:
    """Told from the draws of `random`, never answered itself; in `perturb` it has no meaning."""
    options = RunOptions(str(tiny_model("llava")), str(boxed), out=tmp_path / "run", batch_size=4)
    plan = PruneOptions(methods="best-of-n(n=4)", ratios="0.75", timing=TimingPlan(5))
    table = prune(options, plan).table
    records = read_records(tmp_path / "run")
    assert not [condition for _, _, condition in records if condition.startswith("best")]
    (cell,) = (cell for cell in table.cells if cell.condition.startswith("best"))
    draws = ["random(ratio=0.75)", *(f"random(draw={i},ratio=0.75)" for i in range(1, 4))]
    best = [max(records["own", f"i{i}", draw].score or 0.0 for draw in draws) for i in range(3)]
    assert cell.score.decode() == best
    assert not cell.speed, "nothing that could be timed"
    assert {cell.condition for cell in table.cells} >= {"random(ratio=0.75)"}
    assert not any(cell.condition in draws[1:] for cell in table.cells)
    with pytest.raises(UsageError, match="use random"):
        PerturbOptions(prune="best-of-n@0.9")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zoo(mask=frozen)", "mask is set by `perturb --churn`"),
        ("cdpruner(clip=/nowhere)", "clip=/nowhere: no such folder"),
    ],
)
def test_what_the_user_got_wrong_is_no_row_of_the_table(
    spec: str, message: str, tiny_model: Tiny, boxed: Path, tmp_path: Path
) -> None:
    options = RunOptions(str(tiny_model("llava")), str(boxed), out=tmp_path / "run", show_progress=False)
    with pytest.raises(UsageError, match=message):
        prune(options, PruneOptions(methods=f"random,{spec}", ratios="0.5", timing=TimingPlan(0)))


@pytest.mark.parametrize("name", ["visionzip", "pool"])
def test_a_merge_of_too_many_tokens_is_refused(name: str, tiny_model: Tiny) -> None:
    """Before the language model, where more tokens than declared would only make it slower, silently."""
    kind: Any = PRUNERS.get(name).load()

    class Wrong(kind):  # type: ignore[misc]
        def reduce_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Reduced]:
            made: list[Reduced] = super().reduce_many(contexts, [2 * k for k in ks])
            return made

    adapter = Adapter(load_model(str(tiny_model("llava")), device="cpu"))
    row = adapter.prepare(adapter.render("what is it ?", 1), [Image.new("RGB", (SIDE, SIDE))], 3)
    encoded = adapter.encode([row], frozenset({"projector_in", "attention", "keys"}))
    with pytest.raises(ContractError, match="pruner Wrong broke its contract: reduce must return"):
        adapter.apply(Wrong(ratio=0.5), [row], encoded.features, [(0,)])
