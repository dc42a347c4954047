"""Train B-LoRA: pictures in the graph become a structure and a style B-LoRA."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .sockets import BLora


# How the base is run, by what the card has. More is decided by the recipe inputs.
class ReCharTrainBLoRA(io.ComfyNode):
    """Trains natively on the MODEL in the graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharTrainBLoRA",
            display_name="Train B-LoRA",
            category="ReChar/Training",
            description=(
                "Learns the structure and the style of one picture (or several of one thing) as two small LoRAs, "
                "on the MODEL in the graph. MODEL itself is unchanged. A job that was trained before is read from "
                "disk; a cancelled one goes on where it stopped."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="An SDXL model; a LoRA it already carries is trained on top of."
                ),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP; used once, for the prompt."),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE; used once, in fp32."),
                io.Image.Input(
                    "image",
                    tooltip="The picture to learn, whole, never cropped. A batch is one thing seen often.",
                ),
                io.String.Input(
                    "prompt",
                    default="A [v]",
                    tooltip="What to call the picture: the trigger word to use when drawing.",
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
                        "Speed against memory; the result is the same up to rounding. Training SDXL at 1024 px, "
                        "fast is for a card of 10 GB or more, normal for 8 GB, low for 6 GB. auto takes the fastest "
                        "that fits."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Optimizer steps. 0: the recipe's own; the published one takes 1000.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="0: the recipe's own; published: 0.00005.",
                ),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Size of the LoRA. Published: 64 (113 MB for both blocks).",
                ),
                io.Int.Input(
                    "resolution",
                    default=1024,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Pixels of the picture's shorter side in training.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Noise draws of the picture in each step.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=False,
                    tooltip="The same seed gives the same LoRA.",
                ),
                io.Combo.Input(
                    "optimizer",
                    options=["adamw", "adamw8bit", "prodigy"],
                    default="adamw",
                    tooltip="adamw needs nothing else installed.",
                ),
                io.Combo.Input(
                    "recipe",
                    options=["b-lora", "consislora", "consislora-style", "quick"],
                    default="b-lora",
                    optional=True,
                    tooltip=(
                        "b-lora: as published. consislora: two stages, the second on the clean picture. "
                        "consislora-style: style alone, on a MODEL that carries the picture's structure. "
                        "quick: fewer steps."
                    ),
                ),
                io.Int.Input(
                    "trials",
                    default=1,
                    min=1,
                    max=16,
                    optional=True,
                    tooltip=(
                        "So many LoRAs side by side, with seed, seed + 1, ...; "
                        "at best a quarter of the work is shared."
                    ),
                ),
                io.Int.Input(
                    "choose",
                    default=1,
                    min=1,
                    max=16,
                    optional=True,
                    tooltip="Which of them to give out, counted from 1; changing it trains nothing again.",
                ),
            ],
            outputs=[
                BLora.Output(
                    "structure",
                    display_name="structure BLORA",
                    tooltip="The structure block of what was trained.",
                ),
                BLora.Output(
                    "style", display_name="style BLORA", tooltip="The style block of what was trained."
                ),
                io.LoraModel.Output(
                    "lora_model",
                    display_name="LORA_MODEL",
                    tooltip="Both blocks for ComfyUI's own save and load nodes.",
                ),
                io.LossMap.Output(
                    "loss_map", display_name="LOSS_MAP", tooltip="The losses, for ComfyUI's plot node."
                ),
                io.Image.Output(
                    "candidates",
                    display_name="candidates",
                    tooltip="What each LoRA draws, numbered, to choose from; with one seed, the picture itself.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        memory: str,
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
        # these values mean: as the recipe has it
        unset = {"steps": 0, "learning_rate": 0, "target": "both"}
        changed = {name: value for name, value in settings.items() if unset.get(name) != value}
        chosen = recipes.recipe(recipe, {**changed, "memory": memory})
        done = train(model, clip, vae, image, chosen, trials)
        picked = done[choose - 1]
        blora, drawn = picked.blora, image if trials == 1 else candidates(model, clip, vae, done, chosen)
        parts = blora.select(STRUCTURE), blora.select(STYLE), files.convert(blora, "comfy")
        return io.NodeOutput(*parts, {"loss": picked.losses}, drawn)


NODES = [ReCharTrainBLoRA]
