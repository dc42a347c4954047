"""Measures how well pictures keep a glyph and a style, and picks the best ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

if TYPE_CHECKING:
    from torch import Tensor


class ReCharScore(io.ComfyNode):
    """Measures pictures and, for comparison, controls."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharScore",
            display_name="Score",
            category="ReChar/Evaluation",
            description=(
                "Measures how well each picture shows the glyph and matches the colours of a style picture. A blank "
                "picture, a rotated and a shifted glyph are measured as controls, to compare with. SSIM alone would "
                "favour the blank one."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The pictures to measure."),
                io.Mask.Input("glyph_mask", tooltip="The glyph the pictures should show."),
                io.Image.Input("style_image", optional=True, tooltip="The style the pictures should have."),
            ],
            outputs=[
                io.String.Output(
                    "scores", "scores", tooltip="The measures of all pictures and controls, as JSON."
                ),
                io.Image.Output("chart", "chart", tooltip="Pictures and controls with their scores."),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, glyph_mask: Tensor, style_image: Tensor | None = None) -> io.NodeOutput:
        from ..rechar_core.metrics.report import chart, to_json
        from ..rechar_core.metrics.score import score_batch
        from .host.progress import Progress

        scores = score_batch(images, glyph_mask, style_image, Progress(len(images)).show)
        return io.NodeOutput(to_json(scores), chart(scores, images, glyph_mask))


class ReCharBestOf(io.ComfyNode):
    """Picks the best pictures of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharBestOf",
            display_name="Best of Batch",
            category="ReChar/Evaluation",
            description="Keeps the pictures of a batch that best show the glyph or best match the style.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to choose from."),
                io.Mask.Input("glyph_mask", tooltip="The glyph the pictures should show."),
                io.Image.Input("style_image", optional=True, tooltip="The style the pictures should have."),
                io.Combo.Input(
                    "rank_by",
                    options=["structure", "style", "both"],
                    tooltip=(
                        "structure: mean of IoU, skeleton recall and edge F1. style: similarity of the colours. both: "
                        "mean of the two."
                    ),
                ),
                io.Int.Input("count", default=1, min=1, max=64, tooltip="How many to keep, the best first."),
            ],
            outputs=[
                io.Image.Output("best", "IMAGE", tooltip="The best pictures."),
                io.String.Output("scores", "scores", tooltip="Ranks and measures, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls, images: Tensor, glyph_mask: Tensor, rank_by: str, count: int, style_image: Tensor | None = None
    ) -> io.NodeOutput:
        from ..rechar_core.metrics.report import to_json
        from ..rechar_core.metrics.score import best_of
        from .host.progress import Progress

        done = Progress(len(images)).show
        best, scores = best_of(images, glyph_mask, style_image, rank_by, count, done)
        return io.NodeOutput(best, to_json(scores))


NODES = [ReCharScore, ReCharBestOf]
