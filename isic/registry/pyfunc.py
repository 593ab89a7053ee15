"""The bundle as an MLflow model from code: MLflow copies this file beside the bundle and runs it to
load the model.

Not imported by the package. Input: the columns of test-metadata.csv and, optionally, `image`: the
tile's JPEG in base64. Output: isic_id and target, in the input's order.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel, PythonModelContext

from isic.core.errors import InputError
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
        try:
            return score_request(self.bundle, model_input)
        except InputError as error:
            raise MlflowException(str(error), error_code=BAD_REQUEST) from error


set_model(LesionModel())
