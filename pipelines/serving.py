"""The registered model as an MLflow pyfunc: pictures in, maps out.

MLflow copies this file beside the weights and runs it to load the model, so it imports nothing of
the checkout but `emlnet`, which the wheel holds.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

import emlnet
from emlnet.picture import decode_picture


class SaliencyModel(PythonModel):  # type: ignore[misc]
    """Answers each picture of the column `image` (encoded bytes) with its map."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the packaged model."""
        self.model = emlnet.load(context.artifacts["package"])

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One row per picture: `saliency_png`, the map min-max to 0..255 as an 8-bit PNG in base64.

        params: `flip`, average with the mirrored picture's map.
        """
        flip = bool((params or {}).get("flip", False))
        answers = []
        for number, data in enumerate(model_input["image"]):
            picture = decode_picture(bytes(data), f"picture {number}")
            buffer = io.BytesIO()
            Image.fromarray(self.model.predict(picture, flip).picture()).save(buffer, "PNG")
            answers.append(base64.b64encode(buffer.getvalue()).decode())
        return pd.DataFrame({"saliency_png": answers})


mlflow.models.set_model(SaliencyModel())
