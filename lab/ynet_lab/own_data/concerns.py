"""What in a stranger's data will keep a training from learning, or its score from meaning anything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ynet_lab.own_data import values
from ynet_lab.own_data.draft import trained_cases
from ynet_lab.own_data.facts import SiteFacts


@dataclass(frozen=True)
class Concern:
    """Something to look at before training. Holds no path and no patient id."""

    site: str  # empty: all sites
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.site + ': ' if self.site else ''}{self.what}; {self.do}"


def concerns(sites: Sequence[SiteFacts]) -> tuple[Concern, ...]:
    """Return what should be looked at, first what is of all sites."""
    return (*_of_all(sites), *(one for site in sites for one in (*_cases(site), *_files(site))))


def _of_all(sites: Sequence[SiteFacts]) -> Iterator[Concern]:
    if len(sites) == 1:
        do = "ynet-lab skew DATA OUT --sites 3 --sizes 1:1 deals its patients to three"
        yield Concern("", "there is one site, and nobody to train with", do)
    trained, tested = trained_cases(sites), {label for one in sites for label, count in one.test.items() if count}
    for label in sorted(trained.keys() | tested):
        homes = [one.site for one in sites if one.train.get(label)]
        if len(homes) == 1 and len(sites) > 1:
            what = f"the class {label} is at one site only, {homes[0]}"
            yield Concern("", what, "the others learn it from that site alone: look at its score")
        if label not in tested:
            yield Concern("", f"the class {label} has no test case", "it will have no score: hold some patients back")
    if few := [f"{label} {trained[label]}" for label in sorted(trained) if trained[label] < values.FEW_CASES]:
        do = f"a class with fewer than {values.FEW_CASES} may not be learned: add cases, or join classes"
        yield Concern("", f"classes with few training cases over all sites: {', '.join(few)}", do)
    colours = {site.coloured >= values.COLOUR_FROM * site.opened for site in sites if site.opened}
    if len(colours) == 2:
        grey = [one.site for one in sites if one.opened and one.coloured < values.COLOUR_FROM * one.opened]
        yield Concern(
            "", f"images are grey at {', '.join(grey)} and in colour elsewhere", "check whether that is meant"
        )


def _cases(site: SiteFacts) -> Iterator[Concern]:
    if not site.trained:
        yield Concern(site.site, "no case to train on", "it can only ask: say `trains: false`, or change its split")
    elif site.patients < values.FEW_PATIENTS or site.trained < values.FEW_CASES:
        what = f"{site.trained} training cases, {site.patients} patients in all"
        yield Concern(site.site, what, "so few teach little, and their score says little")
    tests = sum(site.test.values())
    if not tests:
        yield Concern(site.site, "no test case, so nothing is scored there", "write a column 'split' with some tests")
    elif tests < values.FEW_TEST_CASES:
        yield Concern(site.site, f"{tests} test cases", "read its score as a rough guess")
    if site.unlabelled:
        do = "they train the mask and no class; label them, if the class is known"
        yield Concern(site.site, f"{site.unlabelled} cases without a label", do)
    if site.in_both:
        do = "put all cases of a patient into one split: the score is too good otherwise"
        yield Concern(site.site, f"{site.in_both} patients with training and test cases", do)


def _files(site: SiteFacts) -> Iterator[Concern]:
    if site.missing:
        do = "ynet-client check --data MANIFEST names them"
        yield Concern(site.site, f"{site.missing} cases whose image or mask is not there", do)
    if site.unreadable:
        what = f"{site.unreadable} of {site.unreadable + site.opened} sampled images cannot be used: {site.fault}"
        yield Concern(site.site, what, "ynet-client check --data MANIFEST names every one")
    if site.undrawn:
        do = "they teach the class and not the mask; draw them if there is time"
        yield Concern(site.site, f"{site.undrawn} cases whose mask nobody has drawn", do)
    if site.empty + site.undrawn >= site.cases > site.undrawn:
        do = "an empty cell says that there is no lesion: write unknown where nobody has drawn one"
        yield Concern(site.site, "not one case has a mask", do)
