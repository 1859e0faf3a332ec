"""Stage `evaluate`: measure the model on the test split, which no earlier stage has used.

Inputs: the artifacts of prepare_train and of train; the model runs in ONNX Runtime, as it will in use.
Outputs:
    metrics/eval_metrics.json    per attribute the result of `stages.common.inference.measures.measure` (accuracy, share
                                 of the most frequent class, balanced accuracy; each class with precision, recall,
                                 intervals and labels), ROC AUC, expected calibration error, threshold, share of
                                 answers and their accuracy; means; attributes that are no better than their most
                                 frequent class by `evaluate.metric`; number of groups of images, such as people
    metrics/slices.json          accuracy on each lot and on the images of each pair of classes, all answers together,
                                 with the number of labels
    slices.csv                   each slice in each attribute: `stages.common.inference.slices.Slice`
    plots/confusion_matrices.png one matrix per attribute, rows (true classes) in per cent
    plots/roc_curves.png         one curve per class, one against the rest
    plots/reliability.png        share of right answers by confidence
    predictions.csv              per test image and attribute: label, predicted class, the confidence in it (0-1), and
                                 `<attribute>_answered`: no if the confidence is below the threshold; the predicted
                                 class is the most probable one, or follows the decision rule of stage train
    reference/partitions.json    `stages.common.inference.partitions` of the same images
    reference/confidences.json   `stages.common.inference.expected.Trust` of each attribute, by the test images alone
    reference/features.npz       `stages.common.inference.features` of the val and test images, which were not used in
                                 training: the reference for drift
    pictures.json                thumbnails of the test images on which versions are compared
                                 (`stages.common.inference.compared`)
    findings.csv                 findings of the suite expectations/predictions.json: severity, reason, filename,
                                 column, value
    data_docs/predictions/       index.html and suite.html: Great Expectations' own pages

Unknown labels are left out, attribute by attribute. A measure that cannot be computed is null, with a note why.
The suite runs before anything is published; answers that are not probabilities fail the stage, missing answers do not.
"""
