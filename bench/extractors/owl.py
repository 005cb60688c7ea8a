"""OWLv2, an open-vocabulary detector, as an extractor of role ``owl``; importing this module imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.extractors.clip import ClipText
from bench.extractors.locate import Found
from bench.extractors.network import Network, exact, fill, read_weights


class Owl(Network):
    """OWLv2 (Minderer et al., NeurIPS 2023, arXiv:2306.09683) through transformers, one crop at a time.

    Its preprocessing is transformers' own: the crop is padded to a square at the bottom and the right and resized to
    the input size of the network (960 px for the base model).
    """

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor

        path = found.file("model.safetensors")
        config = Owlv2Config.from_json_file(str(found.file("config.json")))
        model = Owlv2ForObjectDetection(config)
        constants = ("position_ids", "box_bias")  # older files hold them, the model computes them
        fill(model, {k: v for k, v in read_weights(path).items() if not k.endswith(constants)}, path)
        self.model: Any = model.float().eval().requires_grad_(False).to(device)
        side = config.vision_config.image_size
        self.processor: Any = Owlv2ImageProcessor(size={"height": side, "width": side})
        self.text = ClipText(config.text_config.max_position_embeddings)

    def detect(self, crops: Sequence[np.ndarray], query: str) -> list[np.ndarray]:
        """What answers a query ("a photo of a red boat") in each crop: (n, 5) float32 rows x0, y0, x1, y1, score.

        Coordinates are pixels of the crop, cut at its edges; scores lie in [0, 1]. All of the network's guesses
        are returned, without threshold or suppression.
        """
        ids = self.text([query]).to(self.device)
        mask, found = (ids > 0).long(), []
        with exact():
            for crop in crops:
                pixels = self.processor(images=[Image.fromarray(crop)], return_tensors="pt")["pixel_values"]
                answer = self.model(input_ids=ids, attention_mask=mask, pixel_values=pixels.to(self.device))
                height, width = crop.shape[:2]
                (rows,) = self.processor.post_process_object_detection(
                    answer, threshold=0.0, target_sizes=[(height, width)]
                )
                edge = torch.tensor([width, height, width, height], device=self.device)
                boxes = torch.minimum(rows["boxes"].clamp(min=0), edge)
                found.append(torch.cat([boxes, rows["scores"][:, None]], 1).float().cpu().numpy())
        return found
