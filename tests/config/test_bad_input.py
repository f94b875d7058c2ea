"""Wrong configs end in one sentence that names the cause and what would be right, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import CompactHydraException
from study_tools import composed, tiny_overrides, train

from sdpet.commands.errors import sentence
from sdpet.config import validate

WRONG = [
    # overrides, what the sentence must say
    (["adapter.din=attn2x"], ["adapter.din", "attn2o", "attn1i"]),
    (["adapter.dout=attn2o"], ["adapter.dout", "ffni", "transo"]),  # can be read, not written
    (["adapter.dout=ffnj"], ["attn2c, ffni, transo", "did you mean ffni"]),  # lists what can be written, not ffno
    (["adapter.din=ffni", "adapter.dout=attn1i"], ["attn1i comes before ffni", "transo"]),
    (["adapter.din=attn1i", "adapter.dout=reso"], ["resnet", "transformer"]),
    (["adapter.mid_dim=0"], ["adapter.mid_dim", "at least 1"]),
    (["adapter.mid_dim=2.5"], ["adapter.mid_dim", "whole number"]),
    (["adapter.params=0"], ["adapter.params", "at least 1"]),
    (["adapter.activation=swish"], ["relu, sig, silu, ident"]),
    (["adapter.init=xavier"], ["zero, default"]),
    (["adapter.scale=big"], ["adapter.scale", "number"]),
    (["adapter.method=lora2"], ["adapter, full"]),
    (["adapter=full", "adapter.din=attn1i", "adapter.dout=ffni"], ["full", "adapter.din=null"]),
    (["trainer.steps=-1"], ["trainer.steps", "at least 1", "-1"]),
    (["trainer.lr=fast"], ["trainer.lr", "number", "fast"]),
    (["trainer.lr=0"], ["trainer.lr", "above 0"]),
    (["trainer.lr=nan"], ["trainer.lr", "number"]),
    (["trainer.batch_size=0"], ["trainer.batch_size", "at least 1"]),
    (["trainer.device=tpu"], ["cpu", "cuda"]),
    (["trainer.schedule=step"], ["trainer.schedule", "cosine_with_restarts"]),
    (["trainer.accumulate=0"], ["trainer.accumulate", "at least 1"]),
    (["trainer.ema=1"], ["trainer.ema", "below 1"]),
    (["trainer.ema=0"], ["trainer.ema", "above 0"]),
    (["trainer.optimizer=sgd"], ["trainer.optimizer", "adamw, adamw8bit"]),
    (["trainer.validate_every=0"], ["trainer.validate_every", "at least 1"]),
    (["trainer.grad_checkpointing=1"], ["trainer.grad_checkpointing", "true or false"]),
    (["task.noise_offset=-1"], ["task.noise_offset", "at least 0"]),
    (["adapter=lora", "adapter.din=attn1i"], ["lora takes no din", "adapter.din=null"]),
    (["adapter=embedding", "adapter.scale=2"], ["embedding takes no scale"]),
    (["trainer.precision=8"], ["trainer.precision", "32-true"]),
    (["trainer.devices=0"], ["trainer.devices", "at least 1"]),
    (["trainer.devices=2", "trainer.batch_size=3"], ["trainer.batch_size 3", "multiple", "2"]),
    (["trainer.devices=2", "trainer.device=cuda:1", "trainer.batch_size=2"], ["cuda:1", "one GPU"]),
    (["seed=one"], ["seed", "whole number"]),
    (["seed=-1"], ["seed", "at least 0"]),
    (["sampler.name=euler"], ["dpm or ddim or plms", "diffusion model"]),
    (["sampler.steps=0"], ["sampler.steps", "at least 1"]),
    (["sampler.steps=1000"], ["sampler.steps", "999", "dpm"]),
    (["sampler.guidance=-2"], ["sampler.guidance", "at least 0"]),
    (["sampler.eta=0.5"], ["sampler.eta", "ddim"]),
    (["eval.prompts=[a red one]"], ["{prompt}", "a red one"]),
    (["eval.subject_images=0"], ["eval.subject_images", "at least 1"]),
    (["data.subject_dir=/nowhere/photos"], ["data.subject_dir", "/nowhere/photos", "folder of images"]),
    (["data=subject", "data.subject_dir=."], ["data.noun must be given"]),
    (["data.token=xyz"], ["data.token", "a photo of a sks star"]),
    (["unet.path=/nowhere/model"], ["/nowhere/model", "does not exist", "unet.path"]),
    (["unet.path=."], ["lacks", "unet, vae"]),
    (["unet.path=/nowhere/model.ckpt"], ["/nowhere/model.ckpt does not exist", ".ckpt or .safetensors"]),
    (["unet.path=/proc/version"], ["neither a checkpoint", "/proc/version"]),
    (["+unet.use_ema=maybe"], ["unet.use_ema", "true or false"]),
    (["+unet.use_ema=true"], ["unet.use_ema", "checkpoint file"]),
    (["+unet.config=/nowhere"], ["unet.config", "checkpoint file"]),
    (["+unet.image_size=33"], ["unet.image_size", "multiple of 4"]),
    (["+unet.image_size=4"], ["unet.image_size", "at least 8"]),
    (["unet=ckpt", "unet.path=/proc/version", "unet.config=/nowhere"], ["/nowhere lacks unet/config.json"]),
    (["task=finetune"], ["data=digits"]),
    (["logger.name=mlflow"], ["none, csv, tensorboard, wandb"]),
    (["logger.name=wandb"], ["logger.project", "logger=wandb"]),
    (["logger=wandb", "logger.mode=cloud"], ["auto, offline, online, disabled"]),
    (["logger=wandb", "logger.mode=online"], ["wandb login", "offline"]),
    (["study=a/b"], ["study", "without slashes"]),
    (["output_root=/proc/version/out"], ["output_root", "not a folder"]),
    (["quiet=maybe"], ["quiet", "true or false"]),
    (["+trainer.momentum=0.9"], ["trainer.momentum", "weight_decay"]),
    # what Hydra itself finds when it composes
    (["trainer.learning_rate=1"], ["trainer.learning_rate", "lr"]),
    (["adapter.mid_dm=8"], ["adapter.mid_dm", "did you mean mid_dim"]),
    (["adaptor=full"], ["adaptor", "did you mean adapter"]),
    (["adapter=attn2o-fni"], ["attn2o-fni", "attn2o-ffni"]),
    (["sampler=euler"], ["euler", "dpm", "plms"]),
    (["eval=vit"], ["vit", "lab"]),
    (
        ["adapter.blocks=dwn"],
        [
            "adapter.blocks=dwn matches no block",
            "choose all, down, mid, up or a regular expression",
            "down_blocks.0.attentions.0.transformer_blocks.0",
        ],
    ),
    (["seed=0,1"], ["seed=0,1", "add -m"]),
]


@pytest.mark.parametrize(("overrides", "says"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_one_sentence_names_the_cause_and_the_choices(overrides, says, tiny_folder, subject_folders, tmp_path):
    out = tmp_path / "out"
    with pytest.raises((ValueError, CompactHydraException)) as caught:
        validate(composed(*tiny_overrides(tiny_folder, subject_folders, out), *overrides))
    text = sentence(caught.value)
    assert "\n" not in text
    for part in says:
        assert part in text
    assert not out.exists()


def test_a_folder_without_images(tiny_folder, subject_folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        given = tiny_overrides(tiny_folder, subject_folders, tmp_path)
        validate(composed(*given, f"data.class_dir={tmp_path / 'empty'}"))


def test_photos_are_looked_at_before_the_base_model_is_fetched(tmp_path, monkeypatch):
    def fetched(*given):
        raise AssertionError("the base model was asked for")

    monkeypatch.setattr("sdpet.config.model_checks.source_of", fetched)
    (tmp_path / "0.png").write_bytes(b"no picture")
    given = [f"data.subject={tmp_path}", "data.class_word=dog", "task.reg_weight=0"]
    with pytest.raises(ValueError, match=r"none of the 1 files in .* is a readable image"):
        validate(composed("unet=sd15", "data=folder", *given))


def test_callbacks_of_hydra_see_the_end_of_a_run(tiny_folder, subject_folders, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Told(Callback):\n"
        "    def on_job_end(self, config, job_return, **more):\n"
        "        print('job', job_return.status.name, job_return.return_value)\n"
        "    def on_run_end(self, config, **more):\n"
        "        print('run', 'ended')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    given = tiny_overrides(tiny_folder, subject_folders, tmp_path / "out")
    ended = train(*given, "+hydra.callbacks.mine._target_=mine.Told")
    assert ended.returncode == 0, ended.stderr
    assert "job COMPLETED True" in ended.stdout and "run ended" in ended.stdout


COMMANDS = [
    # in a study, the wrong value is in the last of many jobs
    (["-m", "seed=range(0,20)", "adapter.activation=relu,sig,swish"], "relu, sig, silu, ident"),
    (["-m", "adapter=attn2o-ffni,ffni-ffno"], "attn2o-ffni"),
    (["-m", "seed=range(3,3)"], "no value"),
    (["-m", "adapter.din=ffno", "adapter.dout=attn1i,ffni"], "no run"),
    (["-m", "seed=0,1", "hydra.launcher.workers=0"], "at least 1"),
    (["-m", "seed=0,1", "hydra.sweeper.fracton=0.5"], "did you mean fraction"),
    (["-m", "seed=0,1", "hydra.sweeper.fraction=2"], "hydra.sweeper.fraction must be a number from 0 to 1"),
    (["-m", "seed=0,1", "hydra.launcher.workerz=3"], "did you mean workers?); keys are workers, size"),
    (
        ["-m", "seed=0,1", "hydra/launcher=local", "+hydra.launcher.size=3"],
        "no key hydra.launcher.size with hydra/laun",
    ),
    (["-m", "+sweeps=placemen"], "there is no sweeps=placemen (did you mean placement?); choose one of "),
    (["-m", "seed=choice(0,1),2"], "seed=choice(0,1),2 holds a list inside a list"),
    (["-m", "seed=0,1", "seed=2"], "seed is given twice, seed=0,1 and seed=2"),
    (["-m", "study=a,b"], "give study one value"),
    (["-m", "~trainer.clip"], "~trainer.clip has nothing to delete"),
    (["-m", "~trainer.lr"], "trainer.lr must be given"),
    (["~adapter.scale"], "leave ~adapter.scale out for the default, or write adapter.scale=VALUE"),
    (["+sweeps=smoke"], "it needs -m: python train.py -m +sweeps=smoke"),
    (["-m", "sweeps=smoke"], "sweeps=smoke needs a plus, since it adds a group: python train.py -m +sweeps=smoke"),
    (["adapter=attn2o_ffni"], "there is no adapter=attn2o_ffni (did you mean attn2o-ffni?)"),
    (["hydra/sweeper=basic", "--dry-run"], "--dry-run belongs to the sweeper grid, which hydra/sweeper=basic replaces"),
    (["data.prompt=a sks star, red"], "quotes for one text, 'KEY=\"A, B\"'"),
    (["-m", "data.prompt=a sks star, red"], "one text with commas is 'data.prompt=\"A, B\"'"),
    (["trainer.steps=-5"], "at least 1"),
    (["seed=(1"], "seed=(1"),
    (["trainer.device=cuda"], "no usable CUDA device; choose trainer=cpu"),
    (["-m", "seed=0,1", "trainer.device=cuda"], "no usable CUDA device; choose trainer=cpu"),
]


@pytest.mark.parametrize(("arguments", "says"), COMMANDS, ids=[" ".join(case[0]) for case in COMMANDS])
def test_the_command_says_it_without_a_traceback_and_fails(
    arguments, says, tiny_folder, subject_folders, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    flags = [argument for argument in arguments if argument == "-m"]
    ended = train(*flags, *tiny_overrides(tiny_folder, subject_folders, out), *arguments[len(flags) :])
    assert ended.returncode == 1, ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not [path for path in out.glob("*/*") if Path(path).is_dir()]


def test_a_launcher_that_is_not_installed_is_named_with_its_package():
    from sdpet.commands.errors import sentence

    error = RuntimeError("Unknown plugin class : 'hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher'")
    assert sentence(error).endswith(
        "needs the package hydra-ray-launcher; install it with pip install hydra-ray-launcher."
    )


def test_a_missing_run_cannot_be_scored_again(tmp_path):
    ended = train(f"run={tmp_path}", script="evaluate.py")
    assert ended.returncode == 1
    assert "config.yaml" in ended.stderr and "Traceback" not in ended.stderr
