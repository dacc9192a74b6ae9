"""The page of a report of attacks: one HTML file with tables and pictures."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ynet_lab.html_page import MISSING, HtmlTable, TableRow, figure, template

SCORES = {"loss": "loss threshold", "likelihood_ratio": "likelihood ratio"}
READ_FROM = {
    "label": "floor: the label alone",
    "code": "code",
    "feature": "ceiling: the feature behind the code",
}


class CaptionedPicture(NamedTuple):
    """A picture with a caption."""

    caption: str
    picture: bytes  # PNG


class Strip(NamedTuple):
    """A row of pictures."""

    title: str
    pictures: Sequence[CaptionedPicture]


def render(report: Mapping[str, Any], strips: Mapping[str, Sequence[Strip]]) -> str:
    """Render a report of format 1 as a self-contained HTML page. All text is escaped."""
    return template("attack_page.html").render(
        report=report,
        plan=report["plan"],
        plan_json=json.dumps(report["plan"], indent=2, sort_keys=True, ensure_ascii=False),
        protection=_protection(report["plan"]["privacy"]),
        tables=tables(report["attacks"]),
        strips=strips,
        sites=_sites(report["sites"]),
    )


def tables(attacks: Mapping[str, Any]) -> dict[str, HtmlTable]:
    """Tabulate the figures of each attack that was run."""
    return {name: write(attacks[name]) for name, write in _TABLES.items() if name in attacks}


def _protection(privacy: Mapping[str, Any]) -> str:
    if privacy["mode"] == "off":
        return "without privacy"
    return f"epsilon {privacy['epsilon']:g} at delta {privacy['delta']:g}, of each site's patients"


def _membership(found: Mapping[str, Any]) -> HtmlTable:
    rows = [
        TableRow(
            f"{title}, by {unit}",
            [
                f"{figure(one['auc'])} ± {figure(one['auc_std'])}",
                figure(one["tpr_at_1_percent"]),
                figure(one["tpr_at_0_1_percent"]),
                figure(one["smallest_fpr"], 4),
                str(one["members"]),
                str(one["non_members"]),
            ],
        )
        for score, title in SCORES.items()
        for unit, one in found[score].items()
    ]
    caption = f"Telling members from others; {found['shadows']} shadow models of {found['shadow_rounds']} rounds"
    head = ["AUC", "TPR at 1 % FPR", "TPR at 0.1 % FPR", "smallest FPR", "members", "others"]
    return HtmlTable(caption, "attack", head, [("", rows)])


def _gradient(found: Mapping[str, Any]) -> HtmlTable:
    columns = ("best_ssim", "floor_mean_image", "floor_other_image", "mean_ssim", "gradient_distance")
    groups: dict[str, list[TableRow]] = {}
    for one in found["updates"]:
        heading = f"{one['batch']} image{'s' * (one['batch'] > 1)} in a site's step"
        cells = [str(one["images"]), *(figure(one[column]) for column in columns)]
        groups.setdefault(heading, []).append(TableRow(one["protection"], cells))
    head = ["images", "best SSIM", "floor: mean image", "floor: another image", "mean SSIM", "distance left"]
    caption = f"Images found from one step's update in {found['steps']} steps"
    return HtmlTable(caption, "protection", head, list(groups.items()))


def _code(found: Mapping[str, Any]) -> HtmlTable:
    columns = ("pixel_r2", "accuracy", "balanced_accuracy")
    rows = [TableRow(title, [figure(found[what][column]) for column in columns]) for what, title in READ_FROM.items()]
    rows.append(TableRow("floor: the most frequent class", [MISSING, figure(found["majority_accuracy"]), MISSING]))
    caption = f"A decoder of {found['public']} images, scored on {found['secret']} of other patients; {_form(found)}"
    return HtmlTable(caption, "given", ["pixel R²", "label accuracy", "balanced accuracy"], [("", rows)])


def _form(found: Mapping[str, Any]) -> str:
    if found["form"] == "moments":
        return f"a code of {found['bits']} bits from moments, {found['class_bits']} of them for the class"
    return f"a trained code of {found['bits']} bits"


def _audit(found: Mapping[str, Any]) -> HtmlTable:
    row = TableRow(
        "one run",
        [
            figure(found["epsilon_at_least"]),
            figure(found["epsilon_claimed"], 1),
            figure(found["highest_possible"]),
            f"{found['right']} of {found['guesses']}",
            str(found["canaries"]),
        ],
    )
    head = ["epsilon is at least", "claimed", "highest it could show", "right guesses", "canaries"]
    caption = f"A model of {found['rounds']} rounds, each patient in it by a coin; 95 % confidence"
    return HtmlTable(f"{caption}, delta {found['delta']:g}", "audit", head, [("", [row])])


_TABLES = {"membership": _membership, "gradient": _gradient, "code": _code, "audit": _audit}


def _sites(sites: Sequence[Mapping[str, Any]]) -> HtmlTable:
    columns = ("members", "member_patients", "non_members", "non_member_patients")
    head = ["training images", "training patients", "test images", "test patients"]
    return HtmlTable(
        "Cases at each site",
        "site",
        head,
        [("", [TableRow(site["site"], [str(site[column]) for column in columns]) for site in sites])],
    )
