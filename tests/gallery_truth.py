"""The expected content and answers of a gallery after changes: plain Python, ranked as in ynet/search/ranking.py."""

import datetime as dt
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ynet.search.ranking import Hit, tie_keys
from ynet_client.gallery.case_rows import GalleryCase, digest, pseudonym
from ynet_client.gallery.filters import Filters
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.stored_codes import CaseCode

SECRET = b"of this site"
NOW = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
MODELS = ("a" * 64, "b" * 64)
KINDS = ("insert", "change", "delete", "forget", "encode", "re-encode", "switch", "compaction")
LABELS, SPLITS, GRADES = ("frontal", "temporal", "none"), ("train", "test"), ("G2", "G3")
MOST_CASES = 150


@dataclass(frozen=True)
class Truth:
    """All acknowledged changes."""

    cases: Mapping[str, GalleryCase] = field(default_factory=dict)  # by image
    forgotten: frozenset[str] = frozenset()  # patients
    coded: Mapping[str, frozenset[str]] = field(default_factory=dict)  # by model, the images that have a code
    active: str | None = None

    def missing(self, model: str) -> list[str]:
        """Return the images without a code under a model."""
        return sorted(self.cases.keys() - self.coded.get(model, frozenset()))


class Change(NamedTuple):
    """One change of a gallery, and the truth after it."""

    kind: str
    do: Callable[[Gallery], object]
    after: Truth


def code_of(model: str, case: GalleryCase) -> CaseCode:
    """Return a model's code of a case. One model has few distinct codes, so that many cases tie; the other has many."""
    made = hashlib.sha256(f"{model}{case.sha256}".encode()).digest()
    centre = hashlib.sha256(f"{model}{made[0] % 5}".encode()).digest()[:8]
    flips = bytes([1 << made[2] % 8 if made[1] % 4 == 0 else 0])
    if model == MODELS[1]:
        return CaseCode(0, made[:8])
    return CaseCode(0, bytes(a ^ b for a, b in zip(centre, flips + bytes(7), strict=True)))


def new_case(number: int, generator: random.Random) -> GalleryCase:
    """Draw a case that may recur, perhaps as another file or with another description."""
    sha256 = hashlib.sha256(f"{number} {generator.randrange(3)}".encode()).hexdigest()
    attributes = {"grade": generator.choice(GRADES), "date": f"2026-0{generator.randint(1, 9)}-01"}
    split, patient = generator.choice(SPLITS), f"p{number // 3}"
    return GalleryCase(f"{number:05}.png", sha256, generator.choice(LABELS), patient, split, attributes)  # type: ignore[arg-type]


# --- changes


def draw(truth: Truth, generator: random.Random, kind: str = "") -> Change:
    """Draw a possible change, of the given kind if that is possible."""
    kinds = [one for one in KINDS if _is_possible(one, truth)]
    return _CHANGES[kind if kind in kinds else generator.choice(kinds)](truth, generator)


def _is_possible(kind: str, truth: Truth) -> bool:
    match kind:
        case "insert":
            return len(truth.cases) < MOST_CASES
        case "change" | "delete" | "forget":
            return len(truth.cases) > 0
        case "encode":
            return truth.active is not None and len(truth.missing(truth.active)) > 0
        case "re-encode":
            return len(truth.missing(_next_model(truth))) > 0
        case "switch":
            return truth.cases != {} and not truth.missing(_next_model(truth))
    return truth.active is not None


def _next_model(truth: Truth) -> str:
    return MODELS[truth.active == MODELS[0]]


def _insert(truth: Truth, generator: random.Random) -> Change:
    numbers = generator.sample(range(10 * MOST_CASES), generator.randint(1, 40))
    new = {case.image: case for case in (new_case(number, generator) for number in numbers)}
    return _sync("insert", truth, {**new, **truth.cases}, generator)


def _change(truth: Truth, generator: random.Random) -> Change:
    images = generator.sample(sorted(truth.cases), min(len(truth.cases), generator.randint(1, 8)))
    changed = {image: new_case(int(image.removesuffix(".png")), generator) for image in images}
    for image in images[:2]:  # to another patient
        changed[image] = replace(truth.cases[image], patient=f"p{generator.randrange(5)}")
    return _sync("change", truth, {**truth.cases, **changed}, generator)


def _delete(truth: Truth, generator: random.Random) -> Change:
    gone = set(generator.sample(sorted(truth.cases), min(len(truth.cases), generator.randint(1, 30))))
    return _sync("delete", truth, {image: case for image, case in truth.cases.items() if image not in gone}, generator)


def _sync(kind: str, truth: Truth, manifest: Mapping[str, GalleryCase], generator: random.Random) -> Change:
    rows = generator.sample(list(manifest.values()), len(manifest))
    cases = {case.image: case for case in rows if case.patient not in truth.forgotten}
    kept = {image for image in cases if image in truth.cases and cases[image].sha256 == truth.cases[image].sha256}
    coded = {model: images & kept for model, images in truth.coded.items()}
    return Change(kind, lambda gallery: gallery.sync_cases(rows), replace(truth, cases=cases, coded=coded))


def _forget(truth: Truth, generator: random.Random) -> Change:
    patient = generator.choice(sorted(case.patient for case in truth.cases.values()))
    cases = {image: case for image, case in truth.cases.items() if case.patient != patient}
    coded = {model: images & cases.keys() for model, images in truth.coded.items()}
    after = replace(truth, cases=cases, coded=coded, forgotten=truth.forgotten | {patient})
    return Change("forget", lambda gallery: gallery.forget(patient, NOW), after)


def _encode(truth: Truth, generator: random.Random) -> Change:
    return _codes("encode", truth, str(truth.active), generator)


def _re_encode(truth: Truth, generator: random.Random) -> Change:
    return _codes("re-encode", truth, _next_model(truth), generator)


def _codes(kind: str, truth: Truth, model: str, generator: random.Random) -> Change:
    missing = truth.missing(model)
    images = set(missing if generator.random() < 0.3 else generator.sample(missing, generator.randint(1, len(missing))))

    def do(gallery: Gallery) -> None:
        wanted = [one for one in gallery.missing(model) if one.image in images]
        gallery.add_codes(model, [code_of(model, truth.cases[one.image])._replace(case_id=one.id) for one in wanted])

    coded = {**truth.coded, model: truth.coded.get(model, frozenset()) | images}
    return Change(kind, do, replace(truth, coded=coded))


def _switch(truth: Truth, generator: random.Random) -> Change:
    model = _next_model(truth)
    after = replace(truth, active=model, coded={model: truth.coded.get(model, frozenset())})
    return Change("switch", lambda gallery: gallery.activate(model), after)


def _compact(truth: Truth, generator: random.Random) -> Change:
    return Change("compaction", lambda gallery: gallery.compact(), truth)


_CHANGES: Mapping[str, Callable[[Truth, random.Random], Change]] = dict(
    zip(KINDS, (_insert, _change, _delete, _forget, _encode, _re_encode, _switch, _compact), strict=True)
)


# --- content


def holds(gallery: Gallery) -> Truth:
    """Read the content of a gallery; patients as pseudonyms."""
    rows = gallery._database.execute(
        "SELECT image, digest, label, split, attributes, pseudonym FROM cases"
        " JOIN descriptions ON descriptions.number = description JOIN patients ON patients.number = patient"
    )
    cases = {
        image: GalleryCase(image, kept.hex(), label, name.hex(), split, json.loads(attributes))
        for image, kept, label, split, attributes, name in rows
    }
    missing = {model: {one.image for one in gallery.missing(model)} for model in MODELS}
    coded = {model: frozenset(cases.keys() - missing[model]) for model in MODELS}
    forgotten = gallery._database.execute("SELECT pseudonym FROM forgotten")
    return Truth(cases, frozenset(name.hex() for (name,) in forgotten), coded, gallery.active_model)


def as_held(truth: Truth) -> Truth:
    """Return the truth in the form of `holds`."""
    names = {case.patient: pseudonym(SECRET, case.patient).hex() for case in truth.cases.values()}
    cases = {
        image: replace(case, patient=names[case.patient], sha256=digest(case.sha256).hex())
        for image, case in truth.cases.items()
    }
    forgotten = frozenset(pseudonym(SECRET, patient).hex() for patient in truth.forgotten)
    return Truth(cases, forgotten, {model: truth.coded.get(model, frozenset()) for model in MODELS}, truth.active)


# --- answers


def assert_answers(gallery: Gallery, truth: Truth, generator: random.Random, questions: int = 4) -> None:
    """Check that a random query gets the answer of brute force."""
    if truth.active is None:
        assert gallery.active_model is None
        return
    tokens = tokens_of(gallery, truth)
    for _ in range(questions):
        code = question(truth, generator)
        k, asked = generator.choice([1, 3, 10, 2 * MOST_CASES]), _asked(truth, generator)
        (found,) = gallery.search(truth.active, [code], k, **asked)
        assert found == brute_force(truth, tokens, code, k, **asked)


def tokens_of(gallery: Gallery, truth: Truth) -> dict[str, bytes]:
    """Return each coded case's token, by image; check that every token names exactly one case."""
    assert truth.active is not None
    (hits,) = gallery.search(truth.active, [bytes(8)], 2 * MOST_CASES)
    tokens = {gallery.case_of(hit.token).image: hit.token for hit in hits}
    assert len(hits) == len(tokens)
    assert tokens.keys() == truth.coded.get(truth.active, frozenset())
    return tokens


def question(truth: Truth, generator: random.Random) -> bytes:
    """Draw a code near some case's code."""
    made = code_of(str(truth.active), new_case(generator.randrange(50), generator))
    return bytes([made.code[0] ^ generator.randrange(4)]) + made.code[1:]


def _asked(truth: Truth, generator: random.Random) -> dict[str, Any]:
    filters = Filters(
        labels=generator.choice([(), LABELS[:1], LABELS[:2]]),
        split=generator.choice(["", "", "test"]),
        attributes=generator.choice([(), (), (("grade", "G2"),)]),
        since=generator.choice(["", "", "2026-05-01"]),
    )
    asked: dict[str, Any] = {"filters": generator.choice([Filters(), filters])}
    asked["radius"] = generator.choice([None, None, 0, 8, 30])
    asked["is_one_per_patient"] = generator.random() < 0.3
    if truth.cases and generator.random() < 0.3:
        asked["exclude_sha256"] = [generator.choice(sorted(case.sha256 for case in truth.cases.values()))]
    return asked


def brute_force(
    truth: Truth,
    tokens: Mapping[str, bytes],
    code: bytes,
    k: int,
    *,
    filters: Filters = Filters(),  # noqa: B008 (frozen)
    radius: int | None = None,
    is_one_per_patient: bool = False,
    exclude_sha256: Sequence[str] = (),
) -> list[Hit]:
    """Rank every case that passes the filter by the total order, literally."""
    rows = []
    for image, token in tokens.items():
        case = truth.cases[image]
        made = code_of(str(truth.active), case)
        distance = (int.from_bytes(code) ^ int.from_bytes(made.code)).bit_count()
        is_wanted = filters.admits(case.label, case.split, case.attributes) and case.sha256 not in exclude_sha256
        if is_wanted and (radius is None or distance <= radius):
            key = int(tie_keys(code, np.frombuffer(token, np.uint8)[None])[0])
            rows.append((distance, key, token, case))
    rows.sort(key=lambda row: row[:3])
    distances = [row[0] for row in rows]
    if is_one_per_patient:
        best = dict[str, Any]()
        for row in rows:
            best.setdefault(row[3].patient, row)
        rows = list(best.values())
    return [Hit(distance, token, case.label, distances.count(distance)) for distance, _, token, case in rows[:k]]
