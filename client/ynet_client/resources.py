"""What a site works with: its data, its ClientApp, its archive. Importing this loads torch, which takes seconds."""

from pathlib import Path
from typing import NamedTuple

import torch
from flwr.clientapp import ClientApp

from ynet.runtime import private_files
from ynet_client.adoption.admission import Admission
from ynet_client.adoption.offered import Offers
from ynet_client.gallery.gallery import FILE as GALLERY
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.indexer import Archive
from ynet_client.settings import ClientSettings
from ynet_client.training import client_app, microbatches
from ynet_client.training.consent import Consent, only_asks
from ynet_client.training.microbatches import Pieces
from ynet_client.training.privacy_budget import Recorded
from ynet_client.training.secure_aggregation import party_at
from ynet_client.training.site_data import LocalSite
from ynet_client.training.took_part import TookPart


class Equipment(NamedTuple):
    """Everything between a message and its answer."""

    site: LocalSite
    app: ClientApp
    archive: Archive
    budget: Recorded


def prepare(home: Path, settings: ClientSettings, consent: Consent) -> Equipment:
    """Open what the home folder holds. Raises UserError."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    budget = Recorded(home, settings.privacy)
    gallery = Gallery.open(home / GALLERY, _secret(home))
    site = LocalSite(
        settings.archive,
        settings.device,
        settings.cache_mb << 20,
        budget=budget,
        party=lambda: party_at(home),
        admits=consent.admits if settings.trains else only_asks,
        trains=settings.trains,
        forgotten=gallery.forgotten,
        pieces=Pieces(home / microbatches.FILE),
        took_part=TookPart(home),
        tells_classes=settings.disclosure.labels,
    )
    admission = Admission(site, consent, Offers(home), settings.max_score_drop, has_detail=settings.disclosure.detail)
    archive = Archive(home / "models", site, gallery, admission.check)
    return Equipment(site, client_app.build(lambda _: site), archive, budget)


def _secret(home: Path) -> bytes:
    """What makes this site's case tokens and patient pseudonyms its own."""
    return private_files.secret_in(home / "gallery.secret")
