"""Fonts for a machine that has none: `python -m demo.pictures.carried_fonts FOLDER`.

It cuts the faces of `glyph_masks.FONTS` down to what training draws, for `DEMO_FONTS=FOLDER` there. Needs fontTools;
nothing of it is shipped.
"""

import sys
from pathlib import Path

from .glyph_masks import FONTS, ROOT, carried_name, trained_texts

LEFT_OUT = ("NotoSansCJK-Light", "NotoSansCJK-Black", "NotoSerifCJK-Regular", "NotoSerifCJK-Black", "uming", "microhei",
            "WenKai-Regular", "ipam", "NanumBrush")  # fmt: skip


def cut(name: str, texts: tuple[str, ...], target: Path) -> None:
    """One face with the glyphs of these texts, shaping tables kept."""
    from fontTools import subset

    path, _, face = name.partition("#")
    options = subset.Options(
        layout_features=["*"], hinting=False, font_number=int(face or 0), notdef_outline=True
    )
    options.drop_tables += ["vhea", "vmtx", "VORG", "DSIG"]
    loaded = subset.load_font(str(ROOT / path), options)
    cutter = subset.Subsetter(options)
    cutter.populate(text="".join(texts))
    cutter.subset(loaded)
    subset.save_font(loaded, str(target), options)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kind, faces in FONTS.items():
        for name in faces:
            target = folder / carried_name(name)
            if not any(part in name for part in LEFT_OUT) and not target.exists():
                cut(name, trained_texts()[kind], target)
                print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
