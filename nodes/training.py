"""Train B-LoRA: trains a structure and a style B-LoRA on pictures in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .sockets import BLORA

if TYPE_CHECKING:
    from torch import Tensor


class ReCharTrainBLoRA(io.ComfyNode):
    """Trains on the MODEL in the graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..rechar_core.training.recipes import RECIPES

        return io.Schema(
            node_id="ReCharTrainBLoRA",
            display_name="Train B-LoRA",
            category="ReChar/Training",
            description=(
                "Trains two small LoRAs, structure and style, on one picture (or several of one thing), with the "
                "MODEL in the graph. MODEL itself is unchanged. A finished training is read from disk when it is run "
                "again; a cancelled one continues where it stopped."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="An SDXL model. If LoRAs are applied to it, the training is done on top of them.",
                ),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP. Used once, to encode the prompt."),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE. Used once, in fp32."),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The training picture. It is used whole, never cropped. A batch must show one thing several "
                        "times."
                    ),
                ),
                io.String.Input(
                    "prompt",
                    default="A [v]",
                    tooltip="The training prompt. Use it later in prompts as the trigger word.",
                ),
                io.Combo.Input(
                    "target",
                    options=["both", "structure", "style"],
                    default="both",
                    tooltip="Which blocks to train.",
                ),
                io.Combo.Input(
                    "memory",
                    options=["auto", "fast", "normal", "low"],
                    default="auto",
                    tooltip=(
                        "Trades speed for GPU memory; the result is the same up to rounding. SDXL at 1024 px: fast "
                        "needs a card with 10 GB, normal 8 GB, low 6 GB. auto: the fastest mode that fits."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Optimizer steps. 0: the recipe's value. Published: 1000.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="0: the recipe's value. Published: 0.00005.",
                ),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Rank of the LoRA. Published: 64 (113 MB for both blocks).",
                ),
                io.Int.Input(
                    "resolution",
                    default=1024,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="The picture's shorter side in pixels during training.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Noised copies of the picture in each step.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="The same seed gives the same LoRA.",
                ),
                io.Combo.Input(
                    "optimizer",
                    options=["adamw", "adamw8bit", "prodigy"],
                    default="adamw",
                    tooltip="adamw needs no further package; adamw8bit needs bitsandbytes, prodigy needs prodigyopt.",
                ),
                io.Combo.Input(
                    "recipe",
                    options=list(RECIPES),
                    default="b-lora",
                    optional=True,
                    tooltip=(
                        "b-lora: as published. consislora: two stages, the second with the loss on the denoised "
                        "picture. consislora-style: style only, on a MODEL with the picture's structure LoRA. quick: "
                        "fewer steps."
                    ),
                ),
                io.Int.Input(
                    "trials",
                    default=1,
                    min=1,
                    max=16,
                    optional=True,
                    tooltip=(
                        "Number of LoRAs to train at once, with seed, seed + 1, ... They share at most a quarter of "
                        "the computation."
                    ),
                ),
                io.Int.Input(
                    "choose",
                    default=1,
                    min=1,
                    max=16,
                    optional=True,
                    tooltip="Which of them to output, counted from 1. Changing it does not train again.",
                ),
            ],
            outputs=[
                BLORA.Output(
                    "structure", "structure BLORA", tooltip="The structure block of the trained LoRA."
                ),
                BLORA.Output("style", "style BLORA", tooltip="The style block of the trained LoRA."),
                io.LoraModel.Output(
                    "lora_model", "LORA_MODEL", tooltip="Both blocks for ComfyUI's own save and load nodes."
                ),
                io.LossMap.Output("loss_map", "LOSS_MAP", tooltip="The losses, for ComfyUI's plot node."),
                io.Image.Output(
                    "candidates",
                    "candidates",
                    tooltip="A numbered picture from each LoRA, to choose from. With one trial: the training picture.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Tensor,
        recipe: str = "b-lora",
        trials: int = 1,
        choose: int = 1,
        **settings: Any,
    ) -> io.NodeOutput:
        from ..rechar_core.lora import files
        from ..rechar_core.lora.blocks import STRUCTURE, STYLE
        from ..rechar_core.training import recipes
        from .host.candidates import candidates, check_choice
        from .host.training import train

        check_choice(choose, trials)
        # These values mean: use the recipe's own.
        unset = {"steps": 0, "learning_rate": 0, "target": "both"}
        changed = {name: value for name, value in settings.items() if unset.get(name) != value}
        chosen = recipes.recipe(recipe, changed)
        trained = train(model, clip, vae, image, chosen, trials)
        pictures = image if trials == 1 else candidates(model, clip, vae, trained, chosen)
        blora, losses = trained[choose - 1].blora, trained[choose - 1].losses
        parts = blora.select(STRUCTURE), blora.select(STYLE), files.convert(blora, "comfy")
        return io.NodeOutput(*parts, {"loss": losses}, pictures)


NODES = [ReCharTrainBLoRA]
