import copy
import functools
import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import DTD, fed, lively
from conftest import codec_of as codec_without

from progdtd import Codec
from progdtd.codec import (
    channels,
    contact_sheet,
    container,
    digits,
    entropy,
    model_store,
    sensitivities,
    tritplanes,
)
from progdtd.codec.digits import OCTAVE
from progdtd.codec.errors import (
    DamagedError,
    IncompleteError,
    MismatchError,
    OtherModelError,
    UndecodableError,
)
from progdtd.errors import UserError
from progdtd.images import to_tensor
from progdtd.metrics import psnr
from progdtd.models import ProgressiveHyperprior, ProgressiveMeanScaleHyperprior, weights
from progdtd.tail_drop import TailDrop, kept

TABLES = digits.refinement()
SENSITIVITIES = [(37 * channel) % 101 for channel in range(12)]
codec_of = functools.partial(codec_without, sensitivities=SENSITIVITIES)

CODECS = [
    codec_of(lively(model_class(8, 12)))
    for model_class in (ProgressiveHyperprior, ProgressiveMeanScaleHyperprior)
]


@pytest.fixture
def codec(model) -> Codec:
    return codec_of(model)


def whole(codec: Codec, stream: bytes) -> torch.Tensor:
    return fed(codec, stream).known.y_hat


@pytest.mark.parametrize("drop", [DTD, TailDrop(latent=False, hyper=False)])
def test_the_whole_stream_is_that_of_channels(model, photograph, drop) -> None:
    codec = codec_of(model, drop)
    picture = photograph[:130, :190]
    stream, by_channels = codec.encode(picture, "planes"), codec.encode(picture, [1.0])
    assert torch.equal(whole(codec, stream), whole(codec, by_channels))
    assert codec.decode(stream).tobytes() == codec.decode(by_channels).tobytes()
    assert len(container.ends(stream)) >= tritplanes.FEWEST_LEVELS / 2


def test_every_level_is_that_of_the_prefix_that_holds_it(codec, photograph) -> None:
    """Fed in any pieces; nothing is decoded twice, and the picture comes closer."""
    picture = photograph[:128, :128]
    stream = codec.encode(picture, "planes")
    pieces = (stream[i : i + 97] for i in range(0, len(stream), 97))
    decoder, piecewise = codec.decoder(), codec.decoder()
    steps = (level for piece in pieces for level in piecewise.levels_of(piece))
    truth, errors = whole(codec, stream), []
    for _, _ in zip(decoder.levels_of(stream), steps, strict=True):
        assert torch.equal(whole(codec, stream[: decoder.position]), decoder.known.y_hat)
        assert torch.equal(piecewise.known.y_hat, decoder.known.y_hat)
        errors.append((decoder.known.y_hat - truth).square().sum().item())
    assert errors[-1] == 0
    assert all(later < 1.05 * earlier for earlier, later in itertools.pairwise(errors))
    with pytest.raises(IncompleteError):
        codec.decode(stream[:40])


def test_the_cost_is_that_of_coding_at_once() -> None:
    """By the chain rule; in one level, without learning's help."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 50, (12, 40, 40)).astype(np.uint8)
    y = torch.from_numpy(rng.normal(0, np.array(entropy.scales())[classes]))[None].float()
    symbols = channels.symbols_of(y[0])
    coded = tritplanes._Digits(symbols, classes)
    lowest = digits.LOWEST - tritplanes.LARGEST_SENSITIVITY
    front = tritplanes.Front(classes, np.array(SENSITIVITIES), [lowest])
    at_once, encoder = entropy.Encoder(), entropy.Encoder()
    by_class = [symbols[classes == c] for c in range(64)]
    at_once.put(by_class, entropy.gaussian_tables())
    for elements in front.passes(0):
        states = front.state[elements]
        taken = coded.take(elements, states)
        encoder.put_digits(taken, front.odds, states)
        reached = front.advance(elements, taken)
        encoder.put_numbers(coded.excess(elements[TABLES.escape[reached] != 0]))
    sizes = [len(entropy.payloads([level])[0]) for level in (encoder, at_once)]
    assert abs(sizes[0] / sizes[1] - 1) < 1e-3


def test_symbols_far_outside_the_tables_come_back() -> None:
    codec = CODECS[0]
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(-40, 41, (1, 12, 8, 8))).float()
    y[0, 0, 0, :4] = torch.tensor([entropy.LARGEST, -entropy.LARGEST, 3e9, torch.nan])
    stream = codec.coder.encode_latents(y, torch.zeros(1, 8, 2, 2), 128, 128, "planes")
    y[0, 0, 0, 2:4] = torch.tensor([entropy.LARGEST, 0])
    assert torch.equal(whole(codec, stream), y)


def test_p_and_levels_choose_prefixes(codec, photograph) -> None:
    picture = photograph[:128, :128]
    stream = codec.encode(picture, "planes")
    ends = container.ends(stream)
    for p in (0.0, 0.1, 0.5, 1.0):
        level = max(1, sum(end <= p * len(stream) for end in ends))
        assert codec.decode(stream, p=p).tobytes() == codec.decode(stream, levels=level).tobytes()
    for most in (ends[len(ends) // 4], ends[len(ends) // 2] + 1):
        cut = codec.encode(picture, "planes", max_bytes=most)
        level = len(container.ends(cut))
        assert len(cut) <= most
        assert codec.decode(cut).tobytes() == codec.decode(stream, levels=level).tobytes()
    with pytest.raises(UserError, match="planes"):
        codec.encode(picture, "plains")


def test_damage_is_noticed(codec, photograph) -> None:
    stream = codec.encode(photograph[:64, :64], "planes")
    ends = container.ends(stream)
    for level in (1, 2, len(ends) // 2, len(ends)):
        damaged = bytearray(stream)
        damaged[ends[level - 1] - 1] ^= 4
        with pytest.raises(DamagedError, match=f"level {level} "):
            codec.decode(bytes(damaged))
        if level > 1:
            shown = codec.decode(bytes(damaged), levels=level - 1)
            assert shown.tobytes() == codec.decode(stream, levels=level - 1).tobytes()
    header = container.read_header(stream)[0]
    payloads = list(container.Reader().feed(stream))

    def forged(contents: list[bytes], parameters: bytes) -> bytes:
        return container.write(replace(header, parameters=parameters), contents)

    made_with = tritplanes.digest(np.array(SENSITIVITIES))
    for parameters in (b"", b"\x10", b"\x00" + made_with, b"\x10" + made_with + b"\x00"):
        with pytest.raises(DamagedError):
            codec.decode(forged(payloads, parameters))
    with pytest.raises(DamagedError, match="does not decode"):
        codec.decode(forged([*payloads, b""], header.parameters))
    with pytest.raises(DamagedError, match="does not decode"):
        codec.decode(forged([payloads[0], payloads[2]], header.parameters))


@pytest.mark.parametrize("levels", ["channels", "planes"])
@pytest.mark.parametrize("which", [0, 1])
def test_other_scales_or_means_are_noticed_where_they_begin(monkeypatch, levels, which) -> None:
    """Those of one element are enough, as another machine's might be."""
    codec, picture = CODECS[which], np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    stream = codec.encode(picture, levels)
    predict, calls = channels.Predictor.predict, itertools.count()

    def wrong(self, first, last):
        classes, means = predict(self, first, last)
        if next(calls) == (3 if levels == "channels" else 0):
            if which:
                means[0, 0, 0] += 1 / channels.UNIT
            else:
                classes[0, 0, 0] ^= 1
        return classes, means

    monkeypatch.setattr(channels.Predictor, "predict", wrong)
    with pytest.raises(UndecodableError) as caught:
        codec.decode(stream)
    assert caught.value.level == (4 if levels == "channels" else 1)


@pytest.mark.parametrize("levels", ["channels", "planes"])
def test_a_stream_ends_where_its_code_began_unless_it_was_cut(monkeypatch, levels) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with monkeypatch.context() as changed:
        changed.setattr(entropy, "_BEGIN", np.array([1, 1], np.uint32))
        stream = CODECS[0].encode(picture, levels)
    decoder, last = CODECS[0].decoder(), len(container.ends(stream))
    header, payloads = container.read_header(stream)[0], list(container.Reader().feed(stream))
    assert CODECS[0].decode(container.write(header, payloads[:-1])).size == (64, 64)
    for _ in range(2):  # what is wrong stays so
        with pytest.raises(UndecodableError) as caught:
            decoder.feed(stream)
        assert caught.value.level == last
    assert decoder.level == last - 1
    decoder.feed(b"", levels=2)
    assert decoder.level == last - 1


@pytest.mark.parametrize("codec", CODECS)
def test_digits_that_cannot_be_are_refused(codec, monkeypatch) -> None:
    """Whose probability is zero, though the code has room for them."""
    picture, wrong = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), []
    take = tritplanes._Digits.take

    def one_wrong(self, elements, states):
        digits = take(self, elements, states)
        impossible = np.argwhere(TABLES.odds[states] == 0)
        if len(impossible) and not wrong:
            wrong.append(impossible[0])
            digits[impossible[0, 0]] = impossible[0, 1]
        return digits

    with monkeypatch.context() as changed:
        changed.setattr(tritplanes._Digits, "take", one_wrong)
        stream = codec.encode(picture, "planes")
    assert wrong
    with pytest.raises(UndecodableError):
        codec.decode(stream)


def test_the_number_of_levels_follows_the_bytes() -> None:
    sizes = (1_000, 8_000, 20_000, 40_000, 100_000)
    assert [tritplanes.levels_for(size) for size in sizes] == [16, 50, 66, 100, 128]


def test_planes_are_the_default_where_sensitivities_are_known(model, photograph) -> None:
    picture = photograph[:64, :64]
    known, unknown = codec_of(model), codec_without(model)
    assert known.encode(picture) == known.encode(picture, "planes")
    assert unknown.encode(picture) == unknown.encode(picture, "channels")
    assert unknown.encode(picture) == known.encode(picture, "channels")


def test_other_sensitivities_are_another_model(model, photograph) -> None:
    codec, none = codec_of(model), codec_without(model)
    stream = codec.encode(photograph[:64, :64], "planes")
    with pytest.raises(UserError, match=r"measure_sensitivities\.py"):
        none.encode(photograph[:64, :64], "planes")
    for other in (none, codec_of(model, sensitivities=[1, *SENSITIVITIES[1:]])):
        assert other.fingerprint == codec.fingerprint
        with pytest.raises(OtherModelError, match="other sensitivities"):
            other.decode(stream)
        by_channels = codec.encode(photograph[:64, :64], "channels")
        assert other.decode(by_channels) == codec.decode(by_channels)
    changed = copy.deepcopy(model)
    changed.g_s[0].bias.data += 1
    with pytest.raises(OtherModelError, match="made by the model"):
        codec_of(changed).decode(stream)


def test_thresholds_fall_and_share_the_bits() -> None:
    classes = np.random.default_rng(0).integers(0, 40, (12, 30, 30)).astype(np.uint8)
    bits = tritplanes.expected_bits(classes, np.array(SENSITIVITIES))
    ends = tritplanes.thresholds(bits, 40)
    assert all(a > b for a, b in itertools.pairwise(ends))
    assert ends[-1] == digits.LOWEST - tritplanes.LARGEST_SENSITIVITY
    at = np.array(ends) - ends[-1]
    parts = np.array([bits[end:].sum() for end in at]) / bits.sum()
    assert parts[0] < 0.05
    assert np.diff(parts).max() < 0.12
    counts = np.bincount(classes.ravel(), minlength=64)
    at_once = [
        -(p * np.log2(p)).sum()
        for p in (entropy.gaussian_frequencies(s) / 2**20 for s in entropy.scales())
    ]
    assert bits.sum() == pytest.approx(counts @ at_once, rel=0.02)


@pytest.mark.parametrize("number", [8, 24])
def test_urgency_is_what_the_best_way_on_brings(number) -> None:
    """Against the definition: the largest ratio of expected fall to expected bits over all ways to
    go on and to stop."""
    frequencies = entropy.gaussian_frequencies(entropy.scales()[number])
    largest = int(TABLES.largest[number])
    symbols = np.arange(-largest, largest + 1)
    mass = np.array([frequencies[-1], *2 * frequencies[:-1], frequencies[-1]]) / 2**21

    def ways(low: int, width: int) -> list[tuple[float, float]]:
        third = width // 3
        parts = [inside(low + i * third, third) for i in range(3)]
        whole = inside(low, width)
        p = np.array([mass[part].sum() for part in parts])
        if width == 1 or not p.any():
            return [(0.0, 0.0)]
        bits = -(p[p > 0] * np.log2(p[p > 0] / p.sum())).sum()
        found = [(error(whole) - sum(map(error, parts)), bits)]
        for i in range(3):
            more = [(0.0, 0.0), *ways(low + i * third, third)]
            found = best([(f + g, b + c) for f, b in found for g, c in more])
        return found

    def inside(low: int, width: int) -> np.ndarray:
        return (symbols >= low) & (symbols < low + width)

    def error(part: np.ndarray) -> float:
        p, k = mass[part], symbols[part]
        return float((p * k**2).sum() - (p * k).sum() ** 2 / max(p.sum(), 1e-300))

    def best(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        slopes = 2.0 ** np.arange(-8, 8, 0.25)
        return list({max(points, key=lambda q: q[0] - slope * q[1]) for slope in slopes})

    width = 3 * int(TABLES.width[TABLES.roots[number]])
    slope = max(fall / bits for fall, bits in ways(-(width // 2), width))
    urgency = TABLES.urgency[TABLES.roots[number]] / digits.OCTAVE
    assert urgency == pytest.approx(np.log2(slope), abs=1 / digits.OCTAVE)


def test_no_digit_is_more_urgent_than_the_one_before_it() -> None:
    """`Front` puts elements off to levels that have not ended."""
    states, seen = TABLES.roots, 0
    while len(states):
        reached = TABLES.first[states][:, None] + np.arange(3)
        live = (TABLES.odds[states] > 0) & (TABLES.width[states] > 0)[:, None]
        before = np.broadcast_to(TABLES.urgency[states][:, None], live.shape)
        assert (TABLES.urgency[reached[live]] <= before[live]).all()
        seen += len(states)
        states = reached[live]
    assert seen > 10_000


def test_tables_are_the_same_on_every_machine() -> None:
    """No rounded logarithm or power lies near a boundary: an error of 1e-15 in it changes none."""
    powers = 2 ** (np.arange(1, digits.OCTAVE) / digits.OCTAVE) * 2**30
    assert abs(powers % 1 - 0.5).min() > 1e-4
    for scale in entropy.scales():
        frequencies = entropy.gaussian_frequencies(scale)
        largest = len(frequencies) // 2
        masses = np.array([frequencies[-1], *2 * frequencies[:-1], frequencies[-1]], np.float64)
        for plane, finer in itertools.pairwise(digits._planes(masses, largest)):
            chance = finer.mass / np.repeat(np.maximum(plane.mass, 1), 3)
            exact = -np.log2(chance[chance > 0]) * 2**20
            assert abs(exact % 1 - 0.5).min() > 1e-7


def test_tables_never_change() -> None:
    """A stream written today has to decode for ever: everything it is decoded with is pinned."""
    digest = hashlib.sha256()
    for table in vars(TABLES).values():
        digest.update(np.ascontiguousarray(table).astype("<f8").tobytes())
    assert digest.hexdigest() == "623de6e6cbe44b7d516fa1eca21cc73348da894bc25a50af66dff381608f4aff"


def test_sensitivities_follow_the_synthesis(photograph) -> None:
    """A channel of half the values that is shown twice as strongly has four times the
    sensitivity, and the others have theirs."""
    picture, channel = photograph[:128, :128], 3
    loaded = weights.load_model(model_store.REFERENCE)
    before = np.array(sensitivities.measure(loaded, [picture]))
    assert len(before) == 192
    with torch.no_grad():
        loaded.model.g_a[-1].weight[channel] /= 2
        loaded.model.g_a[-1].bias[channel] /= 2
        loaded.model.g_s[0].weight[channel] *= 2
    change = np.array(sensitivities.measure(loaded, [picture])) - before
    assert change[channel] == pytest.approx(2 * OCTAVE, abs=OCTAVE / 2)
    assert np.abs(np.delete(change, channel)).mean() < OCTAVE / 8


def test_sensitivities_add_up_to_what_the_image_gains(photograph) -> None:
    loaded = weights.load_model(model_store.REFERENCE)
    coder = codec_of(loaded.model, sensitivities=[0] * 192).coder
    picture = np.ascontiguousarray(photograph[:128, :128])
    way, x = sensitivities._way(coder, picture), to_tensor(picture)
    with torch.no_grad():
        first, last = (
            (255 * (loaded.model.g_s(y_hat) - x)).square().sum().item()
            for y_hat in (way[0], way[-1])
        )
    of_image, _ = sensitivities._falls(coder, picture)
    assert of_image.sum().item() == pytest.approx(first - last, rel=0.1)


def test_a_target_of_psnr_is_reached_by_the_fewest_planes(photograph, caplog) -> None:
    codec, picture = Codec.load(model_store.REFERENCE), photograph[:128, :192]
    decoder = codec.decoder()
    got = {
        level: psnr(to_tensor(picture), to_tensor(decoder.picture()))
        for level in decoder.levels_of(codec.encode(picture, "planes"))
    }
    for target in (20, 25, got[len(got)]):
        cut = codec.encode(picture, "planes", target_psnr=target)
        assert len(container.ends(cut)) == min(k for k, found in got.items() if found >= target)
    assert not caplog.records
    assert codec.encode(picture, "planes", target_psnr=90) == codec.encode(picture, "planes")
    assert "less than the 90 asked for" in caplog.text


def test_channels_that_were_never_trained_are_no_part_of_a_stream(model, photograph) -> None:
    drop = TailDrop(latent=True, hyper=True, range=(0.2, 0.5))
    codec = codec_of(model, drop)
    carried = kept(0.5, 12), kept(0.5, 8)
    symbols, _ = model.quantise(*codec.coder.analyse(photograph[:64, :64]), 0.5, 0.5)
    for levels in ("planes", [1.0]):
        stream = codec.encode(photograph[:64, :64], levels)
        y_hat = whole(codec, stream)
        torch.testing.assert_close(y_hat, symbols, atol=2e-3, rtol=0)
        header = container.read_header(stream)[0]
        assert codec.check(header).latents.known(header.levels) == carried
        assert not y_hat[:, carried[0] :].any()
    assert codec.decode(stream, p=1).tobytes() == codec.decode(stream, p=0.5).tobytes()
    assert [latent for latent, _ in codec.coder.levels("channels").latents.plan] == [3, 4, 5, 7]
    packed = tritplanes.pack(9, codec.coder.sensitivities, carried, (12, 8))
    named = tritplanes.digest(codec.coder.sensitivities)
    assert tritplanes.unpack(packed, (12, 8)) == (9, named, carried)
    for channels_here in ((6, 8), (12, 4)):
        with pytest.raises(DamagedError):
            tritplanes.unpack(packed, channels_here)
    with pytest.raises(DamagedError):
        tritplanes.unpack(packed[:-1], (12, 8))


def test_what_a_damaged_level_would_show_is_never_shown(photograph) -> None:
    """Not even in part, when the damage is noticed only at the level's end."""
    coder = Codec.load(model_store.REFERENCE).coder
    parameters, payloads = coder.levels("planes").encode(photograph[:64, :64])
    header = container.Header(64, 64, coder.fingerprint, "planes", parameters, len(payloads))
    decoder = coder.levels_of(header).decoder(header)
    for payload in payloads[:5]:
        decoder.feed(payload)
    before = decoder.y_hat.clone()
    with pytest.raises(MismatchError):
        decoder.feed(payloads[6])
    assert torch.equal(decoder.y_hat, before)


def test_a_contact_sheet_shows_levels_from_the_first_to_the_last(photograph, monkeypatch) -> None:
    monkeypatch.setattr(contact_sheet, "MOST", 5)
    picture = photograph[:128, :128]
    for levels, shown in (("planes", 5), ([0.2, 0.6, 1.0], 3)):
        stream = CODECS[0].encode(picture, levels)
        sheet = contact_sheet.contact_sheet(CODECS[0], stream, picture)
        captions = [axis.get_title() for axis in sheet.axes if axis.images]
        assert len(captions) == shown + 1
        assert captions[0].startswith("level 1: ")
        assert captions[-2].startswith(f"level {len(container.ends(stream))}: {len(stream)} bytes")
        assert captions[-1] == "original"
        sheet = contact_sheet.contact_sheet(CODECS[0], stream, picture, {2, 3})
        captions = [axis.get_title().partition(":")[0] for axis in sheet.axes if axis.images]
        assert captions == ["level 2", "level 3", "original"]


def test_p_of_a_prefix_is_of_the_whole_stream(photograph) -> None:
    stream = CODECS[0].encode(photograph[:128, :128], "planes")
    ends = container.ends(stream)
    decoder = fed(CODECS[0], stream[: ends[-2]], None, 0.99 * ends[-2] / len(stream))
    assert decoder.level == len(ends) - 2


def test_a_contact_sheet_says_the_rate_and_has_the_pictures_shape(photograph) -> None:
    picture = photograph[:64, :192]
    stream = CODECS[0].encode(picture, [1.0])
    sheet = contact_sheet.contact_sheet(CODECS[0], stream, picture)
    assert f"{8 * len(stream) / (64 * 192):.3f} bpp" in sheet.axes[0].get_title()
    assert sheet.get_figwidth() > 3 * sheet.get_figheight()
