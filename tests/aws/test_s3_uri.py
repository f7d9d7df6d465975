"""Addresses of folders and files."""

from __future__ import annotations

import pytest

from frcnn.aws.s3_uri import folder_uri, split_uri


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://bucket/coco/train2017", "s3://bucket/coco/train2017/"),
        ("s3://bucket/coco/train2017/", "s3://bucket/coco/train2017/"),
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/v1.0", "s3://bucket/v1.0/"),
        ("s3://bucket/json", "s3://bucket/json/"),
        *(
            (f"s3://bucket/a{end}", f"s3://bucket/a{end}")
            for end in (".tar.gz", ".manifest", ".jsonl", ".json", ".safetensors", ".yaml")
        ),
        ("s3://bucket/recipe.yml", "s3://bucket/recipe.yml"),
        ("s3://bucket/DSC001.JPG", "s3://bucket/DSC001.JPG"),
    ],
)
def test_folders_get_a_final_slash_and_files_do_not(uri: str, prefix: str) -> None:
    assert folder_uri(uri) == prefix


def test_bucket_and_key() -> None:
    assert split_uri("s3://bucket/a/b.json") == ("bucket", "a/b.json")
    assert split_uri("s3://bucket") == ("bucket", "")
