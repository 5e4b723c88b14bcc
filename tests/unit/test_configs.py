"""Every preset composes, and the command lines of the README mean what they say."""

import shlex
import shutil
from pathlib import Path

import pytest
from conftest import HYPERPRIORS, composed, refused
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from progdtd import tail_drop
from progdtd.errors import UserError
from progdtd.experiment.check import check
from progdtd.experiment.config import CONF, minutes, sentences
from progdtd.experiment.sweep import check_words
from progdtd.experiment.words import check_readable, parsed, printed
from progdtd.models import weights

GROUPS = (
    "model",
    "drop",
    "dataset",
    "trainer",
    "trainer/optimizer",
    "logger",
    "launcher",
    "quality",
    "experiment",
)
CHOICES = [(g, path.stem) for g in GROUPS for path in sorted(Path(CONF, g).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_is_valid(group: str, choice: str) -> None:
    cfg = composed(f"{group}={choice}")
    check(cfg)
    assert "=" not in cfg.run_name
    assert "," not in cfg.run_name


@pytest.mark.parametrize("model", HYPERPRIORS)
def test_model_configs_build(model: str) -> None:
    net = weights.build_model(composed(f"model={model}", "model.N=8", "model.M=12").model)
    assert (net.N, net.M) == (8, 12)


@pytest.mark.parametrize("word", ["trainer.aux_lr=-1", "trainer.resize=32"])
def test_an_option_that_cannot_be_is_refused(word) -> None:
    with pytest.raises(UserError, match=word):
        check(composed("experiment=smoke", word))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trainer.step=5", "Did you mean trainer.steps?"),
        ("dataset.root=x", "of dataset=folder, vimeo90k, which is not chosen"),
        ("logger.project=x", "of logger=wandb, which is not chosen"),
        ("drop.rang=[0,1]", "Did you mean drop.range?"),
        ("trainer.optimizer.betas=[0,1]", "use +trainer.optimizer.betas=[0,1]"),
        ("dataset=folder dataset.rot=x", "Did you mean dataset.root?"),
        ("quality=0.1,high", "choose one of"),
        ("--multirun --cfg job", "leave out -m"),
        ("-m --cfg=job", "leave out -m"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, said) -> None:
    def read() -> None:
        with sentences():
            check_words(words.split())
            composed(*words.split())

    with pytest.raises(SystemExit) as stop:
        read()
    assert said in str(stop.value)


@pytest.mark.parametrize(
    "words",
    [
        "--config-dir=/x",
        "dataset=of_mine dataset.mine=x",
        "experiment=[paper,smoke] dataset.root=x",
        "trainer=gpu trainer.steps=5,6 +trainer.new=1 trainer/optimizer=adam",
    ],
)
def test_words_that_may_mean_something_are_hydra_s(words) -> None:
    check_words(words.split())


def test_only_what_hydra_cannot_read_is_refused() -> None:
    check_readable(["-m", "--config-dir=~", "run_name=lr-${trainer.lr}", "lambda=interval(0,1)"])
    with pytest.raises(UserError, match="run='a"):
        check_readable(["seed=1", "run=a(1)"])


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "lr=0.1",
        "a(1)",
        "~/x",
        "2024_01_01",
        "null",
        "a,b",
        "o'b",
        "a\\",
        "a\\'b",
        "$x",
        'a"b',
        "[a",
        "a b",
        "phötos",
        "`a`!",
    ],
)
def test_what_is_printed_can_be_typed(text) -> None:
    (word,) = shlex.split(printed("run", text))
    assert parsed(word).value() == text
    check_readable([word])


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("evaluate", ["run=a(1)"], "\"run='a(1)'\""),
        ("figures", ["out=~/x"], "\"out='~/x'\""),
        ("baselines", ["images=~/x"], "\"images='~/x'\""),
        ("train", ["dataset=folder", "dataset.root=~/x"], "\"dataset.root='~/x'\""),
        ("train", ["-m", "lambda=interval(0.01,1)"], "does not support sweep type"),
        ("train", ["run_name='" + "ä" * 128 + "'"], "File name too long"),
        ("train", ["-m", "hydra.sweep.subdir=${none}"], "Interpolation key 'none' not found"),
    ],
)
def test_what_hydra_cannot_take_is_said_in_a_sentence(command, name, arguments, said) -> None:
    assert said in refused(command, name, *arguments)


def test_lambda_is_a_scalar_and_never_a_group() -> None:
    """A config group named lambda would break `lambda=0.01`, even as an empty folder."""
    assert not Path(CONF, "lambda").exists()
    assert composed("lambda=0.01")["lambda"] == 0.01
    assert [composed(f"quality={q}")["lambda"] for q in ("low", "medium", "high")] == [0.01, 0.1, 1]
    assert composed("quality=high", "lambda=0.5")["lambda"] == 0.5
    assert composed("experiment=smoke", "quality=high")["lambda"] == 1


def test_range_names_the_run() -> None:
    cfg = composed("drop.range=[0.3,1.0]", "lambda=1.0")
    assert cfg.run_name == "hyperprior_dtd_lambda-1.0_range-0.3-1.0_seed-0"
    assert tail_drop.build_drop(cfg.drop).range == (0.3, 1.0)
    assert composed("drop.range=[0.3,1]", "lambda=1").run_name == cfg.run_name, "one run, one name"


def test_a_dataset_of_one_s_own_begins_with_another(tmp_path) -> None:
    """It has the options of that one, and more of its own, whichever of the two names it has."""
    shutil.copytree(CONF, tmp_path / "conf")
    for choice, base, name in (
        ("textures", "folder", "name: textures\n"),
        ("more", "folder@_here_", "name: folder\n"),
        ("as", "folder", ""),
        ("absolute", "/dataset/folder@_here_", "name: absolute\n"),
    ):
        own = f"defaults: ['{base}']\n{name}{choice}: all.txt\nvalidation: 2\n"
        own += f"paths: {{list: '${{dataset.{choice}}}'}}\n"
        (tmp_path / f"conf/dataset/{choice}.yaml").write_text(own)
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        for choice in ("textures", "more", "as", "absolute"):
            check(compose("train", [f"dataset={choice}", "dataset.root=images"]))
            with pytest.raises(UserError, match=r"no option .*roots.* mean dataset\.root"):
                check(compose("train", [f"dataset={choice}", "+dataset.roots=images"]))


def test_what_a_yaml_leaves_out_is_named() -> None:
    cfg = composed()
    OmegaConf.set_struct(cfg, False)
    del cfg.dataset["workers"]
    with pytest.raises(OmegaConfBaseException, match=r"dataset\.workers"):
        check(cfg)
    cfg.dataset.workers = None
    del cfg.dataset["steps"]
    with pytest.raises(OmegaConfBaseException, match=r"'dataset.steps' not found"):
        check(cfg)


def test_reference_recipe_is_the_papers() -> None:
    options = composed("trainer=paper", "dataset=vimeo90k", "dataset.root=x").trainer
    assert (options.lr, options.final_lr, options.warmup, options.clip) == (1e-4, 1.0, 0, None)
    assert (options.batch_size, options.resize, options.crop) == (4, 256, 256)
    assert options.steps == 525_000
    assert options.optimizer._target_ == "torch.optim.Adam"


def test_the_papers_models_are_its_recipe() -> None:
    cfg = composed("experiment=paper", "dataset.root=x")
    assert (cfg.drop.full, cfg.drop.power, cfg.model.sigmoid) == (0, 1, True)
    recipe = composed("trainer=paper", "dataset=vimeo90k", "dataset.root=x")
    assert (cfg.trainer, cfg.dataset) == (recipe.trainer, recipe.dataset)


@pytest.mark.parametrize("group", GROUPS)
def test_an_unknown_choice_is_refused_with_those_there_are(group) -> None:
    there = next(choice for name, choice in CHOICES if name == group)
    with pytest.raises(MissingConfigException, match=f"nonesuch(.|\n)*{there}"):
        composed(f"{group}=nonesuch")


@pytest.mark.parametrize(
    ("time", "expected"),
    [(90, 90), ("90", 90), ("1:30:00", 90), ("2-12:00:00", 3600), ("0:00:30", 1)],
)
def test_time_limits_are_read_as_slurm_reads_them(time, expected) -> None:
    assert minutes(time) == expected


@pytest.mark.parametrize("time", ["soon", "", "1:30", "-5", "1:2:3:4", None])
def test_what_is_no_time_limit_is_refused(time) -> None:
    with pytest.raises(UserError, match="is no time"):
        minutes(time)


@pytest.mark.parametrize("launcher", ["basic", "local", "gpus", "ray"])
def test_launchers_compose_with_the_options_of_hydra(launcher) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("train", [f"launcher={launcher}"], return_hydra_config=True)
    assert cfg.launcher.name == launcher
    options = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    assert options["_target_"].startswith("hydra")
