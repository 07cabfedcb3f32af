import json
import stat
from uuid import uuid4

import pytest

from app.keys.cipher import KeyMissing, KeyRing, place_of
from app.keys.provider import create_key_file, read_key_ring

RING = KeyRing({1: b"k" * 32})
PARTNER, PATIENT = uuid4(), uuid4()


@pytest.fixture
def key():
    return RING.new_patient_key(PARTNER, PATIENT)[0]


def test_a_sealed_field_opens_in_its_own_place_only(key):
    row = uuid4()
    home = place_of(PARTNER, "relationship", row, 2)
    blob = key.seal({"label": "husband"}, home)
    assert key.open(blob, home) == {"label": "husband"}
    for other in (
        place_of(uuid4(), "relationship", row, 2),
        place_of(PARTNER, "goal", row, 2),
        place_of(PARTNER, "relationship", uuid4(), 2),
        place_of(PARTNER, "relationship", row, 1),
    ):
        with pytest.raises(KeyMissing):
            key.open(blob, other)


def test_no_byte_of_a_sealed_field_can_be_flipped(key):
    place = place_of(PARTNER, "goal", uuid4(), 1)
    blob = key.seal({"text": "x"}, place)
    for index in range(len(blob)):
        changed = blob[:index] + bytes([blob[index] ^ 1]) + blob[index + 1 :]
        with pytest.raises(KeyMissing):
            key.open(changed, place)


def test_a_wrapped_key_opens_for_its_patient_only_and_not_after_its_destruction():
    key, version, wrapped = RING.new_patient_key(PARTNER, PATIENT)
    assert RING.patient_key(PARTNER, PATIENT, version, wrapped).key == key.key
    for partner, patient, known, blob in (
        (PARTNER, uuid4(), 1, wrapped),
        (uuid4(), PATIENT, 1, wrapped),
        (PARTNER, PATIENT, 2, wrapped),
        (PARTNER, PATIENT, 1, None),
    ):
        with pytest.raises(KeyMissing):
            RING.patient_key(partner, patient, known, blob)


def test_an_older_key_still_opens_and_the_newest_seals():
    both = KeyRing({1: b"k" * 32, 2: b"n" * 32})
    old = RING.seal(b"data", "place")
    assert both.open(old, "place") == b"data"
    assert both.seal(b"data", "place")[:2] == b"\x00\x02"
    assert both.derived("cursor") == RING.derived("cursor") != RING.derived("etag")
    with pytest.raises(KeyMissing):
        KeyRing({2: b"n" * 32}).open(old, "place")


def test_the_key_file_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "home" / "keys.json"
    assert create_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert not create_key_file(path)
    assert path.read_bytes() == before
    assert read_key_ring(path).open(read_key_ring(path).seal(b"x", "p"), "p") == b"x"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"keys": {}}', '{"keys": {"1": "short"}}', '{"keys": {"x": "a"}}', json.dumps({"keys": {"1": "QUJD"}})]
)
def test_a_key_file_that_holds_no_key_is_refused_with_a_sentence(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(KeyMissing) as refused:
        read_key_ring(path)
    assert str(refused.value)
    with pytest.raises(KeyMissing, match="ipt key init"):
        read_key_ring(tmp_path / "none.json")
