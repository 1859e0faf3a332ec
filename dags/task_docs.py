"""What Airflow shows on the page of each task."""

DOCS = {
    "check_raw_data": """
Looks at parameters, annotations and images before any work starts: `validate --check`.

**In**: raw images, annotations. **Out**: how many rows, images and lots there are.
""",
    "validate": """
Checks every annotation and every image with Great Expectations, and leaves out what cannot be used, with the reason.
Too many rejects stop the run here.

**In**: raw images, annotations, and `attributes.yaml` beside them if they are about other attributes than the samples.
**Out**: canonical annotations, rejects, warnings. **Report**: what was found, with
pictures, and Data Docs.
""",
    "group_lots": """
Looks which lots are not prepared yet, and shares them out: `prepare_train --check`. On unchanged data there are none,
and `prepare_lots` is skipped.

**In**: raw images, canonical annotations. **Out**: groups of lots.
""",
    "prepare_lots": """
Decodes, crops and resizes the images of some lots, wherever a worker is free. One task per group of lots that are
new or changed.

**In**: raw images, canonical annotations. **Out**: a shard per lot, in the cache of `prepare_train`.
""",
    "prepare_train": """
Joins the lots: splits images into training, validation and test by what they show, groups as a whole, checks the
result.

**In**: raw images, canonical annotations. **Out**: one uint8 shard per lot, the index of images, statistics; asset
`face_attributes_data_set` when they are new. **Report**: what the network sees, classes,
splits and lots, rejects, Data Docs.
""",
    "hyperopt": """
Searches hyperparameters with TPE on the validation split. Trials that look hopeless are given up; a search that was
killed goes on where it stood.

**In**: prepared data. **Out**: the best parameters, all trials. **Report**: trials, importance of each parameter.
""",
    "train": """
Fits one network with a head per attribute, and calibrates its confidences on the validation split.

**In**: prepared data, best parameters. **Out**: `model.onnx`, `model.safetensors`. **Report**: curves, confidences,
pictures as they are learned from.
""",
    "evaluate": """
Measures the exported model on the test split, which nothing before has seen, and checks its predictions.

**In**: prepared data, model. **Out**: metrics, predictions. **Report**: confusion matrices, ROC curves, Data Docs.
""",
    "label_doubt": """
Finds labels that networks which have not seen the image confidently contradict, those first that are worth most to
mend.

**In**: prepared data, model. **Out**: `doubts.csv`. **Report**: the doubtful labels, with pictures.
""",
    "archive": """
Collects one version: model, metrics, plots, reports of all stages, parameters, and the lineage back to the raw files.
Lets it meet the champion and the best version so far on the test images, registers it, and makes it the champion if it
is fit for that. The same model, to the byte, is registered and judged once.

**In**: all artifacts of the run, `card.md` of the data volume, the registry. **Out**: the version with model card and
data card; asset `face_attributes_model` when it is new.
**Report**: the report of the run.
""",
    "release": """
Makes a version the champion, or the champion before this one champion again, because a person has decided so:
`archive promote` or `archive rollback`.

**In**: the registry, the decision. **Out**: who decided, when and why, in the registry; asset `face_attributes_model`.
**Report**: the report of the version.
""",
    "prune": """
Removes of the artifact store what nobody needs any more: `archive prune`. What a run is using is left alone, and what
is asked for later is made again.

**In**: the store, the registry. **Out**: how much was freed and kept. **Report**: what stays and why, and what went.
""",
    "champion": """
Takes the released version of the model out of the registry, so that the whole run uses the same one.

**In**: the registry. **Out**: model, what its test images looked like, lineage.
""",
    "predict": """
Says what the champion sees in every image of every lot. A lot that this version has predicted already is not predicted
again.

**In**: raw images, the champion. **Out**: a CSV file per lot, images that cannot be decoded, what to label; asset
`face_attributes_predictions` when they are new. **Report**: classes per lot, expected accuracy, which images to label,
unsure answers, Data Docs.
""",
    "monitor": """
Measures the champion on newly annotated images, compares new ones with what it was measured on, and decides whether it
should be trained again, or images be labelled first.

**In**: the champion, its predictions, annotations if their check has passed, raw images for pictures. **Out**: the
decision, what to label, a line of the monitoring log. **Report**: what moved, then and now; expected accuracy; which
images to label.
""",
}
