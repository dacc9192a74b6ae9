"""Radiologists at the workbench in Chromium: they drop an image, find cases at three sites, and answer a consult."""

import base64
import contextlib
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from dicoms import dicom
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from browser import DROP, PASSWORD, chromium, serious, sign_in, window
from hospitals import query_url, small_plan
from ynet.data.dicom import drawings
from ynet.data.manifest import find_sites, read
from ynet.web.accounts import Accounts
from ynet_client import site_backup
from ynet_client.workbench.history import History
from ynet_lab.trial import Trial

LESION_PIXELS = """() => {
  const canvas = document.querySelector("#canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let at = 0; at < data.length; at += 4) count += data[at] - data[at + 2] > 40;
  return count;
}"""


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Trial]:
    """Start three sites with a trained model, each with a workbench, a radiologist and an admin."""
    folder = tmp_path_factory.mktemp("benches")
    with Trial(folder, find_sites(data), workbench={"enabled": True, "port": 0}) as running:
        running.start_server()
        running.join_all()
        for site in running.sites:
            accounts = Accounts(running.home(site))
            for name, role in (("weber", "radiologist"), ("other", "radiologist"), ("it", "admin")):
                accounts.add(name, role, PASSWORD, time.time())  # type: ignore[arg-type]
        done = running.server_command("train", "--plan", small_plan(folder / "plan.yaml", width=8, local_epochs=6))
        assert done.returncode == 0, done.stdout + done.stderr
        running.wait_indexed(running.server_call("GET", "/models")["in_use"])
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def address(trial: Trial, site: str) -> str:
    return str(trial.site_call(site, "GET", "/workbench")["address"])


@pytest.fixture
def opened(browser: Browser) -> Iterator[BrowserContext]:
    with window(browser) as context:
        yield context


@pytest.fixture
def page(opened: BrowserContext, trial: Trial) -> Page:
    """Open site A's workbench, signed in as a radiologist."""
    made = opened.new_page()
    sign_in(made, address(trial, "A"), "weber")
    expect(made.locator("#link")).to_have_text("connected")
    return made


def image(trial: Trial, site: str = "A") -> Path:
    manifest = read(trial.sites[site])
    return manifest.path_of(next(case for case in manifest.test if case.mask).image)


def drop(page: Page, path: Path, name: str = "") -> None:
    page.evaluate(DROP, [name or path.name, base64.b64encode(path.read_bytes()).decode()])


def ask(page: Page, path: Path, name: str = "") -> None:
    drop(page, path, name)
    expect(page.locator("#film")).to_have_attribute("data-shown", re.compile(r"\d"))
    expect(page.locator("#busy")).to_be_hidden()


class Caller:
    """The calls of the page without the page: what a hostile account could send."""

    def __init__(self, trial: Trial, site: str, name: str) -> None:
        origin = address(trial, site).rstrip("/")
        self.client = httpx.Client(base_url=origin, verify=False, trust_env=False, headers={"origin": origin})
        self.client.post("/login", data={"name": name, "password": PASSWORD})
        page = self.client.get("/", headers={"accept": "text/html"}).text
        self.client.headers["x-csrf"] = page.split('name="csrf" content="')[1].split('"')[0]

    def __enter__(self) -> httpx.Client:
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()


def test_command_prints_the_workbench_address(trial: Trial) -> None:
    shown = trial.site_command("A", "workbench", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["address"] == address(trial, "A")
    assert address(trial, "A") in trial.site_command("A", "workbench").stdout


def test_dropped_image_gets_mask_and_cases_of_three_sites(trial: Trial, page: Page) -> None:
    ask(page, image(trial))
    assert {card.split("\n")[0] for card in page.locator(".other-card strong").all_inner_texts()} == {"B", "C"}
    expect(page.locator("#own .own-card")).to_have_count(10)
    assert [row.inner_text() for row in page.locator(".site-name strong").all()] == ["A", "B", "C"]
    expect(page.locator("#film-lesion")).to_contain_text("lesion")
    covered = page.evaluate(LESION_PIXELS)
    page.keyboard.press("m")
    page.wait_for_timeout(100)  # a frame, in which the canvas is redrawn
    assert page.evaluate(LESION_PIXELS) < covered


def test_dropped_dicom_file_shows_no_patient(trial: Trial, page: Page, tmp_path: Path) -> None:
    with Image.open(image(trial)) as opened:
        grey = 16 * np.asarray(opened.convert("L"), np.uint16)
    names = {"PatientName": "CANARY^NAME", "PatientID": "CANARY-ID", "WindowCenter": 2048, "WindowWidth": 4096}
    place = {"FrameOfReferenceUID": "1.2.3", "ImagePositionPatient": [0, 0, 0], "PixelSpacing": [1, 1]}
    slice_ = dicom(grey, **names, **place, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], SliceThickness=1)
    (tmp_path / "slice.dcm").write_bytes(slice_)
    ask(page, tmp_path / "slice.dcm")
    expect(page.locator(".other-card")).to_have_count(10)
    expect(page.locator("#film-size")).to_have_text("48 × 48")
    assert "CANARY^NAME" not in page.content()
    assert_its_mask_is_given_back_as_a_seg(trial, page, slice_)
    (tmp_path / "several.dcm").write_bytes(dicom(np.stack([grey, grey]), frames=True))
    drop(page, tmp_path / "several.dcm")
    expect(page.locator("#fault strong")).to_contain_text("several.dcm")
    page.keyboard.press("f")
    page.fill("[name=frame]", "2")
    ask(page, tmp_path / "several.dcm")


def assert_its_mask_is_given_back_as_a_seg(trial: Trial, page: Page, source: bytes) -> None:
    downloaded = list[bytes]()
    for button in ("#get-mask", "#get-seg"):
        with page.expect_download() as download:
            page.click(button)
        downloaded.append(Path(download.value.path()).read_bytes())
    assert download.value.suggested_filename == "slice-seg.dcm"
    shown, seg = np.asarray(Image.open(io.BytesIO(downloaded[0]))) > 0, downloaded[1]
    np.testing.assert_array_equal(drawings.decode(seg, drawings.subject(source, None)), shown)
    assert drawings.read(seg).is_automatic
    (entry,) = (one for one in audited(trial, "A") if one["kind"] == "segmented")
    assert entry["user"] == pseudonym(trial, "weber")
    with Caller(trial, "A", "weber") as client:
        found = client.post(query_url(5, "a.dcm"), content=source).json()
        path = f"/api/answers/{found['id']}/seg.dcm"
        assert client.post(path, content=source).headers["content-type"] == "application/dicom"
        assert "not the DICOM file" in client.post(path, content=source + b"\0").json()["error"]["why"]
        with Caller(trial, "A", "other") as other:
            assert other.post(path, content=source).status_code == 409


def audited(trial: Trial, site: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(trial.site_command(site, "audit", "show", "--json").stdout)["entries"]
    return entries


def pseudonym(trial: Trial, account: str) -> str:
    users = json.loads(trial.site_command("A", "user", "list", "--json").stdout)["users"]
    return str({one["name"]: one["pseudonym"] for one in users}[account])


def test_page_loads_nothing_external_and_is_small(trial: Trial, opened: BrowserContext) -> None:
    page, seen = opened.new_page(), list[tuple[str, int]]()
    page.on("response", lambda answer: seen.append((answer.url, len(answer.body()) if answer.ok else 0)))
    sign_in(page, address(trial, "A"), "weber")
    expect(page.locator("#link")).to_have_text("connected")
    assert all(url.startswith(address(trial, "A")) for url, _ in seen)
    assert 20_000 < sum(size for _, size in seen) < 500_000


def test_own_case_can_be_queried_by_keyboard(trial: Trial, page: Page) -> None:
    page.keyboard.press("c")
    expect(page.locator("#case-text")).to_be_focused()
    page.keyboard.type(image(trial).name)
    expect(page.locator("#case-grid .own-card")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#film-name")).to_have_text(image(trial).name)
    page.keyboard.press("3")
    expect(page.locator(".entry").first).to_contain_text(image(trial).name)


def noted_again(route: Any) -> dict[str, Any]:
    content: dict[str, Any] = route.fetch().json()
    for one in content["consults"]:
        one["note"] = "Anew"
    return content


def test_consult_is_sent_answered_and_read(trial: Trial, browser: Browser, page: Page) -> None:
    ask(page, image(trial))
    card = page.locator(".other-card").filter(has=page.get_by_text("B", exact=True)).first
    card.get_by_role("button").click()
    page.fill("#ask-note", "How did it go on? <b>Please</b>")
    page.click("#ask-send")
    expect(card.get_by_role("button")).to_have_text("Asked")
    with window(browser) as theirs:
        there = theirs.new_page()
        sign_in(there, address(trial, "B"), "weber")
        expect(there.locator("#waiting")).to_have_text("1")
        there.keyboard.press("2")
        expect(there.locator("#received .note-text")).to_have_text("How did it go on? <b>Please</b>")
        expect(there.locator("#received img")).to_be_visible()
        there.locator("#received textarea").press_sequentially("Call ")
        there.route("**/api/consults*", lambda route: route.fulfill(json=noted_again(route)))
        there.evaluate("dispatchEvent(new Event('hashchange'))")  # as if another request had come in the meantime
        expect(there.locator("#received .note-text")).to_have_text("Anew")
        there.unroute_all(behavior="wait")
        there.keyboard.type("me")
        expect(there.locator("#received textarea")).to_have_value("Call me")
        there.get_by_role("button", name="Yes, ask me").click()
        expect(there.locator("#received .answer")).to_have_text("Call me")
        assert not serious(there)
    page.keyboard.press("2")
    expect(page.locator("#sent .answer")).to_have_text("Call me")
    expect(page.locator("#sent .chip")).to_have_text("yes")


def test_only_radiologists_answer_and_only_hits_can_be_consulted(trial: Trial) -> None:
    with Caller(trial, "B", "it") as admin:
        refused = admin.post("/api/consult-answer", json={"id": "00", "decision": "yes"})
        assert (refused.status_code, refused.json()["error"]["kind"]) == (409, "refused")
    with Caller(trial, "A", "weber") as radiologist:
        found = radiologist.post(query_url(5, "a.png"), content=image(trial).read_bytes()).json()
        invented = {"answer": found["id"], "site": "B", "token": "00" * 16, "note": "?"}
        assert "names no hit" in radiologist.post("/api/consult", json=invented).json()["error"]["why"]


def test_accounts_do_not_share_answers_or_history(trial: Trial) -> None:
    with Caller(trial, "A", "weber") as one, Caller(trial, "A", "other") as other:
        found = one.post(query_url(5, "a.png"), content=image(trial).read_bytes()).json()
        for part in ("pixels", "overlay", "mask.png", "report.html"):
            assert one.get(f"/api/answers/{found['id']}/{part}").status_code == 200
            assert other.get(f"/api/answers/{found['id']}/{part}").status_code == 409
        entry = one.get("/api/history").json()["entries"][0]
        assert other.get("/api/history").json()["entries"] == []
        assert other.get(f"/api/history/thumbnail?id={entry['id']}").status_code == 404
        assert other.post("/api/history/delete", json={"id": entry["id"]}).json() == {"deleted": 0}
        assert one.post("/api/history/delete", json={"id": entry["id"]}).json() == {"deleted": 1}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "manifest.csv", "masks/x.png", "", "\0"])
def test_only_cases_are_shown_or_queried(trial: Trial, name: str) -> None:
    with Caller(trial, "A", "weber") as client:
        assert client.get("/api/cases/picture", params={"image": name}).status_code == 409
        assert client.post("/api/query", params={"case": name or " ", "query": '{"k": 5}'}).status_code == 409


def test_account_is_the_asking_user_in_the_audit_log(trial: Trial) -> None:
    with Caller(trial, "A", "other") as client:
        client.post(query_url(5, "a.png"), content=image(trial).read_bytes())
    for site in ("A", "B"):
        queries = [one for one in audited(trial, site) if one["kind"] == "query"]
        assert queries[-1]["user"] == pseudonym(trial, "other")


def test_backup_of_running_site_has_accounts_and_histories(trial: Trial, tmp_path: Path) -> None:
    with Caller(trial, "A", "it") as client:
        client.post(query_url(5, "kept.png"), content=image(trial).read_bytes())
    done = trial.site_command("A", "backup", tmp_path / "A.tar")
    assert done.returncode == 0, done.stderr
    site_backup.unpack(tmp_path / "A.tar", tmp_path / "to", "A", time.time(), lambda: "")
    assert Accounts(tmp_path / "to").verify("it", PASSWORD)
    with contextlib.closing(History(tmp_path / "to")) as history:
        assert [one["name"] for one in history.listed("it")] == ["kept.png"]


def test_outcomes_without_hits_are_worded_differently(trial: Trial, page: Page) -> None:
    page.keyboard.press("f")
    page.fill("[name=attribute_name]", "background")
    page.fill("[name=attribute_value]", "dark")
    ask(page, image(trial))
    expect(page.locator(".why.refused").first).to_contain_text("Refused: the site answers no such question")
    page.fill("[name=attribute_name]", "")
    page.fill("[name=since]", "2020-01-01")
    page.click("#filters button[type=submit]")
    expect(page.locator("#filter-count")).to_have_text("1")
    expect(page.locator(".site-row.silent")).not_to_have_count(0)


def test_file_that_is_no_image_is_refused_with_three_lines(trial: Trial, page: Page, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    drop(page, tmp_path / "a.png", "<img src=x onerror=alert(1)>.png")
    fault = page.locator("#fault")
    expect(fault.locator("strong")).to_contain_text("<img src=x onerror=alert(1)>.png cannot be read")
    assert fault.locator("span").count() == 2
    expect(page.locator("#fault img")).to_have_count(0)
    assert str(trial.home("A")) not in fault.inner_text()


def test_labels_of_another_site_are_escaped(trial: Trial, page: Page) -> None:
    """The answer is of the real site, with labels that a hostile one could send."""
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"

    def spoil(route: Any) -> None:
        answer = route.fetch()
        content = answer.json()
        for hit in content["others"]:
            hit["label"] = evil
        for one in content["spread"]:
            one["labels"] = [[evil, one["total"]]]
        for one in content["outcomes"]:
            one["words"] = evil
        route.fulfill(response=answer, json=content)

    page.route("**/api/query?*", spoil)
    ask(page, image(trial), evil.replace("/", "") + ".png")
    expect(page.locator(".other-card .label").first).to_have_text(evil)
    expect(page.locator("img[src=x]")).to_have_count(0)
    expect(page.locator("#found script")).to_have_count(0)


def test_report_is_one_self_contained_file(trial: Trial, browser: Browser, page: Page, tmp_path: Path) -> None:
    ask(page, image(trial))
    with page.expect_download() as download:
        page.click("#get-report")
    assert download.value.suggested_filename == f"{image(trial).stem}-report.html"
    download.value.save_as(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.count("data:image/jpeg;base64,") == 11
    asked = list[str]()
    with window(browser) as context:
        report = context.new_page()
        report.on("request", lambda request: asked.append(request.url))
        report.goto((tmp_path / "report.html").as_uri())
        expect(report.get_by_role("heading", level=1)).to_contain_text(image(trial).name)
        assert len(report.pdf()) > 10_000
    assert all(url.startswith(("file:", "data:")) for url in asked)
    with page.expect_download() as download:
        page.click("#get-mask")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_layout_does_not_shift_while_an_answer_arrives(trial: Trial, page: Page) -> None:
    ask(page, image(trial))
    page.evaluate("""() => { window.shift = 0; new PerformanceObserver((list) => {
      for (const one of list.getEntries()) window.shift += one.value; }).observe({ type: "layout-shift" }); }""")
    ask(page, image(trial))
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.shift") < 0.1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(trial: Trial, browser: Browser, scheme: str) -> None:
    with window(browser, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(address(trial, "A"))
        assert not serious(page)
        sign_in(page, address(trial, "A"), "weber")
        expect(page.locator("#link")).to_have_text("connected")
        assert not serious(page)
        ask(page, image(trial))
        page.keyboard.press("f")
        assert not serious(page)
        for key in ("2", "3", "?"):
            page.keyboard.press(key)
            page.wait_for_load_state("networkidle")
            assert not serious(page)


def test_forgotten_patients_picture_is_gone(trial: Trial) -> None:
    case, other = read(trial.sites["C"]).train[0], read(trial.sites["C"]).train[-1]
    assert case.patient != other.patient
    with Caller(trial, "C", "weber") as client:
        asked = {"image": case.image}
        queries = [{"case": one.image, "query": '{"k": 50}'} for one in (case, other)]
        answers = [client.post("/api/query", params=each).json() for each in queries]
        assert {case.image, other.image} <= {hit["image"] for answer in answers for hit in answer["own"]}
        assert client.get("/api/cases/picture", params=asked).status_code == 200
        assert trial.site_command("C", "forget", "--patient", case.patient).returncode == 0
        assert client.get("/api/cases/picture", params=asked).status_code == 409
        assert client.get("/api/cases", params={"text": case.image}).json()["total"] == 0
        assert [one["case"] for one in client.get("/api/history").json()["entries"]] == [other.image]
        gone, left = (client.get(f"/api/answers/{answer['id']}/report.html") for answer in answers)
        assert (gone.status_code, left.status_code) == (409, 200)
        assert case.image not in left.text


def test_case_missing_from_manifest_does_not_break_the_answer(trial: Trial) -> None:
    manifest = trial.sites["B"]
    lines = manifest.read_text().splitlines(keepends=True)
    lost, kept = read(manifest).train[0].image, read(manifest).train[1]
    before = manifest.read_text()
    manifest.write_text("".join(line for line in lines if lost not in line))
    try:
        with Caller(trial, "B", "weber") as client:
            found = client.post("/api/query", params={"query": '{"k": 100}', "case": kept.image})
            assert found.status_code == 200, found.text
            assert lost in {hit["image"] for hit in found.json()["own"]}
            assert client.get(f"/api/answers/{found.json()['id']}/report.html").status_code == 200
    finally:
        manifest.write_text(before)


def test_import_during_a_running_client_is_audited(trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(np.zeros((40, 40), np.uint16), PatientID="4711", Modality="MR"))
    (tmp_path / "labels.csv").write_text("patient,label\n4711,x\n")
    given = ("--dicom", tmp_path / "a.dcm", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out")
    done = trial.site_command("B", "import", *given)
    assert done.returncode == 0, done.stderr
    assert audited(trial, "B")[-1]["about"] == "1 images, 0 objects left out"


def test_patient_names_are_not_on_the_page(trial: Trial) -> None:
    with Caller(trial, "A", "weber") as client:
        query = client.post(query_url(20), content=image(trial).read_bytes())
        replies = client.get("/api/cases").text + query.text
    assert "PATIENT" not in replies


def test_page_reports_an_expired_session(trial: Trial, page: Page) -> None:
    page.context.clear_cookies()
    drop(page, image(trial))
    expect(page.locator("#ended")).to_be_visible()
