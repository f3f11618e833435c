"""The page in a real browser: headless Chromium, one for all tests of this file."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from radio.model import RADIOModel
from radio.viewer.app import Viewer
from radio.viewer.photos import read_photo
from radio.viewer.server import listen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs chromium and chromedriver: apt-get install chromium-driver",
)

PATIENCE = 60.0
"""Seconds. On a machine that is busy with other things everything takes its time."""


def middle(path: Path) -> bytes:
    """A broad strip of a photograph, which has fewer patches than all of it."""
    with Image.open(path) as photo, io.BytesIO() as file:
        photo.crop((0, photo.height // 4, photo.width, 3 * photo.height // 4)).save(file, "PNG")
        return file.getvalue()


@pytest.fixture(scope="module")
def address(tiny_model: RADIOModel[Any], photos: list[Path]) -> Iterator[str]:
    viewer = Viewer({"tiny": tiny_model}, [read_photo(middle(path), path.name) for path in photos[1:]])
    with listen(0) as socket:
        server = uvicorn.Server(
            uvicorn.Config(
                viewer.application(), log_level="error", lifespan="off", timeout_graceful_shutdown=1
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    folder = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as browser:
        browser.downloads = folder  # type: ignore[attr-defined]
        yield browser


class Page:
    """The open page, and what a user sees and does on it."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, true: Any, what: str) -> Any:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = true()
            if found:
                return found
            time.sleep(0.03)
        raise AssertionError(f"{what}: {self.text('#status')!r}, {self.text('#problem')!r}")

    def settle(self) -> None:
        """Wait for every panel that is shown."""
        ready = "return document.documentElement.dataset.ready === 'true'"
        busy = "return document.querySelector('section:not([hidden]) .busy') === null"
        self.until(lambda: self.run(ready) and self.run(busy), "the page is not ready")

    def panel(self, title: str) -> Any:
        """The panel of a title in the view that is shown."""
        xpath = f"//section[not(@hidden)]//figure[header/h3='{title}']"
        return self.browser.find_element(By.XPATH, xpath)

    def words(self, title: str) -> str:
        return self.panel(title).find_element(By.TAG_NAME, "footer").text

    def pixels(self, title: str) -> list[int]:
        """A coarse sample of a panel's picture: the sums of its colors at 32 x 32 places."""
        return self.run(
            """const canvas = arguments[0], small = new OffscreenCanvas(32, 32), at = small.getContext("2d");
            at.imageSmoothingEnabled = false;
            at.drawImage(canvas, 0, 0, 32, 32);
            const {data} = at.getImageData(0, 0, 32, 32);
            return Array.from({length: 1024}, (_, i) => data[4 * i] + data[4 * i + 1] + data[4 * i + 2]);""",
            self.panel(title).find_element(By.TAG_NAME, "canvas"),
        )

    def point(self, title: str, x: float, y: float, click: bool = False) -> None:
        """Move the pointer over a panel, to a place in [0, 1]."""
        canvas = self.panel(title).find_element(By.TAG_NAME, "canvas")
        width, height = canvas.size["width"], canvas.size["height"]
        moved = ActionChains(self.browser, duration=0).move_to_element_with_offset(
            canvas, round((x - 0.5) * width), round((y - 0.5) * height)
        )
        (moved.click() if click else moved).perform()

    def tab(self, name: str) -> None:
        self.find(f"#tab-{name}").click()
        self.settle()


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Iterator[Page]:
    """The page in a tab of its own: a new session."""
    browser.switch_to.new_window("tab")
    browser.get(address)
    page = Page(browser)
    page.settle()
    yield page
    errors = [
        entry for entry in browser.get_log("browser") if "the server responded with" not in entry["message"]
    ]
    browser.close()
    browser.switch_to.window(browser.window_handles[0])
    assert not errors


def test_everything_about_a_photo_is_drawn(page: Page) -> None:
    for title in ("Photo", "Similarity", "Colors", "Foreground", "Attention", "Merged tokens"):
        assert len(set(page.pixels(title))) > 2, title
        assert page.words(title), title
    assert "37 × " not in page.text("#size-text") and " × " in page.text("#size-text")
    assert page.words("Merged tokens").split(" of ")[0].isdigit()


def test_the_map_follows_the_pointer_and_a_click_is_kept(page: Page) -> None:
    before = page.pixels("Similarity")
    page.point("Photo", 0.2, 0.7)
    page.until(lambda: page.pixels("Similarity") != before, "the map does not follow")
    pixels = page.pixels("Similarity")
    row, column = divmod(pixels.index(max(pixels)), 32)
    assert abs(column / 32 - 0.2) < 0.08 and abs(row / 32 - 0.7) < 0.08, "a patch is most like itself"
    page.point("Colors", 0.8, 0.3, click=True)
    assert "most alike" in page.text("#status")
    kept = page.words("Similarity")
    page.point("Photo", 0.5, 0.5)
    page.until(lambda: page.words("Similarity") != kept, "the map does not follow")
    ActionChains(page.browser, duration=0).move_to_element(page.find(".brand")).perform()
    page.until(lambda: page.words("Similarity") == kept, "the click was not kept")


def test_the_keyboard_moves_the_point(page: Page) -> None:
    canvas = page.panel("Photo").find_element(By.TAG_NAME, "canvas")
    canvas.send_keys(Keys.HOME)
    before = page.words("Similarity")
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    row, column = (int(part) for part in before.replace(",", "").split() if part.isdigit() and part != "1")
    assert f"row {row + 1}, column {column + 1}" in page.words("Similarity")
    assert page.text("#status").startswith(f"row {row + 1}, column {column + 1}")


def test_photos_are_added_and_bad_ones_named(page: Page, photos: list[Path], tmp_path: Path) -> None:
    count = len(page.browser.find_elements(By.CSS_SELECTOR, "#photos li"))
    bad = tmp_path / "letter.jpg"
    bad.write_text("Dear Sir")
    page.find("#add").send_keys(f"{photos[0]}\n{bad}")
    page.until(lambda: page.text("#problem"), "no word about the bad file")
    page.settle()
    [words] = page.text("#problem").splitlines()[:-1]
    assert "letter.jpg is not an image" in words
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#photos li")) == count + 1
    assert page.words("Photo").startswith(photos[0].name), "the new photo is shown"
    page.browser.refresh()
    page.settle()
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#photos li")) == count + 1, (
        "the tab keeps its photos"
    )
    removal = page.find(f"[aria-label='Remove {photos[0].name}']")
    page.run("arguments[0].click()", removal)
    page.until(lambda: photos[0].name not in page.words("Photo"), "it is still there")


def test_more_photos_than_there_is_room_for(page: Page, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "letter.jpg").write_text("Dear Sir")
    Image.new("RGB", (32, 32)).save(tmp_path / "small.png")
    page.find("#add").send_keys(
        "\n".join([str(tmp_path / "letter.jpg")] + [str(tmp_path / "small.png")] * 14)
    )
    page.until(lambda: page.text("#problem"), "no word about too many")
    page.settle()
    letter, rest = page.text("#problem").splitlines()[:-1]
    assert "letter.jpg is not an image" in letter
    assert rest == "2 photos were not added: there are 12 added photos already; remove one first"


def test_a_strip_is_wide_enough_to_be_seen(page: Page, tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((2, 600)).save(tmp_path / "strip.png")
    page.find("#add").send_keys(str(tmp_path / "strip.png"))
    page.until(lambda: page.words("Photo").startswith("strip.png"), "it was not added")
    page.settle()
    assert page.words("Photo").endswith("2 × 600")
    for title in ("Photo", "Similarity", "Colors"):
        size = page.panel(title).find_element(By.TAG_NAME, "canvas").size
        assert size["width"] >= 16 and size["height"] > 150, title
        assert len(set(page.pixels(title))) > 2, title


def test_another_tab_sees_nothing_of_it(page: Page, address: str, photos: list[Path]) -> None:
    count = len(page.browser.find_elements(By.CSS_SELECTOR, "#photos li"))
    page.find("#add").send_keys(str(photos[0]))
    page.until(lambda: page.words("Photo").startswith(photos[0].name), "it was not added")
    mine = page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    page.browser.get(address)
    page.settle()
    names = [
        image.get_attribute("alt") for image in page.browser.find_elements(By.CSS_SELECTOR, "#photos img")
    ]
    assert len(names) == count and photos[0].name not in names
    page.browser.close()
    page.browser.switch_to.window(mine)


def test_the_sliders(page: Page) -> None:
    grid, colors = page.text("#size-text"), page.pixels("Colors")
    size = page.find("#size")
    size.send_keys(Keys.HOME)
    page.until(lambda: page.text("#size-text").startswith("224 px · "), "no grid of the new size")
    page.settle()
    assert page.text("#size-text") != grid and page.pixels("Colors") != colors
    many = page.words("Merged tokens")
    keep = page.panel("Merged tokens").find_element(By.CSS_SELECTOR, "input[type=range]")
    keep.send_keys(Keys.HOME)
    page.until(lambda: page.words("Merged tokens").startswith("16 of "), "tokens did not merge")
    assert error_of(many) < error_of(page.words("Merged tokens"))
    opaque = page.pixels("Colors")
    page.find("#blend").send_keys(Keys.END)
    page.settle()
    assert page.pixels("Colors") == page.pixels("Photo") != opaque


def error_of(words: str) -> float:
    return float(words.split("error ")[1].split(" %")[0])


def test_two_photos_and_their_matches(page: Page) -> None:
    page.tab("match")
    before = page.pixels("Match")
    page.point("Match", 0.1, 0.8)
    page.until(lambda: page.pixels("Match") != before, "the map does not follow")
    assert "cosine of the best match" in page.words("Match")
    page.run("document.getElementsByName('match-show')[1].click()")
    page.until(lambda: "pairs of patches" in page.words("Match"), "no pairs")
    pairs = page.pixels("Match")
    page.run("document.getElementsByName('match-show')[2].click()")
    page.until(lambda: "components of both" in page.words("Match"), "no colors")
    assert page.pixels("Match") != pairs


def test_one_photo_at_growing_sizes(page: Page) -> None:
    page.tab("sizes")
    titles = [heading.text for heading in page.browser.find_elements(By.CSS_SELECTOR, "#sizes h3")]
    assert titles == ["Photo", "224 px", "384 px", "544 px", "768 px", "1024 px"]
    assert "like 1024 px" in page.words("224 px") and page.words("1024 px").endswith("patches")
    colors = page.pixels("544 px")
    page.run("document.getElementsByName('sizes-show')[1].click()")
    page.until(lambda: page.pixels("544 px") != colors, "no similarity")


def test_a_view_that_was_left_says_nothing_more(page: Page) -> None:
    said = """const status = document.getElementById("status");
    window.said = [];
    new MutationObserver(() => said.push(status.textContent)).observe(status, {childList: true});
    document.getElementById("tab-sizes").click();
    document.getElementById("tab-explore").click();"""
    page.run(said)
    page.settle()
    time.sleep(0.5)
    assert not [words for words in page.run("return said") if words]


def test_words(page: Page) -> None:
    page.tab("words")
    page.find("#labels").send_keys("cat, cup, table", Keys.ENTER)
    page.until(lambda: page.text("#shares"), "no shares")
    assert {word for word in ("cat", "cup", "table") if word in page.text("#shares")} == {
        "cat",
        "cup",
        "table",
    }
    labeled = page.pixels("Labels")
    page.find("#shares button").click()
    page.until(lambda: page.pixels("Labels") != labeled, "not where the label is")


def test_what_is_shown_can_be_saved(page: Page) -> None:
    title = page.words("Photo").split(".")[0]
    page.panel("Similarity").find_element(By.CSS_SELECTOR, ".save").click()
    folder = page.browser.downloads  # type: ignore[attr-defined]
    [file] = page.until(lambda: list(folder.glob("*.png")), "nothing was saved")
    assert file.name == f"{title}-similarity-{page.text('#size-text').split()[0]}.png"
    with Image.open(file) as picture:
        assert max(picture.size) == 1024
