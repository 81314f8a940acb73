"""The objectives. Adding one: a file here, a line in this table, a test, a row in docs/PAPERS.md."""

from typing import Annotated

from pydantic import Field

from bertsmith.objectives.base import Objective
from bertsmith.objectives.cert import Cert
from bertsmith.objectives.cert_rows import CertSettings
from bertsmith.objectives.electra import Electra, ElectraSettings
from bertsmith.objectives.mlm import MLM, MLMSettings
from bertsmith.objectives.nsp import NSP, NSPSettings
from bertsmith.objectives.span import Span, SpanSettings
from bertsmith.objectives.ssp import SSP, SSPSettings

OBJECTIVES: dict[str, type[Objective]] = {
    "mlm": MLM,
    "nsp": NSP,
    "ssp": SSP,
    "span": Span,
    "electra": Electra,
    "cert": Cert,
}

ObjectiveSettings = Annotated[
    MLMSettings | NSPSettings | SSPSettings | SpanSettings | ElectraSettings | CertSettings, Field(discriminator="name")
]
"""The settings of any objective, told apart by ``name``."""

__all__ = ["MLM", "NSP", "OBJECTIVES", "SSP", "Cert", "Electra", "Objective", "ObjectiveSettings", "Span"]
