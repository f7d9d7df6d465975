"""The options: what loads, and the messages for what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
import yaml

from frcnn.config import Config, Options, changed_options, load_config, option_names, save_config
from frcnn.config.schema import DETECTRON2_CONVENTIONS
from frcnn.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent


def option(config: Config, name: str) -> object:
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        # Texts as SageMaker sends them: str() of Python values, JSON, and JSON of JSON.
        ("training.deterministic", "False", False),
        ("training.deterministic", "false", False),
        ("training.deterministic", "auto", "auto"),
        ("training.tf32", "false", False),
        ("training.batch_size", "3", 3),
        ("training.batch_size", "3.0", 3),
        ("training.batch_size", '"3"', 3),
        ("training.epochs", "12.5", 12.5),
        ("optimizer.learning_rate", "1e-3", 0.001),
        ("optimizer.clip_norm", "null", None),
        ("optimizer.clip_norm", "None", None),
        ("optimizer.clip_norm", "10", 10.0),
        ("data.root", "/opt/data", Path("/opt/data")),
        ("data.root", '"/opt/data"', Path("/opt/data")),
        ("data.root", "null", None),
        ("data.root", "2017", Path("2017")),
        ("data.root", "true", Path("true")),
        ("image.min_size", "[640, 672]", (640, 672)),
        ("image.mean", "[0, 0, 0.5]", (0.0, 0.0, 0.5)),
        ("backbone.name", "resnet18", "resnet18"),
        ("backbone.name", '"resnet18"', "resnet18"),
        ("fpn.norm", "none", "none"),  # a value here, not an absent one
        ("data.train.images", "a=b", Path("a=b")),
    ],
)
def test_texts_become_what_their_option_asks_for(name: str, text: str, value: object) -> None:
    found = option(load_config(None, [f"{name}={text}"]), name)
    assert found == value
    assert type(found) is type(value)
    assert option(Config.from_texts({name: text}, "hyperparameters"), name) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.batch_size",
            "'training.batch_size' is not of the form KEY=VALUE, for example training.batch_size=4",
        ),
        ("training.batchsize=4", "unknown option 'training.batchsize'; did you mean 'training.batch_size'?"),
        ("trainig.batch_size=4", "unknown option 'trainig.batch_size'; did you mean 'training.batch_size'?"),
        ("batch_size=4", "unknown option 'batch_size'; did you mean 'training.batch_size'?"),
        ("roi_head.sample=4", "unknown option 'roi_head.sample'; did you mean 'roi_head.samples'?"),
        ("backbon={}", "unknown option 'backbon'; did you mean 'backbone'?"),
        ("flavour=sweet", "unknown option 'flavour'; see docs/configuration.md for all options"),
        ("training.batch_size.x=3", "unknown option 'training.batch_size.x'"),
        ("training.batch_size=0", "option 'training.batch_size' is 0; expected a number greater than or equal to 1"),
        ("training.batch_size=four", "option 'training.batch_size' is 'four'; expected a valid integer"),
        ("training.batch_size=2.5", "option 'training.batch_size' is 2.5; expected a valid integer"),
        ("training.batch_size=null", "option 'training.batch_size' is None; expected a valid integer"),
        ("training.deterministic=maybe", "option 'training.deterministic' is 'maybe'; expected 'auto', True or False"),
        ("training.epochs=NaN", "option 'training.epochs' is nan; expected a finite number"),
        ("optimizer.ema=1", "option 'optimizer.ema' is 1; expected a number less than 1"),
        (
            "backbone.name=resnet19",
            "option 'backbone.name' is 'resnet19'; expected 'resnet18', 'resnet34', 'resnet50', 'resnet101' or",
        ),
        ("image.min_size=320", "option 'image.min_size' is 320; expected a list such as [1, 2]"),
        ("image.min_size=[320, 0]", "option 'image.min_size[1]' is 0; expected a number greater than or equal to 1"),
        (
            "image.min_size=[2000]",
            "section 'image': min_size [2000] must contain at least one size and none above max_size 1333",
        ),
        ("image.mean=[1, 2]", "option 'image.mean[2]' is [1, 2]; expected one more value"),
        ("anchors.sizes=[1, 2]", "option 'anchors.sizes' is [1, 2]; expected at least 5 values"),
        ("augment.scale_range=[2, 1]", "section 'augment': scale_range [2.0, 1.0] must be [smallest, largest]"),
        ("rpn.background_iou=0.9", "section 'rpn': background_iou 0.9 must not exceed foreground_iou 0.7"),
        ("roi_head.cascade=[0.6, 0.7]", "section 'roi_head': cascade starts with 0.6, but foreground_iou is 0.5; both"),
        (
            "roi_head.norm=gn",
            "section 'roi_head': norm gn needs convolutions to normalize; set convs, for example to 4",
        ),
        ("training=4", "option 'training' is 4; expected a section with options below it"),
        ('data={"rot": "x"}', "unknown option 'data.rot'; did you mean 'data.root'?"),
    ],
)
def test_an_invalid_override_is_one_sentence(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(None, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "pydantic" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "contains a list; expected sections such as 'training:' with options below them"),
        ("training: 3", "option 'training' is 3; expected a section with options below it"),
        ("training:\n  epochs: 3\n  batch_size: [", "is not valid YAML: line 3, column 16: expected the node content"),
        (
            "seed: 1\ntraining:\n  epochs: 3\ntraining:\n  batch_size: 2",
            "line 1, column 1: duplicate key 'training'",
        ),
        ("training:\n  epochs: 3\n  epochs: 4", "line 2, column 3: duplicate key 'epochs'"),
        ("1: 2", "option '1' is 1; expected the name of an option"),
        (
            "a: !!python/object/apply:os.getpid []",
            "is not valid YAML: line 1, column 4: could not determine a constructor",
        ),
        (
            "seed: -1\nnoise: 3",
            "option 'seed' is -1; expected a number greater than or equal to 0; unknown option 'noise'",
        ),
    ],
)
def test_errors_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere\.yaml cannot be read \(No such file or directory\); give the path of a YAML file"
    ):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match=r"image\.yaml is not UTF-8 text \(byte 0 is 0xff\); save it as UTF-8"):
        load_config(tmp_path / "image.yaml")


def test_an_override_does_not_hide_a_broken_section(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("training: 3")
    with pytest.raises(
        UserError, match=r"option 'training\.epochs' cannot be set: 'training' is 3; expected a section"
    ):
        load_config(file, ["training.epochs=2"])


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("training:\n  epochs: 3\n  batch_size: 2\nbackbone:\n# all commented out\n")
    config = load_config(file, ["training.batch_size=8", "training.batch_size=4"])
    assert (config.training.epochs, config.training.batch_size, config.training.log_every) == (3, 4, 20)
    assert config.backbone == Config().backbone


def test_hyperparameters_leave_the_base_alone() -> None:
    base = {"training": {"epochs": 3}}
    assert Config.from_texts({"training.batch_size": "2"}, "hyperparameters", base).training.epochs == 3
    assert base == {"training": {"epochs": 3}}


def test_a_saved_configuration_loads_as_the_same(tmp_path: Path) -> None:
    config = load_config(
        None,
        ["data.root=/a b", "optimizer.clip_norm=3", "augment.scale_range=[0.1, 2]", "fpn.norm=none", "weights=true"],
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert (
        yaml.safe_load((tmp_path / "config.yaml").read_text())["roi_head"]["nms_iou"] == 0.5
    )  # defaults are written too


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        Config().training.batch_size = 3  # type: ignore[misc]


def test_changed_options_are_named_with_both_values() -> None:
    before = load_config(None, ["optimizer.clip_norm=3"]).model_dump(mode="json")
    del before["ops"]["kernel"]  # an option that the older version did not have, so that its default applied
    changed = changed_options(before, load_config(None, ["image.min_size=[320]"]))
    assert changed == [
        "image.min_size (was [800], is [320])",
        "optimizer.clip_norm (was 3.0, is null)",
    ]
    assert changed_options(Config().model_dump(mode="json"), Config()) == []


def test_conventions_set_defaults_that_can_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("conventions: detectron2\nrpn:\n  normalizer: sampled\nanchors:\n")
    config = load_config(file, ["roi_head.aligned=false"])
    assert (config.image.channel_order, config.anchors.stride, config.anchors.rounded) == ("bgr", "fixed", False)
    assert (config.rpn.normalizer, config.rpn.smooth_l1_beta, config.roi_head.aligned) == ("sampled", 0.0, False)
    assert Config(conventions="torchvision") == Config()


def test_conventions_are_options_with_another_default() -> None:
    detectron2 = Config.from_tree({"conventions": "detectron2"}, "test")
    assert set(DETECTRON2_CONVENTIONS) <= set(option_names(Config))
    changed = {text.split(" ")[0] for text in changed_options(Config().model_dump(mode="json"), detectron2)}
    assert changed == {"conventions", *DETECTRON2_CONVENTIONS} - {"backbone.norm_eps"}  # the same in both


class Inner(Options):
    size: int = 1


class Outer(Options):
    name: str
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "inner": {"size": "x"}}, "Outer: option 'inner.size' is 'x'; expected a valid integer"),
        ({"name": "a", "inner": {"sizes": 1}}, "Outer: unknown option 'inner.sizes'; did you mean 'inner.size'?"),
        ({}, "Outer: option 'name' is missing"),
        (
            {"name": 3, "nam": 4},
            "option 'name' is 3; expected a text; unknown option 'nam'; did you mean 'name'?",
        ),
    ],
)
def test_construction_names_the_option(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        Outer(**values)
    assert message in str(error.value)


def test_every_option_is_described() -> None:
    def undescribed(section: type[Options], prefix: str) -> list[str]:
        names = []
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Options):
                names += undescribed(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                names.append(prefix + name)
        return names

    assert undescribed(Config, "") == []
    assert "data.train.annotations" in option_names(Config)


def test_the_configuration_page_is_current() -> None:
    """docs/configuration.md is what tools/config_reference.py writes."""
    check = subprocess.run(
        [sys.executable, "tools/config_reference.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("recipe", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_recipes_load(recipe: Path) -> None:
    load_config(recipe)


def test_home_is_expanded_in_files_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    file = tmp_path / "recipe.yaml"
    file.write_text("output: ~/runs/a\ndata:\n  train:\n    images: ~/photos\n")
    config = load_config(file, ["data.root=~/coco", "weights=~nobody-has-this-name/w.safetensors"])
    assert config.output == Path("/home/me/runs/a")
    assert config.data.train.images == Path("/home/me/photos")
    assert config.data.root == Path("/home/me/coco")
    assert config.weights == Path("~nobody-has-this-name/w.safetensors")
