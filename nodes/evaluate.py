"""How well pictures keep a glyph and a style, and which of them does best."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io


class ReCharScore(io.ComfyNode):
    """Measures beside controls."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharScore",
            display_name="Score",
            category="ReChar/Evaluation",
            description=(
                "Measures how well each picture keeps the glyph, and the colours of a style picture. The same measures "
                "of a blank, a turned and a shifted glyph say what a number is worth: SSIM alone favours the blank."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The pictures to be measured."),
                io.Mask.Input("glyph_mask", tooltip="The glyph that they should show."),
                io.Image.Input("style_image", optional=True, tooltip="The style that they should have."),
            ],
            outputs=[
                io.String.Output(
                    "scores", display_name="scores", tooltip="All measures and controls, as JSON."
                ),
                io.Image.Output(
                    "chart", display_name="chart", tooltip="Pictures and controls with their scores."
                ),
            ],
        )

    @classmethod
    def execute(cls, images: Any, glyph_mask: Any, style_image: Any = None) -> io.NodeOutput:
        from ..rechar_core.metrics.report import chart, to_json
        from ..rechar_core.metrics.score import score_batch
        from .host.progress import Progress

        found = score_batch(images, glyph_mask, style_image, Progress(len(images)).show)
        return io.NodeOutput(to_json(found), chart(found, images, glyph_mask))


class ReCharBestOf(io.ComfyNode):
    """The best of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharBestOf",
            display_name="Best of Batch",
            category="ReChar/Evaluation",
            description="Keeps the pictures of a batch that show the glyph, or have the style, best.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to choose from."),
                io.Mask.Input("glyph_mask", tooltip="The glyph that they should show."),
                io.Image.Input("style_image", optional=True, tooltip="The style that they should have."),
                io.Combo.Input(
                    "rank_by",
                    options=["structure", "style", "both"],
                    tooltip=(
                        "structure: mean of IoU, skeleton recall and edge F1. style: likeness of colours. both: the "
                        "mean of the two."
                    ),
                ),
                io.Int.Input("count", default=1, min=1, max=64, tooltip="How many to keep, the best first."),
            ],
            outputs=[
                io.Image.Output("best", display_name="IMAGE", tooltip="The best pictures."),
                io.String.Output("scores", display_name="scores", tooltip="Ranks and measures, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls, images: Any, glyph_mask: Any, rank_by: str, count: int, style_image: Any = None
    ) -> io.NodeOutput:
        from ..rechar_core.metrics.report import to_json
        from ..rechar_core.metrics.score import best_of
        from .host.progress import Progress

        done = Progress(len(images)).show
        best, found = best_of(images, glyph_mask, style_image, rank_by, count, done)
        return io.NodeOutput(best, to_json(found))


NODES = [ReCharScore, ReCharBestOf]
