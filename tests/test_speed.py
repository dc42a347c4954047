"""What makes training fast or small must not change what it gives: prefix batching, kept context, memory modes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from server import find_host, run_inside

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.backend.pipeline import encode_prompt
from rechar_core.errors import RecipeError, TrainingError
from rechar_core.training import checkpoint, objective, prefetch, recipes
from rechar_core.training.denoiser import LatentMoments
from rechar_core.training.loop import DistributedContext
from rechar_core.training.memory import LADDER, Grouping, choose_mode, grouping
from rechar_core.training.offload import Offload
from rechar_core.training.recipe import TrainingRecipe

SCRIPT = Path(__file__).parent / "host_training.py"
SDXL = 2_567_463_684 * 2  # bytes of the UNet in half precision
SHAPES = ((8, 8), (10, 14), (8, 8))  # 10 x 14 is no multiple of 4: the upsamplers need their target size


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline()


def deltas(blora) -> torch.Tensor:
    return torch.cat([blora.pairs[path].delta().flatten() for path in sorted(blora.pairs)])


def pictures() -> list[LatentMoments]:
    draw = torch.Generator().manual_seed(3)
    return [LatentMoments(torch.randn(1, 4, *s, generator=draw), torch.full((1, 4, *s), 0.1)) for s in SHAPES]


def plain_run(run) -> tuple[list[float], torch.Tensor]:
    """The same run written down in the simplest way: diffusers' own forward, one step after the other."""
    recipe, unet, cond = run.recipe, run.denoiser.unet, run.conditioning
    optimizer = torch.optim.AdamW(
        run.lora_layers.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=False
    )
    losses = []
    with run.lora_layers.attached():
        for number in range(recipe.steps):
            picture = run.pictures[run.noise_source.picture(number, len(run.pictures))]
            drawn = run.noise_source.step(number, (recipe.batch_size, *picture.mean.shape[1:]), 1000)
            x0, batch = picture.sample(drawn.posterior), recipe.batch_size
            abar = run.denoiser.alphas_cumprod[drawn.timesteps].view(-1, 1, 1, 1)
            noisy = abar.sqrt() * x0 + (1 - abar).sqrt() * drawn.noise
            added = {
                "text_embeds": cond.pooled.expand(batch, -1),
                "time_ids": cond.time_ids.expand(batch, -1),
            }
            answer = unet(
                noisy, drawn.timesteps, cond.context.expand(batch, -1, -1), added_cond_kwargs=added
            ).sample
            wanted = objective.target(run.denoiser.prediction, x0, drawn.noise, abar)
            loss = F.mse_loss(answer, wanted)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(run.lora_layers.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    return losses, deltas(run.blora())


def prepared(pipe, changes, prediction, mode="fast"):
    scheduler = {**pipe.scheduler.config, "prediction_type": prediction}
    denoiser = DiffusersDenoiser(pipe.unet, scheduler)
    return tiny.training(pipe, changes, denoiser=denoiser, pictures=pictures(), mode=mode)


@pytest.fixture(scope="module", params=itertools.product((1, 3), ("epsilon", "v_prediction")), ids=str)
def unsplit(request, pipe):
    """What to change in a recipe, the prediction type, and the losses and deltas of the plain loop."""
    batch_size, prediction = request.param
    changes = {"steps": 20, "batch_size": batch_size, "learning_rate": 1e-4}
    return changes, prediction, *plain_run(prepared(pipe, changes, prediction))


@pytest.mark.parametrize("mode", LADDER)
def test_the_split_loop_is_the_unsplit_loop(pipe, unsplit, mode):
    """A failure means that computing prefixes ahead, or a memory mode, changes what is learnt."""
    changes, prediction, losses, expected = unsplit
    run = prepared(pipe, changes, prediction, mode)
    tiny.finish(run)
    assert torch.tensor(run.loss_values()).sub(torch.tensor(losses)).abs().max() < 1e-6
    assert (deltas(run.blora()) - expected).norm() / expected.norm() < 1e-4


def test_suffix_of_prefix_is_the_unet(pipe):
    """A failure means that the split leaves something of the UNet out."""
    denoiser = DiffusersDenoiser(pipe.unet, pipe.scheduler.config)
    cond = encode_prompt(pipe, "A [v]", 64)
    x, t = torch.randn(3, 4, 10, 14), torch.tensor([1, 500, 999])
    added = {"text_embeds": cond.pooled.expand(3, -1), "time_ids": cond.time_ids.expand(3, -1)}
    with torch.no_grad():
        expected = pipe.unet(x, t, cond.context.expand(3, -1, -1), added_cond_kwargs=added).sample
        assert torch.allclose(denoiser.predict(x, t, cond), expected, atol=1e-5)
        prefix = denoiser.prefix(x, t, cond)
        assert torch.allclose(denoiser.suffix(prefix.part(1, 2), cond), expected[1:2], atol=1e-5)


def test_a_run_broken_off_inside_a_group_goes_on_bit_equal(pipe, tmp_path):
    """A failure means that groups are made from where the run went on, and round otherwise."""
    straight = tiny.finish(prepared(pipe, {"steps": 20}, "epsilon"))
    first = prepared(pipe, {"steps": 20}, "epsilon")
    assert 7 % grouping("fast", 140, 1, gpu=False).together
    for step in first.steps():
        if step.number == 7:
            break
    checkpoint.save(first, tmp_path / "state")
    second = prepared(pipe, {"steps": 20, "memory": "fast"}, "epsilon")
    checkpoint.resume(second, tmp_path / "state")
    tiny.finish(second)
    assert second.loss_values() == straight.loss_values()
    assert torch.equal(deltas(second.blora()), deltas(straight.blora()))


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("normal", {}),
        ("low", {}),
        ("fast", {"min_snr_gamma": 5.0}),
        ("fast", {"noise_offset": 0.1}),
        ("low", {"chunk": 6}),
    ],
)
def test_every_way_of_computing_goes_on_bit_equal(pipe, tmp_path, monkeypatch, mode, changes):
    """With "chunk", low keeps more prefixes than it computes together, as it does on a GPU alone."""
    changes = {"steps": 14, **changes}
    chunk = changes.pop("chunk", None)
    expected = tiny.finish(prepared(pipe, changes, "epsilon", mode))  # without a GPU's chunks
    if chunk:
        monkeypatch.setattr(prefetch, "grouping", lambda *given: Grouping(together=2, chunk=chunk))
    straight, first, second = (prepared(pipe, changes, "epsilon", mode) for _ in range(3))
    tiny.finish(straight)
    assert straight.loss_values() == pytest.approx(expected.loss_values(), abs=1e-6)
    theirs = deltas(expected.blora())
    assert (deltas(straight.blora()) - theirs).norm() / theirs.norm() < 1e-4
    for step in first.steps():
        if step.number == 9:  # inside a group of two, and inside a chunk of six
            break
    checkpoint.save(first, tmp_path / "state")
    checkpoint.resume(second, tmp_path / "state")
    tiny.finish(second)
    assert second.loss_values() == straight.loss_values()
    assert torch.equal(deltas(second.blora()), deltas(straight.blora()))


def test_training_leaves_no_trace_in_any_mode(pipe):
    """A failure means that layers keep a training's forward, or stay checkpointed or in training mode."""
    pipe.unet.eval()
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    for mode in LADDER:
        steps = prepared(pipe, {}, "epsilon", mode).steps()
        next(steps)
        assert any("forward" in m.__dict__ for m in pipe.unet.modules())
        assert pipe.unet.is_gradient_checkpointing == (mode != "fast")
        steps.close()
        assert not any("forward" in m.__dict__ or m._forward_hooks for m in pipe.unet.modules())
        assert not pipe.unet.is_gradient_checkpointing and not pipe.unet.training
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())


def test_another_prompt_is_not_answered_with_the_kept_context(pipe):
    """A failure means that previews or a second run see the first prompt's keys and values."""
    denoiser = DiffusersDenoiser(pipe.unet, pipe.scheduler.config)
    first, second = (encode_prompt(pipe, prompt, 64) for prompt in ("A [v]", "A teapot of moss"))
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    with torch.no_grad():
        expected = [denoiser.predict(x, t, cond) for cond in (first, second, first)]
        denoiser.use("fast")
        found = [denoiser.predict(x, t, cond) for cond in (first, second, first)]
        denoiser.use(None)
    assert (expected[0] - expected[1]).abs().max() > 1e-4
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))


# Memory modes


class Small(DiffusersDenoiser):
    """A UNet on a GPU that is too small: each entry of `fails` is one call of `suffix`, in this mode, that fails."""

    def __init__(self, unet, config, fails):
        super().__init__(unet, config)
        self.fails, self.mode, self.modes = list(fails), None, []

    def use(self, mode):
        self.mode = mode
        self.modes.append(mode)
        super().use(mode)

    def suffix(self, prefix, conditioning):
        answer = super().suffix(prefix, conditioning)
        if self.fails and self.fails[0][0] == self.mode:
            self.fails[0][1] -= 1
            if self.fails[0][1] < 0:
                self.fails.pop(0)
                raise torch.OutOfMemoryError("CUDA out of memory")
        return answer


def small(pipe, fails, mode="fast", **changes):
    messages: list[str] = []
    denoiser = Small(pipe.unet, pipe.scheduler.config, [list(f) for f in fails])
    run = tiny.training(pipe, {"steps": 9, **changes}, denoiser=denoiser, mode=mode, tell=messages.append)
    return run, messages


def test_out_of_memory_goes_down_one_rung_and_on_from_the_last_step(pipe):
    """A failure means that a card that is a little too small loses the work, or learns something else."""
    straight = tiny.finish(tiny.training(pipe, {"steps": 9}))
    run, messages = small(pipe, [("fast", 4), ("normal", 2)])
    assert [step.number for step in run.steps()] == list(range(1, 10))
    assert messages == [
        "Memory ran out at step 5: going on in memory mode normal instead of fast.",
        "Memory ran out at step 7: going on in memory mode low instead of normal.",
    ]
    assert run.denoiser.modes == ["fast", None, "normal", None, "low", None]
    difference = torch.tensor(run.loss_values()) - torch.tensor(straight.loss_values())
    assert difference.abs().max() < 1e-6
    theirs = deltas(straight.blora())
    assert (deltas(run.blora()) - theirs).norm() / theirs.norm() < 1e-4


def test_a_lost_step_keeps_the_scale_of_the_loss(pipe):
    """A failure means that fp16 starts from a scale of 65,536 again, at which steps are left out."""
    run = tiny.training(pipe, {"steps": 4, "precision": "fp16"})
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 8.0})
    run.forget_step()
    assert run.scaler.get_scale() == 8


def fused(training):
    """A training whose AdamW is that of CUDA cards; torch has one for the CPU, too."""
    training.optimizer.param_groups[0].update(fused=True, foreach=False)
    return training


def test_out_of_memory_in_the_optimizer_is_survived_where_nothing_was_changed_yet(pipe, monkeypatch):
    """A failure means that parameters are updated twice, or processes wait for each other for ever."""
    straight = tiny.finish(tiny.training(pipe, {"steps": 4}))
    for distributed in (DistributedContext(), DistributedContext(0, 2)):
        run = fused(tiny.training(pipe, {"steps": 4}, distributed=distributed))
        step, failed = run.optimizer.step, []

        def once(*rest, step=step, failed=failed):
            if not failed:
                failed.append(True)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return step(*rest)

        monkeypatch.setattr(run.optimizer, "step", once)
        if distributed.world == 1:
            assert tiny.finish(run).mode == "normal"
            theirs = deltas(straight.blora())
            assert (deltas(run.blora()) - theirs).norm() / theirs.norm() < 1e-4
        else:
            with pytest.raises(torch.OutOfMemoryError):
                tiny.finish(run)


def test_out_of_memory_while_the_optimizer_makes_its_state_leaves_none_of_it(pipe, monkeypatch):
    """A failure means a KeyError in the repeated step: some moments are there, others not."""
    straight = tiny.finish(tiny.training(pipe, {"steps": 4}))
    run, whole, calls = fused(tiny.training(pipe, {"steps": 4})), torch.zeros_like, []

    def scarce(*args, **kwargs):
        calls.append(len(run.optimizer.state))
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*args, **kwargs)

    monkeypatch.setattr(torch, "zeros_like", scarce)
    assert tiny.finish(run).mode == "normal"
    assert calls[3] == 2  # the second parameter had half of its state
    theirs = deltas(straight.blora())
    assert (deltas(run.blora()) - theirs).norm() / theirs.norm() < 1e-4


def test_out_of_memory_in_the_midst_of_an_update_is_not_repeated(pipe, monkeypatch, tmp_path):
    """A failure means moments that were updated twice, in a LoRA or in a state: other GPUs than CUDA's have no fused
    AdamW, and the others change the moments before they have all of their memory."""
    run = tiny.training(pipe, {"steps": 4})
    run.states = (tmp_path / "state",)
    assert run.optimizer.param_groups[0]["foreach"]

    def full(*_, **__):
        raise torch.OutOfMemoryError("XPU out of memory")

    def stepped(step):
        if step.number == 2:
            monkeypatch.setattr(torch, "_foreach_sqrt", full)

    with pytest.raises(torch.OutOfMemoryError):
        run.train(lambda bloras: None, stepped)
    assert run.done == 2 and not run.states[0].exists()


def test_a_state_is_resumed_with_the_optimizer_of_the_device(pipe, tmp_path):
    """A failure means that a card goes on in the way of the CPU on which the state was saved, or the other way."""
    straight = tiny.finish(tiny.training(pipe, {"steps": 6}))
    run = tiny.training(pipe, {"steps": 6})
    for step in run.steps():
        if step.number == 3:
            break
    checkpoint.save(run, tmp_path / "state")
    again = fused(tiny.training(pipe, {"steps": 6}))
    checkpoint.resume(again, tmp_path / "state")
    group = again.optimizer.param_groups[0]
    assert group["fused"] and not group["foreach"]
    theirs = deltas(straight.blora())
    assert (deltas(tiny.finish(again).blora()) - theirs).norm() / theirs.norm() < 1e-4


@pytest.mark.parametrize(
    ("error", "survived"),
    [
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_out_of_memory_by_its_other_names(pipe, error, survived):
    """A failure means that MPS has no ladder of memory modes, or that any error is taken for a full memory."""
    run = tiny.training(pipe)
    whole, fails = run.denoiser.suffix, [error]

    def suffix(prefix, conditioning):
        if fails:
            raise fails.pop()
        return whole(prefix, conditioning)

    run.denoiser.suffix = suffix
    if survived:
        assert tiny.finish(run).mode == "normal"
    else:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            tiny.finish(run)


def test_out_of_memory_on_the_last_rung_is_one_sentence(pipe):
    run, messages = small(pipe, [("normal", 0), ("low", 0)], mode="normal")
    with pytest.raises(TrainingError, match="memory mode low; choose a lower resolution, rank or batch_size"):
        tiny.finish(run)
    assert len(messages) == 1 and run.done == 0
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in pipe.unet.modules())


def test_a_run_that_ran_out_of_memory_is_resumable(pipe, tmp_path):
    run, _ = small(pipe, [("low", 5)], mode="low")
    with pytest.raises(TrainingError):
        tiny.finish(run)
    checkpoint.save(run, tmp_path / "state")
    again = tiny.training(pipe, {"steps": 9})
    checkpoint.resume(again, tmp_path / "state")
    assert again.done == 5
    assert tiny.finish(again).done == 9


def test_low_has_one_half_of_the_unet_on_the_device_at_a_time(pipe, monkeypatch):
    """Without a GPU: the moves themselves, and that halves share nothing and leave nothing out."""
    denoiser = DiffusersDenoiser(pipe.unet, pipe.scheduler.config)
    halves = [{id(p) for module in half for p in module.parameters()} for half in denoiser._halves]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == {id(p) for p in pipe.unet.parameters()}
    order = []
    for half, ask in enumerate((denoiser.prefix, denoiser.suffix)):
        counted = lambda *given, half=half, ask=ask: order.append(half) or ask(*given)  # noqa: E731
        setattr(denoiser, ("prefix", "suffix")[half], counted)
    moves, move = [], denoiser._offload.move
    monkeypatch.setattr(
        denoiser._offload, "move", lambda *given: moves.append((given, order[-1])) or move(*given)
    )
    monkeypatch.setattr(prefetch, "grouping", lambda *given: Grouping(together=2, chunk=4))  # as on a GPU
    tiny.finish(tiny.training(pipe, {"steps": 9}, denoiser=denoiser, mode="low"))
    assert order.count(1) == 9
    swaps = [part for i, part in enumerate(order) if i == 0 or part != order[i - 1]]
    assert swaps == [0, 1] * 3  # for chunks of 4, 4 and 1 steps
    halves = denoiser._halves
    expected = [[(halves[1 - part], "cpu"), (halves[part], denoiser.device.type)] for part in swaps]
    assert [(modules, device.type) for (modules, device), _ in moves] == [
        m for pair in expected for m in pair
    ]


def test_lent_weights_are_never_copied_back_and_are_the_very_same_at_home():
    """A failure means that each swap copies frozen weights from the GPU, or that a model comes back as a copy."""
    halves = [torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)]
    own = {id(t) for half in halves for t in (*half.parameters(), *half.buffers())}
    lent, cpu, meta = (
        Offload(),
        torch.device("cpu"),
        torch.device("meta"),
    )  # no value can be had back from there
    for here, away in ((0, 1), (1, 0), (0, 1)):
        lent.move([halves[away]], cpu)
        lent.move([halves[here]], meta)
        assert {t.device for t in halves[here].state_dict().values()} == {meta}
        assert {t.device for t in halves[away].state_dict().values()} == {cpu}
        assert {id(t) for t in (*halves[away].parameters(), *halves[away].buffers())} <= own
    lent.restore()
    assert {id(t) for half in halves for t in (*half.parameters(), *half.buffers())} == own


@pytest.mark.parametrize(
    ("free", "mode"), [(12, "fast"), (9, "fast"), (7, "normal"), (6.5, "normal"), (4, "low")]
)
def test_auto_takes_what_fits_and_says_why(free, mode):
    chosen, why = choose_mode(int(free * 2**30), SDXL, 128 * 128, 1, 64, 2)
    assert chosen == mode
    assert f"Memory mode {mode}: {free:.1f} GB of GPU memory" in why
    assert "may run out" not in why


def test_auto_counts_the_base_as_it_is_held():
    """A failure means that a base in 8 bits is asked for that of one in 16."""
    assert choose_mode(6 * 2**30, SDXL, 128 * 128, 1, 64, 2)[0] == "low"
    assert choose_mode(6 * 2**30, 2_910_000_000, 128 * 128, 1, 64, 2)[0] == "normal"
    assert choose_mode(7 * 2**30, SDXL, 64 * 64, 1, 64, 2)[0] == "fast"
    assert choose_mode(7 * 2**30, SDXL, 64 * 64, 8, 64, 2)[0] == "normal"
    assert choose_mode(10 * 2**30, SDXL, 128 * 128, 1, 64 * 8, 2)[0] == "normal"  # eight LoRAs side by side


def test_auto_says_where_nothing_fits():
    mode, why = choose_mode(2 * 2**30, SDXL, 128 * 128, 1, 64, 2)
    assert mode == "low" and "may run out" in why and "8 bits" in why


def test_a_mode_by_name_is_taken_and_warned_of_where_it_does_not_fit():
    """Windows' driver does not run out: it goes on in RAM, many times slower."""
    asked = (SDXL, 128 * 128, 1, 64, 2, False)
    assert choose_mode(12 * 2**30, *asked, "fast") == ("fast", "")
    mode, why = choose_mode(6 * 2**30, *asked, "fast")
    assert mode == "fast" and "8.1 GB, and 6.0 GB of GPU memory" in why and "Windows" in why
    assert choose_mode(12 * 2**30, *asked[:-1], True, "low") == ("low", "")


def test_without_a_gpu_auto_looks_at_ram():
    """A failure means that a CPU takes the mode with the most memory whatever there is, or low, which saves none."""
    whole = 2 * SDXL
    for free, expected in ((30, "fast"), (13, "normal"), (4, "normal")):
        mode, why = choose_mode(free * 2**30, whole, 128 * 128, 1, 64, 4, in_ram=True)
        assert mode == expected and f"{free}.0 GB of RAM" in why


def test_groups_depend_on_mode_and_picture_alone():
    assert [grouping(m, 128 * 128, 1, gpu=True).together for m in LADDER] == [4, 2, 1]
    assert [grouping(m, 32 * 32, 1, gpu=False).together for m in LADDER] == [8, 2, 2]
    assert grouping("fast", 32 * 32, 1, gpu=True).together == 16
    assert grouping("fast", 256 * 256, 4, gpu=True).together == 1
    for mode in LADDER:
        group = grouping(mode, 64 * 80, 3, gpu=True)
        assert group.chunk % group.together == 0
    assert grouping("low", 128 * 128, 1, gpu=True).chunk == 16
    assert (
        grouping("low", 32 * 32, 1, gpu=False).chunk == 2
    )  # nothing is swapped: keeping more would be a waste


# Recipes


def test_x0_loss_and_min_snr_are_their_definitions(pipe):
    """A failure means that ConsisLoRA's or min-SNR's weights are not those of their papers."""
    generator = torch.Generator().manual_seed(0)
    x0, noise, answer = (torch.randn(5, 4, 6, 6, generator=generator).double() for _ in range(3))
    abar = torch.tensor([0.99, 0.8, 0.5, 0.2, 0.01], dtype=torch.float64)
    kept = abar.view(-1, 1, 1, 1)
    snr = abar / (1 - abar)
    noisy = kept.sqrt() * x0 + (1 - kept).sqrt() * noise
    clean = {
        "epsilon": (noisy - (1 - kept).sqrt() * answer) / kept.sqrt(),
        "v_prediction": kept.sqrt() * noisy - (1 - kept).sqrt() * answer,
    }
    for prediction, guess in clean.items():
        question = objective.NoisedBatch(noisy, None, objective.target(prediction, x0, noise, kept), abar)
        squares = (guess - x0).pow(2).mean((1, 2, 3))
        assert torch.allclose(objective.denoised(prediction, answer, question), guess)
        assert torch.allclose(objective.denoised(prediction, question.target, question), x0)
        as_x0 = objective.loss_weights(prediction, abar, "x0", 0)
        difference = (answer - question.target).pow(2).mean((1, 2, 3))
        assert torch.allclose(difference * as_x0, squares)
        min_snr = objective.loss_weights(prediction, abar, "prediction", 5.0)
        assert torch.allclose(difference * min_snr, squares * snr.clamp(max=5.0))
        assert objective.loss_weights(prediction, abar, "prediction", 0) is None
        with pytest.raises(ValueError, match="loss is 'v'"):  # not trained as another loss
            objective.loss_weights(prediction, abar, "v", 0)
        question = objective.NoisedBatch(noisy, None, question.target.float(), abar)
        found = objective.weighted_mse(answer, question, as_x0)
        assert float(found) == pytest.approx(float(squares.mean()), rel=1e-5)


def test_noise_offset_shifts_whole_channels(pipe):
    """A failure means that the offset is drawn each pixel, or changes the draws of other recipes."""
    runs = [tiny.training(pipe, {"noise_offset": offset}) for offset in (0.0, 0.5)]
    asked = [next(iter(_questions(run))) for run in runs]
    shift = asked[1].target - asked[0].target
    assert shift.std((2, 3)).max() < 1e-6 and shift.abs().min() > 0
    assert torch.equal(asked[0].timesteps, asked[1].timesteps)


def _questions(run):
    yield from (run.prefetch(n).noised for n in range(run.recipe.steps))


def test_stages_change_loss_and_rate_at_their_step(pipe):
    run = tiny.training(pipe, {"steps": 4, "loss": "x0", "prediction_steps": 2, "prediction_rate": 2e-3})
    rates = [run.optimizer.param_groups[0]["lr"] for _ in run.steps()]
    assert rates == [2e-3, 2e-3, 1e-3, 1e-3]
    plain = tiny.finish(tiny.training(pipe, {"steps": 4, "learning_rate": 2e-3}))
    assert run.loss_values()[:2] == plain.loss_values()[:2]
    assert run.loss_values()[2] != plain.loss_values()[2]


def test_recipes_are_the_published_ones():
    assert recipes.recipe("b-lora", {}) == TrainingRecipe()
    consislora = recipes.recipe("consislora", {})
    assert (consislora.steps, consislora.stage(499), consislora.stage(500)) == (
        1500,
        ("prediction", 2e-4),
        ("x0", 1e-4),
    )
    assert recipes.recipe("consislora", {"steps": 15}).prediction_steps == 5
    assert recipes.recipe("quick", {"learning_rate": 1e-3}).learning_rate == 1e-3
    assert recipes.recipe("quick", {"optimizer": "prodigy"}).learning_rate == 1.0
    assert recipes.recipe("b-lora", {"optimizer": "prodigy", "learning_rate": 0.5}).learning_rate == 0.5
    with pytest.raises(RecipeError, match="choose one of b-lora, consislora"):
        recipes.recipe("blora", {})
    with pytest.raises(RecipeError, match="choose one of them"):
        TrainingRecipe(loss="x0", min_snr_gamma=5.0)
    with pytest.raises(RecipeError, match="prediction_rate"):
        TrainingRecipe(prediction_steps=5)


@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [
        ({}, 2e-4, 1e-4),
        ({"learning_rate": 1e-3}, 2e-3, 1e-3),
        ({"learning_rate": 1e-3, "prediction_rate": 5e-4}, 5e-4, 1e-3),
        ({"optimizer": "prodigy"}, 1.0, 1.0),
        ({"optimizer": "prodigy", "learning_rate": 0.5}, 0.5, 0.5),
    ],
)
def test_both_stages_rates_follow_the_optimizer_and_the_given_rate(settings, first, last):
    """A failure means that prodigy's first stage learns nothing (2e-4 of its rate), or a given rate half the run."""
    recipe = recipes.recipe("consislora", settings)
    assert [recipe.stage(step)[1] for step in (0, 1499)] == [pytest.approx(rate) for rate in (first, last)]


# The host's UNet


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """What host_training.py found: the same demo-size runs through the host's own forward and through ours."""
    find_host()
    folder = tmp_path_factory.mktemp("host_training")
    draw = torch.Generator().manual_seed(1)
    inputs = {f"picture.{i}": torch.randn(1, 4, *s, generator=draw) for i, s in enumerate(SHAPES)}
    save_file(inputs, folder / "inputs.safetensors")
    found, about, _ = run_inside(SCRIPT, folder)
    return found, about


@pytest.mark.host
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("mode", LADDER)
def test_the_split_loop_is_the_hosts_own_forward(host, prediction, mode):
    """A failure means that training in ComfyUI sees another UNet than sampling does."""
    found, _ = host
    losses, expected = found[f"{prediction}.plain.losses"], found[f"{prediction}.plain.deltas"]
    assert (
        (found[f"{prediction}.{mode}.losses"] - losses) / losses
    ).abs().max() < 1e-6  # fp32 rounds to 6e-8
    assert (found[f"{prediction}.{mode}.deltas"] - expected).norm() / expected.norm() < 1e-4


@pytest.mark.host
def test_the_hosts_weights_are_its_own_again_in_every_mode(host):
    """A failure means that a MODEL is changed by training, or its tensors are not given back."""
    _, about = host
    assert about["changed"] == 0
    assert about["traces"] == 0
    assert about["moved_back"]


@pytest.mark.host
def test_auto_in_the_host_asks_for_the_unet_and_all_loras(host):
    """A failure means that the host's free memory is taken as if the UNet, still to be loaded, cost nothing."""
    assert host[1]["modes"] == ["fast", "low"]


@pytest.mark.host
def test_the_node_keeps_what_it_could_not_write_and_gives_what_its_cache_gives(host):
    """A failure means lost steps where the disk is full, a job hashed again, or another LoRA from the cache."""
    cached = host[1]["cached"]
    assert cached["refused_after"] == cached["updates"] == 4 and cached["states"] == 0
    assert cached["same"]
    assert (cached["hashes"], cached["reads"]) == (4, 0)


@pytest.mark.host
def test_a_half_precision_model_is_trained_with_scaled_gradients(host):
    """A failure means that fp16 gradients, the host's default on most cards, vanish and weights never move."""
    half = host[1]["half"]
    assert half["precision"] == "fp16"
    assert torch.tensor(half["losses"]).isfinite().all()
    assert half["still"] < 0.01


@pytest.mark.host
def test_what_cannot_be_trained_with_is_refused_by_name(host):
    words = (
        "sampled as ModelSamplingDiscreteDistilled, LCM",
        "The CLIP is missing",
        "it has l",
        "The VAE is missing",
    )
    for said, wanted in zip(host[1]["refusals"], (*words, "a TAESD", "takes 9 channels"), strict=True):
        assert wanted in said
