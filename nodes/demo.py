"""The demo model and its references as nodes, to try every other node without a download."""

from __future__ import annotations

from comfy_api.latest import io

from .sockets import ADAPTERS


class ReCharDemoModel(io.ComfyNode):
    """The tiny SDXL that ships with ReChar."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharDemoModel",
            display_name="Load Demo Model (ReChar)",
            category="ReChar/Models",
            description=(
                "A tiny SDXL model that ships with ReChar, trained on glyphs and patterns that we made. It generates "
                "256 x 256 pictures in seconds on a CPU. Use it to try workflows; for real pictures use Load "
                "Checkpoint."
            ),
            outputs=[
                io.Model.Output("model", "MODEL", tooltip="The UNet. Use latents of 256 x 256."),
                io.Clip.Output("clip", "CLIP", tooltip="Both text encoders. They know only a few words."),
                io.Vae.Output("vae", "VAE", tooltip="Turns 256 x 256 pictures into latents and back."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        # Imported here: no other file of ours depends as much on ComfyUI's internals.
        from .host.demo_model import shared_demo

        return io.NodeOutput(*shared_demo())


class ReCharDemoReferences(io.ComfyNode):
    """The IP-Adapters and the edge ControlNet for the demo model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharDemoReferences",
            display_name="Load Demo References (ReChar)",
            category="ReChar/Models",
            description=(
                "The small IP-Adapters, image encoder and edge ControlNet that ship with ReChar, for the demo model "
                "only. For real pictures use Load Reference Adapters and Load ControlNet Model."
            ),
            outputs=[
                ADAPTERS.Output("adapters", "adapters", tooltip="For Encode Reference and ReChar Pipeline."),
                io.ControlNet.Output("control_net", "CONTROL_NET", tooltip="Takes white edges on black."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .host.demo_references import demo_references

        return io.NodeOutput(*demo_references())


NODES = [ReCharDemoModel, ReCharDemoReferences]
