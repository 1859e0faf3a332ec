"""Stage `validate`: check raw annotations and their images first, and write one canonical form.

Two Great Expectations suites decide: `expectations/raw_annotations.json` about the text of the rows, then
`expectations/images.json` about the images of the remaining rows. A critical expectation about rows rejects the rows
that fail it. A critical expectation about the whole table fails the stage (exit 65), and so do more rejected rows than
`validate.max_rejected_fraction`. A warning lists its findings and keeps the rows; with `"clear": true` in its meta, the
failing cell becomes unknown.

Inputs:
    annotations  a file in one of the forms that `data/README.md` describes, or a folder of such files, which are
                 merged: the newest file wins, label by label. Backups are not read, and a copy beside its original is
                 refused. CelebA's lists of identities and splits are also found beside a folder named annotations
    raw          folder of images, any depth; an image's lot is its file name up to the first `_`, or its folder's name.
                 Without it, only the annotations are checked
    attributes   attributes.yaml with the annotated attributes; default: the file beside annotations or raw, or else
                 `data/attributes.yaml` of the repository
    corrections  folder of CSV files in which reports save corrections. They are newer than all other files; default:
                 the folder `corrections` beside annotations, if there is one

Outputs (a row is a line of an annotation file; text cells never start a spreadsheet formula):
    report.html              the findings, with pictures; it opens without network access
    attributes.json          per attribute name, classes, column, title, unknown_when
    annotations.csv          filename, lot, path (relative to raw); digest (SHA-256 of the file), pixels (digest of the
                             picture, which identifies an image) and group (the same for equal pictures and near
                             duplicates: the least `pixels` among them), empty without raw; then a column per
                             attribute: class index, empty if unknown. Sorted by filename, a row per accepted image.
                             If the annotations give groups, a group has their name and all their images, and
                             given_group is the group that they give; if they give splits, given_split is train, val or
                             test
    rejected.csv             source, row (line number), filename, reason: rows left out
    warnings.csv             source, row, filename, reason: rows kept with a warning, repeats of a row, labels that a
                             newer file replaced, rows of a published list (CelebA's, Cartoon Set's) without an image
    unannotated.csv          filename, lot, path, reason: images without a row, and files that are not read (links,
                             hidden, other types), at the time of the run
    changes.csv              filename, lot, what, before, now: rows and labels that differ from the last validation of
                             the same annotations in the store; absent without one. No key and no content depends on it
    data_docs/<suite>/       Great Expectations' own pages: index.html with the findings, suite.html with the suite
    metrics/validation.json  counts of all of the above, per reason, class, lot and attribute; an example of each reason

If the stage fails on the data, all but annotations.csv are kept in the `failed-...` folder that the error names.

By hand: `python -m stages.validate FILE [--raw FOLDER]` prints a short verdict and the path of the report.
"""
