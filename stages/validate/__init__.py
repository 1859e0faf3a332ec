"""Check raw annotations and their images before anything else touches the data, and write one canonical form.

Two Great Expectations suites decide, `expectations/raw_annotations.json` about the text of the rows and, about the
images of those that are left, `expectations/images.json`. Of severity critical, an expectation about rows rejects those
that fail it, and one about the whole table fails the stage (exit 65), as do more rejected rows than
`validate.max_rejected_fraction`. Of severity warning, it lists what it finds and keeps the rows; if its meta says
`"clear": true`, the cell becomes unknown.

Inputs:
    annotations  a file in one of the forms that `data/README.md` describes, or a folder of them, which are merged: the
                 newest file wins, label by label. Backups are no annotations, and a copy beside its original is
                 refused. CelebA's lists of identities and splits are also found beside a folder called annotations
    raw          folder of images, any depth; an image's lot is its file name up to the first `_`, or its folder's name.
                 Without it, only the annotations are checked
    attributes   attributes.yaml, which says what is annotated. Without it, the one beside annotations or raw is taken,
                 and if there is none `data/attributes.yaml` of the repository
    corrections  folder of CSV files in which reports save what people correct. They are newer than all other files.
                 Without it, the folder `corrections` beside annotations is taken, if there is one

Outputs (a row is a line of an annotation file; text cells never start a spreadsheet formula):
    report.html              what was found, with pictures; it opens without network access
    attributes.json          what is annotated: per attribute name, classes, column, title, unknown_when
    annotations.csv          filename, lot, path (relative to raw); digest (SHA-256 of the file), pixels (digest of its
                             picture, by which an image is known) and group (the same for images that are the same or
                             nearly the same picture: the least `pixels` among them), empty without raw; then a column
                             per attribute: class index, empty if unknown. Sorted by filename, a row an accepted image.
                             Where the annotations say which images belong together, a group is all of these, called as
                             they call it, and given_group is what they say of the image; where they say which split it
                             is in, given_split is train, val or test
    rejected.csv             source, row (line number), filename, reason: rows left out
    warnings.csv             source, row, filename, reason: rows kept with a warning, repeats of a row, labels that a
                             newer file replaced, rows of a published list (CelebA's, Cartoon Set's) without an image
    unannotated.csv          filename, lot, path, reason: images that no row names, and files that are not read (links,
                             hidden, other types), as found when the stage ran
    changes.csv              filename, lot, what, before, now: rows and labels that are other ones than in the last
                             validation of the same annotations in the store; not there if there is none. No key and no
                             content depends on it
    data_docs/<suite>/       Great Expectations' own pages: index.html, what it found; suite.html, what it expects
    metrics/validation.json  counts of all of the above, per reason, class, lot and attribute; an example of each reason

When the stage fails on the data, all but annotations.csv are kept in the `failed-...` folder that the error names.

By hand: `python -m stages.validate FILE [--raw FOLDER]` prints a short verdict and the path of the report.
"""
