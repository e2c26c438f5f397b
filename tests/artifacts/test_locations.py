"""Addresses of the store: where its root ends and a run's files begin."""

from __future__ import annotations

import pytest

from rayplat.artifacts.locations import Location, check_path, parse, tree_uri, uri_of
from rayplat.errors import InvalidInput

RUN, DIGEST = "0123456789abcdef" * 2, "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("uri", "root", "path"),
    [
        ("cas:///srv/store", "/srv/store", ""),
        ("cas:/srv/store/", "/srv/store", ""),
        (f"cas:///srv/store/12/{RUN}/artifacts", "/srv/store", f"12/{RUN}/artifacts"),
        (f"cas:/srv/store/{RUN}/artifacts/model", "/srv/store", f"{RUN}/artifacts/model"),
        (f"cas:///srv/store/1/models/m-{RUN}/artifacts", "/srv/store", f"1/models/m-{RUN}/artifacts"),
        (f"cas:///srv/store/1/traces/tr-{RUN}/artifacts", "/srv/store", f"1/traces/tr-{RUN}/artifacts"),
        (f"cas:///srv/store/1/{RUN}/artifacts/{RUN}/x", "/srv/store", f"1/{RUN}/artifacts/{RUN}/x"),
        (f"cas:///srv/{RUN}/store/1/{RUN}/artifacts", f"/srv/{RUN}/store", f"1/{RUN}/artifacts"),
        (f"cas:///srv/store/7/{RUN}", "/srv/store", f"7/{RUN}"),
        ("cas:///srv/my%20store", "/srv/my store", ""),
        ("cas:///srv/my store", "/srv/my store", ""),
        ("cas+s3://bucket", "s3://bucket", ""),
        (f"cas+s3://bucket/deep/prefix/3/{RUN}/artifacts/a%20b", "s3://bucket/deep/prefix", f"3/{RUN}/artifacts/a%20b"),
    ],
)
def test_the_root_is_what_stands_before_mlflow_s_own_suffix(uri: str, root: str, path: str) -> None:
    assert parse(uri) == Location(root, path)


def test_a_tree_is_named_by_its_digest() -> None:
    assert parse(f"cas:///srv/store/trees/{DIGEST}") == Location("/srv/store", "", DIGEST)
    assert parse(f"cas+s3://b/p/trees/{DIGEST}/data/x") == Location("s3://b/p", "data/x", DIGEST)


@pytest.mark.parametrize("root", ["/srv/store", "/srv/my store", "/srv/50%", "s3://bucket/prefix", "s3://bucket"])
def test_what_is_written_is_read_back(root: str) -> None:
    assert parse(uri_of(root)) == Location(root)
    assert parse(tree_uri(root, DIGEST)) == Location(root, "", DIGEST)


def test_a_root_may_be_a_file_url() -> None:
    assert parse(uri_of("file:///srv/my%20store/")) == Location("/srv/my store")


@pytest.mark.parametrize(
    "uri",
    [
        "cas://relative/folder",
        "cas:///",
        "cas:",
        "cas+s3:///prefix",
        "s3://bucket",
        "/srv/store",
        "cas:///srv/../etc",
        "cas:///srv/%2e%2e/etc",
        "cas:///srv/%252e%252e/etc",
        "cas:///srv/store#x",
        "cas:///srv/store?x=1",
    ],
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        parse(uri)


@pytest.mark.parametrize("root", ["relative", "", "file://x", "gs://bucket"])
def test_a_root_that_is_no_place_is_refused(root: str) -> None:
    with pytest.raises(InvalidInput, match="no absolute folder"):
        uri_of(root)


@pytest.mark.parametrize(
    "path",
    [
        *("a\nb", "a%00b", "a\ud800", "x" * 3000),
        "/etc",
        "//x",
        "..",
        "a/../b",
        "%2e%2e/x",
        "%252e%252e/x",
        "a#b",
        "a%23b",
        "a?b",
        "a\\b",
        "C:/x",
        "file:///x",
    ],
)
def test_a_path_that_could_leave_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="Invalid path"):
        check_path(path)


@pytest.mark.parametrize("path", ["", "a", "a/b.txt", ".hidden", "a..b", "100%.txt", "a b", "ä/ö", "x@y=z,+"])
def test_an_ordinary_path_is_itself(path: str) -> None:
    assert check_path(path) == path
