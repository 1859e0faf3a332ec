"""The stages of the pipeline, one package each; `stages.common` holds what two or more of them share."""

import os
import sys

# ONNX Runtime reads it when it is imported: else it keeps a database in the home folder, and reports to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Names of files are UTF-8, whatever the locale says. `-m` stands there while Python looks for `stages.<name>`.
if sys.argv[0] == "-m" and sys.getfilesystemencoding() != "utf-8":
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
