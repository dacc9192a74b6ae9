"""Secure sums: exact, uniform on the wire, and refused when anything about the roster is wrong."""

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from ynet.errors import RefusedError
from ynet.federation import secure_sum
from ynet.federation.secure_sum import (
    Keys,
    Masked,
    Offer,
    Purpose,
    add_up,
    check_roster,
    fresh_keys,
    from_wire,
    mask,
    to_wire,
    unmask,
)
from ynet.trust import identity
from ynet.trust.identity import Identity

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
AUTHORITY = identity.make_authority("test", NOW)
PURPOSE = Purpose("run", 3, 0, "b")


def member(site: str, authority: Identity = AUTHORITY) -> Identity:
    key = identity.new_key()
    return Identity(key, identity.issue_site(authority, site, identity.signing_request(key, site), NOW))


MEMBERS = {site: member(site) for site in "ABCDE"}


def keys(sites: str, purpose: Purpose = PURPOSE) -> dict[str, Keys]:
    return {site: fresh_keys(MEMBERS[site], site, purpose) for site in sites}


def opened(masked: dict[str, Masked], of: dict[str, Keys]) -> np.ndarray:
    """The sum, when all these sites give their own masks away."""
    return unmask(add_up(list(masked.values())), [of[site].own_mask for site in masked])


def roster(of: dict[str, Keys]) -> list[Offer]:
    return [one.offer for one in of.values()]


def vectors(sites: str, size: int = 5000) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {site: random.standard_normal(size).astype(np.float32) * 3 for site in sites}


def checked(offers: list[Offer], purpose: Purpose = PURPOSE, now: dt.datetime = NOW) -> None:
    check_roster(offers, purpose, AUTHORITY.certificate, 3, now)


@pytest.mark.parametrize("sites", ["ABC", "ABCDE"])
def test_the_sum_is_the_mean_that_fedavg_makes_of_the_plain_vectors(sites: str) -> None:
    made, values = keys(sites), vectors(sites)
    cases = {site: 7 * number for number, site in enumerate(sites, start=1)}
    checked(roster(made))
    masked = {site: mask(made[site], values[site], cases[site], roster(made)) for site in sites}
    over_the_wire = {site: from_wire(to_wire(vector)) for site, vector in masked.items()}
    mean = opened(over_the_wire, made) / sum(cases.values())
    expected = np.average(np.stack(list(values.values())), axis=0, weights=list(cases.values()))
    np.testing.assert_allclose(mean, expected, atol=1e-6)


def test_what_one_site_sends_is_uniform_whatever_it_trained() -> None:
    """Of zeros: every byte of the masked vector takes each value as often as chance has it."""
    made = keys("ABC")
    masked = mask(made["B"], np.zeros(100_000, np.float32), 10, roster(made))
    by_place = masked.view(np.uint8).reshape(-1, 8)
    for place in range(8):
        counts = np.bincount(by_place[:, place], minlength=256)
        chi_square = float(((counts - len(masked) / 256) ** 2).sum() / (len(masked) / 256))
        assert 130 < chi_square < 400  # 255 degrees of freedom: beyond 5 standard deviations otherwise


def test_two_sums_of_the_same_vector_have_nothing_in_common() -> None:
    values = np.ones(1000, np.float32)
    first, second = keys("ABC"), keys("ABC", PURPOSE._replace(attempt=1))
    a, b = (mask(made["A"], values, 1, roster(made)) for made in (first, second))
    assert not (a == b).any()


def test_sum_without_a_site_reveals_nothing_and_restarts_with_fresh_keys() -> None:
    made, values = keys("ABCD"), vectors("ABCD")
    without = {site: mask(made[site], values[site], 1, roster(made)) for site in "ABC"}
    plain = sum(values[site].astype(np.float64) for site in "ABC")
    with pytest.raises(RefusedError, match="do not cancel"):
        opened(without, made)  # D's masks stand over it
    again = keys("ABC", PURPOSE._replace(attempt=1))
    masked = {site: mask(again[site], values[site], 1, roster(again)) for site in "ABC"}
    np.testing.assert_allclose(opened(masked, again), plain, atol=1e-6)


def test_who_has_all_masked_vectors_has_nothing_while_one_site_keeps_its_own_mask() -> None:
    """So a server that calls a site lost whose vector came does not get the sum with it, beside the one without."""
    made, values = keys("ABC"), vectors("ABC")
    masked = {site: mask(made[site], values[site], 1, roster(made)) for site in "ABC"}
    opened(masked, made)
    with pytest.raises(RefusedError, match="do not cancel"):
        unmask(add_up(list(masked.values())), [made[site].own_mask for site in "AB"])


def test_a_site_masks_nothing_for_a_roster_without_its_own_key() -> None:
    made, others = keys("ABC"), keys("ABC")
    with pytest.raises(RefusedError, match="own key"):
        mask(made["A"], np.zeros(3, np.float32), 1, roster(others))


def test_masks_made_for_two_rosters_do_not_cancel() -> None:
    """A server that tells some sites of D and others not learns nothing from what they send."""
    made = keys("ABCD")
    full, lesser = roster(made), roster(made)[:3]
    masked = {"A": mask(made["A"], np.zeros(50, np.float32), 1, full)}
    masked |= {site: mask(made[site], np.zeros(50, np.float32), 1, lesser) for site in "BC"}
    with pytest.raises(RefusedError, match="do not cancel"):
        opened(masked, made)


def lies() -> dict[str, tuple[list[Offer], str]]:
    good = roster(keys("ABC"))
    stranger = member("C", identity.make_authority("another", NOW))
    mallory = fresh_keys(stranger, "C", PURPOSE).offer
    return {
        "two sites": (good[:2], "2 sites"),
        "a site twice": ([*good[:2], fresh_keys(MEMBERS["B"], "B", PURPOSE).offer], "twice"),
        "a key twice": ([*good, replace(good[0], site="D")], "twice"),
        "a site of no certificate": ([*good[:2], mallory], "not one of the consortium's"),
        "another site's certificate": ([*good[:2], replace(good[2], site="D")], "another site's"),
        "a key that the server made": ([*good[:2], replace(good[2], key="11" * 32)], "not that of its certificate"),
        "keys of an earlier round": (roster(keys("ABC", Purpose("run", 2, 0, "b"))), "not that of its certificate"),
        "a site that began elsewhere": (
            [*good[:2], fresh_keys(MEMBERS["C"], "C", PURPOSE._replace(begins="c")).offer],
            "not that of its certificate",
        ),
        "keys of another run": (roster(keys("ABC", Purpose("other", 3, 0, "b"))), "not that of its certificate"),
        "no certificate": ([*good[:2], replace(good[2], certificate="none")], "not one of the consortium's"),
    }


@pytest.mark.parametrize("name", sorted(lies()))
def test_a_server_that_lies_about_the_roster_is_refused(name: str) -> None:
    offers, why = lies()[name]
    with pytest.raises(RefusedError, match=why):
        checked(offers)


def test_a_certificate_that_is_over_is_refused() -> None:
    with pytest.raises(RefusedError, match="not in force"):
        checked(roster(keys("ABC")), now=NOW + dt.timedelta(days=91))


def test_a_roster_survives_the_wire_and_nonsense_does_not() -> None:
    offers = roster(keys("ABC"))
    assert secure_sum.roster_from_json(secure_sum.roster_to_json(offers)) == offers
    for text in (
        "",
        "{}",
        "[1]",
        '[{"site": "A"}]',
        secure_sum.roster_to_json([replace(offers[0])]).replace("A", "A", 1)[:-5],
    ):
        with pytest.raises(RefusedError, match="cannot be read"):
            secure_sum.roster_from_json(text)


def test_a_key_with_which_every_secret_would_be_known_is_refused() -> None:
    made = keys("ABC")
    offers = [*roster(made)[:2], replace(made["C"].offer, key="00" * 32)]
    with pytest.raises(RefusedError, match="site C makes no secret"):
        mask(made["A"], np.zeros(3, np.float32), 1, offers)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_a_value_that_does_not_fit_is_refused_rather_than_wrapped(value: float) -> None:
    made = keys("ABC")
    with pytest.raises(RefusedError, match="too large, or no number"):
        mask(made["A"], np.array([0, value], np.float32), 1, roster(made))


def test_half_a_number_too_many_is_refused() -> None:
    with pytest.raises(RefusedError, match="half a number"):
        from_wire(np.zeros(3, np.float32))


def test_who_copies_another_sites_key_takes_no_mask_off() -> None:
    """A key has a second spelling: were masks made of keys alone, two of them would cancel at the third site."""
    made = keys("ABD")
    twin = (int.from_bytes(bytes.fromhex(made["A"].offer.key), "little") | 1 << 255).to_bytes(32, "little").hex()
    signature = identity.sign(MEMBERS["D"].key, secure_sum._signed(PURPOSE, "D", twin)).hex()
    offers = [made["A"].offer, made["B"].offer, replace(made["D"].offer, key=twin, signature=signature)]
    with pytest.raises(RefusedError, match="not in its one form"):
        checked(offers)
    stolen = replace(made["D"].offer, key=made["A"].offer.key)
    ours = mask(made["B"], np.zeros(100, np.float32), 1, [*offers[:2], stolen])
    bare = ours.copy()
    secure_sum._add_stream(bare, made["B"].own_mask, is_added=False)
    assert np.abs(bare.view(np.int64)).min() > 0


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"site": "A"}'])
def test_an_offer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="cannot be read"):
        secure_sum.offer_from_json(text)


def test_a_vector_of_two_dimensions_is_refused() -> None:
    with pytest.raises(RefusedError, match="or is none"):
        from_wire(np.zeros((4, 2), np.float32))
