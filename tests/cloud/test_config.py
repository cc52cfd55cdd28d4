"""`cloud.toml`: defaults, and one line for each mistake that names the field and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cloud.config import load_config, parse_config
from trm_data.errors import ConfigError

FILE = """
name = "trm-sweeps"
max_usd = 200
[aws]
region = "us-east-1"
bucket = "my-bucket"
ssh_from = ["203.0.113.7/32"]
[[aws.workers]]
instance = "g6e.2xlarge"
"""


def test_short_file_has_a_default_for_the_rest() -> None:
    config = parse_config(FILE)
    aws = config.aws_settings()
    assert (config.max_usd, config.max_hours, config.idle_minutes) == (200, 24, 15)
    assert aws.workers[0].markets == ["spot", "on-demand"]
    assert aws.storage == "s3://my-bucket/trm?region=us-east-1"
    assert config.slurm_settings().nodes == 2


MISTAKES = [
    ('name = "trm-sweeps"', 'nam = "trm-sweeps"', "unknown setting 'nam'. Did you mean 'name'?"),
    ("max_usd = 200", 'max_usd = "200"', "max_usd='200': input should be a valid number"),
    ("max_usd = 200", "max_usd = -1", "max_usd=-1: input should be greater than 0"),
    ("us-east-1", "us-est", "aws.region='us-est': write a region like us-east-1"),
    ("my-bucket", "My_Bucket", "aws.bucket='My_Bucket': a bucket's name has"),
    ("203.0.113.7/32", "0.0.0.0/0", "aws.ssh_from: 0.0.0.0/0 opens SSH to the world; name your own network"),
    ("203.0.113.7/32", "::/0", "opens SSH to the world"),
    ("203.0.113.7/32", "home", "'home' is no network; write 203.0.113.7/32"),
    ('["203.0.113.7/32"]', "[]", "aws.ssh_from is empty"),
    ("g6e.2xlarge", "g6e.2xlrge", "is no GPU machine of the catalogue. Did you mean 'g6e.2xlarge'?"),
    ('"g6e.2xlarge"', '"g6e.2xlarge"\nmarkets = ["spott"]', "markets.0='spott': input should be 'spot' or 'on-demand'"),
    ('"g6e.2xlarge"', '"g6e.2xlarge"\nmarkets = ["spot", "spot"]', "name each market once"),
    ('"g6e.2xlarge"', '"g6e.2xlarge"\n[[aws.workers]]\ninstance = "g6e.2xlarge"', "g6e.2xlarge is listed twice"),
    ('bucket = "my-bucket"', 'bucket = "my-bucket"\nzones = ["eu-west-1a"]', "zone 'eu-west-1a' is not in us-east-1"),
    ("[aws]", '[tags]\naws:x = "y"', "is no TOML"),
    ("[aws]", '[tags]\nray-cluster-name = "y"\n[aws]', "is set by AWS, Ray or this project"),
    ("[aws]", "[aws", "is no TOML"),
    ("[aws]", "[slurm]\nhours = 0.001\n[aws]", "slurm.hours=0.001: input should be greater than or equal to 0.1"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES)
def test_mistake_is_one_line_that_names_the_field(right: str, wrong: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(FILE.replace(right, wrong, 1), "cloud.toml")
    text = str(caught.value)
    assert message in text and text.startswith("cloud.toml") and "\n" not in text


def test_missing_file_and_table_say_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist\. Copy .*cloud\.toml and change what is marked"):
        load_config(tmp_path / "cloud.toml")
    (tmp_path / "cloud.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "cloud.toml")
    with pytest.raises(ConfigError, match=r"no table \[sky\]\. Add \[sky\] with gpu"):
        parse_config(FILE).sky_settings()
    with pytest.raises(ConfigError, match=r"no table \[aws\]"):
        parse_config("").aws_settings()
