"""Invitations are pasted by people: what was not copied exactly is refused before anything is sent."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ynet.errors import UserError
from ynet.trust import invitation
from ynet.trust.invitation import PREFIX, Invitation

ALPHABET = string.ascii_letters + string.digits + "-_"
addresses = st.from_regex(r"[A-Za-z0-9.-]{1,60}:[0-9]{1,5}", fullmatch=True)
invitations = st.builds(Invitation, addresses, st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))


@given(invitations)
def test_an_invitation_is_one_word_that_is_read_back(made: Invitation) -> None:
    text = made.to_text()
    assert invitation.parse(text) == made
    assert text == "".join(text.split())
    assert set(text.removeprefix(PREFIX)) <= set(ALPHABET)


@given(invitations, st.data())
def test_blanks_and_line_breaks_that_mail_puts_in_do_not_matter(made: Invitation, data: st.DataObject) -> None:
    text = made.to_text()
    at = data.draw(st.integers(0, len(text)))
    assert invitation.parse(f"  {text[:at]}\n {text[at:]}\t") == made


@pytest.mark.parametrize("host", ["h", "hh", "hhh"])  # the three ways in which base64 ends
def test_any_character_changed_is_refused(host: str) -> None:
    text = Invitation(f"{host}:1", bytes(range(16)), bytes(range(32))).to_text()
    for at, old in enumerate(text):
        for new in (ALPHABET + ".=+/é").replace(old, ""):
            with pytest.raises(UserError, match="changed or not copied whole"):
                invitation.parse(text[:at] + new + text[at + 1 :])


@pytest.mark.parametrize("host", ["h", "hh", "hhh"])
def test_any_character_left_out_or_added_is_refused(host: str) -> None:
    text = Invitation(f"{host}:1", bytes(range(16)), bytes(range(32))).to_text()
    for at in range(len(text)):
        for spoilt in (text[:at] + text[at + 1 :], text[:at] + "A" + text[at:], text[:at]):
            with pytest.raises(UserError, match="changed or not copied whole"):
                invitation.parse(spoilt)
    with pytest.raises(UserError, match="changed or not copied whole"):
        invitation.parse(text + "A")


@given(st.text() | st.text(ALPHABET).map(lambda body: PREFIX + body))
def test_what_is_no_invitation_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        invitation.parse(text)


def test_the_proof_is_bound_to_the_secret_the_name_and_the_request() -> None:
    proofs = {
        invitation.proof(invitation.verifier(secret), site, csr)
        for secret in (b"s" * 16, b"t" * 16)
        for site in ("A", "B")
        for csr in (b"x", b"y")
    }
    assert len(proofs) == 8


def test_the_server_keeps_no_secret() -> None:
    secret = invitation.new_secret()
    assert secret not in invitation.verifier(secret)
    assert invitation.new_secret() != secret
