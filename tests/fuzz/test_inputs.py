"""Whatever lies in a file, what it says is read, or refused by an error of ours that names it: never a traceback.

``AUTOQ_FUZZ_EXAMPLES`` sets how many inputs are tried of each kind (default 25; 2,000 make 10,000 in all).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from autoq.data import BaseFileSource, check_headers, open_source, shared_images
from autoq.errors import AutoqError, InputError
from autoq.models import LoadedModel, load_model
from autoq.optimization.space import load_space
from autoq.recipe import Recipe
from autoq.runs.labels import match_labels
from autoq.runs.search.settings import load_study_file, make_settings
from tests.runs.small_run import small_session

many = settings(
    max_examples=int(os.environ.get("AUTOQ_FUZZ_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16")
FORMATS = ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm")
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 100
)


def one_line(error: AutoqError) -> None:
    assert isinstance(error, InputError)
    assert "\n" not in str(error).strip()
    assert len(str(error)) > 10


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """An image file of any mode, size and format, as it is, cut off, or with bytes changed; or no image at all."""
    if draw(st.booleans()) and draw(st.booleans()):
        return draw(st.binary(max_size=200))
    size, values = draw(st.tuples(st.integers(1, 20), st.integers(1, 20))), draw(st.integers(0, 2**32 - 1))
    noise = np.random.default_rng(values)
    mode, kind = draw(st.sampled_from(MODES)), draw(st.sampled_from(FORMATS))
    image = Image.fromarray(noise.integers(0, 256, (size[1], size[0], 3)).astype("uint8"))
    if mode in ("I", "F", "I;16"):
        image = Image.fromarray(
            (noise.random(size[::-1]) * draw(st.sampled_from([1.0, 255.0, 65535.0, 1e6, -1.0]))).astype(
                {"I": "int32", "F": "float32", "I;16": "uint16"}[mode]
            )
        )
    stream = io.BytesIO()
    try:
        (image if image.mode == mode else image.convert(mode)).save(
            stream, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind)
        )
    except (OSError, ValueError, KeyError):  # a format that cannot hold the mode
        image.convert("L").save(stream, "png")
    content = bytearray(stream.getvalue())
    match draw(st.sampled_from(["whole", "whole", "cut", "changed"])):
        case "cut":
            del content[draw(st.integers(0, len(content))) :]
        case "changed":
            for _ in range(draw(st.integers(1, 8))):
                content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes]:
    """Files by path: some in folders, which may be named after classes, splits, or anything else."""
    folder = st.one_of(
        NAMES, st.sampled_from(["0", "7", "10", "03", "train", "val", "test2017", ".hidden", "a b", "é"])
    )
    suffix = st.sampled_from([".png", ".JPG", ".tif", ".webp", ".txt", ""])
    files = draw(
        st.lists(st.tuples(st.lists(folder, max_size=3), st.integers(0, 9), suffix, pictures()), min_size=0, max_size=6)
    )
    return {"/".join([*folders, f"{number}{end}"]): content for folders, number, end, content in files}


def use(spec: str, loaded: LoadedModel) -> None:
    """Do with a source what a run does."""
    try:
        source = open_source(spec, "evaluation")
    except AutoqError as error:
        one_line(error)
        return
    assert len(source) > 0
    assert loaded.transform is not None
    for index in range(len(source)):
        try:
            tensor = loaded.transform(source.load(index))
        except AutoqError as error:
            one_line(error)
        else:
            assert tuple(tensor.shape) == loaded.input_size
            assert bool(tensor.isfinite().all())
    for check in (
        lambda: match_labels(source, loaded, 10),
        lambda: check_headers(source, range(len(source))),
        lambda: shared_images(source, source),
    ):
        try:
            check()
        except AutoqError as error:
            one_line(error)
    assert isinstance(source, BaseFileSource)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return small_session().loaded


@many
@given(files=trees(), links=st.lists(st.tuples(NAMES, st.sampled_from([".", "..", "missing", "/"])), max_size=2))
def test_folders(loaded: LoadedModel, files: dict[str, bytes], links: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as on the command line
        root = Path(name) / "data"
        root.mkdir()
        for path, content in files.items():
            try:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
            except OSError:  # a file where another path has a folder
                continue
        for link, target in links:
            if target != "/" and not os.path.lexists(root / link):
                (root / link).symlink_to(target)
        use(str(root), loaded)


@many
@given(
    files=trees(),
    links=st.lists(st.tuples(NAMES, st.text(max_size=8), st.booleans()), max_size=3),
    damage=st.sampled_from(["none", "none", "cut", "gzip", "changed"]),
    place=st.floats(0, 1),
)
def test_archives(
    loaded: LoadedModel, files: dict[str, bytes], links: list[tuple[str, str, bool]], damage: str, place: float
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for link, target, is_hard in links:
            entry = tarfile.TarInfo(f"{link}.png")
            entry.type, entry.linkname = tarfile.LNKTYPE if is_hard else tarfile.SYMTYPE, target
            archive.addfile(entry)
    content = bytearray(gzip.compress(stream.getvalue()) if damage == "gzip" else stream.getvalue())
    if damage == "cut":
        del content[int(place * len(content)) :]
    elif damage == "changed":
        content[int(place * (len(content) - 1))] ^= 0xFF
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(name) / "data.tar"
        path.write_bytes(content)
        use(str(path), loaded)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["w4a4", "kl"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


def as_toml(value: Any) -> str:
    """Write a value as TOML; what it lacks as a string."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(str(value))


STUDY_KEYS = ["model", "data", "trials", "space", "seed", "budget_bops", "proxy", "sampler", "calib_images", "task"]
SPACE_KEYS = ["schema_version", "rules", "ties", "description", "extends"]
RULE_KEYS = ["operand", "scheme", "bits", "groups", "site", "producer", "granularity", "op", "position"]
DOCUMENTS = st.one_of(
    st.dictionaries(st.sampled_from(STUDY_KEYS), VALUES, max_size=4),
    st.fixed_dictionaries(
        {"schema_version": st.sampled_from([1, 2])},
        optional={
            "rules": st.lists(st.dictionaries(st.sampled_from(RULE_KEYS), VALUES, max_size=4), max_size=2),
            "ties": VALUES,
        },
    ),
    st.dictionaries(st.one_of(st.sampled_from(SPACE_KEYS), st.text(max_size=5)), VALUES, max_size=3),
)


@many
@given(
    document=DOCUMENTS,
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]),
    noise=st.one_of(st.just(b""), st.binary(max_size=20)),
)
def test_toml(document: dict[str, Any], encoding: str, noise: bytes) -> None:
    text = "".join(f"{json.dumps(key)} = {as_toml(value)}\r\n" for key, value in document.items())
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file.toml"
        path.write_bytes(text.encode(encoding, "surrogatepass") + noise)
        for read in (load_study_file, lambda path: load_space(os.fspath(path))):
            try:
                read(path)
            except AutoqError as error:
                one_line(error)


@many
@given(values=st.dictionaries(st.sampled_from([*STUDY_KEYS, "trails"]), VALUES, max_size=4))
def test_settings(values: dict[str, Any]) -> None:
    try:
        make_settings(values, "option", are_options=True)
    except AutoqError as error:
        one_line(error)


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    session = small_session()
    site = session.traced.sites[0]
    config = {"scheme": "uniform", "bits": 4}
    return {
        "schema_version": 1,
        "model": session.reference.model_dump(mode="json"),
        "sites": {site.name: {operand.name: config for operand in site.operands}},
    }


@many
@given(data=st.data())
def test_recipes(recipe: dict[str, Any], data: st.DataObject) -> None:
    """A recipe with values replaced, keys added or removed, or cut off."""
    document = json.loads(json.dumps(recipe))
    for _ in range(data.draw(st.integers(0, 3))):
        inner, keys = document, list(document)
        while keys:
            key = data.draw(st.sampled_from(keys))
            deeper = inner[key]
            if isinstance(deeper, dict) and deeper and data.draw(st.booleans()):
                inner, keys = deeper, list(deeper)
                continue
            match data.draw(st.sampled_from(["replace", "remove", "add"])):
                case "replace":
                    inner[key] = data.draw(VALUES)
                case "remove":
                    del inner[key]
                case "add":
                    inner[data.draw(st.text(max_size=6))] = data.draw(VALUES)
            break
    text = json.dumps(document)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "recipe.json"
        path.write_text(text[: data.draw(st.sampled_from([len(text)] * 4 + [len(text) // 2]))], encoding="utf-8")
        try:
            small_session().check(Recipe.load(path))
        except AutoqError as error:
            one_line(error)


SPECS = st.one_of(
    st.text(st.characters(exclude_characters="/~."), max_size=12),  # others may be folders of this machine
    st.sampled_from(
        ["digits/", "digits/x", "hfds", "python:a:b", "python:", "memory:x", "vit", "a/../b", "\0", "caf\udce9"]
    ),
)


@many
@given(name=SPECS)
def test_names_of_models_and_data(name: str) -> None:
    for open_it in (lambda: open_source(name, "calibration"), lambda: load_model(f"local-dir:{name}/x")):
        try:
            open_it()
        except AutoqError as error:
            one_line(error)
