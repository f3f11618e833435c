"""What the viewer answers, over HTTP without a browser."""

from __future__ import annotations

import io
import struct
import threading
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from radio.model import RADIOModel
from radio.tasks.similarity import similarity_to_patch
from radio.viewer import photos as photos_module
from radio.viewer.app import Viewer
from radio.viewer.photos import MAX_UPLOAD, read_photo
from radio.viewer.sessions import MAX_PHOTOS, MAX_SESSIONS
from radio.viewer.studio import ViewedModel

ADDRESS = "http://127.0.0.1:7234"


@pytest.fixture(scope="module")
def viewer(tiny_model: RADIOModel[Any], photos: list[Path]) -> Viewer:
    return Viewer({"tiny": tiny_model}, [read_photo(photos[0], photos[0].name)])


@pytest.fixture(scope="module")
def client(viewer: Viewer) -> Iterator[TestClient]:
    with TestClient(viewer.application(), ADDRESS) as client:
        yield client


class Page:
    """A page with a session of its own."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.config = client.post("/api/session").json()
        self.headers = {"Radio-Session": self.config["session"]}

    def ask(self, method: str, path: str, **options: Any) -> Any:
        return self.client.request(method, path, headers=self.headers, **options)

    def photos(self) -> list[dict[str, Any]]:
        return self.ask("GET", "/api/photos").json()

    def add(self, content: bytes, name: str = "a.png") -> Any:
        return self.ask("POST", "/api/photos", params={"name": name}, content=content)

    def map(self, what: str, **options: Any) -> Any:
        asked = {"model": "tiny", "photo": self.photos()[0]["id"], "size": 224} | options
        return self.ask("GET", f"/api/{what}", params=asked)


@pytest.fixture
def page(client: TestClient) -> Page:
    return Page(client)


def picture(width: int = 60, height: int = 40, color: str = "teal") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return file.getvalue()


def test_the_page_and_its_parts_come_from_here_and_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html") and "radio" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    folder = Path(photos_module.__file__).parent / "static"
    for file in folder.iterdir():
        path = "/" if file.name == "index.html" else f"/{file.name}"
        answer = client.get(path)
        assert answer.status_code == 200 and answer.content == file.read_bytes()
        addresses = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "://" not in addresses, f"{file.name} names an address"
    assert client.get("/../app.py").status_code == client.get("/app.py").status_code == 404


@pytest.mark.parametrize("host", ["127.0.0.1:7234", "localhost", "LOCALHOST:9000", "[::1]:7234"])
def test_this_computers_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example:7234", "", "10.0.0.1"],
)
def test_a_foreign_name_that_points_here_is_refused(client: TestClient, host: str) -> None:
    for method, path in (("GET", "/"), ("POST", "/api/session")):
        assert client.request(method, path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:7234"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/api/session", headers=headers)
    assert answer.status_code == 403 and "other sites" in answer.text


def test_a_link_to_the_page_may_be_anywhere(client: TestClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    assert client.post("/api/session", headers=link).status_code == 403


def test_a_photo_is_added_shown_and_removed(page: Page) -> None:
    added = page.add(picture(60, 40), "my photo.png")
    assert added.status_code == 201
    described = added.json()
    assert (described["name"], described["width"], described["height"]) == ("my photo.png", 60, 40)
    assert page.photos()[-1] == described
    shown = page.ask("GET", f"/api/photos/{described['id']}")
    assert Image.open(io.BytesIO(shown.content)).size == (60, 40)
    assert page.ask("DELETE", f"/api/photos/{described['id']}").status_code == 204
    assert described["id"] not in [photo["id"] for photo in page.photos()]
    assert page.ask("GET", f"/api/photos/{described['id']}").status_code == 404


def test_two_sessions_see_nothing_of_each_other(client: TestClient) -> None:
    one, two = Page(client), Page(client)
    assert one.config["session"] != two.config["session"]
    secret = one.add(picture(), "secret.png").json()["id"]
    assert secret not in [photo["id"] for photo in two.photos()]
    for what in (f"photos/{secret}", "features", "colors", "merged"):
        answer = two.ask(
            "GET", f"/api/{what}", params={"model": "tiny", "photo": secret, "size": 224, "keep": 20}
        )
        assert answer.status_code == 404, what
        assert "no such photo" in answer.json()["error"]
    assert two.ask("DELETE", f"/api/photos/{secret}").status_code == 404
    assert secret in [photo["id"] for photo in one.photos()]


def test_nothing_is_shown_without_a_session(client: TestClient) -> None:
    for headers in ({}, {"Radio-Session": "guess"}):
        answer = client.get("/api/photos", headers=headers)
        assert answer.status_code == 410 and "reload" in answer.json()["error"]


def test_a_tab_goes_on_with_its_session(client: TestClient, page: Page) -> None:
    page.add(picture())
    again = client.post("/api/session", headers=page.headers).json()
    assert again["session"] == page.config["session"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.jpg is not an image: it is empty"),
        (b"hello", "bad.jpg is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "bad.jpg is not an image"),
        (picture()[:40], "bad.jpg"),
        (
            struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54, 0, 54, 40, 99_999, 99_999, 1, 24, 0, 0, 0, 0, 0, 0),
            "million",
        ),
    ],
)
def test_a_bad_file_is_named_and_leaves_nothing(page: Page, content: bytes, message: str) -> None:
    before = page.photos()
    answer = page.add(content, "bad.jpg")
    assert answer.status_code == 422 and message in answer.json()["error"]
    assert page.photos() == before


def test_a_photo_of_too_many_pixels_is_not_decoded(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos_module, "MAX_PHOTO_PIXELS", 1000)
    answer = page.add(picture(100, 50), "big.png")
    assert answer.status_code == 422 and "big.png has 100 x 50 pixels" in answer.json()["error"]


def test_a_file_that_is_too_large_is_not_read(page: Page) -> None:
    said = page.ask("POST", "/api/photos", content=bytes(MAX_UPLOAD + 1))
    unsaid = page.ask("POST", "/api/photos", content=(bytes(2**20) for _ in range(MAX_UPLOAD // 2**20 + 1)))
    for answer in (said, unsaid):
        assert answer.status_code == 413 and "at most 32 MB" in answer.json()["error"]


def test_the_photos_of_a_page_are_bounded(page: Page) -> None:
    for _ in range(MAX_PHOTOS):
        assert page.add(picture(16, 16)).status_code == 201
    answer = page.add(picture(16, 16))
    assert answer.status_code == 422 and "remove one first" in answer.json()["error"]


def test_the_session_used_least_recently_ends_for_a_new_one(tiny_model: RADIOModel[Any]) -> None:
    with TestClient(Viewer({"tiny": tiny_model}).application(), ADDRESS) as client:
        first, second = Page(client), Page(client)
        assert first.photos() == []  # used after the second
        for _ in range(MAX_SESSIONS - 1):
            Page(client)
        assert first.ask("GET", "/api/photos").status_code == 200
        assert second.ask("GET", "/api/photos").status_code == 410


def test_features_give_the_librarys_similarities(
    page: Page, tiny_model: RADIOModel[Any], photos: list[Path]
) -> None:
    answer = page.map("features", adaptor="sam")
    rows, columns, width = map(int, answer.headers["radio-shape"].split(","))
    vectors = torch.tensor(np.frombuffer(answer.content, "<f2").astype("f4")).view(rows * columns, width)
    expected = tiny_model.encode(photos[0], size="long:224", feature_fmt="NCHW").adaptors["sam"].features[0]
    assert (width, rows, columns) == tuple(expected.shape)
    query = expected[:, 3, 5]
    shown = vectors @ vectors[3 * columns + 5]
    assert torch.allclose(shown.view(rows, columns), similarity_to_patch(expected, query), atol=5e-3)


def test_colors_of_two_photos_share_one_pca(page: Page) -> None:
    mine = page.add(picture(64, 64, "orange")).json()["id"]
    both = page.map("colors", photo=[page.photos()[0]["id"], mine]).json()
    alone = page.map("colors").json()
    assert [each["grid"] for each in both] == [alone[0]["grid"], [14, 14]]
    assert len(b64decode(both[1]["rgb"])) == 14 * 14 * 3
    assert both[0]["rgb"] != alone[0]["rgb"]
    only = page.map("colors", only="foreground").json()[0]
    mask = np.frombuffer(b64decode(page.map("foreground").json()["mask"]), "u1")
    rgb = np.frombuffer(b64decode(only["rgb"]), "u1").reshape(-1, 3)
    assert 0 < (mask > 0).sum() < mask.size
    assert (rgb[mask == 0] == 0).all() and rgb[mask > 0].any()


def test_attention_of_every_head_and_their_mean(page: Page) -> None:
    found = page.map("attention", block=11, token=1).json()
    assert len(found["maps"]) == 1 + 4
    assert max(b64decode(found["maps"][0])) == 255
    refused = page.map("attention", block=12, token=0)
    assert refused.status_code == 422 and "block '12'" in refused.json()["error"]


def test_the_error_of_merging_grows_with_fewer_tokens(page: Page) -> None:
    rows, columns = page.map("foreground").json()["grid"]
    all_of_them = rows * columns
    found = [page.map("merged", keep=keep).json() for keep in (all_of_them, all_of_them // 2, 20)]
    assert [each["count"] for each in found] == [all_of_them, all_of_them // 2, 20]
    assert found[0]["error"] < 1e-6 < found[1]["error"] < found[2]["error"] <= 1
    assert len(found[1]["token"]) == all_of_them and max(found[1]["token"]) == all_of_them // 2 - 1
    too_many = page.map("merged", keep=all_of_them + 1)
    assert too_many.status_code == 422 and too_many.json()["error"]


def test_matches_are_mutual(page: Page) -> None:
    mine = page.add(picture(64, 64)).json()["id"]
    first = page.photos()[0]["id"]
    same = page.map("matches", photo=[first, first]).json()
    assert all(a == b and score == pytest.approx(1, abs=1e-4) for a, b, score in same["pairs"])
    assert page.map("matches", photo=[first, mine]).json()["count"] >= 1
    assert page.map("matches").status_code == 422


def test_one_photo_at_every_size(page: Page, photos: list[Path]) -> None:
    with Image.open(photos[-1]) as photo, io.BytesIO() as file:
        photo.crop((0, 100, 600, 200)).save(file, "PNG")
        strip = page.add(file.getvalue()).json()["id"]
    found = page.map("sizes", photo=strip).json()
    (tiny,) = page.config["models"]
    assert [max(each["grid"]) * tiny["patch"] for each in found["colors"]] == tiny["ladder"]
    assert found["alike"][-1] == pytest.approx(1, abs=1e-5)
    assert all(-1 <= each < 1 for each in found["alike"][:-1])


def test_words_in_the_space_of_an_adaptor_that_knows_them(page: Page) -> None:
    asked = {"model": "tiny", "photo": page.photos()[0]["id"], "size": 224}
    answer = page.ask(
        "POST", "/api/words", params=asked | {"adaptor": "clip"}, json={"labels": ["cat", " dog ", "cat", ""]}
    )
    found = answer.json()
    assert found["labels"] == ["cat", "dog"]
    assert sum(found["share"]) == pytest.approx(1, abs=1e-5)
    assert len(b64decode(found["maps"])) == 2 * len(found["best"])
    assert set(found["best"]) <= {0, 1}
    for adaptor, labels, message in (
        ("sam", ["cat"], "an adaptor that knows them"),
        ("clip", [], "1 to 16 labels"),
        ("clip", "cat", "a list of words"),
    ):
        refused = page.ask("POST", "/api/words", params=asked | {"adaptor": adaptor}, json={"labels": labels})
        assert refused.status_code == 422 and message in refused.json()["error"]
    assert page.ask("POST", "/api/words", params=asked, content=b"{").status_code == 422


@pytest.mark.parametrize(
    "asked",
    [{"model": "other"}, {"size": 225}, {"size": 20000}, {"size": "x"}, {"adaptor": "clip2"}, {"photo": "x"}],
)
def test_only_what_the_command_named_can_be_chosen(page: Page, asked: dict[str, Any]) -> None:
    answer = page.map("colors", **asked)
    assert answer.status_code in (404, 422) and answer.json()["error"]


def test_the_features_of_a_pass_are_kept(page: Page, viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    encode = viewer.studio.models["tiny"].model.encode
    monkeypatch.setattr(
        viewer.studio.models["tiny"].model, "encode", lambda *a, **k: passes.append(1) or encode(*a, **k)
    )
    page.add(picture(80, 64))
    mine = page.photos()[-1]["id"]
    for _ in range(2):
        for what in ("features", "colors", "foreground"):
            assert page.map(what, photo=mine, adaptor="sam").status_code == 200
    assert len(passes) == 1
    kept = viewer.studio._cache.bytes
    page.ask("DELETE", f"/api/photos/{mine}")
    assert viewer.studio._cache.bytes < kept


def test_one_pass_runs_at_a_time_and_the_page_is_answered_meanwhile(
    page: Page, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, running, most, started, go = viewer.studio.features, [], [], threading.Event(), threading.Event()

    def slow(source: Any) -> torch.Tensor:
        running.append(1)
        most.append(len(running))
        started.set()
        assert go.wait(30)
        running.pop()
        return compute(source)

    monkeypatch.setattr(viewer.studio, "features", slow)
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(page.map, what) for what in ("features", "colors", "foreground")]
        assert started.wait(30)
        assert page.photos() and page.client.get("/").status_code == 200
        assert not any(each.done() for each in asked)
        go.set()
        assert [each.result().status_code for each in asked] == [200, 200, 200]
    assert most == [1, 1, 1]


@pytest.mark.parametrize(("name", "attends"), [("eradio", False), ("radio1d", False), ("v2_5", True)])
def test_every_family_says_what_it_can_show(reference: Path, name: str, attends: bool) -> None:
    from radio import load_model

    neck = {"neck_name": "decoder"} if name == "radio1d" else {}
    model = load_model(reference / name / "checkpoint.pth.tar", device="cpu", **neck)
    described = ViewedModel(name, model).describe()
    assert bool(described["blocks"]) == attends == (described["no_attention"] is None)
    assert described["size"] in described["sizes"] and described["ladder"]
    assert all(size % model.min_resolution_step == 0 for size in described["sizes"])
