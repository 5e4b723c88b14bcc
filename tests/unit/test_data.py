import logging
import os
import shutil
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image, PngImagePlugin

from progdtd import data
from progdtd.errors import UserError
from progdtd.images import centre, read_image, rgb, to_rgb


def batches(root, **options):
    settings = {"batch_size": 3, "crop": 64, "seed": 1}
    return data.Batches(data.folder(root), **(settings | options))


def test_crops_are_taken_everywhere(tmp_path) -> None:
    rows, columns = np.mgrid[:80, :96].astype(np.uint8)
    Image.fromarray(np.dstack([rows, columns, rows])).save(tmp_path / "a.png")
    read = batches(tmp_path, flip=False)
    corners = np.concatenate([read[step][:, :2, 0, 0].numpy() for step in range(100)])
    assert corners.min(0).tolist() == [0, 0]
    assert corners.max(0).tolist() == [80 - 64, 96 - 64]


def test_photos_are_on_this_machine() -> None:
    paths = data.photos()
    assert len(paths) == len(data.PHOTOS)
    assert all(min(read_image(path).shape[:2]) >= 256 for path in paths)


def test_folder_finds_every_format_in_order(images) -> None:
    names = [path.name for path in data.folder(images)]
    assert names == ["a.png", "b.jpg", "c.webp", "d.tiff", "e.JPEG"]


def test_folders_may_be_links_and_be_named_like_images(images, tmp_path) -> None:
    linked = tmp_path / "linked"
    (linked / "d.png").mkdir(parents=True)
    (linked / "one").symlink_to(images, target_is_directory=True)
    (linked / "two").symlink_to(images, target_is_directory=True)
    (linked / "round").symlink_to(linked, target_is_directory=True)
    found = [path.relative_to(linked).parts for path in data.folder(linked)]
    assert [parts[-1] for parts in found] == [path.name for path in data.folder(images)]
    assert {parts[0] for parts in found} == {"one"}


COPIES = (
    ".ipynb_checkpoints/a.png",
    ".Trash-1000/files/a.png",
    "__MACOSX/a.png",
    "@eaDir/a.png",
    "deeper/._d.tiff",
    "deeper/.thumbnails/normal/d.png",
)


def test_hidden_copies_are_no_images(images) -> None:
    seen = data.folder(images)
    for name in COPIES:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / "a.png", images / name)
    assert data.folder(images) == seen
    hidden = images.rename(images.with_name(".images"))
    assert len(data.folder(hidden)) == len(seen), "the folder itself was asked for"


def test_what_is_hidden_may_have_another_name(images) -> None:
    (images / "deeper").rename(images / ".store")
    (images / "seen").symlink_to(".store", target_is_directory=True)
    (images / "f.png").symlink_to(".store/d.tiff")
    assert [path.parent.name for path in data.folder(images)] == ["images"] * 4 + ["seen"] * 2


def test_pipes_and_links_to_nothing_are_no_images(images) -> None:
    seen = data.folder(images)
    os.mkfifo(images / "pipe.png")
    (images / "to_the_pipe.png").symlink_to("pipe.png")
    (images / "nowhere.png").symlink_to("gone.png")
    (images / "round.png").symlink_to("round.png")
    assert data.folder(images) == seen


def test_a_batch_is_a_function_of_seed_and_step(images) -> None:
    one = batches(images)
    assert one[5].shape == (3, 3, 64, 64)
    assert one[5].dtype == torch.uint8
    later = batches(images)[5]  # without the batches before
    assert torch.equal(one[5], later)
    assert torch.equal(one[5], batches(images, cache_gib=0)[5])
    assert not torch.equal(one[5], one[6])
    assert not torch.equal(one[5], batches(images, seed=2)[5])


def test_ranks_share_an_epoch_without_overlap(images) -> None:
    whole = batches(images, batch_size=4)[3]
    halves = [batches(images, batch_size=2, rank=rank, world=2)[3] for rank in (0, 1)]
    assert torch.equal(whole, torch.cat(halves))


def test_an_epoch_visits_every_image_once(tmp_path) -> None:
    for value in range(10):
        Image.new("RGB", (64, 64), (value, 0, 0)).save(tmp_path / f"{value}.png")
    reds = [int(batches(tmp_path, batch_size=1)[step][0, 0, 0, 0]) for step in range(20)]
    assert sorted(reds[:10]) == sorted(reds[10:]) == list(range(10))
    assert reds[:10] != reds[10:]


def test_crops_are_cut_from_the_image_or_its_mirror(tmp_path, photograph) -> None:
    Image.fromarray(photograph[:70, :80]).save(tmp_path / "a.png")
    windows = {photograph[i : i + 64, j : j + 64].tobytes() for i in range(7) for j in range(17)}
    mirrored = 0
    for step in range(20):
        crop = batches(tmp_path, batch_size=1)[step][0].permute(1, 2, 0).numpy()
        mirrored += crop.tobytes() not in windows
        assert crop.tobytes() in windows or crop[:, ::-1].tobytes() in windows
    assert 0 < mirrored < 20


def test_resize_squashes_as_the_paper_does(tmp_path, photograph) -> None:
    Image.fromarray(photograph).save(tmp_path / "a.png")
    batch = batches(tmp_path, batch_size=1, crop=128, resize=128, flip=False)[0]
    square = Image.fromarray(photograph).resize((128, 128), Image.Resampling.BILINEAR)
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), np.asarray(square))


@pytest.mark.parametrize("cache_gib", [0, 4])
def test_bad_images_are_named_and_replaced(images, caplog, cache_gib) -> None:
    (images / "a.png").write_bytes((images / "a.png").read_bytes()[:3000])
    (images / "b.jpg").write_text("not an image")
    Image.new("RGB", (40, 300)).save(images / "small.png")
    with caplog.at_level(logging.WARNING):
        settings = {"batch_size": 4, "cache_gib": cache_gib}
        for step in range(4):
            assert batches(images, **settings)[step].shape == (4, 3, 64, 64)
    for name, why in (("a.png", ""), ("b.jpg", "cannot identify"), ("small.png", "smaller than")):
        assert any(name in message and why in message for message in caplog.messages), name


def test_threads_that_read_images_leave_warnings_as_they_were(images) -> None:
    before = list(warnings.filters)
    for _ in range(5):
        assert data.Batches(data.folder(images), 2, 64).cached
    assert warnings.filters == before


def test_all_images_unusable(tmp_path) -> None:
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(UserError, match="None of the 1 training images"):
        batches(tmp_path)


def test_missing_and_empty_roots(tmp_path) -> None:
    with pytest.raises(UserError, match=r"dataset\.root"):
        data.folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no images"):
        data.folder(tmp_path)
    with pytest.raises(UserError, match="prepare_vimeo90k"):
        data.vimeo90k(tmp_path)


def test_vimeo90k_layout(tmp_path) -> None:
    (tmp_path / "sequences").mkdir()
    (tmp_path / "tri_trainlist.txt").write_text("00001/0001\n00002/0007\n\n")
    paths = data.vimeo90k(tmp_path)
    assert len(paths) == 6
    assert paths[5] == tmp_path / "sequences/00002/0007/im3.png"


def test_a_dataset_function_may_return_strings(images) -> None:
    paths = {"_target_": "glob.glob", "pathname": f"{images}/*.*"}
    config = {"name": "mine", "paths": paths, "validation": 1, "scene": 1}
    train, held = data.split_dataset(OmegaConf.create(config))
    assert {*train, *held} == {path for path in images.glob("*.*") if path.is_file()}
    assert len(held) == 1


def test_why_a_dataset_cannot_be_listed_is_said() -> None:
    paths = {"_target_": "builtins.open", "file": "no_list.txt"}
    config = {"name": "mine", "paths": paths, "validation": 1, "scene": 1}
    with pytest.raises(UserError, match=r"dataset=mine: .*No such file .*no_list\.txt"):
        data.split_dataset(OmegaConf.create(config))


def test_split_holds_out_evenly(tmp_path) -> None:
    paths = [tmp_path / str(i) for i in range(10)]
    train, held = data.split(paths, 3)
    assert sorted(train + held) == paths
    assert [int(path.name) for path in held] == [1, 5, 8]
    assert data.split(paths, 0) == (paths, [])
    with pytest.raises(UserError, match=r"dataset\.validation"):
        data.split(paths, 10)


def test_scenes_of_held_out_images_are_not_trained_on(tmp_path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.png").touch()
    paths = {"_target_": "progdtd.data.folder", "root": str(tmp_path)}
    config = OmegaConf.create({"name": "x", "paths": paths, "validation": 1, "scene": 3})
    training, held = ([int(path.stem) for path in of] for of in data.split_dataset(config))
    assert held == [6]
    assert training == [0, 1, 2, 3, 4, 5, 9, 10, 11]


def test_images_of_an_epoch_have_crops_of_their_own(tmp_path) -> None:
    rows, columns = np.mgrid[:80, :96].astype(np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(np.dstack([rows, columns, rows])).save(tmp_path / name)
    batches = data.Batches(data.folder(tmp_path), 2, 64, flip=False)
    corners = [batches[index][:, :2, 0, 0].tolist() for index in range(3)]
    assert any(one != other for one, other in corners)


def test_the_seed_decides_the_order(tmp_path) -> None:
    """Of images that are alike all over, so that crops do not tell seeds apart."""
    for value in range(5):
        Image.new("RGB", (64, 64), (value, 0, 0)).save(tmp_path / f"{value}.png")
    one, other = (batches(tmp_path, batch_size=5, seed=seed)[0] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_what_all_images_take_is_estimated(images) -> None:
    paths = data.folder(images)
    taken = sum(read_image(path).nbytes for path in paths)
    assert data._decoded_gib(paths, None) == pytest.approx(taken / 2**30)
    assert data._decoded_gib(paths * 100, 64) == pytest.approx(100 * len(paths) * 3 * 64**2 / 2**30)


def test_every_mode_becomes_upright_rgb(tmp_path, photograph) -> None:
    whole = Image.fromarray(photograph)
    grey = whole.convert("L")

    def saved(image: Image.Image, name: str, **options) -> np.ndarray:
        image.save(tmp_path / name, **options)
        read = read_image(tmp_path / name)
        assert read.dtype == np.uint8
        assert read.shape[2] == 3
        return read.astype(int)

    assert np.array_equal(saved(grey, "grey.png")[..., 0], np.asarray(grey))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert np.array_equal(saved(deep, "deep.png")[..., 1], np.asarray(grey))
    assert np.abs(saved(whole.convert("CMYK"), "cmyk.jpg", quality=95) - photograph).mean() < 4
    assert np.abs(saved(whole.quantize(256), "palette.png") - photograph).mean() < 6
    turned = whole.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(saved(turned, "turned.png", exif=exif), photograph)
    for mode in ("RGBA", "L", "I;16"):  # which Pillow maps if they are not compressed
        plain = turned.convert("L").convert(mode) if mode == "I;16" else turned.convert(mode)
        expected = rgb(plain.transpose(Image.Transpose.ROTATE_270))
        assert np.array_equal(saved(plain, "turned.tif", exif=exif), expected)
        with Image.open(tmp_path / "turned.tif") as image:
            assert np.array_equal(to_rgb(image), expected)
    clear = whole.convert("RGBA")
    clear.putalpha(Image.new("L", whole.size, 0))
    assert (saved(clear, "clear.png") == 255).all()


def test_deep_pixels_keep_their_brightness(tmp_path) -> None:
    dark = np.full((8, 8), 200, np.uint16)
    for values in (dark, dark[:, :, None].repeat(3, 2)):
        assert to_rgb(values).max() == 1
    Image.fromarray(dark).save(tmp_path / "dark.png")
    assert read_image(tmp_path / "dark.png").max() == 1
    over = np.full((8, 8), 0.5, np.float32)
    over[0, 0] = 1.02
    assert rgb(Image.fromarray(over))[4, 4, 0] == 128
    for scale in (1, 255, 65535):
        ramp = np.linspace(0, scale, 64, dtype=np.float32).reshape(8, 8)
        Image.fromarray(ramp).save(tmp_path / "ramp.tiff")
        assert read_image(tmp_path / "ramp.tiff")[4, 0, 0] == 130
    broken = np.full((8, 8), np.nan, np.float32)
    assert rgb(Image.fromarray(broken)).max() == 0
    broken[:] = 0.5
    broken[0, 0] = np.inf
    assert rgb(Image.fromarray(broken))[:, :, 0].ravel()[[0, 1]].tolist() == [255, 128]


@pytest.mark.parametrize(
    ("kind", "largest"), [(np.float32, 2.5), (np.float32, 1e5), (np.int32, 65536)]
)
def test_pixels_of_no_known_range_are_refused(kind, largest) -> None:
    values = np.zeros((8, 8), kind)
    values[0, 0] = largest
    with pytest.raises(ValueError, match="its pixels reach"):
        rgb(Image.fromarray(values))


def test_deep_pixels_may_be_transparent(tmp_path) -> None:
    values = np.full((8, 8), 20000, np.uint16)
    values[0, 0] = 7
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=7)
    assert read_image(tmp_path / "clear.png")[0, :2, 0].tolist() == [255, 78]


def test_a_long_text_does_not_cost_the_picture(tmp_path, photograph) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "x" * 3_000_000, zip=True)
    Image.fromarray(photograph).save(tmp_path / "a.png", pnginfo=text)
    assert np.array_equal(read_image(tmp_path / "a.png"), photograph)


def test_jpeg_xl_is_read_where_its_plugin_is(tmp_path, photograph) -> None:
    pytest.importorskip("pillow_jxl")
    Image.fromarray(photograph).save(tmp_path / "a.jxl", lossless=True)
    program = "from progdtd.images import read_image; print(read_image('a.jxl').sum())"
    read = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert read.stdout.strip() == str(photograph.sum()), read.stderr


def test_damaged_exif_data_do_not_cost_the_picture(tmp_path, photograph) -> None:
    """A camera's maker that is a number makes Pillow raise an AttributeError."""
    orientation, maker = struct.pack("<HHII", 0x112, 3, 1, 6), struct.pack("<HHII", 0x10F, 5, 1, 48)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + orientation + maker + bytes(64)
    Image.fromarray(photograph[:64, :64]).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (64, 64, 3)


def test_a_digest_tells_other_images_wherever_they_are(images, tmp_path) -> None:
    paths = data.folder(images)
    moved = data.folder(shutil.copytree(images, tmp_path / "elsewhere" / "job-7" / "train"))
    before = data.digest(paths)
    assert data.digest(moved) == before
    assert data.digest(paths[1:]) != before
    Image.new("RGB", (300, 300), "red").save(images / "a.png")
    assert data.digest(paths) != before


def test_centres_are_whole_where_there_is_less_and_homes_are_known(images, monkeypatch) -> None:
    picture = np.arange(5 * 9 * 3, dtype=np.uint8).reshape(5, 9, 3)
    np.testing.assert_array_equal(centre(picture, 8), picture[:, :8])
    np.testing.assert_array_equal(centre(picture, 3), picture[1:4, 3:6])
    np.testing.assert_array_equal(centre(picture, 4), picture[:4, 2:6])
    monkeypatch.setenv("HOME", str(images.parent))
    assert data.folder("~/images") == data.folder(images)
