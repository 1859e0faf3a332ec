"""Versions, releases, the champion and the pictures that it knows. Used by archive, champion, monitor and predict."""
