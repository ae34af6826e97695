"""The page: whole in itself, all parts in order, every choice named."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from fake_runs import RULES, config, evaluations, summary, write_cell, write_run

from tardigrad.errors import MissingDependencyError, RunDirectoryError
from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs
from tardigrad.metrics.verdict import verdict
from tardigrad.report.choices import choices
from tardigrad.report.page import render_page, write_report

PNG = b"\x89PNG\r\n\x1a\n"


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(plausible, tmp_path_factory):
    return write_report(plausible, tmp_path_factory.mktemp("out") / "new" / "folder")


@pytest.fixture(scope="module")
def page(written):
    return Reader(written.html.read_text(encoding="utf-8"))


def told(folder, **options):
    """The choices as one text per name."""
    found = choices(compare_runs(find_runs(folder), **options))
    return {choice.name: " | ".join(choice.lines) for choice in found}


def test_pictures_are_written_in_order(written):
    names = [path.name for path in written.pngs]
    assert names == ["learning-rate.png", "epochs.png", "time.png", "staleness.png", "compensation.png"]
    assert all(path.read_bytes().startswith(PNG) for path in written.pngs)


def test_the_page_needs_nothing_beside_itself(page):
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
    sources = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_all_tags_are_closed(page):
    assert page.open == []


def test_it_fits_a_phone_and_paper(page):
    viewport = [attrs for tag, attrs in page.tags if tag == "meta" and attrs.get("name") == "viewport"]
    assert viewport[0]["content"].startswith("width=device-width")
    assert "@media print" in page.text
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")


def test_pictures_table_choices_and_verdict_come_in_this_order(page):
    order = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert order == [
        "learning-rate", "epochs", "time", "staleness", "compensation", "table", "choices", "verdict",
    ]  # fmt: skip


def test_the_whole_verdict_stands_on_the_page(page, comparison):
    flat = " ".join(page.text.split())
    found = verdict(comparison)
    assert len(found.sections) == 5
    assert all(" ".join(sentence.split()) in flat for sentence in found.sentences)


def test_every_choice_that_matters_is_named(page, plausible):
    found = told(plausible)
    assert found["Damping"].endswith("dc-asgd: on, E / (1 + lr E) in place of the curvature estimate E")
    assert "dc-asgd-c, dc-asgd-a and dc-asgd: off" in found["Clipping of the compensation"]
    assert found["Warm-up"] == "none"
    assert found["BatchNorm statistics"] == "mean of the live workers' latest statistics"
    assert found["Sample leases"].startswith("dynamic: whoever asks next")
    assert found["Delays"].startswith("exponential(mean=1.0), workers of equal speed, no stragglers")
    assert found["Batch"] == "16 samples per worker and push"
    assert found["Length"] == "20 epochs, evaluated every 1 epoch"
    assert found["Schedule"] == "step(at=(12,), gamma=0.1)"
    assert found["Optimizer"] == "sgd(momentum=0.0, weight_decay=0.0)"
    assert "dc-asgd-a: dc-asgd-a(lambda0=2.0, mean_square_decay=0.95)" in found["Rule"]
    assert "ssgd-linear: synchronous(lr_scaling='linear')" in found["Consistency"]
    assert "smallest validation error, mean of the last 10 evaluations" in found["Learning rate"]
    assert "Test data took no part" in found["Learning rate"]
    assert found["Seeds"].startswith("0, 1 and 2.")
    assert found["Versions"] == "tardigrad 0.1.0, python 3.11.9, torch 2.13.0, numpy 2.4.6, source abc1234"
    assert found["Hardware"] == "Example CPU, Linux, 2 cores, 1 thread, device cpu"
    assert found["Command"] == "tardigrad compare digits --seeds 3"
    flat = " ".join(page.text.split())
    assert all(name in flat for name in found)


def test_unusual_choices_are_told_in_words(tmp_path):
    write_cell(
        tmp_path, "dc-asgd-a", workers=2, test=(0.1,), warmup=2.5, batch_size=[8, 24], leases="static", max_staleness=4,
        rule="dc-asgd-a(clip_compensation=1.0, damped=False)", speeds=[1.0, 2.0], straggler_probability=0.1,
        straggler_factor=5.0, latency=0.01, bandwidth=1e9, service=0.002, batchnorm="recalibrate",
    )  # fmt: skip
    found = told(tmp_path)
    assert found["Warm-up"] == "linear over 2.5 epochs"
    assert found["Batch"] == "8, 24 samples, worker by worker"
    assert found["Sample leases"].startswith("static: each worker has a random part")
    assert found["Consistency"] == "asynchronous, at most 4 commits stale (reject beyond)"
    assert found["Clipping of the compensation"].startswith("on, the compensation is at most 1 times its gradient")
    assert found["Delays"] == (
        "exponential(mean=1.0), speeds 1, 2, stragglers 0.1 x 5, latency 0.01 s and 1e+09 bytes/s, "
        "the server takes 0.002 s a push"
    )
    assert found["BatchNorm statistics"].startswith("recalibrated on training data")
    assert found["Learning rate"] == "0.1 for all; nothing was chosen."


def test_choices_that_differ_between_worker_counts_say_at_which(tmp_path):
    write_cell(tmp_path, "asgd", workers=4, test=(0.1,))
    write_cell(tmp_path, "asgd", workers=8, test=(0.1,), delay="constant(mean=1.0)")
    write_cell(tmp_path, "dc-asgd", workers=4, test=(0.1,), delay="constant(mean=1.0)")
    found = told(tmp_path)
    assert found["Delays"].startswith("asgd (4 workers): exponential")
    assert "dc-asgd (4 workers) and asgd (8 workers): constant" in found["Delays"]
    assert found["Damping"].startswith("asgd: nothing to damp")


def test_a_single_run_has_a_report(tmp_path):
    write_run(tmp_path / "run", config=config(), evaluations=evaluations([0.4, 0.2]), summary=summary())
    paths = write_report(tmp_path / "run", tmp_path / "out")
    assert [path.stem for path in paths.pngs] == ["epochs", "time", "staleness"]
    page = Reader(paths.html.read_text())
    assert "One run compares nothing." in page.text
    assert "One learning rate was run, so there is no picture" in page.text
    assert "No run measured the size of its compensation." in page.text


def test_a_run_under_way_has_a_report(tmp_path):
    write_run(tmp_path / "run", config=config(), evaluations=evaluations([0.4]))
    paths = write_report([tmp_path / "run"], tmp_path / "out")
    assert paths.pngs == ()
    assert "No run has ended" in paths.html.read_text()


def test_another_metric_has_its_own_name_unit_and_direction(tmp_path):
    metric = {"name": "accuracy", "scale": 1.0, "unit": "", "lower_is_better": False}
    for lr, value in ((0.1, 0.7), (0.2, 0.9)):
        write_run(
            tmp_path / "runs" / str(lr),
            config=config(lr=lr),
            evaluations=evaluations([0.1, value], "same", metric="accuracy"),
            summary=summary(metric=metric),
        )
    text = " ".join(Reader(write_report(tmp_path / "runs", tmp_path / "out").html.read_text()).text.split())
    assert "test accuracy, mean of last ten" in text
    assert "largest validation accuracy" in text
    assert "error" not in text.partition("Choices")[0].partition("Pictures")[2]


def test_names_are_escaped(tmp_path):
    write_cell(tmp_path, "<script>alert(1)</script>", test=(0.1,), rule=RULES["dc-asgd-a"])
    html = render_page(compare_runs(find_runs(tmp_path)), [])
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_an_earlier_report_is_replaced(tmp_path):
    write_cell(tmp_path / "runs", "asgd", test=(0.1,))
    (tmp_path / "report.html").write_text("old")
    assert "old" not in write_report(tmp_path / "runs", tmp_path).html.read_text()[:100]


def test_a_place_without_runs_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="holds no run"):
        write_report(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_jinja2_it_says_what_to_type(tmp_path, monkeypatch):
    write_cell(tmp_path, "asgd", test=(0.1,))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"jinja2.*pip install 'tardigrad\[report\]'"):
        render_page(compare_runs(find_runs(tmp_path)), [])


def test_numbers_and_words_need_neither_torch_nor_matplotlib():
    code = (
        "import sys, tardigrad.metrics.verdict, tardigrad.report.table, tardigrad.report.page\n"
        "print(*sorted({'torch', 'matplotlib', 'jinja2', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"\s*", done.stdout), done.stdout
