"""Published Kodak curves, as facts with their sources in the files."""

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent

IMAGES = 24
"""Of Kodak, over which all of them are means."""


def progdtd() -> pd.DataFrame:
    """The six published ProgDTD models, read from the vector data of the paper's figures.

    Columns: codec, lambda, range_low, range_high, p, bpp, psnr (dB), ms_ssim_db. Protocol: Kodak
    squashed to 512x512, rate of the last of four patches, estimated bits.
    """
    return pd.read_csv(HERE / "progdtd_published.csv")


def codecs() -> pd.DataFrame:
    """Other codecs on Kodak at native size, but for models that were trained for MS-SSIM.

    Columns: codec, metric_optimised, quality, bpp, psnr (dB), ms_ssim_db, source.
    """
    curves = pd.read_csv(HERE / "codecs_published.csv")
    return curves[curves.metric_optimised != "ms-ssim"]
