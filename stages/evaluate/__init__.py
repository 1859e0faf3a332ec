"""Stage `evaluate`: how good the model is on the test split, which nothing before has seen.

Inputs: the artifacts of prepare_train and of train; the model runs in ONNX Runtime, as it will in use.
Outputs:
    metrics/eval_metrics.json    per attribute what `stages.common.inference.measures.measure` gives (accuracy beside
                                 the share of the most frequent class and balanced accuracy; each class with precision,
                                 recall, intervals and labels), ROC AUC, expected calibration error, confidence from
                                 which on the model answers, share of answers and their accuracy; means; which
                                 attributes are no better than their most frequent class by `evaluate.metric`; how many
                                 groups the images make, such as people
    metrics/slices.json          accuracy on each lot and on the images of each pair of classes, all answers together,
                                 with the number of labels
    slices.csv                   each slice in each attribute: `stages.common.inference.slices.Slice`
    plots/confusion_matrices.png one matrix per attribute, rows (true classes) in per cent
    plots/roc_curves.png         one curve per class, one against the rest
    plots/reliability.png        how often the model is right at which confidence
    predictions.csv              per test image and attribute: label, predicted class, the confidence in it (0-1), and
                                 `<attribute>_answered`: no where the confidence is too low for an answer; the
                                 predicted class is the most probable one, or as stage train has decided
    reference/partitions.json    `stages.common.inference.partitions` of the same images
    reference/confidences.json   `stages.common.inference.expected.Trust` of each attribute, by the test images alone
    reference/features.npz       `stages.common.inference.features` of the val and test images, which the model has
                                 not learned from: what new images are compared with to tell drift
    pictures.json                thumbnails of the test images that versions are compared on
                                 (`stages.common.inference.compared`)
    findings.csv                 what the suite expectations/predictions.json found: severity, reason, filename, column,
                                 value
    data_docs/predictions/       index.html and suite.html: Great Expectations' own pages

Unknown labels are left out, attribute by attribute. A measure that the data cannot give is null, with a note why.
The suite runs before anything is published; answers that are no probabilities fail the stage, missing ones do not.
"""
