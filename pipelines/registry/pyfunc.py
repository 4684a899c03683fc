"""The registered model as an MLflow pyfunc: pictures in, maps out.

MLflow copies this file beside the weights and runs it to load the model.  It imports only `emlnet`
of this project.
"""

from __future__ import annotations

import base64
import io
import threading
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

import emlnet
from emlnet.data.images import UPLOAD_FORMATS, decode_picture
from emlnet.inference.predictor import bound_layer_cache

MAX_PICTURES = 16
"""Most pictures per request."""
MAX_PIXELS = 50_000_000
"""Most pixels per picture; larger ones are refused before decoding."""


class SaliencyModel(PythonModel):  # type: ignore[misc]
    """Returns the map of each picture of the column `image` (encoded bytes).

    Pictures are computed one at a time, so the largest one bounds the memory.  Input that is not a
    picture gets HTTP 400 and the reason.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the packaged model."""
        bound_layer_cache()
        self.model = emlnet.load(context.artifacts["package"])
        self.one_at_a_time = threading.Lock()

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return a row per picture: `saliency_png`, its map as an 8-bit PNG in base64.

        The map is scaled min-max to 0..255.
        params: `flip`: average with the mirrored picture's map.
        """
        flip = bool((params or {}).get("flip", False))
        pictures = list(model_input["image"])
        if not 1 <= len(pictures) <= MAX_PICTURES:
            raise refuse(f"send 1 to {MAX_PICTURES} pictures, not {len(pictures)}")
        return pd.DataFrame(
            {"saliency_png": [self._answer(data, n, flip) for n, data in enumerate(pictures)]}
        )

    def _answer(self, data: Any, number: int, flip: bool) -> str:
        if not isinstance(data, bytes | bytearray):
            raise refuse(f"picture {number} is {type(data).__name__}, not an encoded picture")
        with self.one_at_a_time:
            try:
                picture = decode_picture(
                    bytes(data), f"picture {number}", MAX_PIXELS, UPLOAD_FORMATS
                )
            except ValueError as error:
                raise refuse(str(error)) from error
            drawn = self.model.predict(picture, flip).picture()
        buffer = io.BytesIO()
        Image.fromarray(drawn).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()


def refuse(reason: str) -> MlflowException:
    """Return the error that MLflow's server sends as HTTP 400."""
    return MlflowException(reason, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(SaliencyModel())
