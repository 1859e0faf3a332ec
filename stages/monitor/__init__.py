"""Stage `monitor`: whether the released model is still right, and whether new images are like those it knows.

Inputs: the artifacts of champion (the released version with its reference), of predict (what that version says about
every lot), of validate (labels, as far as anybody has given them), the raw folder (for pictures in the report alone),
and the folder that the monitoring log is in.
Without validate, whose check may have failed, drift is told all the same. New images are those whose picture the
champion has neither learned from nor was measured on (`stages.monitor.new_images`), whatever lot they came into.
Outputs:
    decision.json                performance (ok, low, not enough data), drift (none, found, not enough data), whether
                                 they ask for a training or for labels first, and the cause
                                 (`stages.monitor.decision`)
    to_label.csv                 the new images without labels that are most worth some, of lots that need labels first
                                 (`stages.common.inference.to_label`): a row to fill in for each
    metrics/performance.json     `evaluate.metric` with its 95 % interval, per attribute and in the mean, per lot and of
                                 all; of all what `stages.common.inference.measures.measure` gives per attribute
    metrics/expected.json        of new images without labels, by lot and in all: how many, the accuracy that is
                                 expected of them and its 95 % interval (`stages.common.inference.expected`)
    metrics/drift.json           every signal of every lot: then, now, PSI, distance, p, corrected p, whether it moved
    plots/<n>_<signal>.png       the distributions of the signals that moved most
    findings.csv                 what the suite expectations/drift.json found, all of it warnings
    data_docs/drift/             index.html and suite.html: Great Expectations' own pages
Besides, every check is a line of monitoring_log.json in the folder of the log (`stages.monitor.monitoring_log`);
whether it leads to a training follows from the log: never twice for the same cause, and never without new labels.

Neither drift nor a low accuracy fails the stage. Without a champion or without new images there is nothing to monitor.
"""
