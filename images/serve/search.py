"""The search over what the champion has said about the images of the raw folder."""

from fastapi import APIRouter

router = APIRouter()
