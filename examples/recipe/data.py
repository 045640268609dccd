"""Writes the training data of benchmarks/results/recipe.md from public files.

    python examples/recipe/data.py TRAIN OUT

TRAIN holds the files as their authors publish them:

    mono/ja/jaquad_train_*.json.gz   JaQuAD (SkelterLabsInc/JaQuAD)
    mono/zh/cmrc2018_*.json          CMRC 2018 (ymcui/cmrc2018), dev and trial
    mono/zh-Hant/DRCD_dev.json       DRCD (DRCKnowledgeTeam/DRCD)
    mono/ar/arcd-train.json          ARCD (husseinmozannar/SOQAL)
    mono/pt/faquad-*.json            FaQuAD (liafacom/faquad)
    mono/th/iapp-wiki-qa-*.jsonl.gz  iapp (iapp-technology/iapp-wiki-qa-dataset)
    mono/en/qed-dev.jsonlines.gz     QED (google-research-datasets/QED)
    normalized/parallel_texts.jsonl.gz
        lines {"source", "group", "lang", "text"} of NTREX, SIB-200, PUD and MKQA's questions

OUT gets
    questions.jsonl   a question, the sentence with its answer, and up to four others of its passage
    sentences.jsonl   sentences in up to 13 languages
    asked.jsonl       questions in nine languages
    directions.jsonl  160 of the sentences, for `hybridret debias`
and questions_dev.jsonl and sentences_dev.jsonl, which are not trained on.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LANGUAGES = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh", "ja", "pt"]
END_OF_SENTENCE = re.compile(r"(?<=[。！？!?؟\n])|(?<=[.])(?=\s+\D)")
DEVELOPMENT = 100  # questions of a language

Bounds = list[tuple[int, int]]
Question = tuple[str, str, str, int, Bounds]
"""Language, question, passage, where its answer begins, and where its sentences stand."""


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    random.seed(0)
    write_questions(source / "mono", out)
    write_sentences(source / "normalized" / "parallel_texts.jsonl.gz", out)


def write_questions(source: Path, out: Path) -> None:
    kept_apart: dict[str, bool] = {}  # of each passage
    counts: Counter[str] = Counter()
    with open(out / "questions.jsonl", "w") as train, open(out / "questions_dev.jsonl", "w") as dev:
        for language, question, passage, answer, bounds in questions(source):
            at = next((n for n, (a, b) in enumerate(bounds) if a <= answer < b), None)
            if at is None:
                continue
            texts = [passage[a:b].strip() for a, b in bounds]
            others = [n for n in range(len(texts)) if texts[n] != texts[at]]
            nearest = sorted(others, key=lambda n: abs(n - at))[:4]
            row = {
                "query": question,
                "positive": texts[at],
                "language": language,
                "negatives": list(dict.fromkeys(texts[n] for n in nearest)),
            }
            if passage not in kept_apart:
                full = counts[language] >= DEVELOPMENT
                kept_apart[passage] = not full and random.random() < 0.1
            counts[language] += kept_apart[passage]
            write(dev if kept_apart[passage] else train, row)


def questions(source: Path) -> Iterator[Question]:
    for language in ("ja", "zh", "zh-Hant", "ar", "pt"):
        for file in sorted(
            [*(source / language).glob("*.json.gz"), *(source / language).glob("*.json")]
        ):
            for question, passage, answer in squad(file):
                yield language, question, passage, answer, sentences(passage, language)
    for file in sorted((source / "th").glob("*.jsonl.gz")):
        for row in lines(file):
            if row["answers"]["text"]:
                start = begin(
                    row["context"], row["answers"]["answer_start"][0], row["answers"]["text"][0]
                )
                if start >= 0 and row["question"].strip():
                    bounds = sentences(row["context"], "th")
                    yield "th", row["question"].strip(), row["context"], start, bounds
    for row in lines(source / "en" / "qed-dev.jsonlines.gz"):
        passage, starts = row["paragraph_text"], row["sentence_starts"]
        chosen = row.get("annotation", {}).get("selected_sentence")
        if chosen:
            bounds = list(zip(starts, [*starts[1:], len(passage)], strict=True))
            yield "en", row["question_text"], passage, chosen["start"], bounds


def squad(file: Path) -> Iterator[tuple[str, str, int]]:
    """Question, passage and where the answer begins, of SQuAD JSON."""
    with opened(file) as content:
        articles = json.load(content)["data"]
    for article in articles:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                if qa.get("answers"):
                    answer = qa["answers"][0]
                    start = begin(paragraph["context"], int(answer["answer_start"]), answer["text"])
                    if start >= 0 and qa["question"].strip():
                        yield qa["question"].strip(), paragraph["context"], start


def begin(passage: str, start: int, answer: str) -> int:
    """Where the answer begins: some files count in other units."""
    return start if passage[start : start + len(answer)] == answer else passage.find(answer)


def sentences(passage: str, language: str) -> Bounds:
    """Thai marks no end of a sentence: pieces at spaces, of at least 60 letters."""
    if language == "th":
        ends, shortest = [m.end() for m in re.finditer(r"\s+", passage)], 60
    else:
        ends, shortest = [m.start() for m in END_OF_SENTENCE.finditer(passage)], 10
    found, start = [], 0
    for end in [*ends, len(passage)]:
        if end - start >= shortest or end == len(passage):
            if passage[start:end].strip():
                found.append((start, end))
            start = end
    return found


def write_sentences(file: Path, out: Path) -> None:
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in lines(file):
        groups[row["source"], row["group"]][row["lang"]] = row["text"]
    kept_apart = set(random.sample(sorted(g for source, g in groups if source == "pud"), 200))
    names = ("sentences", "sentences_dev", "asked", "directions")
    files = {name: open(out / f"{name}.jsonl", "w") for name in names}  # noqa: SIM115
    directions = 0
    for (source, group), texts in groups.items():
        questions = source == "mkqa-question"
        name = "asked" if questions else "sentences_dev" if group in kept_apart else "sentences"
        also = source == "ntrex" and directions < 160
        directions += also
        for language, text in texts.items():
            if text.strip() and (language in LANGUAGES or questions):
                row = {"query": text, "positive": text, "language": language, "group": group}
                write(files[name], row)
                if also:
                    write(files["directions"], row)
    for opened_file in files.values():
        opened_file.close()


def lines(file: Path) -> Iterator[Any]:
    with opened(file) as content:
        for line in content:
            yield json.loads(line)


def opened(file: Path) -> IO[str]:
    return (
        gzip.open(file, "rt", encoding="utf-8")
        if file.suffix == ".gz"
        else open(file, encoding="utf-8")
    )


def write(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
