"""What the loop decides by itself, without training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, composed, lively
from PIL import Image

from progdtd.errors import UserError
from progdtd.evaluation import protocols
from progdtd.experiment import run
from progdtd.experiment.check import warnings
from progdtd.experiment.signals import Requeue
from progdtd.training.tracking import Tracker
from progdtd.training.trainer import (
    Progress,
    Trainer,
    held_out,
    learning_rate,
    make_fabric,
    seed_step,
    train,
)

SMOKE = ("experiment=smoke", *TINY)


def test_a_loss_of_few_images_may_be_far_from_the_lowest(tmp_path) -> None:
    """Their p alone makes them differ by a factor of hundreds."""
    trainer = Trainer(composed(*SMOKE, "trainer.batch_size=2"), tmp_path)
    trainer.lowest = 0.1
    for done, loss, diverged in (
        (1, 150.0, False),
        (1, 170.0, True),
        (100, 4.0, False),
        (100, 6.0, True),
        (1, float("nan"), True),
    ):
        trainer.sums = torch.tensor([loss * done, 0.0, 0.0, 0.0])
        if diverged:
            with pytest.raises(UserError, match="Training diverged"):
                trainer.means(done)
        else:
            assert trainer.means(done)[0] == pytest.approx(loss)
    trainer.leads = False
    with pytest.raises(Requeue) as stop:  # what ends with another code has its leader killed
        trainer.means(1)
    assert stop.value.code == 0


def test_auto_is_a_gpu_or_else_the_cpu() -> None:
    options = composed(*SMOKE).trainer
    make_fabric(options)
    assert options.accelerator == ("cuda" if torch.cuda.is_available() else "cpu")
    assert options.precision in ("32-true", "bf16-mixed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch that finds no GPU")
def test_a_gpu_that_this_torch_cannot_use_is_said(monkeypatch, caplog) -> None:
    for visible, said in (("", False), ("0", True)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        make_fabric(composed(*SMOKE).trainer)
        assert ("training on the CPU" in caplog.text) == said


def test_a_warm_up_without_an_end_is_said() -> None:
    for warmup, said in ((6, True), (5, False)):
        found = "".join(warnings(composed(*SMOKE, f"trainer.warmup={warmup}")))
        assert ("never reaches trainer.lr" in found) == said


def test_held_out_images_are_known_wherever_one_is(images, tmp_path) -> None:
    root = images.relative_to(Path.cwd())
    folder = ("dataset=folder", f"dataset.root={root}", "dataset.validation=1")
    Trainer(composed(*SMOKE, *folder), tmp_path / "run")
    held = run.recorded(tmp_path / "run")["held_out"]
    assert held
    assert all(Path(path).is_absolute() for path in held)


def test_held_out_crops_are_central(tmp_path) -> None:
    rows, columns = np.mgrid[:300, :456] // 2
    Image.fromarray(np.dstack([rows, columns, rows]).astype(np.uint8)).save(tmp_path / "a.png")
    (crop,) = held_out([tmp_path / "a.png"])
    assert crop.shape == (256, 256, 3)
    assert crop[0, 0].tolist() == [11, 50, 11]


def test_validation_measures_as_in_use_and_goes_back_to_training(tmp_path) -> None:
    trainer = Trainer(composed(*SMOKE), tmp_path)
    lively(trainer.model).train()
    tracker = Tracker(trainer.cfg, tmp_path, leads=False)
    for done in (1, 2):
        trainer.validate(done, tracker)
        assert all(module.training for module in trainer.model.modules())
    rows = [row | {"step": 0} for row in trainer.validation.rows()]
    half = len(rows) // 2
    assert rows[:half] == rows[half:]
    trainer.model.eval()
    for row in rows[:half]:
        bpp = [
            measured["bpp"]
            for held in trainer.held
            for measured, _ in protocols.estimate(trainer.model, trainer.drop, held, [row["p"]])
        ]
        assert row["bpp"] == pytest.approx(np.mean(bpp), rel=1e-5)
    assert rows[half - 1]["bpp"] > 0.1


def test_a_report_has_the_units_that_it_names(tmp_path) -> None:
    trainer, progress = Trainer(composed(*SMOKE), tmp_path), Progress(0, 6, False)
    tracker = Tracker(trainer.cfg, tmp_path, leads=False)
    trainer.report(1, [5.0, 0.25, 0.01, 7.0], 3.0, tracker, progress)
    (row,) = trainer.metrics.rows()
    assert (row["loss"], row["bpp"], row["psnr"], row["aux"]) == (5.0, 0.25, 20.0, 7.0)
    assert row["images_per_s"] == 3 * trainer.options.batch_size


def test_a_checkpoint_brings_back_what_is_not_weights(tmp_path) -> None:
    first = Trainer(composed(*SMOKE), tmp_path)
    first.meta["ancestors"] = [{"name": "before"}]
    first.lowest, first.seconds = 0.125, 42.0
    first.save(0)
    again = Trainer(composed(*SMOKE), tmp_path)
    assert (again.lowest, again.seconds) == (0.125, 42.0)
    assert again.meta["ancestors"] == [{"name": "before"}]


def test_the_seed_decides_the_first_weights(tmp_path) -> None:
    one, other = (Trainer(composed(*SMOKE, f"seed={s}"), tmp_path / str(s)).model for s in (0, 1))
    assert not torch.equal(one.g_a[0].weight, other.g_a[0].weight)


def test_no_image_to_validate_on_is_said(tmp_path, caplog) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "flat.png")
    assert held_out([tmp_path / "flat.png"]) == []
    assert "that takes 256 pixels a side" in caplog.text


def test_noise_and_draws_of_p_differ_and_each_step_and_process_has_its_own(tmp_path) -> None:
    trainer = Trainer(composed(*SMOKE), tmp_path)
    drawn = {tuple(trainer.draw(step, 2).tolist()) for step in (3, 4)}
    for step, rank in ((3, 0), (3, 1), (4, 0)):
        seed_step(0, step, rank)
        drawn.add(tuple(torch.rand(2, dtype=torch.float64).tolist()))
    assert len(drawn) == 2 + 3


def test_a_step_takes_the_rates_that_are_configured(tmp_path, monkeypatch) -> None:
    trainer = Trainer(composed(*SMOKE, "trainer.aux_lr=0.5"), tmp_path)
    groups, rates, step = trainer.optimizers[0].param_groups, [], trainer.optimizers[0].step

    def noted() -> None:
        rates.append([group["lr"] for group in groups])
        step()

    monkeypatch.setattr(trainer.optimizers[0], "step", noted)
    for index in range(2):
        trainer.step(index, trainer.batches[index])
    assert len(groups) == 2
    assert {group["weight_decay"] for group in groups} == {0.0}
    assert rates == [[learning_rate(index, trainer.options)] * 2 for index in range(2)]
    assert [group["lr"] for group in trainer.optimizers[1].param_groups] == [0.5]


def test_what_cannot_be_compiled_is_trained_all_the_same(tmp_path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("there is no compiler\nand so on")

    def compile_so(self: torch.nn.Module) -> None:
        self._compiled_call_impl = torch.compile(self._call_impl, backend=broken)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_so)
    plain, compiled = (
        Trainer(composed(*SMOKE, f"trainer.compile={flag}"), tmp_path / flag)
        for flag in ("false", "true")
    )
    for step in range(2):
        for trainer in (plain, compiled):
            trainer.step(step, trainer.batches[step])
    one, other = plain.model.state_dict(), compiled.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_one_process_of_a_slurm_job_trains_alone(monkeypatch) -> None:
    """As in `sbatch --ntasks=2` without `srun`, which would start two."""
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert make_fabric(composed(*SMOKE).trainer).world_size == 1
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(UserError, match=r"trainer\.accelerator=cpu, devices=1"):
        make_fabric(composed(*SMOKE).trainer)


def test_the_learning_rate_rises_and_falls() -> None:
    options = composed(
        *SMOKE,
        "trainer.lr=1e-3",
        "trainer.steps=1100",
        "trainer.warmup=100",
        "trainer.final_lr=0.02",
    ).trainer
    rates = [learning_rate(step, options) for step in range(1101)]
    assert rates[0] == pytest.approx(1e-3 / 101)
    assert max(rates) == rates[100] == pytest.approx(1e-3)
    assert rates[600] == pytest.approx(0.51e-3)  # half of the way, the middle of 1 and 0.02
    assert rates[1100] == pytest.approx(0.02e-3)


@pytest.mark.parametrize(
    ("drop", "latent", "hyper"),
    [
        ("dtd", True, True),
        ("latent_only", True, False),
        ("hyper_only", False, True),
        ("none", False, False),
    ],
)
def test_a_step_drops_the_tails_that_are_configured(tmp_path, drop, latent, hyper) -> None:
    cfg = composed(*SMOKE, f"drop={drop}", "drop.range=[0.0,0.5]", "drop.full=0.0")
    trainer, seen = Trainer(cfg, tmp_path), []
    trainer.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    images = trainer.batches[0]
    trainer.step(0, images)
    ((_, p, p_hyper),) = seen
    drawn = trainer.draw(0, len(images))
    assert drawn.max() <= 0.5
    for fractions, dropped in ((p, latent), (p_hyper, hyper)):
        assert fractions == (drawn if dropped else torch.ones_like(drawn)).tolist()


def test_p_and_images_are_not_rounded_to_the_precision_of_the_transforms(tmp_path) -> None:
    """bfloat16 has no number between 0.4980 and 0.5; of 12 channels, these keep 6 and 7."""
    trainer, rates = Trainer(composed(*SMOKE, "trainer.precision=bf16-mixed"), tmp_path), []
    lively(trainer.model)
    images = trainer.fabric.to_device(torch.full((1, 3, 128, 128), 77, dtype=torch.uint8))
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for p in (0.4999, 0.5):
        rates.append(trainer.module(images, [p], [0.0])["bpp"].item())
    assert rates[0] < rates[1]
    assert torch.equal(seen[0], images.float() / 255)


@pytest.mark.parametrize(("precision", "seen"), [("32-true", "highest"), ("bf16-mixed", "medium")])
def test_only_the_optimizers_matrices_are_multiplied_coarsely(
    tmp_path, monkeypatch, precision, seen
) -> None:
    trainer = Trainer(composed(*SMOKE, f"trainer.precision={precision}"), tmp_path)
    during, step = [], trainer.optimizers[0].step
    trainer.model.register_forward_hook(
        lambda *_: during.append(torch.get_float32_matmul_precision())
    )
    monkeypatch.setattr(
        trainer.optimizers[0],
        "step",
        lambda: during.append(torch.get_float32_matmul_precision()) or step(),
    )
    trainer.step(0, trainer.batches[0])
    assert [*during, torch.get_float32_matmul_precision()] == ["highest", seen, "highest"]


@pytest.mark.parametrize(("n", "m"), [(4, 6), (16, 256)])
def test_soap_has_bases_for_kernels_and_matrices_alone(tmp_path, n, m) -> None:
    trainer = Trainer(composed(*SMOKE, f"model.N={n}", f"model.M={m}"), tmp_path)
    for step in range(2):
        trainer.step(step, trainer.batches[step])
    named = [(n, p) for n, p in trainer.model.named_parameters() if not n.endswith("quantiles")]
    groups = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len(groups) == len(named)
    assert {id(p) for p in groups} == {id(p) for _, p in named}
    sides = {id(p): [len(basis) for basis in trainer.optimizers[0].state[p]["Q"]] for p in groups}
    bases = {name: sides[id(p)] for name, p in named}
    assert bases["g_a.0.weight"] == [n, 3, 25]
    assert bases["g_a.2.weight"] == [n, n, 25]
    assert bases["h_s.4.weight"] == [m, n, 9]
    assert bases["g_a.1.gamma"] == [n, n]
    flat = [name for name, p in named if p.dim() not in (2, 4)]
    assert {"g_a.0.bias", "entropy_bottleneck.matrices.0"} <= set(flat)
    assert not any(any(bases[name]) for name in flat)


def test_a_full_gpu_ends_with_what_to_do(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(UserError, match=r"2.00 GiB\). Use fewer images a step .trainer.batch_size"):
        train(composed(*SMOKE), tmp_path)


@pytest.mark.slow
def test_what_is_compiled_is_compiled_for_training_alone(tmp_path) -> None:
    cfg = composed(*SMOKE, "trainer.compile=true", "trainer.steps=2", "trainer.validate_every=1")
    trainer = Trainer(cfg, tmp_path)
    trainer.step(0, trainer.batches[0])
    compiled = torch._dynamo.utils.counters["frames"]["total"]
    trainer.fit()
    assert (tmp_path / "weights.safetensors").exists()
    assert 0 < compiled == torch._dynamo.utils.counters["frames"]["total"]


def test_the_gradient_of_the_model_alone_is_clipped(tmp_path, monkeypatch) -> None:
    trainer, norms = Trainer(composed(*SMOKE, "trainer.clip=1e-3"), tmp_path), []
    for optimizer in trainer.optimizers:

        def measure(optimizer=optimizer, step=optimizer.step) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            norms.append(torch.stack([g.norm() for g in gradients if g is not None]).norm().item())
            step()

        monkeypatch.setattr(optimizer, "step", measure)
    trainer.step(0, trainer.batches[0])
    assert norms[0] == pytest.approx(1e-3, rel=0.01)
    assert norms[1] > 0.1
