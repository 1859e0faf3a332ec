"""Stage `label_doubt`: list labels that a network trained without their image contradicts, for people to inspect.

Inputs: the artifacts of prepare_train, and of train, whose hyperparameters (without the width) are used. All images
with known labels are assigned to folds, from train, val and test alike, because no result is used for the released
model. A network trained on the other folds checks the labels of each fold, by confident learning.
Outputs:
    doubts.csv                a row per doubtful label, those that are worth most first: rank, filename, lot, split,
                              attribute, label and suggested (class names), probability_of_label,
                              probability_of_suggested (0-1), worth (0-1, the expected error of the attribute's
                              balanced accuracy through this label: a rare class counts more)
    metrics/label_doubt.json  per attribute: known labels, doubts, accuracy, balanced accuracy and area under the ROC
                              curve on held-out images (0-1, against annotated labels), the share of the most frequent
                              class, and the reason if labels are not checked
    label_studio.json         for Label Studio, a task per image with a doubtful label: a thumbnail, its labels, and
                              the suggested classes of doubtful labels; label_studio.xml configures the project
    report.html               the doubtful images, per attribute; people correct their labels on it

A stopped or killed run keeps its finished folds, and continues after the last finished epoch.
"""
