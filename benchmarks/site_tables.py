"""Write docs/sites.md: the site tables of a windowed transformer and of a detector, with random weights.

python -m benchmarks.site_tables
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import YolosConfig, YolosForObjectDetection

from autoq.cli.sites import format_sites
from autoq.graph.trace import TracedModel, trace
from autoq.runs.session import Session

DOCUMENT = Path(__file__).parent.parent / "docs" / "sites.md"


def yolos_tiny() -> TracedModel:
    """YOLOS-Ti (Fang et al., NeurIPS 2021): DeiT-Ti with 100 detection tokens, here on 320 × 320 images."""
    config = YolosConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=[320, 320],
        num_labels=91,
    )
    return trace(YolosForObjectDetection(config).eval(), torch.zeros(2, 3, 320, 320))


def main() -> None:
    """Trace and write."""
    swin = Session.open("swin_tiny_patch4_window7_224", pretrained=False, device="cpu").traced
    sections = [
        ("Swin-T", "`autoq sites --model swin_tiny_patch4_window7_224 --no-pretrained`", swin),
        ("YOLOS-Ti", "a transformers model, traced through `autoq.graph.trace.trace` (see this script)", yolos_tiny()),
    ]
    text = "# Sites of two models\n\nWritten by `python -m benchmarks.site_tables`.\n"
    for title, source, traced in sections:
        text += f"\n## {title}\n\n{source}\n\n```text\n{format_sites(traced)}\n```\n"
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"wrote {DOCUMENT}")


if __name__ == "__main__":
    main()
