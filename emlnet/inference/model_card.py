"""The model card beside the weights: a model's facts, scores and intended use."""

from __future__ import annotations

import json
import re
from typing import Any

from emlnet.metrics.saliency_metrics import label

ANSWERS = {
    "density": "a density over the picture's pixels (log-density too), which sums to 1",
    "eml": "a saliency map in 0..1, as in the EML-NET paper",
}


LICENCES = {"MIT": "mit", "Apache": "apache-2.0", "BSD": "bsd", "CC BY 4.0": "cc-by-4.0"}
"""Hugging Face's name of a licence, by a word in its name."""
FRONT = "---\n"
"""The line before and after a card's front matter."""


def write_card(
    encoders: list[dict[str, Any]], readout: str, about: dict[str, Any], weights: str = ""
) -> str:
    """Return the card as Markdown with Hugging Face's front matter; docs/use.md explains each part.

    encoders: their configs.  readout: the kind of map.  about: the `about` of model.json.
    weights: SHA-256 of the file of weights.
    """
    name = about.get("name", "model")
    data = about.get("data") or {}
    trained = data.get("name", "unknown data")
    known = ", ".join(f"{e['backbone']} ({e['size'][0]} x {e['size'][1]} pixels)" for e in encoders)
    facts = {
        "Answers": ANSWERS[readout],
        "Encoders": known,
        "Trained on": f"{trained}{_data_facts(data)}",
        "Scores": _scores(about.get("scores") or {}),
        "Licence": f"code Apache-2.0; weights: {about.get('licence') or 'unknown'}; "
        f"data: {data.get('licence') or 'unknown'}",
        "Made by": f"emlnet, commit {about.get('commit') or 'unknown'}{_command(about, trained)}",
    }
    if weights:
        facts["Weights"] = f"SHA-256 {weights}"
    lines = "\n".join(f"- {title}: {text}" for title, text in facts.items())
    return f"""{_front_matter(about)}# {name}: where people look in a picture

{lines}

## Use
    import emlnet
    model = emlnet.load("FOLDER")
    prediction = model.predict("photo.jpg")    # .saliency, .log_density: (H, W), the photo's size

## Meant for
Free viewing of pictures like those of {trained} for some seconds, by adults with normal sight, on a
screen: where the first gazes of a group of people fall. Cropping, compression, layout and research
on attention.

## Not meant for
Decisions about a person; what one viewer will look at; tasks such as search or reading; driving or
any other use where a missed object does harm.

## Limits
Pictures of another kind than those of {trained} are out of its domain. Densities are
calibrated to the training data's viewers, viewing time and screen distance, and lean to the
picture's centre as those viewers did. Scores on other data sets will differ.
"""


def first_lines(card: str) -> str:
    """Return the card's title and facts as plain text: all before its first section."""
    text = re.sub(rf"\A{FRONT}.*?\n{FRONT}", "", card, flags=re.DOTALL)
    facts = text.partition("\n## ")[0].strip().removeprefix("# ")
    return "\n".join(map(printable, facts.splitlines()))


def printable(text: object) -> str:
    """Return a model's text with control characters, which could steer a terminal, as spaces."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def _command(about: dict[str, Any], data: str) -> str:
    """Return the command that made the model, if it was that of a preset."""
    preset = about.get("preset")
    words = f"python -m pipelines full --preset {preset} --data {data.replace('+', ' ')}"
    return f", by `{words}`" if preset else ""


def _front_matter(about: dict[str, Any]) -> str:
    """Return the front matter: YAML that Hugging Face's pages read."""
    given = str(about.get("licence"))
    licence = next((name for word, name in LICENCES.items() if word in given), "other")
    metrics = json.dumps([printable(name) for name in about.get("scores") or {}])
    return f"""{FRONT}library_name: emlnet
license: {licence}
tags: [saliency, eye-tracking]
metrics: {metrics}
{FRONT}"""


def _data_facts(data: dict[str, Any]) -> str:
    """Return the number of training pictures and the data's digest, where they are known."""
    facts = [f"{data['num_images']} pictures"] if data.get("num_images") else []
    facts += [f"digest {str(data['digest'])[:12]}"] if data.get("digest") else []
    return f" ({', '.join(facts)})" if facts else ""


def _scores(scores: dict[str, float]) -> str:
    if not scores:
        return "none recorded"
    shown = ", ".join(f"{label(name)} {value:.3f}" for name, value in scores.items())
    return f"{shown} (val, `mit` rules, without mirroring)"
