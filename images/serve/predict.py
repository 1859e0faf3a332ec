"""Predictions for pictures; attributes, versions, and the state of the service."""

import time
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from images.serve.answers import described
from images.serve.champion import Served
from images.serve.service import Json, ServiceDep, in_thread
from images.serve.uploads import files_of
from stages.common.inference.decision import in_words
from stages.common.schema.learned import unlearned, why_never

router = APIRouter()


class Said(BaseModel):
    """Answer about one attribute."""

    class_: str | None = Field(alias="class", description="null where it is never answered")
    confidence: float | None = Field(description="the probability of the class, 0 to 1")
    answered: bool = Field(description="false: the confidence is below the threshold, so the model abstains")
    threshold: float | None = Field(None, description="the lowest confidence with which this class is answered")
    probabilities: dict[str, float] | None = Field(None, description="of every class")
    why: str | None = Field(None, description="why it is never answered")


class Picture(BaseModel):
    """Answers about one picture."""

    name: str = Field(description="of the file, as it came")
    attributes: dict[str, Said] | None = None
    face: dict[str, int] | None = Field(
        None, description="the face it was cropped to, in pixels, if the model does that"
    )
    error: str | None = Field(None, description="why this picture cannot be used")


class Prediction(BaseModel):
    """An answer."""

    version: str = Field(description="of the model")
    seconds: float = Field(description="from the whole request to its answer")
    images: list[Picture]


class Problem(BaseModel):
    """Why there is no answer."""

    error: str


_FILES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_REFUSED = {400: "no image came", 401: "no token", 408: "the body came too slowly", 413: "too much or too many",
            415: "of no image", 503: "no version yet, or too busy"}  # fmt: skip
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Prediction},
    422: {"model": Prediction, "description": "no image can be used"},
    **{status: {"model": Problem, "description": text} for status, text in _REFUSED.items()},
}


@router.post("/predict", openapi_extra=_FILES, responses=_RESPONSES)
async def predict(request: Request) -> Response:
    """Answer pictures: PNG or JPEG, one as the body, or several as files of a form."""
    service = request.app.state.service
    started = time.perf_counter()
    served: Served = service.served()
    files = await files_of(request, service.settings.limits)
    answers = await service.answers(served, [file.content for file in files])
    images = [{"name": file.name, **described(answer)} for file, answer in zip(files, answers, strict=True)]
    seconds = round(time.perf_counter() - started, 6)
    status = 200 if any("attributes" in image for image in images) else 422
    return Json({"version": served.name, "seconds": seconds, "images": images}, status)


@router.get("/attributes")
async def attributes(service: ServiceDep) -> Response:
    """Attributes that the model answers, with their thresholds."""
    served = service.served()
    calibration = served.model.calibration
    found = []
    for attribute in served.model.attributes:
        learned, lowest = calibration.learned[attribute.name], calibration.abstention[attribute.name]
        thresholds = lowest if isinstance(lowest, list) else [lowest] * len(attribute.classes)
        told: dict[str, Any] = {
            "name": attribute.name,
            "title": attribute.title,
            "classes": list(attribute.classes),
            "thresholds": dict(zip(attribute.classes, thresholds, strict=True)),
            "answer": in_words(attribute, calibration.decision[attribute.name], learned),
        }
        if why := why_never(learned):
            told["never_answered"] = why
        if absent := unlearned(attribute, learned):
            told["never_answered_with"] = absent
        found.append(told)
    return Json({"version": served.name, "attributes": found})


@router.get("/versions")
async def versions(service: ServiceDep) -> Response:
    """The version that answers, all registered versions, and every release, the oldest first."""
    registry, served = service.champion.registry, service.champion.served
    known = await in_thread(registry.versions)
    releases = await in_thread(registry.releases)
    told = ("name", "created", "mean_accuracy", "mean_balanced_accuracy", "fit", "reasons", "model_digest")
    return Json(
        {
            "serving": served.name if served else None,
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(served.since)) if served else None,
            "problem": service.champion.problem or None,
            "versions": [{name: getattr(version, name) for name in told} for version in known],
            "releases": [asdict(release) for release in releases],
        }
    )


@router.get("/health")
async def health() -> Response:
    """Whether the process is alive."""
    return Json({"status": "ok"})


@router.get("/ready")
async def ready(request: Request, service: ServiceDep) -> Response:
    """Whether pictures are answered: 503 if not.

    `problem` says why the champion does not answer, `search` why the newest predictions cannot be searched.
    """
    served, problem = service.champion.served, service.champion.problem
    told = {"ready": bool(served), "version": served.name if served else None, "problem": problem or None}
    return Json(told | {"search": request.app.state.search.problem or None}, 200 if served else 503)
