"""Error of the expected accuracy on images without labels, and value of the labels that to_label.csv asks for.

python -m bench.unlabelled --data FOLDER [--recipe NAME] [--parts expected to_label] [--seed N] [--seeds N]

FOLDER holds raw/, and annotations.csv or annotations/.

Part expected: the model, the held-out images and the shifts are those of bench.drift. For each check, 250 held-out
images are drawn as the test split that corrects confidences, and others as a lot. The true value is the mean accuracy
over the attributes on the lot's labels. The estimates are the mean confidence; the mean confidence less its error on
the test split, as in the stages; and ATC (Garg et al. 2022), the share of confidences above the threshold at which, on
the test split, that share equals the accuracy.

Part to_label: a network is trained on a few labelled images; each rule chooses some images of a lot without labels,
these are labelled, and the same network is trained on both. The result is the rise of its accuracy on other images. The
lot and the other images are like the training images, or a share of them is changed in ways that are not in training.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.drift import LEARNED, REFERENCE, SHIFTS, SIZES, accepted_images, look, sample_avatars, train
from bench.machine import table
from bench.prepared import files_of, prepare
from stages.common.contract.data_folder import PARAMS
from stages.common.contract.logs import start_logging
from stages.common.contract.params import load_params
from stages.common.inference.answers import Answers, answers_of, right_answers, tellable
from stages.common.inference.calibration import fit_temperature
from stages.common.inference.expected import MEAN, certainty, expect, trust
from stages.common.inference.features import Features
from stages.common.inference.to_label import Chooser
from stages.common.schema.annotations import GROUP
from stages.common.schema.attributes import Attributes, names
from stages.common.schema.dataset import Split, map_images, read_index
from stages.common.schema.learned import learned_classes
from stages.train.params import Params as TrainParams

PARTS = ("expected", "to_label")
CHECKS = 200  # of a line of part expected
STRENGTHS = {
    "brightness": ("x 0.8", "x 0.6"),
    "blur": ("radius 1 px", "radius 2 px"),
    "JPEG": ("quality 50", "quality 20"),
}
"""Used strengths of shifts of bench.drift; of other shifts, all are used."""
BEFORE, LOT, ASKED, MEASURED = 150, 400, 60, 300  # images of part to_label
CHANGED = 0.2  # of a lot
EPOCHS = 40

Labels = npt.NDArray[np.int16]
Random = np.random.Generator
Rule = Callable[[Attributes, Features, Features, int, Random], npt.ArrayLike]


def expected_accuracy(data: Path, recipe: str, seed: int) -> None:
    """Print the table of part `expected`."""
    random = np.random.default_rng(seed)
    rows = accepted_images(data, recipe)
    groups, members = np.unique([row[GROUP] for row in rows], return_inverse=True)
    learns = random.random(len(groups)) < LEARNED
    learned, held = np.flatnonzero(learns[members]), random.permutation(np.flatnonzero(~learns[members]))
    paths = [data / "raw" / rows[at]["path"] for at in held]
    with tempfile.TemporaryDirectory() as name:
        model = train(data, [rows[at] for at in learned], Path(name), recipe)
        labels = labels_of(model.attributes, [rows[at] for at in held])
        clean = look(model, paths)
        lots: dict[tuple[str, str], tuple[Features, Labels]] = {("clean", ""): (clean, labels)}
        for kind, strengths in SHIFTS.items():
            for strength, shift in strengths.items():
                if strength in STRENGTHS.get(kind, strengths):
                    lots[kind, strength] = look(model, paths, shift), labels
        drawn = sample_avatars(Path(name), seed + 1)
        samples = accepted_images(drawn, "none")
        if set(samples[0]) >= {attribute.column for attribute in model.attributes}:
            seen = look(model, [drawn / "raw" / row["path"] for row in samples])
            lots["drawing style", "avatars"] = seen, labels_of(model.attributes, samples)
    counts = f"{len(learned)} images to learn from, {len(held)} held back, {REFERENCE} of them as test split"
    print(f"{counts}; {CHECKS} lots a line\n")
    lines = []
    for (kind, strength), (features, known) in lots.items():
        for size in SIZES:
            checks = [check(model.attributes, clean, labels, features, known, size, random) for _ in range(CHECKS)]
            true, *told, low, high = np.array(checks).T
            off = [f"{np.mean(estimate - true):+.3f}, {np.mean(abs(estimate - true)):.3f}" for estimate in told]
            held_by = np.mean((low <= true) & (true <= high))
            cells = (f"{true.mean():.3f}", *off, f"{held_by:.0%}", f"{np.mean(high - low):.3f}")
            lines.append((f"{kind} {strength}".strip(), size, *cells))
    header = ("lots", "images", "true", "confidence", "corrected", "ATC", "interval holds it", "its width")
    print(table(header, lines))
    print("\nUnder each way: mean error, mean absolute error. The interval is that of the corrected confidence.")


def labels_of(attributes: Attributes, rows: Sequence[Mapping[str, str]]) -> Labels:
    """(N, A), -1 where unknown."""
    return np.array([[int(row[attribute.column] or -1) for attribute in attributes] for row in rows], np.int16)


def check(
    attributes: Attributes,
    clean: Features,
    labels: Labels,
    shifted: Features,
    known: Labels,
    size: int,
    random: Random,
) -> tuple[float, ...]:
    """True accuracy on one lot, each estimate, and the interval of the stages' estimate."""
    mixed = random.permutation(len(clean))
    tests, others = mixed[:REFERENCE], mixed[REFERENCE:]
    if len(shifted) != len(clean):
        others = random.permutation(len(shifted))
    test = answers_of(attributes, clean.take(tests).probabilities, labels=labels[tests], decision=clean.decision)
    at = others[:size]
    lot = answers_of(attributes, shifted.take(at).probabilities, labels=known[at], decision=clean.decision)
    true = float(
        np.mean([right_answers([answer])[answer.labels >= 0].mean() for answer in lot if (answer.labels >= 0).any()])
    )
    expected = expect(certainty(lot, np.ones(size, np.bool_)), trust(test))[MEAN]
    ways = [], []  # type: tuple[list[float], list[float]]
    for answer, of_test, told in zip(lot, test, tellable(lot), strict=True):
        ways[0].append(float(answer.confidence[told].mean()))
        ways[1].append(above_threshold(of_test.known(), answer.confidence[told]))
    plain, threshold = (float(np.mean(way)) for way in ways)
    return true, plain, expected.value, threshold, expected.low, expected.high


def above_threshold(test: Answers, confidence: npt.NDArray[np.floating]) -> float:
    """Average thresholded confidence (Garg et al. 2022, https://arxiv.org/abs/2201.04234)."""
    wrong = int((~test.right).sum())
    threshold = np.sort(test.confidence)[wrong] if wrong < len(test.labels) else np.inf
    return float((confidence >= threshold).mean())


def by_chance(_: Attributes, _known: Features, lot: Features, count: int, random: Random) -> npt.ArrayLike:
    """Any images."""
    return random.permutation(len(lot))[:count]


def unsure_of(attributes: Attributes, lot: Features) -> npt.NDArray[np.float64]:
    """(N,): expected number of wrong answers."""
    answers = answers_of(attributes, lot.probabilities)
    wrong = [np.where(told, 1 - answer.confidence, 0) for answer, told in zip(answers, tellable(answers), strict=True)]
    total: npt.NDArray[np.float64] = np.stack(wrong).sum(axis=0, dtype=np.float64)
    return total


def least_confident(attributes: Attributes, _: Features, lot: Features, count: int, _r: Random) -> npt.ArrayLike:
    """Images with the highest expected number of wrong answers."""
    return np.argsort(-unsure_of(attributes, lot), kind="stable")[:count]


def farthest_first(_: Attributes, known: Features, lot: Features, count: int, _r: Random) -> npt.ArrayLike:
    """A core-set (Sener and Savarese 2018): each time the image farthest from all others."""
    far = np.linalg.norm(lot.embeddings[:, None] - known.embeddings, axis=2).min(axis=1)
    chosen: list[int] = []
    while len(chosen) < count:
        chosen.append(int(far.argmax()))
        far = np.minimum(far, np.linalg.norm(lot.embeddings - lot.embeddings[chosen[-1]], axis=1))
    return chosen


def by_gradients(attributes: Attributes, _: Features, lot: Features, count: int, random: Random) -> npt.ArrayLike:
    """BADGE (Ash et al. 2020, https://arxiv.org/abs/1906.03671): k-means++ on the gradients of the last layer."""
    pulls = []
    for attribute in attributes:
        values = lot.probabilities[attribute.name]
        pulls.append(values - np.eye(values.shape[1])[values.argmax(axis=1)])
    pull = np.concatenate(pulls, axis=1)
    squared = np.square(pull).sum(1) * np.square(lot.embeddings).sum(1)
    far, chosen = squared.copy(), list[int]()
    while len(chosen) < count:
        at = int(random.choice(len(lot), p=far / far.sum()))
        chosen.append(at)
        products = (pull @ pull[at]) * (lot.embeddings @ lot.embeddings[at])
        far = np.minimum(far, np.maximum(0, squared + squared[at] - 2 * products))
        far[chosen] = 0
    return chosen


def as_stages_do(attributes: Attributes, known: Features, lot: Features, count: int, _: Random) -> npt.ArrayLike:
    """Choose the images that to_label.csv lists."""
    chooser = Chooser(attributes, known, count)
    chooser.show("lot", lot, np.ones(len(lot), np.bool_))
    return [int(image.filename) for image in chooser.choose()]


RULES: Mapping[str, Rule] = {
    "random": by_chance,
    "least confident": least_confident,
    "farthest first": farthest_first,
    "BADGE": by_gradients,
    "to_label.csv": as_stages_do,
}


def worth_of_labels(data: Path, recipe: str, seeds: Sequence[int], settings: Sequence[str]) -> None:
    """Print the table of part `to_label`."""
    params = load_params(TrainParams, PARAMS, settings, files_of(recipe))
    with tempfile.TemporaryDirectory() as name:
        prepared = prepare(data, Path(name), recipe)
        images = map_images(prepared, read_index(prepared))
        images = in_memory(images, images.take())
    needed = BEFORE + LOT + MEASURED
    if len(images) < needed:
        sys.exit(f"bench.unlabelled: {len(images)} images are too few, {needed} are needed")
    print(
        f"{BEFORE} images labelled, {ASKED} more of {LOT}, {MEASURED} to measure; {EPOCHS} epochs; {len(seeds)} draws\n"
    )
    lines = []
    for title, share in (("as those learned from", 0.0), (f"{CHANGED:.0%} dark or blurred", CHANGED)):
        before, gains, wrong = [], {rule: list[float]() for rule in RULES}, {rule: list[float]() for rule in RULES}
        for seed in seeds:
            random = np.random.default_rng(seed)
            mixed = random.permutation(len(images))[:needed]
            start, lot, measured = (images.select(part) for part in np.split(mixed, [BEFORE, BEFORE + LOT]))
            lot, measured = (change(images, share, random) for images in (lot, measured))
            accuracy, known, seen = learn(params, start, measured, lot, seed)
            before.append(accuracy)
            answers = answers_of(images.attributes, seen.probabilities, labels=lot.labels)
            missed = (right_answers(answers) == 0).sum(axis=1)
            for rule, choose in RULES.items():
                chosen = np.asarray(choose(images.attributes, known, seen, ASKED, random))
                more = join(start, lot.select(chosen))
                gains[rule].append(learn(params, more, measured, None, seed)[0] - accuracy)
                wrong[rule].append(float(missed[chosen].mean()))
        for rule in RULES:
            gain = np.array(gains[rule])
            better = gain - np.array(gains["random"])
            error = [
                f"{figures.mean():+.4f} ± {figures.std(ddof=1) / np.sqrt(len(figures)):.4f}"
                for figures in (gain, better)
            ]
            lines.append((title, f"{np.mean(before):.4f}", rule, f"{np.mean(wrong[rule]):.2f}", *error))
    print(table(("lot", "accuracy before", "chosen by", "wrong answers an image", "gain", "more than random"), lines))


def in_memory(images: Split, pixels: npt.NDArray[np.uint8]) -> Split:
    """The same images with these pixels."""
    at = np.arange(len(images), dtype=np.int32)
    return replace(images, shards=[pixels], shard=np.zeros_like(at), row=at)


def join(one: Split, other: Split) -> Split:
    """Images of both."""
    both = replace(
        one,
        filenames=[*one.filenames, *other.filenames],
        labels=np.concatenate([one.labels, other.labels]),
        group=np.concatenate([one.group, other.group]),
    )
    return in_memory(both, np.concatenate([one.take(), other.take()]))


def change(images: Split, share: float, random: Random) -> Split:
    """The same images, with a share of them made dark or blurred."""
    pixels = images.take()
    shifts = [SHIFTS["night"]["dark, blue, noisy"], SHIFTS["blur"]["radius 2 px"]]
    for number, at in enumerate(random.permutation(len(pixels))[: round(share * len(pixels))]):
        pixels[at] = np.asarray(shifts[number % len(shifts)](Image.fromarray(pixels[at])))
    return in_memory(images, pixels)


def learn(
    params: TrainParams, labelled: Split, measured: Split, lot: Split | None, seed: int
) -> tuple[float, Features, Features]:
    """Train; return the mean accuracy over the attributes on some images, and features of `labelled` and of a lot."""
    import torch

    from stages.common.training.fit import FitSettings, fit
    from stages.common.training.network import Classifier, Outputs, outputs_of

    cut = len(labelled) // 5  # the temperatures' part, as the validation split has
    order = np.random.default_rng(seed).permutation(len(labelled))
    val, train_on = (labelled.select(order[part]) for part in (slice(cut), slice(cut, None)))
    settings = FitSettings(params.train.hyperparameters(), params.augmentation, EPOCHS, seed, "cpu", threads=1)
    network = fit(train_on, val, settings).network
    learned = learned_classes(labelled.attributes, train_on.labels)
    cpu = torch.device("cpu")
    *logits, _ = outputs_of(Outputs(network, learned), val, cpu)
    named = names(labelled.attributes)
    temperatures = {
        name: fit_temperature(outputs, val.labels[:, at])
        for at, (name, outputs) in enumerate(zip(named, logits, strict=True))
    }
    classifier = Classifier(network, temperatures, learned)

    def seen(images: Split) -> Features:
        *probabilities, embeddings = outputs_of(classifier, images, cpu)
        called = [str(at) for at in range(len(images))]
        empty = np.empty((0, 1, 1, 3), np.uint8)
        return Features(called, {}, embeddings, dict(zip(named, probabilities, strict=True)), empty, [])

    answers = answers_of(labelled.attributes, seen(measured).probabilities, labels=measured.labels)
    accuracy = float(np.nanmean(np.nanmean(right_answers(answers), axis=0)))
    known = seen(val)
    return accuracy, known, seen(lot) if lot else known


def parts(arguments: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """The measurements that the command line asks for."""
    if "expected" in arguments.parts:
        yield lambda: expected_accuracy(arguments.data, arguments.recipe, arguments.seed)
    if "to_label" in arguments.parts:
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        yield lambda: worth_of_labels(arguments.data, arguments.recipe, seeds, arguments.set)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with raw/ and annotations")
    parser.add_argument("--recipe", default="none", metavar="NAME", help="default: none, params.yaml")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=6, help="draws of part to_label (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    start_logging()
    for number, measure in enumerate(parts(arguments)):
        print("\n" if number else "", end="")
        measure()


if __name__ == "__main__":
    main()
