"""Stage `monitor`: measure the released model on new labels, and compare new images with its reference.

Inputs: the artifacts of champion (the released version with its reference), of predict (its answers about every lot),
of validate (labels, as far as they are known), the raw folder (only for pictures in the report), and the folder of the
monitoring log. Without validate, whose check may have failed, drift is still reported. New images are those whose
picture was not used to train or measure the champion (`stages.monitor.new_images`), in any lot.
Outputs:
    decision.json                performance (ok, low, not enough data), drift (none, found, not enough data), whether
                                 they ask for a training or for labels first, and the cause
                                 (`stages.monitor.decision`)
    to_label.csv                 new images without labels that are most worth labelling, in lots that need labels first
                                 (`stages.common.inference.to_label`): a row to fill in for each
    metrics/performance.json     `evaluate.metric` with its 95 % interval, per attribute and as a mean, per lot and for
                                 all lots; for all lots also `stages.common.inference.measures.measure` per attribute
    metrics/expected.json        new images without labels, by lot and in total: number, expected accuracy and its 95 %
                                 interval (`stages.common.inference.expected`)
    metrics/drift.json           every signal of every lot: then (reference), now (new images), PSI, distance, p,
                                 corrected p, whether it drifted
    plots/<n>_<signal>.png       the distributions of the signals with the largest changes
    findings.csv                 findings of the suite expectations/drift.json, all of them warnings
    data_docs/drift/             index.html and suite.html: Great Expectations' own pages
Every check is also a line of monitoring_log.json in the folder of the log (`stages.monitor.monitoring_log`). The log
decides whether it starts a training: never twice for the same cause, and never without new labels.

Neither drift nor a low accuracy fails the stage. Without a champion or without new images there is nothing to monitor.
"""
