"""The text that Airflow shows on the page of each task."""

DOCS = {
    "check_raw_data": """
Checks parameters and lists annotations and images before any work starts: `validate --check`.

**In**: raw images, annotations. **Out**: the number of rows, images and lots.
""",
    "validate": """
Checks every annotation and every image with Great Expectations. Rows and images that cannot be used are left out, with
the reason. Too many rejects stop the run here.

**In**: raw images, annotations, and `attributes.yaml` beside them if their attributes are not those of the samples.
**Out**: canonical annotations, rejects, warnings. **Report**: the findings, with pictures, and Data Docs.
""",
    "group_lots": """
Finds the lots that are not prepared yet, and groups them: `prepare_train --check`. On unchanged data there are none,
and `prepare_lots` is skipped.

**In**: raw images, canonical annotations. **Out**: groups of lots.
""",
    "prepare_lots": """
Decodes, crops and resizes the images of some lots, on any free worker. One task per group of new or changed lots.

**In**: raw images, canonical annotations. **Out**: a shard per lot, in the cache of `prepare_train`.
""",
    "prepare_train": """
Joins the lots, splits the images into training, validation and test by the digest of the picture (groups stay
together), and checks the result.

**In**: raw images, canonical annotations. **Out**: one uint8 shard per lot, the index of images, statistics; asset
`face_attributes_data_set` when they are new. **Report**: prepared pictures, classes, splits and lots, rejects, Data
Docs.
""",
    "hyperopt": """
Searches hyperparameters with TPE on the validation split. Hopeless trials are pruned; a killed search resumes where it
stopped.

**In**: prepared data. **Out**: the best parameters, all trials. **Report**: trials, importance of each parameter.
""",
    "train": """
Trains one network with a head per attribute, and calibrates its confidences on the validation split.

**In**: prepared data, best parameters. **Out**: `model.onnx`, `model.safetensors`. **Report**: curves, confidences,
augmented training pictures.
""",
    "evaluate": """
Measures the exported model on the test split, which no earlier stage has used, and checks its predictions.

**In**: prepared data, model. **Out**: metrics, predictions. **Report**: confusion matrices, ROC curves, Data Docs.
""",
    "label_doubt": """
Finds probable label errors: labels contradicted by a network trained without that image. The corrections that help most
come first.

**In**: prepared data, model. **Out**: `doubts.csv`. **Report**: the doubtful labels, with pictures.
""",
    "archive": """
Collects one version: model, metrics, plots, reports of all stages, parameters, and the lineage back to the raw files.
Compares it with the champion and the best version so far on the test images, registers it, and makes it the champion if
it passes the gate. The same model, byte for byte, is registered and compared only once.

**In**: all artifacts of the run, `card.md` of the data volume, the registry. **Out**: the version with model card and
data card; asset `face_attributes_model` when it is new.
**Report**: the report of the run.
""",
    "release": """
Carries out the decision of a person: promotes a version to champion, or rolls back to the previous champion
(`archive promote` or `archive rollback`).

**In**: the registry, the decision. **Out**: who decided, when and why, in the registry; asset `face_attributes_model`.
**Report**: the report of the version.
""",
    "prune": """
Removes unused artifacts from the store: `archive prune`. It keeps what a run is using. If a later run needs something
removed, it computes it again.

**In**: the store, the registry. **Out**: how much was freed and kept. **Report**: what was kept and why, and what was
removed.
""",
    "champion": """
Fetches the released version from the registry, so that the whole run uses the same model.

**In**: the registry. **Out**: model, features of its test images, lineage.
""",
    "predict": """
Predicts every image of every lot with the champion. Lots that this version has already predicted are cached.

**In**: raw images, the champion. **Out**: a CSV file per lot, images that cannot be decoded, images to label; asset
`face_attributes_predictions` when they are new. **Report**: classes per lot, expected accuracy, images to label, unsure
answers, Data Docs.
""",
    "monitor": """
Measures the champion on newly annotated images, compares new images with the reference, and decides whether to retrain,
or to have images labelled first.

**In**: the champion, its predictions, annotations if they passed validation, raw images for pictures. **Out**: the
decision, images to label, a line of the monitoring log. **Report**: signals that drifted, in reference and new images;
expected accuracy; images to label.
""",
}
