"""The service: what the champion says about a picture that somebody sends, and the search over what it has said."""

import os

# Read when it is imported: else it keeps a database in the home folder, and sends to its makers what it is used for.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
