"""The command line as scripts and people use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import preloaded
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

from rechar_core.backend import defaults
from rechar_core.backend.pipeline import encode_picture, encode_prompt
from rechar_core.cli import main as cli
from rechar_core.cli import train_options
from rechar_core.cli.main import main
from rechar_core.images import fit, read, to_pil
from rechar_core.lora import files
from rechar_core.training import objective
from rechar_core.training.noise import SeededNoise
from rechar_core.training.recipe import TrainingRecipe

ROOT = Path(__file__).parents[1]
GLYPH, STYLE = tiny.REFERENCE / "structure.png", tiny.REFERENCE / "style.png"
UNSET = {  # what the command line holds of the options that are not given
    "mixed_precision": "auto",
    "memory": "auto",
    "fp8_base": False,
    "fresh": False,
    "frozen": None,
    "log_json": None,
}
SMALL = ["--rank", "4", "--steps", "4", "--resolution", "64", "--learning-rate", "1e-2"]


def train(output: Path, *options: str, image: Path = GLYPH) -> int:
    base = [
        "train",
        "--model",
        str(tiny.MODEL),
        "--image",
        str(image),
        "--prompt",
        "A [v]",
        "--output",
        str(output),
    ]
    return main([*base, *SMALL, *options])


def generate(output: Path, *options: str, prompt: str = "A [v]") -> list[np.ndarray]:
    base = ["generate", "--model", str(tiny.MODEL), "--prompt", prompt, "--output", str(output)]
    assert main([*base, "--steps", "2", "--width", "64", "--height", "64", "--images", "2", *options]) == 0
    return [np.asarray(Image.open(p)) for p in sorted(output.glob("*.png"))]


@pytest.fixture(scope="module")
def loras(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loras")
    assert train(folder / "glyph.safetensors", "--log-json", str(folder / "log.json")) == 0
    assert train(folder / "style.safetensors", image=STYLE) == 0
    return {
        "structure": folder / "glyph.safetensors",
        "style": folder / "style.safetensors",
        "log": folder / "log.json",
    }


def test_train_writes_a_b_lora_and_a_log(loras):
    blora = files.read(loras["structure"])
    assert [b.name for b in blora.blocks] == ["structure", "style"]
    assert (blora.ranks, blora.network_alphas, blora.trigger) == ((4,), (4.0,), "A [v]")
    log = json.loads(loras["log"].read_text(encoding="utf-8"))
    assert len(log["losses"]) == 4 and log["seconds_per_step"] > 0 and log["peak_memory_bytes"] > 2**20
    leftovers = {p.name for p in loras["structure"].parent.iterdir()}
    assert leftovers == {"glyph.safetensors", "style.safetensors", "log.json"}


def test_the_files_real_name_is_printed(tmp_path, capsys):
    """A failure means that a script looks for the LoRA where it is not."""
    assert train(tmp_path / "glyph.v2") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "glyph.v2.safetensors")]
    assert [p.name for p in tmp_path.iterdir()] == ["glyph.v2.safetensors"]


def test_same_command_same_bytes(loras, tmp_path):
    """A failure means that a seed does not name one result."""
    assert train(tmp_path / "glyph.safetensors") == 0
    assert (tmp_path / "glyph.safetensors").read_bytes() == loras["structure"].read_bytes()


def test_the_references_three_uses_differ_and_alpha_zero_is_no_lora(loras, tmp_path):
    structure, style = ["--structure", str(loras["structure"])], ["--style", str(loras["style"])]
    plain = generate(tmp_path / "plain")
    zero = generate(tmp_path / "zero", *structure, "--structure-alpha", "0")
    assert all(np.array_equal(a, b) for a, b in zip(plain, zero, strict=True))
    uses = [
        generate(tmp_path / str(i), *use) for i, use in enumerate(([*structure, *style], structure, style))
    ]
    pictures = [use[0] for use in (plain, *uses)]
    for i, a in enumerate(pictures):
        assert not any(np.array_equal(a, b) for b in pictures[:i])


def test_seed_names_the_picture_not_its_place(loras, tmp_path):
    _, second = generate(tmp_path / "a", "--seed", "3")
    first, _ = generate(tmp_path / "b", "--seed", "4")
    assert np.array_equal(first, second)
    saved = json.loads(Image.open(tmp_path / "b" / "seed_00004.png").info["rechar"])
    assert (saved["seed"], saved["prompt"]) == (4, "A [v]")


def test_reference_mode_squares_alpha(loras, tmp_path):
    lora = ["--structure", str(loras["structure"])]
    squared = generate(tmp_path / "a", *lora, "--structure-alpha", "0.5", "--alpha-mode", "reference")
    quarter = generate(tmp_path / "b", *lora, "--structure-alpha", "0.25")
    assert np.array_equal(squared[0], quarter[0])


@pytest.mark.bounds
@pytest.mark.parametrize("size", [{}, {"width": 96, "height": 64}], ids=["the model's own", "96x64"])
def test_a_seed_is_the_picture_of_diffusers_own_call(size):
    """Bit for bit in fp32. A failure means another noise, or another size where none is given."""
    from rechar_core.backend.pipeline import decode_latent, load
    from rechar_core.cli.generate import Sampling, sample
    from rechar_core.lora.fusion import fuse

    pipe = load(str(tiny.MODEL), torch.float32, torch.device("cpu"))
    drawn = next(sample(pipe, Sampling("A [v]", steps=1, **size), fuse(None, None), [3], False))
    draws = torch.Generator().manual_seed(3)
    given = {"num_inference_steps": 1, "guidance_scale": 5.0, "output_type": "latent", **size}
    expected = to_pil(decode_latent(pipe, pipe("A [v]", generator=draws, **given).images)[0])
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))


@pytest.mark.bounds
def test_half_precision_base_draws_almost_the_same(loras):
    """A failure means that what a GPU does (fp16 UNet, fp32 VAE) breaks; here in bf16, which a CPU can compute."""
    from rechar_core.backend.pipeline import load
    from rechar_core.cli.generate import Sampling, sample
    from rechar_core.lora.fusion import fuse

    blora = files.read(loras["structure"])
    drawn = []
    for dtype in (torch.float32, torch.bfloat16):
        pipe = load(str(tiny.MODEL), dtype, torch.device("cpu"))
        assert pipe.vae.dtype == torch.float32
        picture = next(
            sample(pipe, Sampling("A [v]", steps=2, width=64, height=64), fuse(blora, None), [0], False)
        )
        drawn.append(np.asarray(picture).astype(int))
    assert np.abs(drawn[0] - drawn[1]).mean() < 4


def test_inspect_and_convert(loras, tmp_path, capsys):
    assert main(["inspect", str(loras["structure"]), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["blocks"] == ["structure", "style"] and report["format"] == "kohya"
    for format in ("kohya-sgm", "diffusers", "peft", "comfy"):
        out = tmp_path / f"{format}.safetensors"
        assert main(["convert", str(loras["structure"]), str(out), "--format", format]) == 0
        assert generate(tmp_path / format, "--structure", str(out))[0].any()
    drawn = [
        np.asarray(Image.open(tmp_path / f / "seed_00000.png"))
        for f in ("kohya-sgm", "diffusers", "peft", "comfy")
    ]
    assert all(np.array_equal(d, drawn[0]) for d in drawn)


def command(*arguments: str, launcher: tuple[str, ...] = ()) -> list[str]:
    return [
        sys.executable,
        "-m",
        *(launcher or ()),
        *(("-m",) if launcher else ()),
        "rechar_core",
        *arguments,
    ]


def long_training(output: Path) -> list[str]:
    options = ["train", "--model", str(tiny.MODEL), "--image", str(GLYPH), "--prompt", "A [v]"]
    return [*options, "--output", str(output), *SMALL, "--steps", "50"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one child process only")
def test_ctrl_c_keeps_a_state_that_goes_on_to_the_same_result(tmp_path):
    """A failure means that cancelling loses work, leaves half a file, or changes the result."""
    straight, stopped = tmp_path / "straight.safetensors", tmp_path / "stopped.safetensors"
    run = [*preloaded.python(sys.executable, preloaded.SDXL), "-m", "rechar_core", *long_training(stopped)]
    child = subprocess.Popen(run, cwd=ROOT, stderr=subprocess.PIPE, env=one_thread())
    seen = b""
    while b"loss=" not in seen:  # the bar shows a loss from step 10 on
        seen += child.stderr.read1(200)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) == 130
    messages = (seen + child.stderr.read()).splitlines()
    assert messages[-1].startswith(b"Stopped at step ") and b"the same command goes on" in messages[-1]
    assert not any(line.startswith((b"Stopped", b"Interrupted")) for line in messages[:-1])
    assert [p.name for p in tmp_path.iterdir()] == ["stopped.safetensors.state"]
    for output in (stopped, straight):
        assert main(long_training(output)) == 0
    ours, theirs = load_file(stopped), load_file(straight)  # not the bytes: the title in the metadata differs
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stopped.safetensors", "straight.safetensors"]


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_accelerate_shares_pictures_between_two_processes(tmp_path):
    """A failure means that `accelerate launch` trains on one picture only, or several files are written."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, source in enumerate((GLYPH, STYLE)):
        Image.open(source).save(folder / f"{i}.png")
    options = ["--model", str(tiny.MODEL), "--image", str(folder), "--prompt", "A [v]", "--log-json"]
    options += [str(tmp_path / "log.json"), "--output", str(tmp_path / "both.safetensors"), *SMALL]
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    run = command(
        "train", *options, launcher=(*launcher, "--mixed_precision", "no", "--dynamo_backend", "no")
    )
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, env=one_thread(), check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    log = json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))
    assert log["processes"] == 2
    assert log["losses"][0] == pytest.approx(base_loss_of_two_samples([GLYPH, STYLE]), abs=1e-5)
    assert files.read(tmp_path / "both.safetensors").ranks == (4,)


def base_loss_of_two_samples(pictures: list[Path]) -> float:
    """What the first step must see: up is still zero, so it is the base model's loss on samples 0 and 1."""
    from rechar_core.backend.denoiser import DiffusersDenoiser

    pipe = tiny.pipeline()
    denoiser, draws = DiffusersDenoiser(pipe.unet, pipe.scheduler.config), SeededNoise(0)
    conditioning = encode_prompt(pipe, "A [v]", 64)
    chosen = [draws.picture(k, 2) for k in range(2)]
    assert sorted(chosen) == [0, 1]
    losses = []
    for k, i in enumerate(chosen):
        moments = encode_picture(pipe, fit(read(pictures[i]), 64))
        drawn = draws.step(k, tuple(moments.mean.shape), 1000)
        with torch.no_grad():
            losses.append(
                float(objective.unsplit_loss(denoiser, moments.sample(drawn.posterior), drawn, conditioning))
            )
    return sum(losses) / 2


def make_model_folder(folder: Path, index: str) -> str:
    folder.mkdir()
    (folder / "model_index.json").write_text(index, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (
            '{"_class_name": "StableDiffusionPipeline"}',
            "is Stable Diffusion 1.x or 2.x; B-LoRA needs an SDXL model",
        ),
        ('{"_class_name": "StableDiffusion3Pipeline"}', "is Stable Diffusion 3"),
        ('{"_class_name": "FluxPipeline"}', "is Flux"),
        ('{"_class_name": "KolorsPipeline"}', "is KolorsPipeline"),
        ('{"_class_name": "Stable', "model_index.json' is not a valid JSON file"),
        ('{"_class_name": "StableDiffusionXLPipeline"}', "cannot be loaded"),
    ],
)
def test_a_base_that_is_not_sdxl_is_refused_by_name(tmp_path, capsys, index, words):
    model = make_model_folder(tmp_path / "m", index)
    out = tmp_path / "x.safetensors"
    assert (
        main(["train", "--model", model, "--image", str(GLYPH), "--prompt", "A", "--output", str(out)]) == 1
    )
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not out.exists()


def test_a_picture_of_one_colour_is_refused(tmp_path, capsys):
    Image.new("RGB", (80, 80), "white").save(tmp_path / "white.png")
    given = ["--model", str(tiny.MODEL), "--image", str(tmp_path / "white.png"), "--prompt", "A [v]"]
    assert main(["train", *given, "--output", str(tmp_path / "x.safetensors")]) == 1
    assert "'white.png' is of one colour; there is nothing to learn in it." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["white.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"--image": "gone.png"}, "There is no picture or folder at gone.png"),
        ({"--model": "/no/such/model"}, "There is no model at /no/such/model"),
        ({"--model": str(ROOT / "tests")}, "has no model_index.json"),
        ({"--rank": "0"}, "rank is 0"),
        ({"--resolution": "65"}, "resolution is 65"),
        ({"--output": str(ROOT / "tests")}, "is a folder; give the name of the file"),
        ({"--output": str(GLYPH / "x.safetensors")}, "cannot be a folder to write into"),
        ({"--log-json": str(ROOT / "tests")}, "is a folder; give the name of the file"),
    ],
)
def test_bad_training_input_is_one_clear_sentence(tmp_path, capsys, options, words):
    chosen = {"--model": str(tiny.MODEL), "--image": str(GLYPH), "--prompt": "A [v]"}
    chosen |= {"--output": str(tmp_path / "x.safetensors"), **options}
    assert main(["train", *(x for pair in chosen.items() for x in pair)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], "steps is 0"),
        (["--width", "100"], "width is 100; it must be a multiple of 8"),
        (["--guidance", "-1"], "guidance is -1.0"),
        (["--images", "0"], "images is 0"),
        (["--structure", "gone.safetensors"], "gone.safetensors"),
        (["--style", str(GLYPH)], "structure.png"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", str(2**64)], f"seed is {2**64}"),
        (["--output", str(GLYPH / "x")], "cannot be a folder to write into"),
        (["--output", "x.png"], "'x.png' is named as a picture; --output is the folder"),
    ],
)
def test_bad_generation_input_is_one_clear_sentence(tmp_path, capsys, options, words):
    base = ["generate", "--model", str(tiny.MODEL), "--prompt", "A", "--output", str(tmp_path / "out")]
    assert main([*base, *options]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_no_picture_is_an_error(loras, tmp_path, capsys):
    """A failure means that a black picture is saved as if all were well."""
    lora = ["--structure", str(loras["structure"]), "--structure-alpha", "1e38"]
    model = ["--model", str(tiny.MODEL), "--prompt", "A [v]", "--output", str(tmp_path)]
    assert main(["generate", *model, *lora, "--steps", "1", "--width", "64", "--height", "64"]) == 1
    assert "became NaN or infinite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_of_another_job_is_not_overwritten(tmp_path, capsys):
    from rechar_core.training import checkpoint

    run = tiny.training(tiny.pipeline())
    next(run.steps())
    state = tmp_path / "x.safetensors.state"
    checkpoint.save(run, state)
    assert train(tmp_path / "x.safetensors") == 1
    assert "unfinished training of another job" in capsys.readouterr().err
    assert state.exists()
    assert train(tmp_path / "x.safetensors", "--fresh") == 0
    assert not state.exists()


def test_the_demo_models_own_settings_stand_in_for_what_is_not_given(tmp_path, capsys):
    """A failure means a quarter of an hour of training from which the demo model learns nothing."""
    base = ["train", "--model", "demo", "--image", str(GLYPH), "--prompt", "A [v]"]
    lora = tmp_path / "x.safetensors"
    assert main([*base, "--output", str(lora), "--steps", "2", "--rank", "4"]) == 0
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "own settings" in text)
    assert line.endswith(": --learning-rate 0.005 --batch-size 2 --resolution 256")
    held = files.read(lora).recipe
    assert [held[n] for n in ("rank", "steps", "learning_rate", "batch_size", "resolution", "target")] == [
        *(4, 2, 0.005, 2, 256, "both")
    ]
    draw = ["generate", "--model", "demo", "--prompt", "A [v]", "--images", "1", "--steps", "3"]
    assert main([*draw, "--structure", str(lora), "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.splitlines()[0].endswith(": --guidance 1")
    drawn = Image.open(tmp_path / "out" / "seed_00000.png")
    assert drawn.size == (256, 256)
    assert [json.loads(drawn.info["rechar"])[n] for n in ("steps", "guidance")] == [3, 1.0]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, {"rank": 32, "steps": 150, "learning_rate": 0.005, "batch_size": 2, "resolution": 256}),
        ({"target": "style"}, {"rank": 16, "steps": 150, "learning_rate": 0.003, "batch_size": 2}),
        ({"recipe": "quick"}, {"rank": 64, "steps": 350, "learning_rate": 2e-4, "resolution": 256}),
        ({"recipe": "b-lora", "resolution": 64}, {"steps": 1000, "learning_rate": 5e-5, "resolution": 64}),
        ({"optimizer": "prodigy"}, {"steps": 150, "learning_rate": 1.0, "resolution": 256}),
    ],
)
def test_what_a_training_of_the_demo_model_takes(tmp_path, given, taken):
    values = {"model": "demo", "image": "a.png", "prompt": "A", "output": str(tmp_path / "x"), **given}
    messages = []
    recipe = train_options.job_of({**UNSET, **values}, messages.append).recipe
    assert {name: getattr(recipe, name) for name in taken} == taken
    assert len(messages) == (given != {"recipe": "b-lora", "resolution": 64})


def test_other_models_keep_the_published_settings(tmp_path, capsys):
    """A failure means that a script's training is no longer the one that issue 2 lays down."""
    values = {"model": str(tiny.MODEL), "image": "a.png", "prompt": "A [v]", "output": str(tmp_path / "x")}
    messages = []
    assert train_options.job_of({**UNSET, **values}, messages.append).recipe == TrainingRecipe()
    assert messages == [] and defaults.drawing(str(tiny.MODEL), {}) == {}
    parsed = vars(cli.parser().parse_args(["train"]))
    assert {name: parsed[name] for name in UNSET} == UNSET


@pytest.mark.parametrize(
    ("kind", "named", "taken"),
    [("xpu", "auto", "bf16"), ("cpu", "auto", "no"), ("xpu", "no", "no"), ("cpu", "fp16", "fp16")],
)
def test_the_precision_of_a_training_is_the_devices_own_unless_named(
    tmp_path, monkeypatch, kind, named, taken
):
    """A failure means a base of twice the size on a GPU, or a half type on a CPU, where it is slower."""
    from rechar_core.backend.processes import processes

    monkeypatch.setattr(processes(), "device", torch.device(kind))
    values = {"model": str(tiny.MODEL), "image": "a.png", "prompt": "A [v]", "output": str(tmp_path / "x")}
    job = train_options.job_of({**UNSET, **values, "mixed_precision": named}, print)
    assert (job.recipe.precision, job.any_precision) == (taken, named == "auto")


def test_a_python_without_the_packages_is_told_what_to_do():
    """-S: no installed package is seen, as with a bare Python."""
    for arguments in (["inspect", "x.safetensors"], ["demo"], ["train"]):
        run = [sys.executable, "-S", "-m", "rechar_core", *arguments]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: The package '") and "is not installed" in line
        assert sys.executable in line and "pip install -r" in line and str(ROOT / "requirements.txt") in line
        assert str(ROOT / ".venv") in line or Path(sys.prefix) == ROOT / ".venv"


def test_a_missing_module_of_our_own_is_not_explained_away(monkeypatch):
    def broken(options):
        raise ModuleNotFoundError("No module named 'rechar_core.gone'", name="rechar_core.gone")

    monkeypatch.setitem(cli._COMMANDS, "demo", ("", lambda sub: None, broken))
    with pytest.raises(ModuleNotFoundError):
        main(["demo"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "--rank", "x"],
            "argument --rank: invalid int value: 'x'. 'python -m rechar_core train --h",
        ),
        (["convert"], "arguments are required: input, output"),
        (["paint"], "invalid choice: 'paint'"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and "--help" in line


def test_help_needs_no_heavy_import():
    started = time.perf_counter()
    done = subprocess.run(command("--help"), cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("train", "generate", "inspect", "convert", "demo"))
    assert time.perf_counter() - started < 5  # importing torch and diffusers alone takes longer than this
