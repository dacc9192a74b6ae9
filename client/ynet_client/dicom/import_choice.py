"""How an import is asked for, and what it says of itself in the end."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ynet.data.dicom.frame import Window
from ynet.data.dicom.matching import Segment
from ynet_client.dicom.deidentify import Dates

FrameChoice = Literal["refuse", "middle", "all"]


@dataclass(frozen=True)
class Choice:
    """How images are imported."""

    frames: FrameChoice = "refuse"
    window: Window | None = None  # in place of each file's own
    dates: Dates = "none"
    segment: Segment = None  # of a drawing with several
    automatic_masks: bool = False  # drawings that no person made are taken as masks, too
    no_mask_means_healthy: bool = False  # an image on which nobody has drawn has no lesion
    release: frozenset[str] = frozenset()  # reasons of quarantine, or ids in it

    def said(self, *, is_frame: bool) -> str:
        """What of it a picture depends on, as it stands in the records; `is_frame`: of an object with several."""
        words = {
            "frames": self.frames if is_frame else "",
            "window": "{:g},{:g}".format(*self.window) if self.window else "",
            "dates": self.dates,
            "segment": "" if self.segment is None else str(self.segment),
            "automatic-masks": "yes" if self.automatic_masks else "",
            "no-mask-means-healthy": "yes" if self.no_mask_means_healthy else "",
        }
        return " ".join(f"{name}={word}" for name, word in words.items() if word)


class Summary(NamedTuple):
    """What an import did."""

    images: int  # in the manifest now
    patients: int
    masks: int
    imported: int  # of them, now
    unlabelled: int  # objects of which the labels say nothing; not fetched
    left_out: dict[str, int]  # by the reason
    unmatched_labels: int  # names in the labels that nothing had
    unlabelled_patients: int  # found, of whom no object has a label
    unmatched_why: dict[str, int]  # in what their ids alone differ from such names: `import_labels.USUAL`
    undrawn: int = 0  # in the manifest now, of which nobody has said where a lesion is
    updated: int = 0  # that were there, and were made anew because something had changed
    stale: int = 0  # that are there as they were, although something has changed
