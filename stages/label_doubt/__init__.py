"""Stage `label_doubt`: list the annotated labels that a network most confidently contradicts, for people to look at.

Inputs: the artifact of prepare_train, and of train, whose hyperparameters (but the width) are used. All images with
known labels are dealt out to folds, train, validation and test alike, for nothing of this feeds the released model. The
labels of each fold are judged by a network that has learned from the other folds only, with confident learning.
Outputs:
    doubts.csv                one row a doubtful label, those first that are worth most to mend: rank, filename, lot,
                              split, attribute, label and suggested (class names), probability_of_label,
                              probability_of_suggested (0-1), worth (0-1, by how much the attribute's balanced accuracy
                              is expected to be wrong for this label: a rare class counts more)
    metrics/label_doubt.json  per attribute: known labels, doubts, accuracy, balanced accuracy and area under the ROC
                              curve out of fold (0-1, against annotated labels), the share of the most frequent class,
                              and why no label is doubted: the networks are too bad
    label_studio.json         for Label Studio, a task an image with a doubtful label: a thumbnail, its labels, of the
                              doubtful ones the suggested classes; label_studio.xml configures the project
    report.html               the doubtful images, per attribute, on which people correct labels

A run that was stopped or killed keeps its finished folds, and goes on after the last finished epoch.
"""
