"""A site's resources: its data, ClientApp and archive. Importing this module loads torch, which takes seconds."""

from pathlib import Path
from typing import NamedTuple

import torch
from flwr.clientapp import ClientApp

from ynet.runtime.private_files import secret_in
from ynet_client.adoption.admission import Admission
from ynet_client.adoption.offered import OfferedModels
from ynet_client.gallery.gallery import FILE as GALLERY
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.indexer import Archive
from ynet_client.settings import ClientSettings
from ynet_client.training import client_app, microbatches
from ynet_client.training.consent import Consent, only_asks
from ynet_client.training.fixed_files import FixedFiles
from ynet_client.training.microbatches import MicroBatches
from ynet_client.training.privacy_budget import Recorded
from ynet_client.training.secure_aggregation import party_at
from ynet_client.training.site_data import LocalSite
from ynet_client.training.took_part import TookPart

SECRET = "gallery.secret"  # noqa: S105 (a file's name)
"""The key of this site's case tokens and patient pseudonyms."""


class Resources(NamedTuple):
    """The data, the ClientApp, the archive and the privacy budget of a site."""

    site: LocalSite
    app: ClientApp
    archive: Archive
    budget: Recorded


def prepare(home: Path, settings: ClientSettings, consent: Consent) -> Resources:
    """Load the resources of a home folder. Raises UserError."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    budget = Recorded(home, settings.privacy)
    gallery = Gallery.open(home / GALLERY, secret_in(home / SECRET))
    site = LocalSite(
        settings.archive,
        settings.device,
        settings.cache_mb << 20,
        budget=budget,
        party=lambda: party_at(home),
        admits=consent.admits if settings.trains else only_asks,
        trains=settings.trains,
        forgotten=gallery.forgotten,
        micro_batches=MicroBatches(home / microbatches.FILE),
        took_part=TookPart(home),
        tells_classes=settings.disclosure.labels,
        fixed_files=FixedFiles(home),
    )
    admission = Admission(site, consent, OfferedModels(home), settings.max_score_drop)
    archive = Archive(home / "models", site, gallery, admission.check)
    return Resources(site, client_app.build(lambda _: site), archive, budget)
