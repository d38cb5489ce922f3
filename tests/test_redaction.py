import pytest

from destseg.errors import BundleError, DataError, ImageError
from destseg.redaction import hide, without_secrets

TOLD = {
    "s3://KEY:SECRET@bucket/parts": "s3://bucket/parts",
    "s3://KEY:SEC%2FRET@bucket/cam@2/a.png": "s3://bucket/cam@2/a.png",
    "s3://bucket/parts?access_key=KEY&secret_key=SECRET": "s3://bucket/parts",
    "https://host/a.png?X-Amz-Signature=SECRET&b=1#t=2": "https://host/a.png",
    "http://user:p@ss@proxy:3128/": "http://proxy:3128/",
    "https://TOKEN@host/x": "https://host/x",
    "ray://user:SECRET@head:10001": "ray://head:10001",
    "simplecache::s3://KEY:SECRET@bucket/x": "simplecache::s3://bucket/x",
    "zip://a.zip::https://u:SECRET@host/x?sig=SECRET": "zip://a.zip::https://host/x",
    "got 's3://KEY:SECRET@b/x', then https://h/y?sig=SECRET: gone": (
        "got 's3://b/x', then https://h/y: gone"
    ),
}
SAME = [
    "/data/a@b:c/parts",
    "s3://bucket/cam@2/a.png",
    "s3://bucket/img-?.png",
    "hdfs://name:8020/cam@2/a",
    "http://[::1]:8080/a@b",
    "abfs://container@account.dfs.core.windows.net/x",
    "file:///data/a@b",
    "what? a=b",
]


@pytest.mark.parametrize("text", TOLD)
def test_a_url_is_told_without_login_and_options(text):
    assert without_secrets(text) == TOLD[text]


@pytest.mark.parametrize("text", SAME)
def test_what_has_no_secret_stays(text):
    assert without_secrets(text) == text


def test_a_login_that_was_not_encoded_is_hidden_whole():
    # Nothing can open it, so it comes in errors alone, and there too much may be hidden.
    assert "a/b" not in without_secrets("s3://KEY:a/b+c@bucket/x")


def test_what_others_say_of_a_place_has_no_value_of_its_url():
    place = "s3://KEYID:S%2FCRET@bucket/x?session_token=TOKENS&region=eu"
    said = "no access with KEYID, S/CRET or S%2FCRET, token TOKENS; region eu"
    assert hide(said, place) == "no access with ***, *** or ***, token ***; region eu"


def test_no_error_tells_a_secret():
    place = "s3://KEY:SECRET@bucket/x?token=SECRET"
    image = ImageError(place, f"expected an image, got {place}")
    for error in (DataError(place), BundleError(f"{place}: gone"), image):
        assert "SECRET" not in f"{error} {error!r} {vars(error)}"
    assert (image.path, image.reason) == ("s3://bucket/x", "expected an image, got s3://bucket/x")
