"""The bundle as an MLflow model from code: MLflow copies this file beside the bundle and runs it to
load the model.

Not imported by the package. Input: the columns of test-metadata.csv and, optionally, `image`: the
tile's JPEG in base64. Output: isic_id and target, in the input's order.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from isic.predict.bundle import Bundle, load_bundle
from isic.predict.requests import score_request


class LesionModel(PythonModel):
    """Scores all lesions of a request together: send all lesions of a patient in one request."""

    bundle: Bundle

    def load_context(self, context: PythonModelContext) -> None:
        self.bundle = load_bundle(Path(context.artifacts["bundle"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        return score_request(self.bundle, model_input)


set_model(LesionModel())
