"""Reports: plain tables in line, and a page that needs nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from hybridret.data import load_facts
from hybridret.evaluation.judging import evaluate_embeddings
from hybridret.evaluation.page import write_html
from hybridret.evaluation.significance import compare, over_seeds
from hybridret.evaluation.text import comparison_text, seeds_text, summary_text, text_table


def a_report(name: str, seed: int = 0):
    dataset = load_facts("evaluation").only_languages(["de", "en", "zh"])
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((len(dataset.queries), 8), dtype=np.float32)
    d = rng.standard_normal((len(dataset.documents), 8), dtype=np.float32)
    return evaluate_embeddings(q, d, dataset, metrics=["AP", "recall@10"], name=name)


def test_text_tables_are_in_line():
    lines = text_table(["name", "x"], [["a", "1"], ["long name", "22"]]).splitlines()
    assert lines == ["name        x", "---------  --", "a           1", "long name  22"]


def test_all_metrics_are_shown():
    one = summary_text([a_report("m")], ["AP", "recall@10"])
    assert re.search(r"^recall@10 +0\.\d{3} +0\.\d{3} +0\.\d{3}$", one, re.M)
    assert "rank distance" in one
    two = summary_text([a_report("m"), a_report("n")], ["AP", "recall@10"])
    assert re.search(r"^n +0\.\d{3} +0\.\d{3} +0\.\d{3} +[\d,]+\.\d$", two, re.M)
    assert re.search(r"^system +recall@10 mono +recall@10 cross", two, re.M)
    pair = [a_report("m"), a_report("n", seed=1)]
    text = comparison_text([compare(pair[1], pair[0], "AP", draws=50)])
    assert re.search(r"^n, monolingual +[+-]0\.\d{3} +\[[+-]0\.\d{3}, [+-]0\.\d{3}\] +", text, re.M)
    assert re.search(r"^AP +0\.\d{3} ± 0\.\d{3}", seeds_text(over_seeds(pair)), re.M)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells = 0

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.cells += tag == "td"
        for name, value in attrs:
            assert name not in ("src", "href"), f"the page asks for {value}"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_self_contained(tmp_path):
    reports = [a_report("a <b> & c"), a_report("second", seed=1)]
    comparisons = [compare(reports[1], reports[0], "AP", draws=100)]
    write_html(tmp_path / "r.html", reports, "Title <&>", comparisons)
    text = (tmp_path / "r.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.cells > 2 * (1 + 6 + 1) + 2 * 3 * 4
    for heading in ("Is the difference real?", "AP minus that of", "Mean rank of the answers",
                    "Languages of the first 10 documents", "Who stands before whom"):  # fmt: skip
        assert heading in text
    assert "a &lt;b&gt; &amp; c" in text
    assert "http" not in text
